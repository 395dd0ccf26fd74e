"""The last stage: a network, its kernels and its memory plan become C source, a header and a report.

Everything that is written is a function of the integer network and the options: no date, no path, no order of a hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnbuild import __version__, cnames, cost, model_report, static_cost
from nnbuild.contract import Assembly, Source
from nnbuild.cports import NamedPort, arguments, named, parameters
from nnbuild.errors import ConfigError
from nnbuild.network import Array, Network, Tensor
from nnbuild.ops.history import settled
from nnbuild.optimize import Aim, Selection
from nnbuild.placement import Placement
from nnbuild.ram import row_calls, wall
from nnbuild.ram.memory import Plan
from nnbuild.ram.streaming import AUTO, Made, Setup, made
from nnbuild.raw_input import RawInput, raw_input
from nnbuild.rendering import assembly_range, assembly_text, environment, helpers
from nnbuild.selftest import selftest_samples
from nnbuild.shrink import Removed, shrink
from nnbuild.streams.reset import fills
from nnbuild.target import TARGETS, Target

ARENAS = ("static", "caller", "shared")
SPDX = "SPDX-License-Identifier: 0BSD"


@dataclass(frozen=True, slots=True)
class EmitOptions:
    """What the C is generated for. `raw` is (kind, scale, offset); `pins` maps a layer or node to a kernel.

    `arena` is who owns the working memory: this model ("static"), the caller, or all models of the image that say
    "shared" together. `backend` is as in `selection.candidates`, and `aim` decides between the kernels that it allows;
    `placement` is where weights, arena and ports lie. `evaluate` adds a main function for machines with files. `apart`
    keeps outputs and inputs of layers apart, as what is measured of kernels needs it.
    """

    name: str
    target: Target = TARGETS["generic"]
    selftest: int = 0
    raw: tuple[str, float, float] | None = None
    arena: str = "static"
    pins: Mapping[str, str] = field(default_factory=dict)
    backend: str = "auto"
    aim: Aim = field(default_factory=Aim)
    placement: Placement = field(default_factory=Placement)
    stream_rows: str = AUTO
    push_rows: bool = False
    evaluate: bool = False
    apart: bool = False


@dataclass(frozen=True, slots=True)
class _Instance:
    """One C function: a kernel specialised for a shape, shared by every layer that differs in its constants only."""

    function: str
    source: Source
    signature: str
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Step(model_report.Step):
    """One layer as the generated code sees it; `parameters` are its memory besides tensors: scratch, state.

    One that `keeps` goes on from row to row, and is told which one it is.
    """

    arguments: tuple[str, ...]
    symbols: Mapping[str, str]
    parameters: tuple[str, ...]
    keeps: bool


def emit(network: Network, options: EmitOptions) -> dict[str, str]:
    """File name -> text: `<name>.c .h _weights.c _kernels.S .report.json`; `_selftest.c`, `_evaluate.c` if asked.

    What is emitted is the shrunk network; the model's id is that of `network`, as it is lowered.
    """
    name = _checked(options)
    whole = shrink(network)
    setup = _setup(name, options, _pins_of_remaining(options.pins, network, whole, f"{name}_"))
    found = made(whole, setup)
    context = {"model_id": f"0x{network.model_id():08x}", **_context(name, options, whole, found)}
    rendered = _sources(context, options, found)
    rendered[f"{name}.report.json"] = model_report.as_json(
        found.network,
        options,
        context["steps"],
        found.planned,
        found.selection,
        network.model_id(),
        Removed.between(network, whole),
        wall.lines(whole, setup, found),
    )
    if options.selftest:
        samples = selftest_samples(whole, options.selftest)
        rendered[f"{name}_selftest.c"] = _render("selftest.c.j2", context, samples=samples)
    if options.evaluate:
        rendered[f"{name}_evaluate.c"] = _render("evaluate.c.j2", context)
    return rendered


def _checked(options: EmitOptions) -> str:
    """The model's name in C; ConfigError where options are wrong."""
    if options.arena not in ARENAS:
        raise ConfigError(f"arena '{options.arena}' is unknown", hint=f"one of {', '.join(ARENAS)}")
    if options.selftest < 0:
        raise ConfigError(f"selftest {options.selftest} is not a number of samples", hint="0 for none")
    options.placement.check(options.arena)
    return cnames.model_name(options.name)


