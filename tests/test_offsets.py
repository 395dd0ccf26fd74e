"""Placing buffers: no overlap, alignment, never above first fit nor below the bound; the optimum where they are few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbuild.contract import Overlap
from nnbuild.errors import InternalError
from nnbuild.ram import offsets, sweep
from nnbuild.ram.offsets import Buffer, Placement, Span, aligned, place

Draw = Callable[[int], int]


def buffers(draw: Draw, most: int, largest: int, coarse: bool = False) -> list[Buffer]:
    """Up to `most` buffers of up to `largest` bytes; with `coarse` of several spans and alignments as well."""
    return [_buffer(draw, largest, coarse) for _ in range(1 + draw(most))]


def overlapping(draw: Draw, most: int, largest: int) -> list[Buffer]:
    """Plain buffers, of which some may lie over others that die where they begin."""
    found = [replace(own, tensors=(f"t{n}",)) for n, own in enumerate(buffers(draw, most, largest))]
    for index, buffer in enumerate(found):
        dying = [other for other in found[:index] if other.last == buffer.first]
        over = {other.tensors[0]: Overlap(draw(9), draw(2 * largest), (1, 4, 8)[draw(3)]) for other in dying[: draw(3)]}
        found[index] = replace(buffer, over=over)
    return found


def chain(draw: Draw, most: int, largest: int) -> list[Buffer]:
    """Layers that each read what the one before wrote, some with scratch; outputs may lie over inputs."""
    found = [Buffer(("t0",), 1 + draw(largest), 0, 0)]
    for layer in range(1, 2 + draw(most)):
        found[-1] = replace(found[-1], last=layer)
        over = {found[-1].tensors[0]: Overlap(draw(12), draw(2 * largest), (1, 4, 8, 16)[draw(4)])} if draw(4) else {}
        scratch = [Buffer((f"s{layer}",), 1 + draw(12), layer, layer)] if draw(2) else []
        found = [*found[:-1], *scratch, found[-1], Buffer((f"t{layer}",), 1 + draw(largest), layer, layer, over=over)]
    return found


def _buffer(draw: Draw, largest: int, coarse: bool) -> Buffer:
    first = draw(8)
    own = Buffer(("t",), 1 + draw(largest), first, first + draw(5), (4, 16)[coarse and draw(4) == 0])
    if not coarse or draw(3):
        return own
    sizes = [4 * (1 + draw(5)) for _ in range(2 + draw(2))]
    starts = [sum(sizes[:position]) for position in range(len(sizes))]
    lives = [sorted((draw(9), draw(9))) for _ in sizes]
    spans = tuple(Span(start, size, *life) for start, size, life in zip(starts, sizes, lives, strict=True))
    return Buffer(("g",), sum(sizes), min(s.first for s in spans), max(s.last for s in spans), own.alignment, spans)


def faults(found: Sequence[Buffer], placed: Placement) -> list[str]:
    """What is wrong with a placement, said byte by byte: two that live there at once, alignment, extent, bound."""
    wrong = [f"{o} is not aligned" for b, o in zip(found, placed.offsets, strict=True) if o % b.alignment or o < 0]
    held: dict[tuple[int, int], int] = {}
    for number, (buffer, offset) in enumerate(zip(found, placed.offsets, strict=True)):
        for start, end, first, last in _spans(buffer):
            for layer in range(first, last + 1):
                for byte in range(offset + start, offset + end):
                    if held.setdefault((layer, byte), number) != number:
                        wrong.append(f"byte {byte} at layer {layer}")
    live = [len({byte for at, byte in held if at == layer}) for layer in range(14)]
    words = max(
        sum(aligned(end - start) for b in found for start, end, first, last in _spans(b) if first <= at <= last)
        for at in range(14)
    )
    if placed.extent < max(byte for _, byte in held) + 1 or placed.extent > aligned(max(byte for _, byte in held) + 1):
        wrong.append(f"{placed.extent} bytes")
    if not max(live) <= words <= placed.bound <= placed.extent:
        wrong.append(f"{placed.bound} is no bound")
    return wrong


def _spans(buffer: Buffer) -> list[tuple[int, int, int, int]]:
    """(start, end, first, last)."""
    if not buffer.spans:
        return [(0, buffer.size, buffer.first, buffer.last)]
    return [(span.start, span.start + span.size, span.first, span.last) for span in buffer.spans]


def smallest(found: Sequence[Buffer]) -> int:
    """The extent of the best placement: every multiple of 4 is tried for every buffer."""
    best = 4 * sum(aligned(buffer.size) for buffer in found)

    def descend(placed: list[tuple[Buffer, int]], extent: int) -> None:
        nonlocal best
        if extent >= best:
            return
        if len(placed) == len(found):
            best = extent
            return
        buffer = found[len(placed)]
        for offset in range(0, best, buffer.alignment):
            if all(_apart(buffer, offset, other, at) for other, at in placed):
                top = max(aligned(offset + end) for _, end, _, _ in _spans(buffer))
                descend([*placed, (buffer, offset)], max(extent, top))

    descend([], 0)
    return best


def _apart(one: Buffer, offset: int, other: Buffer, at: int) -> bool:
    """Whether two share no byte that lives in both, or as the one says that may lie over the other."""
    for output, begin, tensor, start in ((one, offset, other, at), (other, at, one, offset)):
        over = output.over.get(tensor.tensors[0])
        distance = begin - start
        if over is not None and distance % over.step == 0 and (distance <= -over.below or distance >= over.above):
            return True
    return all(
        last < first2 or last2 < first or offset + end <= at + start2 or at + end2 <= offset + start
        for start, end, first, last in _spans(one)
        for start2, end2, first2, last2 in _spans(other)
    )


def greedy(found: Sequence[Buffer]) -> int:
    """The extent of first fit, the largest first."""
    placed: list[tuple[Buffer, int]] = []
    for buffer in sorted(found, key=lambda buffer: (-buffer.size, buffer.first)):
        offset = 0
        while not all(_apart(buffer, offset, other, at) for other, at in placed):
            offset += buffer.alignment
        placed.append((buffer, offset))
    return max(aligned(at + end) for buffer, at in placed for _, end, _, _ in _spans(buffer))


@st.composite
def drawn(draw: Any, most: int, largest: int, coarse: bool = False) -> list[Buffer]:
    return buffers(lambda count: draw(st.integers(0, count - 1)), most, largest, coarse)


@given(drawn(14, 60, coarse=True))
@settings(deadline=None, max_examples=150)
def test_placements_are_sound(found: list[Buffer]) -> None:
    placed = place(found)
    assert faults(found, placed) == []
    assert placed.extent <= greedy(found)
    assert place(found) == placed


@contextmanager
def unswept() -> Iterator[None]:
    """Without the table of layers: the search has to find by itself what it may."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offsets, "sweep", lambda problem: (0, {}))
        yield


