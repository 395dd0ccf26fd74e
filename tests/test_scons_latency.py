"""Budgets of time in builds: real scons, a stand-in that says how many cycles its model takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scons_project import HOST, MAIN, Project

MODEL = "weights=16 cycles={cycles} basis={basis}"
BUILD = HOST + '{set}\nkws = env.NNModel("models/kws.onnx", {options})\nenv.Program("fw", ["main.c", kws])\n'


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "my firmware")
    made.write({"main.c": MAIN, "models/kws.onnx": MODEL.format(cycles=10_000, basis="fit")})
    return made


def declare(project: Project, options: str, variables: str = "") -> None:
    project.write({"SConstruct": BUILD.format(set=variables, options=options)})


def over(project: Project, *arguments: str) -> str:
    """A run that must fail before anything is linked; its one line of error."""
    output = project.scons(*arguments, status=2)
    assert not (project.folder / "fw").exists()
    assert project.files("kws.o") == []
    assert project.files("kws.o.overbudget") == ["kws.o.overbudget"]
    (line,) = [line for line in output.splitlines() if "kws latency is " in line]
    return line


def good(project: Project) -> str:
    output = project.scons()
    assert (project.folder / "fw").exists()
    assert project.files("*.overbudget") == []
    assert not project.built(project.scons())
    return output


def test_limits_that_come_and_go(project: Project) -> None:
    declare(project, 'latency="200us @ 48MHz"')
    line = over(project)
    # 10,000 cycles at 48 MHz.
    assert "kws latency is 8.4 us over its limit: 208.4 of 200.0 us" in line
    assert "slowest layers, cycles: kws_l00_conv2d 10,000 (100 %)" in line
    assert "fit error at most 9 %" in line
    over(project)  # again: not 'up to date'
    declare(project, 'latency="210us @ 48MHz"')
    good(project)  # the limit is raised
    (project.folder / "fw").unlink()
    declare(project, 'latency="200us @ 48MHz"')
    over(project)
    project.write({"models/kws.onnx": MODEL.format(cycles=5000, basis="fit")})
    good(project)  # a faster model
    declare(project, 'latency="0.2ms @ 48000kHz"')
    assert not project.built(project.scons())  # the same limit, written otherwise


def test_what_the_chip_is_like(project: Project) -> None:
    declare(project, 'latency="209us @ 48MHz"')
    good(project)
    (project.folder / "fw").unlink()
    declare(project, 'latency="209us @ 48MHz"', "env['NN_FLASH_WAIT_STATES'] = 1")
    # 100 accesses to flash by the layer, 100 outside of it.
    assert "212.5 of 209.0 us" in over(project)
    declare(project, 'latency="209us @ 48MHz, 0ws"', "env['NN_FLASH_WAIT_STATES'] = 1")
    good(project)
    (project.folder / "fw").unlink()
    declare(project, 'latency="209us @ 48MHz"', "env['NN_MUL_CYCLES'] = 32")
    # 31 cycles more for each of 20 multiplications.
    assert "221.3 of 209.0 us" in over(project)
    declare(project, 'latency="10620 cycles"', "env['NN_MUL_CYCLES'] = 32")
    good(project)


def test_cycles_measured_on_the_board(project: Project) -> None:
    cycles = "env['NN_CYCLES'] = 'board.json'"
    entry = {"model_id": "0x12345678", "cycles": 9000}
    project.write({"board.json": json.dumps({"kws": entry})})
    declare(project, 'latency="200us @ 48MHz"', cycles)
    good(project)
    (project.folder / "fw").unlink()
    project.write({"board.json": json.dumps({"kws": {**entry, "cycles": 9601}})})
    assert "9,601 cycles, measured on the board" in over(project)
    project.write({"board.json": json.dumps({"kws": {**entry, "model_id": "0x12345679"}})})
    output = project.scons(status=2)
    assert "warning: kws: the cycles in NN_CYCLES were measured on 0x12345679, and this model is 0x12345678" in output
    assert "208.4 of 200.0 us" in output
    project.write({"board.json": "{"})
    output = project.scons(status=2)
    assert "board.json: is no JSON" in output


def test_a_core_without_timings(project: Project) -> None:
    project.write({"models/kws.onnx": MODEL.format(cycles=10_000, basis="instructions_x_factor")})
    declare(project, 'latency="200us @ 48MHz"')
    output = project.scons()
    (line,) = [line for line in output.splitlines() if "latency" in line]
    assert "not judged without latency_strict=True: about 208 of 200 us, instructions x factor" in line
    (project.folder / "fw").unlink()
    declare(project, 'latency="200us @ 48MHz", latency_strict=True')
    assert "208.4 of 200.0 us" in over(project)


def test_report_of_an_image(project: Project) -> None:
    declare(project, 'latency="210us @ 48MHz, 1ws", flash="10K"', "env['NN_FLASH_WAIT_STATES'] = 3")
    sconstruct = (project.folder / "SConstruct").read_text()
    project.write({"SConstruct": sconstruct.replace("env.Program(", "fw = env.Program(") + "env.NNBudget(fw)\n"})
    output = project.scons(status=2)
    assert "212.5 of 210.0 us" in output
    project.write({"SConstruct": (project.folder / "SConstruct").read_text().replace("210us", "213us")})
    project.scons()
    report = json.loads((project.folder / "fw.size.json").read_text())
    (verdict,) = [row for row in report["budgets"] if row["what"] == "kws latency"]
    assert (verdict["value"], verdict["limit"], verdict["unit"], verdict["ok"]) == (212.5, 213, "us", True)
    (model,) = report["models"]
    assert model["latency"] == {
        **{"cycles": 10_200, "us": 212.5, "mhz": 48, "wait_states": 1, "mul_cycles": 1},
        **{"basis": "fit", "error_percent": 9.0},
    }
    assert model["layers"][0]["cycles"] == 10_100
    # Another limit that holds: the report had the old one.
    project.write({"SConstruct": (project.folder / "SConstruct").read_text().replace("213us", "214us")})
    project.scons()
    report = json.loads((project.folder / "fw.size.json").read_text())
    assert [row["limit"] for row in report["budgets"] if row["what"] == "kws latency"] == [214]
    text = (project.folder / "fw.size.txt").read_text()
    assert "time  ~10,200 cycles, ~212.5 us at 48 MHz, 1 wait state, fit error at most 9 % on this core" in text


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        ('latency="2ms"', "", "option 'latency' must name the clock, as in '2ms @ 48MHz', not '2ms'"),
        ("latency_strict=True", "", "option 'latency_strict' needs latency"),
        ("", "env['NN_CYCLES'] = 'board.json'", "board.json: no such file, and nothing builds it; hint: cycles that"),
        ("", "env['NN_FLASH_WAIT_STATES'] = 'two'", "NN_FLASH_WAIT_STATES must be 0 to 15, not 'two'"),
        ("", "env['NN_CYCLES'] = 5", "models/kws.onnx: NN_CYCLES must be one file, not 5"),
        ("", "env['NN_CYCLES'] = ['models']", "models: NN_CYCLES must be a file, and this is a folder"),
        ("", "env['NN_MUL_CYCLES'] = 2", "NN_MUL_CYCLES must be 1 or 32, not 2"),
    ],
)
def test_what_can_be_wrong(project: Project, options: str, variables: str, message: str) -> None:
    declare(project, options, variables)
    output = project.scons(status=2)
    (line,) = [line for line in output.splitlines() if line.startswith("scons: ***")]
    assert message in line


def test_a_host_that_compiles_gets_no_slow_model(project: Project) -> None:
    """sources=True: the time needs no objects, so it is judged before the host gets the C; it was refused."""
    more = "latency='{limit} @ 48MHz', sources=True"
    declare(project, more.format(limit="209us"))
    output = project.scons()
    assert "model kws: kws latency 208.4 of 209.0 us" in output
    assert not project.built(project.scons())
    declare(project, more.format(limit="208us"))
    for _ in range(2):
        output = project.scons(status=2)
        assert "kws latency is 0.4 us over its limit: 208.4 of 208.0 us" in output
        assert project.files("kws.c") == []
    declare(project, more.format(limit="209us"))
    project.scons()
    assert not project.built(project.scons())


def test_an_image_of_sources_has_the_model_in_its_report(project: Project) -> None:
    """It was missing there: nobody had compiled the model's objects but the host."""
    declare(project, "sources=True")
    text = (project.folder / "SConstruct").read_text().replace("env.Program(", "fw = env.Program(")
    project.write({"SConstruct": text + "env.NNBudget(fw)\n"})
    project.scons()
    (model,) = json.loads((project.folder / "fw.size.json").read_text())["models"]
    assert model["name"] == "kws"
    assert model["layers"][0]["weights"]
    assert "model kws: KWS_MODEL_ID" in project.scons("nn-size")


