"""Pad with a constant, where no convolution takes it. ONNX Pad (mode constant); TensorFlow Lite PADV2."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import layout, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, SameAsInput, Source
from nnbuild.intervals import monotone
from nnbuild.kernels import cmsis_nn
from nnbuild.lower import Activation, Lowering, Output
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import lookup
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class PadParams:
    """(height, width, channels) in and out, elements in front of each axis, and the value around the input."""

    input: tuple[int, int, int]
    output: tuple[int, int, int]
    before: tuple[int, int, int]
    fill: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Pad; a fill other than zero must keep the scale. Where the output has another, or a clamp, a table follows."""
    if qdq.attribute(node, "mode", "constant") != "constant":
        raise ctx.refuse(node, "only constant padding is supported", "pad with zeros")
    activation = ctx.activation(node)
    quant = ctx.quant(activation)
    real, kept = _fill(ctx, node, quant)
    output = ctx.output(node, default=quant if kept else None)
    if output.quant != quant and not kept:
        raise ctx.refuse(node, "its output has another scale than its input", "give both the same")
    pads = _pads(ctx, node, activation.index.ndim)
    rank = activation.index.ndim
    if any(pad < 0 for pad in pads) or pads[0] or pads[rank]:
        raise ctx.refuse(node, "negative pads and pads of the batch are not supported", "slice instead")
    fill = qdq.quantized_bound(real, quant)
    before, after = list(pads[1:rank]), list(pads[rank + 1 :])
    index = activation.index[0]
    if rank in (3, 4):
        index = np.moveaxis(index, 0, -1)
        before, after = [*before[1:], before[0]], [*after[1:], after[0]]
    if rank > 4:
        raise ctx.refuse(node, f"{rank} dimensions are not supported", "at most 4")
    tensor = ctx.arrange(activation, index, node, index.shape)
    missing = [1] * (3 - index.ndim)
    shape = [*missing, *index.shape]
    before, after = [*([0] * len(missing)), *before], [*([0] * len(missing)), *after]
    padded = [n + b + a for n, b, a in zip(shape, before, after, strict=True)]
    params = PadParams(_triple(shape), _triple(padded), _triple(before), fill)
    result_shape = tuple(padded[len(missing) :])
    name = ctx.layer("pad", (tensor,), result_shape, quant, params, {}, node)
    result = layout.contiguous((1, *result_shape))
    padding = Activation(name, np.moveaxis(result, -1, 1) if rank in (3, 4) else result)
    if output == Output(output.value, quant, INT8_MIN, INT8_MAX):
        ctx.define(output.value, padding.tensor, padding.index)
        return
    values = lookup.rescaling(quant, output.quant, output.activation_min, output.activation_max)
    lookup.add(ctx, node, padding, output.quant, values, output.value)


def _fill(ctx: Lowering, node: onnx.NodeProto, quant: QuantParams) -> tuple[float, bool]:
    """The real value around the input, and whether the input's scale holds it exactly.

    Around integers as they are stored, which onnxruntime's QOperator format pads, stands such an integer.
    """
    value = ctx.constant(node, 2)
    fill = float(value.real().ravel()[0]) if value is not None else float(qdq.attribute(node, "value", 0.0))
    kind = ctx.types.get(node.input[0])
    if kind in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8):
        offset = 128 if kind == onnx.TensorProto.UINT8 else 0
        return quant.scale * (fill - offset - quant.zero_point), True
    return fill, fill == 0.0


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    height, width, channels = (int(value) for value in values)
    return height, width, channels


def _pads(ctx: Lowering, node: onnx.NodeProto, rank: int) -> list[int]:
    """All begins, then all ends: an attribute up to opset 10, an input later, with optional axes from opset 18."""
    given = ctx.constant(node, 1)
    if given is None:
        pads = qdq.attribute(node, "pads", None)
        if pads is None:
            raise ctx.refuse(node, "its pads are not constant", "export with constant pads")
        return [int(pad) for pad in pads]
    pads = [int(pad) for pad in given.values.ravel()]
    chosen = ctx.constant(node, 3)
    if chosen is None:
        return pads
    full = [0] * 2 * rank
    axes = [int(axis) % rank for axis in chosen.values.ravel()]
    for position, axis in enumerate(axes):
        full[axis], full[rank + axis] = pads[position], pads[len(axes) + position]
    return full


def reference(params: PadParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 -> the padded shape, int8."""
    output = np.full(params.output, params.fill, np.int8)
    place = tuple(slice(b, b + n) for b, n in zip(params.before, params.input, strict=True))
    output[place] = inputs[0].reshape(params.input)
    return output


def render(view: LayerView, target: Target) -> Source:
    """Fill, then copy rows."""
    return Source(template="pad.c.j2", values={"p": view.params, "size": math.prod(view.params.output)})


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The fill, the rows and the pixels copied."""
    rows, columns, channels = view.params.input
    return {"output": view.output.size, "row": rows, "pixel": rows * columns, "input": rows * columns * channels}


def cases() -> Iterable[Case]:
    """Space, channels, one axis, a value other than zero."""
    from nnbuild.ops import singles

    quant = QuantParams(0.05, -20)
    yield singles.pad("pad_space", (1, 3, 4, 5), [0, 0, 1, 2, 0, 0, 3, 0], 0.0, quant)
    yield singles.pad("pad_channels", (1, 3, 4, 5), [0, 1, 0, 0, 0, 2, 0, 0], 0.0, quant)
    yield singles.pad("pad_value", (1, 3, 7), [0, 0, 2, 0, 0, 1], 1.5, quant)
    yield singles.pad("pad_vector", (1, 9), [0, 2, 0, 3], -0.7, quant)


OPERATOR = Operator(
    name="pad",
    summary="a border of one value, where no convolution takes it",
    onnx=("Pad",),
    lower=lower,
    quantization=lambda node: Quantization(output=SameAsInput(), parameters=frozenset((1, 2, 3))),
    params=PadParams,
    reference=reference,
    bounds=monotone(reference),
    kernels=(Kernel("direct", render, trips=trips), cmsis_nn.PAD),
    cases=cases,
)
