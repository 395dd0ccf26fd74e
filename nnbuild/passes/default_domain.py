"""Nodes of the default domain that a file names otherwise: `ai.onnx` is its long name, and onnxruntime's own domain has
QuantizeLinear and DequantizeLinear that are those of ONNX (`UseQDQContribOps`, and where the opset lacks a type).
"""

from __future__ import annotations

import onnx

from nnbuild.onnxfile import graphs

_MICROSOFT = frozenset(("QuantizeLinear", "DequantizeLinear"))


def rename(model: onnx.ModelProto) -> None:
    """Give them the domain's short name, in place."""
    for graph in graphs(model):
        for node in graph.node:
            if node.domain == "ai.onnx" or (node.domain == "com.microsoft" and node.op_type in _MICROSOFT):
                node.domain = ""
