"""Bounds on accuracy in the build. Real scons; stand-in commands for the mechanics, real ones at the end."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from nnbuild.report import schema
from tests.scons_project import HOST, MAIN, Project
from tests.test_scons_real import MAIN as REAL_MAIN
from tests.test_scons_real import SCONSTRUCT, model, samples

MODEL = (
    HOST + 'kws = env.NNModel("models/kws.onnx", calibration="models/calib.npz", validation="models/val.npz"{more})\n'
)
PROGRAM = MODEL + 'env.Program("fw", ["main.c", kws])\n'
BOUND = ', min_agreement="{}%"'


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The stand-in's validation data are the agreement in percent."""
    made = Project(tmp_path / "my firmware")
    made.write({"main.c": MAIN, "models/kws.onnx": "weights=200 arena=100", "models/calib.npz": "5"})
    made.write({"models/val.npz": "98", "SConstruct": PROGRAM.format(more=BOUND.format(97))})
    return made


def below(project: Project, *arguments: str) -> str:
    """A run that must fail below a bound, and leave nothing of the model's C, nor an image."""
    output = project.scons(*arguments, status=2)
    assert "below its limit" in output
    assert "kws.c] Error 1" in output
    assert project.files("kws*.c") == project.files("kws.h") == project.files("*.o") == []
    assert not (project.folder / "fw").exists()
    return output


def test_measured_then_held_then_written(project: Project) -> None:
    output = project.scons()
    steps = ("QUANT  models/kws.onnx", "HOSTCC build/nn/kws.host", "ACCUR  models/kws.onnx")
    assert "\n".join([*steps, "BOUND  build/nn/kws.int8.onnx", "NNGEN  kws.c\n"]) in output
    assert project.calls() == ["quantize", "host", "accuracy", "accuracy", "emit"]
    assert (project.folder / "build/nn/kws.accuracy.json").exists()
    assert not project.built(project.scons())
    assert project.calls() == []


def test_bounds_and_data_that_come_and_go(project: Project) -> None:
    """Below a bound never turns into up to date, whatever is changed and put back; nothing is measured again."""
    project.write({"SConstruct": PROGRAM.format(more=BOUND.format(99))})
    below(project)
    project.calls()
    below(project)  # again: not 'up to date'
    below(project, "-k", "-j2")
    assert project.calls() == ["accuracy"] * 2  # held against the bound, not measured
    project.write({"SConstruct": PROGRAM.format(more=BOUND.format(98))})
    project.scons()  # the bound is lowered
    assert project.calls() == ["accuracy", "emit"]
    assert not project.built(project.scons())
    project.write({"SConstruct": PROGRAM.format(more=BOUND.format(99))})
    output = project.scons("--debug=explain", status=2)  # raised
    assert "accuracy {'min_agreement': 0.99}" in output
    project.write({"models/val.npz": "99"})
    project.calls()
    project.scons()  # other samples
    assert project.calls() == ["accuracy", "accuracy", "emit"]
    project.write({"models/val.npz": "90"})
    project.scons(status=2)
    project.write({"models/val.npz": "99"})
    project.scons()  # put back
    assert not project.built(project.scons())


def test_equal_bounds_are_no_change(project: Project) -> None:
    project.scons()
    project.write({"SConstruct": PROGRAM.format(more=", min_agreement=0.97")})
    assert not project.built(project.scons())


def test_another_bound_compiles_nothing(project: Project) -> None:
    """The same C is written again, and the build stops there."""
    project.scons()
    project.write({"SConstruct": PROGRAM.format(more=BOUND.format(50))})
    output = project.scons()
    assert "NNGEN" in output
    assert "gcc" not in output


USERS = {
    "program": 'env.Program("fw", ["main.c", kws])\n',
    "library": 'env.Program("fw", "main.c", LIBS=[env.StaticLibrary("kws", kws)])\n',
    "command": 'env.Command("fw", [env.Object("main.c"), kws], "$CC -o $TARGET $SOURCES")\n',
    "sources": 'env.Program("fw", ["main.c", kws])\n',
}


@pytest.mark.parametrize("user", USERS)
def test_whoever_uses_the_model_waits(project: Project, user: str) -> None:
    sources = ", sources=True" if user == "sources" else ""
    project.write({"SConstruct": MODEL.format(more=BOUND.format(99) + sources) + USERS[user]})
    output = project.scons("-j2", "fw", status=2)
    assert "below its limit" in output
    assert not (project.folder / "fw").exists()
    assert project.files("kws*.c") == []
    project.write({"models/val.npz": "99"})
    project.scons("-j2", "fw")
    assert (project.folder / "fw").exists()


