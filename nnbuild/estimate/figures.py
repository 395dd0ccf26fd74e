"""Flash, RAM and cycles of an integer network on a core, by layer: the same kernels and memory plan as in a build.

Weights are what `emit` would write, the arena is that of the planner. Code and cycles are estimates (`nnbuild.cost`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from nnbuild import cost
from nnbuild.cost import Timing
from nnbuild.network import Network
from nnbuild.ops import BY_NAME
from nnbuild.optimize import Aim
from nnbuild.ram import streaming, wall
from nnbuild.ram.streaming import AUTO, made
from nnbuild.target import Target

MARGIN_PERCENT = 10
"""How far flash and RAM may be off on the linked image, tested on the reference networks."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a model is judged for: the core, its timing, whose kernels and what for, how a build would quantize it.

    The last four are as in `streaming.Setup`.
    """

    target: Target
    timing: Timing
    backend: str = "auto"
    input_layout: str = ""
    per_tensor: bool = False
    int16: tuple[str, ...] = ()
    aim: Aim = field(default_factory=Aim)
    io: bool = False
    rows: str = AUTO
    pushed: bool = False
    nearest: bool = True


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """One layer: bytes of constants, of code (0 where an earlier layer has the same function), bytes live in the arena
    while it runs, cycles, multiplications. `node` is its ONNX node."""

    name: str
    node: str
    op: str
    kernel: str
    output: tuple[int, ...]
    weights: int
    code: int
    live: int
    cycles: int
    macs: int

    @property
    def flash(self) -> int:
        """Bytes."""
        return self.weights + self.code


@dataclass(frozen=True, slots=True)
class Figures:
    """A network: bytes of constants, of code, of arena and kept states, cycles and multiplications of one inference.

    `library` are the bytes of the functions of CMSIS-NN that it calls, which other models of an image share;
    `error_percent` is how far off the cycles of a reference network were at most, None where nothing was measured;
    `notes` say what goes row by row, and what a limit on RAM costs.
    """

    weights: int
    code: int
    library: int
    ram: int
    cycles: int
    macs: int
    error_percent: float | None
    layers: tuple[LayerFigures, ...]
    notes: tuple[str, ...] = ()

    @property
    def flash(self) -> int:
        """Bytes."""
        return self.weights + self.code + self.library

    def moved(self, by: Figures, less: Figures) -> Figures:
        """These figures plus `by` less `less`, layers as they are."""
        return replace(
            self,
            weights=self.weights + by.weights - less.weights,
            code=self.code + by.code - less.code,
            library=self.library + by.library - less.library,
            ram=self.ram + by.ram - less.ram,
            cycles=self.cycles + by.cycles - less.cycles,
            macs=self.macs + by.macs - less.macs,
        )


def figures(network: Network, setup: Setup) -> Figures:
    """What `network`, whose constants may be placeholders, takes. KernelError where no kernel serves a layer."""
    target = setup.target
    ways: dict[str, Any] = {"io": setup.io, "rows": setup.rows, "pushed": setup.pushed, "nearest": setup.nearest}
    options = streaming.Setup(target, setup.aim, backend=setup.backend, **ways)
    found = made(network, options)
    planned, choices, sources = found.planned, found.selection.choices, found.selection.sources
    seen: set[str] = set()
    layers = []
    for choice, source, live, assembly in zip(
        choices, sources, planned.live, cost.assembly_bytes(sources), strict=True
    ):
        own = cost.layer_cost(choice, target, setup.timing)
        key = cost.function_key(choice, source, target)
        layers.append(
            LayerFigures(
                name=choice.layer.name,
                node=choice.layer.node,
                op=choice.layer.op,
                kernel=choice.kernel.name,
                output=choice.view.output.shape,
                weights=sum(array.nbytes for array in source.data.values()),
                code=assembly + (0 if key in seen else own.code_bytes),
                live=live,
                cycles=own.cycles,
                macs=BY_NAME[choice.layer.op].macs(choice.view) * choice.layer.times,
            )
        )
        seen.add(key)
    whole = cost.network_cost(choices, target, setup.timing, sources)
    calls = cost.weigh(cost.all_rows_work(found.network, target, setup.timing.core), setup.timing)
    return Figures(
        weights=sum(layer.weights for layer in layers),
        code=whole.code_bytes + calls.code_bytes,
        library=sum(cost.library_bytes(choices, target).values()),
        ram=planned.arena + planned.state_bytes,
        cycles=whole.cycles + calls.cycles,
        macs=sum(layer.macs for layer in layers),
        error_percent=cost.error_percent(setup.timing.core, choices),
        layers=tuple(layers),
        notes=(*_rows(found.network), *(wall.price(found) if setup.aim.ram is not None else ())),
    )


def _rows(network: Network) -> Iterator[str]:
    for own in network.segments:
        yield f"{network.layers[own.first].name} to {network.layers[own.last].name} go row by row"
