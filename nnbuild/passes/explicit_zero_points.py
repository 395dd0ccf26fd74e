"""QuantizeLinear and DequantizeLinear say their zero point, of the type that they write or read.

Where it is left out it is 0 of `output_dtype`, of the stored integers' type, or of uint8: no later stage has to ask.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper

from nnbuild.passes.graph import Graph, drop_attribute

_KINDS = {"QuantizeLinear": True, "DequantizeLinear": False}


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Add a zero point that is left out; `output_dtype` says nothing more then."""
    writes = _KINDS.get(node.op_type)
    scale = graph.constant(node, 1)
    if writes is None or scale is None or (len(node.input) > 2 and node.input[2]):
        return False
    kind = graph.types.get(node.output[0] if writes else node.input[0], TensorProto.UINT8)
    zeros = np.zeros(scale.shape, helper.tensor_dtype_to_np_dtype(kind))
    graph.set_input(node, 2, graph.add_constant(f"{node.output[0]}_zero_point", zeros))
    drop_attribute(node, "output_dtype")
    return True
