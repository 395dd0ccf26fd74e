"""The last stage: a network, its kernels and its memory plan become C source, a header and a report.

Everything that is written is a function of the integer network and the options: no date, no path, no order of a hash.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from nnbuild import __version__, cnames, cost, fixedpoint, interpret, model_report, static_cost
from nnbuild.contract import Assembly, Source
from nnbuild.errors import ConfigError
from nnbuild.instruction_timings import CORES
from nnbuild.kernels import armv6m
from nnbuild.kernels.exact_requantize import Form
from nnbuild.memory import Plan, initial_state, plan
from nnbuild.network import Array, Network, Port, Tensor
from nnbuild.optimize import Aim, Selection, optimize
from nnbuild.placement import Placement
from nnbuild.raw_input import RawInput, raw_input
from nnbuild.selection import Choice, candidates
from nnbuild.shrink import Removed, shrink
from nnbuild.target import TARGETS, Target

ARENAS = ("static", "caller", "shared")
SPDX = "SPDX-License-Identifier: 0BSD"


@dataclass(frozen=True, slots=True)
class EmitOptions:
    """What the C is generated for. `raw` is (kind, scale, offset); `pins` maps a layer or node to a kernel.

    `arena` is who owns the working memory: this model ("static"), the caller, or all models of the image that say
    "shared" together. `backend` is as in `selection.candidates`, and `aim` decides between the kernels that it allows;
    `placement` is where weights, arena and ports lie.
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


@dataclass(frozen=True, slots=True)
class _Instance:
    """One C function: a kernel specialised for a shape, shared by every layer that differs in its constants only."""

    function: str
    source: Source
    signature: str
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Step(model_report.Step):
    """One layer as the generated code sees it; `parameters` are its memory besides tensors: scratch, state."""

    arguments: tuple[str, ...]
    symbols: Mapping[str, str]
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _NamedPort:
    """A model input or output with its names in C: macro prefix, function suffix, argument; `offset` in the arena."""

    port: Port
    tensor: Tensor
    macro: str
    suffix: str
    argument: str
    offset: int | None = None


def emit(network: Network, options: EmitOptions) -> dict[str, str]:
    """File name -> text: `<name>.c .h _weights.c _kernels.S .report.json`, and `_selftest.c` where it is asked for.

    What is emitted is the shrunk network; the model's id is that of `network`, as it is lowered.
    """
    name = cnames.model_name(options.name)
    if options.arena not in ARENAS:
        raise ConfigError(f"arena '{options.arena}' is unknown", hint=f"one of {', '.join(ARENAS)}")
    if options.selftest < 0:
        raise ConfigError(f"selftest {options.selftest} is not a number of samples", hint="0 for none")
    placement = options.placement
    placement.check(options.arena)
    model_id, lowered = network.model_id(), network
    network = shrink(lowered)
    removed = Removed.between(lowered, network)
    pins = _pins_of_remaining(options.pins, lowered, network, f"{name}_")
    serving = candidates(network, options.target, pins, options.backend, f"{name}_")

    def planner(choices: Sequence[Choice]) -> Plan:
        return plan(network, choices, options.target, placement.in_arena, placement.arena_align)

    with fixedpoint.rounding(network.single_rounding):
        selection = optimize(serving, options.target, options.aim, planner)
    planned = planner(selection.choices)
    inputs = _named(network, network.inputs, name, "input", planned)
    outputs = _named(network, network.outputs, name, "output", planned)
    steps = _steps(name, network, selection, planned, options.target, (*inputs, *outputs))
    raw = _raw(options, inputs)
    start = initial_state(network, planned) if planned.state_bytes else None
    start = start if start is not None and start.any() else None
    context: dict[str, Any] = {
        "name": name,
        "macro": name.upper(),
        "version": __version__,
        "model_id": f"0x{model_id:08x}",
        "target": options.target,
        "inputs": inputs,
        "outputs": outputs,
        "parameters": _parameters(options, planned, inputs, outputs),
        "arguments": _arguments(options, planned, (*inputs, *outputs)),
        "bytes_only": all(p.tensor.dtype == "int8" for p in outputs),
        "placement": placement,
        "reserved": placement.reserved(name, options.arena),
        "arena": planned.arena,
        "state": planned.state_bytes,
        "initial_state": start is not None,
        "caller_arena": options.arena == "caller",
        "shared_arena": options.arena == "shared",
        "steps": steps,
        "unread": [
            p.argument
            for p in inputs
            if p.offset is None and all(p.port.tensor not in s.choice.layer.inputs for s in steps)
        ],
        "raw": raw,
        "spdx": SPDX,
        "single_rounding": network.single_rounding,
    }
    instances = _instances(steps, options.target)
    environment = _environment()
    assembled = _assembled(instances)
    functions = [_function(environment, instance, assembled, f"{name.upper()}_ASSEMBLY") for instance in instances]
    set_input = environment.get_template("set_input.c.j2").render(context).strip("\n") if raw else ""
    texts = [*(function["text"] for function in functions), set_input]
    rendered = {
        f"{name}.h": environment.get_template("model.h.j2").render(context),
        f"{name}.c": environment.get_template("model.c.j2").render(
            context,
            functions=functions,
            assembled=[_wrapped(f"{own.returns} {at}(", own.parameters, ");") for at, own in assembled.values()],
            includes=dict.fromkeys(name for instance in instances for name in instance.source.includes),
            set_input=set_input,
            helpers=_helpers(texts, options.target, network.single_rounding),
        ),
        f"{name}_weights.c": environment.get_template("weights.c.j2").render(
            context, arrays=_arrays(steps, name, raw, start)
        ),
        f"{name}_kernels.S": environment.get_template("kernels.S.j2").render(
            context,
            functions=[
                (symbol, assembly_text(own, symbol), _executed(steps, own, options.target.cpu))
                for symbol, own in assembled.values()
            ],
        ),
        f"{name}.report.json": model_report.as_json(network, options, steps, planned, selection, model_id, removed),
    }
    if options.selftest:
        samples = selftest_samples(network, options.selftest)
        rendered[f"{name}_selftest.c"] = environment.get_template("selftest.c.j2").render(context, samples=samples)
    return rendered


