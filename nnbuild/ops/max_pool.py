"""The largest value of windows, or along any axes. ONNX MaxPool, ReduceMax, ReduceMin; TensorFlow Lite MAX_POOL_2D.

Padding never wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Overlap, Quantization, SameAsInput, Source, tied
from nnbuild.intervals import monotone
from nnbuild.kernels import cmsis_nn
from nnbuild.lower import Activation, Lowering, Output
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import lookup, reduction
from nnbuild.ops.pooling import walk, window_trips
from nnbuild.ops.spatial import Window, by_rows, divides_window, window, without_in_window
from nnbuild.ram import overlap
from nnbuild.streams.sliding import by_window
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class MaxPoolParams:
    """The window and the clamp."""

    window: Window
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """MaxPool, or ReduceMax and ReduceMin over any axes; where the output has another scale a table follows.

    The smallest value is found as the largest of all -1 - q, which is exact.
    """
    if len(node.output) > 1 and node.output[1]:
        raise ctx.refuse(node, "its second output (indices) is not supported", "use the values only")
    activation = ctx.activation(node)
    quant = ctx.quant(activation)
    output = ctx.output(node, default=quant)
    if node.op_type == "ReduceMin":
        activation = lookup.apply(ctx, node, activation, QuantParams(quant.scale, -1 - quant.zero_point), _MIRROR)
    result = _pooled(ctx, node, activation, output)
    if node.op_type == "ReduceMin":
        values = np.clip(_MIRROR, output.activation_min, output.activation_max) if output.quant == quant else _MIRROR
        result = lookup.apply(ctx, node, result, quant, values.astype(np.int8))
    if output.quant == quant:
        ctx.define(output.value, result.tensor, result.index)
        return
    values = lookup.table(lambda x: x, quant, output.quant, output.activation_min, output.activation_max)
    lookup.add(ctx, node, result, output.quant, values, output.value)


_MIRROR = np.arange(INT8_MAX, INT8_MIN - 1, -1).astype(np.int8)
"""-1 - q for q from -128 to 127."""


def _pooled(ctx: Lowering, node: onnx.NodeProto, activation: Activation, output: Output) -> Activation:
    quant = ctx.quant(activation)
    clamps = quant == output.quant and node.op_type != "ReduceMin"
    limits = (output.activation_min, output.activation_max) if clamps else (INT8_MIN, INT8_MAX)
    if node.op_type != "MaxPool":
        found = reduction.of(ctx, node, activation)
        params = MaxPoolParams(found.window, *limits)
        return Activation(ctx.layer("max_pool", (found.tensor,), found.shape, quant, params, {}, node), found.index)
    tensor, shape = ctx.channels_last(activation, node)
    place = window(ctx, node, shape, qdq.attribute(node, "kernel_shape", []))
    if place.inside(pads_count=False).min() == 0:
        raise ctx.refuse(node, "some windows hold nothing but padding", "use smaller pads")
    name = ctx.layer("max_pool", (tensor,), (*place.output, shape[2]), quant, MaxPoolParams(place, *limits), {}, node)
    return Activation(name, ctx.spatial_index(name, activation.index.ndim))


def reference(params: MaxPoolParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 -> (out height, out width, channels) int8."""
    taps = params.window.taps(inputs[0].reshape(params.window.input), INT8_MIN)
    return fixedpoint.saturate(taps.max(axis=(2, 3)), params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """The largest value under each window, clipped to the input."""
    place = view.params.window
    return Source("max_pool.c.j2", {"p": view.params, "w": place, "walk": None if _asks(place) else walk(place)})


def _asks(place: Window) -> bool:
    """Whether each tap is asked whether it is inside: one that is not, between others that are."""
    return place.padded and place.dilation != (1, 1)


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of max_pool.c.j2; where each tap is asked, those outside of the input are skipped."""
    place, size = view.params.window, view.output.size
    if not _asks(place):
        return {"pixel": place.pixels, "output": size, **window_trips(place)}
    rows, columns = place.clipped()
    taps = size * place.kernel[0] * place.kernel[1]
    inside = min(taps, rows * columns * place.input[2])
    asked = {"asked_row": size * place.kernel[0], "asked_tap": inside, "skipped": taps - inside}
    return {"pixel": place.pixels, "output": size, **asked}


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Channel by channel of each pixel."""
    return {0: overlap.upwards(overlap.by_channels(view.params.window), view.inputs[0].bytes)}


def cases() -> Iterable[Case]:
    """Padding on either side, stride, dilation, one axis, a clamp, another scale."""
    from nnbuild.ops import singles

    quant = QuantParams(0.05, -20)
    two = {"kernel_shape": [2, 2], "strides": [2, 2]}
    yield singles.unary("max_pool_2x2", "MaxPool", (1, 3, 6, 4), quant, quant, two)
    same = {**two, "auto_pad": "SAME_UPPER"}
    yield singles.unary("max_pool_same", "MaxPool", (1, 5, 7, 3), quant, quant, same)
    wide = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    yield singles.unary("max_pool_padded", "MaxPool", (1, 2, 3, 3), quant, quant, wide)
    dilated = {"kernel_shape": [2, 2], "dilations": [2, 2]}
    yield singles.unary("max_pool_dilated", "MaxPool", (1, 2, 5, 6), quant, quant, dilated)
    ceiling = {**two, "ceil_mode": 1}
    yield singles.unary("max_pool_ceil", "MaxPool", (1, 2, 5, 5), quant, quant, ceiling)
    yield singles.unary("max_pool_rows", "MaxPool", (1, 3, 7, 9), quant, quant, {"kernel_shape": [4, 7]})
    crooked = {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [2, 1, 1, 2]}
    yield singles.unary("max_pool_dilated_padded", "MaxPool", (1, 2, 5, 6), quant, quant, crooked)
    yield singles.unary(
        "max_pool_dilated_rows",
        "MaxPool",
        (1, 2, 9, 8),
        quant,
        quant,
        {**crooked, "kernel_shape": [4, 3], "pads": [0, 0, 0, 0]},
    )
    yield singles.unary("max_pool_1d", "MaxPool", (1, 3, 9), quant, quant, {"kernel_shape": [3], "strides": [2]})
    yield singles.unary("max_pool_relu", "MaxPool", (1, 3, 6, 4), quant, quant, two, clamp=("Relu",))
    for kind in ("ReduceMax", "ReduceMin"):
        name = "reduce_" + kind[6:].lower()
        yield singles.reduced(f"{name}_space", kind, (1, 3, 4, 5), [2, 3], quant, quant)
        yield singles.reduced(f"{name}_last", kind, (1, 3, 4, 5), [3], quant, quant, keepdims=0)
        yield singles.reduced(f"{name}_rescaled", kind, (1, 6, 5), [1], quant, QuantParams(0.03, 9))
    yield singles.unary("max_pool_rescaled", "MaxPool", (1, 3, 6, 4), quant, QuantParams(0.03, 9), two)


OPERATOR = Operator(
    name="max_pool",
    summary="largest value of a window",
    onnx=("MaxPool", "ReduceMax", "ReduceMin"),
    lower=lower,
    quantization=lambda node: Quantization(output=SameAsInput()),
    params=MaxPoolParams,
    reference=reference,
    bounds=monotone(reference),
    channels=tied(divides_window, without_in_window),
    slides=by_window,
    rows=lambda view, count, together: by_rows(view, count, together, INT8_MIN),
    kernels=(Kernel("direct", render, trips=trips, overlap=over), cmsis_nn.MAX_POOL),
    cases=cases,
)
