"""The SCons tool with nnbuild's real commands, on models of a few bytes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.scons_project import Project
from tests.test_recurrent import INPUTS, explicit, sequences

SCONSTRUCT = 'env = Environment(tools=["default", "nn"])\n'
MODEL = SCONSTRUCT + 'kws = env.NNModel("models/kws.onnx", calibration="models/calib.npz", selftest=2)\n'
MAIN = """#include "kws.h"
int main(void)
{
    static const int8_t input[KWS_INPUT_SIZE] = {1};
    static int8_t output[KWS_OUTPUT_SIZE];
    return kws_run(input, output) | kws_selftest();
}
"""


def model(seed: int = 1, operator: str = "Relu") -> bytes:
    """Gemm 8 -> 4 and an activation."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(8, 4)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="dense"),
            onnx.helper.make_node(operator, ["h"], ["y"], name="last"),
        ],
        "tiny",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])],
        [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(np.ones(4, np.float32), "b")],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    return bytes(made.SerializeToString())


def samples(scale: float = 1.0) -> bytes:
    """Calibration data for `model`."""
    stream = io.BytesIO()
    np.savez(stream, x=np.linspace(-scale, scale, 64, dtype=np.float32).reshape(8, 8))
    return stream.getvalue()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "my firmware")
    made.write({"models/kws.onnx": model(), "models/calib.npz": samples(), "main.c": MAIN})
    made.write({"SConstruct": MODEL + 'env.Program("fw.elf", ["main.c", kws])\n'})
    return made


def test_firmware_runs_and_rebuilds_what_it_must(project: Project) -> None:
    project.scons()
    assert subprocess.run([project.folder / "fw.elf"], check=False).returncode == 0
    assert not project.built(project.scons())
    before = project.path("kws.int8.onnx").read_bytes()
    # The same samples in a compressed file: quantized again, to the same bytes, and nothing after that.
    data = np.load(project.folder / "models/calib.npz")["x"]
    np.savez_compressed(project.folder / "models/calib.npz", x=data)
    output = project.scons()
    assert "QUANT" in output
    assert "NNGEN" not in output
    assert project.path("kws.int8.onnx").read_bytes() == before
    project.write({"models/calib.npz": samples(scale=3.0)})
    assert "NNGEN" in project.scons()
    assert subprocess.run([project.folder / "fw.elf"], check=False).returncode == 0


def test_made_up_samples_are_never_silent(project: Project) -> None:
    """In the call and in a sidecar; nothing of that name has to exist, and the report of every build says it."""
    told = "scales are made up (calibration='synthetic')"
    made_up = MODEL.replace("models/calib.npz", "synthetic").replace("selftest=2", 'flash="64K"')
    project.write({"SConstruct": made_up})
    assert told in project.scons()
    assert 'made-up samples (calibration="synthetic")' in next(project.folder.rglob("kws.c")).read_text()
    project.write({"SConstruct": made_up.replace('calibration="synthetic", ', "")})
    project.write({"models/kws.toml": 'calibration = "synthetic"\n'})
    output = project.scons()
    assert told in output
    assert not project.built(output)
    project.write({"models/kws.toml": 'calibration = "calib.npz"\n'})
    assert told not in project.scons()


def test_kept_ranges_take_the_place_of_a_calibration(project: Project) -> None:
    """They are a dependency; with samples there are corrections too."""
    project.scons()
    before = project.path("kws.int8.onnx").read_bytes()
    ranges = project.folder / "models/kws.ranges.json"
    command = ["calibrate", "models/kws.onnx", "--calibration", "models/calib.npz", "-o", str(ranges)]
    subprocess.run([sys.executable, "-m", "nnbuild", *command], cwd=project.folder, check=True)
    both = MODEL.replace("selftest=2", 'selftest=2, ranges="models/kws.ranges.json"')
    project.write({"SConstruct": both + 'env.Program("fw.elf", ["main.c", kws])\n'})
    output = project.scons()
    assert "QUANT" in output
    assert "NNGEN" not in output
    assert project.path("kws.int8.onnx").read_bytes() == before
    document = json.loads(ranges.read_text())
    document["tensors"]["y"] = [0.0, 99.0]
    ranges.write_text(json.dumps(document))
    assert "NNGEN" in project.scons()


