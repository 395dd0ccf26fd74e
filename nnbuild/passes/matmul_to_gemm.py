"""MatMul + Add with constant weights and bias becomes Gemm; with more than two axes, between two Reshapes.

In a QDQ model weights and bias stand behind a DequantizeLinear of a constant; nothing else may lie between.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace the MatMul that alone feeds the Add `node`."""
    if node.op_type != "Add":
        return False
    for index in (0, 1):
        matmul = graph.feeding(node, index, "MatMul")
        if matmul is not None and _fits(graph, matmul, node.input[1 - index]):
            _replace(graph, matmul, node, node.input[1 - index])
            return True
    return False


def _fits(graph: Graph, matmul: NodeProto, bias: str) -> bool:
    weights = matmul.input[1]
    if not _is_constant(graph, weights) or not _is_constant(graph, bias) or len(graph.shape(weights)) != 2:
        return False
    value, shape = graph.shape(matmul.input[0]), graph.shape(bias)
    outputs = graph.shape(weights)[1]
    if len(value) == 2:
        return shape in ((outputs,), (1, outputs)) and value[0] == 1
    # A bias behind a DequantizeLinear has the shape that it has.
    fits = shape[-1:] == (outputs,) and math.prod(shape) == outputs
    return len(value) > 2 and fits and (bias in graph.constants or len(shape) <= 2)


def _is_constant(graph: Graph, value: str) -> bool:
    producer = graph.producer(value)
    if producer is not None and producer.op_type == "DequantizeLinear":
        return producer.input[0] in graph.constants
    return value in graph.constants


def _replace(graph: Graph, matmul: NodeProto, add: NodeProto, bias: str) -> None:
    shape = graph.shape(add.output[0])
    value, weights = matmul.input[0], matmul.input[1]
    name, output = matmul.name or add.name or add.output[0], add.output[0]
    source, target = value, output
    rows = math.prod(shape[:-1])
    if len(shape) > 2:
        source, target = graph.unique(f"{output}_rows"), graph.unique(f"{output}_gemm")
        flat = graph.shape(value)[-1]
        dims = graph.add_constant(f"{source}_shape", np.asarray((rows, flat), np.int64))
        graph.add_node("Reshape", [value, dims], source, (rows, flat), name=f"{name}_in", before=add)
    if bias in graph.constants:
        bias = graph.add_constant(f"{output}_bias", graph.constants[bias].reshape(-1))
    gemm = graph.add_node("Gemm", [source, weights, bias], target, (rows, shape[-1]), name=name, before=add)
    if len(shape) > 2:
        dims = graph.add_constant(f"{output}_shape", np.asarray(shape, np.int64))
        graph.add_node("Reshape", [target, dims], output, shape, name=f"{name}_out", before=add)
    graph.remove(add)
    graph.remove(matmul)
    gemm.name = name
