"""Requantization by a straight line in 32 bits, proved equal to the reference for every accumulator that can occur.

ARMv6-M has no product of more than 32 bits, and the reference needs one of 64. But the reference is monotone in the
accumulator, so its at most 255 thresholds, the smallest accumulators that reach each value, say all about it. With
`a` counted from below the first threshold and y from the layer's lower clamp,

    y = 0 where a <= 0,  y = span where a >= limit,
    y = (a * m_high + ((a * m_low) >> low) + offset) >> high between them, m = m_high * 2^low + m_low,

and `search` looks for integers whose line passes between each threshold and the accumulator below it. Rounding twice
takes halves away from zero, a jump at zero that no line has: a layer that gives out both signs subtracts a `step` from
sums below `zero` before it shifts. Where a * m_low needs more than 32 bits it is put together from the halves of a
(`wide`), which takes a third multiplication. `proves` then evaluates these very operations at every threshold and
below it, with all limits of 32 bits; nothing is sampled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnbuild import fixedpoint
from nnbuild.contract import LayerView
from nnbuild.network import INT8_MAX, INT8_MIN, Array
from nnbuild.placeholder import is_placeholder, placeholder
from nnbuild.target import Target

STEPS = 40
"""Slopes that are tried for each channel."""
LOWS, WIDE = (14, 12, 10), 16
HIGHS = (21, 19, 23, 24, 17, 15, 12, 9, 6, 3)
"""Values of `low` and `high` in the order in which they are tried: few, so that layers of equal shape share code."""
UNBOUNDED = np.int64(1) << 40
"""Stands for an offset that nothing bounds: far beyond 32 bits."""


@dataclass(frozen=True, slots=True)
class Channels:
    """The reference of a layer's channels: y = requantize(sum + bias) + zero, clamped to [0, span].

    Sums run from `lowest` to `highest`; `zero` is the output's zero point, counted from its lower clamp. Arrays are
    int64 and have one element for each channel.
    """

    bias: Array
    multiplier: Array
    shift: Array
    lowest: Array
    highest: Array
    zero: int
    span: int

    @property
    def two_sided(self) -> bool:
        """Whether outputs lie on both sides of zero and halves are rounded away from it."""
        return 0 < self.zero < self.span and not fixedpoint.rounds_once()

    def values(self, sums: Array) -> Array:
        """y of sums (channels, any)."""
        scaled = fixedpoint.requantize(sums + self.bias[:, None], self.multiplier[:, None], self.shift[:, None])
        return np.asarray(np.clip(scaled + self.zero, 0, self.span))

    def thresholds(self) -> Array:
        """(channels, span): the smallest sum with y >= 1, 2, ..., span; highest + 1 where none has."""
        wanted = np.arange(1, self.span + 1)
        low = np.repeat(self.lowest[:, None], self.span, axis=1)
        high = np.repeat(self.highest[:, None] + 1, self.span, axis=1)
        while (low < high).any():
            middle = (low + high) >> 1
            searching, reached = low < high, self.values(middle) >= wanted
            low = np.where(searching & ~reached, middle + 1, low)
            high = np.where(searching & reached, middle, high)
        return low


@dataclass(frozen=True, slots=True)
class Form:
    """The integers of the module's formula that all channels of a layer have in common.

    `zero` is the sum below which a step is taken off, None where all channels are on one side of zero.
    """

    wide: bool
    low: int
    high: int
    span: int
    zero: int | None

    @property
    def size(self) -> int:
        """Words of a channel."""
        return 4 if self.zero is None else 5


@dataclass(frozen=True, slots=True)
class Line:
    """A form with what each channel has of its own, int64 arrays: a = sum + bias.

    `factors` hold m_high in their upper and m_low in their lower half; `steps` are zeros where the form takes none.
    """

    form: Form
    bias: Array
    limit: Array
    factors: Array
    offset: Array
    steps: Array

    def words(self) -> Array:
        """Bias, limit, factors, offset and step of each channel side by side, as kernels read them: int32, flat."""
        columns = [self.bias, self.limit, self.factors, self.offset, self.steps][: self.form.size]
        if is_placeholder(self.bias):
            return placeholder((len(columns) * self.bias.size,), np.int32)
        return np.asarray(fixedpoint.wrap32(np.stack(columns, axis=1)).astype(np.int32).ravel())

    def sums(self, above: Array) -> Array:
        """What is shifted at the end, exact, for `above` = a (channels, any)."""
        factors, low = self.factors[:, None], above * (self.factors & 0xFFFF)[:, None] >> self.form.low
        total = above * (factors >> 16) + low + self.offset[:, None]
        return np.asarray(total - self.steps[:, None] * (total < (self.form.zero or 0)))


def requantization(
    view: LayerView,
    weights: Array,
    zero_point: int,
    target: Target,
    raised: int = 0,
    from_lowest: bool = False,
) -> tuple[Form | None, dict[str, Array]]:
    """How a layer's kernel makes outputs from raw sums of input * weight: a form, and the constants that it reads.

    `weights` is (channels, taps). On ARMv6-M a line (`scaling`), where there is one; otherwise None and what the
    reference has. The input's zero point is folded into the bias. With a line, sums may be of inputs plus `raised`, or
    counted `from_lowest`, the smallest that they can be.
    """
    taps = weights.astype(np.int64)
    bias = view.constants["bias"].astype(np.int64) - zero_point * taps.sum(axis=1)
    multiplier, shift = view.constants["multiplier"], view.constants["shift"]
    if target.armv6m:
        lowest, highest = (pick(taps * INT8_MIN, taps * INT8_MAX).sum(axis=1) for pick in (np.minimum, np.maximum))
        params = view.params
        zero, span = params.output_zero_point - params.activation_min, params.activation_max - params.activation_min
        wide = multiplier.astype(np.int64), shift.astype(np.int64)
        line = search(Channels(bias, *wide, lowest, highest, zero, span))
        if line is not None:
            raising = -lowest if from_lowest else raised * taps.sum(axis=1)
            if np.abs(line.bias - raising).max(initial=0) < 2**31:
                return line.form, {"scaling": replace(line, bias=line.bias - raising).words()}
    return None, {"bias": bias.astype(np.int32), "multiplier": multiplier, "shift": shift}


def single_requantization(
    params: Any, multiplier: int, shift: int, reach: tuple[int, int], target: Target
) -> tuple[Form | None, list[str]]:
    """The form for a layer with one multiplier whose sums run from reach[0] to reach[1], and its integers in C.

    None without integers on other cores than ARMv6-M, and where there is no line.
    """
    if not target.armv6m:
        return None, []
    zero, span = params.output_zero_point - params.activation_min, params.activation_max - params.activation_min
    bias, *given = (np.array([number], np.int64) for number in (0, multiplier, shift, *reach))
    line = search(Channels(bias, given[0], given[1], given[2], given[3], zero, span))
    if line is None:
        return None, []
    columns = (line.bias, line.limit, line.factors, line.offset, line.steps)
    own = [int(fixedpoint.wrap32(column)[0]) for column in columns]
    return line.form, [f"({number})" if number < 0 else str(number) for number in own]


def search(channels: Channels) -> Line | None:
    """A line for every channel, proved; None where one has none. A placeholder's line has no values."""
    arrays = (channels.bias, channels.multiplier, channels.lowest, channels.highest)
    if any(is_placeholder(array) for array in arrays):
        unknown = placeholder((channels.bias.size,), np.int64)
        form = _form(channels, LOWS[0], HIGHS[0])
        return Line(form, unknown, unknown, unknown, unknown, unknown)
    if channels.span == 0 or (channels.highest - channels.lowest).max() >= 2**31 - 1:
        return None
    thresholds = channels.thresholds()
    bits = int((thresholds[:, -1] - thresholds[:, 0]).max() + 1).bit_length()
    steepest = int(np.floor(np.log2(max(float(_slopes(channels).max()), 2.0**-40))))
    for low in (*(low for low in LOWS if low + bits <= 32), WIDE):
        for high in (high for high in HIGHS if high + steepest <= 15):
            line = _fitted(channels, thresholds, low, high)
            if line is not None and proves(line, channels, thresholds):
                return line
    return None


