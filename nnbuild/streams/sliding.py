"""Layers that compute the same at every point in time, and how to take only the newest of it from them.

An operator says by `Operator.slides` how a layer of it runs along time; `streams.over_time` asks. The rules here are
those that operators share: a window over space, rows that have nothing to do with each other, elements by offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnbuild.network import Array

if TYPE_CHECKING:
    from nnbuild.contract import LayerView
    from nnbuild.ops.spatial import Window


@dataclass(frozen=True, slots=True)
class Time:
    """Where time lies in the memory of a tensor: `outer` times `length` rows of `inner` elements, a row for a time."""

    outer: int
    length: int
    inner: int

    @property
    def elements(self) -> int:
        """Of all rows of one point in time."""
        return self.outer * self.inner

    def beside(self, offsets: Array) -> Array:
        """Where in its row each element lies, of all rows of its point in time."""
        return np.asarray(offsets // (self.length * self.inner) * self.inner + offsets % self.inner)

    def moved(self, offsets: Array, length: int) -> Array:
        """`offsets` of elements, in a tensor that holds only the newest `length` rows."""
        outer, rest = np.divmod(offsets, self.length * self.inner)
        return np.asarray(outer * length * self.inner + rest - (self.length - length) * self.inner)


@dataclass(frozen=True, slots=True)
class Reach:
    """Row r of a layer's output needs no row of the input before r * `stride` + `first`.

    An input that is cut may begin with any earlier row where it is `elastic`, otherwise only with the first needed.
    """

    stride: int = 1
    first: int = 0
    elastic: bool = False


Cut = Callable[[Sequence[int], int], tuple[Any, Mapping[str, Array]]]


@dataclass(frozen=True, slots=True)
class Sliding:
    """How a layer runs along time.

    `output` is where time lies in its output, None where the layer makes one of all of it. `reaches` are those of its
    inputs, None for what has no time. `cut(lengths, rows)` gives parameters and constants for inputs that hold the
    newest `lengths` rows, and the newest `rows` of the output.
    """

    output: Time | None
    reaches: tuple[Reach | None, ...]
    cut: Cut


Slides = Callable[["LayerView", Sequence[Time | None]], Sliding | str]
"""From a layer and the time of each of its inputs (None: has none) to how it runs, or to the reason why it cannot."""


def never(view: LayerView, times: Sequence[Time | None]) -> Sliding | str:
    """Of operators that do not say."""
    return f"{view.layer.op} does not run along time"


def whole(view: LayerView, times: Sequence[Time | None]) -> Sliding:
    """A layer that makes one of all points in time: it stays as it is, over all rows."""
    return Sliding(None, tuple(Reach() if time else None for time in times), lambda *_: (view.params, view.constants))


def by_rows(view: LayerView, times: Sequence[Time | None], count: int, shorter: Callable[[int], Any]) -> Sliding | str:
    """A layer of one input that works on `count` rows of it, each for itself; `shorter(n)` are parameters for n."""
    (time,) = times
    assert time is not None
    size = view.inputs[0].size // count
    if time.inner % size:
        return "it runs over several points in time at once"
    each = time.inner // size
    output = Time(time.outer, time.length, each * (view.output.size // count))

    def cut(lengths: Sequence[int], rows: int) -> tuple[Any, Mapping[str, Array]]:
        return shorter(time.outer * rows * each), view.constants

    return Sliding(output, (Reach(),), cut)


def by_element(view: LayerView, times: Sequence[Time | None]) -> Sliding | str:
    """A layer of one input whose parameters hold the number of elements as `size`."""
    return by_rows(view, times, view.params.size, lambda size: replace(view.params, size=size))


def by_depth(view: LayerView, times: Sequence[Time | None]) -> Sliding | str:
    """A layer of one input whose parameters hold the number of its rows as `rows`."""
    return by_rows(view, times, view.params.rows, lambda rows: replace(view.params, rows=rows))


def by_window(view: LayerView, times: Sequence[Time | None]) -> Sliding | str:
    """A convolution or pool: `params.window` over (height, width, channels), one of which axes is time."""
    (time,) = times
    assert time is not None
    place: Window = view.params.window
    height, width, channels = place.input
    channels_out = view.output.size // place.pixels
    if (time.outer, time.length, time.inner) == (1, height, width * channels):
        axis, output = 0, Time(1, place.output[0], place.output[1] * channels_out)
    elif (time.outer, time.length, time.inner) == (height, width, channels):
        axis, output = 1, Time(place.output[0], place.output[1], channels_out)
    elif place.kernel[0] == place.stride[0] == 1 and not place.pad[0] and place.output[0] == height:
        return by_rows(view, times, height, lambda rows: _lines(view.params, rows))
    else:
        return "time is no axis of its window"
    if place.pad[axis] or place.beyond(axis) > 0:
        return "it pads along time"

    def cut(lengths: Sequence[int], rows: int) -> tuple[Any, Mapping[str, Array]]:
        return _along(view.params, axis, lengths[0], rows), view.constants

    return Sliding(output, (Reach(place.stride[axis]),), cut)


def _lines(params: Any, rows: int) -> Any:
    place = params.window
    return replace(params, window=replace(place, input=(rows, *place.input[1:]), output=(rows, place.output[1])))


def _along(params: Any, axis: int, length: int, rows: int) -> Any:
    """Of a layer over `length` elements of an axis that gives `rows`."""
    place, changed = params.window, {0: length, 1: rows}
    size = tuple(changed[0] if n == axis else size for n, size in enumerate(place.input))
    output = tuple(changed[1] if n == axis else size for n, size in enumerate(place.output))
    return replace(params, window=replace(place, input=size, output=output))


@dataclass(frozen=True, slots=True)
class Move:
    """Elements that a layer reads of an operand: those at `offsets`, for its output's elements `places`, ascending."""

    offsets: Array
    places: Array


