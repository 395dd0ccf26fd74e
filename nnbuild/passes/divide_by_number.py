"""Division by one number becomes multiplication by its reciprocal, which is a table in a quantized model."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace one Div by a float constant that is not 0."""
    divisor = graph.constant(node, 1) if node.op_type == "Div" else None
    if divisor is None or divisor.size != 1 or divisor.dtype != np.float32 or not divisor.all():
        return False
    node.op_type = "Mul"
    factor = (1.0 / divisor.astype(np.float64)).astype(np.float32)
    graph.set_input(node, 1, graph.add_constant(f"{node.output[0]}_factor", factor))
    return True
