"""Fits nnbuild/costs.json to what layers execute under QEMU: `python -m benchmarks.fit_costs [--write]`.

Runs the reference networks and single layers (cost_layers.py) with every kernel that serves, on a core of each class of
instruction sets, counts what each layer executes, and fits by nonnegative least squares what one trip of each of the
kernel's loops costs. Prints how far the estimate of each reference network is off, once with all measurements and once
without those of that very network. `--write` refreshes nnbuild/costs.json and docs/COSTS.md, which takes three minutes.
For a new operator there is `--only log_softmax --write`, less than one: it adds the costs of that operator alone.
Needs the reference folder, the cross compiler, QEMU with plugins, and CMSIS-NN.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cmsis_nn as library_benchmark
from benchmarks import cost_layers, executed, instruction_timings, target
from benchmarks.footprint import ROOT
from nnbuild import __version__, cmsis_nn, cost, emit
from nnbuild.errors import KernelError
from nnbuild.files import write_text
from nnbuild.network import Array, Network
from nnbuild.selection import BACKENDS, Choice, select
from nnbuild.target import TARGETS, Target

COSTS = ROOT / "nnbuild" / "costs.json"
TABLE = ROOT / "docs" / "COSTS.md"
# What is fitted on each class: the cores whose timings apply to its instructions.
CORES: Mapping[str, tuple[str, ...]] = {
    "armv6m": ("cortex-m0", "cortex-m0plus"),
    "armv7m": ("cortex-m3",),
    "dsp": ("cortex-m4",),
    "mve": (),
}
MEASURED_ON = {"armv6m": "cortex-m0", "armv7m": "cortex-m3", "dsp": "cortex-m4", "mve": "cortex-m55"}
# Cores without timings of their own take the ratio of cycles to instructions of a similar one. On MVE, where nothing
# here has timings, a vector instruction takes two cycles; so no more than two for each.
LIKE = {"cortex-m23": "cortex-m0plus", "cortex-m7": "cortex-m4", "cortex-m33": "cortex-m4"}
VECTOR_FACTOR = {"cortex-m55": 2.0, "cortex-m85": 2.0}
NETWORKS_IN_ONE_IMAGE = 60
SMALL = {"instructions": 300.0, "code": 60.0}
"""Below about so much an error counts absolutely, above relatively."""
ROUNDS, TYPICAL = 20, 0.05
"""Layers that are further off than that share count less in the next round (Huber): compilers treat some specially."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One layer as it ran: its row of the table, trips of its loops, and figures by column; `network` it is part of."""

    network: str
    backend: str
    kernel: str
    trips: Mapping[str, int]
    figures: Mapping[str, float]


def columns(isa: str) -> list[str]:
    """The columns of the table for a class of instruction sets."""
    multiplications = ["multiplications"] if isa == "armv6m" else []
    return ["instructions", *CORES[isa], *multiplications, "waits", "code"]


def _figures(isa: str, found: executed.Executed, code: int) -> dict[str, float]:
    figures = {"instructions": found.instructions, "waits": found.waits, "code": float(code)}
    figures |= {core: found.cycles(core) for core in CORES[isa]}
    if isa == "armv6m":
        figures["multiplications"] = found.classes.get("multiply", 0)
    return figures


# --- measuring ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """A network to run, with the kernels chosen for it."""

    name: str
    backend: str
    network: Network
    choices: tuple[Choice, ...]
    pins: Mapping[str, str]


def jobs(reference: Mapping[str, Network], where: Target) -> list[Job]:
    """The reference networks with nnbuild's kernels and with CMSIS-NN's, and single layers with every kernel."""
    found = []
    for name, network in reference.items():
        for backend in ("direct", "cmsis_nn"):
            found.append(Job(name, backend, network, select(network, where, backend=backend), {}))
    for case in cost_layers.cases():
        kernels = {choice.kernel.name for choice in select(case.network, where, backend="direct")}
        kernels |= {name for choice in select(case.network, where, backend="direct") for name in choice.reasons}
        for kernel in sorted(kernels):
            pins = {layer.name: kernel for layer in case.network.layers}
            try:
                choices = select(case.network, where, pins, backend="direct")
            except KernelError:
                continue
            found.append(Job("", "", case.network, choices, pins))
    return found