def _setup(name: str, options: EmitOptions, pins: Mapping[str, str]) -> Setup:
    return Setup(
        target=options.target,
        aim=options.aim,
        pins=pins,
        backend=options.backend,
        prefix=f"{name}_",
        io=options.placement.in_arena,
        alignment=options.placement.arena_align,
        rows=options.stream_rows,
        pushed=options.push_rows,
        apart=options.apart,
    )


def _context(name: str, options: EmitOptions, whole: Network, found: Made) -> dict[str, Any]:
    """What templates know of a model; `whole` is its network before anything went row by row."""
    network, planned, placement = found.network, found.planned, options.placement
    inputs = named(network, whole, network.inputs, name, "input", planned)
    outputs = named(network, whole, network.outputs, name, "output", planned)
    ports = (*inputs, *outputs)
    steps = _steps(name, network, found.selection, planned, options.target, ports)
    segments = _segments(name, network, planned, steps, ports)
    start, pattern = fills(network, planned)
    return {
        "name": name,
        "macro": name.upper(),
        "version": __version__,
        "target": options.target,
        "inputs": inputs,
        "outputs": outputs,
        "parameters": parameters(options.arena == "caller", planned, inputs, outputs),
        "arguments": arguments(options.arena == "caller", planned, ports),
        "bytes_only": all(port.tensor.dtype == "int8" for port in ports),
        "placement": placement,
        "reserved": placement.reserved(name, options.arena),
        "arena": planned.arena,
        "state": planned.state_bytes,
        "fills": start,
        "pattern": pattern,
        "initial_state": pattern.size,
        "settled": settled(whole),
        "caller_arena": options.arena == "caller",
        "shared_arena": options.arena == "shared",
        "steps": steps,
        "segments": segments,
        "pushed": next((own.pushed for own in segments if own.pushed), None),
        "placed": [port for port in ports if placement.in_arena and not port.rows],
        "unread": [
            port.argument
            for port in inputs
            if port.offset is None and not any(network.shares(port.port.tensor, read) for read in _read(network))
        ],
        "raw": _raw(options, inputs),
        "spdx": SPDX,
        "synthetic": network.synthetic,
        "single_rounding": network.single_rounding,
    }


def _sources(context: Mapping[str, Any], options: EmitOptions, found: Made) -> dict[str, str]:
    """Header, C, weights and assembly."""
    name, steps, raw = context["name"], context["steps"], context["raw"]
    instances = _instances(steps, options.target)
    assembled = _assembled(instances)
    functions = [_function(instance, assembled, f"{context['macro']}_ASSEMBLY") for instance in instances]
    set_input = _render("set_input.c.j2", context).strip("\n") if raw else ""
    rows = [_render("rows.c.j2", context, own=own).strip("\n") for own in context["segments"]]
    texts = [*(function["text"] for function in functions), *rows, set_input]
    return {
        f"{name}.h": _render("model.h.j2", context),
        f"{name}.c": _render(
            "model.c.j2",
            context,
            calls=[_call(step) for step in steps],
            functions=functions,
            rows=rows,
            assembled=[_wrapped(f"{own.returns} {at}(", own.parameters, ");") for at, own in assembled.values()],
            includes=dict.fromkeys(file for instance in instances for file in instance.source.includes),
            set_input=set_input,
            helpers=helpers(texts, options.target, found.network.single_rounding),
        ),
        f"{name}_weights.c": _render("weights.c.j2", context, arrays=_arrays(steps, name, raw, context["pattern"])),
        f"{name}_kernels.S": _render(
            "kernels.S.j2",
            context,
            functions=[
                (symbol, assembly_text(own, symbol), _executed(steps, own, options.target.cpu))
                for symbol, own in assembled.values()
            ],
        ),
    }


def _render(template: str, context: Mapping[str, Any], **more: Any) -> str:
    return environment().get_template(template).render(context, **more)


def _pins_of_remaining(pins: Mapping[str, str], lowered: Network, network: Network, prefix: str) -> dict[str, str]:
    """Without those of layers that shrinking removed; a name that never was a layer stays, and is refused later."""
    before, after = (
        {name for layer in each.layers for name in (prefix + layer.name, layer.name, layer.node)}
        for each in (lowered, network)
    )
    return {name: kernel for name, kernel in pins.items() if name not in before - after}


