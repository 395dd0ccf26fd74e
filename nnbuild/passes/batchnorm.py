"""BatchNormalization goes into the linear node in front of it, into the Gemm behind it, or becomes a depthwise Conv."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.network import Array
from nnbuild.passes import affine, dequantized
from nnbuild.passes.graph import Graph, attribute
from nnbuild.passes.scale_to_conv import to_depthwise


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace one BatchNormalization with constant statistics."""
    found = of_node(graph, node)
    if found is None:
        return False
    scale, shift = found.scale, found.shift
    before = graph.feeding(node, 0, *affine.LINEAR)
    if before is not None and _channels_last(graph, before, node) and _into(graph, before, node, scale, shift):
        return True
    if _into_next(graph, node, scale, shift):
        return True
    if graph.shape(node.input[0])[0] == 1 and to_depthwise(graph, node, node.input[0], scale, shift):
        return True
    return _apart(graph, node, scale, shift)


def of_node(graph: Graph, node: NodeProto) -> affine.Affine | None:
    """What a BatchNormalization with constant statistics does to each channel; None for any other node."""
    if node.op_type != "BatchNormalization" or attribute(node, "training_mode", 0):
        return None
    statistics = [dequantized.real(graph, node, index) for index in range(1, 5)]
    if any(array is None for array in statistics):
        return None
    gamma, beta, mean, variance = (array for array in statistics if array is not None)
    if not gamma.shape == beta.shape == mean.shape == variance.shape:
        return None
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return None
    return affine.Affine(node.input[0], scale, shift)


def _channels_last(graph: Graph, before: NodeProto, node: NodeProto) -> bool:
    """Whether the channels that BatchNormalization means (axis 1) are those that `before` writes."""
    return affine.channels_of(graph, node.input[0], before)[0] == 1


def _into(graph: Graph, before: NodeProto, node: NodeProto, scale: Array, shift: Array) -> bool:
    if before.op_type == "MatMul":
        if not affine.scale_outputs(graph, before, scale, np.zeros_like(shift)):
            return False
        constant = graph.add_constant(f"{node.output[0]}_shift", shift.astype(np.float32))
        value = node.input[0]
        graph.drop_inputs(node, 0)
        node.op_type = "Add"
        del node.attribute[:]
        graph.set_input(node, 0, value)
        graph.set_input(node, 1, constant)
        return True
    if not affine.scale_outputs(graph, before, scale, shift):
        return False
    graph.absorb(before, node)
    return True


def _apart(graph: Graph, node: NodeProto, scale: Array, shift: Array) -> bool:
    """A Mul and an Add, where no depthwise Conv serves."""
    value, output, name = node.input[0], node.output[0], node.name or node.output[0]
    shape = graph.shape(value)
    along = (-1, *([1] * (len(shape) - 2)))
    scaled = graph.unique(f"{output}_scaled")
    factor = graph.add_constant(f"{output}_scale", scale.astype(np.float32).reshape(along))
    operand = graph.add_constant(f"{output}_shift", shift.astype(np.float32).reshape(along))
    graph.add_node("Mul", [value, factor], scaled, shape, name=f"{name}_scale", before=node)
    graph.add_node("Add", [scaled, operand], output, shape, name=name, before=node)
    graph.remove(node)
    return True


def _into_next(graph: Graph, node: NodeProto, scale: Array, shift: Array) -> bool:
    """Into the Gemm that alone reads it: (x * s + t) W + b = x (s W) + (t W + b)."""
    after = graph.sole_reader(node.output[0])
    if after is None or after.op_type != "Gemm" or after.input[0] != node.output[0] or attribute(after, "transA", 0):
        return False
    axis = affine.output_axis(graph, after)
    if axis is None or len(graph.shape(node.output[0])) != 2:
        return False
    weights = graph.constants[after.input[1]].astype(np.float64)
    inputs_first = weights if axis == 1 else weights.T
    scaled = inputs_first * scale[:, None]
    old = graph.constant(after, 2)
    bias = shift @ inputs_first + (0.0 if old is None else old.astype(np.float64).reshape(-1))
    scaled = (scaled if axis == 1 else scaled.T).astype(np.float32)
    graph.set_input(after, 1, graph.add_constant(f"{after.output[0]}_weights", scaled))
    graph.set_input(after, 2, graph.add_constant(f"{after.output[0]}_bias", bias.astype(np.float32)))
    graph.set_input(after, 0, node.input[0])
    graph.remove(node)
    return True
