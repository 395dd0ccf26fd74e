"""Softmax in fixed point. ONNX Softmax; TensorFlow Lite SOFTMAX (reference kernel, int8 to int8, beta 1).

Differences to the maximum in Q5.26, exponentials in Q0.31, their sum in Q12.19, a reciprocal by three Newton steps,
output scale 1/256 and zero point -128. A difference is one of 256 values, so the exponentials are a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, layout, qdq
from nnbuild.contract import Case, Fixed, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.fixedpoint import divide_by_power_of_two, multiply_high
from nnbuild.kernels import cmsis_nn
from nnbuild.lower import Activation, Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import lookup, wide_softmax
from nnbuild.streams.sliding import by_depth
from nnbuild.target import Target

OUTPUT = QuantParams(1 / 256, -128)
INTEGER_BITS = 5
ACCUMULATION_BITS = 12
MAX_DEPTH = 4096
"""Q12.19 holds the sum of so many exponentials."""


@dataclass(frozen=True, slots=True)
class SoftmaxParams:
    """`rows` of `depth` values. Constant `exponential`: int32 Q0.31 of difference -i; differences beyond it are 0.

    The table follows from `multiplier` and `shift`, which take a difference to Q5.26, and `difference_min`.
    """

    rows: int
    depth: int
    multiplier: int
    shift: int
    difference_min: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Softmax along any axis; before opset 13 along all axes from `axis` on."""
    activation = ctx.activation(node, wide=True)
    rank = activation.index.ndim
    axis = int(qdq.attribute(node, "axis", -1 if ctx.opset >= 13 else 1)) % rank
    last = np.moveaxis(activation.index, axis, -1)
    depth = int(last.shape[-1]) if ctx.opset >= 13 else math.prod(activation.shape[axis:])
    if depth > MAX_DEPTH:
        raise ctx.refuse(node, f"softmax over {depth} values is not supported", f"at most {MAX_DEPTH}")
    ordered = last if ctx.opset >= 13 else activation.index
    output = ctx.output(node, default=OUTPUT)
    tensor = ctx.arrange(activation, ordered, node, layout.memory_shape(ordered.shape))
    shape, rows = layout.memory_shape(ordered.shape), ordered.size // depth
    if ctx.quant(activation).wide:
        name = wide_softmax.add(ctx, node, tensor, rows, depth, shape)
    else:
        scaling = input_scaling(ctx.quant(activation).scale)
        params = SoftmaxParams(rows, depth, *scaling)
        name = ctx.layer("softmax", (tensor,), shape, OUTPUT, params, {"exponential": exponentials(*scaling)}, node)
    index = layout.contiguous(ordered.shape)
    result = Activation(name, np.moveaxis(index, -1, axis) if ctx.opset >= 13 else index)
    if output.quant == OUTPUT and (output.activation_min, output.activation_max) == (INT8_MIN, INT8_MAX):
        ctx.values[output.value] = result
        return
    values = lookup.table(lambda x: x, OUTPUT, output.quant, output.activation_min, output.activation_max)
    lookup.add(ctx, node, result, output.quant, values, output.value)


def input_scaling(scale: float) -> tuple[int, int, int]:
    """(multiplier, shift, least difference that counts) of an input scale, as TensorFlow Lite prepares softmax."""
    real = min(float(np.float32(scale)) * (1 << (31 - INTEGER_BITS)), 2.0**31 - 1)
    multiplier, shift = fixedpoint.quantize_multiplier(real)
    return multiplier, shift, -math.floor(((1 << INTEGER_BITS) - 1) * 2.0 ** (31 - INTEGER_BITS) / 2.0**shift)


def exponentials(multiplier: int, shift: int, difference_min: int) -> Array:
    """exp(-i * scale) in Q0.31, int32, for i = 0, 1, ... as far as a difference counts (at most 256 entries)."""
    differences = -np.arange(min(-difference_min, 255) + 1, dtype=np.int64)
    scaled = divide_by_power_of_two(multiply_high(differences << max(shift, 0), multiplier), max(-shift, 0))
    return np.asarray(_exp_on_negative(scaled), np.int32)


def _exp_on_negative(values: Array) -> Array:
    """exp of Q5.26 values <= 0 in Q0.31: gemmlowp's `exp_on_negative_values`."""
    fraction_bits = 31 - INTEGER_BITS
    quarter = 1 << (fraction_bits - 2)
    rest = (values & (quarter - 1)) - quarter
    result = _exp_between_minus_quarter_and_0(rest << INTEGER_BITS)
    remainder = rest - values
    factors = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    for power, factor in zip(range(-2, INTEGER_BITS), factors, strict=True):
        bit = (remainder & (1 << (fraction_bits + power))) != 0
        result = np.where(bit, multiply_high(result, factor), result)
    return np.where(values == 0, fixedpoint.INT32_MAX, result)


