"""Softmax of int16 values to int8 probabilities; `softmax` lowers to it.

As there, but a difference to the maximum is rounded to 1/256, and its exponential is the product of two: one for its
whole quarters, one for what is left. Differences of 16 and more count for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.fixedpoint import multiply_high
from nnbuild.lower import Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.ops import softmax
from nnbuild.target import Target

STEPS = 64
"""Entries of each of the two tables."""
LIMIT = STEPS * STEPS
"""Steps of 1/256 from which on an exponential is 0."""


@dataclass(frozen=True, slots=True)
class WideSoftmaxParams:
    """`rows` of `depth` values; a difference d is (d * factor + 2^(shift - 1)) >> shift steps of 1/256.

    Constants `quarters` and `parts`: int32 Q0.31, e^(-i / 4) and e^(-i / 256).
    """

    rows: int
    depth: int
    factor: int
    shift: int


def add(ctx: Lowering, node: onnx.NodeProto, tensor: str, rows: int, depth: int, shape: tuple[int, ...]) -> str:
    """The layer over `tensor`."""
    real = 256.0 * ctx.tensors[tensor].quant.scale
    # 16 bits of a factor: with a difference of 16 bits the product has 32.
    shift = min(max(15 - math.frexp(real)[1], 1), 31)
    factor = min(fixedpoint.round_half_away(math.ldexp(real, shift)), 2**15 - 1)
    constants = {
        "quarters": _exponentials(1 / 4),
        "parts": _exponentials(1 / 256),
    }
    return ctx.layer(
        "wide_softmax", (tensor,), shape, softmax.OUTPUT, WideSoftmaxParams(rows, depth, factor, shift), constants, node
    )


def _exponentials(step: float) -> Array:
    exact = [math.ldexp(math.exp(-index * step), 31) for index in range(STEPS)]
    return np.array([min(fixedpoint.round_half_away(value), fixedpoint.INT32_MAX) for value in exact], np.int32)


def reference(params: WideSoftmaxParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(rows * depth) int16 -> (rows, depth) int8."""
    values = inputs[0].reshape(params.rows, params.depth).astype(np.int64)
    differences = values.max(axis=1, keepdims=True) - values
    steps = differences * params.factor + (1 << params.shift >> 1) >> params.shift
    within = np.minimum(steps, LIMIT - 1)
    products = multiply_high(constants["quarters"][within // STEPS], constants["parts"][within % STEPS])
    return softmax.probabilities(np.where(steps < LIMIT, products, 0), steps < LIMIT)


def render(view: LayerView, target: Target) -> Source:
    """Three passes over a row; no division, no exponential."""
    return Source("wide_softmax.c.j2", {"p": view.params, "limit": LIMIT, "steps": STEPS}, dict(view.constants))


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Rows, and values in them."""
    return {"vector": view.params.rows, "output": view.output.size}


def cases() -> Iterable[Case]:
    """Few and many values, steep and flat scales, several rows, another axis, another output scale."""
    from nnbuild.ops import singles

    quant = QuantParams(0.0005, 0, "int16")
    yield singles.unary("wide_softmax_12", "Softmax", (1, 12), quant, softmax.OUTPUT, {"axis": -1})
    yield singles.unary("wide_softmax_1", "Softmax", (1, 1), quant, softmax.OUTPUT, {"axis": -1})
    steep, flat = QuantParams(3.7, 0, "int16"), QuantParams(0.000001, 0, "int16")
    yield singles.unary("wide_softmax_steep", "Softmax", (1, 10), steep, softmax.OUTPUT, {"axis": -1})
    yield singles.unary("wide_softmax_flat", "Softmax", (1, 700), flat, softmax.OUTPUT, {"axis": -1})
    yield singles.unary("wide_softmax_axis", "Softmax", (1, 5, 3, 2), quant, softmax.OUTPUT, {"axis": 1})
    yield singles.unary("wide_softmax_rescaled", "Softmax", (1, 9), quant, QuantParams(0.0037, -128), {"axis": -1})


OPERATOR = Operator(
    name="wide_softmax",
    summary="probabilities of int16 values",
    onnx=(),
    lower=lambda ctx, node: None,
    quantization=lambda node: Quantization(),
    params=WideSoftmaxParams,
    reference=reference,
    error=lambda params: 2,
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
