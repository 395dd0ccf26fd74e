"""The best set of kernels whose memory is within a limit.

What a kernel means to memory is its form: its scratch, and over which inputs its output may lie. Bytes that live at a
layer follow from its own kernel, so one with which more live than the limit allows is in no set that fits. What is left
is searched best first: where the plan of the best set does not fit, some layer must be of a leaner form, so the sets
are divided by which is the first that is. The first set that fits is the best one. Where that takes too many steps,
the leanest kernels are exchanged for the best ones, as many layers at a time as the limit allows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nnbuild.contract import Overlap

STEPS = 8
"""Sets that are planned best first: a number, so that every machine finds the same."""

Picks = tuple[int, ...]
"""The kernel of each layer."""
Part = tuple[tuple[int, ...], ...]
"""The kernels of each layer that a set may have."""


@dataclass(frozen=True, slots=True)
class Form:
    """A kernel as memory sees it: `need`, the bytes that live at its layer, its scratch, what it may overwrite."""

    need: int
    scratch: int
    over: Mapping[int, Overlap]

    def serves(self, other: Form) -> bool:
        """Whether memory that is enough for `other` is enough for this."""
        return self.scratch <= other.scratch and all(
            place in self.over and _nearer(self.over[place], own) for place, own in other.over.items()
        )


def _nearer(one: Overlap, other: Overlap) -> bool:
    return one.below <= other.below and one.above <= other.above and other.step % one.step == 0


Best = Callable[[Part], tuple[tuple[float, ...], Picks]]
"""The best set of a part, and how good it is: less is better, and no part of a part is better than that."""


def within(layers: Sequence[Sequence[Form]], best: Best, arena: Callable[[Picks], int], limit: int) -> tuple[Part, int]:
    """The part of all sets whose best one is the best whose `arena` fits `limit`, and that limit.

    Where no set is known that does, the limit is raised to what the leanest set takes.
    """
    floor = max(min(form.need for form in own) for own in layers)
    leanest = tuple(min(range(len(own)), key=lambda kernel: (own[kernel].need, own[kernel].scratch)) for own in layers)
    limit = max(limit, floor)
    search = _Search(layers, leanest, best, arena, limit)
    found = search.best_first()
    if found is None and arena(leanest) > limit:
        search = _Search(layers, leanest, best, arena, arena(leanest))
        found = search.best_first()
    return found or search.exchanged(), search.limit


@dataclass(frozen=True, slots=True)
class _Search:
    layers: Sequence[Sequence[Form]]
    leanest: Picks
    best: Best
    arena: Callable[[Picks], int]
    limit: int

    @property
    def part(self) -> Part:
        """All sets of kernels that may fit."""
        return tuple(tuple(place for place, form in enumerate(own) if form.need <= self.limit) for own in self.layers)

    def best_first(self) -> Part | None:
        """The part whose best set is the best of all that fit; None where none is found in time."""
        rows = zip(self.layers, self.leanest, self.part, strict=True)
        leanest = all(own[least].serves(own[place]) for own, least, part in rows for place in part)
        if leanest and self.arena(self.leanest) > self.limit:
            return None
        waiting = [(*self.best(self.part), self.part)]
        for _ in range(STEPS):
            if not waiting:
                break
            _, picks, own = heapq.heappop(waiting)
            if self.arena(picks) <= self.limit:
                return own
            for smaller in self._leaner(own, picks):
                heapq.heappush(waiting, (*self.best(smaller), smaller))
        return None

    def exchanged(self) -> Part:
        """The leanest kernels, and all that may be where the best ones of those still fit."""
        return self._exchanged(tuple((place,) for place in self.leanest), range(len(self.layers)))

    def _exchanged(self, part: Part, layers: range) -> Part:
        """`part` with more kernels for as many of `layers` as can be."""
        wider = tuple(self.part[layer] if layer in layers else own for layer, own in enumerate(part))
        if self.arena(self.best(wider)[1]) <= self.limit:
            return wider
        if len(layers) > 1:
            middle = len(layers) // 2
            for half in (layers[:middle], layers[middle:]):
                part = self._exchanged(part, half)
        return part

    def _leaner(self, part: Part, picks: Picks) -> Iterator[Part]:
        """The sets of `part` of which some layer is of a leaner form than in `picks`, by the first one that is."""
        rest = list(part)
        for layer, (own, pick) in enumerate(zip(self.layers, picks, strict=True)):
            leaner = tuple(kernel for kernel in part[layer] if not own[pick].serves(own[kernel]))
            if leaner:
                yield (*rest[:layer], leaner, *part[layer + 1 :])
                rest[layer] = tuple(kernel for kernel in part[layer] if kernel not in leaner)
