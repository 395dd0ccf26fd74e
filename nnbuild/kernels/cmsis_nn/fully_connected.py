"""Fully connected layers, with one multiplier or one for each output."""

from __future__ import annotations

import numpy as np

from nnbuild.contract import LayerView, Source
from nnbuild.kernels.cmsis_nn.call import INCLUDES, kernel, per_channel, vectors
from nnbuild.target import Target


def _one_multiplier(view: LayerView) -> bool:
    return all(bool((view.constants[name] == view.constants[name][0]).all()) for name in ("multiplier", "shift"))


def fully_connected_function(view: LayerView, target: Target) -> str:
    """Per tensor where all outputs share a multiplier, else per channel."""
    return "arm_fully_connected_s8" if _one_multiplier(view) else "arm_fully_connected_per_channel_s8"


def _fully_connected(view: LayerView, target: Target) -> Source:
    params, constants = view.params, view.constants
    data = per_channel(constants, constants["weights"])
    if target.mve:
        # MVE starts from kernel sums, which include the bias: constants here, and no scratch.
        sums = constants["weights"].astype(np.int64).sum(axis=1) * -params.input_zero_point + constants["bias"]
        data["bias"] = sums.astype(np.int32)
    shared = _one_multiplier(view)
    values = {"p": params, "function": fully_connected_function(view, target), "shared": shared, "sums": target.mve}
    if shared:
        del data["multiplier"], data["shift"]
        values |= {"multiplier": int(constants["multiplier"][0]), "shift": int(constants["shift"][0])}
    return Source("cmsis_nn_fully_connected.c.j2", values, data, INCLUDES)


def _fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Outputs and products."""
    return {"output": view.output.size, "mac": view.output.size * vectors(target, view.params.inputs, 16)}


FULLY_CONNECTED = kernel(_fully_connected, fully_connected_function, trips=_fully_connected_trips)
