"""A clamp behind a MaxPool or a view moves in front of it, where the operator that computes the values can take it.

Clamps never change an order, so the largest of clamped values is the largest value, clamped.
"""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes.graph import Graph

_CLAMPS = frozenset(("Relu", "Clip"))
_MOVERS = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
_TAKERS = frozenset(
    (
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul"),
        *("AveragePool", "GlobalAveragePool", "ReduceMean"),
    )
)


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Move `node` to right behind the operator that will take it, if there is one."""
    if node.op_type not in _CLAMPS:
        return False
    first = last = graph.feeding(node, 0, *_MOVERS)
    while first is not None and (before := graph.feeding(first, 0, *_MOVERS)) is not None:
        first = before
    taker = graph.feeding(first, 0, *_TAKERS) if first is not None else None
    if first is None or last is None or taker is None:
        return False
    value = taker.output[0]
    clamped = graph.unique(f"{value}_clamped")
    inputs = [value, *node.input[1:]]
    moved = graph.add_node(node.op_type, inputs, clamped, graph.shape(value), name=node.name or clamped, after=taker)
    graph.set_input(first, 0, moved.output[0])
    graph.absorb(last, node)
    return True