@given(drawn(5, 16))
@settings(deadline=None, max_examples=150)
def test_few_buffers_are_placed_as_well_as_can_be(found: list[Buffer]) -> None:
    least = smallest(found)
    assert (place(found).extent, place(found).bound) == (least, least)
    with unswept():
        assert (place(found).extent, place(found).bound) == (least, least)


@given(drawn(3, 12, coarse=True))
@settings(deadline=None, max_examples=100)
def test_what_is_proved_of_parts_and_alignments_is_true(found: list[Buffer]) -> None:
    placed = place(found)
    assert placed.bound <= smallest(found) <= placed.extent


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_outputs_lie_over_inputs_as_kernels_allow(data: st.DataObject) -> None:
    found = overlapping(lambda count: data.draw(st.integers(0, count - 1)), 4, 16)
    placed, least = place(found), smallest(found)
    placed_buffers = list(zip(found, placed.offsets, strict=True))
    assert all(_apart(*one, *other) for one, other in combinations(placed_buffers, 2))
    assert placed.bound <= least <= placed.extent
    assert placed.extent <= greedy(found)
    with unswept():
        searched = place(found)
    assert searched.bound <= least <= searched.extent
    if all(over.step <= 4 for buffer in found for over in buffer.over.values()):
        assert placed.optimal
        assert searched.optimal
        assert placed.extent == searched.extent == least


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_chains_are_placed_as_well_as_can_be_whatever_their_distances(data: st.DataObject) -> None:
    found = chain(lambda count: data.draw(st.integers(0, count - 1)), 3, 20)
    swept, placed, least = place(found, steps=0), place(found), smallest(found)
    assert swept.bound <= least <= swept.extent
    assert placed.bound <= least <= placed.extent


def test_chains_are_proved_without_a_search() -> None:
    """Nearly all: in a column that is local to two others, two buffers may meet that have no room."""
    found = [place(chain(Random(seed).randrange, 3, 20), steps=0) for seed in range(200)]
    assert sum(placed.optimal for placed in found) > 190


def test_where_a_table_is_too_large_every_fourth_offset_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "CELLS", 2_000)
    cases = [chain(Random(seed).randrange, 6, 400) for seed in range(80)]
    coarse = [place(found, steps=0).extent for found in cases]
    monkeypatch.setattr(offsets, "GRAINS", (4,))
    exact = [place(found, steps=0).extent for found in cases]
    assert all(one <= other for one, other in zip(coarse, exact, strict=True))
    assert sum(coarse) < sum(exact)


def test_what_meets_only_where_the_table_has_nothing_does_not_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "CELLS", 30)
    for seed in range(200):
        found = chain(Random(seed).randrange, 5, 20)
        assert faults([replace(buffer, over={}) for buffer in found], place([replace(b, over={}) for b in found])) == []
        place(found)  # verifies


def test_overlaps_save_memory() -> None:
    """Of use: many of these networks need less than their tensors at any layer."""
    less = 0
    for seed in range(60):
        found = overlapping(Random(seed).randrange, 14, 60)
        less += place(found).extent < place([replace(buffer, over={}) for buffer in found]).extent
    assert less > 10


