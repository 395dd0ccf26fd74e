"""A kernel that calls a function of CMSIS-NN, and what calls have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnbuild.contract import Kernel, LayerView, Overlap, Source, each_output
from nnbuild.network import Array
from nnbuild.ram import overlap
from nnbuild.target import Target

INCLUDES = ("arm_nnfunctions.h",)

Supports = Callable[[LayerView, Target], str | None]
Over = Callable[[LayerView, Target], Mapping[int, Overlap]]


def kernel(
    render: Callable[[LayerView, Target], Source],
    functions: Callable[[LayerView, Target], str],
    supports: Supports = lambda view, target: None,
    scratch: Callable[[LayerView, Target], int] = lambda view, target: 0,
    trips: Callable[[LayerView, Target], Mapping[str, int]] = each_output,
    over: Over = lambda view, target: {},
) -> Kernel:
    """A kernel that calls `functions(view, target)`, which this version of CMSIS-NN must have."""

    def named(view: LayerView, target: Target) -> dict[str, int]:
        # Each function has costs of its own.
        function = functions(view, target).removeprefix("arm_")
        return {f"{function} {name}": count for name, count in {"call": 1, **trips(view, target)}.items()}

    def available(view: LayerView, target: Target) -> str | None:
        if target.cmsis_nn is None:
            return "CMSIS-NN is not given"
        if any(tensor.dtype != "int8" for tensor in (*view.inputs, view.output)):
            return "values are not int8"
        reason = supports(view, target)
        if reason is not None:
            return reason
        function = functions(view, target)
        if function not in target.cmsis_nn.functions:
            return f"CMSIS-NN {target.cmsis_nn.version} has no {function}"
        return None

    return Kernel("cmsis_nn", render, available, scratch, named, functions, overlap=over)


def by_pixels(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Of functions that compute pixel by pixel, upwards, and do not read a window once its outputs are written."""
    own = overlap.by_pixels(view.params.window, view.output.shape[-1])
    return {0: overlap.upwards(own, view.inputs[0].bytes)}


def vectors(target: Target, elements: int, lanes: int) -> int:
    """Steps over `elements`: one each, or on MVE one for each vector."""
    return -(-elements // lanes) if target.mve else elements


def per_channel(constants: Mapping[str, Array], weights: Array, padding: int = 0) -> dict[str, Array]:
    """Weights, biases, multipliers and shifts as the library reads them, with `padding` elements that it may touch."""
    arrays = {
        "weights": weights.ravel(),
        "bias": constants["bias"].astype(np.int32),
        "multiplier": constants["multiplier"].astype(np.int32),
        "shift": constants["shift"].astype(np.int32),
    }
    return {name: np.pad(array, (0, padding)) for name, array in arrays.items()}


def window_values(view: LayerView) -> dict[str, Any]:
    """What templates need of a layer with a window."""
    return {"p": view.params, "w": view.params.window}
