"""Div by a constant that nothing else could take becomes Mul by its reciprocal, whose small values do not matter."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace the divisor; not where a reciprocal is not finite."""
    divisor = graph.constant(node, 1)
    if node.op_type != "Div" or divisor is None or divisor.dtype != np.float32:
        return False
    reciprocal = np.reciprocal(divisor.astype(np.float64)).astype(np.float32)
    if not np.isfinite(reciprocal).all():
        return False
    node.op_type = "Mul"
    graph.set_input(node, 1, graph.add_constant(f"{node.output[0]}_factor", reciprocal))
    return True
