"""Gemm with constant weights gets alpha = beta = 1 and a bias with one number for each output.

A bias of another form becomes an Add behind it, and a Gemm whose weights are computed, or whose first input is not,
becomes MatMul.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.network import Array
from nnbuild.passes.graph import Graph, attribute, drop_attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Bring one float Gemm into this form, a step at a time."""
    if node.op_type != "Gemm" or any(array.dtype != np.float32 for array in _constants(graph, node)):
        return False
    weights, bias = graph.constant(node, 1), graph.constant(node, 2)
    outputs = graph.shape(node.output[0])[-1]
    product = weights is None or graph.constant(node, 0) is not None
    if len(node.input) > 2 and node.input[2] and (product or bias is None or bias.shape not in _rows(outputs)):
        return _bias_apart(graph, node)
    if weights is None or product:
        return _as_matmul(graph, node)
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    changed = False
    if alpha != 1.0:
        scaled = (weights.astype(np.float64) * alpha).astype(np.float32)
        graph.set_input(node, 1, graph.add_constant(f"{node.output[0]}_weights", scaled))
        changed = True
    if bias is not None and (beta != 1.0 or bias.shape != (outputs,)):
        spread = np.broadcast_to((bias.astype(np.float64) * beta).reshape(-1), (outputs,)).astype(np.float32)
        graph.set_input(node, 2, graph.add_constant(f"{node.output[0]}_bias", spread))
        beta, changed = 1.0, True
    for name, value in (("alpha", 1.0), ("beta", beta if len(node.input) > 2 and node.input[2] else 1.0)):
        if value == 1.0 and any(entry.name == name for entry in node.attribute):
            drop_attribute(node, name)
            changed = True
    return changed


def _constants(graph: Graph, node: NodeProto) -> list[Array]:
    return [graph.constants[value] for value in node.input if value in graph.constants]


def _rows(outputs: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of a bias that is the same for every row of the result."""
    return ((), (1,), (1, 1), (outputs,), (1, outputs))


def _bias_apart(graph: Graph, node: NodeProto) -> bool:
    """Gemm without its bias, and an Add of beta times that."""
    output, bias, beta = node.output[0], node.input[2], attribute(node, "beta", 1.0)
    shape, name = graph.shape(output), node.name or output
    product = graph.unique(f"{output}_product")
    kept = {key: attribute(node, key, None) for key in ("alpha", "transA", "transB")}
    kept = {key: value for key, value in kept.items() if value is not None}
    graph.add_node("Gemm", node.input[:2], product, shape, name=name, before=node, **kept)
    bias = _times(graph, node, bias, beta)
    graph.add_node("Add", [product, bias], output, shape, name=f"{name}_bias", before=node)
    graph.remove(node)
    return True


def _as_matmul(graph: Graph, node: NodeProto) -> bool:
    """MatMul of the two inputs, transposed where the Gemm says so, and times alpha; it has no bias any more."""
    output, name = node.output[0], node.name or node.output[0]
    sides = [_turned(graph, node, index) for index in (0, 1)]
    alpha = attribute(node, "alpha", 1.0)
    product = output if alpha == 1.0 else graph.unique(f"{output}_product")
    graph.add_node("MatMul", sides, product, graph.shape(output), name=name, before=node)
    if alpha != 1.0:
        factor = graph.add_constant(f"{output}_alpha", np.float32(alpha))
        graph.add_node("Mul", [product, factor], output, graph.shape(output), name=f"{name}_alpha", before=node)
    graph.remove(node)
    return True


def _turned(graph: Graph, node: NodeProto, index: int) -> str:
    value = str(node.input[index])
    if not attribute(node, ("transA", "transB")[index], 0):
        return value
    if value in graph.constants:
        return graph.add_constant(f"{value}_turned", graph.constants[value].T)
    turned = graph.unique(f"{value}_turned")
    shape = graph.shape(value)[::-1]
    graph.add_node("Transpose", [value], turned, shape, name=turned, before=node, perm=[1, 0])
    return turned


def _times(graph: Graph, node: NodeProto, value: str, factor: float) -> str:
    if factor == 1.0:
        return value
    if value in graph.constants:
        scaled = (graph.constants[value].astype(np.float64) * factor).astype(np.float32)
        return graph.add_constant(f"{value}_scaled", scaled)
    scaled_value = graph.unique(f"{value}_scaled")
    constant = graph.add_constant(f"{node.output[0]}_beta", np.float32(factor))
    graph.add_node("Mul", [value, constant], scaled_value, graph.shape(value), name=scaled_value, before=node)
    return scaled_value
