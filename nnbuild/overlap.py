"""How far an output must lie from an input that it may overwrite: what kernels declare as `Kernel.overlap`.

A kernel is a sequence of steps, each of which reads some bytes of the input and writes some of the output. What a step
writes must not lie where a later step reads; where a step does not read all before it writes (not `whole`), not where
it reads itself either. If the output begins d bytes below the input, the byte o of the one lies on the byte o - d of
the other: so d must exceed the largest o - i of a byte o that is written before a byte i is read, and from there on
every d serves. Steps that go through the input upwards leave such a d small; downwards it is the same above the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnbuild.contract import Overlap
from nnbuild.network import Array

if TYPE_CHECKING:
    from nnbuild.ops.spatial import Window

NOTHING = (np.iinfo(np.int64).max // 2, -(np.iinfo(np.int64).max // 2))
"""The span of a step that reads nothing: its start and its end."""


def below(reads: Array, writes: Array, whole: bool = False) -> int:
    """The least distance of an output that begins below its input; spans [start, end) of each step, int64 (steps, 2).

    A later start of the output than the input's is not used: the distance is at least 0.
    """
    later = np.minimum.accumulate(reads[::-1, 0])[::-1]
    return _least(writes[:, 1], later, whole, NOTHING[0])


def above(reads: Array, writes: Array, whole: bool = False) -> int:
    """The least distance of an output that begins above its input."""
    later = np.maximum.accumulate(reads[::-1, 1])[::-1]
    return _least(-writes[:, 0], -later, whole, -NOTHING[1])


def _least(written: Array, later: Array, whole: bool, nothing: int) -> int:
    later = np.append(later[1:], nothing) if whole else later
    return max(int((written - later).max()), 0)


def windows(place: Window, outputs: int) -> tuple[Array, Array]:
    """Spans of the windows of all pixels, in the order of memory, and of the pixels' `outputs` channels."""
    height, width, channels = place.input
    starts = [np.arange(place.output[axis]) * place.stride[axis] - place.pad[axis] for axis in (0, 1)]
    (top, left), (bottom, right) = (
        [np.clip(start, 0, size) for start, size in zip(starts, (height, width), strict=True)],
        [np.clip(start + place.extent(axis), 0, (height, width)[axis]) for axis, start in enumerate(starts)],
    )
    first = (top[:, None] * width + left) * channels
    end = ((bottom[:, None] - 1) * width + right) * channels
    seen = (top < bottom)[:, None] & (left < right)
    reads = np.stack([np.where(seen, first, NOTHING[0]), np.where(seen, end, NOTHING[1])], axis=-1).reshape(-1, 2)
    pixels = np.arange(place.pixels)
    return reads, np.stack([pixels, pixels + 1], axis=1) * outputs


def by_pixels(place: Window, outputs: int) -> Overlap:
    """Pixel by pixel, in either direction; the window of a pixel is read as long as its outputs are written."""
    reads, writes = windows(place, outputs)
    return Overlap(below(reads, writes), above(reads[::-1], writes[::-1]))


def by_channels(place: Window) -> Overlap:
    """Pixel by pixel, in either direction, and channel by channel, upwards; a channel's window is read before."""
    reads, writes = windows(place, place.input[2])
    own = max(int((writes[:, 0] - reads[:, 0]).max()), 0)
    return Overlap(max(below(reads, writes, whole=True), own), above(reads[::-1], writes[::-1]))


def by_pixels_of_channels(place: Window) -> Overlap:
    """Pixel by pixel, in either direction, of one channel after the other: at a distance of whole pixels."""
    reads, writes = windows(place, place.input[2])
    turned = reads[::-1], writes[::-1]
    return Overlap(below(reads, writes, whole=True), above(*turned, whole=True), place.input[2])


def upwards(own: Overlap, size: int) -> Overlap:
    """The same of a kernel that only goes through its input of `size` bytes upwards."""
    return Overlap(own.below, size, own.step)


def by_rows(rows: int, inputs: int, outputs: int) -> Overlap:
    """Row by row of a matrix, upwards; a row of inputs is read as long as its outputs are written."""
    index = np.arange(rows)
    reads, writes = (np.stack([index, index + 1], axis=1) * size for size in (inputs, outputs))
    return Overlap(below(reads, writes), rows * inputs)


def by_elements(offsets: Array, size: int) -> Overlap:
    """A copy of single bytes of `size`: byte i of the output is that of the input at `offsets[i]`."""
    index = np.arange(offsets.size)
    reads, writes = (np.stack([start, start + 1], axis=1) for start in (offsets, index))
    return Overlap(below(reads, writes, whole=True), size)
