"""Sets of options that no other set beats, neither in flash nor in cycles, over all layers of a network at once.

Layers share functions, so what an option takes in flash depends on what the others are: a function is paid for once.
The search goes through the layers in their order and keeps, for each set of functions that later layers may share, the
partial sums that nothing beats. One that has other functions beats one that has more cycles only where it is smaller
even with all that it lacks: then nothing that follows can turn this round. So the result is exact (a multi-objective
shortest path; Martins, European Journal of Operational Research 16, 1984), unless partial sums become more than MOST.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST = 4096
"""Partial sums that are kept; above, those that save but a few bytes go first."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to compute a layer: its cycles, bytes of its own, and bytes by name of what other options may share."""

    cycles: int
    bytes: int
    shared: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Point:
    """Bytes of flash and cycles of a set, and which option of each layer is in it."""

    flash: int
    cycles: int
    picks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Partial:
    """The layers so far; `open` is a bit for each of the functions in it that a later layer may share."""

    cycles: int
    flash: int
    open: int
    picks: tuple[int, ...]


def front(layers: Sequence[Sequence[Option]]) -> tuple[Point, ...]:
    """The sets that no other beats, from the smallest, which is the slowest, to the fastest."""
    sizes = {name: size for options in layers for option in options for name, size in option.shared.items()}
    users = Counter(name for options in layers for name in {name for option in options for name in option.shared})
    bits = {name: 1 << place for place, name in enumerate(name for name, count in users.items() if count > 1)}
    weights = {bits[name]: sizes[name] for name in bits}
    own = [
        [option.bytes + sum(size for name, size in option.shared.items() if name not in bits) for option in options]
        for options in layers
    ]
    masks = [[sum(bits.get(name, 0) for name in option.shared) for option in options] for options in layers]
    partials = [_Partial(0, 0, 0, ())]
    for index, options in enumerate(layers):
        later = 0
        for mask in (mask for masks_of_layer in masks[index + 1 :] for mask in masks_of_layer):
            later |= mask
        grown = [
            _Partial(
                partial.cycles + option.cycles,
                partial.flash + own[index][pick] + _weight(masks[index][pick] & ~partial.open, weights),
                (partial.open | masks[index][pick]) & later,
                (*partial.picks, pick),
            )
            for partial in partials
            for pick, option in enumerate(options)
        ]
        partials = _unbeaten(grown, weights)
    return tuple(Point(partial.flash, partial.cycles, partial.picks) for partial in reversed(partials))


def _unbeaten(partials: Sequence[_Partial], weights: Mapping[int, int]) -> list[_Partial]:
    """Those that no other beats, by rising cycles."""
    ordered = sorted(partials, key=lambda partial: (partial.cycles, partial.flash, partial.picks))
    slack = 0
    while True:
        kept: list[_Partial] = []
        smallest: dict[int, int] = {}
        for partial in ordered:
            beaten = any(
                flash + _weight(partial.open & ~mask, weights) <= partial.flash + slack
                for mask, flash in smallest.items()
            )
            if not beaten:
                kept.append(partial)
                smallest[partial.open] = partial.flash
        if len(kept) <= MOST:
            return kept
        slack = 2 * slack or 8


def _weight(mask: int, weights: Mapping[int, int]) -> int:
    total = 0
    while mask:
        bit = mask & -mask
        total += weights[bit]
        mask ^= bit
    return total