def test_time_is_judged_with_link_time_optimization(project: Project) -> None:
    """It failed: `holds no machine code yet`, which only `flash=` and `ram=` need."""
    declare(project, "latency='209us @ 48MHz'", "env.Append(CCFLAGS=['-flto'])")
    assert "model kws: kws latency 208.4 of 209.0 us" in project.scons()


def test_cycles_that_the_build_makes(project: Project) -> None:
    """What env.Command returns is a list, which ended in a traceback."""
    made = "env['NN_CYCLES'] = env.Command('board.json', 'measured.json', Copy('$TARGET', '$SOURCE'))"
    project.write({"measured.json": '{"kws": {"model_id": "0x12345678", "cycles": 9000}}'})
    declare(project, 'latency="200us @ 48MHz"', made)
    assert "kws latency 187.5 of 200.0 us" in good(project)


def test_cycles_of_another_name(project: Project) -> None:
    """A misspelt name was estimated cycles without a word."""
    project.write({"board.json": '{"kwz": {"model_id": "0x12345678", "cycles": 9000}}'})
    declare(project, 'latency="209us @ 48MHz"', "env['NN_CYCLES'] = 'board.json'")
    assert "warning: kws: NN_CYCLES has no cycles of it, only of kwz; estimated instead" in project.scons()
