"""Attention masks: the forms that exporters write become Where with a constant condition and a finite fill.

Where(mask, x, -inf); x + mask with 0 and -inf, -3.4e38 or -10000. As an operand of Add such a number would leave no
step of int8 for x; as the fill of Where it saturates (see `Masked` in `nnbuild.contract`).
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.network import Array
from nnbuild.passes.graph import Graph
from nnbuild.placeholder import is_placeholder
from nnbuild.qdq import VIEWS

INFINITE = 1e9
"""In place of infinity: a number that calibration can count, and that `accuracy` takes for one that may saturate."""

_SWALLOWS = 1e30  # what is added to such a number is lost, for any value that int8 serves
_MASKED = 1e4  # in front of softmax this is as good: e^-10000 is 0


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Rewrite one Add or Where; a Where whose condition is the same everywhere goes. A Pad has a finite fill, too."""
    if node.op_type == "Add":
        return _added(graph, node)
    if node.op_type == "Pad":
        return _finite(graph, node, INFINITE, (2,))
    if node.op_type != "Where":
        return False
    masked = _MASKED if in_front_of_softmax(graph, node.output[0]) else INFINITE
    return _finite(graph, node, masked, (1, 2)) or _uniform(graph, node)


def in_front_of_softmax(graph: Graph, value: str) -> bool:
    """Whether a Softmax alone reads `value`, looking through views."""
    reader = graph.sole_reader(value)
    while reader is not None and reader.op_type in VIEWS:
        reader = graph.sole_reader(reader.output[0])
    return reader is not None and reader.op_type == "Softmax"


def _added(graph: Graph, node: NodeProto) -> bool:
    index = next((index for index in (0, 1) if graph.constant(node, index) is not None), None)
    if index is None:
        return False
    mask = graph.constants[node.input[index]]
    limit = _MASKED if in_front_of_softmax(graph, node.output[0]) else _SWALLOWS
    masked = mask <= -limit
    if not masked.any():
        return False
    value, output = node.input[1 - index], node.output[0]
    rest = np.where(masked, np.float32(0), mask)
    if rest.any():
        partial = graph.unique(f"{output}_unmasked")
        operand = graph.add_constant(f"{output}_bias", rest)
        graph.add_node(
            "Add", [value, operand], partial, graph.shape(output), name=f"{node.name or output}_add", before=node
        )
        value = partial
    fill = np.array(-INFINITE, np.float32)
    inputs = [graph.add_constant(f"{output}_mask", ~masked), value, graph.add_constant(f"{output}_fill", fill)]
    graph.add_node("Where", inputs, output, graph.shape(output), name=node.name or output, before=node)
    graph.remove(node)
    return True


def _finite(graph: Graph, node: NodeProto, masked: float, indexes: tuple[int, ...]) -> bool:
    """Constants that stand for infinity, for less from -`masked` on, are +-INFINITE."""
    changed = False
    for index in indexes:
        fill = graph.constant(node, index)
        if fill is None or fill.dtype != np.float32:
            continue
        limited: Array = np.where(fill <= -masked, np.float32(-INFINITE), np.minimum(fill, np.float32(INFINITE)))
        if (limited != fill).any() and not np.isnan(fill).any():
            graph.set_input(node, index, graph.add_constant(f"{node.output[0]}_fill", limited))
            changed = True
    return changed


def _uniform(graph: Graph, node: NodeProto) -> bool:
    condition = graph.constant(node, 0)
    if condition is None or is_placeholder(condition) or condition.all() != condition.any():
        return False
    value = node.input[1 if condition.all() else 2]
    if graph.shape(value) != graph.shape(node.output[0]):
        return False
    node.op_type = "Identity"
    graph.drop_inputs(node, 0)
    graph.set_input(node, 0, value)
    return True
