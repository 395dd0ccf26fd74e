"""RAM of the reference networks, and what it costs: `python -m benchmarks.memory [--write]`.

Each network as one plan after the other: nothing in place, in place, row by row, with pushed rows, as a stream. The
bytes are the plan's, with input and output in the arena (`io="arena"`); flash, stack, instructions and cycles are those
of the linked image under QEMU, whose outputs are compared with the integer reference in the same run. `--write`
refreshes docs/MEMORY.md. Needs the reference folder, the cross compiler and QEMU.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks import command, executed, target
from benchmarks.footprint import ROOT, quantized
from nnbuild import __version__, interpret
from nnbuild.emit import EmitOptions, emit
from nnbuild.files import write_text
from nnbuild.lower import lower
from nnbuild.optimize import Aim
from nnbuild.placement import Placement
from nnbuild.streams import stream
from nnbuild.streams.stream import Stream
from nnbuild.target import TARGETS

TABLE = ROOT / "docs" / "MEMORY.md"
CPUS = {"M0": "cortex-m0", "M4": "cortex-m4"}
SAMPLES = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What a line of the table is: limit of RAM in bytes, by core, and options; `axis` of a stream."""

    name: str
    ram: Mapping[str, int | None]
    push: bool = False
    apart: bool = False
    axis: int | None = None


APART = Plan("no output over its input", {"M0": None, "M4": None}, apart=True)
IN_PLACE = Plan("in place", {"M0": None, "M4": None})

