"""The smaller of two values, or of a value and a constant, with broadcasting. ONNX Min; TensorFlow Lite MINIMUM.

With a constant that is one number Min is a `clamp`, which hands over what is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from nnbuild.contract import Kernel, LayerView, Operator, Source
from nnbuild.intervals import corners
from nnbuild.kernels import cmsis_nn
from nnbuild.lower import Lowering
from nnbuild.network import Array
from nnbuild.ops import broadcast, extremum
from nnbuild.target import Target


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Min(a, b, ...)."""
    extremum.lower(ctx, node, "minimum")


def reference(params: extremum.ExtremumParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """Two int8 arrays (the second may be the constant), flat -> int8, flat."""
    return extremum.reference(np.minimum, params, constants, inputs)


def render(view: LayerView, target: Target) -> Source:
    """One comparison for each element."""
    return extremum.render(view, target, "<")


OPERATOR = Operator(
    name="minimum",
    summary="the smaller of two values (ONNX Min)",
    onnx=(),
    lower=lower,
    quantization=lambda node: extremum.QUANTIZATION,
    params=extremum.ExtremumParams,
    reference=reference,
    bounds=corners(reference),
    channels=broadcast.CHANNELS,
    rows=broadcast.by_rows,
    inplace=broadcast.inplace,
    slides=broadcast.slides,
    kernels=(Kernel("direct", render, trips=broadcast.trips), cmsis_nn.MINIMUM),
    cases=lambda: extremum.cases("Min"),
)