def test_every_missed_bound_has_its_line(project: Project) -> None:
    project.write({"SConstruct": PROGRAM.format(more=BOUND.format(99) + ", min_sqnr=35, max_drop=0")})
    lines = [line for line in below(project).splitlines() if line.startswith("build/nn/kws.accuracy.json: ")]
    agreement, sqnr, drop = lines
    assert "kws agreement is 1.00 percent below its limit: 98.00 of at least 99.00 percent" in agreement
    assert "kws sqnr is 5.00 dB below its limit: 30.00 of at least 35.00 dB" in sqnr
    assert "kws drop is 1.00 points over its limit: 1.00 of 0.00 points" in drop
    for line in lines:
        assert "hint: most noise is added by kws_l00_conv2d (30.5 dB); alone, kws_l00_conv2d loses most: " in line


def test_a_drop_is_met_exactly_or_missed(project: Project) -> None:
    """99 % in float and 98 % in int8 are one point; what the samples lose is not measured again."""
    project.write({"SConstruct": PROGRAM.format(more=', max_drop="1%"')})
    project.scons()
    project.calls()
    project.write({"SConstruct": PROGRAM.format(more=', max_drop="0.99%"')})
    output = project.scons(status=2)
    assert re.search(r"\n  kws drop +1\.00 points +0\.99 points +0\.01 points\n", output)
    assert "kws drop is 0.01 points over its limit: 1.00 of 0.99 points" in output
    assert project.calls() == ["accuracy"]
    assert project.files("kws.c") == []
    project.write({"SConstruct": PROGRAM.format(more=", max_drop=0.01")})
    project.scons()


def test_the_program_is_made_once(project: Project) -> None:
    """Other samples run it again; another compiler makes it again; the same network for another core takes it."""
    project.scons()
    project.calls()
    project.write({"models/val.npz": "99"})
    project.scons()
    assert project.calls() == ["accuracy", "accuracy", "emit"]
    clang = PROGRAM.replace(HOST, HOST + 'env["HOSTCC"] = ["clang", "-m64"]\n')
    project.write({"SConstruct": clang.format(more=BOUND.format(97))})
    assert "HOSTCC build/nn/kws.host" in project.scons()
    assert project.calls() == ["host", "accuracy", "accuracy", "emit"]
    assert json.loads((project.folder / "build/nn/kws.accuracy.json").read_text())["evaluated_by"] == "clang -m64"
    assert not project.built(project.scons())
    text = HOST + (
        "for cpu, cc in ('cortex-m0', 'cc'), ('cortex-m4', 'gcc'):\n"
        "    core = env.Clone(NN_CPU=cpu, NN_VARIANT=cpu, OBJSUFFIX=f'.{cpu}.o', HOSTCC=cc)\n"
        '    core.StaticLibrary(cpu, core.NNModel("models/kws.onnx", validation="models/val.npz"))\n'
    )
    project.write({"SConstruct": text})
    assert "kws.int8.onnx: declared twice with different options: HOSTCC" in project.scons(status=2)


@pytest.mark.parametrize("how", ["HOSTCC=''", "HOSTCC=[]", "ENV=dict(PATH='')"])
def test_without_a_compiler_the_reference_evaluates(project: Project, how: str) -> None:
    text = PROGRAM.replace(HOST, HOST.replace("Environment(", f"Environment({how}, "))
    project.write({"SConstruct": text.format(more=BOUND.format(97))})
    project.scons("build/nn/kws.accuracy.json")
    assert project.calls() == ["quantize", "accuracy"]
    assert json.loads((project.folder / "build/nn/kws.accuracy.json").read_text())["evaluated_by"] == "reference"
    assert project.files("*.host") == []


def test_without_bounds_it_is_a_report(project: Project) -> None:
    """Other samples: another report, and neither C nor image."""
    project.write({"SConstruct": PROGRAM.format(more=""), "models/val.npz": "3"})
    project.scons("fw")  # who asks for the image alone gets the report too
    assert sorted(project.calls()) == ["accuracy", "emit", "host", "quantize"]
    project.write({"models/val.npz": "4"})
    project.scons("fw")
    assert project.calls() == ["accuracy"]
    assert json.loads((project.folder / "build/nn/kws.accuracy.json").read_text())["agreement"] == 4
    assert not project.built(project.scons())


