"""What the README shows works: its files are built as they stand there, its tables name what exists, its links lead."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnbuild.config import OPTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = ROOT / "example_firmware" / "models"
WITH_NNBUILD = {**os.environ, "PYTHONPATH": str(ROOT)}
MAIN = "\nint main(void)\n{\n    static const uint8_t raw[KWS_INPUT_SIZE] = {1};\n    return recognize(raw);\n}\n"


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def block(marker: str) -> str:
    """The fenced block behind `<!-- marker -->`."""
    found = re.search(rf"^<!-- {re.escape(marker)} -->\n```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"the README has no block {marker}"
    return found[1]


def section(title: str) -> str:
    """The text below a heading."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_column(text: str) -> list[str]:
    """The code words of the first column of a table."""
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row)]


def lay_out(folder: Path) -> None:
    """The README's SConstruct and main.c, with the example's network as models/kws.onnx."""
    (folder / "models").mkdir()
    shutil.copy(MODELS / "touch.onnx", folder / "models" / "kws.onnx")
    shutil.copy(MODELS / "touch_calib.npz", folder / "models" / "kws_calib.npz")
    (folder / "SConstruct").write_text(block("file: SConstruct"), encoding="utf-8")
    (folder / "main.c").write_text(block("file: main.c") + MAIN, encoding="utf-8")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the README's SConstruct and main.c make: the generated C and its header, as text."""
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("needs arm-none-eabi-gcc")
    folder = tmp_path_factory.mktemp("readme")
    lay_out(folder)
    done = run([sys.executable, "-m", "SCons", "-Q"], folder, WITH_NNBUILD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "fw.elf").exists()
    return "".join(path.read_text(encoding="utf-8") for name in ("kws.h", "kws.c") for path in folder.rglob(name))


def test_the_sconstruct_has_five_statements() -> None:
    assert len(ast.parse(block("file: SConstruct")).body) <= 5


def test_the_c_has_what_the_readme_names(generated: str) -> None:
    names = [re.findall(r"\b(?:kws|KWS)_\w+", word)[0] for word in first_column(section("In C"))]
    assert len(names) > 10
    # Asked for by options that the five lines do not use.
    elsewhere = ("kws_selftest", "kws_reset", "KWS_WARM_UP")
    assert [name for name in names if name not in elsewhere and name not in generated] == []


def test_with_cmsis_nn(tmp_path: Path, cmsis_nn_dir: Path) -> None:
    """The README's SConstruct with the variable that it names."""
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("needs arm-none-eabi-gcc")
    lay_out(tmp_path)
    (tmp_path / "third_party").mkdir()
    (tmp_path / "third_party" / "CMSIS-NN").symlink_to(cmsis_nn_dir)
    words = re.findall(r'Environment\(\.\.\., (CMSIS_NN=".*")\)', section("With CMSIS-NN"))
    text = block("file: SConstruct").replace("Environment(", f"Environment({words[0]}, ")
    # For this small network nnbuild's own kernels are better, on every core.
    text = text.replace("raw_input=", 'backend="cmsis_nn", raw_input=')
    (tmp_path / "SConstruct").write_text(text, encoding="utf-8")
    done = run([sys.executable, "-m", "SCons", "-Q"], tmp_path, WITH_NNBUILD)
    assert done.returncode == 0, done.stdout + done.stderr
    report = next(tmp_path.rglob("kws.report.json")).read_text(encoding="utf-8")
    assert '"kernel": "cmsis_nn"' in report


def test_the_options_are_those_that_exist() -> None:
    assert sorted(first_column(section("Options of a model").split("| meaning |")[1])) != []
    named = {word for word in first_column(section("Options of a model")) if word.isidentifier()}
    assert named == set(OPTIONS)


def test_the_figures_with_and_without_cmsis_nn_are_those_of_its_page() -> None:
    said = re.search(r"takes ([\d.]+) M\s+instructions with CMSIS-NN and ([\d.]+) M without, ([\d,]+) bytes of flash "
                     r"instead of ([\d,]+):", README)  # fmt: skip
    page = (ROOT / "docs" / "CMSIS-NN.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| kws01 | M4 |")).split(" | ")
    assert said is not None
    flash, instructions, own_flash, own = row[2], row[6], row[9], row[10].rstrip(" |")
    millions = [f"{int(text.replace(',', '')) / 1e6:.1f}" for text in (instructions, own)]
    assert said.groups() == (*millions, flash, own_flash)


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert targets
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


