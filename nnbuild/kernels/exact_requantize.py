"""Requantization by a straight line in 32 bits, proved equal to the reference for every accumulator that can occur.

ARMv6-M has no product of more than 32 bits, and the reference needs one of 64. But the reference is monotone in the
accumulator, so its at most 255 thresholds, the smallest accumulators that reach each value, say all about it. With a
sum `a` and y counted from the layer's lower clamp,

    y = (a * m_high + ((a >> dropped) * m_low >> low - dropped) + offset) >> high, clamped to [0, span],

and `search` looks for integers whose line passes between each threshold and the sum below it. `dropped` bits of `a`
keep the second product within 32 bits; where sums are longer, or no line bears what is dropped, that product is put
together from the halves of `a` (`wide`), which takes a third multiplication. Where the line itself would leave 32 bits
before a sum is at its end, as with sums of many inputs, sums are cut to what is around their thresholds first
(`bounded`), which takes two more integers a channel.

Rounding twice takes halves away from zero, a jump at zero that no line has: a layer that gives out both signs takes a
`step` off what is negative, and counts y from zero until it is shifted. `proves` evaluates these very operations at
every threshold and below it, with all limits of 32 bits; nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
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
WIDE = 16
"""Bits of a slope below `high`, with three products."""
NARROW = ((13, 0), (15, 3))
"""With two: these bits, and those that the second product drops; tried in this order, few, so that layers share code.
Layers with outputs on both sides of zero, which are fewer, take the last of them."""
HIGHS = (19, 18, 21, 17, 20, 22, 23, 24, 16, 14, 12, 9, 6, 3)
"""Values of `high`, in the order in which they are tried."""
LONG = 600
"""Inputs from which on sums are bounded in any case, so that their shape alone says what a layer takes. Measured: 576
of ic01 have lines that reach to their ends, 640 of ad01 have none."""
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
    """What all channels of a layer have in common in the module's formula.

    `low` are the bits of a slope below `high`, which is 0 for layers with outputs on both sides of zero, where each
    channel has its own.
    """

    bounded: bool
    low: int
    dropped: int
    high: int
    span: int
    two_sided: bool

    @property
    def size(self) -> int:
        """Words of a channel."""
        return 2 * self.bounded + 2 + self.two_sided

    @property
    def unsigned(self) -> bool:
        """Whether what is shifted has 32 bits without a sign, because bounded sums begin at y = 0."""
        return self.bounded and not self.two_sided

    @property
    def wide(self) -> bool:
        """Whether there are three products."""
        return self.low == WIDE

    def factors(self, slopes: Array) -> tuple[Array, Array]:
        """m_high and m_low. With two products m_high is rounded to nearest: a signed m_low is one bit shorter."""
        high = slopes + (0 if self.wide else 1 << self.low - 1) >> self.low
        return high, slopes - (high << self.low)

    def products(self, slopes: Array, above: Array) -> Array:
        """What `a` (channels, any) is multiplied to, in units of 2^-low."""
        dropped = above & ((1 << self.dropped) - 1)
        return np.asarray(above * slopes[:, None] - dropped * self.factors(slopes)[1][:, None])


@dataclass(frozen=True, slots=True)
class Line:
    """A form with what each channel has of its own, int64 arrays.

    a = sum, of a bounded form clamp(sum + bias, 0, limit). `slope` is m_high * 2^low + m_low; `high` is that of the
    form or the channel's own. `zero` is that of the channels.
    """

    form: Form
    bias: Array
    limit: Array
    slope: Array
    offset: Array
    steps: Array
    high: Array
    zero: int

    def words(self) -> Array:
        """Of each channel side by side, as kernels read them: int32, flat.

        Bias and limit where sums are bounded; m_high and m_low in the halves of a word; offset; and where there are
        steps, step * 2^16 + high * 2^8 + zero.
        """
        if is_placeholder(self.slope):
            return placeholder((self.form.size * self.slope.size,), np.int32)
        high, low = self.form.factors(self.slope)
        columns = [self.bias, self.limit] if self.form.bounded else []
        columns += [(high << 16) + (low & 0xFFFF), self.offset]
        columns += [(self.steps << 16) + (self.high << 8) + self.zero] if self.form.two_sided else []
        return np.asarray(fixedpoint.wrap32(np.stack(columns, axis=1)).astype(np.int32).ravel())

    def above(self, sums: Array) -> Array:
        """`a` of sums (channels, any)."""
        return np.asarray(np.clip(sums + self.bias[:, None], 0, self.limit[:, None])) if self.form.bounded else sums

    def totals(self, above: Array) -> Array:
        """What is shifted at the end for `a` (channels, any), exact."""
        total = (self.form.products(self.slope, above) >> self.form.low) + self.offset[:, None]
        return np.asarray(total - self.steps[:, None] * (total < 0))

    def values(self, sums: Array) -> Array:
        """y of sums (channels, any)."""
        total, high = self.totals(self.above(sums)), self.high[:, None]
        value = ((total >> high - 1) + 1 >> 1) + self.zero if self.form.two_sided else total >> high
        return np.asarray(np.clip(value, 0, self.form.span))


def requantization(
    view: LayerView,
    weights: Array,
    zero_point: int,
    target: Target,
    raised: int = 0,
    from_lowest: bool = False,
) -> tuple[Form | None, dict[str, Array]]:
    """How a layer's kernel makes outputs from raw sums of input * weight: a form, and the constants that it reads.

    `weights` is (channels, taps). On ARMv6-M a line (`scaling`), where there is one, for sums of inputs plus `raised`,
    or counted `from_lowest`, the smallest that they can be; otherwise None and what the reference has, for sums of
    inputs. The input's zero point is folded into the bias.
    """
    taps = weights.astype(np.int64)
    bias = view.constants["bias"].astype(np.int64) - zero_point * taps.sum(axis=1)
    multiplier, shift = view.constants["multiplier"], view.constants["shift"]
    if target.armv6m:
        ends = taps * (INT8_MIN + raised), taps * (INT8_MAX + raised)
        lowest, highest = (pick(*ends).sum(axis=1) for pick in (np.minimum, np.maximum))
        scale = multiplier.astype(np.int64), shift.astype(np.int64)
        start = bias - raised * taps.sum(axis=1)
        if from_lowest:
            start, lowest, highest = start + lowest, np.zeros_like(lowest), highest - lowest
        channels = Channels(start, *scale, lowest, highest, *_output(view.params))
        line = search(channels, long=taps.shape[1] >= LONG)
        if line is not None:
            return line.form, {"scaling": line.words()}
    return None, {"bias": bias.astype(np.int32), "multiplier": multiplier, "shift": shift}


def single_requantization(
    params: Any, multiplier: int, shift: int, reach: tuple[int, int], target: Target
) -> tuple[Form | None, list[str]]:
    """The form for a layer with one multiplier whose sums run from reach[0] to reach[1], and its integers in C.

    None without integers on other cores than ARMv6-M, and where there is no line.
    """
    if not target.armv6m:
        return None, []
    bias, *given = (np.array([number], np.int64) for number in (0, multiplier, shift, *reach))
    line = search(Channels(bias, given[0], given[1], given[2], given[3], *_output(params)))
    if line is None:
        return None, []
    return line.form, [f"({number})" if number < 0 else str(number) for number in line.words().tolist()]


def _output(params: Any) -> tuple[int, int]:
    """Zero point and span, as `Channels` has them."""
    return params.output_zero_point - params.activation_min, params.activation_max - params.activation_min


def search(channels: Channels, long: bool = False) -> Line | None:
    """A line for every channel, proved; None where one has none. A placeholder's line has no values.

    Sums of a `long` layer are bounded in any case.
    """
    arrays = (channels.bias, channels.multiplier, channels.lowest, channels.highest)
    if any(is_placeholder(array) for array in arrays):
        unknown = placeholder((channels.bias.size,), np.int64)
        form = Form(long, *NARROW[-1], HIGHS[0], channels.span, channels.two_sided)
        return Line(form, unknown, unknown, unknown, unknown, unknown, unknown, channels.zero)
    if channels.span == 0 or (channels.highest - channels.lowest).max() >= 2**31 - 1:
        return None
    thresholds = channels.thresholds()
    for bounded in (True,) if long else (False, True):
        bias = 1 - thresholds[:, 0] if bounded else np.zeros_like(channels.bias)
        seen = _cut(channels, thresholds, bias) if bounded else channels
        for form, high in _forms(seen, bounded):
            line = _fitted(seen, thresholds + bias[:, None], form, high)
            if line is not None:
                line = replace(line, bias=bias)
                if proves(line, channels, thresholds):
                    return line
    return None


def proves(line: Line, channels: Channels, thresholds: Array) -> bool:
    """Whether the line, computed in 32 bits, equals the reference for every sum of every channel.

    Both rise with the sum. So it is enough that the line reaches each value at its threshold and not below it, and that
    nothing leaves 32 bits at either end of what it is computed for.
    """
    wanted = np.arange(1, channels.span + 1)
    reaches = (line.values(thresholds) >= wanted) | (thresholds > channels.highest[:, None])
    stays = (line.values(thresholds - 1) < wanted) | (thresholds <= channels.lowest[:, None])
    return _fits(line, channels) and bool(reaches.all() and stays.all())


def _fits(line: Line, channels: Channels) -> bool:
    """Whether the line rises, and nothing leaves its place in a word or 32 bits."""
    form = line.form
    high, low = form.factors(line.slope)
    sums = np.stack([channels.lowest, channels.highest], axis=1)
    above = line.above(sums)
    totals = line.totals(above) + form.two_sided * (1 << line.high[:, None] - 1)
    held = [line.offset, above, totals - form.unsigned * 2**31]
    held += [line.bias, line.limit, sums + line.bias[:, None]] if form.bounded else []
    held += [] if form.wide else [(above >> form.dropped) * low[:, None]]
    rises = (high + (low << form.dropped >> form.low) >= 0) & (line.slope >= 0)
    placed = (high < 1 << 16) & (line.steps >= 0) & (line.steps < 1 << 16) & (line.high > 0)
    return bool((rises & placed).all()) and all(_in_32_bits(array) for array in held)


def _in_32_bits(values: Array) -> bool:
    return bool((np.abs(2 * values + 1) < 2**32).all())


def _slopes(channels: Channels) -> Array:
    """The reference's own, as real numbers."""
    return channels.multiplier.astype(np.float64) * np.exp2(channels.shift.astype(np.float64) - 31)


