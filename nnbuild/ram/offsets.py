"""Where buffers lie in one block of memory: no two share a byte while both live, and the block is as small as can be.

First fit finds a placement; where that is larger than the most bytes that live at once, branch and bound looks for
smaller ones. It ends with a proof, or after a number of steps: never after a time, so that every machine finds the
same.

Lowered as far as they go, buffers in the order of their offsets each lie upon what is below them. So the search builds
placements in that order: each next buffer lies on the highest that ends below it, as far as it has placed them.
Two of which one may lie over the other (`contract.Overlap`) keep the distance that this asks for, instead of all bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations

from nnbuild.contract import Overlap
from nnbuild.errors import InternalError
from nnbuild.ram.sweep import Problem, counting, sweep

ALIGNMENT = 4
"""Bytes; what any C type of a kernel's scratch needs."""

GRAINS = (ALIGNMENT, 16, 64, 256)
"""Of offsets in tables (`ram.sweep`): the next one where those of the one before have no room."""

STEPS = 3000
"""Of the search: each places one more buffer."""


@dataclass(frozen=True, slots=True)
class Span:
    """`size` bytes from `start` of a buffer, that live from layer `first` to layer `last`, both included."""

    start: int
    size: int
    first: int
    last: int

    @property
    def end(self) -> int:
        """The byte behind it, counted from where the buffer begins."""
        return self.start + self.size

    def meets(self, other: Span) -> bool:
        """Whether both live at some layer."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes that live from layer `first` to layer `last`, both included. `tensors` share them.

    `alignment` is what their offset is a multiple of. `spans` say which of them live when, where not all live equally
    long: they begin and end at multiples of ALIGNMENT, and those that meet do not overlap. `over` are tensors of other
    buffers over which it may lie, and how; buffers with `spans` keep to themselves.
    """

    tensors: tuple[str, ...]
    size: int
    first: int
    last: int
    alignment: int = ALIGNMENT
    spans: tuple[Span, ...] = ()
    over: Mapping[str, Overlap] = field(default_factory=dict)

    @property
    def pieces(self) -> tuple[Span, ...]:
        """Its spans, in whole words."""
        return self.spans or (Span(0, aligned(self.size), self.first, self.last),)


