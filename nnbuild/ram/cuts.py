"""The cheapest cut of a network into single layers and segments that go row by row, within a limit on live bytes.

Each part has, for each of its layers, kernels with the bytes that live there and the cycles that they take; a segment
costs cycles besides, since rows move and kernels are called for each row. Within a limit the cheapest cut is a shortest
path from the first layer to the last, over parts with the fastest kernels that it allows; the least limit that leaves a
cut is the path whose largest part is the smallest one. Most segments are too large for a limit by their source and
their result alone: those are not looked at further.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nnbuild import cost
from nnbuild.contract import Kernel
from nnbuild.cost import Timing
from nnbuild.errors import KernelError
from nnbuild.network import Layer, Network, Port
from nnbuild.optimize import eligible
from nnbuild.ram.lean import Form
from nnbuild.ram.memory import elsewhere, lifetimes, needs, storages
from nnbuild.ram.offsets import Span
from nnbuild.ram.rows import Kept, Run, Segment, Way, goes_by_rows, streamed
from nnbuild.selection import Candidates, candidates

if TYPE_CHECKING:
    from nnbuild.ram.streaming import Setup

WAYS = (Way(), Way(1, True), Way(2), Way(2, True))
"""How segments may go. Kernels that take two pixels or two lines at a time lose by single rows."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Layers `first` to `last`: for each the bytes that live there and the cycles, by kernel; cycles of all of it.

    `way` is how a segment goes.
    """

    first: int
    last: int
    kernels: tuple[tuple[tuple[int, int], ...], ...]
    besides: int
    way: Way | None = None

    @property
    def peak(self) -> int:
        """The bytes that live in it at least."""
        return max(min(need for need, _ in own) for own in self.kernels)

    def cycles(self, limit: float) -> int:
        """With the fastest kernels within the limit, which is at least its peak."""
        return self.besides + sum(min(cycles for need, cycles in own if need <= limit) for own in self.kernels)


class Cuts:
    """Those of one network. What is known of a part is kept."""

    def __init__(self, network: Network, setup: Setup, serving: Sequence[Candidates]) -> None:
        self.network, self.setup = network, setup
        self.timing = Timing(setup.target.cpu, setup.aim.wait_states, setup.aim.mul_cycles)
        self.lives = lifetimes(network)
        self.elsewhere = elsewhere(network, setup.io)
        self.storages = storages(network, setup.io, setup.alignment)
        self.held = [self._lives(self.storages, index) for index in range(len(network.layers))]
        known = eligible(serving, setup.target)
        rows = needs(network, known, setup.target, setup.io, setup.alignment, setup.apart)
        self.single = [
            _Part(index, index, (tuple(zip(own, self._cycles(layer), strict=True)),), 0)
            for index, (layer, own) in enumerate(zip(known, rows, strict=True))
        ]
        self.free = [part.cycles(float("inf")) for part in self.single]
        self.ends = functools.cache(self._ends)
        self.segments = functools.cache(self._segments)
        self.row_layers: dict[str, tuple[Candidates, list[int]] | None] = {}

    def whole(self) -> int:
        """The bytes that live at some layer where none goes by rows, whatever the kernels are."""
        return max(part.peak for part in self.single)

    def least(self, most: float) -> int | None:
        """The least limit within which there is a cut; None where it is more than `most`."""
        waiting: list[tuple[int, int, int]] = [(0, 0, -1)]
        reached: set[int] = set()
        while waiting:
            peak, first, last = heapq.heappop(waiting)
            if peak > most:
                break
            if last >= 0:
                for part in self.segments(first, last):
                    heapq.heappush(waiting, (max(peak, part.peak), last + 1, -1))
            elif first == len(self.single):
                return peak
            elif first not in reached:
                reached.add(first)
                if not self._pushed(first):
                    heapq.heappush(waiting, (max(peak, self.single[first].peak), first + 1, -1))
                for end in self.ends(first):
                    heapq.heappush(waiting, (max(peak, self.bound(first, end)), first, end))
        return None

    def cheapest(self, limit: float) -> tuple[Run, ...]:
        """The segments of the cheapest cut within a limit, within which there is one."""
        slowed = [part.peak > limit or part.cycles(limit) > self.free[part.first] for part in self.single]
        best: list[tuple[float, tuple[Run, ...]] | None] = [(0, ()), *[None] * len(self.single)]
        for first in range(len(self.single)):
            before = best[first]
            if before is None:
                continue
            for part in self._within(first, limit, slowed):
                # Rows are for RAM: where they seem to save cycles, too, that is no reason to have them.
                least = 0 if part.way is None else sum(self.free[first : part.last + 1]) + 1
                cycles = before[0] + max(part.cycles(limit), least)
                known = best[part.last + 1]
                if known is None or cycles < known[0]:
                    runs = () if part.way is None else (Run(first, part.last, part.way),)
                    best[part.last + 1] = (cycles, (*before[1], *runs))
        found = best[-1]
        assert found is not None
        return found[1]

    def _within(self, first: int, limit: float, slowed: Sequence[bool]) -> Iterator[_Part]:
        """The parts that begin with a layer; segments only where one of their layers has to give up something."""
        pushed = self._pushed(first)
        if not pushed and self.single[first].peak <= limit:
            yield self.single[first]
        for last in self.ends(first):
            if (pushed or any(slowed[first : last + 1])) and self.bound(first, last) <= limit:
                yield from (part for part in self.segments(first, last) if part.peak <= limit)

    def _pushed(self, first: int) -> bool:
        return self.setup.pushed and first == 0

    def _ends(self, first: int) -> tuple[int, ...]:
        """The last layers of what may be segments, were all of them closed."""
        found = []
        for last in range(first, len(self.single)):
            if not goes_by_rows(self.network, first, last):
                break
            found.append(last)
        return tuple(found)

    def bound(self, first: int, last: int) -> int:
        """Bytes that live in a segment at least: its source or its result, and what it has nothing to do with."""
        layers = self.network.layers
        ends = [layers[last].output] + ([] if self._pushed(first) else [layers[first].inputs[0]])
        sizes = [sum(span.size for span in self.storages[name]) for name in ends if name in self.storages]
        return max(self._around(first, last)) + max(sizes, default=0)

    def _around(self, first: int, last: int) -> list[int]:
        """What lives at each layer of a segment that it neither reads nor writes."""
        layers = self.network.layers[first : last + 1]
        names = {layers[0].inputs[0], *(layer.output for layer in layers)} & self.storages.keys()
        own = {name: self.storages[name] for name in names}
        return [self.held[index] - self._lives(own, index) for index in range(first, last + 1)]

    @staticmethod
    def _lives(storages: Mapping[str, Sequence[Span]], layer: int) -> int:
        return sum(span.size for own in storages.values() for span in own if span.first <= layer <= span.last)

    def way(self, first: int, last: int, limit: float) -> Run:
        """This segment, which there is, in the cheapest way within a limit, or in the one that takes least."""
        parts = self.segments(first, last)
        if not parts:
            return Run(first, last)  # where no kernel serves, which is said when it is made
        fitting = [part for part in parts if part.peak <= limit]
        best = min(fitting, key=lambda part: part.cycles(limit)) if fitting else min(parts, key=lambda part: part.peak)
        return Run(first, last, best.way or Way())

    def _segments(self, first: int, last: int) -> tuple[_Part, ...]:
        """These layers row by row, in all ways that differ; none where they cannot be."""
        found: list[_Part] = []
        known: list[Mapping[str, Kept]] = []
        for way in WAYS:
            network = streamed(self.network, [Run(first, last, way)], self._pushed(first))
            if network is None or (self._pushed(first) and leaves(network, self.setup.io)):
                continue
            if network.segments[0].kept not in known:
                known.append(network.segments[0].kept)
                part = self._segment(network, first, last, way)
                found += [] if part is None else [part]
        return tuple(found)

    def _segment(self, found: Network, first: int, last: int, way: Way) -> _Part | None:
        """A segment of `found`; None where a layer of it has no kernel."""
        own = found.segments[0]
        layers = [self._row_layer(found, layer) for layer in found.layers[first : last + 1]]
        known = [layer for layer in layers if layer is not None]
        if len(known) < len(layers):
            return None
        setup, part = self.setup, self._alone(found, own)
        outside = self.elsewhere - ({own.source} if own.pushed else set())
        rows = needs(part, [layer for layer, _ in known], setup.target, setup.io, setup.alignment, setup.apart, outside)
        kernels = tuple(
            tuple((need + around, cycles) for need, cycles in zip(row, takes, strict=True))
            for row, (_, takes), around in zip(rows, known, self._around(first, last), strict=True)
        )
        besides = cost.weigh(cost.rows_work(own, setup.target, setup.target.cpu), self.timing).cycles
        return _Part(first, last, kernels, besides, way)

    def _alone(self, network: Network, own: Segment) -> Network:
        """A network of nothing but a segment; what is needed behind it is an output."""
        names = {*own.homes, *own.homes.values(), *own.kept, own.source, own.result}
        names |= network.tensors.keys() - self.network.tensors.keys()
        source = Port(own.source, own.source, network.tensors[own.source].shape, "")
        return Network(
            {name: network.tensors[name] for name in network.tensors if name in names},
            network.layers[own.first : own.last + 1],
            (source,),
            (source,) if self.lives[own.source][1] > own.last else (),
            segments=(replace(own, first=0, last=own.last - own.first),),
        )

    def _row_layer(self, network: Network, layer: Layer) -> tuple[Candidates, list[int]] | None:
        """A layer of one row: its kernels that no other beats in memory and cycles, with those cycles."""
        setup = self.setup
        shapes = [network.tensors[name].shape for name in (*layer.inputs, layer.output)]
        key = repr((layer.name, layer.params, layer.times, shapes))
        if key not in self.row_layers:
            names = (setup.prefix + layer.name, layer.name, layer.node)
            pins = {name: kernel for name, kernel in setup.pins.items() if name in names}
            try:
                found = candidates(replace(network, layers=(layer,)), setup.target, pins, setup.backend, setup.prefix)
                self.row_layers[key] = self._unbeaten(eligible(found, setup.target)[0])
            except KernelError:
                self.row_layers[key] = None
        return self.row_layers[key]

    def _unbeaten(self, layer: Candidates) -> tuple[Candidates, list[int]]:
        view, target = layer.view, self.setup.target
        cycles = self._cycles(layer)
        forms = [Form(0, kernel.scratch(view, target), kernel.overlap(view, target)) for kernel in layer.kernels]
        order = sorted(range(len(forms)), key=lambda kernel: cycles[kernel])
        kept: list[int] = []
        for kernel in order:
            if not any(forms[other].serves(forms[kernel]) for other in kept):
                kept.append(kernel)
        kernels = tuple(_fixed(layer.kernels[kernel], forms[kernel]) for kernel in kept)
        return replace(layer, kernels=kernels), [cycles[kernel] for kernel in kept]

    def _cycles(self, layer: Candidates) -> list[int]:
        """Of each kernel."""
        target = self.setup.target
        works = (cost.layer_work(layer.choose(kernel, {}), target, target.cpu) for kernel in layer.kernels)
        return [cost.weigh(work, self.timing).cycles for work in works]


def _fixed(kernel: Kernel, form: Form) -> Kernel:
    """The kernel for one layer, which need not be asked again."""
    return replace(kernel, scratch=lambda view, target: form.scratch, overlap=lambda view, target: form.over)


def leaves(network: Network, io: bool) -> bool:
    """Whether the first segment writes to the caller's memory, which it does not know as long as rows are pushed."""
    return network.segments[0].result in {port.tensor for port in network.outputs} and not io
