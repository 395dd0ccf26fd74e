"""ConvTranspose with a stride of 1 becomes a Conv with its kernel turned around: Conv has the faster kernels.

In both, dilation and groups mean the same; the pads are what they leave of the window's reach.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace a ConvTranspose with constant float weights and explicit pads that cut no more than the reach."""
    weights = graph.constant(node, 1)
    if node.op_type != "ConvTranspose" or weights is None or weights.dtype != np.float32 or not _plain(node):
        return False
    kernel = weights.shape[2:]
    ones, zeros = [1] * len(kernel), [0] * len(kernel)
    dilations, groups = attribute(node, "dilations", ones), attribute(node, "group", 1)
    pads, extra = attribute(node, "pads", zeros * 2), attribute(node, "output_padding", zeros)
    reach = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
    before = [most - pad for most, pad in zip(reach, pads, strict=False)]
    after = [most - pad + more for most, pad, more in zip(reach, pads[len(kernel) :], extra, strict=True)]
    if min(*before, *after) < 0 or weights.shape[0] % groups:
        return False
    grouped = weights.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])
    turned = np.flip(grouped.swapaxes(1, 2), tuple(range(3, grouped.ndim)))
    oihw = turned.reshape(groups * weights.shape[1], -1, *kernel)
    output = node.output[0]
    inputs = [node.input[0], graph.add_constant(f"{output}_weights", oihw), *node.input[2:]]
    graph.add_node(
        "Conv", inputs, output, graph.shape(output), name=node.name or output, before=node,
        dilations=dilations, group=groups, pads=[*before, *after],
    )  # fmt: skip
    graph.remove(node)
    return True


def _plain(node: NodeProto) -> bool:
    """Whether stride is 1 and the output as large as pads say."""
    strides = attribute(node, "strides", [1])
    automatic = attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    return all(stride == 1 for stride in strides) and not automatic and not attribute(node, "output_shape", [])
