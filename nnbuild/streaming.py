"""Which layers of a network are computed row by row: none, those that the user names, or as few as RAM asks for.

A network is cut into single layers and segments (`nnbuild.rows`). Each has a peak of live bytes, with all tensors that
live across it, and costs cycles: rows move, and kernels are called for each row. The cheapest cut whose peaks are all
within the limit is a shortest path from the first layer to the last. Where none is, the least limit that leaves one is
found. Peaks are those of the preferred kernels, before anything has its place; so where the plan takes more, the limit
is lowered by as much, and the search goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from nnbuild import cost, fixedpoint
from nnbuild.cost import Timing
from nnbuild.errors import ConfigError
from nnbuild.memory import ALIGNMENT, Plan, least, plan
from nnbuild.network import Network
from nnbuild.optimize import Aim, Selection, in_order, optimize
from nnbuild.rows import Kept, Run, Way, goes_by_rows, segment, streamed
from nnbuild.selection import Choice, candidates, select
from nnbuild.target import Target

Ends = tuple[int, int]
"""The first and the last layer of a segment."""
WAYS = (Way(), Way(1, True), Way(2), Way(2, True))
"""How segments may go. Kernels that take two pixels or two lines at a time lose by single rows."""
AUTO, NEVER = "auto", "never"
ROUNDS = 4
"""How often the limit is lowered by what a plan takes beyond it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a network is generated for, as in `emit.EmitOptions`; `io`: inputs and outputs lie in the arena.

    `rows` is "auto", "never", or the segments as `first-last` with commas, by the names of layers; with `pushed` the
    caller gives the input row by row. `apart` is as in `memory.plan`.
    """

    target: Target
    aim: Aim = field(default_factory=Aim)
    pins: Mapping[str, str] = field(default_factory=dict)
    backend: str = "auto"
    prefix: str = ""
    io: bool = False
    alignment: int = ALIGNMENT
    rows: str = AUTO
    pushed: bool = False
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A network, with the segments that go row by row, its kernels and its memory."""

    network: Network
    selection: Selection
    planned: Plan


def made(network: Network, setup: Setup) -> Made:
    """The shrunk `network` as it is generated. ConfigError where it cannot go by rows as the user wants."""
    named = _named(network, setup.rows)
    if setup.pushed and named is not None and not any(first == 0 for first, _ in named):
        raise ConfigError("push_rows needs a segment that begins with the first layer", hint="stream_rows='auto'")
    limit = setup.aim.ram
    whole = None if setup.pushed or named else _made(network, setup)
    if whole is not None and (limit is None or _ram(whole) <= limit or named is not None):
        return whole
    found = [whole] if whole is not None else []
    if named:
        # What cannot be, or is not for this model, is said of the first way that is tried.
        _by_rows(network, [Run(*ends) for ends in named], setup)
    parts = _parts(network, setup, named)
    below = float("inf") if limit is None else limit
    # The last round is that of the least peaks that there are.
    for last in range(ROUNDS + 1):
        cut = _cut(network, parts, below if last < ROUNDS else 0)
        if cut is None:
            break
        found.append(_made(_by_rows(network, cut, setup), setup))
        over = 0 if limit is None else _ram(found[-1]) - limit
        if over <= 0:
            return found[-1]
        below -= over
    if not found:
        raise ConfigError("the input cannot be pushed row by row", hint="only convolutions and pools go by rows")
    return min(found, key=_ram)


def _ram(found: Made) -> int:
    return found.planned.arena + found.planned.state_bytes


def _made(network: Network, setup: Setup) -> Made:
    serving = candidates(network, setup.target, setup.pins, setup.backend, setup.prefix)

    def planner(choices: Sequence[Choice]) -> Plan:
        return plan(network, choices, setup.target, setup.io, setup.alignment, setup.apart)

    with fixedpoint.rounding(network.single_rounding):
        besides = cost.all_rows_work(network, setup.target, setup.target.cpu)
        selection = optimize(serving, setup.target, setup.aim, planner, besides)
        planned = planner(selection.choices)
        return Made(network, in_order(network, selection, planned, setup.target), planned)


def _named(network: Network, text: str) -> list[Ends] | None:
    """The segments that the user names, none for "never"; None for "auto"."""
    if text in (AUTO, NEVER):
        return None if text == AUTO else []
    places = {layer.name: index for index, layer in enumerate(network.layers)}
    places |= {layer.name.partition("_")[0]: index for index, layer in enumerate(network.layers)}
    runs = []
    for part in text.split(","):
        first, _, last = (word.strip() for word in part.partition("-"))
        for name in (first, last or first):
            if name not in places:
                raise ConfigError(f"stream_rows: there is no layer '{name}'", hint=f"layers are {', '.join(places)}")
        runs.append((places[first], places[last or first]))
    if any(first > last for first, last in runs) or any(one[1] >= other[0] for one, other in pairwise(runs)):
        raise ConfigError("stream_rows: segments must follow each other", hint="such as 'l00-l08,l09-l12'")
    return runs


_HINT = "every layer needs rows, nothing but the last output may be read outside, and no tensor may lie in another"