def test_first_fit_is_not_always_enough() -> None:
    """The search is of use: a seed whose buffers first fit places worse, in every order that it tries."""
    improved = 0
    for seed in range(60):
        found = buffers(Random(seed).randrange, 20, 80)
        best = min(offsets._extent(found, offsets._first_fit(found, {}, order)) for order in offsets._orders(found))
        with unswept():
            placed = place(found)
        assert placed.extent <= best
        improved += placed.extent < best
    assert improved > 3


def test_without_steps_first_fit_and_a_bound_are_left() -> None:
    for seed in range(20):
        found = buffers(Random(seed).randrange, 30, 80)
        with unswept():
            placed = place(found, steps=0)
        assert faults(found, placed) == []
        assert placed.extent >= place(found).extent


def test_nothing_to_place() -> None:
    assert place([]) == Placement((), 0, 0)


def test_the_check_finds_an_overlap_and_a_crooked_offset() -> None:
    found = [Buffer(("a",), 8, 0, 2), Buffer(("b",), 8, 2, 3)]
    with pytest.raises(InternalError, match="share arena bytes"):
        offsets.verify(found, (0, 4))
    with pytest.raises(InternalError, match="no multiple of 4"):
        offsets.verify(found, (0, 10))


def test_the_check_finds_an_output_too_near() -> None:
    found = [Buffer(("a",), 40, 0, 1), Buffer(("b",), 40, 1, 2, over={"a": Overlap(8, 12, 4)})]
    for places in ((8, 0), (0, 12), (12, 0)):
        offsets.verify(found, places)
    for places in ((4, 0), (0, 8), (0, 0)):
        with pytest.raises(InternalError, match="share arena bytes"):
            offsets.verify(found, places)


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "lives that touch": (Span, "meets", lambda self, other: self.first < other.last and other.first < self.last),
    "one column": (offsets, "_columns", lambda found: [min(b.first for b in found)]),
    "too soon hopeless": (
        offsets._Search,
        "_hopeless",
        lambda self, waiting, bases, left: sum(left) // len(left) + max(bases) >= self.extent,
    ),
    "no second choice": (
        offsets._Search,
        "_next",
        lambda self, waiting, bases, last: sorted(zip(bases, waiting, strict=True))[:1],
    ),
    "ground only": (offsets._Search, "_base", lambda self, index, tops, waiting: 0),
    "any gap": (offsets, "_clear", lambda buffer, offset, other, place: offset),
    "over anything": (offsets, "_distance", lambda one, other: Overlap(0, 0, 4) if one.last == other.first else None),
    "alignment": (offsets, "aligned", lambda size, alignment=4: -(-size // 4) * 4),
    "bound": (offsets, "live_bytes", lambda found, layer: 2 * sum(b.size for b in found if b.first <= layer <= b.last)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_faults_of_the_planner_are_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [buffers(Random(seed).randrange, 5, 16) for seed in range(60)]
    known = [(found, smallest(found)) for found in cases]
    cases = [buffers(Random(seed).randrange, 20, 80) for seed in range(60)]
    known += [(found, place(found).extent) for found in cases if place(found).optimal]
    known += [(buffers(Random(seed).randrange, 8, 30, coarse=True), -1) for seed in range(40)]
    monkeypatch.setattr(offsets, "sweep", lambda problem: (0, {}))
    monkeypatch.setattr(*MUTANTS[mutant])
    noticed = 0
    for found, least in known:
        try:
            placed = place(found)
        except InternalError:
            noticed += 1
            continue
        noticed += bool(faults(found, placed)) or (least >= 0 and (placed.extent, placed.bound) != (least, least))
    assert noticed


SWEPT: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "no order but one": ("permutations", lambda old: lambda items, *count: [(*old(items, *count),)[0]]),
    "what lives on is forgotten": ("_along", lambda old: lambda table, known, carried: 0 * old(table, known, carried)),
    "a word too near": (
        "_beyond",
        lambda old: lambda p, a, x, b, y: np.where(old(p, a, x, b, y) - x == 4, x, old(p, a, x, b, y)),
    ),
    "the lowest place is free": ("_stacked", lambda old: lambda p, places, order, shape: old(p, {}, order, shape)),
    "nothing counts": ("counting", lambda old: lambda problem: []),
    "only the first column": ("counting", lambda old: lambda problem: old(problem)[:1]),
}


@pytest.mark.parametrize("mutant", SWEPT)
def test_faults_of_the_table_of_layers_are_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [chain(Random(seed).randrange, 3, 20) for seed in range(100)]
    known = [(found, smallest(found)) for found in cases]
    name, change = SWEPT[mutant]
    monkeypatch.setattr(sweep, name, change(getattr(sweep, name)))
    noticed = 0
    for found, least in known:
        try:
            placed = place(found, steps=0)
        except (InternalError, IndexError):
            noticed += 1
            continue
        noticed += (placed.extent, placed.bound) != (least, least)
    assert noticed


def test_the_search_goes_through_steps_and_not_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps, the same result, however often; and more steps are never worse."""
    found = [replace(buffer, last=buffer.last + 2) for buffer in buffers(Random(11).randrange, 40, 300)]
    with unswept():
        extents = [place(found, steps).extent for steps in (0, 10, 100, 1000, 1000)]
    assert extents == sorted(extents, reverse=True)
    assert extents[-1] == extents[-2]
