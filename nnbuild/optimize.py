"""Which kernels a network gets: over all layers at once, by what they cost in flash, in cycles and in RAM.

Of all sets of kernels those count that no other beats in both flash and cycles (`nnbuild.pareto`): a curve from the
smallest to the fastest. Limits cut it, and the goal picks a point of what is left. What a kernel costs is estimated
(`nnbuild.cost`) except for constants and functions in assembly, whose bytes are counted; on a core of which nothing is
known, or for an operator that was never measured, the preferred kernel is taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nnbuild import cost
from nnbuild.contract import Kernel, LayerView, Order, Source
from nnbuild.cost import Timing, Work
from nnbuild.network import Network
from nnbuild.pareto import Option, Point, front
from nnbuild.ram import memory
from nnbuild.ram.lean import Form, Part, Picks, within
from nnbuild.ram.memory import Plan
from nnbuild.selection import Candidates, Choice
from nnbuild.target import Target

MARGIN_PERCENT = 2
"""Of a limit on flash or cycles, which is left free: both are estimates here, and are measured when all is linked."""

FIRMWARE = 16 << 10
"""Bytes that a balance counts on top of the model's: in a small one, a function more is many percent and no matter."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What the kernels are chosen for; limits in bytes and cycles, None for none.

    "speed" is the fastest set within the limits, "size" the smallest; "balanced" goes on to a larger set as long as one
    percent of flash, FIRMWARE included, buys more than one percent of the cycles. Flash is that of the model:
    constants, code, functions of CMSIS-NN. RAM is the arena, with what layers keep.
    """

    goal: str = "balanced"
    flash: int | None = None
    ram: int | None = None
    cycles: int | None = None
    wait_states: int = 0
    mul_cycles: int = 1


@dataclass(frozen=True, slots=True)
class Selection:
    """The kernels and what they render to; `curve` holds the sets that no other beats, (flash, cycles).

    `chosen` is the index of one of them. The curve is empty where nothing is known of the core.
    """

    choices: tuple[Choice, ...]
    sources: tuple[Source, ...]
    curve: tuple[tuple[int, int], ...] = ()
    chosen: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """What kernels mean to RAM.

    `plan` says where the memory of a set lies; `needs`, for each layer and each of its kernels, the bytes that live
    there with it, below which no plan goes.
    """

    plan: Callable[[Sequence[Choice]], Plan]
    needs: Callable[[Sequence[Candidates]], Sequence[Sequence[int]]]


def optimize(
    layers: Sequence[Candidates],
    target: Target,
    aim: Aim,
    memory: Memory,
    besides: Work | None = None,
    render: Callable[[Kernel, LayerView], Source] | None = None,
) -> Selection:
    """The kernels for `layers`. `memory` is asked where RAM has a limit.

    `besides` is what is executed whatever they are; `render` may know what a kernel rendered to before.

    Where no set is within the limits: of those that fit the flash the fastest, or else the smallest, so that what the
    build says of it is about the best that can be had; and of those with the least RAM.
    """
    if cost.basis(target.cpu) is None or not layers:
        return preferred(layers, target)
    known = _Known(layers, target, aim, besides or Work(), render or (lambda kernel, view: kernel.render(view, target)))
    every = tuple(tuple(range(len(layer.kernels))) for layer in known.layers)
    chosen, points = known.best(every)
    if aim.ram is None:
        return known.selection(chosen, points, {})
    planned = memory.plan(known.choices(points[chosen].picks))
    limit = aim.ram - planned.state_bytes
    if planned.arena <= limit:
        return known.selection(chosen, points, {})
    forms = _forms(known.layers, memory.needs(known.layers), target)
    arena = functools.cache(lambda picks: memory.plan(known.choices(picks)).arena)
    part, limit = within(forms, known.ranked, arena, limit)
    return known.selection(*known.best(part), _too_large(known.layers, forms, part, limit))


class _Known:
    """The layers with what is known of each of their kernels."""

    def __init__(
        self,
        layers: Sequence[Candidates],
        target: Target,
        aim: Aim,
        besides: Work,
        render: Callable[[Kernel, LayerView], Source],
    ) -> None:
        timing = Timing(target.cpu, aim.wait_states, aim.mul_cycles)
        self.aim = aim
        self.layers = eligible(layers, target)
        self.sources = [[render(kernel, layer.view) for kernel in layer.kernels] for layer in self.layers]
        self.options = [
            [
                _option(layer.choose(kernel, {}), source, target, timing)
                for kernel, source in zip(layer.kernels, own, strict=True)
            ]
            for layer, own in zip(self.layers, self.sources, strict=True)
        ]
        run = cost.run_work([layer.first() for layer in self.layers], target, target.cpu)
        self.base = cost.weigh(run + besides, timing)

    def best(self, part: Part) -> tuple[int, list[Point]]:
        """The curve of sets of these kernels, and the index of the one that the aim asks for."""
        own = [[options[kernel] for kernel in kernels] for options, kernels in zip(self.options, part, strict=True)]
        points = [
            Point(
                point.flash + self.base.code_bytes,
                point.cycles + self.base.cycles,
                tuple(kernels[pick] for kernels, pick in zip(part, point.picks, strict=True)),
            )
            for point in front(own)
        ]
        return min(range(len(points)), key=lambda index: rank(points[index], self.aim)), points

    def ranked(self, part: Part) -> tuple[tuple[float, ...], Picks]:
        """The best set of these kernels, and how good it is."""
        chosen, points = self.best(part)
        return rank(points[chosen], self.aim), points[chosen].picks

    def choices(self, picks: Picks) -> list[Choice]:
        """Without reasons against the other kernels."""
        return [layer.choose(layer.kernels[pick], {}) for layer, pick in zip(self.layers, picks, strict=True)]

    def selection(self, chosen: int, points: Sequence[Point], against: Mapping[int, Mapping[str, str]]) -> Selection:
        """One of the points; `against` are reasons against kernels, by layer, for which costs do not matter."""
        picks = points[chosen].picks
        rows = zip(self.layers, self.options, picks, strict=True)
        choices = tuple(_explained(*row, against.get(index, {})) for index, row in enumerate(rows))
        taken = tuple(own[pick] for own, pick in zip(self.sources, picks, strict=True))
        return Selection(choices, taken, tuple((point.flash, point.cycles) for point in points), chosen)


def _forms(layers: Sequence[Candidates], needs: Sequence[Sequence[int]], target: Target) -> list[list[Form]]:
    return [
        [
            Form(need, kernel.scratch(layer.view, target), kernel.overlap(layer.view, target))
            for kernel, need in zip(layer.kernels, own, strict=True)
        ]
        for layer, own in zip(layers, needs, strict=True)
    ]


def _too_large(
    layers: Sequence[Candidates], forms: Sequence[Sequence[Form]], part: Part, limit: int
) -> dict[int, dict[str, str]]:
    """The reasons against kernels for want of RAM, by layer."""
    return {
        index: {
            kernel.name: f"{form.need:,} bytes live there with it, {form.need - limit:,} more than may"
            if form.need > limit
            else "the plan with it does not fit into RAM"
            for place, (kernel, form) in enumerate(zip(layer.kernels, own, strict=True))
            if place not in kept
        }
        for index, (layer, own, kept) in enumerate(zip(layers, forms, part, strict=True))
    }


def in_order(network: Network, selection: Selection, planned: Plan, target: Target) -> Selection:
    """The same kernels, rendered in the order in which they have to write for this plan."""
    choices = memory.in_order(network, selection.choices, planned, target)
    sources = (
        source if choice.view.order is Order.ANY else choice.kernel.render(choice.view, target)
        for choice, source in zip(choices, selection.sources, strict=True)
    )
    return replace(selection, choices=choices, sources=tuple(sources))


def preferred(layers: Sequence[Candidates], target: Target) -> Selection:
    """The first kernel of each layer, whatever it costs."""
    choices = tuple(layer.first() for layer in layers)
    return Selection(choices, tuple(choice.kernel.render(choice.view, target) for choice in choices))


def eligible(layers: Sequence[Candidates], target: Target) -> list[Candidates]:
    """With the kernels alone that `optimize` chooses from."""
    if cost.basis(target.cpu) is None:
        return [_without(layer, layer.kernels[1:], "nothing is known of the core") for layer in layers]
    return [_measured(layer, target) for layer in layers]


def _measured(layer: Candidates, target: Target) -> Candidates:
    """Without the kernels that no costs are known of; the preferred one alone where that is one of them."""
    unknown = [kernel for kernel in layer.kernels if cost.unmeasured([layer.choose(kernel, {})], target)]
    if layer.kernels[0] in unknown:
        return _without(layer, layer.kernels[1:], "its costs are not known")
    return _without(layer, unknown, "its costs are not known")


def _without(layer: Candidates, kernels: Sequence[Kernel], reason: str) -> Candidates:
    left = tuple(kernel for kernel in layer.kernels if kernel not in kernels)
    return replace(layer, kernels=left, reasons={**layer.reasons, **{kernel.name: reason for kernel in kernels}})


def _option(choice: Choice, source: Source, target: Target, timing: Timing) -> Option:
    work = cost.layer_cost(choice, target, timing)
    function = {cost.function_key(choice, source, target): work.code_bytes}
    assembly = {repr(own): 2 * own.instructions for own in source.assembly}
    data = sum(array.nbytes for array in source.data.values())
    return Option(work.cycles, data, {**function, **assembly, **cost.library_bytes([choice], target)})


def rank(point: Point, aim: Aim) -> tuple[float, ...]:
    """How far a set is from what the aim asks for; the least is the best."""

    def within(limit: int | None, value: int) -> bool:
        return limit is None or value <= limit * (1 - MARGIN_PERCENT / 100)

    if not within(aim.flash, point.flash):
        return 2, point.flash
    if not within(aim.cycles, point.cycles):
        return 1, point.cycles
    goals = {
        "balanced": (point.flash + FIRMWARE) * point.cycles,
        "size": point.flash,
        "speed": point.cycles,
    }
    return 0, goals[aim.goal]


def _explained(layer: Candidates, options: Sequence[Option], pick: int, against: Mapping[str, str]) -> Choice:
    """The choice, with what each other kernel would cost more; its functions may be shared, and are not in it."""
    reasons, kernel = dict(against), layer.kernels[pick]
    for other, option in zip(layer.kernels, options, strict=True):
        if other is not kernel and other.name not in against:
            cycles, flash = option.cycles - options[pick].cycles, _alone(option) - _alone(options[pick])
            parts = [_compared(*row) for row in ((cycles, "cycles"), (flash, "bytes of flash")) if row[0]]
            reasons[other.name] = ", ".join(parts) or f"{kernel.name} comes first"
    return layer.choose(kernel, reasons)


def _compared(difference: int, unit: str) -> str:
    return f"{abs(difference):,} {unit} {'more' if difference > 0 else 'less'}"


def _alone(option: Option) -> int:
    return option.bytes + sum(option.shared.values())
