"""A BatchNormalization of quantized values that no layer takes becomes a depthwise Conv, exactly.

The weight of a channel is 127 or -127, its scale the channel's factor divided by 127, the bias its shift.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes import batchnorm
from nnbuild.passes.graph import Graph

_MOST = 127


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace one BatchNormalization behind a DequantizeLinear, of values with one or two spatial axes."""
    found = batchnorm.of_node(graph, node)
    before = graph.producer(found.value) if found is not None else None
    if found is None or before is None or before.op_type != "DequantizeLinear":
        return False
    shape, output = graph.shape(found.value), node.output[0]
    if len(shape) not in (3, 4) or found.scale.shape != (shape[1],):
        return False
    factors = np.abs(found.scale)
    scale = (np.where(factors == 0, factors.max() or 1.0, factors) / _MOST).astype(np.float32)
    if not (scale > 0).all() or not np.isfinite(found.shift.astype(np.float32)).all():
        return False
    kernel = [1] * (len(shape) - 2)
    weights = (np.sign(found.scale) * _MOST).astype(np.int8).reshape(-1, 1, *kernel)
    names = [
        graph.add_constant(f"{output}_weights", weights),
        graph.add_constant(f"{output}_weights_scale", scale),
        graph.add_constant(f"{output}_weights_zero_point", np.zeros(scale.size, np.int8)),
    ]
    value, bias = graph.unique(f"{output}_weights_dequantized"), f"{output}_bias"
    graph.add_node("DequantizeLinear", names, value, weights.shape, name=f"{output}_weights", before=node, axis=0)
    inputs = [found.value, value, graph.add_constant(bias, found.shift.astype(np.float32))]
    result = graph.unique(f"{output}_normalized")
    name = node.name or output
    graph.add_node("Conv", inputs, result, shape, name=name, before=node, group=shape[1], kernel_shape=kernel)
    graph.drop_inputs(node, 1)
    graph.set_input(node, 0, result)
    node.op_type = "Identity"
    del node.attribute[:]
    return True
