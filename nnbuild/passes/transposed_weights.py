"""A Transpose behind the DequantizeLinear of a constant: integers are transposed, and the axis of their scales moves.

PyTorch's exporter writes it in front of the MatMul of a linear layer whose input has more than two axes.
"""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes import dequantized
from nnbuild.passes.graph import Graph, attribute, drop_attribute, set_attribute
from nnbuild.placeholder import packed


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Make one such Transpose the DequantizeLinear of transposed integers."""
    source = dequantized.quantized(graph, node, 0) if node.op_type == "Transpose" else None
    if source is None:
        return False
    values, scale = graph.constants[source.input[0]], graph.constant(source, 1)
    order = attribute(node, "perm", list(range(values.ndim))[::-1])
    axis = attribute(source, "axis", 1)
    if scale is None or (scale.size > 1 and not -values.ndim <= axis < values.ndim):
        return False
    turned = graph.add_constant(f"{source.input[0]}_transposed", packed(values.transpose(order)))
    node.op_type = "DequantizeLinear"
    for index, name in enumerate((turned, *source.input[1:])):
        graph.set_input(node, index, name)
    drop_attribute(node, "perm")
    if scale.size > 1:
        set_attribute(node, "axis", order.index(axis % values.ndim))
    return True
