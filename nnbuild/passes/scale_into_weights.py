"""A multiplication by one number in front of Conv, Gemm or MatMul, views between them included, goes into the weights.

That is how pixels scaled by 1/255 look; zeros of padding stay zeros.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes import affine
from nnbuild.passes.graph import Graph, attribute

_VIEWS = frozenset(("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"))


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Multiply the weights behind `node` instead of its input."""
    form = affine.of_node(graph, node)
    if form is None or form.scale.size != 1 or form.shift.any():
        return False
    linear, value = _behind_views(graph, node.output[0])
    if linear is None or linear.input[0] != value or list(linear.input).count(value) != 1:
        return False
    weights = graph.constant(linear, 1)
    if linear.op_type not in affine.LINEAR or weights is None or weights.dtype != np.float32:
        return False
    if linear.op_type == "Gemm" and attribute(linear, "alpha", 1.0) != 1.0:
        return False
    scaled = (weights.astype(np.float64) * form.scale.reshape(())).astype(np.float32)
    if not np.isfinite(scaled).all() or node.output[0] in graph.outputs:
        return False
    graph.set_input(linear, 1, graph.add_constant(f"{linear.output[0]}_weights", scaled))
    graph.redirect(node.output[0], form.value)
    graph.remove(node)
    return True


def _behind_views(graph: Graph, value: str) -> tuple[NodeProto | None, str]:
    """The only reader of `value`, looking through views; and the value that it reads."""
    reader = graph.sole_reader(value)
    while reader is not None and reader.op_type in _VIEWS and reader.input[0] == value:
        value = reader.output[0]
        reader = graph.sole_reader(value)
    return reader, value
