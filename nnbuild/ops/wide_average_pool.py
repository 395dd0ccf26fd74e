"""Means over windows where input or output is int16; `average_pool` lowers to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Overlap, Quantization, Source
from nnbuild.intervals import monotone
from nnbuild.lower import Lowering, Output
from nnbuild.network import Array, QuantParams
from nnbuild.ops.pooling import walk, window_trips
from nnbuild.ops.spatial import Window
from nnbuild.ram import overlap
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class WideAveragePoolParams:
    """Integers of one pool; constant `multiplier` (int32), indexed by the number of elements that count.

    `pads_count`: padding is a zero that counts. `left` and `bits` are those of `wide_conv2d`, for sums of
    (input - zero point).
    """

    window: Window
    pads_count: bool
    left: int
    bits: int
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def add(
    ctx: Lowering, node: onnx.NodeProto, tensor: str, place: Window, pads_count: bool, divides: bool, output: Output
) -> str:
    """The layer over `tensor`; without `divides` its outputs are sums."""
    quant = ctx.tensors[tensor].quant
    counts = place.inside(pads_count)
    most = int(counts.max())
    span = max(quant.limits[1] - quant.zero_point, quant.zero_point - quant.limits[0])
    if most * span > fixedpoint.INT32_MAX:
        raise ctx.refuse(node, f"the 32-bit sum of {most} values can overflow", "keep its input in 8 bits")
    left = fixedpoint.headroom(most * span)
    multiplier = np.zeros(most + 1, np.int32)
    for count in np.unique(counts):
        real = quant.scale / (output.quant.scale * (int(count) if divides else 1))
        multiplier[count] = fixedpoint.upper_multiplier(real, left)
    params = WideAveragePoolParams(
        window=place,
        pads_count=pads_count,
        left=left,
        bits=16 if output.quant.wide else 8,
        input_zero_point=quant.zero_point,
        output_zero_point=output.quant.zero_point,
        activation_min=output.activation_min,
        activation_max=output.activation_max,
    )
    shape = (*place.output, place.input[2])
    return ctx.layer("wide_average_pool", (tensor,), shape, output.quant, params, {"multiplier": multiplier}, node)


def reference(params: WideAveragePoolParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 or int16 -> (out height, out width, channels) int8 or int16."""
    place = params.window
    taps = place.taps(inputs[0].reshape(place.input).astype(np.int64), params.input_zero_point)
    counts = place.inside(params.pads_count)[..., None]
    sums = (taps - params.input_zero_point).sum(axis=(2, 3))
    mean = fixedpoint.scale_upper(sums, constants["multiplier"][counts], params.left) + params.output_zero_point
    return fixedpoint.saturate_as(f"int{params.bits}", mean, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """Sums of windows, cut to the input where they reach outside; one product for each output."""
    params: WideAveragePoolParams = view.params
    counts = params.window.inside(params.pads_count)
    varied = bool(counts.min() < counts.max())
    types = {"source": f"{view.inputs[0].dtype}_t", "result": f"{view.output.dtype}_t"}
    multiplier = view.constants["multiplier"]
    values = {
        **{"p": params, "w": params.window, "walk": walk(params.window), "varied": varied, **types},
        "multiplier": int(multiplier[int(counts.max())]),
        "ends": tuple(end if params.pads_count else 0 for end in params.window.pad_end),
    }
    return Source("wide_average_pool.c.j2", values, {"multiplier": multiplier} if varied else {})


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of wide_average_pool.c.j2."""
    place = view.params.window
    return {"pixel": place.pixels, "output": view.output.size, **window_trips(place)}


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Channel by channel of each pixel, upwards."""
    own = overlap.by_channels(view.params.window, view.sizes)
    return {0: overlap.upwards(own, view.inputs[0].bytes)}


def cases() -> Iterable[Case]:
    """Every mix of types, padding that counts and that does not, odd sizes, global pools, one axis, sums."""
    from nnbuild.ops import singles

    narrow, out = QuantParams(0.05, -20), QuantParams(0.04, 3)
    wide, wide_out = QuantParams(0.0002, 0, "int16"), QuantParams(0.00019, 0, "int16")
    padded = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    ceiling = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1, "count_include_pad": 1}
    for key, source, target in (("16_8", wide, out), ("16_16", wide, wide_out), ("8_16", narrow, wide_out)):
        kernel = {"kernel_shape": [3, 2], "strides": [2, 1]}
        yield singles.unary(f"wide_pool_{key}", "AveragePool", (1, 3, 7, 4), source, target, kernel)
        yield singles.unary(f"wide_pool_padded_{key}", "AveragePool", (1, 3, 4, 5), source, target, padded)
        yield singles.unary(f"wide_pool_ceil_{key}", "AveragePool", (1, 2, 6, 6), source, target, ceiling)
        yield singles.unary(f"wide_pool_global_{key}", "GlobalAveragePool", (1, 5, 25, 5), source, target)
        yield singles.reduced(f"wide_pool_reduced_{key}", "ReduceMean", (1, 3, 4, 5), [3], source, target)
    wider = QuantParams(0.004, 0, "int16")
    yield singles.reduced("wide_pool_sum", "ReduceSum", (2, 3, 4), [0, 1, 2], wide, wider, keepdims=0)
    relu = QuantParams(0.00001, 0, "int16")
    yield singles.unary("wide_pool_relu", "GlobalAveragePool", (1, 3, 3, 3), wide, relu, clamp=("Relu",))


OPERATOR = Operator(
    name="wide_average_pool",
    summary="mean with 16-bit activations",
    onnx=(),
    lower=lambda ctx, node: None,
    quantization=lambda node: Quantization(fuses_clamp=True, wide=True),
    params=WideAveragePoolParams,
    reference=reference,
    bounds=monotone(reference),
    kernels=(Kernel("direct", render, trips=trips, overlap=over),),
    cases=cases,
)
