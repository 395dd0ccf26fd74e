"""Depthwise convolutions in assembly for MVE: eight channels of a pixel in each vector of 16-bit numbers.

Products of two taps are added up in 16 bits, which a pair of weights whose sizes are 255 at most cannot leave, and then
in 32 bits, channels 0, 2, 4 and 6 in one vector and 1, 3, 5 and 7 in the other. Weights lie in the order of that walk,
channels padded to eight with zeros, and so do the numbers of requantization (mve.py). Where windows reach over a
border, the rows under them are copied to a patch with the zero point around them, so that the products see no border.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnbuild.contract import Assembly, LayerView, Overlap, Source
from nnbuild.kernels import mve
from nnbuild.network import Array
from nnbuild.ops.spatial import Window
from nnbuild.placeholder import is_placeholder, packed, placeholder
from nnbuild.ram import overlap
from nnbuild.target import Target

WINDOWS = (
    *("const int8_t *window", "int8_t *output", "const int8_t *weights", "const int32_t *scaling"),
    *("int32_t row", "int32_t channels", "int32_t step", "int32_t windows"),
)
BLOCK = 8
"""Channels that are computed together."""
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Lanes of both vectors of sums."""
TAPS = 64
"""The largest window: all its taps are written one after the other."""
NEAR, FAR = 127, 4095
"""How far a load reaches from its base, and by how much one instruction moves that."""


@dataclass(frozen=True, slots=True)
class Tap:
    """One input of each channel: `offset` from the pointer, which is moved by `move` bytes first.

    With `down` it is also moved to the next row.
    """

    down: bool
    move: int
    offset: int


def walk(rows: int, columns: int, step: int) -> tuple[int, tuple[Tap, ...]]:
    """Where the pointer starts in a window, and its taps, row by row; columns are `step` bytes apart.

    Every row is walked with the same bases, each as far ahead of the tap that needs it as loads reach back.
    """
    offsets = [column * step for column in range(columns)]
    bases: list[int] = []
    for offset in offsets:
        near = bases and abs(offset - bases[-1]) <= NEAR
        bases.append(bases[-1] if near else max(other for other in offsets if other - offset <= NEAR))
    taps, at = [], bases[0]
    for row in range(rows):
        for offset, base in zip(offsets, bases, strict=True):
            taps.append(Tap(row > 0 and offset == 0, base - at, offset - base))
            at = base
    return bases[0], tuple(taps)


def supports(view: LayerView, target: Target) -> str | None:
    """As mve.py; and windows that the pointer can walk."""
    reason = mve.supports(view, target)
    if reason is not None:
        return reason
    place = view.params.window
    if place.kernel[0] * place.kernel[1] > TAPS:
        return f"its assembly is for windows of at most {TAPS}"
    reach = place.extent(1) * place.input[2]
    return None if reach <= FAR else "its windows are too wide for its assembly"


def _width(place: Window) -> int:
    """Pixels of a row in the patch, or in the input."""
    return (place.output[1] - 1) * place.stride[1] + place.extent(1) if place.padded else place.input[1]


def scratch(view: LayerView, target: Target) -> int:
    """The patch, where windows reach over a border."""
    place = view.params.window
    return place.extent(0) * _width(place) * place.input[2] if place.padded else 0


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Pixel by pixel, upwards, eight channels after the other; where rows are copied, all of an output row's before."""
    place: Window = view.params.window
    own, rows = overlap.by_channels(place), overlap.by_lines(place, place.extent(0), 1)
    below = max(own.below, overlap.below(*rows, whole=True)) if place.padded else own.below
    return {0: Overlap(below, view.inputs[0].bytes)}


