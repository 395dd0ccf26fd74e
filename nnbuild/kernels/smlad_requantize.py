"""How sums become outputs where a core gives the upper half of a product (SMMUL, SMULL): two forms, both exact.

A line takes few instructions: y = ((sum << raised) + bias) * multiplier >> 48. The reference rises with its sum, so the
line is proved at the 255 sums at which the reference's output changes; the fraction of the bias leaves a choice, and
`line` looks for a multiplier that has one. There is none for most layers with outputs on both sides of zero, since
halves are rounded away from zero there, and where the scales of channels are too far apart.

Otherwise the reference's own roundings, with constants that hold rounding and zero point; a scale of a half or more has
neither form. Layers with 16-bit activations have a third one, which is one rounded product (wide_requantize.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nnbuild import fixedpoint
from nnbuild.contract import LayerView
from nnbuild.kernels.exact_requantize import Channels
from nnbuild.kernels.wide_requantize import Upper
from nnbuild.network import INT8_MAX, INT8_MIN, Array
from nnbuild.placeholder import is_placeholder, placeholder

RAISED = (12, 11, 10, 9, 13, 14)
"""How far a line shifts its sums: what fits first, so that layers have equal code."""
NEIGHBOURS = 64
"""Multipliers that are tried around the nearest."""
UNBOUNDED = np.int64(1) << 62


@dataclass(frozen=True, slots=True)
class Requantization:
    """The form of a layer; kernels read the integers of a channel side by side.

    With `raised` a channel has two, bias and multiplier, and (((sum << raised) + bias) * multiplier >> 48) is its
    output plus 128, clamped to [0, 255].

    Without, it has four: with a = sum + bias, s >= 1 and c = 2^(s - 1) + zero point * 2^s they are 2 * bias,
    multiplier, c and s, and an output is (top(2 * a * multiplier) + c) >> s, clamped to [low, high]; top is the upper
    half of 64 bits, rounded to nearest (`nearest`), or down where the network rounds once. Rounding twice takes halves
    away from zero, so negative tops are lowered by one (`lowered`), which a layer without outputs below its zero point
    can leave out: there all negative tops end at the clamp.
    """

    raised: int
    nearest: bool
    lowered: bool
    low: int
    high: int
    bits: ClassVar[int] = 0

    @property
    def size(self) -> int:
        """Words of a channel."""
        return 2 if self.raised else 4

    @property
    def full(self) -> bool:
        """Whether outputs are clamped to what a byte holds."""
        return (self.low, self.high) == (INT8_MIN, INT8_MAX)


def requantization(
    view: LayerView, weights: Array, lines: bool = True, scaled: int = 0
) -> tuple[Requantization, Array] | None:
    """The form of a layer, and (channels, size) int32: a line where there is one and `lines` are served.

    `weights` is (channels, taps), and sums are of raw inputs: the zero point is folded into the bias; a kernel shifts
    them to the left by `scaled` on its way. None where a channel's scale is a half or more, or where its numbers do
    not fit; a placeholder's have no values.
    """
    params, constants = view.params, view.constants
    twice = not fixedpoint.rounds_once()
    lowered = twice and params.activation_min < params.output_zero_point
    form = Requantization(0, twice, lowered, params.activation_min, params.activation_max)
    lined = Requantization(RAISED[0], False, False, form.low, form.high)
    lines = lines and form.full
    arrays = [weights, constants["bias"], constants["multiplier"], constants["shift"]]
    if any(is_placeholder(array) for array in arrays):
        form = lined if lines and not lowered else form
        return form, placeholder((len(weights), form.size), np.int32)
    taps, bias, multiplier, shift = (array.astype(np.int64) for array in arrays)
    bias = bias - params.input_zero_point * taps.sum(axis=1)
    lowest, highest = (pick(taps * INT8_MIN, taps * INT8_MAX).sum(axis=1) for pick in (np.minimum, np.maximum))
    if max(-lowest.min(initial=0), highest.max(initial=0)) >> (31 - scaled):
        return None
    if lines and not lowered:
        zero, span = params.output_zero_point - form.low, form.high - form.low
        channels = Channels(bias, multiplier, shift, lowest, highest, zero, span)
        for raised in RAISED:
            found = line(channels, raised)
            if found is not None:
                return Requantization(raised, False, False, form.low, form.high), found
    own = _rounded(params, form, Channels(bias, multiplier, shift, lowest, highest, 0, 0))
    return None if own is None else (form, own)


def _rounded(params: object, form: Requantization, channels: Channels) -> Array | None:
    """The four integers of each channel; see `Requantization`."""
    bias, multiplier, shift = channels.bias, channels.multiplier, channels.shift
    reach = np.maximum(np.abs(bias + channels.lowest), np.abs(bias + channels.highest))
    zero = params.output_zero_point  # type: ignore[attr-defined]
    # Channels that never change, such as those without weights, may have any scale: no sum counts in them.
    ends = [fixedpoint.requantize(bias + end, multiplier, shift) for end in (channels.lowest, channels.highest)]
    first, last = (np.clip(end + zero, form.low, form.high) for end in ends)
    changes = first != last
    bias, multiplier, reach = (np.where(changes, array, 0) for array in (bias, multiplier, reach))
    right = np.where(changes, -shift, 1)
    at_rest, up = np.where(changes, zero, first), np.maximum(right, 1)
    added = (np.int64(1) << up - 1) + (at_rest << up)
    if (right < 1).any() or (reach >= 2**30).any() or ((reach * multiplier >> 31) + 1 + np.abs(added) >= 2**31).any():
        return None
    return np.asarray(np.stack([2 * bias, multiplier, added, right], axis=1).astype(np.int32))


def line(channels: Channels, raised: int) -> Array | None:
    """(channels, 2) int32: bias and multiplier of a line through all thresholds; None where a channel has none.

    The line must reach k at the threshold of k and not at the sum below it, for every k that sums reach. For a given
    multiplier that bounds the bias from both sides, in integers.
    """
    slopes = channels.multiplier.astype(np.float64) * np.exp2(channels.shift - 31.0 + 48 - raised)
    fixed = channels.lowest == channels.highest  # without weights the slope does not matter
    nearest = np.where(fixed, 2.0**30, np.minimum(np.rint(slopes), 2.0**31)).astype(np.int64)
    if (nearest < 1).any() or (nearest >= 2**31).any():
        return None
    thresholds, wanted = channels.thresholds(), np.arange(1, channels.span + 1) << 48
    reached = thresholds <= channels.highest[:, None]
    kept = thresholds > channels.lowest[:, None]
    own, left = np.zeros((len(nearest), 2), np.int64), np.arange(len(nearest))
    for step in range(NEIGHBOURS):
        multiplier = np.clip(nearest[left] + (step + 1) // 2 * (1 if step % 2 else -1), 1, 2**31 - 1)
        ends = -(-wanted // multiplier[:, None]) - (thresholds[left] << raised)
        least = np.where(reached[left], ends, -UNBOUNDED).max(axis=1)
        most = np.where(kept[left], ends + (1 << raised) - 1, UNBOUNDED).min(axis=1)
        bias = np.where(least == -UNBOUNDED, most, np.where(most == UNBOUNDED, least, (least + most) >> 1))
        own[left] = np.stack([bias, multiplier], axis=1)
        left = left[least > most]
        if not left.size:
            break
    reach = np.abs(np.stack([channels.lowest, channels.highest]) * (1 << raised) + own[:, 0])
    if left.size or reach.max(initial=0) >= 2**31 or np.abs(own[:, 0]).max(initial=0) >= 2**31:
        return None
    return np.asarray(own.astype(np.int32))


# How long the macros of smlad_requantize.S.j2 are, in halfwords.


def output_length(form: Requantization, dsp: bool = True) -> int:
    """`output` of one sum, without a scale."""
    clamp = 2 if form.full else 2 + sum(2 if limit >= 0 else 4 for limit in (form.low, form.high))
    if dsp:
        return (9 if form.lowered else 6) + clamp
    return 7 + (2 if form.nearest else 0) + (2 if form.lowered else 0) + clamp


def outputs_length(form: Requantization | Upper, dsp: bool = True) -> int:
    """`outputs`: four channels of two pixels."""
    if isinstance(form, Upper):
        limits = 0 if form.saturates else sum(4 if limit < 0 else 2 for limit in (form.low, form.high))
        clamp = 2 if form.saturates else 6
        own = 8 * (4 + (2 if form.zero else 0) + clamp) + limits
        return own + 2 * 2 + (4 * 2 if form.bits == 16 else 6 * 2)
    if form.raised:
        return 60 if dsp else 68
    return 4 * 2 + 8 * output_length(form, dsp) + 2 * 6
