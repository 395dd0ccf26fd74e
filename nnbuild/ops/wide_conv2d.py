"""Convolutions and matrix products with 16-bit activations: int16 input, int16 output, or both; weights stay int8.

`conv2d` and `fully_connected` lower to it. A matrix product is a window of 1x1 over a map with one row of pixels. Sums
are 32 bits, proved for any input; they become outputs by one product that is rounded once (`fixedpoint.scale_upper`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Overlap, Quantization, Source
from nnbuild.kernels import dual, horner, horner_armv6m, packed_armv6m, smlad
from nnbuild.lower import Lowering, Output
from nnbuild.network import Array, QuantParams
from nnbuild.ops import channels, convolution
from nnbuild.ops.spatial import Window
from nnbuild.placeholder import packed
from nnbuild.ram import overlap
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class WideConv2DParams:
    """Integers of one layer. Constants: weights OHWI int8; bias and multiplier int32 by channel.

    An output of `bits` is (sum * 2^left) * multiplier / 2^32, halves up, plus its zero point, clamped.
    """

    window: Window
    channels: int
    groups: int
    left: int
    bits: int
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True, slots=True)
class Weighted:
    """What a node with weights computes: int8 weights OHWI over a window, and int32 biases, both of scale `scales`."""

    window: Window
    groups: int
    weights: Array
    bias: Array
    scales: Array


def add(
    ctx: Lowering,
    node: onnx.NodeProto,
    tensor: str,
    of: Weighted,
    output: Output,
    shape: tuple[int, ...] = (),
) -> str:
    """The layer over `tensor`; its output has the window's shape, or `shape`."""
    integers, constants = scaled(ctx, node, tensor, of, output)
    params = WideConv2DParams(channels=len(of.weights), groups=of.groups, **integers)
    constants["weights"] = packed(of.weights)
    shape = shape or (*of.window.output, len(of.weights))
    return ctx.layer("wide_conv2d", (tensor,), shape, output.quant, params, constants, node)