def _cut(channels: Channels, thresholds: Array, bias: Array) -> Channels:
    """The channels as bounded sums see them: from 0, below the first threshold, to the last one."""
    limit = np.maximum(np.minimum(thresholds[:, -1], channels.highest) + bias, 0)
    return replace(channels, bias=channels.bias - bias, lowest=np.zeros_like(limit), highest=limit)


def _forms(channels: Channels, bounded: bool) -> Iterator[tuple[Form, Array]]:
    """Forms that the sums' ends allow, each with `high` of the channels, in the order in which they are tried."""
    ends = np.stack([channels.lowest, channels.highest])
    zero, slopes = 0 if channels.two_sided else channels.zero, _slopes(channels)
    reached = np.abs((ends + channels.bias) * slopes + zero).max(axis=0) + 0.5
    bits = 31 + (bounded and not channels.two_sided) - np.log2(reached)
    most = np.floor(np.minimum(bits, 16 - np.log2(np.maximum(slopes, 2.0**-14)))).astype(np.int64)
    if channels.two_sided:
        highs = [(0, most - less) for less in range(3)]
    else:
        highs = [(high, np.full_like(most, high)) for high in HIGHS if high <= most.min()]
    longest = int(np.abs(ends).max())
    narrow = NARROW[-1:] if channels.two_sided else NARROW
    products = [(low, dropped) for low, dropped in narrow if longest < 1 << 32 - low + dropped] + [(WIDE, 0)]
    for low, dropped in products:
        for common, high in highs:
            if high.min() > 0:
                yield Form(bounded, low, dropped, common, channels.span, channels.two_sided), high


