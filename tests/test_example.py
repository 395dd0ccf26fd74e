"""The example firmware as a user has it: copied to a folder with a space in its name, built, booted in QEMU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from nnbuild.report import schema, stack
from tests import reports
from tests.example_tools import tool

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "example_firmware"
NOT_SOURCES = shutil.ignore_patterns("build", "fw.*", ".sconsign*", "__pycache__", "*.o")

# Single and double precision of the run-time library, by its Arm and its gcc names; 64-bit products.
FLOATS = re.compile(r"__aeabi_(c?[fd](add|sub|mul|div|cmp|rsub|2\w+|neg)\w*|[iul]+2[fd]|[fd]cmp\w+)|__\w+[sd]f\d?")
LONG_PRODUCT = "__aeabi_lmul"

needs_tools = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="needs arm-none-eabi-gcc and qemu-system-arm",
)


def scons(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "SCons", "-C", str(folder), "-Q", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)


def copy_example(folder: Path) -> Path:
    copied = folder / "touch grid"
    shutil.copytree(EXAMPLE, copied, ignore=NOT_SOURCES)
    return copied


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = copy_example(tmp_path_factory.mktemp("example"))
    return folder, scons(folder, "run")


@needs_tools
def test_the_report_keeps_to_its_schema(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Every key is documented, and the figures of one place are those of the other."""
    folder, _ = ran
    found = json.loads((folder / "fw.size.json").read_text(encoding="utf-8"))
    assert schema.violations(found, strict=True) == []
    for place in (found["flash"], found["ram"]):
        assert sum(size for kind, size in place.items() if kind != "total") == place["total"]
    assert sum(row["bytes"] for row in found["licences"]) == found["flash"]["total"]
    for model in found["models"]:
        header = next(folder.rglob(f"{model['name']}.h")).read_text(encoding="utf-8")
        (arena,) = re.findall(r"_ARENA_SIZE (\d+)", header)
        assert model["arena_bytes"] == model["ram"]["arena"] == int(arena)
        assert reports.arena_faults(model) == []
        assert {row["function"] for row in model["layers"]} >= {r["name"] for r in model["layers"] if r["code"]}
        assert all(row["reasons"] and row["kernel"] not in row["reasons"] for row in model["layers"])