def ordered(weights: Array) -> Array:
    """(taps, channels) int8 -> for each eight channels and tap the weights, flat."""
    taps, channels = weights.shape
    blocks = -(-channels // BLOCK)
    if is_placeholder(weights):
        return placeholder((blocks * taps * BLOCK,), np.int8)
    padded = np.pad(weights, ((0, 0), (0, blocks * BLOCK - channels)))
    return np.ascontiguousarray(padded.reshape(taps, blocks, BLOCK).transpose(1, 0, 2)).ravel()


def _pairs_fit(weights: Array) -> bool:
    """Whether no pair of taps of (taps, channels) int8 can leave 16 bits."""
    sizes = np.abs(weights.astype(np.int16))
    even = len(sizes) // 2 * 2
    return bool((sizes[0:even:2] + sizes[1:even:2] <= 255).all())


def render(view: LayerView, target: Target) -> Source:
    """All windows of a row of outputs at a time."""
    from nnbuild.ops import depthwise_conv2d

    place, weights = view.params.window, view.constants["weights"]
    channels, taps = place.input[2], place.kernel[0] * place.kernel[1]
    by_channel = packed(weights.transpose(2, 0, 1))
    by_tap = weights.reshape(taps, channels)
    found = mve.scaling(view, by_channel.reshape(channels, taps), ORDER) if _pairs_fit(by_tap) else None
    if found is None:
        return depthwise_conv2d.render(view, target)
    form, numbers = found
    start, steps = walk(place.kernel[0], place.kernel[1], place.dilation[1] * channels)
    window = {"form": form, "start": start, "taps": steps, "rest": channels % BLOCK > 0}
    values = {"p": view.params, "w": place, "form": form, "width": _width(place)}
    gather = mve.gather(view.params.input_zero_point, _copied(place))
    runs = {"call": place.output[0], "window": place.pixels, "block": place.pixels * -(-channels // BLOCK)}
    own = Assembly("mve_depthwise.S.j2", "window", "void", WINDOWS, window, _length(window), runs)
    return Source(
        "mve_depthwise.c.j2",
        {**values, **_row(place)},
        {"weights": ordered(by_tap), "scaling": numbers},
        assembly=(gather, own) if place.padded else (own,),
    )


def _row(place: Window) -> dict[str, int]:
    """Bytes of a row of the patch: those in front of the input's, and the input's."""
    width, channels = _width(place), place.input[2]
    lead = min(place.pad[1], width)
    return {"lead": lead * channels, "copied": min(place.input[1], width - lead) * channels}


def _copied(place: Window) -> dict[mve.Copied, int]:
    """How often mve_depthwise.c.j2 calls mve_gather.S.j2 for what: rows in the input, and those outside."""
    inside, (lead, copied), row = place.clipped()[0], _row(place).values(), _width(place) * place.input[2]
    outside = place.output[0] * place.kernel[0] - inside
    return {mve.Copied(lead, copied, 0, 1, row - lead - copied): inside, mve.Copied(0, copied, 0, 0, row): outside}


def _length(window: Mapping[str, Any]) -> int:
    """Halfwords of mve_depthwise.S.j2."""
    taps: tuple[Tap, ...] = window["taps"]
    moves = sum(tap.down + 2 * (tap.move != 0) for tap in taps)
    sums = 6 * len(taps) + 2 * (len(taps) // 2) + 8 * -(-len(taps) // 2)
    return 77 + moves + sums + (5 + 2 * len(taps) if window["rest"] else 0) + (8 if window["form"].lowered else 0)


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of mve_depthwise.S.j2 and mve_gather.S.j2, and those of C around them."""
    place = view.params.window
    blocks, taps = place.pixels * -(-place.input[2] // BLOCK), place.kernel[0] * place.kernel[1]
    own = {"line": place.output[0], "window": place.pixels, "block": blocks, "tap": blocks * taps}
    own |= {"rest_tap": blocks * taps if place.input[2] % BLOCK else 0}
    if not place.padded:
        return own
    rows = place.output[0] * place.kernel[0]
    return {**own, "row": rows, "copied": rows * -(-_width(place) * place.input[2] // mve.LANES)}
