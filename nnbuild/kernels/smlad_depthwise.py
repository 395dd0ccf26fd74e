"""Depthwise convolutions in assembly for cores with the DSP extension and without MVE; see smlad_strips.py too.

Four channels of a pixel are one load; SXTB16 makes the pairs (0, 2) and (1, 3) of them, weights lie in that order as
16-bit numbers, and SMLABB and SMLATT multiply the halves. Two outputs are computed together and share each load of
weights: one below the other, or side by side. Where windows reach over a border, C copies the rows under them into a
patch with the zero point around them, so that assembly sees no border. Where the number of channels is no multiple of
four, the last four overlap the ones before, so that nothing is read or written beside the tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.kernels import smlad, smlad_strips
from nnbuild.kernels.smlad_requantize import outputs_length, requantization
from nnbuild.network import Array
from nnbuild.ops.spatial import Window
from nnbuild.placeholder import is_placeholder, packed, placeholder
from nnbuild.target import Target

COPY = ("const int8_t *from", "int8_t *to", "int32_t length")
WINDOWS = (
    *("const int8_t *window", "int8_t *output", "const int32_t *weights", "const int32_t *scaling"),
    *("int32_t row", "int32_t step", "const int32_t *end"),
)
TAPS = 64
"""The largest window: all its inputs are written one after the other."""
REACH = 4095
"""Bytes that a load reaches from its base."""
COPIED = 8
"""The most words that one pass of the copying loop takes."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where assembly finds windows: `width` pixels of each of `count` rows, in the patch or in the input.

    With `vertical` two outputs lie one below the other; `second` is from the first one's window to the second one's
    in bytes, 0 where the map has one output along that axis and both are the same.
    """

    count: int
    width: int
    vertical: bool
    second: int


def rows(place: Window) -> Rows:
    """The rows of a layer."""
    channels = place.input[2]
    width = (place.output[1] - 1) * place.stride[1] + place.extent(1) if place.padded else place.input[1]
    reach = (place.kernel[1] - 1) * place.dilation[1] * channels
    below, beside = place.stride[0] * width * channels, place.stride[1] * channels
    vertical = place.output[0] >= place.output[1] and below + reach <= REACH
    count = place.extent(0) + (place.stride[0] if vertical and place.output[0] > 1 else 0)
    second = below if vertical else beside
    return Rows(count, width, vertical, second if place.output[0 if vertical else 1] > 1 else 0)


def supports(view: LayerView, target: Target) -> str | None:
    """As smlad.py; and windows that loads reach, of at least four channels."""
    return smlad.supports(view, target) or _reaches(view.params.window, target)


def supports_mla(view: LayerView, target: Target) -> str | None:
    """The same on ARMv7-M without DSP."""
    return smlad.supports_mla(view, target) or _reaches(view.params.window, target)


def _reaches(place: Window, target: Target) -> str | None:
    if place.input[2] < 4:
        return "its assembly is for at least 4 channels"
    if target.dsp and smlad_strips.serves(place):
        return None
    if place.kernel[0] * place.kernel[1] > TAPS:
        return f"its assembly is for windows of at most {TAPS}"
    reach = (place.kernel[1] - 1) * place.dilation[1] * place.input[2] + rows(place).second
    return None if reach <= REACH else "its windows are too wide for its assembly"


def scratch(view: LayerView, target: Target) -> int:
    """The patch, where windows reach over a border."""
    place = view.params.window
    if target.dsp and smlad_strips.serves(place):
        return smlad_strips.scratch(place)
    used = rows(place)
    return used.count * used.width * place.input[2] if place.padded else 0


def _order(channels: int) -> Array:
    """The channels as assembly takes them: fours, of which the last may overlap the one before."""
    starts = [*range(0, channels - 3, 4), *([channels - 4] if channels % 4 else [])]
    return (np.array(starts)[:, None] + np.arange(4)).ravel()


def words(weights: Array) -> Array:
    """(taps, channels) int8 -> int32: for each four channels and tap a word of (0, 2) and one of (1, 3)."""
    taps, channels = weights.shape
    order = _order(channels)
    if is_placeholder(weights):
        return placeholder((order.size // 2 * taps,), np.int32)
    fours = weights.astype(np.int64)[:, order].reshape(taps, -1, 4)
    word = (fours[..., :2] & 0xFFFF) | fours[..., 2:] << 16
    return np.asarray(word.transpose(1, 0, 2).astype(np.int32).ravel())


def bytes_of_four(weights: Array) -> Array:
    """(taps, channels) int8 -> the same for cores without SMLAD: for each four channels and tap four bytes."""
    taps, channels = weights.shape
    order = _order(channels)
    if is_placeholder(weights):
        return placeholder((order.size * taps,), np.int8)
    return np.asarray(weights[:, order].reshape(taps, -1, 4).transpose(1, 0, 2).ravel())


def render(view: LayerView, target: Target) -> Source:
    """Two windows at a time, all channels of both."""
    from nnbuild.ops import depthwise_conv2d

    place, weights = view.params.window, view.constants["weights"]
    channels, taps = place.input[2], place.kernel[0] * place.kernel[1]
    by_channel = packed(weights.transpose(2, 0, 1))
    found = requantization(view, by_channel.reshape(channels, taps))
    if found is None:
        return depthwise_conv2d.render(view, target)
    form, own = found
    order, used = _order(channels), rows(place)
    if target.dsp and smlad_strips.serves(place):
        if is_placeholder(weights) or is_placeholder(own):
            by_four = placeholder((*weights.shape[:2], order.size), np.int8)
            return smlad_strips.source(view, form, by_four, placeholder((order.size, form.size), np.int32))
        return smlad_strips.source(view, form, weights[..., order], own[order])
    scaling = smlad.padded(own if is_placeholder(own) else own[order], order.size)
    fours, tail = divmod(max(min(place.input[1], used.width - place.pad[1]), 0) * channels, 4)
    copy = {"unrolled": smlad.unrolled(fours, COPIED), "tail": tail}
    columns = tuple(column * place.dilation[1] * channels for column in range(place.kernel[1]))
    shape = {"rows": place.kernel[0], "columns": columns, "second": used.second, "rest": channels % 4}
    values = {"p": view.params, "w": place, "form": form, "rows": used, "words": order.size, "dsp": target.dsp}
    values["copied"] = 4 * fours + tail
    length = 31 + (32 if target.dsp else 40) * taps + 3 * place.kernel[0] + (12 if channels % 4 else 6)
    length += outputs_length(form, target.dsp)
    parameters = tuple(
        WINDOWS if target.dsp else (text.replace("int32_t *weights", "int8_t *weights") for text in WINDOWS)
    )
    form_and_shape = {"form": form, "dsp": target.dsp, **shape}
    runs = {"call": _pairs(place, used), "block": _pairs(place, used) * -(-channels // 4)}
    windows = Assembly("smlad_depthwise.S.j2", "window", "void", parameters, form_and_shape, length, runs)
    copied = {"call": _copies(place, used)}
    if fours:
        copied["pass"] = copied["call"] * fours // copy["unrolled"]
    copying = Assembly("smlad_copy.S.j2", "gather", "void", COPY, copy, _copy_length(**copy), copied)
    by_tap = weights.reshape(taps, channels)
    data = {"weights": words(by_tap) if target.dsp else bytes_of_four(by_tap), "scaling": scaling}
    return Source("smlad_depthwise.c.j2", values, data, assembly=(copying, windows) if place.padded else (windows,))


def _copy_length(unrolled: int, tail: int) -> int:
    """Halfwords of smlad_copy.S.j2."""
    loop = 5 + 2 * (unrolled - unrolled // 2) + 4 * (unrolled // 2) if unrolled else 0
    return 1 + loop + 2 * tail


def _down(place: Window, used: Rows) -> list[int]:
    """The lines of outputs at which C copies rows, the upper ones of pairs where these lie one below the other."""
    height = place.output[0]
    return [min(y, max(height - 2, 0)) for y in range(0, height, 2)] if used.vertical else list(range(height))


def _pairs(place: Window, used: Rows) -> int:
    """Pairs of outputs."""
    return len(_down(place, used)) * (place.output[1] if used.vertical else -(-place.output[1] // 2))


def _copies(place: Window, used: Rows) -> int:
    """Rows of inputs that are copied in one inference; others are filled with zero points."""
    first = (y * place.stride[0] - place.pad[0] for y in _down(place, used))
    return sum(0 <= top + row < place.input[0] for top in first for row in range(used.count))


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of smlad_depthwise.S.j2 and smlad_copy.S.j2, and those of C around them."""
    place, used = view.params.window, rows(view.params.window)
    if target.dsp and smlad_strips.serves(place):
        return smlad_strips.trips(place)
    pairs = _pairs(place, used)
    blocks = pairs * -(-place.input[2] // 4)
    taps = place.kernel[0] * place.kernel[1]
    own = {"pair": pairs, "block": blocks, "tap": blocks * taps, "row": blocks * place.kernel[0]}
    if not place.padded:
        return own
    copied = len(_down(place, used)) * used.count
    return {**own, "copy": copied, "copied": copied * used.width * place.input[2]}