@needs_tools
def test_runs_in_qemu(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = ran
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all outputs equal the reference" in done.stdout
    assert done.stdout.count("self-test passed") == 2
    assert len(re.findall(r"^frame +\d+: ", done.stdout, re.MULTILINE)) == 48
    accuracy = dict(re.findall(r"^(touch\w*) +(\d+)/48 ", done.stdout, re.MULTILINE))
    assert int(accuracy["touch"]) >= 44
    assert int(accuracy["touch_cnn"]) >= 46


@needs_tools
def test_the_computed_stack_is_the_one_that_is_painted(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Of the whole firmware, from reset on, as its own code measures it; of the networks, what the report says."""
    folder, done = ran
    painted = re.search(r"^stack: (\d+) bytes used", done.stdout, re.MULTILINE)
    assert painted is not None
    (use,) = stack.inference(folder / "fw.elf", ["reset_handler"])
    assert use.bytes is not None, use.note
    assert use.bytes - 8 <= int(painted[1]) <= use.bytes
    sizes = json.loads((folder / "fw.size.json").read_text())
    known = [model["stack"]["bytes"] for model in sizes["models"]]
    assert all(0 < bytes_ < use.bytes for bytes_ in known)
    verdicts = {budget["what"]: budget["value"] for budget in sizes["budgets"]}
    assert [verdicts["touch stack"], verdicts["touch_cnn stack"]] == known


@needs_tools
def test_nothing_to_do_the_second_time(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = ran
    done = scons(folder)
    assert done.returncode == 0
    assert "up to date" in done.stdout


@needs_tools
def test_no_float_and_no_long_product_in_the_image(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = ran
    with open(folder / "fw.elf", "rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        names = {symbol.name for symbol in table.iter_symbols()}
    assert "touch_run" in names
    assert not [name for name in names if FLOATS.fullmatch(name) or name == LONG_PRODUCT]


@pytest.mark.parametrize("name", ["__aeabi_fadd", "__aeabi_dmul", "__aeabi_i2f", "__aeabi_d2iz", "__muldf3"])
def test_float_names_are_recognized(name: str) -> None:
    assert FLOATS.fullmatch(name)


@needs_tools
def test_timer_and_trace_count_the_same(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = ran
    tool("cycles")
    run = tool("run")
    counts = run.trace(run.BOARDS["microbit"], str(folder / "fw.elf"), "arm-none-eabi-", ["touch", "touch_cnn"])
    for name, ticks in re.findall(r"^(\w+): frames 48 .* ticks (\d+)", done.stdout, re.MULTILINE):
        # The timer gives the mean of 48 frames, the trace one of them; only clamps differ.
        assert counts[name].instructions == pytest.approx(int(ticks) * 62.5 / 48, rel=0.02)
        assert 1.0 < counts[name].cycles / counts[name].instructions < 2.0


@needs_tools
def test_a_wrong_output_fails_the_run(tmp_path: Path) -> None:
    folder = copy_example(tmp_path)
    replace(folder / "tools" / "samples.py", "for sample in inputs])", "for sample in inputs]) ^ np.int8(1)")
    done = scons(folder, "run")
    assert done.returncode != 0
    assert "DIFFERS FROM THE REFERENCE" in done.stdout
    assert "FAILED" in done.stdout


@needs_tools
def test_an_image_over_budget_is_not_left(tmp_path: Path) -> None:
    folder = copy_example(tmp_path)
    replace(folder / "SConstruct", 'FLASH="80K"', 'FLASH="3K"')
    done = scons(folder)
    assert done.returncode != 0
    assert not (folder / "fw.elf").exists()
    assert not (folder / "fw.hex").exists()
    assert "Traceback" not in done.stdout + done.stderr


@needs_tools
def test_cmsis_nn_gives_the_same_outputs(tmp_path: Path, cmsis_nn_dir: Path) -> None:
    folder = copy_example(tmp_path)
    done = scons(folder, "run-cmsis-nn")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all outputs equal the reference" in done.stdout
    assert len(re.findall(r"^frame +\d+: ", done.stdout, re.MULTILINE)) == 48
    sizes = json.loads((folder / "build/cmsis_nn/fw.size.json").read_text())
    kernels = {layer["kernel"] for model in sizes["models"] for layer in model["layers"]}
    assert "cmsis_nn" in kernels
    assert sizes["flash"]["kernels"] > 1000
    assert sizes["ram"]["arena"] == max(model["shared_arena"] for model in sizes["models"])
    assert not (folder / "fw.elf").exists()


def test_without_cmsis_nn_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CMSIS_NN", "CMSIS_PACK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = scons(copy_example(tmp_path), "run-cmsis-nn")
    assert done.returncode != 0
    assert "no CMSIS-NN was found; hint: set CMSIS_NN" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("target", ["run-kws", "run-kws-microbit"])
def test_keyword_spotter_says_what_it_needs(tmp_path: Path, target: str) -> None:
    done = scons(copy_example(tmp_path), target)
    assert done.returncode != 0
    assert f"scons {target} KWS_MODEL=kws.onnx KWS_SAMPLES=kws_dev.npz" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@needs_tools
@pytest.mark.parametrize(
    ("target", "model"),
    [("run-kws", "torch/kws01_torch_dynamo.onnx"), ("run-kws-microbit", "tf2onnx/kws01_tf.onnx")],
)
def test_keyword_spotter(tmp_path: Path, reference_dir: Path, target: str, model: str) -> None:
    """On a Cortex-M4, and within the micro:bit's 16 KB of RAM."""
    given = f"KWS_MODEL={reference_dir / 'models' / model}", f"KWS_SAMPLES={reference_dir / 'data' / 'kws01_dev.npz'}"
    done = scons(copy_example(tmp_path), target, *given)
    assert done.returncode == 0, done.stdout + done.stderr
    right = re.search(r"^kws +(\d+)/24 ", done.stdout, re.MULTILINE)
    assert right is not None
    assert int(right[1]) >= 20


def test_missing_qemu_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE / "tools" / "run.py"), "fw.elf", "--board", "microbit", "--model", "touch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "qemu-system-arm" in done.stderr
