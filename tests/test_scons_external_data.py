"""The files that a model keeps its tensors in, found without onnx."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbuild.scons.external_data import external_data


def tensor(location: str) -> onnx.TensorProto:
    made = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(made, location)
    made.ClearField("raw_data")
    return made


def everywhere() -> bytes:
    """External tensors as initializer, attribute, in a sub-graph, in a function; and words that only look like one."""
    inner = onnx.helper.make_graph([], "inner", [], [], [tensor("inner.bin")])
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], value=tensor("constant.bin"), name="location"),
        onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
    ]
    graph = onnx.helper.make_graph(nodes, "location", [], [], [tensor("sub/initializer data.bin")])
    model = onnx.helper.make_model(graph, doc_string="location: none.bin")
    body = [onnx.helper.make_node("Constant", [], ["o"], value=tensor("function.bin"))]
    model.functions.append(onnx.helper.make_function("d", "f", [], ["o"], body, [onnx.helper.make_opsetid("", 13)]))
    return bytes(model.SerializeToString())


def test_finds_tensors_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(everywhere())
    expected = ["constant.bin", "function.bin", "inner.bin", "sub/initializer data.bin"]
    assert external_data(str(path)) == expected


@pytest.mark.parametrize("location", ["../up.bin", "/etc/passwd", "a/../../b", "", "nul\0.bin", "..\\up.bin"])
def test_names_that_leave_the_folder_are_left_out(tmp_path: Path, location: str) -> None:
    path = tmp_path / "m.onnx"
    graph = onnx.helper.make_graph([], "g", [], [], [tensor(location), tensor("good.bin")])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    assert external_data(str(path)) == ["good.bin"]


def test_no_model_is_no_error(tmp_path: Path) -> None:
    assert external_data(str(tmp_path / "none.onnx")) == []
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert external_data(str(tmp_path / "empty.onnx")) == []
    assert external_data(str(tmp_path)) == []


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_models_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(everywhere())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    assert all(isinstance(name, str) for name in external_data(str(path)))