@dataclass(frozen=True, slots=True)
class SelftestSample:
    """Pseudo-random inputs by their `seed`, divided by 2^damping, and the outputs expected, flat int8."""

    seed: int
    damping: int
    outputs: tuple[Array, ...]


def selftest_samples(network: Network, count: int) -> list[SelftestSample]:
    """`count` samples; of a few candidates each, the one whose outputs are most varied, so that a fault shows."""
    samples = []
    kept: interpret.States = {}
    for index in range(count):
        candidates = []
        for seed in range(8 * index + 1, 8 * index + 9):
            states = dict(kept)
            candidates.append((_selftest_sample(network, seed, seed % 4, states), states))
        sample, kept = max(candidates, key=lambda pair: sum(len(set(out.tolist())) for out in pair[0].outputs))
        samples.append(sample)
    return samples


def _selftest_sample(network: Network, seed: int, damping: int, states: interpret.States) -> SelftestSample:
    state = seed
    inputs = []
    for port in network.inputs:
        values, state = _pseudorandom(network.tensors[port.tensor].size, state, damping)
        inputs.append(values)
    outputs = tuple(output.ravel() for output in interpret.run(network, inputs, states))
    return SelftestSample(seed, damping, outputs)


def _pseudorandom(size: int, state: int, damping: int) -> tuple[Array, int]:
    """The self-test's input: a linear congruential generator (Numerical Recipes), its top bits around zero."""
    values = np.empty(size, np.int64)
    for index in range(size):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[index] = (state >> (24 + damping)) - (128 >> damping)
    return values.astype(np.int8), state


def _pins_of_remaining(pins: Mapping[str, str], lowered: Network, network: Network, prefix: str) -> dict[str, str]:
    """Without those of layers that shrinking removed; a name that never was a layer stays, and is refused later."""
    before, after = (
        {name for layer in each.layers for name in (prefix + layer.name, layer.name, layer.node)}
        for each in (lowered, network)
    )
    return {name: kernel for name, kernel in pins.items() if name not in before - after}


