"""Sum or difference of two values, or of a value and a constant, with broadcasting.

ONNX Add and Sub; TensorFlow Lite ADD and SUB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.intervals import corners
from nnbuild.kernels import cmsis_nn, mve, mve_add
from nnbuild.lower import Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import broadcast, lookup, wide_add
from nnbuild.target import Target

LEFT_SHIFT = 20
"""Bits that both inputs gain before they are scaled (TensorFlow Lite, `add.cc`)."""
LARGEST_SHIFT = 22
"""Of a sum in one line: outputs of up to 9 bits above it fill 32."""


@dataclass(frozen=True, slots=True)
class AddParams:
    """Integers of one addition.

    Where only one input is computed, the other is the constant `operand` (int8). `signs` (1 or -1) say which of the
    two, scaled, is subtracted.
    """

    loops: broadcast.Loops
    signs: tuple[int, int]
    zero_points: tuple[int, int]
    multipliers: tuple[int, int]
    shifts: tuple[int, int]
    output_multiplier: int
    output_shift: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Add(a, b) or Sub(a, b); at least one of them is computed."""
    if lookup.arithmetic(ctx, node):
        return
    walk = broadcast.pair(ctx, node, *(broadcast.operand(ctx, node, place, wide=True) for place in (0, 1)))
    output = ctx.output(node, wide=True)
    second = -1 if node.op_type == "Sub" else 1
    signs = (second, 1) if walk.swapped else (1, second)
    if any(quant.wide for quant in (*walk.quants, output.quant)):
        name = wide_add.add(ctx, node, walk, signs, output)
        ctx.define(output.value, name, walk.index)
        return
    params = _params(walk, signs, output.quant, output.activation_min, output.activation_max)
    name = ctx.layer("add", walk.inputs, walk.shape, output.quant, params, walk.constants, node)
    ctx.define(output.value, name, walk.index)


def _params(walk: broadcast.Pair, signs: tuple[int, int], output: QuantParams, low: int, high: int) -> AddParams:
    """Scales relative to twice the larger one, as TensorFlow Lite prepares them (`AddParams`, double precision)."""
    scales = [float(np.float32(quant.scale)) for quant in walk.quants]
    twice = 2.0 * max(scales)
    inputs = [fixedpoint.quantize_multiplier(scale / twice) for scale in scales]
    out = fixedpoint.quantize_multiplier(twice / ((1 << LEFT_SHIFT) * float(np.float32(output.scale))), 2**28)
    return AddParams(
        loops=walk.loops,
        signs=signs,
        zero_points=(walk.quants[0].zero_point, walk.quants[1].zero_point),
        multipliers=(inputs[0][0], inputs[1][0]),
        shifts=(inputs[0][1], inputs[1][1]),
        output_multiplier=out[0],
        output_shift=out[1],
        output_zero_point=output.zero_point,
        activation_min=low,
        activation_max=high,
    )