@dataclass(frozen=True, slots=True)
class _Demands:
    """What a line must do in each channel, in units of 2^-low: reach `targets` at `sums`, and not below them.

    Sums that cannot occur demand nothing: `reached` and `kept` say which of both count.
    """

    targets: Array
    sums: Array
    reached: Array
    kept: Array

    def of(self, index: Array) -> _Demands:
        """Those of some channels."""
        return _Demands(self.targets[index], self.sums[index], self.reached[index], self.kept[index])


def _fitted(channels: Channels, thresholds: Array, form: Form, high: Array) -> Line | None:
    """A line by the inequalities of all thresholds, to be proved; None where a channel has none.

    For each channel the slopes that can fit are an interval. Two inequalities that a slope breaks bound it from one
    side, so a few steps find a slope that fits, or that there is none.
    """
    one = np.int64(1) << form.low + high
    wanted = np.arange(1, form.span + 1)
    targets = wanted * one[:, None]
    if form.two_sided:
        targets = (wanted - channels.zero) * one[:, None] - (one[:, None] >> 1)
    ends = channels.lowest[:, None], channels.highest[:, None]
    demands = _Demands(targets, thresholds, thresholds <= ends[1], thresholds > ends[0])
    size, top = one.size, (1 << 16 + form.low) - 1
    slopes = np.minimum(np.rint(_slopes(channels) * one.astype(np.float64)), float(top)).astype(np.int64)
    least, most = np.zeros(size, np.int64), np.full(size, top)
    offset, steps, left = np.zeros(size, np.int64), np.zeros(size, np.int64), np.arange(size)
    for count in range(1, STEPS):
        judged = _judged(form, demands.of(left), slopes[left])
        offset[left], steps[left] = judged.offset, judged.steps
        least[left], most[left] = np.maximum(least[left], judged.least), np.minimum(most[left], judged.most)
        left = left[~judged.fits]
        if not left.size:
            return Line(form, np.zeros(size, np.int64), channels.highest, slopes, offset, steps, high, channels.zero)
        if (least[left] > most[left]).any():
            return None
        moved = np.clip(slopes[left], least[left], most[left])
        # Where no bound excludes a slope, its offset is no whole number: its neighbours come next.
        nudged = np.clip(moved + (count if count % 2 else -count), least[left], most[left])
        slopes[left] = np.where(moved == slopes[left], nudged, moved)
    return None


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
    """The tightest inequality for an offset on one side: in units of 2^-low, as a whole number, and its sum."""

    exact: Array
    offset: Array
    at: Array


