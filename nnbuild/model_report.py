"""What is known of a model before it is compiled: `<name>.report.json`, schema 2, written by `emit`.

Kernels with the reasons against the others, shapes, MACs, and the arena map. docs/REPORT.md lists the keys. The `size`
command joins this with the linked image to `fw.size.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from nnbuild import __version__, cost, static_cost
from nnbuild.contract import Kernel, Source
from nnbuild.memory import Plan, lifetimes
from nnbuild.network import Network, Port
from nnbuild.ops import BY_NAME
from nnbuild.optimize import Selection
from nnbuild.report import curve
from nnbuild.report.schema import MODEL_SCHEMA
from nnbuild.rows import Segment
from nnbuild.selection import Choice
from nnbuild.shrink import Removed
from nnbuild.static_cost import Range
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.emit import EmitOptions


@dataclass(frozen=True, slots=True)
class Step:
    """One layer as the generated code has it: its kernel, what that contributes, the C function that it calls.

    `assembly` are the cycles, or instructions, of its functions in assembly, None where it has none.
    """

    choice: Choice
    source: Source
    function: str
    assembly: Range | None


def as_json(
    network: Network,
    options: EmitOptions,
    steps: Sequence[Step],
    planned: Plan,
    selection: Selection,
    model_id: int,
    removed: Removed,
) -> str:
    """The text of `<name>.report.json`. `network` is the shrunk one, which lacks what is `removed`."""
    name, target = options.name, options.target
    layers = [_layer(network, name, index, step, planned, target) for index, step in enumerate(steps)]
    document = {
        "schema": MODEL_SCHEMA,
        "name": name,
        "model_id": f"0x{model_id:08x}",
        "nnbuild": __version__,
        "cpu": target.cpu,
        "backend": options.backend,
        "synthetic": network.synthetic,
        "optimize": options.aim.goal,
        "curve": curve.thinned(selection.curve, selection.chosen),
        "cmsis_nn": target.cmsis_nn.version if target.cmsis_nn else None,
        "arena": options.arena,
        "arena_bytes": planned.arena,
        "arena_bound_bytes": planned.bound,
        "state_bytes": planned.state_bytes,
        "arena_map": arena_map(network, [step.choice for step in steps], planned, target),
        "scratch_bytes": max((layer["scratch_bytes"] for layer in layers), default=0),
        "peak_layer": planned.peak,
        "macs": sum(layer["macs"] for layer in layers),
        "segments": [_segment(own) for own in network.segments],
        "removed": asdict(removed),
        "cost": _run_cost(network, [step.choice for step in steps], target),
        "inputs": [_port(network, item) for item in network.inputs],
        "outputs": [_port(network, item) for item in network.outputs],
        "layers": layers,
    }
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def _port(network: Network, item: Port) -> dict[str, Any]:
    quant = network.tensors[item.tensor].quant
    return {
        "name": item.name,
        "shape": list(item.shape),
        "layout": item.layout,
        "scale": quant.scale,
        "zero_point": quant.zero_point,
    }


def _layer(network: Network, name: str, index: int, step: Step, planned: Plan, target: Target) -> dict[str, Any]:
    choice, view = step.choice, step.choice.view
    return {
        "index": index,
        "name": f"{name}_{choice.layer.name}",
        "function": step.function,
        "op": choice.layer.op,
        "node": choice.layer.node,
        "kernel": choice.kernel.name,
        "reasons": dict(sorted(choice.reasons.items())),
        "inputs": [list(tensor.shape) for tensor in view.inputs],
        "output": list(view.output.shape),
        "macs": BY_NAME[choice.layer.op].macs(view) * choice.layer.times,
        "rows": _rows(network, choice.layer.name),
        "weights_bytes": sum(array.nbytes for array in step.source.data.values()),
        "scratch_bytes": choice.kernel.scratch(view, target),
        "live_bytes": planned.live[index],
        "cost": _cost(choice, target),
        "assembly": {**asdict(step.assembly), "unit": static_cost.unit(target.cpu)} if step.assembly else None,
        "alternatives": {
            kernel.name: _cost(replace(choice, kernel=kernel), target) for kernel in _others(choice, target)
        },
    }


def _rows(network: Network, layer: str) -> dict[str, int] | None:
    """When rows of a layer are computed: row y at step `first` + y * `every` of its segment; None for all at once."""
    due = next((step.due for own in network.segments for step in own.steps if step.layer == layer), None)
    return None if due is None else {"first": due.first, "every": due.every, "count": due.count}


def _segment(own: Segment) -> dict[str, Any]:
    """Layers that go row by row, in that many steps, and the rows that they keep."""
    kept = sum(rows.rows * rows.bytes for rows in own.kept.values() if rows.stays)
    numbers = {"first": own.first, "last": own.last, "steps": own.length, "kept_bytes": kept, "moved_bytes": own.moved}
    return {**numbers, "pushed": own.pushed}


def _run_cost(network: Network, choices: Sequence[Choice], target: Target) -> dict[str, Any] | None:
    """What the costs of layers rest on, and that of `<name>_run` itself, with what calls rows and moves them.

    None where the core or a kernel is unknown.
    """
    basis = cost.basis(target.cpu)
    if basis is None or cost.unmeasured(choices, target):
        return None
    error = cost.error_percent(target.cpu, choices)
    run = _counts(cost.run_work(choices, target, target.cpu) + cost.all_rows_work(network, target, target.cpu))
    return {"basis": basis, "error_percent": error, "compiler": cost.compiler(), "run": run}


def _cost(choice: Choice, target: Target) -> dict[str, int] | None:
    """Instructions, cycles with memory that never waits, accesses to flash, multiplications."""
    return _counts(cost.layer_work(choice, target, target.cpu)) if cost.basis(target.cpu) else None


def _counts(work: cost.Work) -> dict[str, int]:
    return {key: round(getattr(work, key)) for key in ("instructions", "cycles", "waits", "multiplications")}


def _others(choice: Choice, target: Target) -> list[Kernel]:
    """Kernels that would serve and were not taken."""
    kernels = BY_NAME[choice.layer.op].kernels
    return [
        kernel for kernel in kernels if kernel is not choice.kernel and kernel.supports(choice.view, target) is None
    ]


def arena_map(network: Network, choices: Sequence[Choice], planned: Plan, target: Target) -> list[dict[str, Any]]:
    """Every buffer of an inference: where it is, and from which layer to which its contents are needed.

    `offset` is None where the buffer is the caller's. Of a layer in place, input and output have one offset.
    """
    lives = lifetimes(network)
    scratch = _scratch(network, choices, planned, lives, target)
    return [*_inputs(network, planned, lives), *_written(network, planned, lives), *scratch]


def _inputs(network: Network, planned: Plan, lives: Mapping[str, tuple[int, int]]) -> list[dict[str, Any]]:
    end = len(network.layers) - 1
    return [
        _place(
            network, port.tensor, port.name, "input", planned, lives[port.tensor][0], min(lives[port.tensor][1], end)
        )
        for port in network.inputs
    ]


def _written(network: Network, planned: Plan, lives: Mapping[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """What layers write, in their order: the model's outputs live to its end, the others to their last reader."""
    ports, end = {port.tensor: port.name for port in network.outputs}, len(network.layers) - 1
    rows = []
    for layer in network.layers:
        name = network.home(layer.output)
        kind = "output" if name in ports else "activation"
        first, last = lives[name]
        rows.append(_place(network, name, ports.get(name, name), kind, planned, first, min(last, end)))
    return rows


