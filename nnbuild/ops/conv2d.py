"""Conv with one or two spatial axes, any stride, dilation, padding and number of groups.

ONNX Conv; TensorFlow Lite CONV_2D. A convolution whose every channel is a group of its own is `depthwise_conv2d`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from nnbuild import fixedpoint, qdq
from nnbuild.contract import Case, Channels, Kernel, LayerView, Operator, Overlap, Quantization, Source
from nnbuild.intervals import Interval
from nnbuild.kernels import cmsis_nn, horner, horner_armv6m, mve, packed_armv6m, smlad
from nnbuild.lower import Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.ops import channels, convolution, depthwise_conv2d, wide_conv2d, wide_depthwise_conv2d
from nnbuild.ops.spatial import Window, by_rows, window
from nnbuild.placeholder import packed
from nnbuild.ram import overlap
from nnbuild.streams.sliding import by_window
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class Conv2DParams:
    """Integers of one convolution. Constants: weights OHWI int8, bias, multiplier int32 and shift int8 by channel."""

    window: Window
    channels: int
    groups: int
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Conv -> conv2d, or depthwise_conv2d where each input channel has one filter of its own; or their wide forms."""
    activation = ctx.activation(node, wide=True)
    weights, weight_scales = channels.weights(ctx, node, 1, 0)
    groups = int(qdq.attribute(node, "group", 1))
    if weights.ndim not in (3, 4):
        raise ctx.refuse(node, f"{weights.ndim - 2} spatial axes are not supported", "one or two")
    tensor, shape = ctx.channels_last(activation, node)
    if shape[2] != weights.shape[1] * groups:
        raise ctx.refuse(node, f"{shape[2]} input channels do not fit weights for {weights.shape[1] * groups}")
    quant, place = ctx.quant(activation), window(ctx, node, shape, weights.shape[2:])
    ohwi = np.moveaxis(weights.reshape(weights.shape[0], weights.shape[1], *place.kernel), 1, -1)
    scales = np.float64(quant.scale) * weight_scales
    bias = channels.bias(ctx, node, 2, scales)
    output = ctx.output(node, wide=True)
    if quant.wide or output.quant.wide:
        own = groups == shape[2] == len(ohwi)
        add = wide_depthwise_conv2d.add if own else wide_conv2d.add
        name = add(ctx, node, tensor, wide_conv2d.Weighted(place, groups, ohwi, bias, scales), output)
        ctx.define_spatial(output.value, name, weights.ndim)
        return
    reach = channels.accumulators(ctx, node, ohwi.reshape(len(ohwi), -1), bias, quant)
    rest = (quant.zero_point, output.quant.zero_point, output.activation_min, output.activation_max)
    constants = {"bias": bias, **channels.multipliers(scales, output.quant, reach)}
    params: Conv2DParams | depthwise_conv2d.DepthwiseConv2DParams
    if groups == shape[2] == len(ohwi):
        constants["weights"] = packed(ohwi[..., 0].transpose(1, 2, 0))
        op, params = "depthwise_conv2d", depthwise_conv2d.DepthwiseConv2DParams(place, *rest)
    else:
        constants["weights"] = packed(ohwi)
        op, params = "conv2d", Conv2DParams(place, len(ohwi), groups, *rest)
    name = ctx.layer(op, (tensor,), (*place.output, len(ohwi)), output.quant, params, constants, node)
    ctx.define_spatial(output.value, name, weights.ndim)


