"""`<name>.report.json`: the arena map is the memory plan, with every buffer of the network and its life."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnbuild.emit import EmitOptions, emit
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import Network
from nnbuild.placement import Placement
from nnbuild.target import TARGETS
from tests import reports


@pytest.fixture(scope="module")
def network(reference_dir: Path) -> Network:
    return lower(import_model(reference_dir / "models" / "int8" / "ic01_int8.onnx"), "ic")


def emitted(network: Network, **options: Any) -> dict[str, Any]:
    found = json.loads(emit(network, EmitOptions("ic", TARGETS["cortex-m4"], **options))["ic.report.json"])
    return {**found, "arena": found["arena_map"]}


@pytest.mark.parametrize("options", [{}, {"arena": "caller"}, {"placement": Placement(io="arena")}])
def test_the_arena_map_is_the_plan(network: Network, options: dict[str, Any]) -> None:
    report = emitted(network, **options)
    rows = report["arena"]
    assert reports.arena_faults(report) == []
    assert max(row["offset"] + row["bytes"] for row in rows if row["offset"] is not None) <= report["arena_bytes"]
    places = "placement" in options
    assert [row["name"] for row in rows if row["offset"] is None] == (
        [] if places else ["input_1_int8", "Identity_int8"]
    )
    written = [row for row in rows if row["kind"] in ("activation", "output")]
    assert [row["first"] for row in written] == list(range(len(network.layers)))
    for row in written:
        layer = network.layers[row["first"]]
        readers = [index for index, other in enumerate(network.layers) if layer.output in other.inputs]
        assert row["bytes"] == network.tensors[layer.output].size
        assert row["last"] == (max(readers) if readers else len(network.layers) - 1)
    scratch = {row["first"]: row["bytes"] for row in rows if row["kind"] == "scratch"}
    expected = {layer["index"]: layer["scratch_bytes"] for layer in report["layers"] if layer["scratch_bytes"]}
    assert scratch == expected
    live = [
        sum(
            -(-row["bytes"] // 4) * 4 for row in rows if row["offset"] is not None and row["first"] <= at <= row["last"]
        )
        for at in range(len(network.layers))
    ]
    # In place two rows are one buffer, so the plan may need less than the rows add up to.
    assert all(layer["live_bytes"] <= bytes_ for layer, bytes_ in zip(report["layers"], live, strict=True))


def test_faults_of_a_map_are_found() -> None:
    model = reports.full()["models"][0]
    assert reports.arena_faults(model) == []
    model["arena"].append(reports.buffer("x", "activation", 100, 10, 1, 1))
    assert reports.arena_faults(model) == ["l00_conv2d and x share bytes", "l01_add and x share bytes"]
    model["arena"][-1:] = [reports.buffer("x", "activation", 636, 10, 2, 2)]
    assert reports.arena_faults(model) == ["x ends outside"]
