"""LSTM, GRU and RNN with layout=1, batch first: Transposes around the same operator with time first.

Runtimes have the operator in that form only.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute, drop_attribute
from nnbuild.states import RECURRENT

_STATE = (1, 0, 2)
_OUTPUT = (2, 0, 1, 3)
"""(steps, directions, batch, hidden) -> (batch, steps, directions, hidden)"""


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Turn a node with layout=1 into the form with layout=0."""
    if node.op_type not in RECURRENT or not attribute(node, "layout", 0):
        return False
    for position in (0, *RECURRENT[node.op_type]):
        if position < len(node.input) and node.input[position]:
            _turn_input(graph, node, position)
    for position, order in enumerate((_OUTPUT, _STATE, _STATE)[: len(node.output)]):
        if node.output[position]:
            _turn_output(graph, node, position, order)
    drop_attribute(node, "layout")
    return True


def _turn_input(graph: Graph, node: NodeProto, position: int) -> None:
    source = node.input[position]
    first, second, third = graph.shape(source)
    value = graph.unique(f"{source}_time_first")
    graph.add_node(
        "Transpose", [source], value, (second, first, third),
        name=value, before=node, element=graph.types[source], perm=list(_STATE),
    )  # fmt: skip
    graph.set_input(node, position, value)


def _turn_output(graph: Graph, node: NodeProto, position: int, order: Sequence[int]) -> None:
    result = node.output[position]
    shape = graph.shape(result)
    value = graph.unique(f"{result}_time_first")
    turned = [0] * len(order)
    for axis, source in enumerate(order):
        turned[source] = shape[axis]
    graph.rename_output(node, position, value, turned)
    graph.add_node(
        "Transpose", [value], result, shape,
        name=f"{node.name or node.op_type}_{position}", after=node, element=graph.types[result], perm=list(order),
    )  # fmt: skip