def _raw(options: EmitOptions, inputs: Sequence[NamedPort]) -> RawInput | None:
    if options.raw is None:
        return None
    if len(inputs) != 1:
        raise ConfigError(f"raw_input needs a model with one input; this one has {len(inputs)}")
    if inputs[0].tensor.quant.wide:
        raise ConfigError("raw_input needs an input of int8; this model's is int16")
    return raw_input(*options.raw, inputs[0].tensor.quant)


def _steps(
    name: str,
    network: Network,
    selection: Selection,
    planned: Plan,
    target: Target,
    ports: Sequence[NamedPort],
) -> list[_Step]:
    arguments = {named.port.tensor: named.argument for named in ports if named.offset is None}
    places = {tensor: _in_argument(network, tensor, arguments) for tensor in network.tensors}
    places |= {
        tensor: _in_arena(network.tensors[tensor], offset)
        for tensor, offset in planned.offsets.items()
        if tensor in network.tensors
    }
    places |= {tensor: f"&state[{offset}]" for tensor, offset in planned.in_states.items()}
    for own in network.segments:
        places |= row_calls.places(network, own, planned, arguments)
    keeping = {step.layer for own in network.segments for step in own.steps if step.keeps}
    functions: dict[str, str] = {}
    steps = []
    for choice, source in zip(selection.choices, selection.sources, strict=True):
        layer = choice.layer
        symbols = {key: f"{name}_{layer.name}_{key}" for key in source.data}
        memory = {
            part: f"&{where}[{offsets[layer.name]}]"
            for part, where, offsets in (("scratch", "arena", planned.scratch), ("state", "state", planned.states))
            if layer.name in offsets
        }
        if memory.get("state") == places[layer.output]:
            del memory["state"]  # its output is that state
        tensors = (places[tensor] for tensor in (*layer.inputs, layer.output))
        passed = (*tensors, *memory.values(), *symbols.values())
        function = functions.setdefault(cost.function_key(choice, source, target), f"{name}_{layer.name}")
        ranges = [assembly_range(own, target.cpu, layer.times) for own in source.assembly]
        known = static_cost.total(ranges)
        steps.append(_Step(choice, source, function, known, passed, symbols, tuple(memory), layer.name in keeping))
    return steps


def _in_argument(network: Network, tensor: str, arguments: Mapping[str, str]) -> str:
    """Where a tensor lies in what the caller passes; "" where it does not."""
    root, start = network.place(tensor)
    if root not in arguments or not start:
        return arguments.get(root, "")
    return f"&{arguments[root]}[{start // network.tensors[tensor].element_bytes}]"


def _segments(
    name: str, network: Network, planned: Plan, steps: Sequence[_Step], ports: Sequence[NamedPort]
) -> list[row_calls.Function]:
    """The functions of what goes row by row."""
    places = {named.port.tensor: named.argument for named in ports if named.offset is None}
    calls = {step.choice.layer.name: _call(step) for step in steps}
    return [row_calls.function(network, own, planned, places, name, calls) for own in network.segments]


def _read(network: Network) -> set[str]:
    """The tensors that layers read."""
    return {network.home(name) for layer in network.layers for name in layer.inputs} | {
        own.source for own in network.segments
    }


def _in_arena(tensor: Tensor, offset: int) -> str:
    place = f"&arena[{offset}]"
    return place if tensor.dtype == "int8" else f"({tensor.dtype}_t *)(void *){place}"


def _instances(steps: Sequence[_Step], target: Target) -> list[_Instance]:
    instances: dict[str, _Instance] = {}
    for step in steps:
        same = [other for other in steps if other.function == step.function]
        layers = tuple(_title(other) + _cycles(other, target) for other in same)
        if step.function not in instances:
            instances[step.function] = _Instance(step.function, step.source, _signature(step), layers)
    return list(instances.values())


def _title(step: _Step) -> str:
    view, layer = step.choice.view, step.choice.layer
    shapes = ", ".join("x".join(str(n) for n in tensor.shape) for tensor in view.inputs)
    output = "x".join(str(n) for n in view.output.shape)
    return f"{layer.name}: {shapes} -> {output}, from '{cnames.comment(layer.node)}'"


def _cycles(step: _Step, target: Target) -> str:
    """`, about 123,000 cycles`, to three digits, where they are known."""
    if cost.basis(target.cpu) is None or cost.unmeasured([step.choice], target):
        return ""
    cycles = cost.layer_work(step.choice, target, target.cpu).cycles
    return f", about {float(f'{cycles:.3g}'):,.0f} cycles"


