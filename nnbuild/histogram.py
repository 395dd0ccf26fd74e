"""The values of a tensor over all samples as a histogram in bounded memory, and the ranges that may follow from it.

Bins are powers of two wide and merge in pairs as the range grows, so the result does not depend on the order of the
samples' extremes. Methods: `minmax` takes the extremes; `percentile` the smallest range that leaves out at most 1 in
100,000 values at each end; `mse` the range inside the extremes whose 8-bit quantization has the least squared error
over the histogram; `entropy` the one whose quantized histogram has the least Kullback-Leibler divergence from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nnbuild.network import Array
from nnbuild.ranges import Range

_BINS = 8192  # symmetric about 0; at least a quarter of them lies within the extremes on one side
_LEFT_OUT = 1e-5  # share of values beyond a percentile's end


@dataclass(slots=True)
class Histogram:
    """Extremes and counts of the values of one tensor; bin i counts values in [(i - BINS/2) w, (i - BINS/2 + 1) w)."""

    low: float = math.inf
    high: float = -math.inf
    width: float = 0.0
    bins: Array = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, values: Array) -> None:
        """Count float32 `values` of any shape."""
        flat = values.astype(np.float64).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(abs(low), abs(high)))
        if self.width:
            index = np.floor(flat / self.width).astype(np.int64) + _BINS // 2
            self.bins += np.bincount(np.clip(index, 0, _BINS - 1), minlength=_BINS)
        else:
            self.bins[_BINS // 2] += flat.size

    def _widen(self, largest: float) -> None:
        if not largest or largest <= self.width * (_BINS // 2 - 1):
            return
        wanted = 2.0 ** math.ceil(math.log2(largest / (_BINS // 2 - 1)))
        if not self.width:
            self.width = wanted
        while self.width < wanted:
            merged = self.bins.reshape(-1, 2).sum(axis=1)
            self.bins = np.zeros(_BINS, np.int64)
            self.bins[_BINS // 4 : _BINS // 4 + _BINS // 2] = merged
            self.width *= 2

    def centres(self) -> tuple[Array, Array]:
        """(value, count) of each bin that holds something; values lie within the extremes."""
        used = np.flatnonzero(self.bins)
        values = (used - _BINS // 2 + 0.5) * self.width
        return np.clip(values, self.low, self.high), self.bins[used]


def _minmax(found: Histogram) -> Range:
    return found.low, found.high


def _percentile(found: Histogram) -> Range:
    """The smallest range of whole bins that leaves out at most the share at each end."""
    values, counts = found.centres()
    allowed = counts.sum() * _LEFT_OUT
    low = values[np.searchsorted(np.cumsum(counts), allowed, side="right")]
    high = values[len(values) - 1 - np.searchsorted(np.cumsum(counts[::-1]), allowed, side="right")]
    half = found.width / 2
    return max(found.low, float(low) - half), min(found.high, float(high) + half)


# Shares of the extremes that are tried, widest first; and what a narrower one must gain to be taken.
_SHRINK = tuple(1.0 - step / 50 for step in range(35))
_WORTH = 1e-3


def _least(found: Histogram, error: Callable[[Array, Array, Range], float]) -> Range:
    """Shrink one end and the other while the error over (values, counts, range) falls."""
    values, counts = found.centres()
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    best = (low, high)
    least = error(values, counts, best)
    for first in _SHRINK if low < 0 else (1.0,):
        for second in _SHRINK if high > 0 else (1.0,):
            candidate = (low * first, high * second)
            reached = error(values, counts, candidate)
            if reached < least * (1 - _WORTH):
                best, least = candidate, reached
    return best


def _steps(values: Array, span: Range) -> tuple[Array, float]:
    """Values as whole steps from 0 in this range, and the step."""
    scale = (span[1] - span[0]) / 255 or 1.0
    zero = round(-span[0] / scale)
    return np.clip(np.rint(values / scale) + zero, 0, 255) - zero, scale


def _squared_error(values: Array, counts: Array, span: Range) -> float:
    steps, scale = _steps(values, span)
    return float(np.sum(counts * np.square(values - steps * scale)))


def _divergence(values: Array, counts: Array, span: Range) -> float:
    """Kullback-Leibler divergence of the quantized histogram from the histogram, both without what is clipped.

    What is clipped counts at the ends of the histogram and is missing in the quantized one, whose counts spread evenly
    over the bins of each step (Migacz, 8-bit inference with TensorRT, 2017).
    """
    inside = (values >= span[0]) & (values <= span[1])
    if not inside.any():
        return math.inf
    held = counts[inside].astype(np.float64)
    given = held.copy()
    given[0] += counts[values < span[0]].sum()
    given[-1] += counts[values > span[1]].sum()
    _, level = np.unique(_steps(values[inside], span)[0], return_inverse=True)
    even = (np.bincount(level, held) / np.bincount(level))[level]
    return float(np.sum(given * np.log((given / given.sum()) / (even / even.sum()))) / given.sum())


def _mse(found: Histogram) -> Range:
    return _least(found, _squared_error)


def _entropy(found: Histogram) -> Range:
    return _least(found, _divergence)


CHOICES: dict[str, Callable[[Histogram], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
"""A range of a histogram by the name of the method."""
