"""`nnbuild check`: the verdict, the linked image beside it, the changes that would fit, and what saying so takes."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import nnbuild
from benchmarks import cmsis_nn as with_library
from benchmarks import footprint, target
from nnbuild import interpret
from nnbuild.cli import main
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ConfigError, ModelError
from nnbuild.estimate import advice
from nnbuild.estimate.figures import figures
from nnbuild.estimate.resize import Edit, resized
from nnbuild.estimate.shapes import network_of, unquantized
from nnbuild.estimate.verdict import Check
from nnbuild.importer import import_model, import_outline
from nnbuild.lower import lower
from nnbuild.optimize import Aim, preferred
from nnbuild.quantize import quantize
from nnbuild.target import TARGETS
from tests.conftest import ROOT
from tests.graphs import i64, model, node, save, weights
from tests.test_reference_networks import quantized

MARGIN = 0.10
WIDER = {("touch_cnn", "M4"): 0.15}
"""Its first convolution clamps at 126, which no made-up range shows: a build has two functions where check sees one."""
LINKED = ("torch/kws01_torch_dynamo", "torch/sww_torch_legacy", "public/onnx2c_atmega_mnist14", "touch", "touch_cnn")
EXAMPLES = ROOT / "example_firmware" / "models"


def chain(first: int = 16, second: int = 24, size: int = 32, activation: str = "Relu") -> onnx.ModelProto:
    """Two convolutions, a depthwise one between them, a global pool and a classifier of five."""
    nodes = [
        node("Conv", "x w1 b1", "c1", name="conv1", pads=[1] * 4),
        node(activation, "c1", "r1"),
        node("Conv", "r1 wd", "d", name="depthwise", pads=[1] * 4, group=first, strides=[2, 2]),
        node("Relu", "d", "rd"),
        node("Conv", "rd w2 b2", "c2", name="conv2"),
        node(activation, "c2", "r2"),
        node("AveragePool", "r2", "p", kernel_shape=[(size + 1) // 2] * 2),
        node("Flatten", "p", "f"),
        node("Gemm", "f w3 b3", "y", name="classifier", transB=1),
    ]
    constants = {
        "w1": weights(first, 3, 3, 3), "b1": weights(first), "wd": weights(first, 1, 3, 3),
        "w2": weights(second, first, 1, 1), "b2": weights(second), "w3": weights(5, second), "b3": weights(5),
    }  # fmt: skip
    return model(nodes, {"x": ["N", 3, size, size]}, ["y"], constants)


def residual(channels: int) -> onnx.ModelProto:
    """A block of two convolutions around which the input of the first is added."""
    nodes = [
        node("Conv", "x w", "c", name="stem", pads=[1] * 4),
        node("Conv", "c w1", "c1", name="left", pads=[1] * 4),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2", "c2", name="right", pads=[1] * 4),
        node("Add", "c c2", "a"),
        node("GlobalAveragePool", "a", "p"),
        node("Reshape", "p s", "f"),
        node("Gemm", "f w3", "y", name="classifier", transB=1),
    ]
    square = weights(channels, channels, 3, 3)
    constants = {"w": weights(channels, 3, 3, 3), "w1": square, "w2": square, "w3": weights(4, channels)}
    return model(nodes, {"x": [1, 3, 8, 8]}, ["y"], {**constants, "s": i64(1, channels)})


def checked(folder: Path, proto: onnx.ModelProto, **options: Any) -> Check:
    """With whole layers: rows would meet most limits on RAM, and what is said where one is missed is to be seen."""
    return nnbuild.check(save(folder, proto), **{"cpu": "cortex-m0", "stream_rows": "never", **options})


@pytest.mark.parametrize("share", [0.9, 0.45, 0.05])
def test_rows_are_judged_as_they_are_built(share: float, tmp_path: Path) -> None:
    """What misses a limit with whole layers fits by rows, with the arena that the build has."""
    int8 = int8_file(tmp_path)[0]
    whole = nnbuild.check(int8, cpu="cortex-m0", stream_rows="never")
    limit = round(whole.ram * share)
    found = nnbuild.check(int8, cpu="cortex-m0", ram=limit, advise=False)
    options = EmitOptions("m", TARGETS["cortex-m0"], aim=Aim(ram=limit))
    report = json.loads(emit(lower(import_model(int8), "m"), options)["m.report.json"])
    assert report["segments"]
    assert found.ram == report["arena_bytes"] < whole.ram
    assert found.fits == (report["arena_bytes"] <= limit) == (share > 0.1)
    assert sum(layer.macs for layer in found.figures.layers) == whole.figures.macs


def amounts(check: Check) -> tuple[int, int, int]:
    return check.flash, check.ram, check.figures.cycles


# The verdict.


def test_what_fits_is_said_in_the_first_line(tmp_path: Path) -> None:
    found = checked(tmp_path, chain(), flash="64K", ram="64K", latency="2s @ 48MHz")
    assert found.fits
    text = str(found)
    assert text.splitlines()[0] == "m.onnx on cortex-m0: fits"
    assert "On known networks: flash and RAM within 10 % of the linked image" in text
    assert "smallest change" not in text
    assert [verdict.ok for verdict in found.budgets] == [True, True, True]


def test_a_limit_within_the_margin_is_not_promised(tmp_path: Path) -> None:
    found = checked(tmp_path, chain())
    assert str(found).startswith("m.onnx on cortex-m0: flash ")
    close = checked(tmp_path, chain(), flash=round(found.flash * 1.05))
    assert close.fits
    assert "fits, but flash within the estimate's margin: build it to be sure" in str(close)


def test_the_margin_of_latency_is_the_error_of_the_fit(tmp_path: Path) -> None:
    error = (checked(tmp_path, chain()).figures.error_percent or 0) / 100
    assert abs(error - MARGIN) > 0.02
    cycles = checked(tmp_path, chain()).figures.cycles
    for limit, close in ((cycles * (1 + error - 0.01), True), (cycles * (1 + error + 0.01), False)):
        text = str(checked(tmp_path, chain(), latency=f"{round(limit)} cycles"))
        assert ("fits, but latency within the estimate's margin" in text) == close


def test_what_does_not_fit_says_by_how_much(tmp_path: Path) -> None:
    found = checked(tmp_path, chain(), ram="12K", latency="50ms @ 48MHz")
    ram, cycles = found.ram, found.figures.cycles
    assert not found.fits
    first = str(found).splitlines()[0]
    assert f"does not fit: RAM {ram / 1024:.1f} KB of 12.0 KB ({ram - 12 * 1024:,} bytes over)" in first
    assert f"latency {cycles / 48e3:.3g} ms of 50 ms" in first
    assert found.us == pytest.approx(cycles / 48, abs=0.1)
    counted = checked(tmp_path, chain(), latency="2500000 cycles")
    assert f"latency {cycles:,} cycles of 2,500,000 cycles ({cycles - 2500000:,} cycles over)" in str(counted)
    assert counted.us is None


def test_the_multiplier_and_wait_states_cost_time(tmp_path: Path) -> None:
    quick = checked(tmp_path, chain(), latency="9s @ 48MHz")
    waiting = checked(tmp_path, chain(), latency="9s @ 48MHz, 1ws")
    slow = checked(tmp_path, chain(), latency="9s @ 48MHz", mul_cycles=32)
    assert quick.figures.cycles < waiting.figures.cycles < slow.figures.cycles


def test_a_core_without_timings_says_so(tmp_path: Path) -> None:
    found = checked(tmp_path, chain(), cpu="cortex-m7", latency="1us @ 48MHz")
    assert found.fits
    assert "note: cortex-m7 has no documented timings" in str(found)
    assert "its latency is not judged without latency_strict" in str(found)
    assert not checked(tmp_path, chain(), cpu="cortex-m7", latency="1us @ 48MHz", latency_strict=True).fits
    with pytest.raises(ConfigError, match="no cycles are known for 'generic'"):
        checked(tmp_path, chain(), cpu="generic", latency="9s @ 48MHz")
    assert checked(tmp_path, chain(), cpu="generic").cycles is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu": "cortex-m9"}, "unknown cpu 'cortex-m9'"),
        ({"flash": "lots", "ram": "-1"}, r"flash: must be .*\nram: must"),
        ({"latency": "2ms"}, "latency: must name the clock"),
        ({"input_layout": "HWC"}, "input_layout: must be one of '', 'NHWC'"),
        ({"backend": "fast"}, "backend 'fast' is unknown"),
        ({"backend": "cmsis_nn"}, "backend cmsis_nn without a CMSIS-NN"),
        ({"mul_cycles": 2}, "mul_cycles: must be one of 1, 32"),
        ({"input_shape": {"z": [1]}}, "no input 'z'"),
    ],
)
def test_wrong_options(options: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(tmp_path, chain(), **options)


# The command.


def test_exit_status_and_several_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large, small = str(save(tmp_path, chain(64), "large.onnx")), str(save(tmp_path, chain(4), "small.onnx"))
    limits = ["--cpu", "cortex-m0", "--ram", "24K", "--no-advice", "--stream-rows", "never"]
    assert main(["check", small, *limits]) == 0
    assert main(["check", large, small, *limits]) == 1
    out = capsys.readouterr().out
    assert "large.onnx on cortex-m0: does not fit: RAM" in out
    assert "small.onnx on cortex-m0: fits" in out
    assert main(["check", str(tmp_path / "none.onnx"), small, *limits]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r".*none.onnx: cannot read: .*\n", captured.err)
    assert "small.onnx on cortex-m0: fits" in captured.out
    assert main(["check", small, large, "--cpu", "cortex-m0", "--flash", "85%"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1  # wrong once, not once for each model


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(save(tmp_path, chain(64)))
    whole = ["--stream-rows", "never"]
    assert (
        main(["check", path, "--cpu", "cortex-m4", "--ram", "48K", "--latency", "4s @ 64MHz, 1ws", "--json", *whole])
        == 1
    )
    (document,) = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert (document["file"], document["cpu"], document["fits"]) == ("m.onnx", "cortex-m4", False)
    assert [(entry["what"], entry["ok"]) for entry in document["budgets"]] == [("ram", False), ("latency", True)]
    assert document["flash"] == document["weights"] + document["code"]
    assert document["weights"] == sum(layer["weights"] for layer in document["layers"])
    assert document["margin_percent"] == 10
    best = document["advice"][0]
    assert best["ram"] == document["ram"] - best["saved"]["ram"] <= 48 * 1024
    assert best["kind"] in ("width", "input")


def test_layers_that_share_a_function_count_it_once(tmp_path: Path) -> None:
    nodes, constants = [], {}
    for at, (before, after) in enumerate((("x", "a"), ("b", "c"), ("d", "e"))):
        nodes += [node("Gemm", f"{before} w{at} v", after), node("Relu", after, "bdy"[at])]
        constants[f"w{at}"] = weights(16, 16)
    found = checked(tmp_path, model(nodes, {"x": [1, 16]}, ["y"], {**constants, "v": weights(16)})).figures
    codes = [layer.code for layer in found.layers]
    assert codes[1] > 0
    assert codes[2] == 0  # as the one before; the first has another zero point
    assert sum(codes) < found.code < sum(codes) + codes[1]


def test_all_findings_of_a_model(tmp_path: Path) -> None:
    nodes = [node("Det", "x", "h"), node("Einsum", "h h", "y", equation="ij,ij->ij")]
    proto = model(nodes, {"x": [1, 3, 4]}, ["y"], {"w": weights(1, 8, 4), "r": weights(1, 8, 2)})
    with pytest.raises(ModelError) as caught:
        checked(tmp_path, proto)
    assert [finding.message for finding in caught.value.findings] == [
        "operator 'Det' is not supported",
        "operator 'Einsum' is not supported",
    ]


def test_needs_neither_onnxruntime_nor_jinja_nor_scons(tmp_path: Path) -> None:
    path = save(tmp_path, chain(64))
    script = (
        "import sys\n"
        "for name in ('onnxruntime', 'jinja2', 'SCons', 'elftools'): sys.modules[name] = None\n"
        "from nnbuild.cli import main\n"
        f"sys.exit(main(['check', {str(path)!r}, '--cpu', 'cortex-m0', '--ram', '4K']))"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 1
    assert "smallest change that fits" in done.stdout


def test_the_package_imports_nothing_heavy() -> None:
    script = "import sys, nnbuild; print(sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    command = [sys.executable, "-S", "-c", script, "numpy", "onnx", "typing", "dataclasses"]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Beside the linked image.


def measured_rows(document: str, ram: int) -> list[tuple[str, str, int, int]]:
    """(network, core, flash, RAM in column `ram`) of a table in docs, whose figures come from linked images."""
    lines = (ROOT / "docs" / document).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [(row[0], row[1], int(row[2].replace(",", "")), int(row[ram].replace(",", ""))) for row in cells[1:]]


SHRUNK = ("vww96",)
"""Of these a build leaves out channels, which ones only calibrated weights tell."""


def test_within_ten_percent_of_every_measured_footprint(reference_dir: Path) -> None:
    rows = measured_rows("FOOTPRINT.md", 6)
    assert len(rows) == len(footprint.NETWORKS) * len(footprint.CPUS)
    off = []
    for name, core, flash, ram in rows:
        found = nnbuild.check(reference_dir / "models" / footprint.NETWORKS[name], cpu=footprint.CPUS[core])
        if name in SHRUNK:
            assert found.flash > (1 + MARGIN) * flash
            assert found.ram >= ram
            continue
        off.append((abs(found.flash / flash - 1), abs(found.ram / ram - 1), name, core))
    assert max(row[0] for row in off) < MARGIN, sorted(off)
    assert max(row[1] for row in off) < MARGIN, off


def test_within_ten_percent_of_every_measured_footprint_with_cmsis_nn(reference_dir: Path, cmsis_nn_dir: Path) -> None:
    rows = measured_rows("CMSIS-NN.md", 4)
    assert len(rows) == len(with_library.NETWORKS) * len(with_library.CPUS)
    for name, core, flash, ram in rows:
        file, scales = with_library.NETWORKS[name]
        path, cpu = reference_dir / "models" / file, with_library.CPUS[core]
        options: dict[str, Any] = {"backend": "cmsis_nn", "fully_connected": scales, "cmsis_nn": cmsis_nn_dir}
        found = nnbuild.check(path, cpu=cpu, **options)
        if name in SHRUNK:
            assert found.flash > (1 + MARGIN) * flash
        else:
            assert abs(found.flash / flash - 1) < MARGIN, (name, core, found.flash, flash)
        assert found.ram == ram, (name, core)
        assert f", CMSIS-NN {found.figures.library:,}" in str(found)


@pytest.mark.skipif(not shutil.which(target.CC), reason=f"no {target.CC}")
@pytest.mark.parametrize("core", ["M0", "M4"])
@pytest.mark.parametrize("name", LINKED)
def test_within_ten_percent_of_the_linked_image(name: str, core: str, reference_dir: Path, tmp_path: Path) -> None:
    path = reference_dir / "models" / f"{name}.onnx" if "/" in name else EXAMPLES / f"{name}.onnx"
    network = lower(quantized(path, tmp_path)[0], name)
    linked = target.sizes(
        core, emit(network, EmitOptions("net", TARGETS[footprint.CPUS[core]])), reference_dir / "harness", tmp_path
    )
    found = nnbuild.check(path, cpu=footprint.CPUS[core])
    assert abs(found.flash / linked[0] - 1) < WIDER.get((name, core), MARGIN), (found.flash, linked)
    assert abs(found.ram / linked[1] - 1) < MARGIN, (found.ram, linked)


# The documentation.


def test_the_documented_answer_has_the_form_of_the_real_one(capsys: pytest.CaptureFixture[str]) -> None:
    """But for numbers: costs are fitted again now and then."""
    text = (ROOT / "docs" / "CHECK.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- output: (check .*?) -->\n```\n(.*?)```", text, re.DOTALL)
    assert found is not None
    words = [str(ROOT / word) if word.endswith(".onnx") else word for word in shlex.split(found[1])]
    assert main(words) == 1
    shown, real = (re.sub(r"\d[\d,.]*", "0", part).split() for part in (found[2], capsys.readouterr().out))
    assert real[: shown.index("smallest")] == shown[: shown.index("smallest")]
    assert "smallest" in real


def test_documented_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "CHECK.md").read_text(encoding="utf-8")
    snippets = dict(re.findall(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```", text, re.DOTALL))
    save(tmp_path, chain(), "kws.onnx")
    (tmp_path / "build" / "nn").mkdir(parents=True)
    int8_file(tmp_path)[0].rename(tmp_path / "build" / "nn" / "kws.int8.onnx")
    monkeypatch.chdir(tmp_path)
    exec(snippets["check"])
    known: dict[str, Any] = {"images": np.zeros((2, 3, 32, 32), np.float32)}
    exec(snippets["run"], known)
    assert known["predicted"].shape == (2,)


# What would fit.


@pytest.fixture
def first_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preferred kernels, whatever the limits: else smaller kernels would do what advice is to do here."""
    monkeypatch.setattr("nnbuild.ram.streaming.optimize", lambda layers, target, *rest: preferred(layers, target))


