"""Networks as streams: at every call the bits of the whole window, in numpy and in C; and what cannot be one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings

from nnbuild import interpret
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ModelError
from nnbuild.lower import lower
from nnbuild.network import Array, Network
from nnbuild.stream import Stream
from nnbuild.streaming import streamed
from nnbuild.target import TARGETS

from . import host
from .random_streams import RandomStream, streams


def windows(network: Network, axis: int, frames: int, calls: int, seed: int = 0) -> list[tuple[Array, Array]]:
    """For each call the new frames, and the whole window behind them; zeros before the first."""
    (port,) = network.inputs
    tensor, rng = network.tensors[port.tensor], np.random.default_rng(seed)
    window = np.full(port.shape, tensor.quant.zero_point, np.int8)
    found = []
    for _ in range(calls):
        shape = tuple(frames if n == axis else size for n, size in enumerate(port.shape))
        new = rng.integers(-128, 128, shape).astype(np.int8)
        window = np.concatenate([window, new], axis).take(range(frames, frames + port.shape[axis]), axis)
        found.append((new.ravel(), window.ravel()))
    return found


def newest(whole: Array, rows: Array) -> Array:
    """The part of the whole window's output that a call gives."""
    axis = next((n for n in range(whole.ndim) if whole.shape[n] != rows.shape[n]), 0)
    return whole.take(range(whole.shape[axis] - rows.shape[axis], whole.shape[axis]), axis)


def differing(whole: Network, stream: Network, axis: int, calls: int, seed: int = 0) -> list[int]:
    """Calls whose bytes are not those of the whole window."""
    frames, states = stream.inputs[0].shape[axis], interpret.States()
    wrong = []
    for number, (new, window) in enumerate(windows(whole, axis, frames, calls, seed)):
        outputs = interpret.run(stream, [new], states)
        expected = interpret.run(whole, [window])
        if any(newest(a, b).tobytes() != b.tobytes() for a, b in zip(expected, outputs, strict=True)):
            wrong.append(number)
    return wrong


def of_random(drawn: RandomStream, frames: int | None = None) -> tuple[Network, Network] | None:
    """Both forms; None where it is refused."""
    whole = lower(drawn.model)
    try:
        return whole, streamed(whole, Stream(drawn.axis, frames))
    except ModelError as error:
        event(error.findings[0].message[:60])
        return None


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(streams())
def test_random_streams_are_the_whole_window_to_the_last_bit(drawn: RandomStream) -> None:
    both = of_random(drawn)
    if both is not None:
        event("streams")
        whole, stream = both
        length = whole.inputs[0].shape[drawn.axis]
        assert differing(whole, stream, drawn.axis, 2 * length, drawn.seed) == []