def test_name_in_sources_gives_the_same_bytes(project: Project) -> None:
    project.scons()
    generated = {path.name: path.read_bytes() for path in (project.folder / "build/nn").rglob("kws*.[ch]")}
    image = (project.folder / "fw.elf").read_bytes()
    shutil.rmtree(project.folder / "build")
    (project.folder / ".sconsign.dblite").unlink()
    project.write({"SConstruct": SCONSTRUCT + 'env.Program("fw.elf", ["main.c", "models/kws.onnx"])\n'})
    project.write({"models/kws.toml": 'calibration = "calib.npz"\nselftest = 2\n'})
    project.scons()
    assert {path.name: path.read_bytes() for path in (project.folder / "build/nn").rglob("kws*.[ch]")} == generated
    assert (project.folder / "fw.elf").read_bytes() == image


def test_image_budget_with_the_real_report(project: Project) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    flags = '["-mcpu=cortex-m0", "-mthumb", "-Os"]'
    project.write(
        {
            "SConstruct": SCONSTRUCT.replace(
                '"nn"]',
                f'"nn"], CC="arm-none-eabi-gcc", CCFLAGS={flags}, '
                'LINKFLAGS=["-mcpu=cortex-m0", "-mthumb", "--specs=nosys.specs", "-Wl,--gc-sections"]',
            )
            + 'kws = env.NNModel("models/kws.onnx", calibration="models/calib.npz", selftest=2, flash="4K", ram="1K")\n'
            'env.NNBudget(env.Program("fw.elf", ["main.c", kws]), FLASH="64K", RAM="8K")\n'
        }
    )
    project.scons()
    report = json.loads((project.folder / "fw.size.json").read_text())
    emitted = json.loads(project.path("kws.report.json").read_text())
    assert emitted["cpu"] == "cortex-m0"
    (kws,) = report["models"]
    assert kws["model_id"] == emitted["model_id"]
    assert kws["model_id"] in project.path("kws.h").read_text()
    stored = {layer["name"]: layer["weights_bytes"] for layer in emitted["layers"]}
    assert {layer["name"]: layer["weights"] for layer in kws["layers"]} == stored
    assert kws["flash"]["weights"] == sum(stored.values())
    assert kws["flash"]["code"] > 0
    assert kws["flash"]["selftest"] > 0
    assert kws["ram"]["arena"] == emitted["arena_bytes"]


def test_unsupported_model_is_told_by_line(project: Project) -> None:
    project.write({"models/kws.onnx": model(operator="Hardmax")})
    output = project.scons(status=2)
    (line,) = [line for line in output.splitlines() if "Hardmax" in line]
    assert line.startswith("models/kws.onnx: node 'last'")
    assert "scons: *** [build/nn/kws.int8.onnx] Error 1" in output
    project.write({"models/kws.onnx": model()[:-40]})
    assert "models/kws.onnx: " in project.scons(status=2)
    assert project.files("*.int8.onnx") == []


def test_missing_calibration_and_compiler(project: Project) -> None:
    project.write({"SConstruct": SCONSTRUCT + 'env.NNModel("models/kws.onnx")\n'})
    assert "models/kws.onnx: " in project.scons(status=2)
    project.write({"SConstruct": MODEL.replace('"nn"]', '"nn"], CC="no-such-cc"')})
    assert "cannot run the compiler 'no-such-cc'" in project.scons(status=2)


def test_core_by_name_needs_no_compiler_to_ask(project: Project) -> None:
    project.write({"SConstruct": MODEL.replace('"nn"]', '"nn"], CC="no-such-cc", NN_CPU="cortex-m4"')})
    project.scons("build", status=2)
    assert json.loads(project.path("kws.report.json").read_text())["cpu"] == "cortex-m4"


