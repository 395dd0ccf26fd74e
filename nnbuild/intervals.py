"""What values a tensor can hold, whatever the model's input: an exact interval of integers for each channel.

A channel is a position along the last axis of `Tensor.shape`. An operator says what its output can be by `bounds`;
where it does not, all of the type. Intervals may be too wide, never too narrow: a reachable value lies inside.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnbuild.network import Array, Tensor

if TYPE_CHECKING:
    from nnbuild.contract import LayerView

Reference = Callable[[Any, Mapping[str, Array], Sequence[Array]], Array]


@dataclass(frozen=True, slots=True)
class Interval:
    """Lowest and highest value of each channel, int64, both inclusive."""

    low: Array
    high: Array

    @property
    def constant(self) -> Array:
        """Which channels hold one value only."""
        return np.asarray(self.low == self.high)

    def spread(self, count: int) -> Interval:
        """For `count` elements in memory order: channel by channel, or one for all where that does not come out."""
        if count % self.low.size == 0:
            return Interval(np.tile(self.low, count // self.low.size), np.tile(self.high, count // self.low.size))
        return Interval(np.full(count, self.low.min()), np.full(count, self.high.max()))

    def within(self, low: int, high: int) -> bool:
        """Whether no value leaves [low, high]."""
        return bool(self.low.min() >= low and self.high.max() <= high)


Rule = Callable[["LayerView", Sequence[Interval]], Interval]
"""The interval of a layer's output, from those of its inputs."""


def anything(tensor: Tensor) -> Interval:
    """All of the tensor's type."""
    least, most = tensor.quant.limits
    return Interval(np.full(tensor.channels, least), np.full(tensor.channels, most))


def monotone(reference: Reference) -> Rule:
    """For operators whose every output rises or stays where an input rises: both ends are computed."""

    def rule(view: LayerView, inputs: Sequence[Interval]) -> Interval:
        ends = [_ends(view, inputs, [side] * len(inputs)) for side in ("low", "high")]
        low, high = (reference(view.params, view.constants, values) for values in ends)
        return Interval(_by_channel(view, low).min(axis=0), _by_channel(view, high).max(axis=0))

    return rule


def corners(reference: Reference) -> Rule:
    """For operators that rise or fall with each input while the others stand still: every pair of ends is computed."""

    def rule(view: LayerView, inputs: Sequence[Interval]) -> Interval:
        results = []
        for sides in itertools.product(("low", "high"), repeat=len(inputs)):
            result = reference(view.params, view.constants, _ends(view, inputs, sides))
            results.append(_by_channel(view, result))
        found = np.concatenate(results)
        return Interval(found.min(axis=0), found.max(axis=0))

    return rule


def _ends(view: LayerView, inputs: Sequence[Interval], sides: Sequence[str]) -> list[Array]:
    """Each input, flat, with all its elements at the low or high end."""
    return [
        getattr(interval.spread(tensor.size), side).astype(tensor.dtype)
        for interval, tensor, side in zip(inputs, view.inputs, sides, strict=True)
    ]


def _by_channel(view: LayerView, values: Array) -> Array:
    return np.asarray(values.reshape(-1, view.output.channels).astype(np.int64))