@pytest.mark.usefixtures("first_kernels")
def test_a_narrower_layer_saves_what_a_network_built_that_way_does(tmp_path: Path) -> None:
    before = checked(tmp_path, chain(64), cpu="cortex-m4")
    found = checked(tmp_path, chain(64), cpu="cortex-m4", ram=before.ram - 1)
    option = next(option for option in found.advice if option.kind == "width")
    width = option.edit.widths["conv1"]
    assert f"'conv1' from 64 to {width} outputs" in str(found)
    rebuilt = checked(tmp_path, chain(width), cpu="cortex-m4")
    assert amounts(rebuilt) == (option.figures.flash, option.figures.ram, option.figures.cycles)
    assert checked(tmp_path, chain(width), cpu="cortex-m4", ram=before.ram - 1).fits


def test_the_width_is_the_largest_that_fits(tmp_path: Path) -> None:
    limit = checked(tmp_path, chain(40)).ram
    found = checked(tmp_path, chain(64), ram=limit)
    option = next(option for option in found.advice if option.kind == "width")
    assert option.edit.widths == {"conv1": 40}
    assert not checked(tmp_path, chain(48), ram=limit, advise=False).fits


@pytest.mark.usefixtures("first_kernels")
def test_a_smaller_input_saves_what_a_network_built_that_way_does(tmp_path: Path) -> None:
    limit = checked(tmp_path, chain(16, size=24)).figures.cycles
    found = checked(tmp_path, chain(16), latency=f"{math.ceil(limit / 48)}us @ 48MHz")
    option = next(option for option in found.advice if option.kind == "input")
    assert option.edit.inputs == {"x": (1, 3, 24, 24)}
    assert amounts(checked(tmp_path, chain(16, size=24))) == (
        option.figures.flash, option.figures.ram, option.figures.cycles,
    )  # fmt: skip