def proves(line: Line, channels: Channels, thresholds: Array) -> bool:
    """Whether the line, computed in 32 bits, equals the reference for every sum of every channel.

    Both rise with the sum. So it is enough that the line reaches each value at its threshold and not below it, and that
    nothing leaves 32 bits at either end of where it is computed.
    """
    above, limit = thresholds + line.bias[:, None], line.limit[:, None]
    if not (above[:, 0] == 1).all() or not np.array_equal(above[:, -1:], limit) or line.steps.min(initial=0) < 0:
        return False
    for end in (np.ones_like(limit), limit - 1):
        lower, total = (end >> 16 if line.form.wide else end) * (line.factors & 0xFFFF)[:, None], line.sums(end)
        if not ((lower < 2**32) & (total >= 0) & (total < 2**32) | (limit == 1)).all():
            return False
    wanted, high = np.arange(1, channels.span + 1), line.form.high
    reaches = (line.sums(above) >> high >= wanted) | (above >= limit)
    stays = (line.sums(above - 1) >> high < wanted) | (above <= 1)
    return bool(reaches.all() and stays.all())


def _slopes(channels: Channels) -> Array:
    """The reference's own, as real numbers."""
    return channels.multiplier.astype(np.float64) * np.exp2(channels.shift.astype(np.float64) - 31)


