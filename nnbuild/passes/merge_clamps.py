"""A clamp behind a clamp: one clamp with the bounds of both."""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes.clamp_form import bounds, write_bounds
from nnbuild.passes.graph import Graph

_CLAMPS = ("Relu", "Clip")


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Merge `node` with the clamp in front of it that nobody else reads."""
    if node.op_type not in _CLAMPS:
        return False
    before = graph.feeding(node, 0, *_CLAMPS)
    inner = bounds(graph, before) if before is not None else None
    outer = bounds(graph, node)
    if before is None or inner is None or outer is None:
        return False
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    graph.set_input(node, 0, before.input[0])
    graph.remove(before)
    node.op_type = "Clip"
    write_bounds(graph, node, low, high)
    return True
