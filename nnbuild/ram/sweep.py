"""The least extent of buffers of which few live at once, exactly: dynamic programming from layer to layer.

A chain of layers that run in place has as few offsets as its arena has words beside its largest tensor, but many orders
in which buffers may lie upon each other, so `ram.offsets` asks here before it searches. What lives at one layer
alone lies as low as the rest leaves it; of all others, every offset is tried. From layer to layer it only matters where
those lie that live on: for each of their offsets the table has the least extent of all layers so far.

Columns (layers) with too many offsets are left out. So the result bounds from below what any placement needs, and is
one only where what meets there does not collide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from nnbuild.contract import Overlap

CELLS = 1_000_000
"""Offsets of what lives on at a column, all with all, beyond which it is left out."""

LOCALS = 3
"""So many buffers may live at one column alone: each order is tried."""

NEVER = np.int32(2**30)
"""Bytes: what is impossible."""

Offsets = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Problem:
    """Sizes in bytes and alignments of buffers, and the distances of those that may overlap (`offsets.Distances`).

    `columns` are the buffers that live at one time, in the order of time; a buffer's columns follow each other.
    Placements are wanted whose ends are below `extent`; all offsets are multiples of `word`.
    """

    sizes: Sequence[int]
    alignments: Sequence[int]
    distances: Mapping[tuple[int, int], Overlap]
    columns: Sequence[Sequence[int]]
    extent: int
    word: int

    def offsets(self, index: int) -> Offsets:
        """All of a buffer."""
        alignment = self.alignments[index]
        last = self.extent - self.word - self.sizes[index]
        return np.arange(0, max(last + 1, 0), alignment, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class _Column:
    """`carried` live at other columns, too, and are the axes of `least`: the least extent of all columns so far."""

    carried: tuple[int, ...]
    local: tuple[int, ...]
    least: npt.NDArray[Any]


def sweep(problem: Problem) -> tuple[int, dict[int, int]] | None:
    """The least extent of the columns that count, and offsets for it; None where it is not below `problem.extent`.

    Where no column counts, nothing is known: 0 bytes, and no offsets.
    """
    table: npt.NDArray[Any] = np.zeros((), np.int32)
    known: tuple[int, ...] = ()
    done: list[_Column] = []
    columns = counting(problem)
    for index, column in enumerate(columns):
        others = {buffer for number, other in enumerate(columns) if number != index for buffer in other}
        carried = tuple(buffer for buffer in column if buffer in others)
        local = tuple(buffer for buffer in column if buffer not in others)
        least = np.maximum(_extents(problem, carried, local), _along(table, known, carried))
        done.append(_Column(carried, local, least))
        following = columns[index + 1] if index + 1 < len(columns) else ()
        kept = tuple(buffer for buffer in carried if buffer in following)
        gone = tuple(axis for axis, buffer in enumerate(carried) if buffer not in kept)
        table, known = least.min(axis=gone, initial=NEVER), kept
    if not done:
        return 0, {}
    extent = int(table.min())
    return (extent, _traced(problem, done)) if extent < problem.extent else None


def counting(problem: Problem) -> list[Sequence[int]]:
    """The columns that are small enough."""
    found = []
    for column in problem.columns:
        elsewhere = {index for other in problem.columns if other is not column for index in other}
        carried = [index for index in column if index in elsewhere]
        cells = np.prod([float(len(problem.offsets(index))) for index in carried])
        local = [index for index in column if index not in elsewhere]
        partners = any(pair in problem.distances for pair in permutations(local, 2))
        if cells <= CELLS and len(local) <= LOCALS and not partners:
            found.append(column)
    return found


def _along(table: npt.NDArray[Any], known: Sequence[int], carried: Sequence[int]) -> npt.NDArray[Any]:
    """`table`, whose axes are `known`, along the axes `carried`, of which those are some, in the same order."""
    shape = iter(table.shape)
    return table.reshape([next(shape) if index in known else 1 for index in carried])


def _grids(problem: Problem, carried: Sequence[int]) -> dict[int, Offsets]:
    """The offsets of each, along an axis of its own."""
    count = len(carried)
    return {
        index: problem.offsets(index).reshape([-1 if axis == own else 1 for axis in range(count)])
        for own, index in enumerate(carried)
    }


def _extents(problem: Problem, carried: Sequence[int], local: Sequence[int]) -> npt.NDArray[Any]:
    """The least extent of one column for all offsets of `carried`; NEVER where two of them share what they may not."""
    places = _grids(problem, carried)
    shape = [len(problem.offsets(index)) for index in carried]
    extent = np.zeros(shape, np.int32)
    for index, place in places.items():
        extent = np.maximum(extent, place + problem.sizes[index])
    for axis, one in enumerate(carried):
        for other in carried[:axis]:
            free = _beyond(problem, one, places[one], other, places[other]) == places[one]
            extent = np.where(free, extent, NEVER)
    if not local:
        return extent
    best = np.full(shape, NEVER, np.int32)
    for order in permutations(local):
        best = np.minimum(best, _stacked(problem, places, order, shape)[1])
    return np.maximum(extent, best)


def _stacked(
    problem: Problem, places: Mapping[int, Offsets], order: Sequence[int], shape: Sequence[int]
) -> tuple[dict[int, Offsets], npt.NDArray[Any]]:
    """Each of `order` as low as those with places, and those before it, allow; and the highest end of them."""
    found, highest = dict(places), np.zeros(shape, np.int32)
    for index in order:
        offset = np.zeros(shape, np.int32)
        while True:
            raised = offset
            for other, place in found.items():
                raised = _beyond(problem, index, raised, other, place)
            if np.array_equal(raised, offset):
                break
            offset = raised
        found[index] = offset
        highest = np.maximum(highest, offset + problem.sizes[index])
    return found, highest


def _beyond(problem: Problem, one: int, offset: Offsets, other: int, place: Offsets) -> Offsets:
    """The lowest offsets from `offset` on at which `one` leaves `other` alone, as `offsets._beyond` finds one."""
    apart = offset - place
    size, held = problem.sizes[one], problem.sizes[other]
    clear = (apart <= -size) | (apart >= held)
    own = problem.distances.get((one, other))
    if own is None:
        target = np.broadcast_to(place + held, apart.shape)
    else:
        stepped = -(-apart // own.step) * own.step
        target = place + np.where(stepped > -own.below, np.minimum(np.maximum(stepped, own.above), held), stepped)
    alignment = problem.alignments[one]
    return np.where(clear, offset, -(-target // alignment) * alignment).astype(np.int32)


def _traced(problem: Problem, done: Sequence[_Column]) -> dict[int, int]:
    """Offsets that lead to the least extent, from the last column back."""
    found: dict[int, int] = {}
    for column in reversed(done):
        places = {index: problem.offsets(index) for index in column.carried}
        fixed = tuple(
            int(np.searchsorted(places[index], found[index])) if index in found else slice(None)
            for index in column.carried
        )
        free = [index for index in column.carried if index not in found]
        rest = column.least[fixed]
        # Of the best, that of inputs as high as can be: what is written below them is written forwards.
        best = rest.size - 1 - int(rest[(slice(None, None, -1),) * rest.ndim].argmin())
        for index, position in zip(free, np.unravel_index(best, rest.shape), strict=True):
            found[index] = int(places[index][position])
        held = {index: np.array(found[index], np.int32) for index in column.carried}
        if column.local:
            orders = [_stacked(problem, held, order, ()) for order in permutations(column.local)]
            lowest = min(orders, key=lambda one: int(one[1]))[0]
            found |= {index: int(lowest[index]) for index in column.local}
    return found
