"""Gated recurrent unit. ONNX GRU with its default activations, both forms of the reset gate.

z, r = sigmoid of the gates; n = tanh(W x + r * (R h + b)), or tanh(W x + R (r * h) + b) without linear_before_reset;
h = n + z * (h - n). Between steps h is kept in Q0.15, because an int8 would stand still where z is nearly 1; what the
matrix products and the output see is that value in int8, but for r * h, which stays in Q0.15.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Source
from nnbuild.lower import Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import recurrent
from nnbuild.target import Target

GATES = 3  # update, reset, hidden
_WIDE = 2**16 - 1  # what the reset gate can be multiplied with in 32 bits


@dataclass(frozen=True, slots=True)
class GruParams:
    """`loops` as in `recurrent`; multiplier and shift take Q0.15 to the output's scale.

    Constants besides those of `recurrent`: `cells` int16 (directions, batch, hidden), h at the start in Q0.15.
    """

    loops: recurrent.RecurrentParams
    linear_before_reset: bool
    output_multiplier: int
    output_shift: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """GRU(X, W, R, B, sequence_lens, initial_h)."""
    recurrent.activations(ctx, node, ("Sigmoid", "Tanh"))
    linear = bool(qdq.attribute(node, "linear_before_reset", 0))
    reading = recurrent.read(ctx, node, GATES, [2] if linear else [], wide=() if linear else [2])
    scaled = fixedpoint.quantize_multiplier(2.0**-15 / reading.quant.scale, 2**15)
    params = GruParams(reading.loops, linear, *scaled)
    constants = {**reading.constants, "cells": recurrent.start_in_q15(ctx, node, reading.loops)}
    shape = recurrent.memory_shape(reading.loops)
    name = ctx.layer("gru", (reading.tensor,), shape, reading.quant, params, constants, node)
    recurrent.define(ctx, node, reading, name)


def advance(
    params: GruParams, constants: Mapping[str, Array], inputs: Sequence[Array], state: Array
) -> tuple[Array, Array]:
    """int8 (steps, batch, inputs), bytes of a state -> int8 output, bytes of the state behind it."""
    table, zero = constants["sigmoid"], params.loops.output_zero_point

    def shown(cells: Array) -> Array:
        scaled = fixedpoint.requantize(cells, params.output_multiplier, params.output_shift)
        return np.asarray(np.clip(scaled + zero, INT8_MIN, INT8_MAX))

    def step(direction: int, values: Array, hidden: Array, cells: Array) -> tuple[Array, Array]:
        gates = recurrent.product(params.loops, constants, direction, values, False)
        others = recurrent.product(params.loops, constants, direction, hidden - zero, True)
        update, reset = (recurrent.sigmoid(recurrent.saturate16(gates[n] + others[n]), table) for n in range(2))
        if params.linear_before_reset:
            part = (reset * np.clip(others[2], -_WIDE, _WIDE) + 2**14) >> 15
        else:
            left = (reset * cells + 2**14) >> 15
            part = recurrent.product(params.loops, constants, direction, left, True)[2]
        fresh = recurrent.tanh(recurrent.saturate16(gates[2] + part), table)
        now = fresh + ((update * (cells - fresh) + 2**14) >> 15)
        return shown(now), now

    return recurrent.walk(params.loops, constants, inputs, state, True, step)


def reference(params: GruParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """`advance` from the start."""
    return advance(params, constants, inputs, recurrent.start(constants))[0]


def render(view: LayerView, target: Target) -> Source:
    """One hidden value after the other; where the reset gate is inside of the product, all reset gates come first."""
    linear = view.params.linear_before_reset
    order, wide = ([[0, 1, 2]], []) if linear else ([[1], [0, 2]], [2])
    starts = recurrent.starts(view, True)
    values = {"p": view.params, "l": view.params.loops, "wide": _WIDE, "data": sorted(starts)}
    template = "gru.c.j2" if linear else "gru_reset_first.c.j2"
    return Source(template, values, {**recurrent.rows(view, order, wide), **starts})


def scratch(view: LayerView, target: Target) -> int:
    """The next hidden values, those behind the reset gate in 16 bits, and the state where it is not kept."""
    return recurrent.scratch(
        view, target, wide=True, extra=0 if view.params.linear_before_reset else 2 * view.params.loops.hidden
    )


def cases() -> Iterable[Case]:
    """Both forms: steps and sequences, all directions, the last step alone, a start, saturation, a kept state."""
    from nnbuild.ops import singles

    quant, out = QuantParams(0.03, -7), QuantParams(1 / 128, 0)
    for linear in (1, 0):
        name = "gru_linear" if linear else "gru"
        form: dict[str, object] = {"linear_before_reset": linear}
        yield singles.recurrent(f"{name}_steps", "GRU", (5, 1, 3), 4, quant, out, form)
        yield singles.recurrent(f"{name}_last", "GRU", (6, 1, 5), 3, quant, QuantParams(0.007, 9), form, last=True)
        yield singles.recurrent(f"{name}_reverse", "GRU", (4, 1, 2), 7, quant, out, form | {"direction": "reverse"})
        both, sides = QuantParams(0.005, -20), {"direction": "bidirectional"}
        yield singles.recurrent(f"{name}_both", "GRU", (3, 2, 9), 5, quant, both, form | sides)
        yield singles.recurrent(f"{name}_batch", "GRU", (2, 3, 4), 6, quant, out, form, start=True)
        loud = QuantParams(0.2, -128)
        yield singles.recurrent(f"{name}_saturates", "GRU", (7, 1, 6), 4, loud, QuantParams(0.002, 50), form)
        yield singles.recurrent(f"{name}_keeps", "GRU", (2, 1, 3), 4, quant, out, form, keep=True, start=True)


OPERATOR = Operator(
    name="gru",
    summary="gated recurrent unit",
    onnx=("GRU",),
    lower=lower,
    quantization=lambda node: recurrent.quantization((3, 4, 5)),
    params=GruParams,
    reference=reference,
    advance=advance,
    state=recurrent.kept,
    macs=recurrent.macs,
    error=recurrent.error,
    kernels=(Kernel("direct", render, scratch=scratch, trips=recurrent.trips),),
    cases=cases,
)
