"""QuantizeLinear nodes that do the same to one value become one.

onnxruntime's quantizer writes one for each reader with `DedicatedQDQPair`; a layer has one output.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Let the readers of a QuantizeLinear read the first one that is its equal."""
    if node.op_type != "QuantizeLinear" or node.output[0] in graph.outputs:
        return False
    for other in graph.readers(node.input[0]):
        if other is node:
            return False
        if other.op_type == "QuantizeLinear" and _equal(graph, node, other):
            graph.redirect(node.output[0], other.output[0])
            graph.remove(node)
            return True
    return False


def _equal(graph: Graph, node: NodeProto, other: NodeProto) -> bool:
    if len(node.input) != len(other.input) or attribute(node, "axis", 1) != attribute(other, "axis", 1):
        return False
    for index in range(1, len(node.input)):
        ours, theirs = graph.constant(node, index), graph.constant(other, index)
        if ours is None or theirs is None or ours.dtype != theirs.dtype or not np.array_equal(ours, theirs):
            return False
    return True
