"""ConvTranspose with one or two spatial axes, any stride and padding: every output gathers the inputs that reach it.

ONNX ConvTranspose; TensorFlow Lite TRANSPOSE_CONV. An output at o reads tap k of input i where
o + pad = i * stride + k, so nothing is multiplied by the zeros that a stride puts between inputs. Dilation puts zeros
between the weights; with a stride of 1 there are none, since that is a Conv (see `nnbuild.passes.conv_form`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from nnbuild import fixedpoint, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.lower import Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.ops import channels
from nnbuild.ops.spatial import Pair
from nnbuild.placeholder import packed
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class ConvTransposeParams:
    """Integers of one layer. Constants: weights OHWI int8, bias, multiplier int32 and shift int8 by channel.

    All pairs are (vertical, horizontal); `pad` is what is cut off in front of the full output. Each of `groups` reads
    an equal share of the input's channels, I of the weights, and writes one of the output's.
    """

    input: tuple[int, int, int]
    output: Pair
    kernel: Pair
    stride: Pair
    pad: Pair
    channels: int
    groups: int
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int

    @property
    def depth(self) -> int:
        """Input channels that an output reads."""
        return self.input[2] // self.groups

    @property
    def starts(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """For each axis the last input that reaches the first output, and by which tap."""
        return divmod(self.pad[0], self.stride[0]), divmod(self.pad[1], self.stride[1])

    def reached(self, axis: int) -> int:
        """Pairs of an output and an input that reaches it along one axis."""
        spots = np.arange(self.output[axis])[:, None] + self.pad[axis] - np.arange(self.kernel[axis])
        inside = (spots % self.stride[axis] == 0) & (spots >= 0) & (spots // self.stride[axis] < self.input[axis])
        return int(inside.sum())


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """ConvTranspose(x, W, b) with W known."""
    activation, known = ctx.activation(node), ctx.constant(node, 1)
    axis = 1 if known is None else weight_axis(node, known.values.shape)
    weights, weight_scales = channels.weights(ctx, node, 1, axis)
    if weights.ndim not in (3, 4):
        raise ctx.refuse(node, f"{weights.ndim - 2} spatial axes are not supported", "one or two")
    tensor, shape = ctx.channels_last(activation, node)
    if shape[2] != weights.shape[0]:
        raise ctx.refuse(node, f"{shape[2]} input channels do not fit weights for {weights.shape[0]}")
    groups = int(qdq.attribute(node, "group", 1))
    if shape[2] % groups:
        raise ctx.refuse(node, f"{shape[2]} input channels do not fit {groups} groups")
    ohwi = _ohwi(weights, groups, qdq.attribute(node, "dilations", [1] * (weights.ndim - 2)))
    output, kernel, stride, pad = _geometry(ctx, node, shape, ohwi.shape[1 if weights.ndim == 4 else 2 : 3])
    quant = ctx.quant(activation)
    scales = np.float64(quant.scale) * (weight_scales if axis == 0 else np.tile(weight_scales, groups))
    bias = channels.bias(ctx, node, 2, scales)
    reach = channels.accumulators(ctx, node, ohwi.reshape(len(ohwi), -1), bias, quant)
    out = ctx.output(node)
    rest = (quant.zero_point, out.quant.zero_point, out.activation_min, out.activation_max)
    params = ConvTransposeParams(shape, output, kernel, stride, pad, len(ohwi), groups, *rest)
    constants = {"weights": packed(ohwi), "bias": bias, **channels.multipliers(scales, out.quant, reach)}
    name = ctx.layer("conv_transpose", (tensor,), (*output, len(ohwi)), out.quant, params, constants, node)
    ctx.define_spatial(out.value, name, weights.ndim)


def weight_axis(node: onnx.NodeProto, shape: Sequence[int]) -> int:
    """The axis of weights (inputs, outputs of a group, ...) along which scales may differ.

    That is 1, and the groups share them; but where each channel is a group of its own, channels count along axis 0.
    """
    return 0 if shape[1] == 1 and shape[0] == qdq.attribute(node, "group", 1) else 1


def _ohwi(weights: Array, groups: int, dilations: Sequence[int]) -> Array:
    """ONNX weights (inputs, outputs of a group, [height,] width) as OHWI, with zeros for dilation."""
    inputs, outputs, *space = weights.shape
    kernel = space if len(space) == 2 else [1, *space]
    grouped = weights.reshape(groups, inputs // groups, outputs, *kernel)
    ohwi = np.moveaxis(grouped, 1, -1).reshape(groups * outputs, *kernel, inputs // groups)
    steps = [1] * (2 - len(dilations)) + [int(step) for step in dilations]
    if steps == [1, 1]:
        return ohwi
    extent = [step * (size - 1) + 1 for size, step in zip(kernel, steps, strict=True)]
    spread = np.zeros((len(ohwi), *extent, ohwi.shape[3]), ohwi.dtype)
    spread[:, :: steps[0], :: steps[1]] = ohwi
    return spread


def _geometry(
    ctx: Lowering, node: onnx.NodeProto, shape: tuple[int, int, int], kernel: Sequence[int]
) -> tuple[Pair, Pair, Pair, Pair]:
    """(output, kernel, stride, pad) as pairs; the height of a value of one spatial axis is 1."""
    axes = len(kernel)
    found = ctx.shapes.get(node.output[0])
    if found is None or len(found) != axes + 2:
        raise ctx.refuse(node, "the shape of its output is not known")
    output, size = found[2:], shape[2 - axes : 2]
    strides = qdq.attribute(node, "strides", [1] * axes)
    pads = list(qdq.attribute(node, "pads", [0] * 2 * axes))
    auto = qdq.attribute(node, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER") or qdq.attribute(node, "output_shape", None):
        extra = qdq.attribute(node, "output_padding", [0] * axes)
        for axis in range(axes):
            total = strides[axis] * (size[axis] - 1) + extra[axis] + kernel[axis] - output[axis]
            pads[axis] = total // 2 if auto == "SAME_UPPER" else total - total // 2
    elif auto == "VALID":
        pads = [0] * 2 * axes
    if any(pad < 0 for pad in pads[:axes]):
        raise ctx.refuse(node, "negative pads are not supported")

    def pair(values: Sequence[int], missing: int) -> Pair:
        return (int(values[0]), int(values[1])) if axes == 2 else (missing, int(values[0]))

    return pair(output, 1), pair(kernel, 1), pair(strides, 1), pair(pads[:axes], 0)


def reference(params: ConvTransposeParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 -> (out height, out width, out channels) int8: scatters, where C gathers."""
    values = inputs[0].reshape(params.input).astype(np.int64) - params.input_zero_point
    grouped = values.reshape(*params.input[:2], params.groups, params.depth)
    weights = constants["weights"].astype(np.int64).reshape(params.groups, -1, *params.kernel, params.depth)
    full = [
        max((size - 1) * stride + kernel, pad + out)
        for size, stride, kernel, pad, out in zip(
            params.input[:2], params.stride, params.kernel, params.pad, params.output, strict=True
        )
    ]
    sums = np.zeros((*full, params.channels), np.int64)
    height, width = params.input[0] * params.stride[0], params.input[1] * params.stride[1]
    for v in range(params.kernel[0]):
        for u in range(params.kernel[1]):
            reached = sums[v : v + height : params.stride[0], u : u + width : params.stride[1]]
            products = np.einsum("yxgi,goi->yxgo", grouped, weights[:, :, v, u])
            reached[: params.input[0], : params.input[1]] += products.reshape(*params.input[:2], params.channels)
    top, left = params.pad
    sums = sums[top : top + params.output[0], left : left + params.output[1]] + constants["bias"]
    scaled = fixedpoint.requantize(sums, constants["multiplier"], constants["shift"]) + params.output_zero_point
    return fixedpoint.saturate(scaled, params.activation_min, params.activation_max)


