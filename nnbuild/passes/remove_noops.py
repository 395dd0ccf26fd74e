"""Nodes that hand their input on: Identity, Dropout, a Cast, Reshape, Transpose or Pad that changes nothing.

Where such a node has to stay, because the model's input is its output, it is an Identity.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Let the readers of a node that does nothing read its input; True if anything changed."""
    does_nothing = _RULES.get(node.op_type)
    if does_nothing is None or not does_nothing(graph, node):
        return False
    if node.input[0] in graph.constants and node.output[0] in graph.outputs:
        return False
    if graph.bypass(node):
        return True
    if node.op_type == "Identity":
        return False
    node.op_type = "Identity"
    graph.drop_inputs(node, 1)
    del node.attribute[:]
    return True


def _always(graph: Graph, node: NodeProto) -> bool:
    return True


def _dropout(graph: Graph, node: NodeProto) -> bool:
    if len(node.input) < 3 or not node.input[2]:
        return True
    training = graph.constant(node, 2)
    return training is not None and not training.any()


def _same_type(graph: Graph, node: NodeProto) -> bool:
    return bool(graph.types.get(node.input[0]) == attribute(node, "to", 0))


def _same_shape(graph: Graph, node: NodeProto) -> bool:
    return graph.shapes.get(node.input[0]) == graph.shapes.get(node.output[0], ())


def _whole(graph: Graph, node: NodeProto) -> bool:
    """A slice as large as its input, and not turned around."""
    steps = graph.constant(node, 4)
    forward = len(node.input) < 5 or (steps is not None and bool((steps > 0).all()))
    return forward and _same_shape(graph, node)


def _transpose(graph: Graph, node: NodeProto) -> bool:
    rank = len(graph.shape(node.input[0]))
    return bool(attribute(node, "perm", list(range(rank))[::-1]) == list(range(rank)))


def _pad(graph: Graph, node: NodeProto) -> bool:
    pads = graph.constant(node, 1)
    return pads is not None and not np.any(pads)


def _single(graph: Graph, node: NodeProto) -> bool:
    return len(node.input) == 1


def _no_axes(graph: Graph, node: NodeProto) -> bool:
    axes = graph.constant(node, 1)
    absent = len(node.input) < 2 or not node.input[1] or (axes is not None and not axes.size)
    return absent and bool(attribute(node, "noop_with_empty_axes", 0)) and not attribute(node, "axes", [])


def _window_of_one(graph: Graph, node: NodeProto) -> bool:
    ones = [*attribute(node, "kernel_shape", []), *attribute(node, "strides", [])]
    return _same_shape(graph, node) and all(value == 1 for value in ones) and not any(attribute(node, "pads", []))


_RULES: dict[str, Callable[[Graph, NodeProto], bool]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _same_type,
    "Reshape": _same_shape,
    "Flatten": _same_shape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Expand": _same_shape,
    "Tile": _same_shape,
    "Slice": _whole,
    "Transpose": _transpose,
    "Pad": _pad,
    "Concat": _single,
    "Sum": _single,
    "Min": _single,
    "Max": _single,
    "Mean": _single,
    "ReduceMax": _no_axes,
    "ReduceMean": _no_axes,
    "ReduceMin": _no_axes,
    "ReduceSum": _no_axes,
    "MaxPool": _window_of_one,
    "AveragePool": _window_of_one,
}
