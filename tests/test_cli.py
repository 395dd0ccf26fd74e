"""`python -m nnbuild <stage>`: help that explains, the stages in a row by hand, one line for what goes wrong."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnbuild import cli
from nnbuild.cli import COMMANDS

from . import host
from .conftest import ROOT


def nnbuild(*arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nnbuild", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment())


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A 16-8-4 network with HardTanh, and calibration samples beside it."""
    rng = np.random.default_rng(1)
    weights = {"w1": (8, 16), "b1": (8,), "w2": (4, 8), "b2": (4,)}
    initializers = [numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), n) for n, s in weights.items()]
    initializers += [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("low", -1), ("high", 1))]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="hidden", transB=1),
        helper.make_node("Clip", ["h", "low", "high"], ["c"], name="hard_tanh"),
        helper.make_node("Gemm", ["c", "w2", "b2"], ["y"], name="out", transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["N", 16])], [value("y", TensorProto.FLOAT, ["N", 4])], initializers
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.savez(tmp_path / "calib.npz", x=rng.normal(0, 1, (50, 16)).astype(np.float32))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = nnbuild(command, "--help")
    assert done.returncode == 0
    assert len(done.stdout.split("\n\n")[1]) > 40, "a help that says what the command is for"


def test_the_stages_by_hand(model: Path, tmp_path: Path) -> None:
    float_model, ranges, int8 = (tmp_path / name for name in ("m.float.onnx", "m.ranges.json", "m.int8.onnx"))
    for step in (
        ("import", model, "-o", float_model),
        ("calibrate", float_model, "--calibration", tmp_path / "calib.npz", "-o", ranges),
        ("quantize", model, "--ranges", ranges, "--calibration", tmp_path / "calib.npz", "-o", int8),
        ("lower", int8, "-o", tmp_path / "m.network.json"),
        ("select", int8, "--cpu", "cortex-m0"),
        ("plan", int8, "--cpu", "cortex-m0"),
        ("emit", int8, "--name", "m", "--output-dir", tmp_path / "c", "--cpu", "cortex-m0", "--no-assembly"),
        ("emit", int8, "--name", "m", "--output-dir", tmp_path / "s", "--cpu", "cortex-m0"),
        ("emit", int8, "--name", "m", "--output-dir", tmp_path / "out", "--selftest", "2"),
        ("accuracy", model, int8, "--samples", tmp_path / "calib.npz"),
    ):
        done = nnbuild(*step)
        assert done.returncode == 0, f"{step}: {done.stderr}"
    in_one = tmp_path / "one.int8.onnx"
    assert nnbuild("quantize", model, "--calibration", tmp_path / "calib.npz", "-o", in_one).returncode == 0
    assert in_one.read_bytes() == int8.read_bytes()
    written = [(tmp_path / folder / "m_kernels.S").read_text() for folder in ("c", "s")]
    assert [".thumb_func" in text for text in written] == [False, True]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"m.c", "m.h", "m_weights.c", "m_kernels.S", "m.report.json", "m_selftest.c"}
    layers = json.loads((tmp_path / "m.network.json").read_text())["layers"]
    assert [layer["op"] for layer in layers] == ["fully_connected", "fully_connected"], "HardTanh is a clamp"
    files = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert host.shared_library(tmp_path / "so", files).m_selftest() == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("emit", "absent.onnx", "--name", "m", "--output-dir", "out"), "absent.onnx"),
        (("emit", "m.onnx", "--name", "m", "--output-dir", "out"), "never quantized"),
        (("emit", "m.onnx", "--name", "m", "--output-dir", "out", "--cpu", "z80"), "unknown cpu 'z80'"),
        (("emit", "m.onnx", "--name", "m", "--output-dir", "out", "--compiler", "no-such-cc -O2"), "no-such-cc"),
        (("quantize", "m.onnx", "--calibration", "absent.npz", "-o", "q.onnx"), "absent.npz"),
    ],
)
def test_what_goes_wrong_is_one_line(model: Path, arguments: tuple[str, ...], text: str) -> None:
    done = nnbuild(*arguments, folder=model.parent)
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (model.parent / "out").exists()


def test_no_command_is_help() -> None:
    done = nnbuild()
    assert done.returncode == 2
    assert "quantize" in done.stderr + done.stdout


def test_a_python_without_the_packages_is_told_so() -> None:
    """Such as the system's Python in a checkout."""
    code = "import sys; sys.modules['onnx'] = None; from nnbuild.cli import main; sys.exit(main(['ops']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 1
    assert "this Python has no package 'onnx'; hint: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_arguments_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "arguments.json"
    path.write_text('["ops"]')
    assert cli.main([f"@{path}"]) == 0
    assert "Conv" in capsys.readouterr().out
    for content in ("ops", '{"a": 1}', '["ops", 1]'):
        path.write_text(content)
        assert cli.main([f"@{path}"]) == 1
        assert capsys.readouterr().err == f"{path}: must be a JSON list of texts\n"
    path.unlink()
    assert cli.main([f"@{path}"]) == 1
    assert capsys.readouterr().err == f"{path}: cannot read: No such file or directory\n"


def test_too_old_a_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r": Python 3\.9 is too old for nnbuild; hint: take 3\.11 or newer$"):
        runpy.run_module("nnbuild")