def measure(isa: str, found: Sequence[Job], where: Target, folder: Path, root: Path) -> list[Sample]:
    """Run every job; one sample for each layer and one for each network's own function."""
    (folder / "library").mkdir(parents=True)
    core = executed.CORES[MEASURED_ON[isa]]
    link = library_benchmark.library([*core.flags, "-mthumb"], root, folder / "library")
    samples: list[Sample] = []
    for first, group in enumerate(_groups(found)):
        files = []
        for number, job in enumerate(group):
            backend = job.backend or "direct"
            assert backend in BACKENDS
            options = emit.EmitOptions(f"n{number}", where, pins=job.pins, backend=backend)
            files.append(emit.emit(job.network, options))
        ran = executed.run(MEASURED_ON[isa], files, folder / f"image{first}", link)
        for number, (job, result) in enumerate(zip(group, ran, strict=True)):
            samples += _samples(isa, job, where, json.loads(files[number][f"n{number}.report.json"]), result)
    return samples


def _groups(found: Sequence[Job]) -> Iterable[Sequence[Job]]:
    for job in found:
        if job.name:
            yield [job]
    single = [job for job in found if not job.name]
    for start in range(0, len(single), NETWORKS_IN_ONE_IMAGE):
        yield single[start : start + NETWORKS_IN_ONE_IMAGE]


def _samples(isa: str, job: Job, where: Target, report: Mapping[str, Any], ran: executed.Ran) -> Iterable[Sample]:
    for choice, layer, found in zip(job.choices, report["layers"], ran.layers, strict=True):
        low, high = (getattr(choice.layer.params, f"activation_{bound}", at) for at, bound in enumerate(("min", "max")))
        if low == high and not job.name:
            continue  # a constant, of which the compiler leaves nothing
        trips = {"layer": 1, **choice.kernel.trips(choice.view, where)}
        kernel = f"{choice.layer.op}/{choice.kernel.name}"
        code = ran.code_of(layer["function"])
        yield Sample(job.name, job.backend, kernel, trips, _figures(isa, found, code))
    steps = len(job.choices)
    arguments = sum(len(choice.layer.inputs) + 1 for choice in job.choices)
    # The hook's calls are in its code, 4 bytes each.
    code = ran.code[f"{report['name']}_run"] - 4 * steps
    trips = {"layer": 1, "step": steps, "argument": arguments}
    yield Sample(job.name, job.backend, cost.RUN, trips, _figures(isa, ran.run, code))


# --- fitting -----------------------------------------------------------------------------------------------------


def nonnegative(matrix: Array, values: Array) -> Array:
    """x >= 0 that minimizes |matrix x - values|: Lawson and Hanson, Solving Least Squares Problems, chapter 23."""
    count = matrix.shape[1]
    solution, free, useless = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
    tolerance = 1e-9 * max(1.0, float(np.abs(matrix.T @ values).max(initial=0)))
    for _ in range(10 * count):
        gradient = matrix.T @ (values - matrix @ solution)
        gradient[free | useless] = -np.inf
        if gradient.max() <= tolerance:
            break
        added = int(gradient.argmax())
        free[added] = True
        while True:
            trial = np.zeros(count)
            trial[free] = np.linalg.lstsq(matrix[:, free], values, rcond=None)[0]
            if trial[added] <= 0 and solution[added] == 0:
                # Only rounding makes it look useful, as where loops always run equally often.
                free[added], useless[added] = False, True
                break
            if trial[free].min() > 0:
                solution, useless = trial, np.zeros(count, bool)
                break
            falling = free & (trial <= 0)
            step = (solution[falling] / (solution[falling] - trial[falling])).min()
            solution = solution + step * (trial - solution)
            free &= solution > 1e-12
            solution[~free] = 0
    return solution


def fit(isa: str, samples: Sequence[Sample]) -> dict[str, dict[str, list[float]]]:
    """kernel -> loop -> what one trip costs, by column."""
    rows: dict[str, dict[str, list[float]]] = {}
    for kernel in sorted({sample.kernel for sample in samples}):
        mine = [sample for sample in samples if sample.kernel == kernel]
        loops = list(dict.fromkeys(loop for sample in mine for loop in sample.trips))
        fitted = {column: _column(mine, loops, column) for column in columns(isa)}
        rows[kernel] = {loop: [round(float(fitted[c][at]), 3) for c in fitted] for at, loop in enumerate(loops)}
    return rows


