"""A Transpose behind a Transpose, a Reshape or Flatten behind another: one of them does."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute, drop_attribute, set_attribute

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Merge `node` with the view in front of it; write the shape of a Reshape out in full."""
    if node.op_type == "Transpose":
        return _transposes(graph, node)
    if node.op_type not in _RESHAPES:
        return False
    before = graph.feeding(node, 0, *_RESHAPES)
    if before is not None:
        _to_reshape(graph, node)
        graph.set_input(node, 0, before.input[0])
        graph.remove(before)
        return True
    shape = graph.constant(node, 1) if node.op_type == "Reshape" else None
    if shape is not None and tuple(shape.ravel()) != graph.shape(node.output[0]):
        _to_reshape(graph, node)
        return True
    return False


def _to_reshape(graph: Graph, node: NodeProto) -> None:
    """The same view as a Reshape whose shape has no 0 and no -1."""
    shape = np.asarray(graph.shape(node.output[0]), np.int64)
    node.op_type = "Reshape"
    drop_attribute(node, "axis")
    drop_attribute(node, "allowzero")
    graph.set_input(node, 1, graph.add_constant(f"{node.output[0]}_shape", shape))


def _transposes(graph: Graph, node: NodeProto) -> bool:
    before = graph.feeding(node, 0, "Transpose")
    if before is None:
        return False
    backwards = list(range(len(graph.shape(node.input[0]))))[::-1]
    first, second = attribute(before, "perm", backwards), attribute(node, "perm", backwards)
    set_attribute(node, "perm", [first[axis] for axis in second])
    graph.set_input(node, 0, before.input[0])
    graph.remove(before)
    return True
