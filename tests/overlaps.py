"""Plans that place each output over the input that it may overwrite, as near as its kernel allows, and nothing else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nnbuild.contract import Case, LayerView, Overlap
from nnbuild.network import Network
from nnbuild.ops import BY_NAME
from nnbuild.placement import Placement
from nnbuild.ram import memory, streaming
from nnbuild.ram.memory import Plan
from nnbuild.selection import Choice
from nnbuild.shrink import shrink
from nnbuild.target import Target

from . import programs

IN_ARENA = Placement(io="arena")
MARGIN = 64
"""Bytes around each buffer that nobody may change."""


@dataclass
class Forced:
    """Plans outputs `above` their inputs, or below them, `nearer` by some bytes than kernels allow.

    `aligned`: at multiples of 4, as plans do. `made` are the plans in the order in which models are emitted, with the
    layers whose outputs lie over their inputs; `gaps` what no layer may touch.
    """

    above: bool
    nearer: int = 0
    aligned: bool = True
    made: list[tuple[str, ...]] = field(default_factory=list)
    gaps: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def plan(
        self,
        network: Network,
        choices: Sequence[Choice],
        target: Target,
        io: bool = False,
        alignment: int = 4,
        apart: bool = False,
    ) -> Plan:
        """In place of `memory.plan`."""
        lives = memory.lifetimes(network)
        room = sum(tensor.bytes + MARGIN for tensor in network.tensors.values()) // 4 * 4
        buffers = _Buffers(room)
        over: list[str] = []
        for port in network.inputs if io else ():
            buffers.tensor(port.tensor, network.tensors[port.tensor].bytes)
        kept = set() if io else {port.tensor for port in network.outputs}
        for index, choice in enumerate(choices):
            found = memory._overlaps(network, choice, index, lives, target)
            near = [
                self._place(buffers.offsets[name], own, choice)
                for name, own in found.items()
                if name in buffers.offsets
            ]
            if near and near[0] is not None:
                over.append(choice.layer.name)
            if choice.layer.output not in kept:
                buffers.tensor(choice.layer.output, choice.view.output.bytes, near[0] if near else None)
            if size := choice.kernel.scratch(choice.view, target):
                buffers.scratch(choice.layer.name, size)
        self.gaps[len(self.made)] = buffers.gaps()
        self.made.append(tuple(over))
        tensors, end = buffers.offsets, buffers.end
        live = (0,) * len(choices)
        return Plan(end, end, tensors, buffers.patches, live, *memory._states(network), {}, lives)

    def _place(self, start: int, own: Overlap, choice: Choice) -> int | None:
        """Where the output goes, whose input is at `start`; None where the kernel only goes the other way."""
        distance = self.distance(own, choice.view)
        if distance is None:
            return None
        element = choice.view.output.element_bytes
        return -(-(start + distance) // element) * element if self.above else (start - distance) // element * element

    def distance(self, own: Overlap, view: LayerView) -> int | None:
        """How far the output is from the input; None where they would share no byte."""
        step = math.lcm(own.step, 4) if self.aligned else own.step
        distance = -(-(own.above if self.above else own.below) // step) * step - self.nearer
        shares = distance < (view.inputs[0].bytes if self.above else view.output.bytes)
        return distance if shares else None


def apart() -> Forced:
    """Plans where no output lies over an input: kernels write in any order."""
    return Forced(above=False, nearer=-(1 << 20))


class _Buffers:
    """An arena that grows: of each tensor with `room` on either side of it, for outputs that lie over it."""

    def __init__(self, room: int) -> None:
        self.room, self.end = room, 0
        self.offsets: dict[str, int] = {}
        self.patches: dict[str, int] = {}
        self.taken: list[tuple[int, int]] = []

    def tensor(self, name: str, size: int, offset: int | None = None) -> None:
        if offset is None:
            offset, self.end = self.end + self.room, self.end + 2 * self.room
        self.offsets[name] = offset
        self.taken.append((offset, size))

    def scratch(self, name: str, size: int) -> None:
        self.patches[name] = self.end + MARGIN
        self.taken.append((self.end + MARGIN, size))
        self.end += size // 4 * 4 + 2 * MARGIN

    def gaps(self) -> list[tuple[int, int]]:
        """What lies in no buffer."""
        found, position = [], 0
        for offset, size in [*sorted(self.taken), (self.end, 0)]:
            if offset > position:
                found.append((position, offset - position))
            position = max(position, offset + size)
        return found


Pinned = tuple[Case, Mapping[str, str]]


def pinned(cases: Sequence[Case], target: Target, forced: Forced, kernels: Container[str]) -> list[Pinned]:
    """Each case with each of `kernels` whose output can lie over its input then; copies around others do not count."""
    found: list[Pinned] = []
    for case in cases:
        left = {layer.name for layer in shrink(case.network).layers}
        for layer in case.network.layers:
            if layer.name not in left or (layer.op == "transpose" and not case.name.startswith("transpose")):
                continue
            view = LayerView.of(case.network, layer)
            for kernel in BY_NAME[layer.op].kernels:
                if kernel.name in kernels and kernel.supports(view, target) is None:
                    over = kernel.overlap(view, target).values()
                    if any(forced.distance(own, view) is not None for own in over):
                        found.append((case, {layer.name: kernel.name}))
    return found


@contextlib.contextmanager
def planned(forced: Forced | None) -> Iterator[None]:
    """What is emitted here has the plans of `forced`."""
    with pytest.MonkeyPatch.context() as patch:
        if forced is not None:
            patch.setattr(streaming, "plan", forced.plan)
        yield


def write(folder: Path, cases: Sequence[Pinned], target: Target, forced: Forced) -> list[Path]:
    """The sources of a program of these cases with their pins, by the plans of `forced`."""
    models, pins = [case for case, _ in cases], [own for _, own in cases]
    with planned(forced):
        return programs.write(folder, models, target, forced.gaps, pins, placement=IN_ARENA)
