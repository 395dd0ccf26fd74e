"""Softmax."""

from __future__ import annotations

from nnbuild.contract import LayerView, Source
from nnbuild.kernels.cmsis_nn.call import INCLUDES, kernel
from nnbuild.target import Target

MAX_SOFTMAX_DEPTH = 511
"""A larger sum of exponentials would be shifted by more than 31 bits."""


def _softmax_supports(view: LayerView, target: Target) -> str | None:
    if view.params.shift < 0:
        return "its input scale is too small"
    return None if view.params.depth <= MAX_SOFTMAX_DEPTH else f"more than {MAX_SOFTMAX_DEPTH} values"


SOFTMAX = kernel(
    lambda view, target: Source("cmsis_nn_softmax.c.j2", {"p": view.params}, includes=INCLUDES),
    lambda view, target: "arm_softmax_s8",
    _softmax_supports,
    trips=lambda view, target: {"vector": view.params.rows, "output": view.output.size},
)
