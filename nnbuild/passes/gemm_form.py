"""Gemm with constant weights gets alpha = beta = 1 and a bias with one number for each output."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute, drop_attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Fold alpha into the weights, beta into the bias; spread a scalar bias."""
    weights, bias = graph.constant(node, 1), graph.constant(node, 2)
    if node.op_type != "Gemm" or weights is None or weights.dtype != np.float32:
        return False
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    outputs = graph.shape(node.output[0])[-1]
    changed = False
    if alpha != 1.0:
        scaled = (weights.astype(np.float64) * alpha).astype(np.float32)
        graph.set_input(node, 1, graph.add_constant(f"{node.output[0]}_weights", scaled))
        changed = True
    if bias is not None and (beta != 1.0 or bias.shape != (outputs,)) and bias.size in (1, outputs):
        spread = np.broadcast_to((bias.astype(np.float64) * beta).reshape(-1), (outputs,)).astype(np.float32)
        graph.set_input(node, 2, graph.add_constant(f"{node.output[0]}_bias", spread))
        beta, changed = 1.0, True
    for name, value in (("alpha", 1.0), ("beta", beta if len(node.input) > 2 and node.input[2] else 1.0)):
        if value == 1.0 and any(entry.name == name for entry in node.attribute):
            drop_attribute(node, name)
            changed = True
    return changed
