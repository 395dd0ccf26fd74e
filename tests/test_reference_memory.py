"""RAM of the reference networks on a Cortex-M0: no plan needs more than these bytes; docs/MEMORY.md has the figures."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nnbuild.emit import EmitOptions, emit
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.optimize import Aim
from nnbuild.pipeline import Request
from nnbuild.pipeline import quantized as quantize
from nnbuild.placement import Placement
from nnbuild.target import TARGETS

from . import reference

FOLDER = reference.FOLDER
# Bytes with input and output in the arena.
IN_PLACE = {"kws01": 9_000, "ic01": 36_000, "ad01": 800, "vww96": 55_400, "sww": 4_900}
ROWS = {"kws01": 5_000, "ic01": 15_600, "vww96": 29_000}
PUSHED = {"kws01": 4_600, "ic01": 12_500, "vww96": 18_500}


@functools.cache
def network(name: str) -> onnx.ModelProto:
    """int8, quantized in the fastest way: bytes of RAM do not depend on how well it is done."""
    path = FOLDER / "models" / "tf2onnx" / f"{name}_tf.onnx"
    value = import_model(path).graph.input[0]
    data = reference.data(FOLDER, path, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/x.npz", x=data.calibration)
        request = Request(str(path), f"{folder}/x.npz", method="minmax", corrections="none")
        return onnx.load_model_from_string(quantize(request).content)


def planned(name: str, limit: int | None = None, push: bool = False) -> dict[str, Any]:
    """The report of C for a Cortex-M0."""
    aim, placement = Aim(ram=limit), Placement(io="arena")
    options = EmitOptions("m", TARGETS["cortex-m0"], aim=aim, placement=placement, push_rows=push)
    report: dict[str, Any] = json.loads(emit(lower(network(name), name), options)["m.report.json"])
    return report


@pytest.mark.parametrize(("name", "limit"), IN_PLACE.items())
def test_in_place(reference_dir: Path, name: str, limit: int) -> None:
    report = planned(name)
    assert report["arena_bytes"] <= limit
    assert report["arena_bytes"] == report["arena_bound_bytes"]
    assert report["segments"] == []


@pytest.mark.parametrize(
    ("name", "limit", "push"), [(n, m, push) for push in (False, True) for n, m in (ROWS, PUSHED)[push].items()]
)
def test_rows(reference_dir: Path, name: str, limit: int, push: bool) -> None:
    """Within the limit, and at most 10 % above the fastest plan in cycles."""
    whole, report = planned(name), planned(name, limit, push)
    assert report["arena_bytes"] <= limit
    assert [own["pushed"] for own in report["segments"][:1]] == [push]
    assert cycles(report) <= 1.1 * cycles(whole)


def cycles(report: dict[str, Any]) -> int:
    """Of one inference, estimated."""
    return int(report["cost"]["run"]["cycles"]) + sum(int(layer["cost"]["cycles"]) for layer in report["layers"])
