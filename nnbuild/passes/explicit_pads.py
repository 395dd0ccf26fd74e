"""`auto_pad` of convolutions and pools becomes `pads`, from the static shapes."""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute, drop_attribute, set_attribute

_OPERATORS = frozenset(("Conv", "MaxPool", "AveragePool"))


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace `auto_pad`; source: ONNX operators, Conv."""
    mode = attribute(node, "auto_pad", b"")
    if node.op_type not in _OPERATORS or not mode:
        return False
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        set_attribute(node, "pads", _same(graph, node, upper=mode == b"SAME_UPPER"))
    drop_attribute(node, "auto_pad")
    return True


def _same(graph: Graph, node: NodeProto, *, upper: bool) -> list[int]:
    """Pads that make the output ceil(input / stride); an odd one goes behind (`upper`) or in front."""
    sizes = graph.shape(node.input[0])[2:]
    ones = [1] * len(sizes)
    kernel = attribute(node, "kernel_shape", []) or list(graph.shape(node.input[1])[2:])
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    before, after = [], []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (extent - 1) * dilation + 1 - size, 0)
        before.append(total // 2 if upper else total - total // 2)
        after.append(total - before[-1])
    return before + after
