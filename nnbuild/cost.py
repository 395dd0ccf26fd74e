"""What a layer costs on a core: instructions, cycles and bytes of code, before anything is compiled.

A kernel states how often each of its loops runs for a layer (`Kernel.trips`); `costs.json` holds what a trip of each
loop costs, fitted by `python -m benchmarks.fit_costs` to what real and synthetic layers execute under QEMU, compiled
by gcc at -O2. So everything here is an estimate; `error_percent` says how far off it was on the reference networks.

Cycles are those of the core's Technical Reference Manual with memory that never waits; each wait state of the flash
adds one for each access that reaches it: each 32 bits of instructions, one more for a jump, each read of a constant.
That is a flash without prefetch and cache, so more than most chips take.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from nnbuild.contract import Source
from nnbuild.selection import Choice
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.network import Network
    from nnbuild.ram.rows import Segment

FITTED = ("cortex-m0", "cortex-m0plus", "cortex-m3", "cortex-m4")
"""The cores whose documented timings the instructions were weighed with."""

RUN, ROWS = "run", "rows"
"""The rows of the table for the function `<name>_run`, which calls the layers, and for those that go row by row."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the code runs: `core` as in nnbuild.target, wait states of its flash, cycles of a 32-bit MULS (1 or 32).

    `mul_cycles` matters to ARMv6-M only; the other cores multiply in one cycle.
    """

    core: str
    wait_states: int = 0
    mul_cycles: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """What a layer executes, before wait states.

    `cycles` are on the core that was asked for, with one-cycle MULS and no wait states; `multiplications` counts MULS,
    `waits` the accesses to flash.
    """

    instructions: float = 0
    cycles: float = 0
    multiplications: float = 0
    waits: float = 0
    code: float = 0

    def repeated(self, times: int) -> Work:
        """So often, by the same code."""
        return Work(
            self.instructions * times, self.cycles * times, self.multiplications * times, self.waits * times, self.code
        )

    def __add__(self, other: Work) -> Work:
        return Work(
            self.instructions + other.instructions,
            self.cycles + other.cycles,
            self.multiplications + other.multiplications,
            self.waits + other.waits,
            self.code + other.code,
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one layer, or of a whole network: executed instructions, estimated cycles, bytes of code in flash.

    Functions in assembly are executed and, of a whole network, counted as code.
    """

    instructions: int
    cycles: int
    code_bytes: int


def isa(target: Target) -> str:
    """The class of instruction sets that decides what a compiler makes of a kernel: a column of the table."""
    if target.mve:
        return "mve"
    if target.armv6m:
        return "armv6m"
    return "dsp" if target.dsp else "armv7m"


def basis(core: str) -> str | None:
    """What cycles on `core` rest on: "fit", "instructions x factor" where it has no timings, None where unknown."""
    if core in FITTED:
        return "fit"
    return "instructions x factor" if core in _table()["factors"] else None


def error_percent(core: str, choices: Sequence[Choice]) -> float | None:
    """The largest error of a reference network's cycles on `core`, with kernels such as those of `choices`.

    None where there are no timings.
    """
    if core not in FITTED:
        return None
    calls_library = any(choice.kernel.name == "cmsis_nn" for choice in choices)
    return float(_table()["errors"][core]["cmsis_nn" if calls_library else "direct"])


def compiler() -> str:
    """The compiler and the options that the costs hold for."""
    return str(_table()["compiler"])


def layer_work(choice: Choice, target: Target, core: str) -> Work:
    """What the layer of `choice` executes, compiled for `target`, weighed for `core`; `code` is that of its function.

    All is 0 for a kernel that was never measured.
    """
    trips = {"layer": 1, **choice.kernel.trips(choice.view, target)}
    once = _weighed(f"{choice.layer.op}/{choice.kernel.name}", trips, target, core)
    return once.repeated(choice.layer.times)


def unmeasured(choices: Sequence[Choice], target: Target) -> tuple[str, ...]:
    """The kernels of `choices` that no costs are known of: an operator that is newer than the table."""
    names = {f"{choice.layer.op}/{choice.kernel.name}" for choice in choices}
    return tuple(sorted(name for name in names if isa(target) not in _table()["kernels"].get(name, {})))


def run_work(choices: Sequence[Choice], target: Target, core: str) -> Work:
    """What `<name>_run` itself executes outside of the calls, and its code."""
    arguments = sum(len(choice.layer.inputs) + 1 for choice in choices)
    return _weighed(RUN, {"layer": 1, "step": len(choices), "argument": arguments}, target, core)


