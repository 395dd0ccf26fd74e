"""Depthwise convolution: one filter for each channel. TensorFlow Lite DEPTHWISE_CONV_2D with multiplier 1.

ONNX has no operator for it; `conv2d` lowers a Conv whose group is its number of channels to this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Overlap, Quantization, Source, tied
from nnbuild.errors import InternalError
from nnbuild.intervals import Interval
from nnbuild.kernels import cmsis_nn, depthwise_armv6m, mve, mve_depthwise, smlad, smlad_depthwise
from nnbuild.kernels.exact_requantize import requantization
from nnbuild.lower import Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.ops import channels, convolution
from nnbuild.ops.spatial import Window, by_rows, divides_window
from nnbuild.placeholder import packed
from nnbuild.ram import overlap
from nnbuild.streams.sliding import by_window
from nnbuild.target import Target

UNROLLED = 5
"""The widest window whose columns are written one after the other."""


@dataclass(frozen=True, slots=True)
class DepthwiseConv2DParams:
    """Integers of one layer. Constants: weights (height, width, channels) int8; bias, multiplier int32, shift int8."""

    window: Window
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Never called: no ONNX type names this operator."""
    raise InternalError("depthwise_conv2d is lowered by conv2d")


def reference(params: DepthwiseConv2DParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 -> (out height, out width, channels) int8."""
    sums = convolution.depthwise_sums(params, constants, inputs[0])
    scaled = fixedpoint.requantize(sums, constants["multiplier"], constants["shift"]) + params.output_zero_point
    return fixedpoint.saturate(scaled, params.activation_min, params.activation_max)


def scratch(view: LayerView, target: Target) -> int:
    """One patch, where windows reach over a border."""
    place = view.params.window
    return int(np.prod(place.kernel)) * place.input[2] if place.padded else 0


def render(view: LayerView, target: Target) -> Source:
    """Sums over windows, channel by channel; the input's zero point is folded into the bias."""
    params = view.params
    by_channel = packed(view.constants["weights"].transpose(2, 0, 1))
    flat = by_channel.reshape(len(by_channel), -1)
    line, constants = requantization(view, flat, params.input_zero_point, target)
    values = {"p": params, "w": params.window, "gathers": params.window.padded, "unrolled": UNROLLED, "line": line}
    values |= {"backwards": view.backwards, "by_columns": None, "tap": ""}
    return Source("depthwise_conv2d.c.j2", values, {"weights": by_channel, **constants})


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of depthwise_conv2d.c.j2; that over the columns of a narrow window is unrolled."""
    place = view.params.window
    rows, columns = place.kernel
    size = view.output.size
    tap = "unrolled_mac" if columns <= UNROLLED else "mac"
    loops = {"output": size, "row": size * rows, tap: size * rows * columns}
    return {**place.trips(place.reaching_outside), **loops}


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Channel by channel of each pixel, whatever of a window is copied."""
    return {0: overlap.by_channels(view.params.window)}


def bounds(view: LayerView, inputs: Sequence[Interval]) -> Interval:
    """Every weight meets the end of its channel's interval that counts, padding among the values."""
    params: DepthwiseConv2DParams = view.params
    found = inputs[0].spread(params.window.input[2])
    found = channels.padded(found, params.input_zero_point) if params.window.padded else found
    weights = channels.signed_sums(view.constants["weights"], (0, 1))[..., None]
    return channels.reachable(params, view.constants, weights, Interval(found.low[:, None], found.high[:, None]))


def _without(view: LayerView, kept: Array) -> tuple[DepthwiseConv2DParams, Mapping[str, Array]]:
    constants = {name: np.ascontiguousarray(array[..., kept]) for name, array in view.constants.items()}
    return replace(view.params, window=view.params.window.with_channels(int(kept.sum()))), constants


def cases() -> Iterable[Case]:
    """Odd channels, 1x1 maps, every kind of padding, dilation, one axis, clamps, saturation."""
    from nnbuild.ops import singles

    quant, out = QuantParams(0.05, -20), QuantParams(0.1, 5)
    table: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ("3x3", (5, 7, 6), (3, 3), {}),
        ("3x3_padded", (3, 5, 6), (3, 3), {"pads": [1, 1, 1, 1]}),
        ("asymmetric", (4, 8, 8), (3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
        ("same_upper", (2, 7, 8), (3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("dilated", (3, 9, 8), (3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
        ("window_beyond", (2, 2, 2), (5, 5), {"pads": [2, 2, 2, 2]}),
        ("1x1_map", (7, 1, 1), (3, 3), {"pads": [1, 1, 1, 1]}),
        ("tall", (6, 15, 1), (10, 1), {}),
        ("wide", (3, 4, 9), (2, 7), {"pads": [0, 2, 1, 3], "dilations": [1, 2]}),
        ("3x3_beyond", (4, 7, 8), (3, 3), {"pads": [1, 1, 2, 2], "strides": [2, 2]}),
        ("many", (130, 2, 3), (2, 2), {}),
        ("1d", (3, 11), (5,), {"pads": [4, 0]}),
        ("3x3_smallest", (130, 2, 3), (3, 3), {"pads": [1, 1, 1, 1]}),
        ("3x3_high", (2, 40, 4), (3, 3), {"pads": [1, 1, 1, 1]}),
        ("3x3_halved", (5, 7, 9), (3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("3x3_halved_valid", (3, 7, 6), (3, 3), {"strides": [2, 2]}),
        ("3x3_halved_smallest", (131, 2, 3), (3, 3), {"pads": [1, 1, 0, 1], "strides": [2, 2]}),
    ]
    for name, shape, kernel, attributes in table:
        attributes = {**attributes, "group": shape[0]}
        weights = (shape[0], 1, *kernel)
        yield singles.weighted(f"depthwise_{name}", "Conv", (1, *shape), weights, 0, quant, out, attributes)
    relu6 = ("Clip", 0.0, 6.0)
    padded = {"group": 3, "pads": [1, 1, 1, 1]}
    yield singles.weighted(
        "depthwise_relu6", "Conv", (1, 3, 4, 4), (3, 1, 3, 3), 0, quant, QuantParams(0.025, -128), padded, relu6
    )


OPERATOR = Operator(
    name="depthwise_conv2d",
    summary="convolution with one filter for each channel",
    onnx=(),
    lower=lower,
    quantization=lambda node: Quantization(weights=1, bias=2, fuses_clamp=True),
    params=DepthwiseConv2DParams,
    reference=reference,
    macs=convolution.depthwise_macs,
    bounds=bounds,
    channels=tied(divides_window, _without),
    slides=by_window,
    rows=lambda view, count, together: by_rows(view, count, together, view.params.input_zero_point),
    kernels=(
        Kernel(
            "assembly",
            depthwise_armv6m.render,
            depthwise_armv6m.supports,
            depthwise_armv6m.scratch,
            depthwise_armv6m.trips,
            overlap=depthwise_armv6m.over,
        ),
        Kernel(
            "smlad",
            smlad_depthwise.render,
            smlad_depthwise.supports,
            smlad_depthwise.scratch,
            smlad_depthwise.trips,
            outruns_library=smlad.outruns_library,
            overlap=smlad_depthwise.over,
        ),
        Kernel(
            "mla",
            smlad_depthwise.render,
            smlad_depthwise.supports_mla,
            smlad_depthwise.scratch,
            smlad_depthwise.trips,
            overlap=smlad_depthwise.over,
        ),
        Kernel(
            "mve",
            mve_depthwise.render,
            mve_depthwise.supports,
            mve_depthwise.scratch,
            mve_depthwise.trips,
            outruns_library=mve.outruns_library,
            overlap=mve_depthwise.over,
        ),
        Kernel("direct", render, scratch=scratch, trips=trips, overlap=over),
        cmsis_nn.DEPTHWISE,
    ),
    cases=cases,
)