def _by_rows(network: Network, runs: Sequence[Run], setup: Setup) -> Network:
    found = streamed(network, runs, setup.pushed)
    if found is None:
        wrong = next(run for run in runs if segment(network, run, setup.pushed and run.first == 0) is None)
        names = [network.layers[index].name for index in (wrong.first, wrong.last)]
        message = f"stream_rows: {names[0]} to {names[1]} cannot go row by row"
        raise ConfigError(message, hint=_HINT)
    if setup.pushed and _leaves(found, setup):
        raise ConfigError("push_rows: the segment writes an output of the model", hint="io='arena', or a shorter one")
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """Layers `first` to `last`, one or a segment: most bytes that live in it, cycles beyond those of single layers.

    `way` is how a segment goes.
    """

    first: int
    last: int
    peak: int
    cycles: float
    way: Way | None = None


def _cut(network: Network, parts: Sequence[_Part], limit: float) -> list[Run] | None:
    """The runs of the cheapest cut within `limit`, or within the least limit that leaves one; None where none does."""
    peaks = sorted({part.peak for part in parts})
    path = _path(network, parts, limit)
    while path is None and peaks:
        # The least limit is the peak of a part: half of what is left of them at a time.
        low, high = 0, len(peaks) - 1
        if _path(network, parts, peaks[high]) is None:
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if _path(network, parts, peaks[middle]) is not None else (middle + 1, high)
        path = _path(network, parts, peaks[low])
    return None if path is None else [Run(part.first, part.last, part.way) for part in path if part.way is not None]


def _path(network: Network, parts: Sequence[_Part], limit: float) -> list[_Part] | None:
    """The cheapest way through all layers by parts that are within the limit."""
    best: dict[int, tuple[float, list[_Part]]] = {0: (0.0, [])}
    for part in sorted(parts, key=lambda part: part.first):
        if part.peak <= limit and part.first in best:
            cycles, path = best[part.first]
            known = best.get(part.last + 1)
            if known is None or cycles + part.cycles < known[0]:
                best[part.last + 1] = (cycles + part.cycles, [*path, part])
    found = best.get(len(network.layers))
    return None if found is None else found[1]


def _parts(network: Network, setup: Setup, named: Sequence[Ends] | None) -> list[_Part]:
    """Single layers, and all segments that there are, in all ways; a pushed input leaves those at the beginning.

    Of segments that are named there are no others, and no single layers.
    """
    whole = _preferred(network, setup)
    live = least(network, whole, setup.target, setup.io, setup.alignment)
    single = [_cycles(choice, setup) for choice in whole]
    inside = {index for first, last in named or () for index in range(first, last + 1)}
    parts = [_Part(index, index, peak, 0.0) for index, peak in enumerate(live) if index or not setup.pushed]
    parts = [part for part in parts if part.first not in inside]
    for first, last in _all_ends(network) if named is None else named:
        known: list[Mapping[str, Kept]] = []
        for way in WAYS:
            pushed = setup.pushed and first == 0
            found = streamed(network, [Run(first, last, way)], pushed)
            if found is None or (pushed and _leaves(found, setup)) or found.segments[0].kept in known:
                continue
            known.append(found.segments[0].kept)
            choices = _preferred(found, setup, first, last)
            choices = (*whole[:first], *choices, *whole[last + 1 :])
            peak = max(least(found, choices, setup.target, setup.io, setup.alignment)[first : last + 1])
            cycles = sum(_cycles(choice, setup) for choice in choices[first : last + 1])
            cycles += _weighed(cost.rows_work(found.segments[0], setup.target, setup.target.cpu), setup)
            # Rows are for RAM: where they seem to save cycles, too, that is no reason to have them.
            parts.append(_Part(first, last, peak, max(1, cycles - sum(single[first : last + 1])), way))
    return parts


def _all_ends(network: Network) -> Iterator[Ends]:
    for first in range(len(network.layers)):
        for last in range(first, len(network.layers)):
            if not goes_by_rows(network, first, last):
                break
            yield first, last


def _leaves(found: Network, setup: Setup) -> bool:
    """Whether the first segment writes to the caller's memory, which it does not know as long as rows are pushed."""
    return found.segments[0].result in {port.tensor for port in found.outputs} and not setup.io


def _preferred(network: Network, setup: Setup, first: int = 0, last: int | None = None) -> tuple[Choice, ...]:
    """The preferred kernels of some layers."""
    layers = network.layers[first : len(network.layers) if last is None else last + 1]
    names = {name for layer in layers for name in (setup.prefix + layer.name, layer.name, layer.node)}
    pins = {name: kernel for name, kernel in setup.pins.items() if name in names}
    return select(replace(network, layers=layers), setup.target, pins, setup.backend, setup.prefix)


def _cycles(choice: Choice, setup: Setup) -> int:
    return _weighed(cost.layer_work(choice, setup.target, setup.target.cpu), setup)


def _weighed(work: cost.Work, setup: Setup) -> int:
    timing = Timing(setup.target.cpu, setup.aim.wait_states, setup.aim.mul_cycles)
    return cost.weigh(work, timing).cycles
