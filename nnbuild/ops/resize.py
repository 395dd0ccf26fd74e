"""Another size by repeating or leaving out elements. ONNX Resize with mode nearest; Upsample arrives as Resize.

Each axis of the output reads the input at positions that are known when the model is lowered: no arithmetic remains.
Formulas: ONNX operator specification, Resize-19, `coordinate_transformation_mode` and `nearest_mode`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx

from nnbuild import qdq
from nnbuild.contract import Case, Operator
from nnbuild.lower import Lowering
from nnbuild.network import Array
from nnbuild.ops import views

Coordinate = Callable[[Array, float, int, float], Array]
"""(positions in the output, scale, length of the input, length of the output) -> positions in the input."""


def _half_pixel_symmetric(at: Array, scale: float, size: int, length: float) -> Array:
    # The output has a whole number of elements; what its length lacks is left out equally at both ends.
    whole = math.floor(length)
    return np.asarray(size / 2 * (1 - whole / length) + (at + 0.5) / scale - 0.5)


COORDINATES: Mapping[str, Coordinate] = {
    "half_pixel": lambda at, scale, size, length: (at + 0.5) / scale - 0.5,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": lambda at, scale, size, length: (at + 0.5) / scale - 0.5 if length > 1 else at * 0.0,
    "align_corners": lambda at, scale, size, length: at * (size - 1) / (length - 1) if length > 1 else at * 0.0,
    "asymmetric": lambda at, scale, size, length: at / scale,
}

NEAREST: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Resize(x, roi, scales, sizes) in mode nearest: offsets that repeat, and no layer."""
    mode = qdq.attribute(node, "mode", "nearest")
    if mode != "nearest":
        raise ctx.refuse(node, f"mode {mode} is not supported", "export with mode nearest")
    coordinate = COORDINATES.get(qdq.attribute(node, "coordinate_transformation_mode", "half_pixel"))
    nearest = NEAREST.get(qdq.attribute(node, "nearest_mode", "round_prefer_floor"))
    if coordinate is None or nearest is None:
        raise ctx.refuse(node, "coordinates cropped by a region (tf_crop_and_resize) are not supported")
    output = ctx.shapes.get(node.output[0])
    if output is None:
        raise ctx.refuse(node, "the shape of its output is not known", "export with constant scales")
    given = _scales(ctx, node, len(output))

    def move(index: Array) -> Array:
        if index.ndim != len(output):
            raise ctx.refuse(node, f"{index.ndim} dimensions do not fit {len(output)}")
        for axis, (size, length) in enumerate(zip(index.shape, output, strict=True)):
            scale = given.get(axis, length / size)
            at = coordinate(np.arange(length, dtype=np.float64), scale, size, size * scale)
            # A position a rounding error away from a tie is meant to be one.
            picked = nearest(np.round(at, 9)).astype(np.int64)
            index = index.take(np.clip(picked, 0, size - 1), axis)
        return index

    views.define(ctx, node, move)


def _scales(ctx: Lowering, node: onnx.NodeProto, rank: int) -> dict[int, float]:
    """Scales by axis where the model gives scales and not sizes."""
    constant = ctx.constant(node, 2)
    if constant is None or not constant.values.size:
        return {}
    axes = qdq.attribute(node, "axes", list(range(rank)))
    return {int(axis) % rank: float(scale) for axis, scale in zip(axes, constant.values.ravel(), strict=True)}


def cases() -> Iterable[Case]:
    """Twice as large, a crooked factor, smaller, one axis; the ways to count."""
    from nnbuild.ops import singles

    twice = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    yield singles.resized("resize_twice", (1, 3, 4, 5), (1, 1, 2, 2), twice)
    yield singles.resized("resize_crooked", (1, 2, 3, 4), (1, 1, 7 / 3, 1.5), {})
    yield singles.resized("resize_smaller", (1, 2, 6, 9), (1, 1, 0.5, 1 / 3), {})
    corners = {"coordinate_transformation_mode": "align_corners", "nearest_mode": "ceil"}
    yield singles.resized("resize_corners", (1, 3, 5), (1, 1, 2), corners)


OPERATOR = Operator(
    name="resize",
    summary="another size by repeating elements (nearest)",
    onnx=("Resize",),
    lower=lower,
    quantization=lambda node: views.QUANTIZATION,
    cases=cases,
)
