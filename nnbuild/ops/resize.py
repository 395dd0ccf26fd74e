"""Another size, by repeating elements (nearest) or by lines between them (linear). ONNX Resize; Upsample arrives as it.

Every position of the output reads the input at a place that is known when the model is lowered. For nearest that leaves
no arithmetic at all. For linear it leaves four weighted values, over one or two spatial axes; a weight has 11 bits, so
the result is within a step of the exact one. Formulas: ONNX operator specification, Resize-19,
`coordinate_transformation_mode` and `nearest_mode`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, SameAsInput, Source
from nnbuild.lower import Activation, Lowering
from nnbuild.network import Array
from nnbuild.ops import lookup, views
from nnbuild.target import Target

WEIGHT_BITS = 11
"""The product of two weights and an int8 stays below 2^30."""

Coordinate = Callable[[Array, float, int, float], Array]
"""(positions in the output, scale, length of the input, length of the output) -> positions in the input."""


@dataclass(frozen=True, slots=True)
class ResizeParams:
    """A linear resize of (height, width, channels) to `output` (height, width).

    Constants for each row of the output: `row`, int32, the offset of the upper of two input rows; `row_step`, int32,
    from there to the lower one; `row_weight`, uint16, the lower one's share of 2^11. The same for columns.
    """

    input: tuple[int, int, int]
    output: tuple[int, int]
    activation_min: int
    activation_max: int


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
    """Resize(x, roi, scales, sizes): for nearest offsets that repeat, and no layer; for linear a layer."""
    mode = qdq.attribute(node, "mode", "nearest")
    if mode not in ("nearest", "linear"):
        raise ctx.refuse(node, f"mode {mode} is not supported", "export with mode nearest or linear")
    if mode == "nearest":
        nearest = NEAREST.get(qdq.attribute(node, "nearest_mode", "round_prefer_floor"))
        if nearest is None:
            raise ctx.refuse(node, "its nearest_mode is unknown")

        def move(index: Array) -> Array:
            for axis, at in enumerate(_positions(ctx, node, index.shape)):
                # A position a rounding error away from a tie is meant to be one.
                picked = nearest(np.round(at, 9)).astype(np.int64)
                index = index.take(np.clip(picked, 0, index.shape[axis] - 1), axis)
            return index

        views.define(ctx, node, move)
        return
    _linear(ctx, node)


def _linear(ctx: Lowering, node: onnx.NodeProto) -> None:
    if qdq.attribute(node, "antialias", 0):
        raise ctx.refuse(node, "antialias is not supported", "use AveragePool in front")
    activation = ctx.activation(node)
    positions = _positions(ctx, node, activation.shape)
    tensor, shape = ctx.channels_last(activation, node)
    if any(not np.array_equal(at, np.arange(size)) for at, size in zip(positions[:2], activation.shape, strict=False)):
        raise ctx.refuse(node, "only spatial axes can be resized linearly")
    rows, columns = positions[2:] if len(positions) == 4 else [np.zeros(1), positions[2]]
    quant = ctx.quant(activation)
    output = ctx.output(node, default=quant)
    same = output.quant == quant
    limits = (output.activation_min, output.activation_max) if same else (-128, 127)
    params = ResizeParams(shape, (rows.size, columns.size), *limits)
    constants = {
        **_between("row", rows, shape[0], shape[1] * shape[2]),
        **_between("column", columns, shape[1], shape[2]),
    }
    name = ctx.layer("resize", (tensor,), (*params.output, shape[2]), quant, params, constants, node)
    result = Activation(name, ctx.spatial_index(name, activation.index.ndim))
    if same:
        ctx.define(output.value, result.tensor, result.index)
        return
    values = lookup.rescaling(quant, output.quant, output.activation_min, output.activation_max)
    lookup.add(ctx, node, result, output.quant, values, output.value)


def _between(name: str, at: Array, size: int, stride: int) -> dict[str, Array]:
    """The constants of one axis: between which two elements each position lies, and how near to the second."""
    inside = np.clip(at, 0, size - 1)
    first = np.minimum(np.floor(inside).astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    weight = np.rint((inside - first) * 2**WEIGHT_BITS)
    return {
        name: np.asarray(first * stride, np.int32),
        f"{name}_step": np.asarray((second - first) * stride, np.int32),
        f"{name}_weight": np.asarray(weight, np.uint16),
    }


def _positions(ctx: Lowering, node: onnx.NodeProto, shape: Sequence[int]) -> list[Array]:
    """For each axis where in the input each position of the output lies."""
    coordinate = COORDINATES.get(qdq.attribute(node, "coordinate_transformation_mode", "half_pixel"))
    if coordinate is None:
        raise ctx.refuse(node, "coordinates cropped by a region (tf_crop_and_resize) are not supported")
    output = ctx.shapes.get(node.output[0])
    if output is None or len(output) != len(shape):
        raise ctx.refuse(node, "the shape of its output is not known", "export with constant scales")
    given = _scales(ctx, node, shape)
    found = []
    for axis, (size, length) in enumerate(zip(shape, output, strict=True)):
        scale = given.get(axis, length / size)
        at = np.arange(length, dtype=np.float64)
        found.append(at if (scale, length) == (1.0, size) else coordinate(at, scale, size, size * scale))
    return found


def _scales(ctx: Lowering, node: onnx.NodeProto, shape: Sequence[int]) -> dict[int, float]:
    """Scales by axis, where they are not simply output / input: given ones, and one for all that keeps the aspect."""
    axes = [int(axis) % len(shape) for axis in qdq.attribute(node, "axes", list(range(len(shape))))]
    constant = ctx.constant(node, 2)
    if constant is not None and constant.values.size:
        return {axis: float(scale) for axis, scale in zip(axes, constant.values.ravel(), strict=True)}
    policy = qdq.attribute(node, "keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return {}
    ratios = [wanted / shape[axis] for axis, wanted in zip(axes, views.numbers(ctx, node, 3), strict=True)]
    return dict.fromkeys(axes, min(ratios) if policy == "not_larger" else max(ratios))


def reference(params: ResizeParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 -> (out height, out width, channels) int8; linear."""
    values = inputs[0].reshape(params.input).astype(np.int64)
    stride = params.input[2]
    for axis, (name, step) in enumerate((("row", params.input[1] * stride), ("column", stride))):
        first = constants[name] // step
        second = first + constants[f"{name}_step"] // step
        weight = constants[f"{name}_weight"].astype(np.int64)
        weight = weight[:, None, None] if axis == 0 else weight[None, :, None]
        values = values.take(first, axis) * (2**WEIGHT_BITS - weight) + values.take(second, axis) * weight
    rounded = (values + (1 << (2 * WEIGHT_BITS - 1))) >> (2 * WEIGHT_BITS)
    return fixedpoint.saturate(rounded, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """Four taps for each value."""
    return Source(template="resize.c.j2", values={"p": view.params, "one": 2**WEIGHT_BITS}, data=dict(view.constants))


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of resize.c.j2."""
    return {"row": view.params.output[0], "pixel": math.prod(view.params.output), "output": view.output.size}


def macs(view: LayerView) -> int:
    """Multiplications of values by weights."""
    return 4 * view.output.size


def cases() -> Iterable[Case]:
    """Nearest: twice as large, a crooked factor, smaller, one axis. Linear: the same, a clamp, another scale."""
    from nnbuild.ops import singles

    twice = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    yield singles.resized("resize_twice", (1, 3, 4, 5), (1, 1, 2, 2), twice)
    yield singles.resized("resize_crooked", (1, 2, 3, 4), (1, 1, 7 / 3, 1.5), {})
    yield singles.resized("resize_smaller", (1, 2, 6, 9), (1, 1, 0.5, 1 / 3), {})
    corners = {"coordinate_transformation_mode": "align_corners", "nearest_mode": "ceil"}
    yield singles.resized("resize_corners", (1, 3, 5), (1, 1, 2), corners)
    linear = {"mode": "linear"}
    yield singles.resized("resize_linear_twice", (1, 3, 4, 5), (1, 1, 2, 2), linear)
    yield singles.resized("resize_linear_crooked", (1, 2, 3, 4), (1, 1, 7 / 3, 1.5), linear)
    yield singles.resized("resize_linear_smaller", (1, 5, 6, 7), (1, 1, 0.5, 0.6), linear)
    yield singles.resized("resize_linear_row", (1, 3, 5), (1, 1, 3), {**linear, **corners})
    yield singles.resized("resize_linear_pixel", (1, 3, 1, 1), (1, 1, 2, 3), linear)


OPERATOR = Operator(
    name="resize",
    summary="another size, nearest or linear",
    onnx=("Resize",),
    lower=lower,
    quantization=lambda node: Quantization(SameAsInput(), parameters=frozenset((1, 2, 3))),
    params=ResizeParams,
    reference=reference,
    macs=macs,
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
