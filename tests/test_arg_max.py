"""Indices as an output of the network: int32, exact, and nothing computes with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnbuild import interpret, pipeline, samples
from nnbuild.accuracy import measure
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ModelError
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.placement import Placement

from . import host

CLASSES = 6


def classifier(path: Path, behind: list[onnx.NodeProto], outputs: Mapping[str, tuple[int, tuple[int, ...]]]) -> Path:
    """Gemm and Relu into `scores`, and what comes behind."""
    rng = np.random.default_rng(3)
    constants = [numpy_helper.from_array(rng.normal(0, 1, (CLASSES, 9)).astype(np.float32), "w")]
    nodes = [helper.make_node("Gemm", ["x", "w"], ["scores"], name="gemm", transB=1), *behind]
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 9))]
    graph = helper.make_graph(nodes, "g", given, infos, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def arg_max(keepdims: int = 0, output: str = "y") -> onnx.NodeProto:
    return helper.make_node("ArgMax", ["scores"], [output], name="arg_max", axis=1, keepdims=keepdims)


def quantized(model: Path, folder: Path) -> onnx.ModelProto:
    x = np.random.default_rng(5).normal(0, 1, (200, 9)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    return onnx.load_model_from_string(pipeline.quantized(pipeline.Request(str(model), str(folder / "x.npz"))).content)


def test_the_class_is_an_output(tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx", [arg_max()], {"y": (TensorProto.INT64, (1,))})
    int8 = quantized(model, tmp_path)
    assert int8.graph.output[0].type.tensor_type.elem_type == TensorProto.INT64
    network = lower(int8)
    header = emit(network, EmitOptions("m"))["m.h"]
    assert "int m_run(const int8_t *input, int32_t *output);" in header
    assert "M_OUTPUT_SCALE" not in header
    assert "m_argmax" not in header
    library = host.shared_library(tmp_path, emit(network, EmitOptions("m", selftest=2)))
    assert library.m_selftest() == 0
    for seed in range(20):
        values = np.random.default_rng(seed).integers(-128, 128, 9).astype(np.int8)
        (expected,) = interpret.run(network, [values])
        (found,) = host.call(library, "m_run", [values], [4])
        assert found.view(np.int32)[0] == expected.ravel()[0]


def test_scores_and_class_are_outputs_together(tmp_path: Path) -> None:
    outputs = {"scores": (TensorProto.FLOAT, (1, CLASSES)), "y": (TensorProto.INT64, (1, 1))}
    network = lower(quantized(classifier(tmp_path / "m.onnx", [arg_max(1)], outputs), tmp_path))
    for seed in range(50):
        values = np.random.default_rng(seed).integers(-128, 128, 9).astype(np.int8)
        scores, index = interpret.run(network, [values])
        assert index.ravel()[0] == scores.ravel().argmax()


def test_a_cast_to_int32_is_a_view(tmp_path: Path) -> None:
    behind = [arg_max(0, "a"), helper.make_node("Cast", ["a"], ["y"], name="cast", to=TensorProto.INT32)]
    network = lower(quantized(classifier(tmp_path / "m.onnx", behind, {"y": (TensorProto.INT32, (1,))}), tmp_path))
    assert [layer.op for layer in network.layers] == ["fully_connected", "arg_max"]


@pytest.mark.parametrize(
    ("behind", "kind", "message"),
    [
        (helper.make_node("Cast", ["a"], ["y"], name="cast", to=TensorProto.FLOAT), TensorProto.FLOAT, "no float"),
        (helper.make_node("Mul", ["a", "a"], ["y"], name="mul"), TensorProto.INT64, "int64|indices"),
    ],
)
def test_nothing_computes_with_indices(behind: onnx.NodeProto, kind: int, message: str, tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx", [arg_max(0, "a"), behind], {"y": (kind, (1,))})
    with pytest.raises(ModelError, match=message):
        lower(quantized(model, tmp_path))


def test_accuracy_compares_decisions(tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx", [arg_max()], {"y": (TensorProto.INT64, (1,))})
    int8 = quantized(model, tmp_path)
    found = measure(import_model(model), int8, samples.load(str(tmp_path / "x.npz"), {"x": (1, 9)}))
    assert found.agreement is not None
    assert 95 <= found.agreement <= 100
    assert 25 < found.sqnr_db < 60, "of the scores that the indices are of"


def test_an_index_in_the_arena_is_aligned(tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx", [arg_max()], {"y": (TensorProto.INT64, (1,))})
    files = emit(lower(quantized(model, tmp_path)), EmitOptions("m", selftest=2, placement=Placement(io="arena")))
    assert "const int32_t *m_output(void);" in files["m.h"]
    library = host.shared_library(tmp_path, files)
    assert library.m_selftest() == 0
