"""A Clip of integers between QuantizeLinear and DequantizeLinear becomes the same Clip of real values.

Brevitas writes it for less than eight bits and for narrow ranges. round(x / scale) + zero point, clipped to low and
high, is what x clipped to scale * (low - zero point) and scale * (high - zero point) quantizes to; and a clamp of real
values is part of the layer in front of it.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto, TensorProto

from nnbuild.network import Array
from nnbuild.passes import clamp_form
from nnbuild.passes.graph import Graph

_LIMITS: dict[int, tuple[int, int]] = {TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255)}


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace one Clip of int8 or uint8 values whose scale is known from the node before or behind it."""
    limits = _LIMITS.get(graph.types.get(node.output[0], 0))
    found = clamp_form.bounds(graph, node) if node.op_type == "Clip" and limits is not None else None
    if limits is None or found is None:
        return False
    if found[0] <= limits[0] and found[1] >= limits[1]:
        return graph.bypass(node)
    before = graph.producer(node.input[0])
    source = before if before is not None and before.op_type == "QuantizeLinear" else _dequantizer(graph, node)
    parameters = _parameters(graph, source)
    if source is None or parameters is None:
        return False
    scale, zero_point = parameters
    real = [scale * (bound - zero_point) if math.isfinite(bound) else bound for bound in found]
    if source is before and graph.feeding(node, 0, "QuantizeLinear") and graph.producer(source.input[0]) is not None:
        graph.set_input(source, 0, _clip(graph, node, source.input[0], real, source))
        return graph.bypass(node)
    _around(graph, node, source, real)
    return True


def _dequantizer(graph: Graph, node: NodeProto) -> NodeProto | None:
    return next((reader for reader in graph.readers(node.output[0]) if reader.op_type == "DequantizeLinear"), None)


def _parameters(graph: Graph, node: NodeProto | None) -> tuple[float, int] | None:
    """Scale and zero point of a node that has one of each, both constant."""
    if node is None:
        return None
    arrays = [graph.constant(node, 1), graph.constant(node, 2) if len(node.input) > 2 else np.zeros(1, np.uint8)]
    if any(array is None or array.size != 1 for array in arrays):
        return None
    scale, zero_point = (array.ravel()[0] for array in arrays if array is not None)
    return float(scale), int(zero_point)


def _clip(graph: Graph, node: NodeProto, value: str, real: list[float], before: NodeProto) -> str:
    """A Clip of the real `value` in front of `before`; returns what it writes."""
    result, shape = graph.unique(f"{node.output[0]}_real"), graph.shape(node.output[0])
    low, high = (_float32(bound) for bound in real)
    bounds = [graph.add_constant(f"{result}_min", low), graph.add_constant(f"{result}_max", high)]
    graph.add_node("Clip", [value, *bounds], result, shape, name=node.name or result, before=before)
    return result


def _float32(bound: float) -> Array:
    largest = float(np.finfo(np.float32).max)
    return np.asarray(min(max(bound, -largest), largest), np.float32)


def _around(graph: Graph, node: NodeProto, source: NodeProto, real: list[float]) -> None:
    """DequantizeLinear, Clip, QuantizeLinear in place of `node`: an input has its scale from its first node."""
    output, name = node.output[0], node.name or node.output[0]
    shape, element, parameters = graph.shape(output), graph.types[output], list(source.input[1:])
    value, target = graph.unique(f"{output}_dequantized"), graph.unique(f"{output}_quantized")
    stored = [node.input[0], *parameters]
    graph.add_node("DequantizeLinear", stored, value, shape, name=f"{name}_dequantize", before=node)
    inputs = [_clip(graph, node, value, real, node), *parameters]
    graph.add_node("QuantizeLinear", inputs, target, shape, name=f"{name}_quantize", before=node, element=element)
    graph.set_input(node, 0, target)
    graph.drop_inputs(node, 1)
    node.op_type = "Identity"
