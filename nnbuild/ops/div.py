"""Quotient of two values, or of a value and a constant, with broadcasting. ONNX Div; TensorFlow Lite DIV.

Cortex-M0 cannot divide, and an int8 divisor has 256 values: a table holds the multiplier of the output's scale for each
of them, so that a quotient is one requantization. Next to zero quotients saturate; 0 / 0 is 0.

A constant divisor is mostly gone before: it went into weights, or became the other factor of a Mul. With one constant
number as numerator Div is a function of its divisor, and so a table (`lookup`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.lower import Constant, Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import broadcast, lookup
from nnbuild.ops.mul import MAX_MULTIPLIER
from nnbuild.target import Target

FINER = 2**20
"""What the numerator is multiplied by before it is scaled: so rounding twice is hardly more than rounding once."""


@dataclass(frozen=True, slots=True)
class DivParams:
    """Integers of one quotient.

    Where only one input is computed, the other is the constant `operand` (int8). `divisor` says which of the two in
    `loops` is divided by. Constants: `multiplier` (int32) and `shift` (int8) of 1 / (FINER * |divisor|), indexed by
    divisor + 128.
    """

    loops: broadcast.Loops
    divisor: int
    zero_points: tuple[int, int]
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Div(a, b); at least one of them is computed."""
    first, second = broadcast.operand(ctx, node, 0), broadcast.operand(ctx, node, 1)
    shape = broadcast.shape_of(second)
    if isinstance(first, Constant) and first.values.size == 1 and first.values.ndim <= len(shape):
        _reciprocal(ctx, node, float(first.real().ravel()[0]))
        return
    walk = broadcast.pair(ctx, node, first, second)
    output = ctx.output(node)
    divisor = 0 if walk.swapped else 1
    ratio = walk.quants[1 - divisor].scale / (walk.quants[divisor].scale * output.quant.scale)
    distances = np.abs(np.arange(INT8_MIN, INT8_MAX + 1) - walk.quants[divisor].zero_point)
    pairs = [
        fixedpoint.quantize_multiplier((min(ratio / distance, MAX_MULTIPLIER) if distance else MAX_MULTIPLIER) / FINER)
        for distance in distances.tolist()
    ]
    params = DivParams(
        loops=walk.loops,
        divisor=divisor,
        zero_points=(walk.quants[0].zero_point, walk.quants[1].zero_point),
        output_zero_point=output.quant.zero_point,
        activation_min=output.activation_min,
        activation_max=output.activation_max,
    )
    constants = {
        **walk.constants,
        "multiplier": np.array([multiplier for multiplier, _ in pairs], np.int32),
        "shift": np.array([shift for _, shift in pairs], np.int8),
    }
    name = ctx.layer("div", walk.inputs, walk.shape, output.quant, params, constants, node)
    ctx.define(output.value, name, walk.index)


def _reciprocal(ctx: Lowering, node: onnx.NodeProto, numerator: float) -> None:
    """A constant number divided by a value."""
    activation, output = ctx.activation(node, 1), ctx.output(node)

    def quotient(x: float) -> float:
        return numerator / x if x else numerator * math.inf if numerator else 0.0

    limits = output.activation_min, output.activation_max
    values = lookup.table(quotient, ctx.quant(activation), output.quant, *limits)
    lookup.add(ctx, node, activation, output.quant, values, output.value)


def reference(params: DivParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """Two int8 arrays (the second may be the constant), flat -> int8, flat."""
    operands = broadcast.gathered(params.loops, constants, inputs)
    by, zero = operands[params.divisor], params.zero_points[params.divisor]
    value = FINER * (operands[1 - params.divisor] - params.zero_points[1 - params.divisor])
    signed = np.where(by < zero, -value, value)
    scaled = fixedpoint.requantize(signed, constants["multiplier"][by + 128], constants["shift"][by + 128])
    return fixedpoint.saturate(scaled + params.output_zero_point, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """One loop for each of `loops`; two loads and one requantization for each element."""
    params = view.params
    zeros = {"value_zero": params.zero_points[1 - params.divisor], "divisor_zero": params.zero_points[params.divisor]}
    source = broadcast.source(view, "div.c.j2", finer=FINER, **zeros)
    table = {name: view.constants[name] for name in ("multiplier", "shift")}
    return Source(source.template, source.values, {**source.data, **table})


def cases() -> Iterable[Case]:
    """Positive divisors, divisors around zero, broadcasting either way, constants, memory orders, saturation."""
    from nnbuild.ops import singles

    a, b, out = QuantParams(0.05, -7), QuantParams(0.021, 19), QuantParams(0.055, 3)
    positive, shape, last = QuantParams(0.02, -128), (1, 3, 4, 5), (0, 3, 1, 2)
    yield singles.several("div_positive", "Div", [(1, 300), (1, 300)], [a, positive], out)
    yield singles.several("div_both_signs", "Div", [(1, 300), (1, 300)], [a, b], out, ("Clip", -3.0, 5.0))
    yield singles.several("div_saturates", "Div", [(1, 300), (1, 300)], [a, b], QuantParams(1e-9, 5))
    yield singles.several("div_tiny", "Div", [(1, 31), (1, 31)], [QuantParams(1e-6, 3), b], out)
    yield singles.several("div_halves", "Div", [(1, 64), (1, 64)], [QuantParams(0.5, 1)] * 2, QuantParams(0.5, 2))
    yield singles.several("div_rows", "Div", [(1, 4, 6), (1, 4, 1)], [a, positive], out, ("Relu",))
    yield singles.several("div_wide_divisor", "Div", [(1, 3, 1, 1), shape], [a, positive], out)
    yield singles.several("div_last", "Div", [(1, 4, 5, 3), (1, 3, 1, 1)], [a, positive], out, orders=[last])
    constant = np.arange(-30, 30, dtype=np.int8).reshape(shape)
    yield singles.several("div_by_constant", "Div", [shape, constant], [a, b], out)
    yield singles.several("div_constant_by", "Div", [constant[:, :, :1, :1], shape], [a, positive], out)
    yield singles.several("div_number_by", "Div", [np.array(50, np.int8), (1, 256)], [a, b], QuantParams(0.1, 0))
    yield singles.repeated("div_by_itself", "Div", (1, 256), 2, a, out)


OPERATOR = Operator(
    name="div",
    summary="quotient of two values, or of a value and a constant",
    onnx=("Div",),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True),
    params=DivParams,
    reference=reference,
    inplace=broadcast.inplace,
    slides=broadcast.slides,
    kernels=(Kernel("direct", render, trips=broadcast.trips),),
    cases=cases,
)
