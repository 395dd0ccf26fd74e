"""Remarks in the metadata of a model."""

from __future__ import annotations

import onnx

from nnbuild.remarks import Remark, note, remarked, remarks


def test_a_remark_is_noted_once() -> None:
    model = onnx.ModelProto()
    model.metadata_props.add(key="author", value="somebody")
    model.metadata_props.add(key="nnbuild.calibration", value="of another kind")
    assert remarks(model) == []
    for _ in range(2):
        note(model, Remark.SYNTHETIC)
    assert remarks(model) == [Remark.SYNTHETIC.value]
    assert remarked(model, Remark.SYNTHETIC)
    assert not remarked(model, Remark.KEEPS_STATES)
    assert [entry.key for entry in model.metadata_props] == ["author", "nnbuild.calibration"]
