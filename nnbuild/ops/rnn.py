"""Elman's recurrent network: hidden = tanh or ReLU of W x + R hidden + b. ONNX RNN.

With ReLU the gate has 7 bits behind an output step, instead of the 12 behind the point that serve tanh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Source
from nnbuild.lower import Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import recurrent
from nnbuild.target import Target

_FINE = 7  # bits of a gate behind an output step, with ReLU


@dataclass(frozen=True, slots=True)
class RnnParams:
    """`loops` as in `recurrent`; with `relu` a gate is in 2^-7 output steps, else multiplier and shift take tanh, in
    Q0.15, to the output's scale."""

    loops: recurrent.RecurrentParams
    relu: bool
    output_multiplier: int
    output_shift: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """RNN(X, W, R, B, sequence_lens, initial_h)."""
    relu = recurrent.activations(ctx, node, ("Tanh",), ("Relu",)) == 1
    reading = recurrent.read(ctx, node, 1, fine=_FINE if relu else None)
    scaled = (0, 0) if relu else fixedpoint.quantize_multiplier(2.0**-15 / reading.quant.scale, 2**15)
    params = RnnParams(reading.loops, relu, *scaled)
    shape = recurrent.memory_shape(reading.loops)
    name = ctx.layer("rnn", (reading.tensor,), shape, reading.quant, params, reading.constants, node)
    recurrent.define(ctx, node, reading, name)


def advance(
    params: RnnParams, constants: Mapping[str, Array], inputs: Sequence[Array], state: Array
) -> tuple[Array, Array]:
    """int8 (steps, batch, inputs), bytes of a state -> int8 output, bytes of the state behind it."""
    zero = params.loops.output_zero_point

    def step(direction: int, values: Array, hidden: Array, cells: Array) -> tuple[Array, Array]:
        gates = recurrent.product(params.loops, constants, direction, values, False)
        others = recurrent.product(params.loops, constants, direction, hidden - zero, True)
        total = recurrent.saturate16(gates + others)[0]
        if params.relu:
            now = np.maximum((total + (1 << (_FINE - 1))) >> _FINE, 0)
        else:
            fresh = recurrent.tanh(total, constants["sigmoid"])
            now = fixedpoint.requantize(fresh, params.output_multiplier, params.output_shift)
        return np.clip(now + zero, INT8_MIN, INT8_MAX), cells

    return recurrent.walk(params.loops, constants, inputs, state, False, step)


def reference(params: RnnParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """`advance` from the start."""
    return advance(params, constants, inputs, recurrent.start(constants))[0]


def render(view: LayerView, target: Target) -> Source:
    """One hidden value after the other."""
    starts, rows = recurrent.starts(view, False), recurrent.rows(view, [[0]])
    if view.params.relu:
        del rows["sigmoid"]
    values = {"p": view.params, "l": view.params.loops, "data": sorted(starts), "fine": _FINE}
    return Source("rnn.c.j2", values, {**rows, **starts})


def scratch(view: LayerView, target: Target) -> int:
    """The next hidden values, and the state where it is not kept."""
    return recurrent.scratch(view, target, wide=False)


def cases() -> Iterable[Case]:
    """Both activations: steps and sequences, all directions, the last step alone, a start, saturation, a kept state."""
    from nnbuild.ops import singles

    quant, out = QuantParams(0.03, -7), QuantParams(1 / 128, 0)
    for name, activation in (("rnn", "Tanh"), ("rnn_relu", "Relu")):
        one: dict[str, object] = {"activations": [activation]}
        yield singles.recurrent(f"{name}_steps", "RNN", (5, 1, 3), 4, quant, out, one)
        yield singles.recurrent(f"{name}_last", "RNN", (6, 1, 5), 3, quant, QuantParams(0.02, -98), one, last=True)
        yield singles.recurrent(f"{name}_reverse", "RNN", (4, 1, 2), 7, quant, out, one | {"direction": "reverse"})
        both = {"direction": "bidirectional", "activations": [activation] * 2}
        yield singles.recurrent(f"{name}_both", "RNN", (3, 2, 9), 5, quant, QuantParams(0.005, -20), both)
        yield singles.recurrent(f"{name}_batch", "RNN", (2, 3, 4), 6, quant, out, one, start=True)
        loud = QuantParams(0.2, -128)
        yield singles.recurrent(f"{name}_saturates", "RNN", (7, 1, 6), 4, loud, QuantParams(0.002, 50), one)
        yield singles.recurrent(f"{name}_keeps", "RNN", (2, 1, 3), 4, quant, out, one, keep=True, start=True)


OPERATOR = Operator(
    name="rnn",
    summary="recurrent network without gates",
    onnx=("RNN",),
    lower=lower,
    quantization=lambda node: recurrent.quantization((3, 4, 5)),
    params=RnnParams,
    reference=reference,
    advance=advance,
    state=recurrent.kept,
    macs=recurrent.macs,
    error=recurrent.error,
    kernels=(Kernel("direct", render, scratch=scratch, trips=recurrent.trips),),
    cases=cases,
)