@dataclass(frozen=True, slots=True)
class Moving:
    """Moves that are the same at each point in time.

    `output` and `reaches` are as in `Sliding`; `cut(lengths, rows)` gives the moves for the newest rows of the output.
    """

    output: Time
    reaches: tuple[Reach | None, ...]
    cut: Callable[[Sequence[int], int], list[Move]]


def by_moves(moves: Sequence[Move], times: Sequence[Time | None], elastic: bool = False) -> Moving | str:
    """How a layer runs along time that reads its operands so; `times` are those of the operands."""
    paces = [_pace(time, move.offsets) if time else None for time, move in zip(times, moves, strict=True)]
    rows = np.zeros(1 + max(int(move.places[-1]) for move in moves), np.int64)
    for pace, move in zip(paces, moves, strict=True):
        rows[move.places] = pace.rows if pace else rows[move.places]
    output = _time_of(rows)
    if output is None:
        return "it moves points in time about"
    for pace, time, move in zip(paces, times, moves, strict=True):
        if pace and not np.array_equal(pace.rows, rows[move.places]):
            return "it brings different points in time together"
        order = np.argsort(rows[move.places], kind="stable")
        for values in (time.beside(move.offsets) if time else move.offsets, output.beside(move.places)):
            if order.size % output.length or np.ptp(values[order].reshape(output.length, -1), axis=0).any():
                return "what it takes is not the same at all times"

    def cut(lengths: Sequence[int], count: int) -> list[Move]:
        found = []
        for move, time, length in zip(moves, times, lengths, strict=True):
            newest = rows[move.places] >= output.length - count
            offsets = move.offsets[newest]
            found.append(
                Move(time.moved(offsets, length) if time else offsets, output.moved(move.places[newest], count))
            )
        return found

    return Moving(output, tuple(Reach(pace.stride, pace.first, elastic) if pace else None for pace in paces), cut)


@dataclass(frozen=True, slots=True)
class Pace:
    """Elements that lie in the rows `first` + `rows` * `stride` of their tensor."""

    first: int
    stride: int
    rows: Array


def _pace(time: Time, offsets: Array) -> Pace:
    """Of elements at `offsets`. Rows that are no multiples of a stride come out as uneven ones."""
    found = offsets // time.inner % time.length
    first = int(found.min())
    stride = int(np.gcd.reduce(found - first)) or 1
    return Pace(first, stride, (found - first) // stride)


def _time_of(rows: Array) -> Time | None:
    """Where time lies in an output whose elements are of `rows`, counted from 0 on; None where it lies nowhere."""
    length, others = int(rows.max()) + 1, np.flatnonzero(rows != rows[0])
    inner = int(others[0]) if others.size else rows.size
    found = Time(max(1, rows.size // (length * inner)), length, inner)
    return found if np.array_equal(_rows(found), rows) else None


def _rows(time: Time) -> Array:
    """The row of each element."""
    return np.tile(np.repeat(np.arange(time.length), time.inner), time.outer)