@pytest.mark.parametrize("name", ["pytorch", "keras"])
def test_snippets_parse(name: str) -> None:
    assert len(block(f"snippet: {name}").splitlines()) <= 10
    ast.parse(block(f"snippet: {name}"))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_the_pytorch_snippet_makes_a_model_that_builds(tmp_path: Path) -> None:
    exported = run([sys.executable, "-c", block("snippet: pytorch")], tmp_path, WITH_NNBUILD)
    assert exported.returncode == 0, exported.stderr
    command = ["-m", "nnbuild", "quantize", "kws.onnx", "--calibration", "kws_calib.npz", "-o", "kws.int8.onnx"]
    done = run([sys.executable, *command], tmp_path, WITH_NNBUILD)
    assert done.returncode == 0, done.stderr


def without_root(folder: Path) -> dict[str, str]:
    """An environment of a user who is not root, has no sudo, and whose PATH has nothing but what `do` itself calls."""
    for name in ("bash", "sed", "grep", "cksum", "dirname"):
        (folder / name).symlink_to(str(shutil.which(name)))
    (folder / "id").write_text("#!/bin/sh\necho 1000\n")
    (folder / "id").chmod(0o755)
    return {"PATH": str(folder), "PYTHON": sys.executable}


@pytest.mark.parametrize("command", ["example", "tests"])
def test_without_root_the_apt_line_is_printed(tmp_path: Path, command: str) -> None:
    done = run([str(ROOT / "do"), command], tmp_path, without_root(tmp_path))
    assert done.returncode == 1
    assert "apt-get install" in done.stdout.splitlines()[-1]
    for package in ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm"):
        assert package in done.stdout.splitlines()[-1]
    assert ("clang" in done.stdout.splitlines()[-1]) == (command == "tests")


def test_do_explains_itself(tmp_path: Path) -> None:
    done = run([str(ROOT / "do")], tmp_path, dict(os.environ))
    assert done.returncode == 2
    assert "./do example" in done.stdout
    assert "./do tests" in done.stdout


def test_ci_runs_the_second_command() -> None:
    assert "./do tests" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


CALIBRATED = '"models/kws.onnx", calibration="models/kws_calib.npz"'
# What the README's table says, and the NNModel(...) that leads to it.
MISTAKES = {
    "cannot run the compiler 'arm-none-eabi-gcc'": CALIBRATED,
    "a float model needs calibration samples": '"models/kws.onnx"',
    "do not fit input": '"models/kws.onnx", calibration="models/flat.npz"',
    "has the dynamic shape": '"models/dynamic.onnx", name="kws", calibration="models/flat.npz"',
    "operator 'TopK' is not supported": '"models/top.onnx", name="kws", calibration="models/flat.npz"',
    "over its limit": f'{CALIBRATED}, flash="1K"',
    "is not in this version of nnbuild": f'{CALIBRATED}, weights="external"',
}


def damaged_models(folder: Path) -> None:
    """Samples of the wrong shape, a model with an unknown operator, one with an open dimension."""
    np.savez(folder / "flat.npz", x=np.zeros((4, 63), np.float32))
    fixed = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])
    opened = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "time"])
    result = helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 2])
    top, relu = helper.make_node("TopK", ["x", "k"], ["v", "i"]), helper.make_node("Relu", ["x"], ["v"])
    count = numpy_helper.from_array(np.array([2]), "k")
    for name, graph in (
        ("top", helper.make_graph([top], "g", [fixed], [result], [count])),
        ("dynamic", helper.make_graph([relu], "g", [opened], [result])),
    ):
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), folder / f"{name}.onnx")


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_says_what_the_table_says(tmp_path: Path, message: str) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("needs arm-none-eabi-gcc")
    lay_out(tmp_path)
    damaged_models(tmp_path / "models")
    sconstruct = tmp_path / "SConstruct"
    text = re.sub(r"env\.NNModel\(.*\)", f"env.NNModel({MISTAKES[message]})", sconstruct.read_text(encoding="utf-8"))
    if "compiler" in message:
        # The cpu is asked of the compiler; SCons finds nothing on an empty PATH.
        text = text.replace("Environment(", 'Environment(ENV={"PATH": "/nowhere"}, ')
    sconstruct.write_text(text, encoding="utf-8")
    done = run([sys.executable, "-m", "SCons", "-Q"], tmp_path, WITH_NNBUILD)
    assert done.returncode != 0
    assert message in section("Troubleshooting")
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
