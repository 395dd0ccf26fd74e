"""Kernels within a limit on RAM: the best set of all that fit, which taking off most scratch does not find."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnbuild.contract import Overlap
from nnbuild.ram import lean
from nnbuild.ram.lean import Form, Part, Picks, within

KERNEL = st.tuples(st.integers(0, 9), st.integers(0, 12), st.integers(0, 20))
"""Scratch, how far below its input it has to write, cycles."""
Kernels = Sequence[Sequence[tuple[int, int, int]]]


def forms(layers: Kernels) -> list[list[Form]]:
    return [[Form(s + below, s, {0: Overlap(below, below)}) for s, below, _ in own] for own in layers]


def arena(layers: Kernels, picks: Picks) -> int:
    """Distances of neighbours add up where one follows the other, as in a chain of layers; scratch comes on top."""
    taken = [own[pick] for own, pick in zip(layers, picks, strict=True)]
    chain = max(a[1] + b[1] for a, b in itertools.pairwise([(0, 0, 0), *taken]))
    return max(chain, *(scratch + below for scratch, below, _ in taken))


def best_set(layers: Kernels, limit: int) -> tuple[int, int]:
    """Of all sets: those within the limit, or else those with the least arena; the least cycles."""
    sets = [(arena(layers, picks), picks) for picks in itertools.product(*(range(len(own)) for own in layers))]
    least = max(limit, min(size for size, _ in sets))
    return least, min(cycles(layers, picks) for size, picks in sets if size <= least)


def cycles(layers: Kernels, picks: Picks) -> int:
    return sum(own[pick][2] for own, pick in zip(layers, picks, strict=True))


def found(layers: Kernels, limit: int) -> Picks:
    def best(part: Part) -> tuple[tuple[float, ...], Picks]:
        picks = tuple(min(own, key=lambda k: layers[at][k][2]) for at, own in enumerate(part))
        return (cycles(layers, picks),), picks

    part, _ = within(forms(layers), best, lambda picks: arena(layers, picks), limit)
    return best(part)[1]


def test_what_cannot_run_in_place_goes_and_not_what_has_more_scratch() -> None:
    """The quick kernel without scratch has to keep off its input; the one with scratch may stay."""
    layers = [[(0, 12, 1), (0, 0, 9)], [(6, 0, 1), (5, 0, 9)]]
    assert found(layers, 6) == (1, 0)
    assert found(layers, 5) == (1, 1)


@given(st.lists(st.lists(KERNEL, min_size=1, max_size=3), min_size=1, max_size=4), st.integers(0, 40))
def test_the_best_of_all_sets(layers: Kernels, limit: int) -> None:
    """Exactly, as long as the search may take as many steps as there are sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lean, "STEPS", 1000)
        picks = found(layers, limit)
    fits = [own for own in itertools.product(*(range(len(row)) for row in layers)) if arena(layers, own) <= limit]
    if fits:
        assert arena(layers, picks) <= limit
        assert cycles(layers, picks) == best_set(layers, limit)[1]


@given(st.lists(st.lists(KERNEL, min_size=1, max_size=3), min_size=1, max_size=4), st.integers(0, 40))
def test_few_steps_never_take_more_than_the_leanest_set(layers: Kernels, limit: int) -> None:
    leanest = tuple(min(range(len(own)), key=lambda k: (sum(own[k][:2]), own[k][0])) for own in layers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lean, "STEPS", 1)
        picks = found(layers, limit)
    assert arena(layers, picks) <= max(limit, arena(layers, leanest))


MUTANTS = {
    "greedy": ("_leaner", lambda self, part, picks: iter(())),
    "any form serves": ("exchanged", lambda self: self.part),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dividing, or with everything exchanged at once, a set is taken that does not fit or costs more."""
    layers = [[(0, 4, 1), (0, 0, 2)], [(0, 4, 1), (0, 0, 9)]]
    right = found(layers, 7)
    assert right == (1, 0)
    attribute, wrong = MUTANTS[name]
    monkeypatch.setattr(lean._Search, attribute, wrong)
    monkeypatch.setattr(lean, "STEPS", 1)
    assert found(layers, 7) != right