def _signature(step: _Step) -> str:
    view = step.choice.view
    numbers = ["", *range(2, len(view.inputs) + 1)]
    parameters = [f"const {tensor.dtype}_t *input{n}" for n, tensor in zip(numbers, view.inputs, strict=False)]
    parameters.append(f"{view.output.dtype}_t *output")
    parameters += [f"int8_t *{memory}" for memory in step.parameters]
    parameters += [f"const {array.dtype}_t *{key}" for key, array in step.source.data.items()]
    parameters += ["int32_t row"] if step.keeps else []
    return _wrapped(f"static void {step.function}(", parameters, ")")


def _call(step: _Step) -> str:
    """The statement that calls the layer."""
    arguments = (*step.arguments, "row") if step.keeps else step.arguments
    return _wrapped(f"    {step.function}(", arguments, ");", indent=8)


def _wrapped(head: str, pieces: Sequence[str], tail: str, indent: int = 0) -> str:
    """`head`, the pieces with commas, `tail`, in lines of at most 110; the others start at `indent`, or below."""
    lines, line = [], head
    for position, piece in enumerate(pieces):
        text = piece + (tail if position == len(pieces) - 1 else ", ")
        if len(line) + len(text.rstrip()) > 110:
            lines.append(line.rstrip())
            line = " " * (indent or len(head))
        line += text
    return "\n".join([*lines, line])


def _assembled(instances: Sequence[_Instance]) -> dict[str, tuple[str, Assembly]]:
    """Every function in assembly once, with its symbol, by what it is made from."""
    found: dict[str, tuple[str, Assembly]] = {}
    for instance in instances:
        for own in instance.source.assembly:
            found.setdefault(_made_from(own), (f"{instance.function}_{own.name}", own))
    return found


def _executed(steps: Sequence[_Step], assembly: Assembly, cpu: str) -> list[str]:
    """For each layer that calls the function: how often in one inference, and what that takes."""
    lines = []
    for step in steps:
        for own in step.source.assembly:
            times = step.choice.layer.times
            found = assembly_range(own, cpu, times) if _made_from(own) == _made_from(assembly) else None
            if found is not None:
                most = "" if found.least == found.most else f" to {found.most:,}"
                count = own.runs["call"] * times
                calls = f"{count:,} call{'s' if count > 1 else ''} in one inference"
                amount = f"{found.least:,}{most} {static_cost.unit(cpu)}"
                lines.append(f"{step.choice.layer.name}: {calls}, {amount} on {cpu}")
    return lines


def _made_from(assembly: Assembly) -> str:
    return repr((assembly.template, assembly.values))


def _function(instance: _Instance, assembled: Mapping[str, tuple[str, Assembly]], macro: str) -> dict[str, Any]:
    source = instance.source
    text = _render(
        source.template,
        source.values,
        signature=instance.signature,
        symbol=instance.function,
        assembly=macro if source.assembly else "",
        called={own.name: assembled[_made_from(own)][0] for own in source.assembly},
    )
    return {"text": text.strip("\n"), "layers": instance.layers}


def _arrays(steps: Sequence[_Step], name: str, raw: RawInput | None, start: Array) -> list[dict[str, str]]:
    """Every constant that lives in flash, once: layers with equal contents still keep their own, so sizes add up."""
    arrays = [
        _array(step.symbols[key], array, _title(step)) for step in steps for key, array in step.source.data.items()
    ]
    if raw is not None and raw.table is not None:
        arrays.append(_array(f"{name}_raw_input", raw.table, "raw input 0 to 255 -> model input"))
    if start.size:
        arrays.append(_array(f"{name}_initial_state", start, "what layers keep between inferences, after a reset"))
    return arrays


def _array(symbol: str, array: Array, title: str) -> dict[str, str]:
    flat = np.ascontiguousarray(array).ravel()
    words = ["(-2147483647 - 1)" if value == -(2**31) else str(value) for value in flat.tolist()]
    suffix = "u" if flat.dtype.kind == "u" and flat.dtype.itemsize == 4 else ""
    width = {1: 20, 2: 16, 4: 8}[flat.dtype.itemsize]
    rows = [", ".join(word + suffix for word in words[start : start + width]) for start in range(0, len(words), width)]
    declaration = f"const {flat.dtype}_t {symbol}[{flat.size}]"
    return {"declaration": declaration, "rows": ",\n    ".join(rows), "title": title}