def test_validation_is_no_reason_to_quantize(project: Project) -> None:
    project.scons()
    project.calls()
    project.write({"models/val.npz": "99"})
    output = project.scons()
    assert project.calls() == ["accuracy", "accuracy", "emit"]
    assert "gcc" not in output
    project.write({"models/calib.npz": "6"})
    project.scons()
    assert project.calls() == ["quantize", "host", "accuracy", "accuracy", "emit"]


def test_folder_with_an_added_file(project: Project) -> None:
    text = PROGRAM.replace("models/val.npz", "models/val").format(more=BOUND.format(97))
    project.write({"SConstruct": text, "models/val/a.npz": "60", "models/val/b.npz": "37", "models/val/c.txt": "9"})
    (project.folder / "models/val/c.txt").unlink()  # the stand-in reads all files
    project.scons()
    project.calls()
    project.write({"models/val/0.npy": "-1"})
    assert "agreement" in project.scons(status=2)
    assert project.calls() == ["accuracy", "accuracy"]
    (project.folder / "models/val/0.npy").unlink()
    project.scons()


def test_function_in_a_file(project: Project) -> None:
    text = PROGRAM.replace("models/val.npz", "tools/val.py:samples").format(more=BOUND.format(97))
    project.write({"SConstruct": text, "tools/val.py": "98"})
    project.scons()
    project.calls()
    project.write({"tools/val.py": "96"})
    project.scons(status=2)
    assert project.calls() == ["accuracy", "accuracy"]


def test_options_beside_the_model(project: Project) -> None:
    """Paths are relative to the sidecar; the call's bound wins."""
    text = HOST + 'env.Program("fw", ["main.c", {}])\n'
    sidecar = 'calibration = "calib.npz"\nvalidation = "val.npz"\nmin_agreement = "99%"\n'
    project.write({"SConstruct": text.format('"models/kws.onnx"'), "models/kws.toml": sidecar})
    below(project)
    project.write({"SConstruct": text.format('env.NNModel("models/kws.onnx", min_agreement=0.9)')})
    project.scons()


def test_two_cores_measure_once(project: Project) -> None:
    text = (
        HOST + "for cpu, bound in ('cortex-m0', {0}), ('cortex-m4', {1}):\n"
        "    core = env.Clone(NN_CPU=cpu, NN_VARIANT=cpu, OBJSUFFIX=f'.{{cpu}}.o')\n"
        '    core.StaticLibrary(cpu, core.NNModel("models/kws.onnx", validation="{2}", min_agreement=bound))\n'
    )
    project.write({"SConstruct": text.format(0.97, 0.97, "models/val.npz")})
    project.scons()
    assert sorted(project.calls()) == ["accuracy", "accuracy", "accuracy", "emit", "emit", "host", "quantize"]
    assert project.files("*.accuracy.json") == ["kws.accuracy.json"]
    project.write({"SConstruct": text.format(0.97, 0.99, "models/val.npz")})
    project.scons("-k", status=2)
    assert project.files("kws.c") == ["kws.c"]  # the other core has what it needs
    project.write({"SConstruct": text.format(0.97, 0.97, "models/${NN_CPU}.npz")})
    assert "models/kws.onnx: declared twice with different options: validation" in project.scons(status=2)


def test_other_integers_have_their_own_report(project: Project) -> None:
    project.write({"SConstruct": PROGRAM.format(more=', input_layout="NHWC", rounding="single"')})
    project.scons()
    assert project.files("*.accuracy.json") == ["kws.NHWC.single.accuracy.json"]


def test_clean_and_dry_run(project: Project) -> None:
    assert "ACCUR  models/kws.onnx\n" in project.scons("-n")
    assert project.calls() == []
    project.scons()
    project.scons("-c")
    assert project.files("*.json") == project.files("*.host") == []


def test_verbose_prints_the_command(project: Project) -> None:
    output = project.scons("VERBOSE=1")
    words = "models/kws.onnx build/nn/kws.int8.onnx --samples models/val.npz --name kws --summary --json "
    assert f" accuracy {words}build/nn/kws.accuracy.json --program build/nn/kws.host\n" in output
    assert " host build/nn/kws.int8.onnx --name kws --host-cc cc -o build/nn/kws.host\n" in output
    assert " accuracy --report build/nn/kws.accuracy.json --min-agreement 0.97\n" in output
    assert not project.built(project.scons())


