"""Which kernels a network gets: over all layers at once, by what they cost in flash, in cycles and in RAM.

Of all sets of kernels those count that no other beats in both flash and cycles (`nnbuild.pareto`): a curve from the
smallest to the fastest. Limits cut it, and the goal picks a point of what is left. What a kernel costs is estimated
(`nnbuild.cost`) except for constants and functions in assembly, whose bytes are counted; on a core of which nothing is
known, or for an operator that was never measured, the preferred kernel is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nnbuild import cost, memory
from nnbuild.contract import Kernel, Order, Source
from nnbuild.cost import Timing, Work
from nnbuild.memory import Plan
from nnbuild.network import Network
from nnbuild.pareto import Option, Point, front
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


def optimize(
    layers: Sequence[Candidates],
    target: Target,
    aim: Aim,
    planner: Callable[[Sequence[Choice]], Plan],
    besides: Work | None = None,
) -> Selection:
    """The kernels for `layers`. `planner` says where their memory lies; it is asked where RAM has a limit.

    `besides` is what is executed whatever they are.

    Where no set is within the limits: of those that fit the flash the fastest, or else the smallest, so that what the
    build says of it is about the best that can be had.
    """
    if cost.basis(target.cpu) is None or not layers:
        return preferred(layers, target)
    timing = Timing(target.cpu, aim.wait_states, aim.mul_cycles)
    known = [_measured(layer, target) for layer in layers]
    sources = [{kernel.name: kernel.render(layer.view, target) for kernel in layer.kernels} for layer in known]
    while True:
        options = [
            [_option(layer.choose(kernel, {}), own[kernel.name], target, timing) for kernel in layer.kernels]
            for layer, own in zip(known, sources, strict=True)
        ]
        run = cost.run_work([layer.first() for layer in known], target, target.cpu)
        base = cost.weigh(run + (besides or Work()), timing)
        points = [
            replace(point, flash=point.flash + base.code_bytes, cycles=point.cycles + base.cycles)
            for point in front(options)
        ]
        chosen = _pick(points, aim)
        kernels = [layer.kernels[pick] for layer, pick in zip(known, points[chosen].picks, strict=True)]
        found = [_explained(*row) for row in zip(known, kernels, options, points[chosen].picks, strict=True)]
        smaller = _with_less_scratch(known, found, target, aim, planner)
        if smaller is None:
            taken = (own[kernel.name] for kernel, own in zip(kernels, sources, strict=True))
            return Selection(tuple(found), tuple(taken), tuple((p.flash, p.cycles) for p in points), chosen)
        known = smaller


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


def _pick(points: Sequence[Point], aim: Aim) -> int:
    """The index of the point that the aim asks for."""

    def within(limit: int | None, value: int) -> bool:
        return limit is None or value <= limit * (1 - MARGIN_PERCENT / 100)

    fitting = [index for index, point in enumerate(points) if within(aim.flash, point.flash)]
    quick = [index for index in fitting if within(aim.cycles, points[index].cycles)]
    if not fitting:
        return 0
    if not quick:
        return fitting[-1]
    if aim.goal == "balanced":
        return min(quick, key=lambda index: (points[index].flash + FIRMWARE) * points[index].cycles)
    return quick[0] if aim.goal == "size" else quick[-1]


def _explained(layer: Candidates, kernel: Kernel, options: Sequence[Option], pick: int) -> Choice:
    """The choice, with what each other kernel would cost more; its functions may be shared, and are not in it."""
    reasons = {}
    for other, option in zip(layer.kernels, options, strict=True):
        if other is not kernel:
            cycles, flash = option.cycles - options[pick].cycles, _alone(option) - _alone(options[pick])
            parts = [_compared(*row) for row in ((cycles, "cycles"), (flash, "bytes of flash")) if row[0]]
            reasons[other.name] = ", ".join(parts) or f"{kernel.name} comes first"
    return layer.choose(kernel, reasons)


def _compared(difference: int, unit: str) -> str:
    return f"{abs(difference):,} {unit} {'more' if difference > 0 else 'less'}"


def _alone(option: Option) -> int:
    return option.bytes + sum(option.shared.values())


def _with_less_scratch(
    layers: Sequence[Candidates],
    choices: Sequence[Choice],
    target: Target,
    aim: Aim,
    planner: Callable[[Sequence[Choice]], Plan],
) -> list[Candidates] | None:
    """`layers` without the kernel that needs most at the wall, where RAM is short and another one needs less there."""
    if aim.ram is None:
        return None
    planned = planner(choices)
    limit = aim.ram - planned.state_bytes
    if planned.arena <= limit:
        return None
    for index in sorted(range(len(choices)), key=lambda index: -planned.live[index]):
        layer = layers[index]
        needs = [kernel.scratch(layer.view, target) for kernel in layer.kernels]
        most = choices[index].kernel.scratch(layer.view, target)
        greedy = [kernel for kernel, need in zip(layer.kernels, needs, strict=True) if need >= most]
        if len(greedy) < len(layer.kernels):
            lighter = _without(layer, greedy, f"{most:,} bytes of scratch do not fit into RAM")
            return [*layers[:index], lighter, *layers[index + 1 :]]
        if planned.live[index] > limit:
            return None
    return None
