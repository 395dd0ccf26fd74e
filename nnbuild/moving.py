"""Operators that move elements about and compute nothing, run on the numbers of elements instead of their values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from nnbuild.network import Array

MOVING = frozenset(
    ("Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
)


def numbered(shape: tuple[int, ...], first: int = 0) -> Array:
    """The numbers of the elements of a value, int64: `first`, `first` + 1, ..."""
    return first + np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)


def moved(node: NodeProto, inputs: Mapping[str, Array], opset: int) -> dict[str, Array]:
    """What a node of MOVING makes of `inputs`, numbers and its constants by name; its outputs by name."""
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in node.output]
    graph = helper.make_graph([node], "moved", infos, outputs)
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
    return dict(zip(node.output, evaluator.run(None, {k: np.asarray(v) for k, v in inputs.items()}), strict=True))
