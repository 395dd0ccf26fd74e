"""The accepted build: what is kept of it, what may grow, what is said about the growth."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from nnbuild.cli import main
from nnbuild.errors import ConfigError
from nnbuild.report import baseline, budget, difference
from tests import reports


def grown(flash: int = 0, ram: int = 0, layer: int = 0) -> dict[str, Any]:
    """The full report with more bytes."""
    made = copy.deepcopy(reports.full())
    made["regions"][0]["used"] += flash
    made["regions"][1]["used"] += ram
    made["models"][0]["layers"][0]["weights"] += layer
    made["models"][0]["flash"]["weights"] += layer
    made["models"][0]["flash"]["total"] += layer
    return made


def judged(document: dict[str, Any], growth: dict[str, Any]) -> dict[str, budget.Verdict]:
    parsed = {name: budget.parse_growth(limit) for name, limit in growth.items()}
    found = baseline.verdicts(document, baseline.snapshot(reports.full()), parsed, {"FLASH"})
    return {verdict.what: verdict for verdict in found}


def test_a_snapshot_keeps_what_is_compared() -> None:
    kept = baseline.snapshot(reports.full())
    assert kept["figures"]["bytes"] == {"FLASH": 9000, "RAM": 1200, "kws flash": 4420, "kws ram": 652, "kws stack": 312}
    assert kept["figures"]["us"] == {"kws latency": 1062.5}
    assert kept["layers"]["bytes"]["kws_l00_conv2d flash"] == 2700
    assert set(kept["layers"]) == {"bytes", "cycles"}
    same = baseline.earlier(kept)
    changes = difference.changes(same.figures, difference.figures(reports.full()))
    assert changes
    assert all(change.old == change.new for change in changes)


@pytest.mark.parametrize(
    ("growth", "ok"), [("+1K", True), ("1023", False), (1024, True), ("11%", False), ("+12 %", True), ("0", False)]
)
def test_growth_is_bytes_or_a_share_of_what_was(growth: Any, ok: bool) -> None:
    found = judged(grown(flash=1024), {"": growth})
    assert list(found) == ["growth FLASH", "growth RAM"]
    assert found["growth FLASH"].value == 1024
    assert found["growth FLASH"].ok == ok
    assert found["growth RAM"].ok


def test_what_shrinks_is_fine() -> None:
    assert all(verdict.ok for verdict in judged(grown(flash=-500, ram=-1), {"": 0}).values())


def test_regions_may_differ() -> None:
    document = grown(flash=100, ram=100)
    assert [verdict.ok for verdict in judged(document, {"": 0, "RAM": "10%"}).values()] == [False, True]
    assert list(judged(document, {"RAM": 0})) == ["growth RAM"]
    with pytest.raises(
        ConfigError, match=r"growth of region 'CCM', which does not exist; hint: the regions are FLASH, RAM"
    ):
        judged(document, {"CCM": 0, "DTCM": 0})


def test_the_hint_names_what_has_grown() -> None:
    hint = judged(grown(flash=1024, layer=1000), {"FLASH": 0})["growth FLASH"].hint
    assert hint.split("; ") == [
        "FLASH +1,024, from 9,000 to 10,024",
        "kws_l00_conv2d flash +1,000, from 2,700 to 3,700",
        "kws flash +1,000, from 4,420 to 5,420",
        "`scons nn-baseline` accepts this build and writes it",
    ]


def test_growth_of_variables_is_not_explained_by_code() -> None:
    """RAM that had grown was followed by the layers whose flash had."""
    hint = judged(grown(flash=1024, layer=1000, ram=8), {"RAM": 0})["growth RAM"].hint
    assert hint.split("; ") == [
        "RAM +8, from 1,200 to 1,208",
        "`scons nn-baseline` accepts this build and writes it",
    ]


@pytest.mark.parametrize("value", ["", "+", "-1K", "+-1", "1.5K", "120%", None, True, [], "+1K+"])
def test_no_growth(value: Any) -> None:
    with pytest.raises(ConfigError, match="must be bytes or a share, such as"):
        budget.parse_growth(value)


def test_accepted_images_join_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "size-baseline.json"
    baseline.accept(path, {"b.elf": reports.full()})
    first = path.read_bytes()
    baseline.accept(path, {"a.elf": grown(flash=5)})
    assert list(baseline.read(path)) == ["a.elf", "b.elf"]
    assert baseline.read(path)["a.elf"]["figures"]["bytes"]["FLASH"] == 9005
    baseline.accept(path, {"a.elf": reports.full()})
    other = tmp_path / "other.json"
    baseline.accept(other, {"a.elf": reports.full(), "b.elf": reports.full()})
    assert path.read_bytes() == other.read_bytes()  # whatever the order
    assert b"\r" not in first
    assert first.endswith(b"\n")
    assert [file.name for file in tmp_path.iterdir() if "tmp" in file.name] == []


BAD = {
    "no JSON": "is no baseline",
    "[]": "is no baseline",
    '{"schema": 2, "images": {}}': "is no baseline of schema 1",
    '{"schema": 1}': "is no baseline",
    '{"schema": 1, "images": {"a": {"figures": {}}}}': "is no baseline",
    '{"schema": 1, "images": {"a": {"figures": {"bytes": {"FLASH": "9"}}, "layers": {}}}}': "is no baseline",
    '{"schema": 1, "images": {"a": {"figures": {"miles": {"FLASH": 9}}, "layers": {}}}}': "is no baseline",
    '{"schema": 1, "images": {"a": {"figures": [], "layers": {}}}}': "is no baseline",
}


@pytest.mark.parametrize("text", list(BAD))
def test_bad_baselines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        baseline.read(path)
    hint = "take it from version control, or delete it and accept a build by `scons nn-baseline`"
    assert str(caught.value) == f"{path}: {BAD[text]}; hint: {hint}"


def test_a_baseline_that_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "size-baseline.json"
    assert baseline.of_image(path, "fw.elf", required=False) is None
    with pytest.raises(
        ConfigError, match=r"does not exist, so nobody knows the growth of fw.elf; hint: `scons nn-base"
    ):
        baseline.of_image(path, "fw.elf", required=True)
    baseline.accept(path, {"other.elf": reports.full()})
    with pytest.raises(ConfigError, match=r"has no figures of fw.elf; hint: `scons nn-baseline` accepts this build"):
        baseline.of_image(path, "fw.elf", required=True)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, path = tmp_path / "fw.size.json", tmp_path / "base.json"
    report.write_text(json.dumps(reports.full()))
    assert main(["baseline", str(path), f"build/fw.elf={report}"]) == 0
    assert capsys.readouterr().out == f"{path}: accepted build/fw.elf\n"
    assert list(baseline.read(path)) == ["build/fw.elf"]
    assert main(["baseline", str(path), "fw.size.json"]) == 1
    assert "baseline: takes IMAGE=SIZE.json, not 'fw.size.json'" in capsys.readouterr().err
    assert main(["baseline", str(path), f"fw.elf={tmp_path / 'none'}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