def _exp_between_minus_quarter_and_0(values: Array) -> Array:
    """exp of Q0.31 values in [-1/4, 0), Taylor around -1/8: gemmlowp's function of this name."""
    x = values + (1 << 28)
    x2 = multiply_high(x, x)
    x3 = multiply_high(x2, x)
    x4 = multiply_high(x2, x2)
    x4_over_4 = divide_by_power_of_two(x4, 2)
    sum_of_powers = divide_by_power_of_two(multiply_high(x4_over_4 + x3, 715827883) + x2, 1)
    return 1895147668 + multiply_high(1895147668, x + sum_of_powers)


def _reciprocal(total: int) -> tuple[int, int]:
    """(1 / total in Q0.31 scaled to [1/2, 1), bits over unit) of a sum in Q12.19: gemmlowp's `GetReciprocal`."""
    headroom = 32 - total.bit_length()
    shifted = ((total << headroom) & 0xFFFFFFFF) - 2**31
    half = (shifted + fixedpoint.INT32_MAX + 1) // 2
    x = 1515870810 + int(multiply_high(half, -1010580540))
    for _ in range(3):
        product = int(multiply_high(half, x))
        x += int(fixedpoint.wrap32(multiply_high(x, (1 << 29) - product))) << 2
    return min(x << 1, fixedpoint.INT32_MAX), ACCUMULATION_BITS - headroom


def reference(params: SoftmaxParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(rows * depth) int8 -> (rows, depth) int8."""
    values = inputs[0].reshape(params.rows, params.depth).astype(np.int64)
    table = constants["exponential"].astype(np.int64)
    differences = values.max(axis=1, keepdims=True) - values
    counted = differences < table.size
    return probabilities(np.where(counted, table[np.minimum(differences, table.size - 1)], 0), counted)


def probabilities(exponential: Array, counted: Array) -> Array:
    """(rows, depth) int8 from exponentials in Q0.31, int64, of which those count that are `counted`."""
    sums = np.where(counted, divide_by_power_of_two(exponential, ACCUMULATION_BITS), 0).sum(axis=1)
    output = np.empty_like(exponential)
    for row, total in enumerate(sums):
        scale, over = _reciprocal(int(total))
        scaled = divide_by_power_of_two(multiply_high(exponential[row], scale), min(over + 31 - 8, 31))
        output[row] = np.where(counted[row], scaled + INT8_MIN, INT8_MIN)
    return fixedpoint.saturate(output)


def render(view: LayerView, target: Target) -> Source:
    """Three passes over a row; no division, no exponential."""
    table = view.constants["exponential"]
    return Source(
        template="softmax.c.j2", values={"p": view.params, "entries": int(table.size)}, data={"exponential": table}
    )


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Rows, and values in them."""
    return {"vector": view.params.rows, "output": view.output.size}


def cases() -> Iterable[Case]:
    """Few and many values, steep and flat scales, several rows, another axis, another output scale."""
    from nnbuild.ops import singles

    quant = QuantParams(0.11, 14)
    yield singles.unary("softmax_12", "Softmax", (1, 12), quant, OUTPUT, {"axis": -1})
    yield singles.unary("softmax_1", "Softmax", (1, 1), quant, OUTPUT, {"axis": -1})
    yield singles.unary("softmax_steep", "Softmax", (1, 10), QuantParams(3.7, 0), OUTPUT, {"axis": -1})
    yield singles.unary("softmax_flat", "Softmax", (1, 700), QuantParams(0.0004, 0), OUTPUT, {"axis": -1})
    yield singles.unary("softmax_axis", "Softmax", (1, 5, 3, 2), quant, OUTPUT, {"axis": 1})
    yield singles.unary("softmax_rescaled", "Softmax", (1, 9), quant, QuantParams(0.0037, -128), {"axis": -1})


OPERATOR = Operator(
    name="softmax",
    summary="probabilities along one axis",
    onnx=("Softmax",),
    lower=lower,
    quantization=lambda node: Quantization(output=Fixed(OUTPUT), wide=True, wide_output=False),
    params=SoftmaxParams,
    reference=reference,
    error=lambda params: 2,
    slides=by_depth,
    kernels=(
        Kernel("direct", render, trips=trips, outruns_library=lambda target: not target.mve),
        cmsis_nn.SOFTMAX,
    ),
    cases=cases,
)