def _scratch(
    network: Network, choices: Sequence[Choice], planned: Plan, lives: Mapping[str, tuple[int, int]], target: Target
) -> list[dict[str, Any]]:
    """Of kernels, and what rows of a whole tensor are gathered in; sums of rows are needed in their whole segment."""
    rows = []
    starts = {step.layer: own.first for own in network.segments for step in own.steps if step.keeps}
    for index, choice in enumerate(choices):
        name = choice.layer.name
        if name in planned.scratch:
            size, offset = choice.kernel.scratch(choice.view, target), planned.scratch[name]
            row = {"name": name, "kind": "scratch", "shape": [size], "offset": offset, "bytes": size}
            rows.append({**row, "first": starts.get(name, index), "last": index})
    gathered = [name for own in network.segments for name, home in own.homes.items() if name == home]
    return [*rows, *(_place(network, name, name, "scratch", planned, *lives[name]) for name in gathered)]


def _place(network: Network, tensor: str, name: str, kind: str, planned: Plan, first: int, last: int) -> dict[str, Any]:
    shape, size = list(network.tensors[tensor].shape), network.tensors[tensor].bytes
    offset = planned.offsets.get(tensor)
    return {"name": name, "kind": kind, "shape": shape, "offset": offset, "bytes": size, "first": first, "last": last}
