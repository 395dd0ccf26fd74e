"""LSTM in one direction from a state of zeros."""

from __future__ import annotations

import numpy as np

from nnbuild.contract import LayerView, Source
from nnbuild.kernels.cmsis_nn.call import INCLUDES, kernel, vectors
from nnbuild.target import Target


def _lstm_supports(view: LayerView, target: Target) -> str | None:
    params, constants = view.params.loops, view.constants
    if params.reverse != (False,):
        return "it goes one way, forward"
    if params.keep:
        return "its state starts anew in each call"
    if constants["cells"].any() or (constants["hidden"] != params.output_zero_point).any():
        return "its state starts from 0"
    scales = [constants[f"{prefix}{name}"] for prefix in ("", "recurrent_") for name in ("multiplier", "shift")]
    if not params.saturates or any((array != array[..., :1]).any() for array in scales):
        return "it takes one scale for the weights of a gate: fully_connected='per_tensor'"
    return None


def _lstm(view: LayerView, target: Target) -> Source:
    from nnbuild.ops.recurrent import folded_biases

    constants = view.constants
    names = ("multiplier", "shift", "recurrent_multiplier", "recurrent_shift")
    scales = [[int(constants[name][0, gate, 0]) for name in names] for gate in range(4)]
    data = {
        "weights": np.concatenate([constants[name].ravel() for name in ("weights", "recurrent")]),
        "bias": np.concatenate([bias.ravel() for bias in folded_biases(view)]),
    }
    values = {"p": view.params, "l": view.params.loops, "scales": scales}
    return Source("cmsis_nn_lstm.c.j2", values, data, INCLUDES)


def lstm_scratch(view: LayerView, target: Target) -> int:
    """Bytes: two rows of gates and the cells, of 16 bits, and all steps where only the last one is kept."""
    params = view.params.loops
    return int(6 * params.states + (0 if params.every_step else params.steps * params.states))


LSTM = kernel(
    _lstm,
    lambda view, target: "arm_lstm_unidirectional_s8",
    _lstm_supports,
    lstm_scratch,
    lambda view, target: {
        "step": view.params.loops.rows,
        "gate": 4 * view.params.loops.rows * view.params.loops.hidden,
        "mac": vectors(target, view.params.loops.inputs, 16) * 4 * view.params.loops.rows * view.params.loops.hidden
        + vectors(target, view.params.loops.hidden, 16) * 4 * view.params.loops.rows * view.params.loops.hidden,
    },
)