@dataclass(frozen=True, slots=True)
class Placement:
    """The offset of each buffer, in their order; `extent` bytes hold them all, and fewer than `bound` never could."""

    offsets: tuple[int, ...]
    extent: int
    bound: int

    @property
    def optimal(self) -> bool:
        """Whether it is proved that there is no smaller one."""
        return self.extent == self.bound


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` or what is next to it of multiples of `alignment`."""
    return -(-size // alignment) * alignment


def live_bytes(buffers: Iterable[Buffer], layer: int) -> int:
    """What lives at a layer, and cannot lie in less."""
    living = [buffer for buffer in buffers if any(span.first <= layer <= span.last for span in buffer.pieces)]
    total = sum(span.size for buffer in living for span in buffer.pieces if span.first <= layer <= span.last)
    for buffer in living:
        over = (other for other in living if any(name in buffer.over for name in other.tensors))
        total -= min(sum(_shared(buffer, other) for other in over), aligned(buffer.size))
    return total


def place(buffers: Sequence[Buffer], steps: int = STEPS) -> Placement:
    """Offsets for `buffers`, verified: the smallest placement where the search comes to its end within `steps`."""
    distances = _distances(buffers)
    first_fits = [_first_fit(buffers, distances, order) for order in _orders(buffers)]
    found = min(first_fits, key=lambda offsets: _extent(buffers, offsets))
    extent = _extent(buffers, found)
    bound = max((live_bytes(buffers, span.first) for buffer in buffers for span in buffer.pieces), default=0)
    if extent > bound:
        bound, found = _swept(buffers, distances, found, bound)
        extent = _extent(buffers, found)
    if extent > bound:
        search = _Search(buffers, distances, extent, bound, steps)
        found = search.run() or found
        extent = _extent(buffers, found)
        bound = extent if search.proves else bound
    verify(buffers, found)
    return Placement(tuple(found), extent, bound)


def _swept(buffers: Sequence[Buffer], distances: Distances, found: list[int], bound: int) -> tuple[int, list[int]]:
    """A higher bound, and a placement that is smaller than `found`, where `ram.sweep` knows them.

    Where a table of all offsets would be too large, one of every fourth is tried, and so on: that proves nothing.
    """
    plain = [index for index, buffer in enumerate(buffers) if not buffer.spans]
    columns = [
        [index for index in plain if buffers[index].first <= layer <= buffers[index].last]
        for layer in _columns(buffers)
    ]
    sizes = [aligned(buffer.size) for buffer in buffers]
    for grain in GRAINS:
        alignments = [math.lcm(buffer.alignment, grain) for buffer in buffers]
        extent = _extent(buffers, found)
        problem = Problem(sizes, alignments, distances, columns, extent, ALIGNMENT)
        swept = sweep(problem)
        if swept is not None:
            found = min(found, _completed(buffers, distances, swept[1]), key=lambda one: _extent(buffers, one))
        if grain == ALIGNMENT:
            bound = extent if swept is None else max(bound, swept[0])
        if _extent(buffers, found) == bound or len(counting(problem)) == len(columns):
            break
    return bound, found


def _completed(buffers: Sequence[Buffer], distances: Distances, wanted: Mapping[int, int]) -> list[int]:
    """Offsets of all buffers, those that are `wanted` where these do not collide."""
    offsets: dict[int, int] = {}
    for index in sorted(range(len(buffers)), key=lambda index: (index not in wanted, -buffers[index].size)):
        offset = wanted.get(index, 0)
        # Those that met where the table has nothing may collide.
        free = _lowest(buffers, distances, index, offsets, offset) == offset
        offsets[index] = offset if free else _lowest(buffers, distances, index, offsets, 0)
    return [offsets[index] for index in range(len(buffers))]


def verify(buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
    """InternalError where two buffers share bytes that they may not, or one is not aligned."""
    for (one, start), (other, begin) in combinations(zip(buffers, offsets, strict=True), 2):
        if _beyond(one, start, other, begin, _distance(one, other)) != start:
            raise InternalError(f"{one.tensors} and {other.tensors} share arena bytes")
    for buffer, offset in zip(buffers, offsets, strict=True):
        if offset < 0 or offset % buffer.alignment:
            raise InternalError(f"{buffer.tensors} lie at {offset}, no multiple of {buffer.alignment}")


def _at(span: Span, offset: int) -> Span:
    """`span` of a buffer at `offset`, as it lies in the block."""
    return Span(offset + span.start, span.size, span.first, span.last)


def _extent(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    ends = (o + span.end for buffer, o in zip(buffers, offsets, strict=True) for span in buffer.pieces)
    return max(ends, default=0)


# --- two buffers -------------------------------------------------------------------------------------------------


Distances = Mapping[tuple[int, int], Overlap]
"""Of two buffers that live at one time, by number, where either may lie over the other."""


def _distances(buffers: Sequence[Buffer]) -> dict[tuple[int, int], Overlap]:
    found = {}
    for one, other in permutations(range(len(buffers)), 2):
        distance = _distance(buffers[one], buffers[other])
        if distance is not None:
            found[one, other] = distance
    return found


def _distance(one: Buffer, other: Buffer) -> Overlap | None:
    """How far `one` has to begin below or above `other`, where either may lie over the other; None for all others."""
    if one.spans or other.spans or one.last < other.first or other.last < one.first:
        return None
    found = next((one.over[name] for name in other.tensors if name in one.over), None)
    if found is None:
        turned = next((other.over[name] for name in one.tensors if name in other.over), None)
        if turned is None:
            return None
        found = Overlap(turned.above, turned.below, turned.step)
    step = math.lcm(found.step, ALIGNMENT)
    below, above = aligned(found.below, step), aligned(found.above, step)
    return Overlap(min(below, aligned(one.size)), min(above, aligned(other.size)), step)


def _shared(one: Buffer, other: Buffer) -> int:
    """The most bytes that two buffers may have in common."""
    distance, sizes = _distance(one, other), (aligned(one.size), aligned(other.size))
    if distance is None:
        return 0
    return sum(sizes) - min(max(sizes[0], distance.below + sizes[1]), max(sizes[1], distance.above + sizes[0]))


def _beyond(buffer: Buffer, offset: int, other: Buffer, place: int, own: Overlap | None) -> int:
    """The lowest offset from `offset` on at which no byte of `other` at `place` is harmed; `own` is their distance."""
    if own is None:
        return _clear(buffer, offset, other, place)
    apart = offset - place
    if apart <= -aligned(buffer.size) or apart >= aligned(other.size):
        return offset
    stepped = aligned(apart, own.step)
    if stepped > -own.below:
        stepped = min(max(stepped, own.above), aligned(other.size))
    return aligned(place + stepped, buffer.alignment)


def _clear(buffer: Buffer, offset: int, other: Buffer, place: int) -> int:
    """`_beyond` where the two may share no byte that lives in both."""
    pairs = [(span, _at(held, place)) for span in buffer.pieces for held in other.pieces if span.meets(held)]
    moved = True
    while moved:
        moved = False
        for span, held in pairs:
            if offset + span.start < held.end and held.start < offset + span.end:
                offset, moved = aligned(held.end - span.start, buffer.alignment), True
    return offset


# --- first fit ---------------------------------------------------------------------------------------------------


def _orders(buffers: Sequence[Buffer]) -> Iterator[list[int]]:
    """The usual orders for first fit: by size, time, length of life, and both together."""
    keys: tuple[Callable[[Buffer], tuple[int, int]], ...] = (
        lambda b: (-b.size, b.first),
        lambda b: (-b.size, -b.first),
        lambda b: (b.first, -b.size),
        lambda b: (-(b.last - b.first), -b.size),
        lambda b: (-b.size * (b.last - b.first + 1), b.first),
    )
    for key in keys:
        yield sorted(range(len(buffers)), key=lambda index: key(buffers[index]))


def _first_fit(buffers: Sequence[Buffer], distances: Distances, order: Sequence[int]) -> list[int]:
    """Each buffer at the lowest offset that the others leave to it for its whole life."""
    offsets: dict[int, int] = {}
    for index in order:
        offsets[index] = _lowest(buffers, distances, index, offsets, 0)
    return [offsets[index] for index in range(len(buffers))]


def _lowest(buffers: Sequence[Buffer], distances: Distances, index: int, offsets: Mapping[int, int], start: int) -> int:
    """The lowest offset from `start` on for buffer `index` among those that have `offsets`."""
    offset, tried = start, -1
    while tried != offset:
        tried = offset
        for other, place in offsets.items():
            offset = _beyond(buffers[index], offset, buffers[other], place, distances.get((index, other)))
    return offset


# --- branch and bound --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Search:
    """For placements of less than `extent` bytes; `proves` is whether there is none below the last one found."""

    buffers: Sequence[Buffer]
    distances: Distances
    extent: int
    bound: int
    steps: int
    proves: bool = False
    _best: list[int] | None = None
    _offsets: list[int] = field(default_factory=list)
    _shapes: list[list[tuple[int, int, list[int]]]] = field(default_factory=list)
    _seen: dict[tuple[tuple[int, ...], ...], tuple[int, int]] = field(default_factory=dict)
    _simple: bool = True
    _partners: list[list[int]] = field(default_factory=list)
    _above: list[list[tuple[int, int]]] = field(default_factory=list)
    _saved: list[list[tuple[int, int, int]]] = field(default_factory=list)

    def run(self) -> list[int] | None:
        """The smallest placement that it comes upon, None for none below `extent`."""
        columns = _columns(self.buffers)
        self._shapes = [
            [
                (span.start, span.size, [i for i, layer in enumerate(columns) if span.first <= layer <= span.last])
                for span in buffer.pieces
            ]
            for buffer in self.buffers
        ]
        # A buffer of several spans may hold others above and below it at once, which no order of offsets expresses.
        self._simple = all(len(shape) == 1 for shape in self._shapes)
        exact = self._find_partners(len(columns))
        self._above = [self._how_far_above(index) if own else [] for index, own in enumerate(self._partners)]
        self._offsets = [0] * len(self.buffers)
        left = [0] * len(columns)
        for shape in self._shapes:
            for _, size, lives in shape:
                for column in lives:
                    left[column] += size
        ended = self._descend(tuple(range(len(self.buffers))), [0] * len(columns), left, (-1, -1))
        self.proves = self.extent == self.bound or (ended and self._simple and exact)
        return self._best

    def _find_partners(self, columns: int) -> bool:
        """Note which buffers may lie over each other; whether lowering the one never asks the other to rise.

        It may where their distance has to be a multiple of more than what every offset is.
        """
        count, exact = len(self.buffers), True
        self._partners = [[] for _ in range(count)]
        self._saved = [[] for _ in range(columns)]
        for one, other in combinations(range(count), 2):
            distance = self.distances.get((one, other))
            if distance is not None:
                exact = exact and distance.step == ALIGNMENT
                self._partners[one].append(other)
                self._partners[other].append(one)
                shared = _shared(self.buffers[one], self.buffers[other])
                for column in {*self._shapes[one][0][2]} & {*self._shapes[other][0][2]}:
                    self._saved[column].append((one, other, shared))
        return exact

    def _descend(self, waiting: tuple[int, ...], tops: list[int], left: list[int], last: tuple[int, int]) -> bool:
        """Place what is `waiting` on `tops`, the height of each column; False where the steps are used up."""
        if max(tops) >= self.extent:
            return True
        if not waiting:
            self._best, self.extent = list(self._offsets), max(tops)
            return True
        if self.steps == 0:
            return False
        self.steps -= 1
        bases = [self._base(index, tops, waiting) for index in waiting]
        if self._hopeless(waiting, bases, left):
            return True
        for base, index in self._next(waiting, bases, last):
            if self.extent == self.bound:
                return True
            after, rest = list(tops), list(left)
            for start, size, lives in self._shapes[index]:
                for column in lives:
                    after[column] = max(after[column], base + start + size)
                    rest[column] -= size
            self._offsets[index] = base
            others = tuple(other for other in waiting if other != index)
            own = (base, index) if self._simple else (0, 0)
            if not self._is_known(others, after, own) and not self._descend(others, after, rest, own):
                return False
        return True

    def _base(self, index: int, tops: Sequence[int], waiting: Sequence[int]) -> int:
        """The lowest offset at which buffer `index` lies on what is there."""
        if any(other not in waiting for other in self._partners[index]):
            return self._base_over(index, waiting)
        lowest = max((tops[column] - start for start, _, lives in self._shapes[index] for column in lives), default=0)
        return aligned(max(lowest, 0), self.buffers[index].alignment)

    def _base_over(self, index: int, waiting: Sequence[int]) -> int:
        """The same where something is there that it may lie over."""
        still, offsets = set(waiting), self._offsets
        ends = (offsets[other] + above for other, above in self._above[index] if other not in still)
        lowest = aligned(max(0, max(ends, default=0)), self.buffers[index].alignment)
        # From there on nothing is in the way but what it has to keep steps of.
        placed = {other: offsets[other] for other in self._partners[index] if other not in still}
        return _lowest(self.buffers, self.distances, index, placed, lowest)

    def _how_far_above(self, index: int) -> list[tuple[int, int]]:
        """The others that live with a buffer, and how far above the start of each it lies at least on top of it."""
        found = []
        for other, held in enumerate(self.buffers):
            pairs = [(span, own) for span in self.buffers[index].pieces for own in held.pieces if span.meets(own)]
            distance = self.distances.get((index, other))
            if other != index and pairs:
                ends = max(own.end - span.start for span, own in pairs)
                found.append((other, ends if distance is None else distance.above))
        return found

    def _hopeless(self, waiting: Sequence[int], bases: Sequence[int], left: Sequence[int]) -> bool:
        """Whether some column cannot end below `extent`: what waits lies above the lowest that one of it can."""
        lowest = [self.extent] * len(left)
        for index, base in zip(waiting, bases, strict=True):
            for start, _, lives in self._shapes[index]:
                for column in lives:
                    lowest[column] = min(lowest[column], base + start)
        return any(
            size and low + size - self._saves(saved, waiting) >= self.extent
            for low, size, saved in zip(lowest, left, self._saved, strict=True)
        )

    @staticmethod
    def _saves(saved: Sequence[tuple[int, int, int]], waiting: Sequence[int]) -> int:
        return sum(shared for one, other, shared in saved if one in waiting and other in waiting)

    def _next(self, waiting: Sequence[int], bases: Sequence[int], last: tuple[int, int]) -> list[tuple[int, int]]:
        """(offset, buffer) of what may be next, lowest first."""
        found = sorted(zip(bases, waiting, strict=True), key=lambda pair: (pair[0], -self.buffers[pair[1]].size))
        if not self._simple:
            return found
        # In the order of offsets; and what would leave room for another one below it comes behind that one.
        ceiling = min(base + self._shapes[index][0][1] for base, index in found)
        return [pair for pair in found if pair > last and pair[0] < ceiling]

    def _is_known(self, waiting: tuple[int, ...], tops: Sequence[int], last: tuple[int, int]) -> bool:
        """Whether the search was here already, with all that may follow `last`."""
        # What may lie over something that is there depends on where that is.
        held = {other for index in waiting for other in self._partners[index]}.difference(waiting)
        state = (waiting, tuple(tops), *((other, self._offsets[other]) for other in sorted(held)))
        known = self._seen.get(state)
        if known is not None and known <= last:
            return True
        self._seen[state] = last
        return False


def _columns(buffers: Sequence[Buffer]) -> list[int]:
    """Layers at which all meet that ever meet: of those at which one begins, without those that others include."""
    spans = [span for buffer in buffers for span in buffer.pieces]
    live = {
        layer: frozenset(i for i, span in enumerate(spans) if span.first <= layer <= span.last)
        for layer in sorted({span.first for span in spans})
    }
    unlike = {alive: layer for layer, alive in reversed(live.items())}
    return sorted(layer for alive, layer in unlike.items() if not any(alive < other for other in unlike))
