"""A multiplication by a constant per channel that nothing else could take becomes a depthwise 1x1 Conv."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.network import Array
from nnbuild.passes import affine
from nnbuild.passes.graph import Graph


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Mul, Div, Sub by a constant (an Add stays: it is an operator of its own)."""
    form = affine.of_node(graph, node) if node.op_type != "Add" else None
    if form is None or graph.feeding(node, list(node.input).index(form.value), *affine.LINEAR) is not None:
        return False  # what stands behind a linear operator is for its weights
    shape = graph.shape(form.value)
    if len(shape) < 2 or shape[0] != 1:
        return False
    scale, shift = (affine.along(part, shape[1], len(shape), 1) for part in (form.scale, form.shift))
    if scale is None or shift is None:
        return False
    return to_depthwise(graph, node, form.value, scale, shift)


def to_depthwise(graph: Graph, node: NodeProto, value: str, scale: Array, shift: Array) -> bool:
    """Replace `node` by a depthwise Conv of `value`, whose axis 1 has the channels of `scale` and `shift`."""
    shape = graph.shape(value)
    if not 2 <= len(shape) <= 4:
        return False
    channels, spatial = shape[1], max(len(shape) - 2, 1)
    full = shape if len(shape) > 2 else (*shape, 1)
    name, output = node.name or node.output[0], node.output[0]
    weights = scale.astype(np.float32).reshape(channels, 1, *([1] * spatial))
    constants = [
        graph.add_constant(f"{output}_weights", weights),
        graph.add_constant(f"{output}_bias", shift.astype(np.float32)),
    ]
    source = value
    if full != shape:
        source = _reshape(graph, node, value, full, f"{name}_in")
    target = output if full == shape else graph.unique(f"{output}_conv")
    graph.add_node("Conv", [source, *constants], target, full, name=name, before=node, group=channels)
    if full != shape:
        dims = graph.add_constant(f"{output}_shape", np.asarray(shape, np.int64))
        graph.add_node("Reshape", [target, dims], output, shape, name=f"{name}_out", before=node)
    graph.remove(node)
    return True


def _reshape(graph: Graph, node: NodeProto, value: str, shape: tuple[int, ...], name: str) -> str:
    result = graph.unique(f"{value}_reshaped")
    dims = graph.add_constant(f"{result}_shape", np.asarray(shape, np.int64))
    graph.add_node("Reshape", [value, dims], result, shape, name=name, before=node)
    return result