# Limits are those that are asked of the networks; an M4 may take the largest patch of 16-bit values more.
NETWORKS: Mapping[str, Sequence[Plan]] = {
    "kws01": (
        APART,
        IN_PLACE,
        Plan("rows", {"M0": 5_000, "M4": 5_000}),
        Plan("pushed rows", {"M0": 4_600, "M4": 4_600}, push=True),
    ),
    "ic01": (
        APART,
        IN_PLACE,
        Plan("rows", {"M0": 15_600, "M4": 18_000}),
        Plan("pushed rows", {"M0": 12_500, "M4": 14_900}, push=True),
    ),
    "ad01": (APART, IN_PLACE),
    "vww96": (
        APART,
        IN_PLACE,
        Plan("rows", {"M0": 29_000, "M4": 29_000}),
        Plan("pushed rows", {"M0": 18_500, "M4": 18_500}, push=True),
    ),
    "sww": (APART, IN_PLACE, Plan("stream, each frame", {"M0": None, "M4": None}, axis=1)),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; bytes, instructions, cycles."""

    network: str
    core: str
    plan: str
    ram: int
    state: int
    bound: int
    flash: int
    stack: int
    instructions: int
    cycles: float


def rows(shared: Path, folder: Path, chosen: str) -> Iterator[Row]:
    """Measure every network whose name contains `chosen`, with every plan on every core."""
    for name, plans in NETWORKS.items():
        if chosen not in name:
            continue
        model, _ = quantized(shared / "models" / f"tf2onnx/{name}_tf.onnx", folder, shared)
        for core in CPUS:
            for number, own in enumerate(plans):
                yield _row(name, core, own, model, shared, folder / f"{name}{core}{number}")


def _row(name: str, core: str, own: Plan, model: onnx.ModelProto, shared: Path, folder: Path) -> Row:
    where = TARGETS[CPUS[core]]
    options = EmitOptions("net", where, aim=Aim(ram=own.ram[core]), placement=Placement(io="arena"))
    options = replace(options, push_rows=own.push, apart=own.apart)
    model = onnx.ModelProto.FromString(model.SerializeToString())
    inputs, expected = _streamed(model, own.axis) if own.axis else _whole(model)
    files = emit(lower(model, name), options)
    found = target.measure(core, files, inputs, shared / "harness", folder)
    if not np.array_equal(found.outputs[-SAMPLES:], expected):
        raise SystemExit(f"{name}, {own.name}, on {core}: outputs differ from the integer reference")
    report = json.loads(files["net.report.json"])
    bytes_ = report["arena_bytes"] + report["state_bytes"]
    limit = own.ram[core]
    if limit is not None and bytes_ > limit:
        raise SystemExit(f"{name}, {own.name}, on {core}: {bytes_} bytes do not fit into {limit}")
    counted = emit(lower(model, name), replace(options, name="n0"))
    ran = executed.run(CPUS[core], [counted], folder / "counted")[0]
    cycles = sum(part.cycles(CPUS[core]) for part in (*ran.layers, ran.run, ran.rows))
    bound = report["arena_bound_bytes"] + report["state_bytes"]
    return Row(
        name, core, own.name, bytes_, report["state_bytes"], bound, found.flash, found.stack, found.instructions, cycles
    )


def _whole(model: onnx.ModelProto) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Random inputs, and the outputs of the reference."""
    network = lower(model, "net")
    size = network.tensors[network.inputs[0].tensor].size
    inputs = np.random.default_rng(0).integers(-128, 128, (SAMPLES, size)).astype(np.int8)
    return inputs, np.array([interpret.run(network, [values])[0].ravel() for values in inputs])


def _streamed(model: onnx.ModelProto, axis: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`model` becomes a stream; random frames, and what the whole windows say that end with the last of them."""
    whole = lower(model, "net")
    shape = whole.inputs[0].shape
    count = shape[axis]
    stream.apply(model, Stream(axis), "net")
    frames = np.random.default_rng(0).integers(-128, 128, (count + SAMPLES - 1, math.prod(shape) // count))
    frames = frames.astype(np.int8)
    behind = (*shape[:axis], *shape[axis + 1 :])
    windows = [np.stack([*frames[last : last + count].reshape(count, *behind)], axis) for last in range(SAMPLES)]
    expected = [interpret.run(whole, [window])[0].ravel() for window in windows]
    return frames, np.array(expected)


HEADER = (
    "| network | core | plan | arena and state | of it state | no plan goes below | flash | stack "
    "| instructions | cycles | against in place |\n"
    "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def lines(found: Sequence[Row]) -> list[str]:
    """The rows in Markdown; a stream's cycles, which are those of a frame, are put beside nothing."""
    fastest = {(row.network, row.core): row.cycles for row in found if row.plan == IN_PLACE.name}
    return [_line(row, fastest[row.network, row.core]) for row in found]


def _line(row: Row, fastest: float) -> str:
    against = "" if "stream" in row.plan else f"{100 * (row.cycles / fastest - 1):+.1f} %"
    numbers = [row.ram, row.state, row.bound, row.flash, row.stack, row.instructions, round(row.cycles)]
    cells = [row.network, row.core, row.plan, *(f"{number:,}" for number in numbers), against]
    return f"| {' | '.join(cells)} |"


def document(found: Sequence[Row]) -> str:
    """docs/MEMORY.md."""
    return f"""# RAM of the reference networks

nnbuild {__version__}, {target.compiler_version()}, `-O2`, newlib-nano;
refreshed by `python -m benchmarks.memory --write`.

Arena and state are bytes with the network's input and output inside (`io="arena"`), scratch and patches as well; no
more RAM is needed but the stack, the deepest of one inference, painted. Where the bound equals the arena, the plan is
proved to be the best for these kernels and this order of layers. "No output over its input" is what lifetimes alone
give, with the same exact planner; "in place" is what a build does by itself; "rows" is what it does with `ram=`,
"pushed rows" with `push_rows=True` beside it, where the input is not in the arena at all
([README](../README.md#little-ram)). A stream (`stream_axis=1`) has in its state what it keeps of the frames before.

Flash is the linked image less the same image with an empty network. Instructions of one inference, or of one frame of a
stream, are counted under QEMU by the reference harness' plugin; cycles are instructions weighed as in
[COSTS.md](COSTS.md), memory never waits. Outputs of every row equal the integer reference, in the same run.

{HEADER}
{chr(10).join(lines(found))}
"""


def main() -> int:
    """Print the table, refresh it with --write."""
    arguments = command.parser(__doc__, TABLE).parse_args()
    shared = command.reference()
    if shared is None:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for row in rows(shared, Path(folder), arguments.only):
            found.append(row)
            print(row, flush=True)
    print("\n".join([HEADER, *lines(found)]))
    if arguments.write:
        write_text(TABLE, document(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
