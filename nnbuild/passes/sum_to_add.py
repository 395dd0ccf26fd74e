"""Sum of several values becomes a chain of Add; Mean is that, divided by their number."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Split the first two inputs of a Sum off; the last step turns it into Add."""
    if node.op_type == "Mean" and len(node.input) > 1:
        return _mean(graph, node)
    if node.op_type != "Sum" or len(node.input) < 2:
        return False
    if len(node.input) == 2:
        node.op_type = "Add"
        return True
    shape = _broadcast(graph.shape(node.input[0]), graph.shape(node.input[1]))
    partial = graph.unique(f"{node.output[0]}_partial")
    graph.add_node("Add", node.input[:2], partial, shape, name=f"{node.name}_partial", before=node)
    rest = [partial, *node.input[2:]]
    graph.drop_inputs(node, 0)
    for index, value in enumerate(rest):
        graph.set_input(node, index, value)
    return True


def _mean(graph: Graph, node: NodeProto) -> bool:
    total, output = graph.unique(f"{node.output[0]}_sum"), node.output[0]
    shape, name = graph.shape(output), node.name or output
    factor = graph.add_constant(f"{output}_factor", np.float32(1 / len(node.input)))
    graph.add_node("Sum", node.input, total, shape, name=f"{name}_sum", before=node)
    graph.add_node("Mul", [total, factor], output, shape, name=name, before=node)
    graph.remove(node)
    return True


def _broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    return tuple(max(a, b) for a, b in pairs)
