"""What `nnbuild check` prints: JSON of the schema in docs/CHECK.md, and text that can be printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest

import nnbuild
from nnbuild.cli import main
from nnbuild.estimate import schema as check_schema
from nnbuild.report import schema

ROOT = Path(__file__).parents[1]
TOUCH, TOUCH_CNN = (str(ROOT / "example_firmware" / "models" / f"{name}.onnx") for name in ("touch", "touch_cnn"))


def test_the_documented_table_of_check_is_the_schema() -> None:
    text = (ROOT / "docs" / "CHECK.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- schema -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert found is not None
    assert found[1] == schema.table(check_schema.KEYS), "python -m nnbuild.estimate.schema prints it"


@pytest.mark.parametrize(
    "limits",
    [
        ["--cpu", "cortex-m0", "--flash", "2500", "--ram", "1K", "--latency", "10ms @ 16MHz, 1ws"],
        ["--cpu", "cortex-m55"],
        ["--cpu", "generic", "--ram", "100"],
        ["--cpu", "cortex-m7", "--latency", "10000 cycles"],
    ],
)
def test_answers_keep_to_the_schema(limits: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", TOUCH, TOUCH_CNN, *limits, "--json"]) in (0, 1)
    answers = json.loads(capsys.readouterr().out)
    assert [answer["file"] for answer in answers] == ["touch.onnx", "touch_cnn.onnx"]
    for answer in answers:
        assert schema.violations(answer, strict=True, keys=check_schema.KEYS) == []


def test_a_latency_that_is_not_judged_is_said_in_the_first_line() -> None:
    """A core without documented timings is no core without limits."""
    alone = str(nnbuild.check(TOUCH_CNN, cpu="cortex-m7", latency="1ms @ 100MHz")).splitlines()
    assert alone[0].endswith("(within 10 %); latency is not judged")
    assert " of 1 ms at 100 MHz" in alone[3]
    fitting = nnbuild.check(TOUCH_CNN, cpu="cortex-m7", latency="1ms @ 100MHz", flash="64K")
    assert fitting.fits
    assert str(fitting).splitlines()[0].endswith("fits; latency is not judged")
    assert "not judged" not in str(nnbuild.check(TOUCH_CNN, cpu="cortex-m4", latency="1ms @ 100MHz")).splitlines()[0]


def test_names_of_a_model_give_the_terminal_no_commands(tmp_path: Path) -> None:
    model = onnx.load(TOUCH)
    for node in model.graph.node:
        node.name = "a\x1b[31m\nb"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    lines = str(nnbuild.check(tmp_path / "m.onnx", cpu="cortex-m0", flash="2500")).split("\n")
    assert all(line.isprintable() for line in lines)
    assert any("a?[31m?b" in line for line in lines)
