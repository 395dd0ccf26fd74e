"""How weights lie for kernels that multiply by SMLAD or MLA; `smlad` says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnbuild import fixedpoint
from nnbuild.network import INT8_MIN, Array
from nnbuild.placeholder import is_placeholder, placeholder

if TYPE_CHECKING:
    from nnbuild.ops.spatial import Window

PACKED = 8
"""Whole fours of a window up to which its rows are unrolled, so that what they leave over is one four."""


def overlapping(weights: Array) -> Array:
    """(channels, rows, inputs) int8 -> rows padded to a multiple of four by zeros behind the first inputs % 4."""
    inputs = weights.shape[2]
    if is_placeholder(weights):
        return placeholder((*weights.shape[:2], -(-inputs // 4) * 4), weights.dtype)
    lead = inputs % 4
    gap = np.zeros((*weights.shape[:2], -inputs % 4), weights.dtype)
    return np.concatenate([weights[..., :lead], gap, weights[..., lead:]], axis=2)


def packed(place: Window, size: int = 1) -> tuple[int, ...]:
    """(rows, whole fours of each, bytes left over) of windows whose left over bytes make one four; () for others.

    Inputs are of `size` bytes; rows of int16 are not packed.
    """
    rows, (words, tail) = place.kernel[0], divmod(place.kernel[1] * place.input[2], 4)
    useful = 0 < tail < rows * tail <= 4 and words > 0 and rows * words <= PACKED and place.dilation == (1, 1)
    return (rows, words, tail) if useful and size == 1 else ()


def of_windows(place: Window, weights: Array, size: int) -> Array:
    """The weights (channels, ...) of windows as rows of whole fours."""
    flat = weights.reshape(len(weights), place.kernel[0], -1)
    parts = packed(place, size)
    if not parts:
        return overlapping(flat)
    count, whole, tail = parts
    if is_placeholder(weights):
        return placeholder((len(weights), 1, 4 * (count * whole + 1)), weights.dtype)
    fours, rest = (part.reshape(len(weights), -1) for part in (flat[..., : 4 * whole], flat[..., 4 * whole :]))
    return np.concatenate([fours, np.pad(rest, ((0, 0), (0, 4 - count * tail)))], axis=1)[:, None]


def wraps(weights: Array) -> bool:
    """Whether a pair of channels (channels, rows, inputs) is no halfword as it is: -128 above a negative weight."""
    if is_placeholder(weights):
        return False
    count = len(weights) // 2
    return bool(((weights[1 : 2 * count : 2] == INT8_MIN) & (weights[0 : 2 * count : 2] < 0)).any())


def words(weights: Array, block: int, offset: int = 128) -> Array:
    """(channels, rows, inputs) int8 -> int32 words, as the module's text has them, by blocks of `block` channels.

    `offset` is by what the lower weight of a halfword is raised.
    """
    channels, rows, inputs = weights.shape
    blocks, fours = -(-channels // block), -(-inputs // 4)
    if is_placeholder(weights):
        return placeholder((blocks * rows * fours * block,), np.int32)
    padded = np.pad(weights.astype(np.int64), ((0, blocks * block - channels), (0, 0), (0, 4 * fours - inputs)))
    # Axes: block, pair of channels, channel of it, row, four inputs, which half of the word, which word.
    channel = padded.reshape(blocks, block // 2, 2, rows, fours, 2, 2)
    half = (256 * channel[:, :, 1] + channel[:, :, 0] + offset) & 0xFFFF
    word = half[..., 0, :] | half[..., 1, :] << 16
    return np.asarray(fixedpoint.wrap32(word.transpose(0, 2, 3, 4, 1)).astype(np.int32).ravel())


def two_by_two(weights: Array) -> Array:
    """(channels, rows, inputs) int8 -> int32 words for int16 inputs, by blocks of four channels.

    A word has two channels' weights for an input in its lower half, and for the next input in its upper one.
    """
    channels, rows, inputs = weights.shape
    blocks, twos = -(-channels // 4), -(-inputs // 4) * 2
    if is_placeholder(weights):
        return placeholder((blocks * rows * twos * 2,), np.int32)
    padded = np.pad(weights, ((0, 4 * blocks - channels), (0, 0), (0, 2 * twos - inputs)))
    # Axes: block, pair of channels, channel of it, row, two inputs, which of them.
    own = padded.reshape(blocks, 2, 2, rows, twos, 2).transpose(0, 3, 4, 1, 5, 2)
    return np.ascontiguousarray(own).reshape(-1, 4).view("<i4").astype(np.int32).ravel()


def bytes_of_four(weights: Array) -> Array:
    """(channels, rows, inputs) int8 -> int32 words for MLA: the weights of four channels for an input."""
    blocks = -(-len(weights) // 4)
    flat = weights.reshape(len(weights), -1)
    if is_placeholder(weights):
        return placeholder((blocks * flat.shape[1],), np.int32)
    whole = np.pad(flat, ((0, 4 * blocks - len(flat)), (0, 0))).reshape(blocks, 4, -1)
    return np.ascontiguousarray(whole.transpose(0, 2, 1)).view("<i4").astype(np.int32).ravel()


def with_constants(weights: Array, own: Array) -> Array:
    """The words of `weights`, and behind those of four channels `own` (channels, size)."""
    blocks = -(-len(own) // 4)
    if is_placeholder(weights) or is_placeholder(own):
        return placeholder((weights.size + blocks * 4 * own.shape[1],), np.int32)
    constants = np.pad(own, ((0, 4 * blocks - len(own)), (0, 0))).reshape(blocks, -1)
    return np.asarray(np.concatenate([weights.reshape(blocks, -1), constants], axis=1).ravel())


def padded(own: Array, channels: int) -> Array:
    """The constants (channels, size) of a layer, flat, with zeros up to `channels`."""
    if is_placeholder(own):
        return placeholder((channels * own.shape[1],), np.int32)
    return np.pad(own, ((0, channels - len(own)), (0, 0))).ravel()
