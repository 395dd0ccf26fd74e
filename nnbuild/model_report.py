"""What is known of a model before it is compiled: `<name>.report.json`, schema 2, written by `emit`.

Kernels with the reasons against the others, shapes, MACs, and the arena map. docs/REPORT.md lists the keys. The `size`
command joins this with the linked image to `fw.size.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from nnbuild import __version__, cost, static_cost
from nnbuild.contract import Kernel, Source
from nnbuild.network import Layer, Network, Port
from nnbuild.ops import BY_NAME
from nnbuild.optimize import Selection
from nnbuild.ram.memory import Plan
from nnbuild.ram.rows import Segment
from nnbuild.report import curve
from nnbuild.report.schema import MODEL_SCHEMA
from nnbuild.report.usage import layer_number
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
    ram: Sequence[str],
) -> str:
    """The text of `<name>.report.json`. `network` is the shrunk one, which lacks what is `removed`.

    `ram` is what is to be said of RAM and its limit (`ram.wall`).
    """
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
        "reordered": _is_reordered(name, [layer["name"] for layer in layers]),
        "peak_layer": planned.peak if planned.arena else None,
        "macs": sum(layer["macs"] for layer in layers),
        "ram": list(ram),
        "segments": [_segment(own) for own in network.segments],
        "removed": asdict(removed),
        "cost": _run_cost(network, [step.choice for step in steps], target),
        "inputs": [_port(network, item) for item in network.inputs],
        "outputs": [_port(network, item) for item in network.outputs],
        "layers": layers,
    }
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def _is_reordered(model: str, names: Sequence[str]) -> bool:
    """Whether layers run in another order than the model's, in which they are numbered."""
    numbers = [layer_number(model, name) or 0 for name in names]
    return numbers != sorted(numbers)


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
    """When rows of a layer are computed: call y at step `first` + y * `every` of its segment; None for all at once."""
    due = next((step.due for own in network.segments for step in own.steps if step.layer == layer), None)
    return None if due is None else {"first": due.first, "every": due.every, "count": due.count}


def _segment(own: Segment) -> dict[str, Any]:
    """Layers that go row by row, in that many steps, and the rows that they keep."""
    numbers = {"first": own.first, "last": own.last, "steps": own.length, "rows_together": own.way.together}
    return {**numbers, "kept_bytes": own.held, "moved_bytes": own.moved, "pushed": own.pushed}


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

    `offset` is None where the buffer is the caller's. Of a layer in place, input and output have one offset, and an
    output may lie over the input that it replaces. Views have no rows: rows are what is written, and a tensor of which
    others are parts is a row for each run of bytes. What layers write of an output of the model has the output's name.
    What lives in states (`state_bytes`) is not here.
    """
    rows = [row for port in network.inputs for row in _places(network, port.tensor, port.name, "input", planned)]
    outputs = {port.tensor: port.name for port in network.outputs}
    for layer in network.layers:
        tensor = network.home(layer.output)
        if tensor in planned.in_states:
            continue
        port = outputs.get(network.place(tensor)[0])
        name, kind = (tensor, "activation") if port is None else (port, "output")
        over = _written_over(network, planned, layer)
        rows += [{**row, "over": over} for row in _places(network, tensor, name, kind, planned)]
    return [*rows, *_scratch(network, choices, planned, target)]


def _written_over(network: Network, planned: Plan, layer: Layer) -> list[str]:
    """The inputs, by the names of their rows, over which a layer's output lies; a model's input by that of its port.

    The result of a segment may lie over the source of that.
    """
    names = {port.tensor: port.name for port in network.inputs}
    output = network.home(layer.output)
    start = planned.offsets.get(output)
    sources = [own.source for own in network.segments if own.result == output and not own.pushed]
    found = []
    for name in dict.fromkeys([*map(network.home, layer.inputs), *sources]):
        place = planned.offsets.get(name)
        if start is not None and place is not None:
            apart = start >= place + network.tensors[name].bytes or place >= start + network.tensors[output].bytes
            found += [] if apart else [names.get(name, name)]
    return found


def _scratch(network: Network, choices: Sequence[Choice], planned: Plan, target: Target) -> list[dict[str, Any]]:
    """Of kernels, and what rows are gathered or kept in; sums of rows are needed in their whole segment."""
    rows = []
    starts = {step.layer: own.first for own in network.segments for step in own.steps if step.keeps}
    for index, choice in enumerate(choices):
        name = choice.layer.name
        if name in planned.scratch:
            size, offset = choice.kernel.scratch(choice.view, target), planned.scratch[name]
            row = {"name": name, "kind": "scratch", "shape": [size], "offset": offset, "bytes": size}
            rows.append({**row, "first": starts.get(name, index), "last": index, "over": []})
    names = [name for own in network.segments for name, home in own.homes.items() if name == home]
    names += [name for own in network.segments for name in own.apart]
    return [*rows, *(row for name in names for row in _places(network, name, name, "scratch", planned))]


def _places(network: Network, tensor: str, name: str, kind: str, planned: Plan) -> list[dict[str, Any]]:
    """A row, or one for each run of bytes that other tensors begin or end at."""
    first, end = planned.lives[tensor][0], max(0, len(network.layers) - 1)
    start, size = network.place(tensor)[1], network.tensors[tensor].bytes
    needs = [
        (low - start, high - start, min(planned.lives[other][1], end))
        for other in network.tensors
        for low, high in [network.overlap(tensor, other)]
        if low < high
    ]
    runs = [
        (low, high, max(last for begin, until, last in needs if begin <= low < until))
        for low, high in pairwise(sorted({cut for need in needs for cut in need[:2]}))
    ]
    offset, whole = planned.offsets.get(tensor), list(network.tensors[tensor].shape)
    return [
        {
            **{"name": name, "kind": kind, "shape": whole if high - low == size else [high - low]},
            **{"offset": None if offset is None else offset + low, "bytes": high - low, "first": first, "last": last},
            "over": [],
        }
        for low, high, last in runs
    ]