def macs(view: LayerView) -> int:
    """Multiplications: those of inputs that are there."""
    params = view.params
    return int(params.reached(0) * params.reached(1) * params.depth * params.channels)


def render(view: LayerView, target: Target) -> Source:
    """Dot products over the inputs that reach an output."""
    values = {"p": view.params, "starts": view.params.starts}
    return Source(template="conv_transpose.c.j2", values=values, data=dict(view.constants))


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of conv_transpose.c.j2."""
    params = view.params
    rows = params.reached(0) * params.output[1] * params.channels
    columns = params.reached(0) * params.reached(1) * params.channels
    pixels = params.output[0] * params.output[1]
    return {"pixel": pixels, "output": view.output.size, "row": rows, "column": columns, "mac": macs(view)}


def cases() -> Iterable[Case]:
    """Strides below, at and above the kernel's size, pads, more output than input reaches, one axis, saturation."""
    from nnbuild.ops import singles

    quant, out = QuantParams(0.05, -20), QuantParams(0.3, 5)
    table: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ("3x3", (1, 3, 4, 5), (3, 2, 3, 3), {}),
        ("4x4_twice", (1, 3, 4, 3), (3, 5, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("2x2_twice", (1, 4, 3, 3), (4, 3, 2, 2), {"strides": [2, 2]}),
        ("sparse", (1, 2, 3, 4), (2, 3, 2, 2), {"strides": [3, 3], "output_padding": [1, 2]}),
        ("uneven", (1, 2, 5, 4), (2, 3, 3, 5), {"strides": [1, 2], "pads": [2, 1, 0, 3]}),
        ("same", (1, 2, 4, 5), (2, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ("1d", (1, 3, 7), (3, 4, 4), {"strides": [2], "pads": [1, 1]}),
        ("groups", (1, 6, 3, 4), (6, 2, 3, 2), {"strides": [2, 1], "group": 3}),
        ("groups_1d", (1, 4, 5), (4, 3, 3), {"strides": [2], "group": 2, "output_padding": [1]}),
        ("dilated", (1, 3, 4, 5), (3, 2, 2, 3), {"strides": [2, 3], "dilations": [3, 2], "pads": [1, 2, 0, 1]}),
        ("dilated_1d", (1, 2, 6), (2, 3, 3), {"dilations": [2]}),
        ("same_dilated", (1, 2, 4, 5), (2, 3, 2, 2), {"dilations": [2, 2], "auto_pad": "SAME_UPPER"}),
    ]
    for name, shape, weights, attributes in table:
        yield singles.weighted(f"conv_transpose_{name}", "ConvTranspose", shape, weights, 1, quant, out, attributes)
    each = {"strides": [2, 2], "group": 5}
    yield singles.weighted("conv_transpose_each", "ConvTranspose", (1, 5, 3, 3), (5, 1, 3, 3), 0, quant, out, each)
    sharp, twice, relu = QuantParams(0.02, -128), {"strides": [2, 2]}, ("Relu",)
    yield singles.weighted(
        "conv_transpose_relu", "ConvTranspose", (1, 3, 2, 2), (3, 4, 3, 3), 1, quant, sharp, twice, relu
    )


OPERATOR = Operator(
    name="conv_transpose",
    summary="transposed convolution, 1D and 2D",
    onnx=("ConvTranspose",),
    lower=lower,
    quantization=lambda node: Quantization(weights=1, weight_axis=weight_axis, bias=2, fuses_clamp=True),
    params=ConvTransposeParams,
    reference=reference,
    macs=macs,
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