def test_layers_that_are_added_change_together(tmp_path: Path) -> None:
    limit = checked(tmp_path, residual(16)).ram
    found = checked(tmp_path, residual(16), ram=round(limit * 0.65))
    option = next(option for option in found.advice if option.kind == "width")
    assert option.edit.widths == {"stem": 4, "right": 4}
    assert option.change == "'stem' from 16 to 4 outputs (with it 'right' from 16 to 4)"
    changed = resized(import_outline(save(tmp_path, residual(16))).model, Edit(widths={"stem": 8, "left": 8}))
    assert changed is not None
    assert changed[1].widths == {"stem": 8, "left": 8, "right": 8}


@pytest.mark.usefixtures("first_kernels")
def test_a_table_becomes_a_clamp(tmp_path: Path) -> None:
    before = checked(tmp_path, chain(16, activation="Tanh"))
    found = checked(tmp_path, chain(16, activation="Tanh"), flash=before.flash - 1)
    option = found.advice[0]
    assert (option.kind, option.change) == ("clamp", "HardTanh instead of Tanh")
    assert option.figures.flash <= before.flash - 512
    assert option.figures.macs == before.figures.macs
    assert sum(layer.op == "lookup" for layer in before.figures.layers) == 2


@pytest.mark.usefixtures("first_kernels")
def test_several_budgets_are_met_by_several_changes(tmp_path: Path) -> None:
    before = checked(tmp_path, chain(48, 128))
    limits = {"flash": before.flash - 2500, "latency": f"{0.75 * before.figures.cycles / 48:.0f}us @ 48MHz"}
    found = checked(tmp_path, chain(48, 128), **limits)
    option = next(option for option in found.advice if option.kind == "width and input")
    rebuilt = checked(tmp_path, chain(48, option.edit.widths["conv2"], option.edit.inputs["x"][2]), **limits)
    assert rebuilt.fits
    assert amounts(rebuilt) == (option.figures.flash, option.figures.ram, option.figures.cycles)
    assert ", and input 'x' from 1x3x32x32 to " in option.change


