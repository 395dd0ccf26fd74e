"""A change of scale where a value becomes, or was, int16: between int16 and int8, or from one int16 scale to another.

QuantizeLinear of a value that is quantized already. Between int8 scales it is a table (`lookup`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, layout
from nnbuild.contract import Case, Kernel, LayerView, Operator, Overlap, Quantization, Source
from nnbuild.intervals import monotone
from nnbuild.lower import Activation, Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.ram import overlap
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class RescaleParams:
    """Elements; an output of `bits` is (input * factor + offset) >> shift, all in 32 bits, clamped."""

    size: int
    bits: int
    factor: int
    offset: int
    shift: int
    activation_min: int
    activation_max: int


def requantize(ctx: Lowering, node: onnx.NodeProto, activation: Activation, quant: QuantParams) -> None:
    """QuantizeLinear `node` of a value that has another scale already."""
    add(ctx, node, activation, quant, quant.limits, node.output[0])


def add(
    ctx: Lowering,
    node: onnx.NodeProto,
    activation: Activation,
    quant: QuantParams,
    limits: tuple[int, int],
    value: str,
) -> None:
    """A layer that gives `activation` the parameters `quant`, within `limits`, and defines the ONNX value `value`."""
    tensor = ctx.tensors[activation.tensor]
    if activation.index.size != tensor.size:
        name = ctx.arrange(activation, activation.index, node, activation.shape)
        activation, tensor = Activation(name, layout.contiguous(activation.shape)), ctx.tensors[name]
    plane = fixedpoint.plane([(tensor.quant, 1.0)], quant)
    params = RescaleParams(tensor.size, 16 if quant.wide else 8, plane.factors[0], plane.offset, plane.shift, *limits)
    result = ctx.layer("rescale", (activation.tensor,), tensor.shape, quant, params, {}, node)
    ctx.define(value, result, activation.index)


def reference(params: RescaleParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """int8 or int16 -> int8 or int16, any shape."""
    scaled = inputs[0].astype(np.int64) * params.factor + params.offset >> params.shift
    return fixedpoint.saturate_as(f"int{params.bits}", scaled, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """A product and a shift for each element."""
    return Source("rescale.c.j2", {"p": view.params, "result": f"{view.output.dtype}_t"})


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Element by element, upwards."""
    return {0: overlap.by_elements(np.arange(view.params.size), view.inputs[0].bytes, view.sizes)}


def cases() -> Iterable[Case]:
    """Narrower, wider, the same width; a scale that saturates, and one that leaves nothing."""
    from nnbuild.ops import singles

    narrow, wide = QuantParams(0.05, -20), QuantParams(0.0002, 0, "int16")
    fine, coarse = QuantParams(1e-7, 0, "int16"), QuantParams(1.0, 0, "int16")
    yield singles.requantization("rescale_narrower", (1, 3, 5, 7), wide, narrow)
    yield singles.requantization("rescale_wider", (1, 3, 5, 7), narrow, wide)
    yield singles.requantization("rescale_other", (1, 257), wide, QuantParams(0.0003, 0, "int16"))
    yield singles.requantization("rescale_saturates", (1, 257), narrow, fine)
    yield singles.requantization("rescale_vanishes", (1, 257), fine, QuantParams(3.0, 9))
    yield singles.requantization("rescale_coarse", (1, 64), coarse, QuantParams(1 / 256, -128))


OPERATOR = Operator(
    name="rescale",
    summary="another scale or width, where one side is int16",
    onnx=(),
    lower=lambda ctx, node: None,
    quantization=lambda node: Quantization(),
    params=RescaleParams,
    reference=reference,
    bounds=monotone(reference),
    inplace=lambda view: (0,),
    kernels=(Kernel("direct", render, overlap=over),),
    cases=cases,
)
