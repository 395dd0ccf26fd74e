"""Which layers of a network are computed row by row: none, those that the user names, or as few as RAM asks for.

The cheapest cut into single layers and segments within RAM comes from `ram.cuts`, which judges it by the bytes that
live at each layer; here it is planned. Where the plan takes more, the limit is lowered by as much, and the search goes
on. What is cheaper of that and of whole layers with kernels that need less is taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from nnbuild import cost, fixedpoint
from nnbuild.contract import Kernel, LayerView, Source
from nnbuild.errors import ConfigError
from nnbuild.network import Network
from nnbuild.optimize import Aim, Memory, Selection, in_order, optimize, rank
from nnbuild.pareto import Point
from nnbuild.ram.cuts import Cuts, leaves
from nnbuild.ram.memory import ALIGNMENT, Plan, needs, plan
from nnbuild.ram.rows import Run, segment, streamed
from nnbuild.selection import Candidates, candidates
from nnbuild.target import Target

Ends = tuple[int, int]
"""The first and the last layer of a segment."""
AUTO, NEVER = "auto", "never"
ROUNDS = 4
"""How often the limit is lowered by what a plan takes beyond it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a network is generated for, as in `emit.EmitOptions`; `io`: inputs and outputs lie in the arena.

    `rows` is "auto", "never", or the segments as `first-last` with commas, by the names of layers; with `pushed` the
    caller gives the input row by row. `apart` is as in `memory.plan`. Unless `nearest`, what is made where nothing fits
    is any plan that does not, and not the one with the least RAM.
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
    nearest: bool = True


@dataclass(frozen=True, slots=True)
class Figures:
    """Bytes of RAM (arena and states) and of flash, and cycles of an inference; flash and cycles are estimates.

    They are 0 on a core of which nothing is known.
    """

    ram: int
    flash: int
    cycles: int


@dataclass(frozen=True, slots=True)
class Made:
    """A network, with the segments that go row by row, its kernels and its memory.

    `whole` is what it would take with all layers whole and the kernels that are chosen where RAM has no limit.
    """

    network: Network
    selection: Selection
    planned: Plan
    whole: Figures | None = None

    @property
    def figures(self) -> Figures:
        """What it takes."""
        flash, cycles = self.selection.curve[self.selection.chosen] if self.selection.curve else (0, 0)
        return Figures(self.planned.arena + self.planned.state_bytes, flash, cycles)


def made(network: Network, setup: Setup) -> Made:
    """The shrunk `network` as it is generated. ConfigError where it cannot go by rows as the user wants."""
    with fixedpoint.rounding(network.single_rounding):
        maker = Maker(network, setup)
        found = _chosen(maker)
        selection = in_order(found.network, found.selection, found.planned, setup.target)
        return replace(found, selection=selection, whole=maker.whole.figures)


def _chosen(maker: Maker) -> Made:
    network, setup, limit = maker.network, maker.setup, maker.setup.aim.ram
    named = _named(network, setup.rows)
    if setup.pushed and named is not None and not any(first == 0 for first, _ in named):
        raise ConfigError("push_rows needs a segment that begins with the first layer", hint="stream_rows='auto'")
    if named == []:
        return maker.by_rows(())
    if named is None and not setup.pushed and (limit is None or maker.whole.figures.ram <= limit):
        return maker.whole
    found = list(_cheapest(maker) if named is None else _as_named(maker, named))
    if not found:
        hint = "what reads it first has to be one int8 convolution or pool"
        hint += "" if setup.io else ", and what goes by rows no output of the model: io='arena'"
        raise ConfigError("the input cannot be pushed row by row", hint=hint)
    over = {id(own): 0 if limit is None else max(0, own.figures.ram - limit) for own in found}
    return min(found, key=lambda own: (over[id(own)], maker.rank(own)))