ERRORS = {
    "bound alone": ("min_sqnr=25", "option 'min_sqnr' needs validation"),
    "no share": ('validation="models/val.npz", min_agreement=97', "option 'min_agreement' must be a share above 0"),
    "no number": ('validation="models/val.npz", min_sqnr="25 %"', "option 'min_sqnr' must be a ratio in dB"),
    "no such file": ('validation="models/none.npz"', "none.npz"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_user_errors_are_one_line(project: Project, name: str) -> None:
    given, message = ERRORS[name]
    project.write({"SConstruct": HOST + f'env.NNModel("models/kws.onnx", {given})\n'})
    output = project.scons(status=2)
    assert message in output
    assert len([line for line in output.splitlines() if "scons: ***" in line]) == 1


def test_the_images_report_has_it(project: Project) -> None:
    """Also where only the samples change; and a limit of the image is checked beside it."""
    text = PROGRAM.replace('env.Program("fw"', 'fw = env.Program("fw.elf"') + "env.NNBudget(fw{{}})\n"
    project.write({"SConstruct": text.format(more="").replace("{}", "")})
    for agreement in (98, 3):
        project.write({"models/val.npz": str(agreement)})
        project.scons()
        report = json.loads((project.folder / "fw.size.json").read_text())
        found = report["models"][0]["accuracy"]
        assert (found["agreement"], found["min_agreement"], found["min_sqnr"]) == (agreement, None, None)
        assert report["budgets"] == []
        assert report["models"][0]["layers"][0]["sqnr_db"] == 30.0
        assert (
            f"{agreement}.00 % agree with the float model, SQNR 30.00 dB"
            in (project.folder / "fw.size.txt").read_text()
        )
    project.write({"SConstruct": text.format(more=', min_agreement="3%", min_sqnr=30').replace("{}", ', FLASH="1M"')})
    project.scons()
    report = json.loads((project.folder / "fw.size.json").read_text())
    assert [(row["what"], row["value"], row["limit"], row["unit"], row["ok"]) for row in report["budgets"][1:]] == [
        ("kws agreement", 3, 3.0, "percent", True),
        ("kws sqnr", 30.0, 30.0, "dB", True),
    ]
    assert report["models"][0]["accuracy"]["min_agreement"] == 3.0
    assert "3.00 % agree" in project.scons("nn-size")


# --- nnbuild's real commands -------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path: Path) -> Project:
    made = Project(tmp_path / "my firmware")
    rng = np.random.default_rng(2)
    np.savez(made.folder / "val.npz", x=rng.uniform(-1, 1, (40, 8)).astype(np.float32), y=np.zeros(40, np.int64))
    made.write({"models/kws.onnx": model(), "models/calib.npz": samples(), "main.c": REAL_MAIN})
    return made


REAL = SCONSTRUCT + (
    'kws = env.NNModel("models/kws.onnx", calibration="models/calib.npz", selftest=2, validation="val.npz"{})\n'
    'env.Program("fw.elf", ["main.c", kws])\n'
)


def test_real_model_passes_and_misses(real: Project) -> None:
    real.write({"SConstruct": REAL.format(', min_agreement="80%", min_sqnr=60')})
    output = real.scons(status=2)
    (line,) = [line for line in output.splitlines() if line.startswith("build/nn/kws.accuracy.json: ")]
    assert " dB below its limit: " in line
    before = (real.folder / "build/nn/kws.accuracy.json").read_bytes()
    text = REAL.format(', min_agreement="80%", min_sqnr=10').replace("env.Program(", "fw = env.Program(")
    real.write({"SConstruct": text + "env.NNBudget(fw)\n"})
    real.scons()
    assert (real.folder / "fw.elf").exists()
    assert not real.built(real.scons())
    found = json.loads(before)
    emitted = json.loads(real.path("kws.report.json").read_text())
    assert found["model_id"] == emitted["model_id"]
    assert [layer["name"] for layer in found["layers"]] == [layer["name"] for layer in emitted["layers"]]
    assert found["samples"] == 40
    document = json.loads((real.folder / "fw.size.json").read_text())
    assert schema.violations(document, strict=True) == []
    (kws,) = document["models"]
    assert kws["accuracy"]["sqnr_db"] == found["sqnr_db"]
    assert [layer["sqnr_db"] for layer in kws["layers"]] == [layer["sqnr_db"] for layer in found["layers"]]
    assert found["top1"] is not None
    shutil.rmtree(real.folder / "build")
    real.scons()
    assert (real.folder / "build/nn/kws.accuracy.json").read_bytes() == before


def test_who_evaluates_changes_nothing_else(real: Project) -> None:
    """The C on this machine, and without it the reference: the same figures, one of which says who computed them."""
    found = []
    for compiler in ("", "gcc", "clang"):
        real.write({"SConstruct": REAL.replace(SCONSTRUCT, SCONSTRUCT + f"env['HOSTCC'] = '{compiler}'\n").format("")})
        real.scons()
        assert not real.built(real.scons())
        found.append(json.loads((real.folder / "build/nn/kws.accuracy.json").read_text()))
    by = [report.pop("evaluated_by") for report in found]
    assert by[0] == "reference"
    assert [text.split()[0] for text in by[1:]] == ["gcc", "clang"]
    assert found[0] == found[1] == found[2]
    assert not [name for name in real.files("*") if name.startswith((".kws", "made"))]


BROKEN_COMPILERS = {
    "missing": ("no-such-cc", "no-such-cc: there is no such compiler; hint: HOSTCC"),
    "broken": ("false", "false: cannot compile the network for this machine: it does not say why; hint: HOSTCC"),
    "wrong flag": ("gcc -fno-such", "gcc: cannot compile the network for this machine: "),
    "no program": ("touch", "touch: cannot compile the network for this machine: "),
}


@pytest.mark.parametrize("name", BROKEN_COMPILERS)
def test_a_compiler_that_cannot_is_one_line(real: Project, name: str) -> None:
    """Nothing half made is left."""
    compiler, message = BROKEN_COMPILERS[name]
    text = REAL.replace(SCONSTRUCT, SCONSTRUCT + f"env['HOSTCC'] = {compiler.split()}\n")
    real.write({"SConstruct": text.format("")})
    output = real.scons(status=2)
    assert [message in line for line in output.splitlines()].count(True) == 1
    assert "kws.host] Error 1, see above; declared in SConstruct" in output
    assert real.files("*.host") == real.files("*.accuracy.json") == []


def test_a_compiler_of_the_project_and_one_without_native_code(real: Project) -> None:
    """A path is that of the top folder; a compiler that refuses -march=native is taken without, and once it works."""
    text = REAL.replace(SCONSTRUCT, SCONSTRUCT + "env['HOSTCC'] = 'tools/cc'\n").format("")
    script = '#!/bin/sh\ncase "$*" in *-march=native*) echo "error: no such flag" >&2; exit 1;; esac\nexec gcc "$@"\n'
    real.write({"SConstruct": text, "tools/cc": script.replace("exec gcc", "false #")})
    (real.folder / "tools/cc").chmod(0o755)
    assert "tools/cc: cannot compile the network for this machine" in real.scons(status=2)
    real.write({"tools/cc": script})
    real.scons()
    found = json.loads((real.folder / "build/nn/kws.accuracy.json").read_text())
    assert found["evaluated_by"].startswith("gcc ")


def test_labels_decide_a_drop(real: Project) -> None:
    real.write({"SConstruct": REAL.format(", max_drop=0.5")})
    real.scons()
    np.savez(real.folder / "val.npz", x=np.load(real.folder / "val.npz")["x"])
    output = real.scons(status=2)
    (line,) = [line for line in output.splitlines() if line.startswith("build/nn/kws.accuracy.json: ")]
    assert "kws drop is unknown, and its limit is 50.00 points; hint: the validation data have no labels" in line
    assert re.search(r"\n  kws drop +unknown +50\.00 points +\?\n", output)


def test_frozen_model_is_compared_with_its_float_model(real: Project) -> None:
    text = REAL.format(', frozen="models/kws.int8.onnx", min_sqnr={}')
    real.write({"SConstruct": text.format(10)})
    real.scons("nn-freeze")
    real.scons()
    real.write({"SConstruct": text.format(60)})
    assert "kws sqnr is " in real.scons(status=2)


def test_a_quantized_model_has_no_float_model(real: Project) -> None:
    real.write({"SConstruct": REAL.format("")})
    real.scons()
    shutil.copy(real.folder / "build/nn/kws.int8.onnx", real.folder / "models/q.onnx")
    real.write({"SConstruct": SCONSTRUCT + 'env.NNModel("models/q.onnx", validation="val.npz", min_sqnr=9)\n'})
    output = real.scons(status=2)
    (line,) = [line for line in output.splitlines() if line.startswith("models/q.onnx: ")]
    assert "this model is quantized: there is no float model to compare with; hint: leave validation out" in line


def test_validation_that_does_not_fit_is_one_line(real: Project) -> None:
    real.write({"SConstruct": REAL.format("")})
    np.savez(real.folder / "val.npz", x=np.zeros((4, 9), np.float32))
    output = real.scons(status=2)
    (line,) = [line for line in output.splitlines() if line.startswith("val.npz: ")]
    assert "do not fit input 'x'" in line
    assert not (real.folder / "fw.elf").exists()
    assert real.files("*.accuracy.json") == []
