"""Networks as streams: at every call the bits of the whole window, in numpy and in C; and what cannot be one."""

from __future__ import annotations

import ctypes
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

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


def of_random(drawn: RandomStream) -> tuple[Network, Network] | None:
    """Both forms, of as few frames a call as there may be, or of a multiple; None where it is refused."""
    whole = lower(drawn.model)
    try:
        stream = streamed(whole, Stream(drawn.axis))
        several = drawn.times * stream.inputs[0].shape[drawn.axis]
        if drawn.times == 1 or several >= whole.inputs[0].shape[drawn.axis]:
            return whole, stream
        return whole, streamed(whole, Stream(drawn.axis, several))
    except ModelError as error:
        event(error.findings[0].message[:60])
        return None


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(streams())
def test_random_streams_are_the_whole_window_to_the_last_bit(drawn: RandomStream) -> None:
    both = of_random(drawn)
    if both is not None:
        whole, stream = both
        event(f"{sum(layer.op == 'history' for layer in stream.layers)} histories")
        assert differing(whole, stream, drawn.axis, 2 * whole.inputs[0].shape[drawn.axis], drawn.seed) == []


@settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(st.lists(streams(), min_size=6, max_size=6))
@pytest.mark.parametrize("target", ["generic", "cortex-m0"])
def test_random_streams_in_c_are_the_reference(target: str, drawn: list[RandomStream]) -> None:
    found = [each for each in map(of_random, drawn) if each is not None]
    chosen = replace(TARGETS[target], guard="")
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number, (_, stream) in enumerate(found):
            files |= emit(stream, EmitOptions(f"m{number}", chosen))
        library = host.shared_library(Path(folder), files)
        for number, (whole, stream) in enumerate(found):
            if any(layer.op == "history" for layer in stream.layers):
                getattr(library, f"m{number}_reset")()
            assert differing_in_c(library, f"m{number}", whole, stream, drawn[0].seed) == []


def differing_in_c(library: ctypes.CDLL, name: str, whole: Network, stream: Network, seed: int) -> list[int]:
    """Calls of the C whose bytes are not the reference's of the whole window."""
    sizes = [stream.tensors[port.tensor].bytes for port in stream.outputs]
    shapes = zip(whole.inputs[0].shape, stream.inputs[0].shape, strict=True)
    axis = next(n for n, (size, new) in enumerate(shapes) if size != new)
    wrong = []
    for number, (new, window) in enumerate(windows(whole, axis, stream.inputs[0].shape[axis], 12, seed)):
        outputs = host.call(library, f"{name}_run", [new], sizes)
        expected = interpret.run(whole, [window])
        for port, rows, found in zip(stream.outputs, expected, outputs, strict=True):
            if newest(rows, np.empty(port.shape)).tobytes() != found.tobytes():
                wrong.append(number)
    return wrong