def _column(samples: Sequence[Sample], loops: Sequence[str], column: str) -> Array:
    values = np.array([sample.figures[column] for sample in samples])
    trips = np.array([[sample.trips.get(loop, 0) for loop in loops] for sample in samples], float)
    if column == "code" and samples[0].kernel != cost.RUN:
        trips = (trips > 0).astype(float)
    small = SMALL.get(column, SMALL["instructions"])
    # The first round trusts large layers, so that none of which the compiler left little has all the say.
    size, trust = np.sqrt(values + small), np.ones(len(values))
    for _ in range(ROUNDS):
        weight = trust / size
        # Columns of one size, so that the tolerance suits all of them.
        scale = np.maximum(np.abs(trips * weight[:, None]).max(axis=0), 1e-12)
        solution: Array = nonnegative(trips * weight[:, None] / scale, values * weight) / scale
        estimates = trips @ solution
        size = np.maximum(values, estimates) + small
        off = np.abs(estimates - values) / size
        trust = np.sqrt(np.minimum(1, TYPICAL / np.maximum(off, 1e-12)))
    return solution


def estimate(isa: str, rows: Mapping[str, Mapping[str, Sequence[float]]], sample: Sample, column: str) -> float:
    """What the table says of a sample."""
    at = columns(isa).index(column)
    known = rows[sample.kernel]
    flat = column == "code" and sample.kernel != cost.RUN
    trips = {loop: int(count > 0) if flat else count for loop, count in sample.trips.items() if loop in known}
    return sum(known[loop][at] * count for loop, count in trips.items())


# --- errors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One reference network: measured, and how far off the estimate is, in percent, with it in the fit and without."""

    network: str
    backend: str
    core: str
    instructions: float
    cycles: float
    waits: float
    error: float
    unseen: float
    with_waits: float


def evaluate(isa: str, samples: Sequence[Sample]) -> list[Row]:
    """A row for each reference network, backend and core of the class."""
    rows, all_fitted = [], fit(isa, samples)
    for name in dict.fromkeys(sample.network for sample in samples if sample.network):
        # The official int8 networks have the layers of those of their name.
        family = name.split()[0]
        unseen = fit(isa, [sample for sample in samples if sample.network.split(" ")[0] != family])
        for backend in ("direct", "cmsis_nn"):
            mine = [sample for sample in samples if (sample.network, sample.backend) == (name, backend)]
            for core in CORES[isa] or ("instructions",):
                real, waits = (sum(sample.figures[column] for sample in mine) for column in (core, "waits"))
                instructions = sum(sample.figures["instructions"] for sample in mine)

                def error(table: Mapping[str, Any], *which: str, measured: float, of: Sequence[Sample] = mine) -> float:
                    guess = sum(estimate(isa, table, sample, column) for sample in of for column in which)
                    return 100 * (guess / measured - 1)

                seen = error(all_fitted, core, measured=real)
                other = error(unseen, core, measured=real)
                slow = error(unseen, core, "waits", measured=real + waits)
                label = core if CORES[isa] else MEASURED_ON[isa]
                rows.append(Row(name, backend, label, instructions, real, waits, seen, other, slow))
    return rows


