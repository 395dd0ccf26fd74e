"""The last state Y_h of an LSTM, GRU or RNN is a part of its output Y: the step that is computed last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, helper

from nnbuild.errors import ModelError
from nnbuild.passes.graph import Graph, attribute
from nnbuild.states import RECURRENT


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Let the node write Y alone, and Slices of it be what Y_h was. ModelError where the cells of an LSTM are read."""
    if node.op_type not in RECURRENT or len(node.output) < 2:
        return False
    read = [bool(value) and bool(graph.readers(value) or value in graph.outputs) for value in node.output]
    if read[2:] == [True]:
        message = f"its last cell state '{node.output[2]}' as an output is not supported"
        raise ModelError(message, graph.where(node), "carry it from call to call: states={input: output}")
    state, whole = node.output[1], node.output[0] or graph.unique(f"{node.output[1]}_steps")
    alone = _with_one_output(graph, node, whole)
    if read[1]:
        _last_step(graph, alone, state)
    return True


def _with_one_output(graph: Graph, node: NodeProto, whole: str) -> NodeProto:
    """A node that takes the place of `node` and writes Y as `whole`."""
    steps, batch, _ = graph.shape(node.input[0])
    directions, _, hidden = graph.shape(node.input[2])
    shape = (steps, directions, batch, hidden)
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    alone = graph.add_node(
        node.op_type, list(node.input), whole, shape,
        name=node.name, before=node, element=graph.types[node.input[0]], **attributes,
    )  # fmt: skip
    graph.remove(node)
    alone.name = node.name
    return alone


def _last_step(graph: Graph, node: NodeProto, state: str) -> None:
    """`state` from the output of `node`: its last step, of each direction that which is computed last."""
    whole = node.output[0]
    steps, directions, batch, hidden = graph.shape(whole)
    reverse = attribute(node, "direction", b"forward") == b"reverse"
    last = (0,) if reverse else (steps - 1, 0)
    parts: list[str] = []
    behind = node
    for direction in range(directions):
        places = {0: last[direction], 1: direction} if directions > 1 else {0: last[direction]}
        behind = _slice(graph, whole, places, f"{state}_{direction}", behind)
        parts.append(behind.output[0])
    if len(parts) > 1:
        value = graph.unique(f"{state}_sides")
        sides = (1, directions, batch, hidden)
        behind = graph.add_node("Concat", parts, value, sides, name=value, after=behind, axis=1)
    axes = graph.add_constant(f"{state}_time", np.array([0], np.int64))
    graph.add_node(
        "Squeeze", [behind.output[0], axes], state, (directions, batch, hidden), name=f"{state}_last", after=behind
    )


def _slice(graph: Graph, value: str, places: dict[int, int], name: str, after: NodeProto) -> NodeProto:
    """The elements at index `places[axis]` of each of these axes, which stay, with length 1."""
    numbers: tuple[Sequence[int], ...] = (list(places.values()), [at + 1 for at in places.values()], list(places))
    constants = [graph.add_constant(f"{name}_bounds", np.array(each, np.int64)) for each in numbers]
    shape = [1 if axis in places else size for axis, size in enumerate(graph.shape(value))]
    result = graph.unique(name)
    return graph.add_node("Slice", [value, *constants], result, shape, name=result, after=after)