def test_frozen_quantization(project: Project) -> None:
    """Built from the committed file while its lock holds; what changed is named, and freezing again mends it."""
    text = MODEL.replace("selftest=2", 'frozen="models/kws.int8.onnx"')
    project.write({"SConstruct": text, "main.c": MAIN.replace(" | kws_selftest()", "")})
    assert "models/kws.int8.onnx: cannot read" in project.scons(status=2)
    assert "FREEZE models/kws.onnx" in project.scons("nn-freeze")
    assert (project.folder / "models/kws.int8.lock").exists()
    project.scons()
    assert project.path("build/nn/kws.int8.onnx").read_bytes() == (project.folder / "models/kws.int8.onnx").read_bytes()
    assert not project.built(project.scons())
    project.write({"models/kws.onnx": model(seed=2)})
    output = project.scons(status=2)
    assert re.search(r"models/kws.int8.onnx: .*model", output)
    project.scons("nn-freeze")
    project.scons()
    (project.folder / "models/calib.npz").unlink()
    assert "QUANT" in project.scons()  # where the samples are not at hand, the rest of the lock still holds
    project.write({"models/calib.npz": samples(scale=2.0)})
    assert "calibration" in project.scons(status=2)


def test_nothing_to_do_costs_next_to_nothing(project: Project) -> None:
    """At most 0.15 s of CPU time more than the same firmware without its model; the best of five runs each."""
    project.scons()
    project.write(
        {
            "plain/SConstruct": 'env = Environment(tools=["default"])\nenv.Program("fw.elf", ["main.c"])\n',
            "plain/main.c": "int main(void)\n{\n    return 0;\n}\n",
        }
    )
    plain = Project(project.folder / "plain")
    plain.scons(site="")

    def seconds(made: Project) -> float:
        before = os.times()
        assert not made.built(made.scons())
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    pairs = [(seconds(project), seconds(plain)) for _ in range(5)]
    with_model, without = (min(times) for times in zip(*pairs, strict=True))
    assert with_model - without < 0.15


STREAM = """#include "kws.h"
int main(void)
{
    static const int8_t input[KWS_INPUT_SIZE] = {1, 90, -50};
    static int8_t first[KWS_OUTPUT_SIZE], second[KWS_OUTPUT_SIZE], again[KWS_OUTPUT_SIZE];
    int same = 1, goes_on = 0;
    if (kws_run(input, first) != 1) { return 1; }
    kws_reset();
    if (kws_run(input, first) != 0 || kws_run(input, second) != 0) { return 2; }
    kws_reset();
    if (kws_run(input, again) != 0) { return 3; }
    for (int i = 0; i < KWS_OUTPUT_SIZE; i++) {
        same &= first[i] == again[i];
        goes_on |= first[i] != second[i];
    }
    return same && goes_on ? kws_selftest() : 4;
}
"""


def test_a_stream_goes_on_and_its_accuracy_is_that_of_a_sequence(project: Project) -> None:
    explicit(project.folder / "models/kws.onnx", "GRU")
    np.savez(project.folder / "models/calib.npz", x=sequences(1, 60).reshape(-1, 1, INPUTS))
    project.write({"main.c": STREAM})
    options = 'calibration="models/calib.npz", validation="models/calib.npz", min_sqnr=25, selftest=3, ram="1K"'
    call = f'kws = env.NNModel("models/kws.onnx", {options}, states={{"h0": "hn"}})\n'
    program = 'env.Program("fw.elf", ["main.c", kws])\n'
    project.write({"SConstruct": SCONSTRUCT + call + program})
    project.scons()
    assert subprocess.run([project.folder / "fw.elf"], check=False).returncode == 0
    assert not project.built(project.scons())
    project.write({"SConstruct": SCONSTRUCT + call.replace('"h0": "hn"', '"h0": "y"') + program})
    assert "(GRU): output 'y' is not its state after input 'h0'" in project.scons(status=2)
