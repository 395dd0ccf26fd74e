"""Add, Sub, Mul or Div with a constant per channel behind Conv, Gemm or MatMul goes into weights and bias."""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes import affine
from nnbuild.passes.graph import Graph


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Fold `node` into the linear node that alone feeds it."""
    form = affine.of_node(graph, node)
    if form is None:
        return False
    before = graph.feeding(node, list(node.input).index(form.value), *affine.LINEAR)
    if before is None:
        return False
    axis, size = affine.channels_of(graph, form.value, before)
    rank = len(graph.shape(form.value))
    scale, shift = affine.along(form.scale, size, rank, axis), affine.along(form.shift, size, rank, axis)
    if scale is None or shift is None or not affine.scale_outputs(graph, before, scale, shift):
        return False
    graph.absorb(before, node)
    return True