def _named(network: Network, ports: Sequence[Port], name: str, kind: str, planned: Plan) -> list[_NamedPort]:
    """One port is `input`; of several each carries its own name."""
    names = [f"_{own}" for own in cnames.distinct([port.name for port in ports])] if len(ports) > 1 else [""]
    return [
        _NamedPort(
            port,
            network.tensors[port.tensor],
            f"{name}_{kind}{own}".upper(),
            own,
            f"{kind}{own}",
            planned.offsets.get(port.tensor),
        )
        for port, own in zip(ports, names, strict=True)
    ]


def _parameters(
    options: EmitOptions, planned: Plan, inputs: Sequence[_NamedPort], outputs: Sequence[_NamedPort]
) -> str:
    """Those of `<name>_run`."""
    words = [f"void *{memory}" for memory in _callers_memory(options, planned)]
    words += [f"const int8_t *{p.argument}" for p in inputs if p.offset is None]
    words += [f"{p.tensor.dtype}_t *{p.argument}" for p in outputs if p.offset is None]
    return ", ".join(words) or "void"


def _arguments(options: EmitOptions, planned: Plan, ports: Sequence[_NamedPort]) -> str:
    """What the self-test passes to `<name>_run`."""
    return ", ".join([*_callers_memory(options, planned), *(p.argument for p in ports if p.offset is None)])


def _callers_memory(options: EmitOptions, planned: Plan) -> list[str]:
    """The memory that the caller passes."""
    return ["arena", "state"][: 2 if planned.state_bytes else 1] if options.arena == "caller" else []


def _raw(options: EmitOptions, inputs: Sequence[_NamedPort]) -> RawInput | None:
    if options.raw is None:
        return None
    if len(inputs) != 1:
        raise ConfigError(f"raw_input needs a model with one input; this one has {len(inputs)}")
    return raw_input(*options.raw, inputs[0].tensor.quant)


def _steps(
    name: str,
    network: Network,
    selection: Selection,
    planned: Plan,
    target: Target,
    ports: Sequence[_NamedPort],
) -> list[_Step]:
    places = {named.port.tensor: named.argument for named in ports if named.offset is None}
    places |= {tensor: _in_arena(network.tensors[tensor], offset) for tensor, offset in planned.offsets.items()}
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
        tensors = (places[tensor] for tensor in (*layer.inputs, layer.output))
        arguments = (*tensors, *memory.values(), *symbols.values())
        function = functions.setdefault(cost.function_key(choice, source, target), f"{name}_{layer.name}")
        ranges = [assembly_range(own, target.cpu) for own in source.assembly]
        steps.append(_Step(choice, source, function, static_cost.total(ranges), arguments, symbols, tuple(memory)))
    return steps


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
    count = len(step.choice.layer.inputs)
    parameters = ["const int8_t *input", *(f"const int8_t *input{n}" for n in range(2, count + 1))]
    parameters.append(f"{step.choice.view.output.dtype}_t *output")
    parameters += [f"int8_t *{memory}" for memory in step.parameters]
    parameters += [f"const {array.dtype}_t *{key}" for key, array in step.source.data.items()]
    return _wrapped(f"static void {step.function}(", parameters, ")")


def _call(step: _Step) -> str:
    """The statement in `<name>_run`."""
    return _wrapped(f"    {step.function}(", step.arguments, ");", indent=8)


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


def assembly_text(assembly: Assembly, symbol: str = "f") -> str:
    """The function in assembly, without what declares it."""
    return _environment().get_template(assembly.template).render(assembly.values, symbol=symbol).strip("\n")


def _executed(steps: Sequence[_Step], assembly: Assembly, cpu: str) -> list[str]:
    """For each layer that calls the function: how often in one inference, and the cycles of that."""
    lines = []
    for step in steps:
        for own in step.source.assembly:
            found = assembly_range(own, cpu) if _made_from(own) == _made_from(assembly) else None
            if found is not None:
                unit = "cycles" if cpu in CORES else "instructions"
                most = "" if found.least == found.most else f" to {found.most:,}"
                calls = f"{own.runs['call']:,} call{'s' if own.runs['call'] > 1 else ''} in one inference"
                lines.append(f"{step.choice.layer.name}: {calls}, {found.least:,}{most} {unit} on {cpu}")
    return lines


