"""Max and average pools."""

from __future__ import annotations

import numpy as np

from nnbuild.contract import LayerView, Source
from nnbuild.kernels.cmsis_nn.call import INCLUDES, by_pixels, kernel, vectors, window_values
from nnbuild.target import Target


def _pool(view: LayerView, function: str, scratch_bytes: int) -> Source:
    values = {**window_values(view), "function": function, "scratch_bytes": scratch_bytes}
    return Source("cmsis_nn_pool.c.j2", values, includes=INCLUDES)


def _max_pool_supports(view: LayerView, target: Target) -> str | None:
    return None if view.params.window.dilation == (1, 1) else "no dilation"


def _average_pool_supports(view: LayerView, target: Target) -> str | None:
    params = view.params
    if params.rescales:
        return "its pool cannot change the scale"
    if not np.array_equal(params.window.inside(params.pads_count), params.window.inside(False)):
        return "its pool does not count padding"
    return None


def average_pool_scratch(view: LayerView, target: Target) -> int:
    """Bytes: a 32-bit sum for each channel on cores with DSP but no MVE."""
    return int(4 * view.params.window.input[2]) if target.dsp and not target.mve else 0


def _pool_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Pixels, positions under their windows, outputs, and the values that these are made of."""
    place = view.params.window
    rows, columns = place.clipped()
    channels = place.input[2]
    loops = {"pixel": place.pixels, "position": rows * columns, "output": place.pixels * vectors(target, channels, 16)}
    return {**loops, "tap": rows * columns * vectors(target, channels, 16)}


MAX_POOL = kernel(
    lambda view, target: _pool(view, "arm_max_pool_s8", 0),
    lambda view, target: "arm_max_pool_s8",
    _max_pool_supports,
    trips=_pool_trips,
    over=by_pixels,
)
AVERAGE_POOL = kernel(
    lambda view, target: _pool(view, "arm_avgpool_s8", average_pool_scratch(view, target)),
    lambda view, target: "arm_avgpool_s8",
    _average_pool_supports,
    average_pool_scratch,
    _pool_trips,
    by_pixels,
)