def scaled(
    ctx: Lowering, node: onnx.NodeProto, tensor: str, of: Weighted, output: Output
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The parameters that depthwise layers have as well, and the constants besides weights."""
    quant = ctx.tensors[tensor].quant
    reach = channels.accumulators(ctx, node, of.weights.reshape(len(of.weights), -1), of.bias, quant)
    left, multipliers = channels.upper_multipliers(of.scales, output.quant, reach)
    integers = {
        "window": of.window,
        "left": left,
        "bits": 16 if output.quant.wide else 8,
        "input_zero_point": quant.zero_point,
        "output_zero_point": output.quant.zero_point,
        "activation_min": output.activation_min,
        "activation_max": output.activation_max,
    }
    return integers, {"bias": of.bias, **multipliers}


def reference(params: WideConv2DParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 or int16 -> (out height, out width, out channels) int8 or int16."""
    sums = convolution.sums(params, constants, inputs[0])
    scaled = fixedpoint.scale_upper(sums, constants["multiplier"], params.left) + params.output_zero_point
    return fixedpoint.saturate_as(f"int{params.bits}", scaled, params.activation_min, params.activation_max)


def scratch(view: LayerView, target: Target) -> int:
    """One patch: the values under a window."""
    return int(view.params.window.patch * np.dtype(view.inputs[0].dtype).itemsize)


def render(view: LayerView, target: Target) -> Source:
    """Dot products over windows, channel by channel."""
    return Source("wide_conv2d.c.j2", dual.values(view), {"weights": view.constants["weights"], **_own(view)})


def _own(view: LayerView) -> dict[str, Array]:
    """Multipliers, and biases times 2^left with the input's zero point in them."""
    params, constants = view.params, view.constants
    flat = constants["weights"].reshape(params.channels, -1)
    return channels.upper_constants(params, flat, constants)


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Pixel by pixel, whatever of a window is copied."""
    return {0: overlap.by_pixels(view.params.window, view.params.channels, view.sizes)}


def cases() -> Iterable[Case]:
    """Every mix of types, odd channels, every kind of padding, groups, dilation, products, clamps, saturation."""
    from nnbuild.ops import singles

    narrow, out = QuantParams(0.05, -20), QuantParams(0.3, 5)
    wide, wide_out = QuantParams(0.0002, 0, "int16"), QuantParams(0.001, 0, "int16")
    relu = {"clamp": ("Relu",)}
    types = {"16_8": (wide, out), "16_16": (wide, wide_out), "8_16": (narrow, wide_out)}
    table: list[tuple[str, str, tuple[int, ...], tuple[int, ...], int, dict[str, Any], dict[str, Any]]] = [
        ("1x1", "Conv", (1, 5, 4, 3), (7, 5, 1, 1), 0, {}, {}),
        ("1x1_strided", "Conv", (1, 6, 5, 5), (3, 6, 1, 1), 0, {"strides": [2, 2]}, {}),
        ("3x3_padded", "Conv", (1, 3, 5, 6), (4, 3, 3, 3), 0, {"pads": [1, 1, 1, 1]}, relu),
        ("3x3_even", "Conv", (1, 4, 6, 5), (6, 4, 3, 3), 0, {"pads": [0, 0, 1, 1], "strides": [2, 2]}, {}),
        ("dilated", "Conv", (1, 2, 9, 8), (3, 2, 3, 3), 0, {"dilations": [2, 3], "pads": [2, 3, 2, 3]}, {}),
        ("grouped", "Conv", (1, 6, 5, 5), (9, 2, 3, 3), 0, {"group": 3, "pads": [1, 0, 1, 2]}, {}),
        ("10x4", "Conv", (1, 1, 12, 10), (5, 1, 10, 4), 0, {"pads": [4, 1, 5, 1], "strides": [2, 2]}, relu),
        ("beyond", "Conv", (1, 2, 2, 2), (3, 2, 5, 5), 0, {"pads": [2, 2, 2, 2]}, {}),
        ("1d", "Conv", (1, 3, 11), (5, 3, 3), 0, {"pads": [2, 0], "strides": [2]}, {}),
        ("deep", "Conv", (1, 20, 3, 3), (6, 20, 2, 2), 0, {}, {"bias": False}),
        ("gemm", "Gemm", (1, 13), (7, 13), 0, {"transB": 1}, {}),
        ("gemm_even", "Gemm", (1, 16), (12, 16), 0, {"transB": 1}, relu),
        ("rows", "MatMul", (1, 4, 6), (6, 5), 1, {}, {"bias": False}),
        ("1x1_of_1", "Conv", (1, 1, 3, 4), (5, 1, 1, 1), 0, {"pads": [1, 0, 0, 1]}, {}),
        ("column_of_2", "Conv", (1, 2, 6, 4), (6, 2, 3, 1), 0, {"pads": [1, 0, 1, 0]}, {}),
        ("column_of_3", "Conv", (1, 3, 5, 3), (7, 3, 2, 1), 0, {"pads": [0, 0, 1, 1]}, {}),
    ]
    for key, (source, target) in types.items():
        rows = {"16_8": table[1::2], "16_16": table, "8_16": table[::2]}[key]
        for name, kind, shape, weights, axis, attributes, rest in rows:
            label = f"wide_{name}_{key}"
            yield singles.weighted(label, kind, shape, weights, axis, source, target, attributes, **rest)
    hard = QuantParams(1 / 32768, 0, "int16")
    clip = ("Clip", -0.75, 0.75)
    yield singles.weighted("wide_hardtanh", "Gemm", (1, 64), (16, 64), 0, wide, hard, {"transB": 1}, clip)


OPERATOR = Operator(
    name="wide_conv2d",
    summary="convolution or matrix product with 16-bit activations",
    onnx=(),
    lower=lambda ctx, node: None,
    quantization=lambda node: Quantization(weights=1, bias=2, fuses_clamp=True, wide=True),
    params=WideConv2DParams,
    reference=reference,
    macs=convolution.macs,
    kernels=(
        Kernel(
            "assembly",
            horner_armv6m.wide,
            horner_armv6m.supports_conv2d,
            horner_armv6m.scratch,
            horner_armv6m.conv2d_trips,
            overlap=over,
        ),
        Kernel(
            "packed",
            packed_armv6m.wide,
            packed_armv6m.supports_wide,
            packed_armv6m.scratch,
            packed_armv6m.conv2d_trips,
            overlap=over,
        ),
        Kernel(
            "smlad",
            smlad.wide,
            smlad.supports_conv2d,
            smlad.scratch,
            smlad.conv2d_trips,
            outruns_library=smlad.outruns_library,
            overlap=smlad.over,
        ),
        Kernel("dual", dual.conv2d, dual.supports_conv2d, dual.conv2d_scratch, dual.conv2d_trips, overlap=dual.over),
        Kernel("horner", horner.wide, horner.supports_conv2d, scratch, horner.conv2d_trips, overlap=over),
        Kernel("direct", render, scratch=scratch, trips=convolution.trips, overlap=over),
    ),
    cases=cases,
)
