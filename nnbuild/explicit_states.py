"""States in the interface of a model, `h0` in and `hn` out, become states that its recurrent layers keep.

PyTorch's exporters write streaming models so. Which element of an input starts which element of a layer's state, and
which element of an output that is afterwards, is found by sending the numbers of the elements through the operators in
between, which only move them; the two must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto

from nnbuild.errors import ConfigError, Finding
from nnbuild.moving import MOVING, moved, numbered
from nnbuild.network import Array
from nnbuild.onnxfile import opset
from nnbuild.passes.graph import Graph
from nnbuild.states import KEEP, RECURRENT, keep_states

States = str | Mapping[str, str]
"""`"keep"`: recurrent layers go on from where they ended. Or outputs by the inputs that they are in the next call."""


def apply(model: onnx.ModelProto, states: States | None, file: str) -> None:
    """Let the recurrent layers of `model`, folded and with known shapes, keep their states as `states` says.

    ConfigError where it has none, where names do not exist, or where an output is not what its input stands for.
    """
    if states is None:
        return
    graph = Graph(model)
    layers = [node for node in graph.nodes if node.op_type in RECURRENT]
    if not layers:
        raise ConfigError("option 'states': the model has no recurrent layer", file, "LSTM, GRU and RNN keep states")
    if states != KEEP:
        assert not isinstance(states, str)
        _take_out(graph, layers, states, file)
    keep_states(model)


def _take_out(graph: Graph, layers: Sequence[NodeProto], pairs: Mapping[str, str], file: str) -> None:
    findings = [
        Finding(f"option 'states': the model has no {kind} '{name}'", file, f"it has {', '.join(known)}")
        for kind, known, names in (("input", graph.inputs, pairs.keys()), ("output", graph.outputs, pairs.values()))
        for name in names
        if name not in known
    ]
    if findings:
        raise ConfigError.of(findings)
    if set(graph.outputs) <= set(pairs.values()):
        raise ConfigError("option 'states' leaves the model no output", file)
    findings = _mismatches(graph, layers, pairs, file)
    if findings:
        raise ConfigError.of(findings)
    for layer in layers:
        for position in RECURRENT[layer.op_type]:
            if position < len(layer.input):
                graph.set_input(layer, position, "")
    model = graph.model
    for field, gone in ((model.graph.input, set(pairs)), (model.graph.output, set(pairs.values()))):
        kept = [value for value in field if value.name not in gone]
        del field[:]
        field.extend(kept)
    graph.outputs = tuple(value.name for value in model.graph.output)
    graph.remove_dead()
    graph.commit()


def _mismatches(graph: Graph, layers: Sequence[NodeProto], pairs: Mapping[str, str], file: str) -> list[Finding]:
    """What stands against each state of each layer."""
    numbers, owners = _numbered(graph, layers, pairs)
    findings = []
    used: set[str] = set()
    for layer in layers:
        where = f"{file}: {graph.where(layer)}"
        for position, output in RECURRENT[layer.op_type].items():
            start = layer.input[position] if position < len(layer.input) else ""
            source = owners.get(start, "")
            if source not in pairs:
                message = f"its state (input {position}) does not come from an input that `states` names"
                findings.append(Finding(message, where, "name every state, or states='keep'"))
                continue
            used.add(source)
            own = layer.output[output] if output < len(layer.output) else ""
            if not _follows(numbers, start, own, pairs[source]):
                message = f"output '{pairs[source]}' is not its state after input '{source}'"
                hint = "the output must hold, in the same order, what the input starts"
                findings.append(Finding(message, where, hint))
    findings += [Finding(f"input '{name}' starts no recurrent layer", file) for name in pairs if name not in used]
    return findings + _other_readers(graph, owners, pairs, file)


def _follows(numbers: Mapping[str, Array], start: str, own: str, after: str) -> bool:
    """Whether the output `after` holds the state `own` at the places of the input that `start` is made of."""
    if own not in numbers or after not in numbers:
        return False
    places, held = numbers[start].ravel(), numbers[after].ravel()
    return bool(held.size > places.max() and (held[places] == numbers[own].ravel()).all())


def _other_readers(graph: Graph, owners: Mapping[str, str], pairs: Mapping[str, str], file: str) -> list[Finding]:
    """Nodes that compute with a state before it reaches its layer."""
    findings = []
    for node in graph.nodes:
        for position, value in enumerate(node.input):
            state = position in RECURRENT.get(node.op_type, ())
            if owners.get(value) in pairs and not state and node.op_type not in MOVING:
                message = f"computes with the state '{owners[value]}', which only recurrent layers may read"
                findings.append(Finding(message, f"{file}: {graph.where(node)}"))
    return findings


def _numbered(
    graph: Graph, layers: Sequence[NodeProto], pairs: Mapping[str, str]
) -> tuple[dict[str, Array], dict[str, str]]:
    """The number of each element of values that hold states: below 2^40 the position in an input; and that input."""
    numbers: dict[str, Array] = {}
    owners: dict[str, str] = {}
    for name in pairs:
        numbers[name], owners[name] = numbered(graph.shape(name)), name
    outputs = [value for layer in layers for value in layer.output[1:] if value]
    for index, value in enumerate(outputs):
        numbers[value] = numbered(graph.shape(value), (index + 1) * 2**40)
    for node in graph.nodes:
        data = [value for value in node.input if value and value not in graph.constants]
        if node.op_type in MOVING and data and all(value in numbers for value in data):
            inputs = {value: numbers[value] if value in numbers else graph.constants[value] for value in node.input}
            numbers.update(moved(node, inputs, opset(graph.model)))
            sources = {owners.get(value, "") for value in data}
            owners.update(dict.fromkeys(node.output, sources.pop() if len(sources) == 1 else ""))
    return numbers, owners