def rows_trips(own: Segment) -> dict[str, int]:
    """Of a segment's function: its layers, what it looks at in each step, rows that it makes, bytes that it moves."""
    items = len(own.steps) + own.pushed
    pushed = own.height if own.pushed else 0
    made = sum(step.due.count for step in own.steps)
    return {"layer": items, "step": own.length, "item": own.length * items, "row": made + pushed, "moved": own.moved}


def rows_work(own: Segment, target: Target, core: str) -> Work:
    """What the function of a segment executes outside of its layers, and its code."""
    return _weighed(ROWS, rows_trips(own), target, core)


def weigh(work: Work, timing: Timing) -> Cost:
    """`work` with wait states and the multiplier of the chip."""
    cycles = work.cycles + timing.wait_states * work.waits + (timing.mul_cycles - 1) * work.multiplications
    return Cost(round(work.instructions), round(cycles), round(work.code))


def layer_cost(choice: Choice, target: Target, timing: Timing) -> Cost:
    """The cost of one layer; its code is that of the C function, which layers of equal shape share."""
    return weigh(layer_work(choice, target, timing.core), timing)


def network_cost(
    choices: Sequence[Choice], target: Target, timing: Timing, sources: Sequence[Source] | None = None
) -> Cost:
    """The cost of one inference, and the code of all functions, each counted once, with that of `<name>_run`.

    `sources` are what the kernels render to, where the caller has them already.
    """
    rendered = sources or [choice.kernel.render(choice.view, target) for choice in choices]
    total, seen = run_work(choices, target, timing.core), set()
    for choice, source in zip(choices, rendered, strict=True):
        work = layer_work(choice, target, timing.core)
        key = function_key(choice, source, target)
        again = key in seen
        seen.add(key)
        total += Work(work.instructions, work.cycles, work.multiplications, work.waits, 0 if again else work.code)
    return weigh(total + Work(code=sum(assembly_bytes(rendered))), timing)


def assembly_bytes(sources: Sequence[Source]) -> list[int]:
    """For each source the bytes of its functions in assembly that no earlier one has: counted, not estimated."""
    seen: set[str] = set()
    found = []
    for source in sources:
        new = {repr(own): own.instructions for own in source.assembly if repr(own) not in seen}
        seen |= new.keys()
        found.append(2 * sum(new.values()))
    return found


def library_bytes(choices: Sequence[Choice], target: Target) -> dict[str, int]:
    """Bytes, by name, of the functions of CMSIS-NN that `choices` call and of what those call."""
    table = _library_sizes()["isa"][isa(target)]
    called = {choice.kernel.library(choice.view, target) for choice in choices}
    symbols = dict.fromkeys(symbol for function in called for symbol in table["functions"].get(function, ()))
    return {symbol: table["symbols"][symbol] for symbol in sorted(symbols)}


def function_key(choice: Choice, source: Source, target: Target) -> str:
    """Layers with equal keys are calls of one C function."""
    arrays = [(name, str(array.dtype)) for name, array in source.data.items()]
    scratch = choice.kernel.scratch(choice.view, target) > 0
    types = [tensor.dtype for tensor in (*choice.view.inputs, choice.view.output)]
    return repr((source.template, source.values, source.assembly, arrays, scratch, types))


def all_rows_work(network: Network, target: Target, core: str) -> Work:
    """That of all segments."""
    return sum((rows_work(own, target, core) for own in network.segments), Work())


def code_of(kernel: str, loop: str, count: float) -> float:
    """How often the code of a loop is there: once, however often it runs; of what calls layers a piece for each."""
    if kernel == ROWS:
        return count if loop == "layer" else 0
    return count if kernel == RUN else float(count > 0)


def _weighed(kernel: str, trips: Mapping[str, int], target: Target, core: str) -> Work:
    table = _table()
    kind = isa(target)
    rows = table["kernels"].get(kernel, {}).get(kind, {})
    sums = dict.fromkeys(table["columns"][kind], 0.0)
    for loop, count in trips.items():
        for column, value in zip(sums, rows.get(loop, ()), strict=False):
            sums[column] += value * (code_of(kernel, loop, count) if column == "code" else count)
    cycles = sums[core] if core in sums else sums["instructions"] * table["factors"].get(core, 1.0)
    return Work(sums["instructions"], cycles, sums.get("multiplications", 0.0), sums["waits"], sums["code"])


@functools.cache
def _library_sizes() -> dict[str, Any]:
    """cmsis_nn_sizes.json, which `python -m benchmarks.cmsis_nn_sizes` writes."""
    text = (resources.files("nnbuild") / "cmsis_nn_sizes.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


@functools.cache
def _table() -> dict[str, Any]:
    text = (resources.files("nnbuild") / "costs.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table
