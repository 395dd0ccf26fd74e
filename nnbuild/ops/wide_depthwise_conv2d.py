"""Depthwise convolutions with 16-bit activations: int16 input, int16 output, or both; see `wide_conv2d`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Overlap, Quantization, Source
from nnbuild.kernels import depthwise_armv6m, dual, smlad, smlad_depthwise, wide_requantize
from nnbuild.lower import Lowering, Output
from nnbuild.network import Array, QuantParams
from nnbuild.ops import convolution, wide_conv2d
from nnbuild.ops.spatial import Window
from nnbuild.placeholder import packed
from nnbuild.ram import overlap
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class WideDepthwiseConv2DParams:
    """Integers of one layer. Constants: weights (kernel height, kernel width, channels) int8; bias, multiplier int32.

    `left` and `bits` are those of `wide_conv2d`.
    """

    window: Window
    left: int
    bits: int
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def add(ctx: Lowering, node: onnx.NodeProto, tensor: str, of: wide_conv2d.Weighted, output: Output) -> str:
    """The layer over `tensor`."""
    integers, constants = wide_conv2d.scaled(ctx, node, tensor, of, output)
    constants["weights"] = packed(of.weights[..., 0].transpose(1, 2, 0))
    shape = (*of.window.output, len(of.weights))
    params = WideDepthwiseConv2DParams(**integers)
    return ctx.layer("wide_depthwise_conv2d", (tensor,), shape, output.quant, params, constants, node)


def reference(params: WideDepthwiseConv2DParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 or int16 -> (out height, out width, channels) int8 or int16."""
    sums = convolution.depthwise_sums(params, constants, inputs[0])
    scaled = fixedpoint.scale_upper(sums, constants["multiplier"], params.left)
    scaled = scaled + params.output_zero_point
    return fixedpoint.saturate_as(f"int{params.bits}", scaled, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """Sums over windows, channel by channel."""
    by_channel = packed(view.constants["weights"].transpose(2, 0, 1))
    form, own = wide_requantize.requantization(view, by_channel.reshape(len(by_channel), -1))
    constants = {"weights": by_channel, "scaling": own.ravel()}
    return Source("wide_depthwise_conv2d.c.j2", {**dual.values(view), "form": form}, constants)


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of wide_depthwise_conv2d.c.j2."""
    place = view.params.window
    rows, columns = place.kernel
    size = view.output.size
    loops = {"output": size, "row": size * rows, "mac": size * rows * columns}
    return {**place.trips(place.gathered), **loops}


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Channel by channel of each pixel, whatever of a window is copied."""
    return {0: overlap.by_channels(view.params.window, view.sizes)}


def cases() -> Iterable[Case]:
    """Every mix of types, odd and even channels, every kind of padding, dilation, one axis, clamps, saturation."""
    from nnbuild.ops import singles

    narrow, out = QuantParams(0.05, -20), QuantParams(0.1, 5)
    wide, wide_out = QuantParams(0.0002, 0, "int16"), QuantParams(0.0005, 0, "int16")
    types = {"16_8": (wide, out), "16_16": (wide, wide_out), "8_16": (narrow, wide_out)}
    table: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, object]]] = [
        ("3x3", (5, 7, 6), (3, 3), {}),
        ("3x3_padded", (6, 5, 6), (3, 3), {"pads": [1, 1, 1, 1]}),
        ("asymmetric", (4, 8, 8), (3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
        ("dilated", (4, 9, 8), (3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
        ("window_beyond", (2, 2, 2), (5, 5), {"pads": [2, 2, 2, 2]}),
        ("wide", (3, 4, 9), (2, 7), {"pads": [0, 2, 1, 3]}),
        ("1d", (4, 11), (5,), {"pads": [4, 0]}),
    ]
    for key, (source, target) in types.items():
        for name, shape, kernel, attributes in table:
            weights, own = (shape[0], 1, *kernel), {**attributes, "group": shape[0]}
            case = f"wide_depthwise_{name}_{key}"
            yield singles.weighted(case, "Conv", (1, *shape), weights, 0, source, target, own)
    relu6, padded = ("Clip", 0.0, 6.0), {"group": 4, "pads": [1, 1, 1, 1]}
    shapes = (1, 4, 4, 4), (4, 1, 3, 3)
    yield singles.weighted("wide_depthwise_relu6", "Conv", *shapes, 0, wide, wide, padded, relu6)


OPERATOR = Operator(
    name="wide_depthwise_conv2d",
    summary="depthwise convolution with 16-bit activations",
    onnx=(),
    lower=lambda ctx, node: None,
    quantization=lambda node: Quantization(weights=1, bias=2, fuses_clamp=True, wide=True),
    params=WideDepthwiseConv2DParams,
    reference=reference,
    macs=convolution.depthwise_macs,
    kernels=(
        Kernel(
            "assembly",
            depthwise_armv6m.wide,
            depthwise_armv6m.supports,
            wide_conv2d.scratch,
            depthwise_armv6m.trips,
            overlap=depthwise_armv6m.over,
        ),
        Kernel(
            "smlad",
            smlad_depthwise.wide,
            smlad_depthwise.supports,
            smlad_depthwise.scratch,
            smlad_depthwise.trips,
            outruns_library=smlad.outruns_library,
            overlap=smlad_depthwise.over,
        ),
        Kernel(
            "pairs",
            dual.depthwise,
            dual.supports_depthwise,
            dual.depthwise_scratch,
            dual.depthwise_trips,
            overlap=dual.depthwise_over,
        ),
        Kernel("direct", render, scratch=wide_conv2d.scratch, trips=trips, overlap=over),
    ),
    cases=cases,
)
