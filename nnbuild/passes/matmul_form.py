"""MatMul with constant weights gets them as its second input, with two axes: W x = (x' W')', ' for transposed."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from nnbuild.network import Array
from nnbuild.passes.graph import Graph


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Bring one float MatMul with one constant into this form."""
    if node.op_type != "MatMul":
        return False
    left, right = graph.constant(node, 0), graph.constant(node, 1)
    if right is not None and right.ndim != 2 and right.dtype == np.float32:
        column = right.reshape(-1, 1) if right.ndim == 1 else _without_ones(right)
        return column is not None and _flat(graph, node, column)
    rank = len(graph.shape(node.input[1]))
    if left is None or left.ndim != 2 or left.dtype != np.float32 or right is not None or rank < 2:
        return False
    return _swapped(graph, node, left)


def _without_ones(weights: Array) -> Array | None:
    """The matrix, where weights of more than two axes hold a single one."""
    return weights.reshape(weights.shape[-2:]) if math.prod(weights.shape[:-2]) == 1 else None


def _flat(graph: Graph, node: NodeProto, weights: Array) -> bool:
    """x times a matrix, and the result in the shape that the weights' further or missing axes gave it."""
    value, output, name = node.input[0], node.output[0], node.name or node.output[0]
    shape = (*graph.shape(value)[:-1], weights.shape[1])
    product = graph.unique(f"{output}_product")
    constant = graph.add_constant(f"{output}_weights", weights)
    graph.add_node("MatMul", [value, constant], product, shape, name=name, before=node)
    result = graph.shape(output)
    dims = graph.add_constant(f"{output}_shape", np.asarray(result, np.int64))
    graph.add_node("Reshape", [product, dims], output, result, name=f"{name}_out", before=node)
    graph.remove(node)
    return True


def _swapped(graph: Graph, node: NodeProto, left: Array) -> bool:
    value, output, name = node.input[1], node.output[0], node.name or node.output[0]
    rank = len(graph.shape(value))
    perm = [*range(rank - 2), rank - 1, rank - 2]
    turned, product = graph.unique(f"{value}_turned"), graph.unique(f"{output}_turned")
    shapes = [tuple(graph.shape(name)[axis] for axis in perm) for name in (value, output)]
    constant = graph.add_constant(f"{output}_weights", left.T)
    graph.add_node("Transpose", [value], turned, shapes[0], name=f"{name}_in", before=node, perm=perm)
    graph.add_node("MatMul", [turned, constant], product, shapes[1], name=name, before=node)
    graph.add_node("Transpose", [product], output, graph.shape(output), name=f"{name}_out", before=node, perm=perm)
    graph.remove(node)
    return True
