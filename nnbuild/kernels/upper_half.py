"""Requantization by the upper half of one product, for cores that multiply to 64 bits.

    y = (upper 32 bits of (sum * 2^left) * factor, plus offset, less `step` for sums below zero) >> right, clamped.

The reference rounds twice, the second time halves away from zero, which is the step. It rises with the sum, so its at
most 255 thresholds say all about it (exact_requantize.py): `upper` takes an offset and a step that fit at each of them
and in front of it, where the very operations of the formula are evaluated. Where none fit, a kernel has the reference's
own form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnbuild.kernels.exact_requantize import Channels
from nnbuild.network import Array

FRACTION = 20
"""The most bits behind the point that a product keeps for its offset."""
UNBOUNDED = 2**30
"""Of an offset that nothing bounds."""


@dataclass(frozen=True, slots=True)
class Upper:
    """The integers of the module's formula."""

    left: int
    factor: int
    offset: int
    step: int
    right: int

    def values(self, sums: Array) -> Array:
        """y of sums (int64), not clamped."""
        raised = (sums << self.left) * self.factor >> 32
        return np.asarray(raised + self.offset - self.step * (sums < 0) >> self.right)


def upper(params: Any, multiplier: int, shift: int, reach: tuple[int, int]) -> Upper | None:
    """The form for a layer with one multiplier, whose sums run from reach[0] to reach[1]; None where there is none.

    y is requantize(sum, multiplier, shift) + zero point, clamped as `params` says.
    """
    low, high = params.activation_min, params.activation_max
    left = 31 - max(1, *map(abs, reach)).bit_length()
    if left < 1 or not multiplier or low == high:
        return None
    # multiplier * 2^(shift - 31) = factor * 2^(left - 32 - right), with a factor of up to 31 bits.
    fraction, exponent = math.frexp(multiplier * 2.0 ** (shift + 1 - left))
    right = min(FRACTION, 31 - exponent)
    factor = round(fraction * 2.0 ** (exponent + right))
    if right < 1 or not 0 < factor < 2**31:
        return None
    bias, *given = (np.array([number], np.int64) for number in (0, multiplier, shift, *reach))
    channels = Channels(bias, given[0], given[1], given[2], given[3], params.output_zero_point - low, high - low)
    thresholds = channels.thresholds()[0]
    bounds = [_bounds(Upper(left, factor, 0, 0, 0), thresholds, low, right, reach, below) for below in (False, True)]
    (least, most), (least_below, most_below) = bounds
    offset = _between(max(least, least_below), min(most, most_below))
    below = offset
    if offset is None:
        offset = _between(max(least, least_below), most)
        below = None if offset is None else _between(least_below, min(most_below, offset))
    if offset is None or below is None:
        return None
    return Upper(left, factor, offset, offset - below, right)


def _bounds(
    bare: Upper, thresholds: Array, low: int, right: int, reach: tuple[int, int], below: bool
) -> tuple[int, int]:
    """The least and the greatest offset for sums below zero, or for the others.

    At the threshold of a value the shifted sum must reach it, and in front of it must not.
    """
    wanted = low + 1 + np.arange(thresholds.size) << right
    reached = (thresholds <= reach[1]) & ((thresholds < 0) == below)
    kept = (thresholds > reach[0]) & ((thresholds - 1 < 0) == below)
    least = (wanted - bare.values(thresholds))[reached].max(initial=-UNBOUNDED)
    most = (wanted - 1 - bare.values(thresholds - 1))[kept].min(initial=UNBOUNDED)
    return int(least), int(most)


def _between(least: int, most: int) -> int | None:
    """An offset in the middle, or next to the only bound; None where there is none."""
    if least > most:
        return None
    if least == -UNBOUNDED or most == UNBOUNDED:
        return 0 if least <= 0 <= most else min(most, max(least, 0))
    return least + most >> 1