def test_of_changes_of_one_thing_the_smaller_size_counts() -> None:
    one = Edit({"a": 8, "b": 4}, {"x": (1, 3, 24, 32)}, {"t": "Clip"})
    other = Edit({"a": 6, "c": 2}, {"x": (1, 3, 32, 28)}, {"u": "Relu"})
    for edits in ([one, other], [other, one]):
        assert advice._merged(edits) == Edit(
            {"a": 6, "b": 4, "c": 2}, {"x": (1, 3, 24, 28)}, {"t": "Clip", "u": "Relu"}
        )


def test_narrower_layers_and_a_smaller_input_where_neither_is_enough(tmp_path: Path) -> None:
    limit = f"{checked(tmp_path, chain()).figures.cycles // 10} cycles"
    found = checked(tmp_path, chain(), latency=limit)
    assert [option.kind for option in found.advice] == ["widths and input"]
    assert found.advice[0].figures.cycles <= int(limit.split()[0])
    first, second = (found.advice[0].edit.widths[name] for name in ("conv1", "conv2"))
    assert checked(tmp_path, chain(first, second, found.advice[0].edit.inputs["x"][2]), latency=limit).fits


def test_no_cycles_are_saved_where_none_are_known(tmp_path: Path) -> None:
    limit = checked(tmp_path, chain(40)).ram
    for cpu, known in (("cortex-m0", True), ("generic", False)):
        text = str(checked(tmp_path, chain(64), cpu=cpu, ram=limit))
        assert "of RAM" in text.partition("saves")[2]
        assert ("cycles" in text.partition("saves")[2]) == known