def errors(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """core -> backend -> the largest error of a network that is not in the fit, with and without a wait state."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        mine = found.setdefault(row.core, {})
        largest = max(abs(row.unseen), abs(row.with_waits), abs(row.error))
        mine[row.backend] = round(max(mine.get(row.backend, 0), largest), 1)
    return found


def factors(rows: Sequence[Row]) -> dict[str, float]:
    """Cycles for each instruction on cores without timings."""
    ratio = {}
    for core, like in LIKE.items():
        mine = [row for row in rows if row.core == like]
        ratio[core] = round(max(row.cycles / row.instructions for row in mine), 2)
    return {**ratio, **VECTOR_FACTOR}


# --- the command -------------------------------------------------------------------------------------------------

HEADER = (
    "| network | kernels | core | instructions | cycles | accesses to flash | error | not in the fit "
    "| with one wait state |\n|---|---|---|---:|---:|---:|---:|---:|---:|"
)


def line(row: Row) -> str:
    """One row in Markdown."""
    kernels = {"direct": "own", "cmsis_nn": "CMSIS-NN"}[row.backend]
    cycles = f"{row.cycles:,.0f}" if row.core in cost.FITTED else ""
    percent = " | ".join(f"{value:+.1f} %" for value in (row.error, row.unseen, row.with_waits))
    numbers = f"{row.instructions:,.0f} | {cycles} | {row.waits:,.0f}"
    return f"| {row.network} | {kernels} | {row.core} | {numbers} | {percent} |"


def _json(table: Mapping[str, Any]) -> str:
    """One loop a line, so that a changed fit reads well as a difference."""
    head = {key: value for key, value in table.items() if key != "kernels"}
    lines = [json.dumps(head, indent=1)[:-2] + ',\n "kernels": {' if head else '{ "kernels": {']
    kernels = []
    for kernel, classes in sorted(table["kernels"].items()):
        inner = []
        for isa, loops in classes.items():
            text = ",\n".join(f"    {json.dumps(loop)}: {json.dumps(values)}" for loop, values in loops.items())
            inner.append(f"   {json.dumps(isa)}: {{\n{text}\n   }}")
        kernels.append(f"  {json.dumps(kernel)}: {{\n" + ",\n".join(inner) + "\n  }")
    return "\n".join([*lines, ",\n".join(kernels), " }", "}", ""])


def main() -> int:
    """Measure, fit, print; write with --write. 1 where a network's error is above 25 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="refresh nnbuild/costs.json and docs/COSTS.md")
    parser.add_argument("--only", action="append", default=[], metavar="OPERATOR", help="single layers of this one")
    parser.add_argument("--samples", type=Path, help="keep what was measured in this file, and take it from there")
    arguments = parser.parse_args()
    shared = Path(os.environ.get("NNBUILD_REFERENCE_DIR", ROOT.parent / "shared"))
    root = cmsis_nn.find(None, os.environ)
    if root is None or not (shared / "models").is_dir():
        print("skipped: needs CMSIS-NN and the reference models (NNBUILD_REFERENCE_DIR)", file=sys.stderr)
        return 0
    if arguments.only:
        document = _with(_measured({}, root, None, arguments.only), arguments.only)
        print(
            _json({"kernels": {name: document["kernels"][name] for name in _of(document["kernels"], arguments.only)}})
        )
        if arguments.write:
            write_text(COSTS, _json(document))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        measured = _measured(cost_layers.networks(shared, Path(folder)), root, arguments.samples)
    rows = [row for isa in CORES for row in evaluate(isa, measured[isa])]
    print("\n".join([HEADER, *(line(row) for row in rows)]))
    fitted = {isa: fit(isa, measured[isa]) for isa in CORES}
    kernels = {name: {isa: fitted[isa][name] for isa in CORES if name in fitted[isa]} for name in _names(fitted)}
    document = {
        "compiler": f"{target.compiler_version()}, -O2",
        "columns": {isa: columns(isa) for isa in CORES},
        "errors": errors(rows),
        "factors": factors(rows),
        "kernels": kernels,
    }
    if arguments.write:
        write_text(COSTS, _json(document))
        write_text(TABLE, page(rows, fitted))
    return 1 if max(max(abs(row.unseen), abs(row.error)) for row in rows) > 25 else 0


def _names(fitted: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted({name for rows in fitted.values() for name in rows})


def _of(names: Iterable[str], operators: Sequence[str]) -> list[str]:
    return [name for name in names if name.split("/")[0] in operators]


def _with(measured: Mapping[str, Sequence[Sample]], operators: Sequence[str]) -> dict[str, Any]:
    """The committed table with the costs of `operators` as measured."""
    document: dict[str, Any] = json.loads(COSTS.read_text(encoding="utf-8"))
    for isa, samples in measured.items():
        fitted = fit(isa, samples)
        for name in _of(fitted, operators):
            document["kernels"].setdefault(name, {})[isa] = fitted[name]
    return document


def _measured(
    reference: Mapping[str, Network], root: Path, kept: Path | None, only: Sequence[str] = ()
) -> dict[str, list[Sample]]:
    if kept is not None and kept.exists():
        stored = json.loads(kept.read_text())
        return {isa: [Sample(*sample) for sample in samples] for isa, samples in stored.items()}
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for isa in CORES:
            where = replace(TARGETS[MEASURED_ON[isa]], cmsis_nn=cmsis_nn.read(root))
            found = jobs(reference, where)
            if only:
                found = [job for job in found if any(choice.layer.op in only for choice in job.choices)]
            measured[isa] = measure(isa, found, where, Path(folder) / isa, root)
            print(f"{isa}: {len(measured[isa])} layers", file=sys.stderr, flush=True)
    if kept is not None:
        rows = {
            isa: [[s.network, s.backend, s.kernel, s.trips, s.figures] for s in samples]
            for isa, samples in measured.items()
        }
        kept.write_text(json.dumps(rows))
    return measured


def page(rows: Sequence[Row], fitted: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    """docs/COSTS.md."""
    worst = max(max(abs(row.unseen), abs(row.error)) for row in rows)
    return f"""# What layers cost: the estimate and its error

nnbuild {__version__}, {target.compiler_version()}, `-O2`; refreshed by `python -m benchmarks.fit_costs --write`.

`latency=`, the `check` command and the size report use estimated cycles, from three parts:

1. **Trips.** Each kernel states how often each of its loops runs for a layer. That follows from shapes alone.
2. **What a trip costs**, in `nnbuild/costs.json`: fitted by nonnegative least squares, for each kernel and each class
   of instruction sets, to what layers execute under QEMU, instruction for instruction: the layers of the networks below
   and some hundred single layers of other shapes. It holds for this compiler at `-O2`, the default of
   `NN_KERNEL_CCFLAGS`; with `-Os`, `-flto` or another compiler the error is larger, by how much nobody knows.
3. **Cycles of an instruction** from the Technical Reference Manuals of the cores, below; memory never waits.

Slow flash comes on top: each wait state costs one cycle for each access, which is each 32 bits of instructions, one
more for each jump, and each read of a constant (weights, literals). That is a flash with neither prefetch nor cache,
so it is more than most chips take: with an accelerator in front of the flash, state no wait states or measure
(`NN_CYCLES`). `NN_MUL_CYCLES=32` adds 31 cycles for each MULS, for Cortex-M0 and M0+ with the small multiplier.

Cortex-M7, M23, M33, M55 and M85 have no table of timings here: their cycles are instructions times a factor, the
largest ratio in the table of M4 (M7, M33) or M0+ (M23), and 2 on M55 and M85, where a vector instruction takes two.
Such a figure is labelled, and fails a build only with `latency_strict=True`.

## Cycles of an instruction

{_timings()}

## Reference networks

"error" is the estimate against what is counted, with this network in the fit; "not in the fit" is the same after
fitting without it, which is what another network must expect; the last column adds a flash with one wait state. The
largest of these for a core is the error that reports state. The largest of the first two here is {worst:.1f} %.
Cortex-M55: instructions, as there are no cycles.

The networks of the example firmware are no part of the fit; `tests/test_cost.py` holds their estimates against what
`scons -C example_firmware run` counts on a Cortex-M0: 12,162 cycles for `touch`, 724,570 for `touch_cnn`.

{HEADER}
{chr(10).join(line(row) for row in rows)}

## Cycles of one trip

Of the kernels that take most of the time, without wait states. `word` is one input and the weights of four outputs.

{_trips(fitted)}
"""


def _timings() -> str:
    names = {
        "plain": "any other",
        "multiply": "MULS",
        "multiply_add": "MLA, MLS, SMLAD and the like",
        "long_multiply": "SMULL, UMULL",
        "long_multiply_add": "SMLAL, UMLAL",
        "divide": "SDIV, UDIV",
        "load": "LDR and the like",
        "next_load": "LDR behind an LDR, address not from it",
        "double": "LDRD, STRD",
        "store": "STR and the like",
        "indexed_store": "STR, register offset",
        "several": "LDM, STM, PUSH, POP",
        "registers": "each register of them",
        "branch": "branch taken",
        "call": "BL",
        "jump": "BX, BLX, and the PC by POP",
        "system": "MRS, MSR, barriers",
    }
    lines = ["| instruction | M0 | M0+ | M3 | M4 |", "|---|---:|---:|---:|---:|"]
    for kind, cycles in instruction_timings.CYCLES.items():
        cells = (
            "-" if kind in instruction_timings.MISSING and at < 2 else f"{value:g}" for at, value in enumerate(cycles)
        )
        lines.append(f"| {names[kind]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _trips(fitted: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    shown = ("conv2d/horner", "depthwise_conv2d/direct", "fully_connected/horner", "add/direct")
    lines = ["| kernel | loop | M0 | M0+ | M3 | M4 |", "|---|---|---:|---:|---:|---:|"]
    for kernel in shown:
        for loop in fitted["armv6m"][kernel]:
            cells = [
                f"{fitted[isa][kernel].get(loop, [0] * len(columns(isa)))[columns(isa).index(core)]:.1f}"
                for isa, cores in CORES.items()
                for core in cores
            ]
            lines.append(f"| {kernel} | {loop} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