def reference(params: Conv2DParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 -> (out height, out width, out channels) int8."""
    sums = convolution.sums(params, constants, inputs[0])
    scaled = fixedpoint.requantize(sums, constants["multiplier"], constants["shift"]) + params.output_zero_point
    return fixedpoint.saturate(scaled, params.activation_min, params.activation_max)


def scratch(view: LayerView, target: Target) -> int:
    """One patch: the bytes under a window."""
    return int(view.params.window.patch)


def render(view: LayerView, target: Target) -> Source:
    """Dot products over windows; the input's zero point is folded into the bias."""
    params, constants = view.params, view.constants
    sums = constants["weights"].astype(np.int64).reshape(params.channels, -1).sum(axis=1)
    folded = (constants["bias"].astype(np.int64) - params.input_zero_point * sums).astype(np.int32)
    return Source(
        template="conv2d.c.j2",
        values={
            "p": params,
            "w": params.window,
            "gathers": params.window.gathers,
            "backwards": view.backwards,
            "group_inputs": params.window.input[2] // params.groups,
            "group_outputs": params.channels // params.groups,
        },
        data={"weights": constants["weights"], "bias": folded, **{k: constants[k] for k in ("multiplier", "shift")}},
    )


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Pixel by pixel, whatever of a window is copied."""
    return {0: overlap.by_pixels(view.params.window, view.params.channels)}


def bounds(view: LayerView, inputs: Sequence[Interval]) -> Interval:
    """Every weight meets the end of its input's interval that counts, padding among the values."""
    params: Conv2DParams = view.params
    found = inputs[0].spread(params.window.input[2])
    found = channels.padded(found, params.input_zero_point) if params.window.padded else found
    low, high = (
        end.reshape(params.groups, -1).repeat(params.channels // params.groups, axis=0)
        for end in (found.low, found.high)
    )
    weights = channels.signed_sums(view.constants["weights"], (1, 2))
    return channels.reachable(params, view.constants, weights, Interval(low, high))


def _divides(view: LayerView) -> bool:
    params: Conv2DParams = view.params
    sizes = (view.inputs[0].channels, view.output.channels)
    return params.groups == 1 and sizes == (params.window.input[2], params.channels)


def _matrices(view: LayerView) -> Array:
    weights = view.constants["weights"]
    return np.asarray(weights.reshape(len(weights), -1, weights.shape[-1]))


def _reads(view: LayerView, kept: Array, inputs: Sequence[Interval]) -> Sequence[Array]:
    folded = channels.foldable(inputs[0], view.params.input_zero_point, view.params.window.padded)
    return [channels.read(_matrices(view), kept, folded)]


def _without(
    view: LayerView, inputs: Sequence[Interval], sources: Sequence[Array], kept: Array
) -> tuple[Conv2DParams, Mapping[str, Array]]:
    params: Conv2DParams = view.params
    constants, weights = channels.shrunk(
        view.constants, _matrices(view), inputs[0], params.input_zero_point, sources[0], kept
    )
    count, inner = len(weights), weights.shape[-1]
    shaped = packed(weights.reshape(count, *params.window.kernel, inner))
    return replace(params, window=params.window.with_channels(inner), channels=count), {**constants, "weights": shaped}


def cases() -> Iterable[Case]:
    """Odd channels, 1x1 maps, every kind of padding, groups, dilation, one axis, clamps, saturation."""
    from nnbuild.ops import singles

    quant, out = QuantParams(0.05, -20), QuantParams(0.3, 5)
    relu = {"output": QuantParams(0.2, -128), "clamp": ("Relu",)}
    table: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
        ("1x1", (1, 5, 4, 3), (7, 5, 1, 1), {}, {}),
        ("1x1_strided", (1, 6, 5, 5), (3, 6, 1, 1), {"strides": [2, 2]}, {}),
        ("1x1_map", (1, 9, 1, 1), (5, 9, 1, 1), {}, relu),
        ("3x3", (1, 3, 7, 6), (5, 3, 3, 3), {}, {}),
        ("3x3_padded", (1, 3, 5, 6), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}, relu),
        ("3x3_asymmetric", (1, 4, 8, 8), (3, 4, 3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}, {}),
        ("same_upper", (1, 2, 7, 8), (3, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {}),
        ("same_lower", (1, 2, 7, 8), (3, 2, 2, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, {}),
        ("dilated", (1, 2, 9, 8), (3, 2, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}, {}),
        ("dilated_valid", (1, 3, 9, 8), (2, 3, 2, 2), {"dilations": [3, 2]}, {}),
        ("grouped", (1, 6, 5, 5), (9, 2, 3, 3), {"group": 3, "pads": [1, 0, 1, 2]}, {}),
        ("multiplier", (1, 3, 5, 5), (6, 1, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}, {}),
        ("window_beyond", (1, 2, 2, 2), (3, 2, 5, 5), {"pads": [2, 2, 2, 2]}, {}),
        ("10x4", (1, 1, 12, 10), (4, 1, 10, 4), {"pads": [4, 1, 5, 1], "strides": [2, 2]}, relu),
        ("1d", (1, 3, 11), (5, 3, 3), {"pads": [2, 0], "strides": [2]}, {}),
        ("row", (1, 4, 1, 9), (3, 4, 1, 3), {"pads": [0, 1, 0, 1]}, {}),
        ("row_uneven", (1, 4, 1, 8), (3, 4, 1, 2), {"pads": [0, 0, 0, 1]}, relu),
        ("row_strided", (1, 4, 1, 7), (3, 4, 1, 5), {"pads": [0, 2, 0, 2], "strides": [1, 2]}, {}),
        ("deep", (1, 20, 3, 3), (6, 20, 2, 2), {}, {}),
        ("hardtanh", (1, 3, 4, 4), (5, 3, 1, 1), {}, {"output": QuantParams(1 / 128, 0), "clamp": ("Clip", -1.0, 1.0)}),
        ("no_bias", (1, 3, 4, 4), (5, 3, 1, 1), {}, {"bias": False}),
        ("upscaling", (1, 3, 2, 2), (5, 3, 1, 1), {}, {"quant": QuantParams(30.0, 3), "output": QuantParams(0.001, 0)}),
        (
            "downscaling",
            (1, 3, 2, 2),
            (5, 3, 1, 1),
            {},
            {"quant": QuantParams(1e-9, 3), "output": QuantParams(90.0, 1)},
        ),
    ]
    for name, shape, weights, attributes, rest in table:
        options = {"quant": quant, "output": out, **rest}
        yield singles.weighted(f"conv2d_{name}", "Conv", shape, weights, 0, attributes=attributes, **options)


OPERATOR = Operator(
    name="conv2d",
    summary="convolution, 1D and 2D",
    onnx=("Conv",),
    lower=lower,
    quantization=lambda node: Quantization(weights=1, bias=2, fuses_clamp=True, wide=True),
    params=Conv2DParams,
    reference=reference,
    macs=convolution.macs,
    bounds=bounds,
    channels=Channels(_divides, _reads, _without),
    slides=by_window,
    rows=lambda view, count, together: by_rows(view, count, together, view.params.input_zero_point),
    kernels=(
        Kernel(
            "assembly",
            horner_armv6m.conv2d,
            horner_armv6m.supports_conv2d,
            horner_armv6m.scratch,
            horner_armv6m.conv2d_trips,
            overlap=over,
        ),
        Kernel(
            "packed",
            packed_armv6m.conv2d,
            horner_armv6m.supports_conv2d,
            packed_armv6m.scratch,
            packed_armv6m.conv2d_trips,
            overlap=over,
        ),
        Kernel(
            "smlad",
            smlad.conv2d,
            smlad.supports_conv2d,
            smlad.scratch,
            smlad.conv2d_trips,
            outruns_library=smlad.outruns_library,
            overlap=smlad.over,
        ),
        Kernel("mla", smlad.conv2d, smlad.supports_mla_conv2d, smlad.scratch, smlad.conv2d_trips, overlap=smlad.over),
        Kernel(
            "mve",
            mve.conv2d,
            mve.supports_conv2d,
            mve.scratch,
            mve.conv2d_trips,
            outruns_library=mve.outruns_library,
            overlap=mve.over,
        ),
        Kernel("horner", horner.conv2d, horner.supports_conv2d, scratch, horner.conv2d_trips, overlap=over),
        Kernel("direct", render, scratch=scratch, trips=convolution.trips, overlap=over),
        cmsis_nn.CONVOLVE,
    ),
    cases=cases,
)