def _judged(form: Form, demands: _Demands, slopes: Array) -> _Judged:
    """Offsets are whole numbers. A sum counts in the second product without the bits that it drops."""
    unit, kept_bits = np.int64(1) << form.low, -(1 << form.dropped)
    floors = demands.targets - form.products(slopes, demands.sums)
    ceilings = demands.targets - 1 - form.products(slopes, demands.sums - 1)
    sides = [demands.targets >= 0, demands.targets < 0] if form.two_sided else [np.bool_(True)]
    lower = [_tightest(floors, demands.reached & side, demands.sums & kept_bits, unit) for side in sides]
    upper = [_tightest(-ceilings, demands.kept & side, demands.sums - 1 & kept_bits, unit, -1) for side in sides]
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
        run, gap = floor.at - ceiling.at, floor.exact - ceiling.exact
        least = np.where(broken & (run > 0), np.maximum(least, slopes - -gap // np.maximum(run, 1)), least)
        most = np.where(broken & (run < 0), np.minimum(most, slopes + gap // np.minimum(run, -1)), most)
    fits = np.logical_and.reduce([floor.offset <= ceiling.offset for floor, ceiling in pairs])
    return _Judged(fits, offset, steps, least, most)


def _tightest(bounds: Array, valid: Array, sums: Array, unit: np.int64, sign: int = 1) -> _Bound:
    """The largest of `sign` times the bounds, and its offset rounded up."""
    index = np.arange(len(bounds))
    bounds = np.where(valid, bounds, -UNBOUNDED * unit)
    at = bounds.argmax(axis=1)
    return _Bound(sign * bounds[index, at], sign * -(-bounds[index, at] // unit), sums[index, at])


def _between(least: Array, most: Array) -> Array:
    """An offset in the middle, or at the only bound that there is."""
    open_below, open_above = least == -UNBOUNDED, most == UNBOUNDED
    middle = np.where(open_below, most, np.where(open_above, least, (least + most) >> 1))
    return np.asarray(np.where(open_below & open_above, 0, middle))
