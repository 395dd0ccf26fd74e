"""How far an output must lie from an input that it may overwrite: what kernels declare as `Kernel.overlap`.

A kernel is a sequence of steps, each of which reads some bytes of the input and writes some of the output. What a step
writes must not lie where a later step reads; where a step does not read all before it writes (not `whole`), not where
it reads itself either. If the output begins d bytes below the input, the byte o of the one lies on the byte o - d of
the other: so d must exceed the largest o - i of a byte o that is written before a byte i is read, and from there on
every d serves. Steps that go through the input upwards leave such a d small; downwards it is the same above the input.

`sizes` are the bytes of an element of the input and of the output (`LayerView.sizes`); all distances are in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnbuild.contract import Overlap
from nnbuild.network import Array

if TYPE_CHECKING:
    from nnbuild.ops.spatial import Window

Sizes = tuple[int, int]
BYTES: Sizes = (1, 1)
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


def windows(place: Window, outputs: int, sizes: Sizes = BYTES) -> tuple[Array, Array]:
    """Spans of the windows of all pixels, in the order of memory, and of the pixels' `outputs` channels."""
    height, width, channels = place.input
    pixel = channels * sizes[0]
    starts = [np.arange(place.output[axis]) * place.stride[axis] - place.pad[axis] for axis in (0, 1)]
    (top, left), (bottom, right) = (
        [np.clip(start, 0, size) for start, size in zip(starts, (height, width), strict=True)],
        [np.clip(start + place.extent(axis), 0, (height, width)[axis]) for axis, start in enumerate(starts)],
    )
    first = (top[:, None] * width + left) * pixel
    end = ((bottom[:, None] - 1) * width + right) * pixel
    seen = (top < bottom)[:, None] & (left < right)
    reads = np.stack([np.where(seen, first, NOTHING[0]), np.where(seen, end, NOTHING[1])], axis=-1).reshape(-1, 2)
    pixels = np.arange(place.pixels)
    return reads, np.stack([pixels, pixels + 1], axis=1) * outputs * sizes[1]


def by_pixels(place: Window, outputs: int, sizes: Sizes = BYTES) -> Overlap:
    """Pixel by pixel, in either direction; the window of a pixel is read as long as its outputs are written."""
    reads, writes = windows(place, outputs, sizes)
    return Overlap(below(reads, writes), above(reads[::-1], writes[::-1]))


def by_channels(place: Window, sizes: Sizes = BYTES) -> Overlap:
    """Pixel by pixel, in either direction, and channel by channel, upwards; a channel's window is read before."""
    channels = place.input[2]
    reads, writes = windows(place, channels, sizes)
    # What is written up to a channel, against where that one is read: most at the last one of outputs that are wider.
    wider = max((sizes[1] - sizes[0]) * count for count in (1, max(channels - 1, 1)))
    own = max(int((writes[:, 0] - reads[:, 0]).max()) + wider, 0)
    return Overlap(max(below(reads, writes, whole=True), own), above(reads[::-1], writes[::-1]))


def by_pixels_of_channels(place: Window, size: int = 1) -> Overlap:
    """Pixel by pixel, in either direction, of one channel after the other: at a distance of whole pixels.

    Elements of input and output are of `size` bytes.
    """
    reads, writes = windows(place, place.input[2], (size, size))
    turned = reads[::-1], writes[::-1]
    return Overlap(below(reads, writes, whole=True), above(*turned, whole=True), place.input[2] * size)


def upwards(own: Overlap, size: int) -> Overlap:
    """The same of a kernel that only goes through its input of `size` bytes upwards."""
    return Overlap(own.below, size, own.step)


def by_pairs(place: Window, outputs: int, rows: Sequence[Array], whole: bool, sizes: Sizes = BYTES) -> int:
    """The distance below the input of a kernel that takes two pixels of `rows`, sequences of pixels, at a time.

    A last one is alone. `whole`: both windows are read before an output is written.
    """
    firsts = np.concatenate([own[::2] for own in rows])
    seconds = np.concatenate([np.append(own, own[-1:])[1::2] if own.size % 2 else own[1::2] for own in rows])
    reads, writes = (
        np.stack([np.minimum(each[firsts, 0], each[seconds, 0]), np.maximum(each[firsts, 1], each[seconds, 1])], axis=1)
        for each in windows(place, outputs, sizes)
    )
    return below(reads, writes, whole)


def by_lines(place: Window, count: int, together: int, sizes: Sizes = BYTES) -> tuple[Array, Array]:
    """Spans of `count` lines under some lines of outputs `together`, and of these; the last may overlap others."""
    height, width, channels = place.input
    firsts = np.minimum(np.arange(0, place.output[0], together), place.output[0] - together)
    top = firsts * place.stride[0] - place.pad[0]
    reads = np.stack([np.clip(top, 0, height), np.clip(top + count, 0, height)], axis=1) * width * channels * sizes[0]
    return reads, np.stack([firsts, firsts + together], axis=1) * place.output[1] * channels * sizes[1]


def by_rows(rows: int, inputs: int, outputs: int, together: int = 1) -> Overlap:
    """Row by row of a matrix, or some `together`, upwards; these are read as long as their outputs are written."""
    first = np.arange(0, rows, together)
    reads, writes = (np.stack([first, np.minimum(first + together, rows)], axis=1) * size for size in (inputs, outputs))
    return Overlap(below(reads, writes), rows * inputs)


def by_elements(offsets: Array, size: int, sizes: Sizes) -> Overlap:
    """Element by element, from an input of `size` bytes: output i is made of that at `offsets[i]`."""
    index = np.arange(offsets.size)
    reads, writes = (
        np.stack([start, start + 1], axis=1) * element for start, element in zip((offsets, index), sizes, strict=True)
    )
    return Overlap(below(reads, writes, whole=True), size)