def test_groups_of_a_convolution_stay_whole(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w1", "a", name="first"),
        node("Conv", "a w2", "b", name="grouped", group=2),
        node("GlobalAveragePool", "b", "y"),
    ]
    constants = {"w1": weights(8, 3, 1, 1), "w2": weights(4, 4, 1, 1)}
    imported = import_outline(save(tmp_path, model(nodes, {"x": [1, 3, 4, 4]}, ["y"], constants))).model
    assert resized(imported, Edit(widths={"first": 6})) is not None
    assert resized(imported, Edit(widths={"first": 5})) is None


@pytest.mark.usefixtures("first_kernels")
def test_what_is_normalized_is_as_wide_as_the_layer_in_front(tmp_path: Path) -> None:
    def narrow(width: int) -> onnx.ModelProto:
        nodes = [
            node("Gemm", "x w1", "a", name="wide", transB=1),
            node("LayerNormalization", "a scale bias", "n"),
            node("Gemm", "n w2", "y", transB=1),
        ]
        constants = {"w1": weights(width, 9), "scale": weights(width), "bias": weights(width), "w2": weights(3, width)}
        return model(nodes, {"x": [1, 9]}, ["y"], constants)

    limit = checked(tmp_path, narrow(40)).flash
    option = checked(tmp_path, narrow(64), flash=limit).advice[0]
    assert option.edit.widths == {"wide": 40}
    assert option.figures.flash == limit


