"""Sum or difference where an operand or the result is int16; `add` lowers to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, layout
from nnbuild.contract import Case, Kernel, LayerView, Operator, Overlap, Quantization, Source
from nnbuild.intervals import corners
from nnbuild.lower import Lowering, Output
from nnbuild.network import Array, QuantParams
from nnbuild.ops import broadcast
from nnbuild.ram import overlap
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class WideAddParams:
    """An output of `bits` is (a * factors[0] + b * factors[1] + offset) >> shift, all in 32 bits, clamped.

    Where only one input is computed, the other is the constant `operand` (int8).
    """

    loops: broadcast.Loops
    bits: int
    factors: tuple[int, int]
    offset: int
    shift: int
    activation_min: int
    activation_max: int


def add(ctx: Lowering, node: onnx.NodeProto, walk: broadcast.Pair, signs: tuple[int, int], output: Output) -> str:
    """The layer over both operands; `signs` say which is subtracted."""
    terms = [(quant, float(sign)) for quant, sign in zip(walk.quants, signs, strict=True)]
    plane = fixedpoint.plane(terms, output.quant)
    params = WideAddParams(
        loops=walk.loops,
        bits=16 if output.quant.wide else 8,
        factors=(plane.factors[0], plane.factors[1]),
        offset=plane.offset,
        shift=plane.shift,
        activation_min=output.activation_min,
        activation_max=output.activation_max,
    )
    return ctx.layer("wide_add", walk.inputs, walk.shape, output.quant, params, walk.constants, node)


def reference(params: WideAddParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """Two arrays of int8 or int16 (the second may be the constant), flat -> int8 or int16, flat."""
    first, second = broadcast.gathered(params.loops, constants, inputs)
    scaled = first * params.factors[0] + second * params.factors[1] + params.offset >> params.shift
    return fixedpoint.saturate_as(f"int{params.bits}", scaled, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """Two products and a shift for each element."""
    return broadcast.source(view, "wide_add.c.j2", result=f"{view.output.dtype}_t")


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Element by element, over either operand, as the loops come by it."""
    return {
        position: overlap.by_elements(
            layout.visit(view.params.loops, position), tensor.bytes, (tensor.element_bytes, view.output.element_bytes)
        )
        for position, tensor in enumerate(view.inputs)
    }


def cases() -> Iterable[Case]:
    """Every mix of types, equal shapes, broadcast values and constants, saturation."""
    from nnbuild.ops import singles

    narrow, wide = QuantParams(0.05, -7), QuantParams(0.0002, 0, "int16")
    other, out, wide_out = QuantParams(0.0003, 0, "int16"), QuantParams(0.06, 3), QuantParams(0.0004, 0, "int16")
    same = [(1, 5, 3, 4), (1, 5, 3, 4)]
    yield singles.several("wide_add_16_16_16", "Add", same, [wide, other], wide_out)
    yield singles.several("wide_add_16_16_8", "Add", same, [wide, other], out, clamp=("Relu",))
    yield singles.several("wide_add_8_16_8", "Add", same, [narrow, other], out)
    yield singles.several("wide_add_8_8_16", "Add", same, [narrow, narrow], wide_out, clamp=("Relu",))
    yield singles.several("wide_sub_16_8_16", "Sub", same, [wide, narrow], wide_out)
    fine = QuantParams(0.00001, 0, "int16")
    yield singles.several("wide_add_saturates", "Add", [(1, 33), (1, 33)], [wide, wide], fine)
    yield singles.several("wide_add_channels", "Add", [(1, 3, 4, 5), (1, 3, 1, 1)], [wide, narrow], wide_out)
    constant = np.arange(-30, 30, dtype=np.int8).reshape(1, 3, 4, 5)
    yield singles.several("wide_add_constant", "Add", [(1, 3, 4, 5), constant], [wide, narrow], wide_out)
    yield singles.several("wide_sub_from_constant", "Sub", [constant, (1, 3, 4, 5)], [narrow, wide], out)


OPERATOR = Operator(
    name="wide_add",
    summary="sum or difference with 16-bit activations",
    onnx=(),
    lower=lambda ctx, node: None,
    quantization=lambda node: Quantization(fuses_clamp=True, wide=True),
    params=WideAddParams,
    reference=reference,
    bounds=corners(reference),
    inplace=broadcast.inplace,
    kernels=(Kernel("direct", render, trips=broadcast.trips, overlap=over),),
    cases=cases,
)
