"""What layers execute under QEMU: the samples that costs are fitted to.

The reference networks and single layers (cost_layers.py) with every kernel that serves run on a core of each class of
instruction sets, and what each layer executes is counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import cmsis_nn as library_benchmark
from benchmarks import cost_layers, executed
from nnbuild import cmsis_nn, cost, emit
from nnbuild.errors import KernelError
from nnbuild.network import Network
from nnbuild.ops import BY_NAME
from nnbuild.ram import rows
from nnbuild.selection import BACKENDS, Choice, select
from nnbuild.shrink import shrink
from nnbuild.target import TARGETS, Target

# What is fitted on each class: the cores whose timings apply to its instructions.
CORES: Mapping[str, tuple[str, ...]] = {
    "armv6m": ("cortex-m0", "cortex-m0plus"),
    "armv7m": ("cortex-m3",),
    "dsp": ("cortex-m4",),
    "mve": (),
}
MEASURED_ON = {"armv6m": "cortex-m0", "armv7m": "cortex-m3", "dsp": "cortex-m4", "mve": "cortex-m55"}
NETWORKS_IN_ONE_IMAGE = 24


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


@dataclass(frozen=True, slots=True)
class Job:
    """A network to run, with the kernels chosen for it."""

    name: str
    backend: str
    network: Network
    choices: tuple[Choice, ...]
    pins: Mapping[str, str]
    rows: str = "never"


def jobs(reference: Mapping[str, Network], where: Target) -> list[Job]:
    """The reference networks with nnbuild's kernels and with CMSIS-NN's, and single layers with every kernel."""
    found = []
    for name, network in reference.items():
        for backend in ("direct", "cmsis_nn"):
            choices = select(network, where, backend=backend)
            # What is emitted must be what is measured, whatever costs would choose.
            pins = {choice.layer.name: choice.kernel.name for choice in choices}
            found.append(Job(name, backend, network, choices, pins))
    found += _by_rows(reference, where)
    # As `emit` writes them: without what no input changes.
    for network in (shrink(case.network) for case in cost_layers.cases()):
        kernels = {choice.kernel.name for choice in select(network, where, backend="direct")}
        kernels |= {name for choice in select(network, where, backend="direct") for name in choice.reasons}
        for kernel in sorted(kernels):
            names = {layer.name: {own.name for own in BY_NAME[layer.op].kernels} for layer in network.layers}
            pins = {layer: kernel for layer, known in names.items() if kernel in known}
            try:
                choices = select(network, where, pins, backend="direct")
            except KernelError:
                continue
            found.append(Job("", "", network, choices, pins))
    return found


def _by_rows(reference: Mapping[str, Network], where: Target) -> list[Job]:
    """The longest segment of each reference network that has one, and one of half its layers."""
    found = []
    for name, network in reference.items():
        whole = shrink(network)
        last = max((n for n in range(len(whole.layers)) if rows.segment(whole, rows.Run(0, n)) is not None), default=0)
        for end in {
            last,
            next((n for n in range(last // 2, last) if rows.segment(whole, rows.Run(0, n)) is not None), last),
        }:
            streamed = rows.streamed(whole, [rows.Run(0, end)]) if last > 0 else None
            if streamed is not None:
                choices = select(streamed, where, backend="direct")
                pins = {choice.layer.name: choice.kernel.name for choice in choices}
                segment = "-".join(whole.layers[n].name.partition("_")[0] for n in (0, end))
                found.append(Job(f"{name} by rows {segment}", "direct", network, choices, pins, segment))
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
            options = emit.EmitOptions(
                f"n{number}", where, pins=job.pins, backend=backend, stream_rows=job.rows, apart=True
            )
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
    choices, segment = job.choices, None
    if report["segments"]:
        # How a segment goes is chosen when it is emitted.
        whole = rows.streamed(shrink(job.network), [_run(own) for own in report["segments"]])
        assert whole is not None
        (segment,) = whole.segments
        choices = select(whole, where, job.pins, backend="direct")
    for choice, layer, found in zip(choices, report["layers"], ran.layers, strict=True):
        low, high = (getattr(choice.layer.params, f"activation_{bound}", at) for at, bound in enumerate(("min", "max")))
        if low == high and not job.name:
            continue  # a constant, of which the compiler leaves nothing
        times = choice.layer.times
        trips = {"layer": times, **{k: n * times for k, n in choice.kernel.trips(choice.view, where).items()}}
        kernel = f"{choice.layer.op}/{choice.kernel.name}"
        code = ran.code_of(layer["function"])
        yield Sample(job.name, job.backend, kernel, trips, _figures(isa, found, code))
    if segment is not None:
        code = next(size for name, size in ran.code.items() if "_rows_" in name)
        yield Sample(job.name, job.backend, cost.ROWS, cost.rows_trips(segment), _figures(isa, ran.rows, code))
        return
    steps = len(choices)
    arguments = sum(len(choice.layer.inputs) + 1 for choice in choices)
    # The hook's calls are in its code, 4 bytes each.
    code = ran.code[f"{report['name']}_run"] - 4 * steps
    trips = {"layer": 1, "step": steps, "argument": arguments}
    yield Sample(job.name, job.backend, cost.RUN, trips, _figures(isa, ran.run, code))


def _run(own: Mapping[str, Any]) -> rows.Run:
    """A segment of a report; without a limit on RAM what is kept never lies apart."""
    return rows.Run(own["first"], own["last"], rows.Way(own["rows_together"]))


def _wanted(job: Job, only: Sequence[str]) -> bool:
    """Whether a job has one of these operators; "rows" are the segments of the reference networks."""
    if job.rows != "never":
        return cost.ROWS in only
    return any(choice.layer.op in only for choice in job.choices)


def measured(
    reference: Mapping[str, Network], root: Path, kept: Path | None, only: Sequence[str] = ()
) -> dict[str, list[Sample]]:
    """Samples by class, of `reference` and of single layers, or of those with the operators `only`.

    They are taken from the file `kept` where it is there, and stored in it where it is not.
    """
    if kept is not None and kept.exists():
        stored = json.loads(kept.read_text())
        return {isa: [Sample(*sample) for sample in samples] for isa, samples in stored.items()}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for isa in CORES:
            where = replace(TARGETS[MEASURED_ON[isa]], cmsis_nn=cmsis_nn.read(root))
            wanted = jobs(reference, where)
            if only:
                wanted = [job for job in wanted if _wanted(job, only)]
            found[isa] = measure(isa, wanted, where, Path(folder) / isa, root)
            print(f"{isa}: {len(found[isa])} layers", file=sys.stderr, flush=True)
    if kept is not None:
        rows = {
            isa: [[s.network, s.backend, s.kernel, s.trips, s.figures] for s in samples]
            for isa, samples in found.items()
        }
        kept.write_text(json.dumps(rows))
    return found
