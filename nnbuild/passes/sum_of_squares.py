"""ReduceSumSquare becomes ReduceSum of a product with itself."""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Square in front; the node sums what it gets."""
    if node.op_type != "ReduceSumSquare" or attribute(node, "noop_with_empty_axes", 0):
        return False
    value = node.input[0]
    squares = graph.unique(f"{node.output[0]}_squares")
    graph.add_node("Mul", [value, value], squares, graph.shape(value), name=f"{node.name}_squares", before=node)
    graph.set_input(node, 0, squares)
    node.op_type = "ReduceSum"
    return True