def test_a_mask_that_is_not_read_is_judged(tmp_path: Path) -> None:
    """It was taken for one that is the same everywhere, and left out."""
    mask = np.tril(np.ones((300, 300), np.bool_))
    nodes = [node("Tanh", "x", "t"), node("Where", "m t low", "w"), node("Softmax", "w", "y")]
    constants = {"m": mask, "low": np.float32(-np.inf)}
    path = save(tmp_path, model(nodes, {"x": [1, 300, 300]}, ["y"], constants))
    judged = network_of(import_outline(path).model, "m")
    assert [layer.op for layer in judged.layers] == ["lookup", "where", "softmax"]
    assert judged.layers[1].constants["mask"].size == mask.size


def test_operands_without_axes_and_masks_go_with_a_layer(tmp_path: Path) -> None:
    """A constant of shape () ended in a traceback where advice was looked for."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Add", "c one", "a"),
        node("Where", "m a low", "b"),
        node("GlobalAveragePool", "b", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f v", "y"),
    ]
    nodes[0].name = "first"
    constants = {"w": weights(8, 3, 3, 3), "one": np.float32(1), "low": np.float32(-1e9), "v": weights(8, 2)}
    constants["m"] = weights(1, 8, 4, 4) > 0
    imported = import_outline(save(tmp_path, model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants))).model
    changed = resized(imported, Edit(widths={"first": 5}))
    assert changed is not None
    shapes = [list(tensor.dims) for tensor in changed[0].graph.initializer if len(tensor.dims) == 4]
    assert sorted(shapes) == [[1, 5, 4, 4], [5, 3, 3, 3]]


def test_changes_never_touch_what_the_model_answers(tmp_path: Path) -> None:
    imported = import_outline(save(tmp_path, chain())).model
    assert resized(imported, Edit(widths={"classifier": 4})) is None


def test_far_beyond_any_limit_is_said_at_once(tmp_path: Path) -> None:
    found = checked(tmp_path, chain(64), latency="1us @ 48MHz")
    assert found.hopeless
    assert "it needs another network" in str(found)


def test_nothing_that_fits_is_an_answer_too(tmp_path: Path) -> None:
    found = checked(tmp_path, chain(4, 4), flash=300)
    assert not found.advice
    assert "No change of sizes that was tried fits" in str(found)


@pytest.mark.parametrize("name", ["int8/kws01_int8", "int8/ic01_int8", "public/kj_resnet_q"])
def test_int8_models_get_advice(name: str, reference_dir: Path) -> None:
    path = reference_dir / "models" / f"{name}.onnx"
    before = nnbuild.check(path, cpu="cortex-m0")
    found = nnbuild.check(path, cpu="cortex-m0", ram=round(before.ram * 0.7), stream_rows="never")
    assert found.advice
    assert found.advice[0].figures.ram <= before.ram * 0.7
    assert sorted(option.removed for option in found.advice) == [option.removed for option in found.advice]


def test_what_a_change_saves_of_an_int8_model_is_what_it_saves_of_the_float_one(reference_dir: Path) -> None:
    """The float model that is made of an int8 file takes other amounts; what it saves carries over."""
    path = reference_dir / "models" / "int8" / "kws01_int8.onnx"
    before = nnbuild.check(path, cpu="cortex-m0")
    before = nnbuild.check(path, cpu="cortex-m0", ram=round(before.ram * 0.7), stream_rows="never")
    option = before.advice[0]
    model = unquantized(import_outline(path).model)
    changed = resized(model, option.edit)
    assert changed is not None
    own, after = (figures(network_of(proto, ""), before.setup) for proto in (model, changed[0]))
    assert (own.flash, own.cycles) != (before.flash, before.figures.cycles)
    for what in ("flash", "ram", "cycles", "macs"):
        now, then = getattr(before.figures, what), getattr(option.figures, what)
        assert now - then == getattr(own, what) - getattr(after, what), what


# Large models.


ALEXNET = (
    # outputs, inputs, kernel, stride, pad, groups
    (96, 3, 11, 4, 0, 1),
    (256, 96, 5, 1, 2, 2),
    (384, 256, 3, 1, 1, 1),
    (384, 384, 3, 1, 1, 2),
    (256, 384, 3, 1, 1, 2),
)


def alexnet(folder: Path, inside: bool) -> Path:
    """61 million parameters in 233 MB, 724 million multiplications. Its weights are a hole in a sparse file."""
    nodes: list[onnx.NodeProto] = []
    constants: list[TensorProto] = []
    value = "x"

    def constant(name: str, *dims: int) -> str:
        constants.append(TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT))
        return name

    for index, (outputs, inputs, kernel, stride, pad, groups) in enumerate(ALEXNET):
        names = [constant(f"w{index}", outputs, inputs // groups, kernel, kernel), constant(f"b{index}", outputs)]
        attributes: dict[str, Any] = {"strides": [stride] * 2, "pads": [pad] * 4, "group": groups}
        nodes.append(helper.make_node("Conv", [value, *names], [f"c{index}"], name=f"conv{index}", **attributes))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        value = f"r{index}"
        if index in (0, 1, 4):
            nodes.append(helper.make_node("MaxPool", [value], [f"p{index}"], kernel_shape=[3, 3], strides=[2, 2]))
            value = f"p{index}"
    nodes.append(helper.make_node("Flatten", [value], ["flat"]))
    value = "flat"
    for index, (outputs, count) in enumerate(((4096, 9216), (4096, 4096), (1000, 4096)), 6):
        names = [constant(f"w{index}", outputs, count), constant(f"b{index}", outputs)]
        nodes.append(helper.make_node("Gemm", [value, *names], [f"g{index}"], name=f"fc{index}", transB=1))
        value = f"g{index}"
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 227, 227])
    result = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "alexnet", [source], [result])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return _with_zeros(folder, proto, constants) if inside else _beside(folder, proto, constants)


def _size(tensor: TensorProto) -> int:
    return 4 * int(math.prod(tensor.dims))


def _beside(folder: Path, proto: onnx.ModelProto, constants: list[TensorProto]) -> Path:
    end = 0
    for tensor in constants:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "alexnet.data"), ("offset", end), ("length", _size(tensor))):
            tensor.external_data.add(key=key, value=str(value))
        end += _size(tensor)
    proto.graph.initializer.extend(constants)
    with (folder / "alexnet.data").open("wb") as stream:
        stream.truncate(end)
    return save(folder, proto, "alexnet.onnx")


def _with_zeros(folder: Path, proto: onnx.ModelProto, constants: list[TensorProto]) -> Path:
    """Protobuf messages behind each other are one message: a graph with one tensor for each, its raw data a hole."""

    def field(number: int, length: int) -> bytes:
        varint = [length >> shift & 0x7F | 0x80 for shift in range(0, max(length.bit_length(), 1), 7)]
        return bytes([number << 3 | 2, *varint[:-1], varint[-1] & 0x7F])

    path = save(folder, proto, "alexnet.onnx")
    with path.open("ab") as stream:
        for tensor in constants:
            head = tensor.SerializeToString() + field(9, _size(tensor))
            initializer = field(5, len(head) + _size(tensor)) + head
            stream.write(field(7, len(initializer) + _size(tensor)) + initializer)
            stream.truncate(stream.tell() + _size(tensor))
            stream.seek(0, os.SEEK_END)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
def test_alexnet_is_judged_within_five_seconds_and_500_mb(inside: bool, tmp_path: Path) -> None:
    path = alexnet(tmp_path, inside)
    script = (
        "import re, resource, sys\n"
        "from nnbuild.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        # ru_maxrss of a new process starts at that of the process which forked it.
        "peak = re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1]\n"
        "print(status, used.ru_utime + used.ru_stime, peak, file=sys.stderr)"
    )
    limits = ["--cpu", "cortex-m4", "--flash", "32M", "--ram", "1M", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, "check", str(path), *limits],
        env={"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    status, seconds, peak = done.stderr.split()
    (found,) = json.loads(done.stdout)
    assert found["weights"] > 60e6
    assert found["macs"] > 720e6
    assert (int(status), found["fits"]) == (1, False)
    assert found["advice"][0]["flash"] <= 32 * 2**20
    assert float(seconds) < 5
    assert int(peak) < 500 * 1024


# nnbuild.run.


def int8_file(folder: Path) -> tuple[Path, onnx.ModelProto]:
    from nnbuild.estimate.shapes import made_up_ranges

    imported = import_model(save(folder, chain()))
    result = quantize(imported, made_up_ranges(imported))
    return save(folder, result, "m.int8.onnx"), result


def test_run_answers_as_the_integer_reference(tmp_path: Path) -> None:
    path, proto = int8_file(tmp_path)
    network = lower(proto)
    images = np.random.default_rng(0).normal(0, 0.5, (3, 3, 32, 32)).astype(np.float32)
    quant = network.tensors[network.inputs[0].tensor].quant
    expected = np.concatenate([interpret.run(network, [quant.quantize(image)])[0] for image in images])
    integers = nnbuild.run(path, quant.quantize(images))
    assert isinstance(integers, np.ndarray)
    assert integers.dtype == np.int8
    np.testing.assert_array_equal(integers, expected)
    floats = nnbuild.run(path, images)
    np.testing.assert_array_equal(floats, network.tensors[network.outputs[0].tensor].quant.dequantize(expected))
    np.testing.assert_array_equal(nnbuild.run(path, images[1]), floats[1])  # type: ignore[index]
    np.testing.assert_array_equal(nnbuild.run(path, {"x": images[:1]}), floats[:1])  # type: ignore[index]


def test_run_reads_a_changed_file_again(tmp_path: Path) -> None:
    path, _ = int8_file(tmp_path)
    zeros = np.zeros((3, 32, 32), np.float32)
    assert nnbuild.run(path, zeros).shape == (5,)  # type: ignore[union-attr]
    imported = import_model(save(tmp_path, chain(8)))
    from nnbuild.estimate.shapes import made_up_ranges

    path.write_bytes(quantize(imported, made_up_ranges(imported)).SerializeToString())
    os.utime(path, ns=(1, 1))
    assert nnbuild.run(path, zeros).shape == (5,)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 31, 32), np.float32), "input 'x' takes Nx3x32x32 numbers, not"),
        ({"z": np.zeros((3, 32, 32), np.float32)}, "needs a value for each of x"),
        (np.full((3, 32, 32), np.nan, np.float32), "input 'x' takes finite numbers"),
        (np.full((3, 32, 32), "1"), "input 'x' takes finite numbers"),
    ],
)
def test_run_refuses_what_does_not_fit(x: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        nnbuild.run(int8_file(tmp_path)[0], x)


def test_run_wants_an_int8_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no int8 model; hint: quantize it"):
        nnbuild.run(save(tmp_path, chain()), np.zeros((3, 32, 32), np.float32))
    with pytest.raises(ModelError, match="cannot read"):
        nnbuild.run(tmp_path / "none.onnx", np.zeros(3, np.float32))
