"""Element types of which nnbuild makes no use become those of which it does, before anything is folded.

float16, bfloat16 and double become float32, so that casts between them say nothing and go; what a network computes is
quantized anyway. Weights of 4 bits, which only DequantizeLinear reads, become int8 or uint8 of the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from nnbuild.errors import Finding, ModelError
from nnbuild.onnxfile import element_type_name, graphs, tensors
from nnbuild.placeholder import is_unread
from nnbuild.qdq import place

_REAL: Mapping[int, int] = {
    TensorProto.FLOAT16: TensorProto.FLOAT,
    TensorProto.BFLOAT16: TensorProto.FLOAT,
    TensorProto.DOUBLE: TensorProto.FLOAT,
}
_NARROW: Mapping[int, int] = {TensorProto.INT4: TensorProto.INT8, TensorProto.UINT4: TensorProto.UINT8}
_TYPES = {**_REAL, **_NARROW}
_NUMPY: Mapping[int, Any] = {TensorProto.FLOAT: np.float32, TensorProto.INT8: np.int8, TensorProto.UINT8: np.uint8}

_NAMES_A_TYPE = frozenset(("to", "dtype", "output_dtype", "precision", "stash_type"))
"""Attributes whose number is an element type."""


def convert(model: onnx.ModelProto, file: str) -> None:
    """Rewrite `model`; ModelError with every constant that does not fit, and 4 bits that are more than weights."""
    findings = [
        Finding("quantizes to 4 bits", place(file, node), "only weights that are stored in 4 bits are read")
        for graph in graphs(model)
        for node in graph.node
        if node.op_type == "QuantizeLinear" and _zero_point_type(graph, node) in _NARROW
    ]
    findings += [finding for tensor in tensors(model) if (finding := _convert_tensor(tensor, file)) is not None]
    if findings:
        raise ModelError.of(findings)
    for graph in graphs(model):
        declared = [*graph.input, *graph.output] if isinstance(graph, onnx.GraphProto) else []
        for value in (*declared, *graph.value_info):
            kind = value.type.tensor_type
            kind.elem_type = _REAL.get(kind.elem_type, kind.elem_type)
        for node in graph.node:
            for entry in node.attribute:
                if entry.name in _NAMES_A_TYPE:
                    entry.i = _REAL.get(entry.i, entry.i)


def _zero_point_type(graph: onnx.GraphProto | onnx.FunctionProto, node: onnx.NodeProto) -> int:
    named = next((entry.i for entry in node.attribute if entry.name == "output_dtype"), 0)
    if len(node.input) < 3 or not isinstance(graph, onnx.GraphProto):
        return named
    return next((tensor.data_type for tensor in graph.initializer if tensor.name == node.input[2]), named)


def _convert_tensor(tensor: TensorProto, file: str) -> Finding | None:
    """Store the elements in their new type; what stands against it."""
    kind = _TYPES.get(tensor.data_type)
    if kind is None:
        return None
    if is_unread(tensor):
        tensor.data_type = kind
        return None
    before = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        after = before.astype(_NUMPY[kind])
    lost = np.isfinite(before.astype(np.float64)) & ~np.isfinite(after.astype(np.float64))
    if lost.any():
        worst = float(np.abs(np.where(lost, before, 0)).max())
        message = f"tensor '{tensor.name}' of {element_type_name(tensor.data_type)} holds {worst:.3g}, beyond float32"
        return Finding(message, file, "scale the model, or export it in float32")
    tensor.CopyFrom(numpy_helper.from_array(after, tensor.name))
    return None
