"""Small ONNX models for tests, and running them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from nnbuild.importer import import_model
from nnbuild.network import Array

Shape = Sequence[int | str]


def weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """Values are words of `inputs` and `outputs`; `-` is an input that is left out."""
    names = ["" if word == "-" else word for word in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), **attributes)


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    element: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, element, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 20 else 10)


def save(folder: Path, proto: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    return [np.asarray(result) for result in session(proto).run(None, dict(feeds))]


def feeds_for(proto: onnx.ModelProto, seed: int = 1, spread: float = 3.0) -> dict[str, Array]:
    """Random input; `proto` is imported, so its shapes are static."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for value in proto.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            found[value.name] = rng.normal(0, spread, shape).astype(np.float32)
        else:
            limits = np.iinfo(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
            found[value.name] = rng.integers(limits.min, limits.max + 1, shape).astype(limits.dtype)
    return found


def imported(folder: Path, proto: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Import `proto`, and check that it computes what it computed."""
    result = import_model(save(folder, proto), **options)
    for seed in (1, 2, 3):
        feeds = feeds_for(result, seed)
        for before, after in zip(run(proto, feeds), run(result, feeds), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    return result


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [entry.op_type for entry in proto.graph.node]


def constant(proto: onnx.ModelProto, name: str) -> Array:
    return next(numpy_helper.to_array(entry) for entry in proto.graph.initializer if entry.name == name)
