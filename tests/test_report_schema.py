"""`fw.size.json` keeps to its documented schema, the table in docs/REPORT.md; other documents are refused."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from nnbuild.errors import ConfigError
from nnbuild.report import document, schema

ROOT = Path(__file__).parents[1]


def minimal() -> dict[str, Any]:
    """A document with one model and one layer, everything optional unknown."""
    layer = {
        **{"index": 0, "name": "m_l00_add", "node": "add", "op": "add", "kernel": "direct", "reasons": {"a": "b"}},
        **{"function": "m_l00_add", "inputs": [[1, 2]], "output": [2], "macs": 0, "weights": None, "code": None},
        **{"cycles": None, "assembly": None, "scratch": 0, "sqnr_db": None, "isolated_db": None},
    }
    buffer = {"name": "x", "kind": "input", "shape": [2], "offset": None, "bytes": 2, "first": 0, "last": 0, "over": []}
    sizes = {"weights": 0, "code": 0, "kernels": 0, "selftest": 0, "total": 0}
    model = {
        **{"name": "m", "model_id": "0x1", "cpu": "generic", "flash": sizes, "other_code": None},
        **{"ram": {"arena": 0, "scratch": 0, "other": 0, "total": 0}, "scratch_in_arena": 0, "shared_arena": 0},
        **{
            "arena_bytes": 0,
            "arena_bound_bytes": 0,
            "arena_optimal": True,
            "reordered": False,
            "peak_layer": None,
            "stack": None,
            "latency": None,
            "accuracy": None,
            "synthetic": True,
            "optimize": "size",
            "curve": [],
            "arena": [buffer],
            "ram_notes": [],
            "segments": [],
            "layers": [layer],
        },
    }
    return {
        **{"schema": 2, "nnbuild": "0", "files": ["fw.elf"], "regions": [], "budgets": [], "baseline": None},
        **{"flash": {**sizes, "rest": 0, "unattributed": 0}, "models": [model], "licences": [], "shared_kernels": []},
        "ram": {"arena": 0, "scratch": 0, "other": 0, "stack_reserve": None, "total": 0},
    }


def test_the_documented_table_is_the_schema() -> None:
    text = (ROOT / "docs" / "REPORT.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- schema -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert found is not None
    assert found[1] == schema.table(), "python -m nnbuild.report.schema prints it"


def test_a_minimal_document_holds() -> None:
    assert schema.violations(minimal(), strict=True) == []


def changed(path: str, value: Any) -> dict[str, Any]:
    """The minimal document with another value, or without the key where the value is ...."""
    made = copy.deepcopy(minimal())
    place: Any = made
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("flash", [], "flash is not of type object"),
        ("models.0.layers.0.macs", None, "models[0].layers[0].macs is not of type integer"),
        ("models.0.layers.0.macs", True, "models[0].layers[0].macs is not of type integer"),
        ("models.0.layers.0.inputs.0.1", "2", "models[0].layers[0].inputs[0][1] is not of type integer"),
        ("models.0.layers.0.reasons.a", 1, "models[0].layers[0].reasons.a is not of type string"),
        ("models.0.layers.0.sqnr_db", float("nan"), "models[0].layers[0].sqnr_db is not of type number?"),
        ("models.0.arena.0.offset", "4", "models[0].arena[0].offset is not of type integer?"),
        ("models.0.stack", {"bytes": 1, "path": []}, "models[0].stack.note is missing"),
        ("licences", ..., "licences is missing"),
    ],
)
def test_what_does_not_keep_to_it_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    assert schema.violations(changed(path, value)) == [message]
    file = tmp_path / "fw.size.json"
    file.write_text(json.dumps(changed(path, value)))
    with pytest.raises(ConfigError) as caught:
        document.read(file)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_new_key_is_no_fault_for_readers_but_must_be_documented() -> None:
    made = changed("models.0.colour", "red")
    assert schema.violations(made) == []
    assert schema.violations(made, strict=True) == ["models[0].colour is not documented"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is no size report of schema 2"),
        ('{"schema": 1}', "is no size report of schema 2"),
        ('{"schema": 2}', "nnbuild is missing"),
        (None, "cannot be read"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "fw.size.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        document.read(file)