def _cheapest(maker: Maker) -> Iterator[Made]:
    """The cheapest cut within the limit on RAM, or the one that takes least; and those that were tried on the way."""
    cuts = Cuts(maker.network, maker.setup, maker.serving)
    least = cuts.least(float("inf") if maker.setup.nearest else maker.limit)
    if least is None:
        if not maker.setup.nearest:
            yield maker.whole
        return
    if not maker.setup.pushed and cuts.whole() <= maker.limit:
        yield maker.by_rows(())
    yield from _planned(maker, cuts.cheapest, least)


def _as_named(maker: Maker, named: Sequence[Ends]) -> Iterator[Made]:
    """With these segments, each in the cheapest way within the limit on RAM, as far as parts show it."""
    # What cannot be, or is not for this model, is said of the first way.
    _by_rows(maker.network, [Run(*ends) for ends in named], maker.setup)
    cuts = Cuts(maker.network, maker.setup, maker.serving)
    return _planned(maker, lambda limit: tuple(cuts.way(*ends, limit) for ends in named), 0)


def _planned(maker: Maker, cut: Callable[[float], tuple[Run, ...]], least: float) -> Iterator[Made]:
    """What `cut` says within the limit on RAM, which parts that are planned may exceed.

    Parts are judged by what lives in them; where the plan takes more, the others have to take less.
    """
    limit, tried = max(maker.limit, least), set()
    for _ in range(ROUNDS):
        runs = cut(limit)
        if runs in tried:
            break
        tried.add(runs)
        found = maker.by_rows(runs)
        yield found
        limit = max(least, limit - max(0, found.planned.arena - maker.limit))


class Maker:
    """Makes one network in several ways, and each thing once."""

    def __init__(self, network: Network, setup: Setup) -> None:
        self.network, self.setup = network, setup
        self.serving = candidates(network, setup.target, setup.pins, setup.backend, setup.prefix)
        self._rendered: dict[str, Source] = {}

    @functools.cached_property
    def whole(self) -> Made:
        """With all layers whole and no limit on RAM."""
        return self._made(self.network, self.serving, replace(self.setup.aim, ram=None))

    @property
    def limit(self) -> float:
        """That on bytes of the arena."""
        ram = self.setup.aim.ram
        return float("inf") if ram is None else ram - self.whole.planned.state_bytes

    def by_rows(self, runs: Sequence[Run]) -> Made:
        """With `runs` of layers row by row."""
        if not runs and self.setup.aim.ram is None:
            return self.whole
        network = _by_rows(self.network, runs, self.setup)
        setup = self.setup
        serving = candidates(network, setup.target, setup.pins, setup.backend, setup.prefix) if runs else self.serving
        return self._made(network, serving, setup.aim)

    def rank(self, made: Made) -> tuple[float, ...]:
        """How much it costs, with limits on flash and cycles."""
        own = made.figures
        return rank(Point(own.flash, own.cycles, ()), replace(self.setup.aim, goal="speed"))

    def _made(self, network: Network, serving: Sequence[Candidates], aim: Aim) -> Made:
        setup = self.setup
        place = (setup.io, setup.alignment, setup.apart)
        memory = Memory(
            lambda choices: plan(network, choices, setup.target, *place),
            lambda layers: needs(network, layers, setup.target, *place),
        )
        besides = cost.all_rows_work(network, setup.target, setup.target.cpu)
        selection = optimize(serving, setup.target, aim, memory, besides, self._render)
        return Made(network, selection, memory.plan(selection.choices))

    def _render(self, kernel: Kernel, view: LayerView) -> Source:
        shapes = [tensor.shape for tensor in (*view.inputs, view.output)]
        key = repr((view.layer.name, view.layer.params, view.layer.times, shapes, kernel.name))
        if key not in self._rendered:
            self._rendered[key] = kernel.render(view, self.setup.target)
        return self._rendered[key]


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
    if setup.pushed and leaves(found, setup.io):
        raise ConfigError("push_rows: the segment writes an output of the model", hint="io='arena', or a shorter one")
    return found