def assembly_range(assembly: Assembly, cpu: str) -> static_cost.Range | None:
    """Cycles that the function takes in one inference of the layer; instructions where the core has no timings."""
    if not assembly.runs:
        return None
    text = assembly_text(assembly)
    found = []
    for runs in (assembly.runs, assembly.unaligned or assembly.runs):
        known = cpu in CORES
        found.append(static_cost.cycles(text, "f", cpu, runs) if known else static_cost.instructions(text, "f", runs))
    return static_cost.Range(min(each.least for each in found), max(each.most for each in found))


def _made_from(assembly: Assembly) -> str:
    return repr((assembly.template, assembly.values))


def _function(
    environment: jinja2.Environment, instance: _Instance, assembled: Mapping[str, tuple[str, Assembly]], macro: str
) -> dict[str, Any]:
    source = instance.source
    text = environment.get_template(source.template).render(
        source.values,
        signature=instance.signature,
        symbol=instance.function,
        assembly=macro if source.assembly else "",
        called={own.name: assembled[_made_from(own)][0] for own in source.assembly},
    )
    return {"text": text.strip("\n"), "layers": instance.layers}


def _helpers(texts: Sequence[str], target: Target, single_rounding: bool) -> list[str]:
    """The functions of `csrc` that `texts` call and those that they call, callees first, each for this core."""
    found: dict[str, str] = {}

    def visit(text: str) -> None:
        for helper in sorted(set(re.findall(r"\bnn_\w+(?=\()", text)) - set(found)):
            own = _helper(helper, target, single_rounding)
            visit(own.partition("static inline")[2].partition("(")[2])
            found.setdefault(helper, own)

    for text in texts:
        visit(text)
    return list(found.values())


def _helper(name: str, target: Target, single_rounding: bool) -> str:
    """One file of `csrc`, without its licence line; the form for single rounding and for ARMv6-M where there is one."""
    folder = resources.files("nnbuild") / "csrc"
    endings = [
        f"{rounding}{core}.h"
        for rounding in (["_single", ""] if single_rounding else [""])
        for core in (["_armv6m", ""] if target.armv6m else [""])
    ]
    path = next(path for path in (folder / f"{name}{ending}" for ending in endings) if path.is_file())
    return path.read_text(encoding="utf-8").partition("*/\n")[2].strip("\n")


def _arrays(steps: Sequence[_Step], name: str, raw: RawInput | None, start: Array | None) -> list[dict[str, str]]:
    """Every constant that lives in flash, once: layers with equal contents still keep their own, so sizes add up."""
    arrays = [
        _array(step.symbols[key], array, _title(step)) for step in steps for key, array in step.source.data.items()
    ]
    if raw is not None and raw.table is not None:
        arrays.append(_array(f"{name}_raw_input", raw.table, "raw input 0 to 255 -> model input"))
    if start is not None:
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


@functools.cache
def _environment() -> jinja2.Environment:
    folder = resources.files("nnbuild")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(folder / name) for name in ("ops", "kernels", "templates")]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    filters = {
        "comment": cnames.comment,
        "plus": _plus,
        "times": _times,
        "step": _step,
        "literal": _literal,
        "product": _product,
        "constant": _constant,
        "call": _call,
    }
    environment.filters |= filters
    return environment


def _plus(value: int) -> str:
    """` + 5`, ` - 5`, or nothing for 0."""
    return "" if value == 0 else f" {'+' if value > 0 else '-'} {abs(value)}"


def _times(value: int) -> str:
    """` * 2`, or nothing for 1."""
    return "" if value == 1 else f" * {value}"


def _step(variable: str, by: int) -> str:
    """`i++`, or `i += 2`."""
    return f"{variable}++" if by == 1 else f"{variable} += {by}"


def _product(line: Form, above: str, factors: str, offset: str) -> str:
    """The product with a line's slope and its offset, by the helper that it needs."""
    arguments = f"{above}, {factors}, {offset}"
    return f"nn_scale_wide({arguments})" if line.wide else f"nn_scale({arguments}, {line.low}, {line.dropped})"


def _constant(register: str, value: int) -> str:
    return "\n".join(f"    {line}" for line in armv6m.constant(register, value))


def _literal(value: int) -> str:
    """`5`, or `(-5)`."""
    return str(value) if value >= 0 else f"({value})"
