"""MatMul with constant weights gets them as its second input, with two axes: W x = (x' W')', ' for transposed.

Weights that differ along one more axis, such as those of heads, are as many products side by side.
"""

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
        return _flat(graph, node, column) if column is not None else _side_by_side(graph, node, right)
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


def _side_by_side(graph: Graph, node: NodeProto, weights: Array) -> bool:
    """A product for each matrix of the weights, which one axis counts; and a Concat."""
    value, output, name = node.input[0], node.output[0], node.name or node.output[0]
    result, source = list(graph.shape(output)), graph.shape(value)
    several = [axis for axis in range(-weights.ndim, -2) if weights.shape[axis] > 1]
    axis = several[0] if len(several) == 1 else 0
    count, same = weights.shape[axis], axis == 0 or len(source) < -axis or source[axis] == 1
    if axis == 0 or not (same or source[axis] == count):
        return False
    result[axis] = 1
    parts = []
    for number in range(count):
        part = value if same else _part(graph, node, value, axis, number)
        product = graph.unique(f"{output}_{number}")
        matrix = graph.add_constant(f"{output}_weights", weights.take([number], axis))
        shape = np.broadcast_shapes(graph.shape(part)[:-2], weights.take([number], axis).shape[:-2])
        shape = (*shape, *result[-2:])
        graph.add_node("MatMul", [part, matrix], product, shape, name=f"{name}_{number}", before=node)
        parts.append(product)
    graph.add_node("Concat", parts, output, graph.shape(output), name=name, before=node, axis=axis + len(result))
    graph.remove(node)
    return True


def _part(graph: Graph, node: NodeProto, value: str, axis: int, number: int) -> str:
    shape = list(graph.shape(value))
    part = graph.unique(f"{value}_{number}")
    at = (number, number + 1, axis + len(shape))
    bounds = [graph.add_constant(f"{part}_bound", np.array([bound], np.int64)) for bound in at]
    shape[axis] = 1
    graph.add_node("Slice", [value, *bounds], part, shape, name=part, before=node)
    return part


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
