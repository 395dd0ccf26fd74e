"""Several nodes that together are one function of one value: SiLU, HardSwish, Mish, PRelu with one slope.

Such a function is one table of 256 bytes; its parts would each need their own range, and a product of two values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from onnx import NodeProto, defs

from nnbuild.passes import affine
from nnbuild.passes.clamp_form import bounds
from nnbuild.passes.graph import Graph, attribute

SWISH_OPSET = 24


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace the last node of such a group by the one operator; the others die."""
    if node.op_type == "PRelu":
        return _leaky_relu(graph, node)
    found = _six_times(graph, node) if node.op_type in ("Mul", "Div") else None
    if found is not None:
        return _replace(graph, node, "HardSwish", found)
    for value, gate in _products(graph, node):
        kind = _gated(graph, value, gate)
        if kind is not None:
            return _replace(graph, node, kind, value)
    return False


def _products(graph: Graph, node: NodeProto) -> Iterator[tuple[str, NodeProto]]:
    """(x, the node that writes g) for each way to read `node` as x * g, where only `node` reads g."""
    if node.op_type != "Mul" or len(node.input) != 2:
        return
    for index in (0, 1):
        gate = graph.producer(node.input[index])
        if gate is not None and graph.sole_reader(node.input[index]) is node:
            yield node.input[1 - index], gate


def _gated(graph: Graph, value: str, gate: NodeProto) -> str | None:
    """The function x * gate(x), where there is an operator for it."""
    if gate.op_type == "Sigmoid" and gate.input[0] == value and _has_swish():
        return "Swish"
    if gate.op_type == "HardSigmoid" and gate.input[0] == value:
        slope, offset = attribute(gate, "alpha", 0.2), attribute(gate, "beta", 0.5)
        return "HardSwish" if math.isclose(slope, 1 / 6, rel_tol=1e-5) and offset == 0.5 else None
    if gate.op_type == "Tanh":
        inner = graph.feeding(gate, 0, "Softplus")
        return "Mish" if inner is not None and inner.input[0] == value else None
    inner = _divided_by_six(graph, gate)
    return "HardSwish" if inner is not None and _is_relu6_of(graph, inner, value) else None


def _six_times(graph: Graph, node: NodeProto) -> str | None:
    """x where `node` is x * relu6(x + 3) / 6 with the division last."""
    product = _divided_by_six(graph, node)
    for value, gate in _products(graph, product) if product is not None else ():
        if _is_relu6_of(graph, gate, value):
            return value
    return None


def _divided_by_six(graph: Graph, node: NodeProto) -> NodeProto | None:
    """The node whose output, read by `node` alone, `node` divides by 6."""
    form = affine.of_node(graph, node)
    if form is None or form.scale.size != 1 or form.shift.any():
        return None
    inner = graph.producer(form.value)
    exact = math.isclose(float(form.scale.reshape(())), 1 / 6, rel_tol=1e-5)
    return inner if inner is not None and exact and graph.sole_reader(form.value) is node else None


def _is_relu6_of(graph: Graph, clamp: NodeProto, value: str) -> bool:
    """Whether `clamp` is Clip(value + 3, 0, 6)."""
    if clamp.op_type != "Clip" or bounds(graph, clamp) != (0.0, 6.0):
        return False
    inner = graph.feeding(clamp, 0, "Add")
    form = affine.of_node(graph, inner) if inner is not None else None
    return form is not None and form.value == value and form.shift.size == 1 and float(form.shift.reshape(())) == 3.0


def _has_swish() -> bool:
    try:
        return bool(defs.get_schema("Swish", SWISH_OPSET, "").since_version <= SWISH_OPSET)
    except Exception:  # onnx.defs.SchemaError, which some versions do not export
        return False


def _leaky_relu(graph: Graph, node: NodeProto) -> bool:
    slope = graph.constant(node, 1)
    if slope is None or slope.size != 1:
        return False
    _replace(graph, node, "LeakyRelu", node.input[0], alpha=float(slope.reshape(())))
    return True


def _replace(graph: Graph, node: NodeProto, kind: str, value: str, **attributes: Any) -> bool:
    output = node.output[0]
    graph.add_node(kind, [value], output, graph.shape(output), name=node.name or output, before=node, **attributes)
    graph.remove(node)
    return True
