"""Constants of QDQ models: real values, stored as they are or behind a DequantizeLinear."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.network import Array
from nnbuild.passes.graph import Graph, attribute


def real(graph: Graph, node: NodeProto, index: int) -> Array | None:
    """Input `index` of `node` as float64; None where it is absent or computed from the network's inputs."""
    plain = graph.constant(node, index)
    if plain is not None:
        return plain.astype(np.float64)
    source = quantized(graph, node, index)
    if source is None:
        return None
    values, *parameters = (graph.constant(source, position) for position in range(len(source.input)))
    if values is None or any(each is None for each in parameters):
        return None
    axis = int(attribute(source, "axis", 1))
    channels = values.shape[axis] if -values.ndim <= axis < values.ndim else 1
    found = [each.astype(np.float64) for each in parameters if each is not None]
    if any(each.size not in (1, channels) for each in found):
        return None
    shape = [1] * values.ndim
    if any(each.size > 1 for each in found):
        shape[axis] = -1
    scale, *zero_point = (each.reshape(shape) for each in found)
    return (values - zero_point[0] if zero_point else values.astype(np.float64)) * scale


def quantized(graph: Graph, node: NodeProto, index: int) -> NodeProto | None:
    """The DequantizeLinear of a constant that is input `index` of `node`; None where that is something else."""
    source = graph.producer(node.input[index]) if index < len(node.input) else None
    is_constant = source is not None and source.op_type == "DequantizeLinear" and source.input[0] in graph.constants
    return source if is_constant else None