def reference(params: AddParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """Two int8 arrays (the second may be the constant), flat -> int8, flat."""
    return _sums(params, *broadcast.gathered(params.loops, constants, inputs))


def _sums(params: AddParams, first: Array, second: Array) -> Array:
    """Of two int64 arrays of int8 values that broadcast -> int8."""
    scaled = [
        sign * fixedpoint.requantize((values - zero_point) << LEFT_SHIFT, multiplier, shift)
        for values, sign, zero_point, multiplier, shift in zip(
            (first, second),
            params.signs,
            params.zero_points,
            params.multipliers,
            params.shifts,
            strict=True,
        )
    ]
    total = fixedpoint.requantize(scaled[0] + scaled[1], params.output_multiplier, params.output_shift)
    return fixedpoint.saturate(total + params.output_zero_point, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """One loop for each of `loops`."""
    total = {(1, 1): "a + b", (1, -1): "a - b", (-1, 1): "b - a"}[view.params.signs]
    return broadcast.source(view, "add.c.j2", left_shift=LEFT_SHIFT, total=total, line=plane(view.params))


@dataclass(frozen=True, slots=True)
class Plane:
    """Both operands in one sum: (a * factors[0] + b * factors[1] + offset) >> shift, all in 32 bits.

    Where `away`, what is shifted is 1 less for sums below zero and the half is added to it, and `zero_point` is added
    behind the shift: so halves go away from zero.
    """

    factors: tuple[int, int]
    offset: int
    shift: int
    away: bool = False


def plane(params: AddParams) -> Plane | None:
    """The plane that, clamped, equals the reference for all a and b.

    Proved over all 65,536 pairs; None where there are no such integers.
    """
    values = np.arange(INT8_MIN, INT8_MAX + 1)
    first, second = values[:, None], values[None, :]
    expected = _sums(params, first, second).astype(np.int64)
    factors = [
        sign
        * multiplier
        * 2.0 ** (shift + LEFT_SHIFT - 31)
        * params.output_multiplier
        * 2.0 ** (params.output_shift - 31)
        for sign, multiplier, shift in zip(params.signs, params.multipliers, params.shifts, strict=True)
    ]
    low, high = params.activation_min, params.activation_max
    for shift in range(LARGEST_SHIFT, LARGEST_SHIFT - 8, -1):
        m, n = (round(factor * 2**shift) for factor in factors)
        raised = (expected << shift) - first * m - second * n
        # A sum beyond the clamp may be anything beyond it.
        least = raised[expected > low].max(initial=-(2**62))
        most = raised[expected < high].min(initial=2**62) + 2**shift - 1
        offset = int(least + most >> 1)
        if least <= most and (abs(m) + abs(n)) * 128 + abs(offset) < 2**31:
            return Plane((m, n), offset, shift)
        offset = -m * params.zero_points[0] - n * params.zero_points[1]
        sums = first * m + second * n + offset
        rounded = (sums + (1 << shift - 1) - (sums < 0) >> shift) + params.output_zero_point
        fits = (abs(m) + abs(n)) * 128 + abs(offset) + (1 << shift) < 2**31
        if fits and np.array_equal(np.clip(rounded, low, high), expected):
            return Plane((m, n), offset, shift, away=True)
    return None


def cases() -> Iterable[Case]:
    """Equal shapes, broadcast values and constants, mixed memory orders, saturation."""
    from nnbuild.ops import singles

    a, b = QuantParams(0.05, -7), QuantParams(0.021, 19)
    out = QuantParams(0.055, 3)
    yield singles.several("add_same", "Add", [(1, 5, 3, 4), (1, 5, 3, 4)], [a, b], out)
    yield singles.several("add_relu", "Add", [(1, 16), (1, 16)], [a, b], QuantParams(0.06, -128), clamp=("Relu",))
    yield singles.several("add_saturates", "Add", [(1, 33), (1, 33)], [a, a], QuantParams(0.01, 0))
    yield singles.several("add_channels", "Add", [(1, 3, 4, 5), (1, 3, 1, 1)], [a, b], out)
    yield singles.several("add_columns", "Add", [(1, 3, 4, 5), (5,)], [a, b], out)
    yield singles.several("add_outer", "Add", [(1, 3, 1, 1), (1, 1, 4, 5)], [a, b], out)
    yield singles.several("add_tiny_scale", "Add", [(1, 9), (1, 9)], [QuantParams(1e-6, 0), b], b)
    half, whole = QuantParams(0.5, 5), QuantParams(1.0, -3)
    yield singles.several("add_halves", "Add", [(1, 40), (1, 40)], [half, half], whole)
    constant = np.arange(-30, 30, dtype=np.int8).reshape(1, 3, 4, 5)
    yield singles.several("add_constant", "Add", [(1, 3, 4, 5), constant], [a, b], out)
    yield singles.several("add_constant_channel", "Add", [constant[:, :, :1, :1], (1, 3, 4, 5)], [b, a], out)
    last = (0, 3, 1, 2)
    yield singles.several("add_last_and_first", "Add", [(1, 4, 5, 3), (1, 3, 4, 5)], [a, b], out, orders=[last])
    yield singles.several("add_last_channels", "Add", [(1, 4, 5, 3), (1, 3, 1, 1)], [a, b], out, orders=[last])
    yield singles.several("add_wide", "Add", [(1, 4), constant[0, :, 0, :1]], [a, b], out)
    turned = [(0, 3, 1, 2), (0, 2, 3, 1)]
    yield singles.several("add_two_orders", "Add", [(1, 4, 5, 3), (1, 5, 3, 4)], [a, b], out, orders=turned)
    yield singles.several("sub_same", "Sub", [(1, 5, 3, 4), (1, 5, 3, 4)], [a, b], out)
    yield singles.several("sub_swapped", "Sub", [(1, 3, 1, 1), (1, 3, 4, 5)], [a, b], out)
    yield singles.several("sub_constant", "Sub", [(1, 3, 4, 5), constant], [a, b], out)
    yield singles.several("sub_from_constant", "Sub", [constant, (1, 3, 4, 5)], [a, b], out, ("Relu",))


OPERATOR = Operator(
    name="add",
    summary="sum or difference of two values, or of a value and a constant",
    onnx=("Add", "Sub"),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True, wide=True),
    params=AddParams,
    reference=reference,
    bounds=corners(reference),
    channels=broadcast.CHANNELS,
    rows=broadcast.by_rows,
    inplace=broadcast.inplace,
    slides=broadcast.slides,
    kernels=(
        Kernel("mve", mve_add.render, mve_add.supports, trips=mve_add.trips, outruns_library=mve.outruns_library),
        Kernel("direct", render, trips=broadcast.trips, outruns_library=lambda target: not target.mve),
        cmsis_nn.ADD,
    ),
    cases=cases,
)
