"""Long short-term memory. ONNX LSTM with its default activations; integers as TensorFlow Lite's and CMSIS-NN's LSTM.

i, o, f = sigmoid and g = tanh of the gates; cell = f * cell + i * g; hidden = o * tanh(cell). Cells are int16 with a
scale that is a power of two, from the range that calibration saw; products are scaled and saturated one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Source
from nnbuild.kernels import cmsis_nn
from nnbuild.lower import Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import recurrent
from nnbuild.target import Target

GATES = 4  # input, output, forget, cell


@dataclass(frozen=True, slots=True)
class LstmParams:
    """`loops` as in `recurrent`; a cell is an int16 times 2^`cell_power`.

    The multipliers and shifts take f * cell, i * g (to cells) and o * tanh(cell) (to the output) to their scale.
    Constants besides those of `recurrent`: `cells` int16 (directions, batch, hidden), the cells at the start.
    """

    loops: recurrent.RecurrentParams
    cell_power: int
    forget_multiplier: int
    forget_shift: int
    input_multiplier: int
    input_shift: int
    output_multiplier: int
    output_shift: int

    @property
    def left(self) -> int:
        """By how much a cell is shifted to have the 12 bits behind the point of a gate."""
        return self.cell_power + recurrent.GATE_BITS


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """LSTM(X, W, R, B, sequence_lens, initial_h, initial_c)."""
    recurrent.activations(ctx, node, ("Sigmoid", "Tanh", "Tanh"))
    reading = recurrent.read(ctx, node, GATES)
    cells, power = recurrent.start_of_cell(ctx, node, reading.loops)
    scales = (2.0**-15, 2.0 ** (-30 - power), 2.0**-30 / reading.quant.scale)
    found = [fixedpoint.quantize_multiplier(scale, 2**30) for scale in scales]
    params = LstmParams(reading.loops, power, *found[0], *found[1], *found[2])
    constants = {**reading.constants, "cells": cells}
    shape = recurrent.memory_shape(reading.loops)
    name = ctx.layer("lstm", (reading.tensor,), shape, reading.quant, params, constants, node)
    recurrent.define(ctx, node, reading, name)


def advance(
    params: LstmParams, constants: Mapping[str, Array], inputs: Sequence[Array], state: Array
) -> tuple[Array, Array]:
    """int8 (steps, batch, inputs), bytes of a state -> int8 output, bytes of the state behind it."""
    table = constants["sigmoid"]

    def step(direction: int, values: Array, hidden: Array, cells: Array) -> tuple[Array, Array]:
        gates = recurrent.product(params.loops, constants, direction, values, False)
        others = recurrent.product(params.loops, constants, direction, hidden - params.loops.output_zero_point, True)
        total = recurrent.saturate16(gates + others)
        enter, leave, keep = (recurrent.sigmoid(total[gate], table) for gate in range(3))
        fresh = recurrent.tanh(total[3], table)
        kept = fixedpoint.requantize(keep * cells, params.forget_multiplier, params.forget_shift)
        added = fixedpoint.requantize(enter * fresh, params.input_multiplier, params.input_shift)
        now = np.clip(recurrent.saturate16(kept) + added, -recurrent.INT16_MAX, recurrent.INT16_MAX)
        shown = leave * recurrent.tanh(now, table, params.cell_power)
        scaled = fixedpoint.requantize(shown, params.output_multiplier, params.output_shift)
        return np.clip(scaled + params.loops.output_zero_point, INT8_MIN, INT8_MAX), now

    return recurrent.walk(params.loops, constants, inputs, state, True, step)


def reference(params: LstmParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """`advance` from the start."""
    return advance(params, constants, inputs, recurrent.start(constants))[0]


def internals(node: onnx.NodeProto, values: Callable[[str], Array]) -> Mapping[str, Array]:
    """`<Y>_cell`: the cells of every step, float64 (directions, steps, batch, hidden)."""
    x, weights, states, bias, _, hidden, cells = (
        np.asarray(values(name), np.float64) if name else None for name in [*node.input, *[""] * 7][:7]
    )
    if x is None or weights is None or states is None:
        return {}
    start = np.zeros((len(weights), x.shape[1], states.shape[-1]))
    offset = np.zeros((len(weights), 2, weights.shape[1])) if bias is None else bias.reshape(len(weights), 2, -1)
    begin = [start if each is None else each for each in (hidden, cells)]
    backwards = {"reverse": [True], "bidirectional": [False, True]}.get(qdq.attribute(node, "direction", ""), [False])
    found = [
        _real_cells(x[::-1] if reverse else x, weights[n], states[n], offset[n].sum(axis=0), begin[0][n], begin[1][n])
        for n, reverse in enumerate(backwards)
    ]
    return {f"{node.output[0]}_cell": np.asarray(found)}


def _real_cells(x: Array, weights: Array, states: Array, bias: Array, hidden: Array, cell: Array) -> Array:
    """The cells of one direction, in float, (steps, batch, hidden)."""
    found = []
    for now in x:
        enter, leave, keep, fresh = np.split(now @ weights.T + hidden @ states.T + bias, GATES, axis=1)
        enter, leave, keep = (1 / (1 + np.exp(-np.clip(gate, -60, 60))) for gate in (enter, leave, keep))
        cell = keep * cell + enter * np.tanh(fresh)
        hidden = leave * np.tanh(cell)
        found.append(cell)
    return np.asarray(found)


def render(view: LayerView, target: Target) -> Source:
    """One hidden value after the other: its four gates, its cell, its output."""
    data = {**recurrent.rows(view, [range(GATES)]), **recurrent.starts(view, True)}
    values = {"p": view.params, "l": view.params.loops, "data": sorted(recurrent.starts(view, True))}
    return Source("lstm.c.j2", values, data)


def scratch(view: LayerView, target: Target) -> int:
    """The next hidden values, and the state where it is not kept."""
    return recurrent.scratch(view, target, wide=True)


def cases() -> Iterable[Case]:
    """One and several steps and sequences, all directions, the last step alone, a start, saturated gates and cells."""
    from nnbuild.ops import singles

    quant, out = QuantParams(0.03, -7), QuantParams(1 / 128, 0)
    backwards, both = {"direction": "reverse"}, {"direction": "bidirectional"}
    yield singles.recurrent("lstm_steps", "LSTM", (5, 1, 3), 4, quant, out)
    yield singles.recurrent("lstm_last", "LSTM", (6, 1, 5), 3, quant, QuantParams(0.007, 9), last=True)
    yield singles.recurrent("lstm_reverse", "LSTM", (4, 1, 2), 7, quant, out, backwards)
    yield singles.recurrent("lstm_last_reverse", "LSTM", (4, 1, 2), 5, quant, out, backwards, last=True)
    yield singles.recurrent("lstm_both", "LSTM", (3, 1, 9), 5, quant, QuantParams(0.005, -20), both)
    yield singles.recurrent("lstm_batch", "LSTM", (2, 3, 4), 6, quant, out, start=True)
    yield singles.recurrent("lstm_start", "LSTM", (3, 1, 4), 5, quant, out, start=True)
    for power in (-15, -13, -9):
        yield singles.recurrent(f"lstm_cell{-power}", "LSTM", (9, 1, 3), 4, quant, out, cell_power=power, start=True)
    loud = QuantParams(0.2, -128)
    yield singles.recurrent("lstm_saturates", "LSTM", (7, 1, 6), 4, loud, QuantParams(0.002, 50))
    for name, shape, last in (("steps", (5, 1, 19), False), ("last", (4, 1, 6), True), ("batch", (3, 2, 33), False)):
        # One scale a gate, as CMSIS-NN takes it.
        yield singles.recurrent(
            f"lstm_per_gate_{name}", "LSTM", shape, 6, quant, QuantParams(0.007, -5), last=last, per_gate=True
        )
    yield singles.recurrent("lstm_per_gate_odd", "LSTM", (6, 1, 3), 9, loud, out, cell_power=-10, per_gate=True)
    yield singles.recurrent("lstm_keeps", "LSTM", (2, 1, 3), 4, quant, out, keep=True)
    yield singles.recurrent("lstm_keeps_last", "LSTM", (1, 1, 3), 4, quant, out, keep=True, start=True, last=True)


OPERATOR = Operator(
    name="lstm",
    summary="long short-term memory",
    onnx=("LSTM",),
    lower=lower,
    quantization=lambda node: recurrent.quantization((3, 4, 5, 6, 7), cell=6),
    params=LstmParams,
    reference=reference,
    advance=advance,
    state=recurrent.kept,
    internals=internals,
    macs=recurrent.macs,
    error=recurrent.error,
    kernels=(Kernel("direct", render, scratch=scratch, trips=recurrent.trips), cmsis_nn.LSTM),
    cases=cases,
)