def _fitted(channels: Channels, thresholds: Array, low: int, high: int) -> Line | None:
    """A line by the inequalities of all thresholds, to be proved; None where a channel has none.

    For each channel the slopes that can fit are an interval. Two inequalities that a slope breaks bound it from one
    side, so a few steps find a slope that fits, or that there is none.
    """
    one, unit = np.int64(1) << (low + high), np.int64(1) << low
    above = thresholds - thresholds[:, :1] + 1
    limit = above[:, -1]
    slopes = np.minimum(np.rint(_slopes(channels) * float(one)), float((unit << 16) - 1)).astype(np.int64)
    least, most = np.zeros(limit.size, np.int64), np.full(limit.size, (unit << 16) - 1)
    offset, steps, left = np.zeros(limit.size, np.int64), np.zeros(limit.size, np.int64), np.arange(limit.size)
    for count in range(1, STEPS):
        judged = _judged(channels, above[left], slopes[left], one, unit)
        offset[left], steps[left] = judged.offset, judged.steps
        least[left], most[left] = np.maximum(least[left], judged.least), np.minimum(most[left], judged.most)
        left = left[~judged.fits]
        if not left.size:
            break
        if (least[left] > most[left]).any():
            return None
        moved = np.clip(slopes[left], least[left], most[left])
        # Where no bound excludes a slope, its offset is no whole number: its neighbours come next.
        nudged = np.clip(moved + (count if count % 2 else -count), least[left], most[left])
        slopes[left] = np.where(moved == slopes[left], nudged, moved)
    if left.size:
        return None
    factors = slopes // unit << 16 | slopes % unit
    return Line(_form(channels, low, high), 1 - thresholds[:, 0], limit, factors, offset, steps)


def _form(channels: Channels, low: int, high: int) -> Form:
    zero = (channels.zero << high) + (1 << high - 1) if channels.two_sided else None
    return Form(low == WIDE, low, high, channels.span, zero)


@dataclass(frozen=True, slots=True)
class _Judged:
    """Slopes against their inequalities: whether they fit, with which integers, and between which others ones can."""

    fits: Array
    offset: Array
    steps: Array
    least: Array
    most: Array


@dataclass(frozen=True, slots=True)
class _Bound:
    """The tightest inequality for an offset (in units of 2^low) on one side: at which value and `above` it is."""

    offset: Array
    value: Array
    above: Array


def _judged(channels: Channels, above: Array, slopes: Array, one: np.int64, unit: np.int64) -> _Judged:
    """At the threshold of k the line must reach k * one, and below it must not; offsets are multiples of `unit`."""
    wanted = np.arange(1, channels.span + 1)
    sides = [wanted > channels.zero, wanted <= channels.zero] if channels.two_sided else [wanted > 0]
    floors = wanted * one - slopes[:, None] * above
    ceilings = wanted * one - 1 - slopes[:, None] * (above - 1)
    reached, kept = above < above[:, -1:], above > 1
    lower = [_tightest(floors, reached & side, above, wanted, unit) for side in sides]
    upper = [_tightest(-ceilings, kept & side, above - 1, wanted, unit, -1) for side in sides]
    pairs = list(zip(lower, upper, strict=True))
    offset = _between(lower[0].offset, upper[0].offset)
    steps = np.zeros_like(offset)
    if len(sides) == 2:
        pairs.append((lower[1], upper[0]))  # the step must not be negative
        first, last = np.maximum(lower[0].offset, lower[1].offset), np.minimum(upper[0].offset, upper[1].offset)
        below = np.minimum(_between(lower[1].offset, upper[1].offset), upper[0].offset)
        offset = np.where(first <= last, _between(first, last), np.maximum(offset, below))
        steps = np.where(first <= last, 0, offset - below)
    least, most = np.zeros(slopes.size, np.int64), np.full(slopes.size, unit << 16)
    for floor, ceiling in pairs:
        broken = floor.offset > ceiling.offset
        run, rise = floor.above - ceiling.above, (floor.value - ceiling.value) * one + 1
        least = np.where(broken & (run > 0), np.maximum(least, -(-rise // np.maximum(run, 1))), least)
        most = np.where(broken & (run < 0), np.minimum(most, rise // np.minimum(run, -1)), most)
    fits = np.logical_and.reduce([floor.offset <= ceiling.offset for floor, ceiling in pairs])
    return _Judged(fits, offset, steps, least, most)


def _tightest(bounds: Array, valid: Array, above: Array, wanted: Array, unit: np.int64, sign: int = 1) -> _Bound:
    """The largest of `sign` times the bounds, rounded up to a multiple of `unit`."""
    index = np.arange(len(bounds))
    bounds = np.where(valid, bounds, -UNBOUNDED * unit)
    at = bounds.argmax(axis=1)
    return _Bound(sign * -(-bounds[index, at] // unit), wanted[at], above[index, at])


def _between(least: Array, most: Array) -> Array:
    """An offset in the middle, or at the only bound that there is."""
    open_below, open_above = least == -UNBOUNDED, most == UNBOUNDED
    middle = np.where(open_below, most, np.where(open_above, least, (least + most) >> 1))
    return np.asarray(np.where(open_below & open_above, 0, middle))
