"""GlobalMaxPool is a MaxPool with a window as large as the image."""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes.graph import Graph, set_attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace one GlobalMaxPool."""
    if node.op_type != "GlobalMaxPool":
        return False
    node.op_type = "MaxPool"
    set_attribute(node, "kernel_shape", list(graph.shape(node.input[0])[2:]))
    return True
