"""QuantizeLinear and DequantizeLinear of the domain com.microsoft are those of ONNX.

onnxruntime's quantizer writes them with `UseQDQContribOps`, and where the model's opset lacks an element type.
"""

from __future__ import annotations

import onnx

_KINDS = frozenset(("QuantizeLinear", "DequantizeLinear"))


def rename(model: onnx.ModelProto) -> None:
    """Put them into the default domain, in place."""
    for node in model.graph.node:
        if node.domain == "com.microsoft" and node.op_type in _KINDS:
            node.domain = ""
