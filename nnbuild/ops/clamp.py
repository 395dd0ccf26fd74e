"""A clamp that stands alone: two compares. Behind a layer it is part of that layer and costs nothing.

ONNX Relu, Clip, Min and Max with a scalar constant; HardTanh reaches ONNX as Clip(-1, 1). Any other Min or Max is
`minimum` or `maximum`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from nnbuild import fixedpoint, layout, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, SameAsInput, Source, tied
from nnbuild.intervals import monotone
from nnbuild.lower import Activation, Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.ops import extremum, lookup, maximum, minimum, rescale
from nnbuild.streams.sliding import by_element
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class ClampParams:
    """Elements, and the bounds as stored."""

    size: int
    low: int
    high: int


_CHOICES = {"Min": minimum.OPERATOR, "Max": maximum.OPERATOR}


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """A clamp with the scale of its input is two compares; with another scale it is a table.

    Min and Max of something else than one number are for `minimum` and `maximum`.
    """
    bounds = qdq.clamp_bounds(node, ctx.known)
    if bounds is None and node.op_type in _CHOICES:
        _CHOICES[node.op_type].lower(ctx, node)
        return
    if bounds is None:
        raise ctx.refuse(node, "its bounds are not scalar constants", "only clamps are supported")
    activation = ctx.activation(node, wide=True)
    quant = ctx.quant(activation)
    output = ctx.output(node, default=quant, wide=True)
    if quant != output.quant:
        low, high = bounds
        if quant.wide or output.quant.wide:
            ends = [qdq.quantized_bound(end, output.quant) for end in bounds]
            limits = max(ends[0], output.activation_min), min(ends[1], output.activation_max)
            rescale.add(ctx, node, activation, output.quant, limits, output.value)
            return
        values = lookup.table(
            lambda x: min(max(x, low), high), quant, output.quant, output.activation_min, output.activation_max
        )
        lookup.add(ctx, node, activation, output.quant, values, output.value)
        return
    low_q = max(qdq.quantized_bound(bounds[0], quant), output.activation_min)
    high_q = min(qdq.quantized_bound(bounds[1], quant), output.activation_max)
    tensor = ctx.tensors[activation.tensor]
    if activation.index.size != tensor.size:
        name = ctx.arrange(activation, activation.index, node, activation.shape)
        activation, tensor = Activation(name, layout.contiguous(activation.shape)), ctx.tensors[name]
    params = ClampParams(tensor.size, min(low_q, high_q), high_q)
    name = ctx.layer("clamp", (activation.tensor,), tensor.shape, quant, params, {}, node)
    ctx.define(output.value, name, activation.index)


def reference(params: ClampParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """int8 or int16 -> the same type, any shape."""
    return fixedpoint.saturate_as(str(inputs[0].dtype), inputs[0], params.low, params.high)


def render(view: LayerView, target: Target) -> Source:
    """Two compares for each element."""
    return Source(template="clamp.c.j2", values={"p": view.params, "type": f"{view.output.dtype}_t"})


def quantization(node: onnx.NodeProto) -> Quantization:
    """A clamp keeps its input's scale. Clamps by Min and Max became Clip on import, so those left choose."""
    own = Quantization(SameAsInput(), parameters=frozenset((1, 2)), wide=True)
    return extremum.QUANTIZATION if node.op_type in _CHOICES else own


def cases() -> Iterable[Case]:
    """HardTanh in its forms, ReLU, bounds beyond int8, another output scale."""
    from nnbuild.ops import singles

    quant = QuantParams(0.02, 11)
    yield singles.clamp("clamp_hardtanh", ("Clip", -1.0, 1.0), (1, 256), quant, quant)
    yield singles.clamp("clamp_relu", ("Relu",), (1, 3, 5, 7), quant, quant)
    yield singles.clamp("clamp_max", ("Max", -0.5), (1, 256), quant, quant)
    yield singles.clamp("clamp_min", ("Min", 0.5), (1, 256), quant, quant)
    yield singles.clamp("clamp_wide", ("Clip", -100.0, 100.0), (1, 256), quant, quant)
    wide = QuantParams(0.0002, 0, "int16")
    yield singles.clamp("clamp_int16", ("Clip", -1.0, 1.0), (1, 700), wide, wide)
    yield singles.clamp("clamp_int16_narrower", ("Clip", -1.0, 1.0), (1, 700), wide, quant)
    yield singles.clamp("clamp_rescaled", ("Clip", -1.0, 1.0), (1, 256), quant, QuantParams(0.0078125, 0))


OPERATOR = Operator(
    name="clamp",
    summary="limits, where no layer in front takes them",
    onnx=("Relu", "Clip", "Min", "Max"),
    lower=lower,
    quantization=quantization,
    params=ClampParams,
    reference=reference,
    bounds=monotone(reference),
    channels=tied(lookup.divides, lookup.without),
    rows=lookup.by_rows,
    copies=lambda view, inputs: inputs[0].within(view.params.low, view.params.high),
    inplace=lambda view: (0,),
    slides=by_element,
    kernels=(Kernel("direct", render),),
    cases=cases,
)
