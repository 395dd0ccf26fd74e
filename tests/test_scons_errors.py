"""What a user can get wrong: each ends in one readable line that names the user's own line, and in no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scons_project import HOST, MAIN, ROOT, Project

MODEL = "weights=200 arena=100"
KWS = 'env.NNModel("models/kws.onnx")\n'
FW = 'fw = env.Program("fw", ["main.c", "models/kws.onnx"])\n'


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "my firmware")
    made.write({"main.c": MAIN, "models/kws.onnx": MODEL, "models/calib.npz": "5", "other/kws.onnx": MODEL})
    return made


def last_line(text: str) -> int:
    """The number of the last line of a SConstruct: that of the mistake, in the tables below."""
    return len((HOST + text).splitlines())


# --- found while the SConstruct is read: its line follows ---------------------------------------------------------

READING = {
    "two models of one name": (
        'env.NNModel("models/kws.onnx")\nenv.NNModel("other/kws.onnx")\n',
        "other/kws.onnx: models/kws.onnx has the same base name; hint: give one of the two another: name='...'",
    ),
    "two models of one name in two folders": (
        'env.NNModel("models/kws.onnx")\nenv["NN_DIR"] = "build/other"\nenv.NNModel("other/kws.onnx")\n',
        "other/kws.onnx: models/kws.onnx has the same name in this environment; hint: kws.h could be either",
    ),
    "model as an object": (
        'env.Object("models/kws.onnx")\n',
        "models/kws.onnx: an .onnx becomes several objects, not one; hint: list it in Program or StaticLibrary",
    ),
    "the model is what nnbuild writes": (
        'env.NNModel("build/nn/kws.int8.onnx")\n',
        "build/nn/kws.int8.onnx: lies where nnbuild writes its int8 model; hint: keep it outside of NN_DIR, or give",
    ),
    "baseline that is a folder": (
        FW + 'env["NN_BASELINE"] = "models"\nenv.NNBudget(fw)\n',
        "models: NN_BASELINE must be a file, and this is a folder",
    ),
    "other samples": (
        'env.NNModel("models/kws.onnx")\nenv.NNModel("models/kws.onnx", calibration="models/calib.npz")\n',
        "models/kws.onnx: declared twice with different options: calibration",
    ),
    "other options": (
        'env.NNModel("models/kws.onnx")\nenv.Clone().NNModel("models/kws.onnx", selftest=1, ram="1K")\n',
        "models/kws.onnx: declared twice with different options: selftest, ram; hint: a Clone with its own NN_VARIANT",
    ),
    "one variant of two compilers": (
        'env["NN_VARIANT"] = "a"\nenv.NNModel("models/kws.onnx")\nenv.Clone(CC="cc").NNModel("models/kws.onnx")\n',
        "models/kws.onnx: NN_VARIANT 'a' is used with different compilers or flags",
    ),
    "misspelt option": (
        'env.NNModel("models/kws.onnx", calibartion="a")\n',
        "models/kws.onnx: unknown option 'calibartion'; hint: did you mean 'calibration'?",
    ),
    "later option": (
        'env.NNModel("models/kws.onnx", weights="external")\n',
        "models/kws.onnx: option 'weights' (where weights are stored) is not in this version",
    ),
    "no flag": (
        'env.Clone(NN_ASSEMBLY="no").NNModel("models/kws.onnx")\n',
        "models/kws.onnx: NN_ASSEMBLY must be True or False, not 'no'",
    ),
    "misspelled variable": (
        'env.Clone(NN_VARIENT="m0").NNModel("models/kws.onnx")\n',
        "models/kws.onnx: unknown construction variable NN_VARIENT; hint: did you mean NN_VARIANT?",
    ),
    "wrong value": (
        'env.NNModel("models/kws.onnx", flash="64G")\n',
        "models/kws.onnx: option 'flash' must be a number of bytes or text like '64K' (K is 1024), not '64G'",
    ),
    "path of a wrong type": (
        'env.NNModel("models/kws.onnx", calibration=3)\n',
        "models/kws.onnx: option 'calibration' must be a path, not 3",
    ),
    "two calibrations": (
        'env.NNModel("models/kws.onnx", calibration=["a", "b"])\n',
        "models/kws.onnx: option 'calibration' must be one path, not ['a', 'b']",
    ),
    "no model": ("env.NNModel([])\n", "NNModel: takes one model, not 0"),
    "no name": ('env.NNModel("")\n', "NNModel: takes the name of an .onnx file"),
    "no onnx": ('env.NNModel("main.c")\n', "main.c: is no .onnx file"),
    "no C name": ('env.NNModel("models/3d.onnx")\n', "3d.onnx: '3d' is no prefix for C names; hint: add name='kws'"),
    "budget of a source": (
        'env.NNBudget("main.c", FLASH="1K")\n',
        "main.c: nothing builds this file; hint: call env.Program",
    ),
    "budget of nothing": ('env.NNBudget([], FLASH="1K")\n', "NNBudget: takes what env.Program returned"),
    "budget that is no size": (
        'env.NNBudget(env.Program("fw", "main.c"), FLASH="much")\n',
        "fw: budget FLASH must be a number of bytes or text like '64K' (K is 1024) or a share like '85%', not 'much'",
    ),
    "share without a length": (
        'env.NNBudget(env.Program("fw", "main.c"), FLASH="85%")\n',
        "fw: budget FLASH is a share of a length that nobody knows; hint: add linker_script=",
    ),
    "region without a script": (
        'env.NNBudget(env.Program("fw", "main.c"), CCM="1K")\n',
        "fw: budget for region 'CCM', which needs linker_script; hint: without one the regions are FLASH and RAM",
    ),
    "two budgets": (
        'fw = env.Program("fw", "main.c")\nenv.NNBudget(fw, FLASH="1K")\nenv.NNBudget(fw, FLASH="2K")\n',
        "fw: has two different budgets; hint: put all limits into one env.NNBudget",
    ),
    "no model at all": ("env.NNModel()\n", "NNModel: missing a required argument: 'model'"),
    "two models": ('env.NNModel("models/kws.onnx", "models/calib.npz")\n', "NNModel: too many positional arguments"),
    "a number": ("env.NNModel(5)\n", "NNModel: takes the name of an .onnx file, not 5"),
    "None": ("env.NNModel(None)\n", "NNModel: takes the name of an .onnx file, not None"),
    "bytes": ('env.NNModel(b"models/kws.onnx")\n', "NNModel: takes the name of an .onnx file, not b'models/kws.onnx'"),
    "an alias": ('env.NNModel(env.Alias("all"))\n', "NNModel: takes the name of an .onnx file, not <SCons.Node.Alias"),
    "a folder": ('env.NNModel("models")\n', "models: is a folder, not a file"),
    "a node of a folder": ('env.NNModel(Dir("models"))\n', "models: is no .onnx file"),
    "a folder in Program": ('env.Program("fw", ["main.c", "folder.onnx"])\n', "folder.onnx: is a folder, not a file"),
    "calibration that is an alias": (
        'env.NNModel("models/kws.onnx", calibration=env.Alias("x"))\n',
        "models/kws.onnx: option 'calibration' must be one path, not [<SCons.Node.Alias",
    ),
    "names that differ in capitals": (
        'env.NNModel("models/kws.onnx")\nenv.NNModel("other/KWS.onnx")\n',
        "other/KWS.onnx: models/kws.onnx has the same base name; hint: give one of the two another: name='...'",
    ),
    "a sidecar that is no TOML": (
        'env.NNModel("bad/toml.onnx")\n',
        "bad/toml.toml: not a TOML file: Invalid value (at line 2, column 9)",
    ),
    "a sidecar that is no text": ('env.NNModel("bad/bytes.onnx")\n', "bad/bytes.toml: not a TOML file: "),
    "a sidecar with a wrong value": (
        'env.NNModel("bad/value.onnx")\n',
        "bad/value.toml: option 'ram' must be a number of bytes or text like '64K' (K is 1024), not [1]",
    ),
    "a sidecar with a wrong path": (
        'env.NNModel("bad/path.onnx")\n',
        "bad/path.toml: option 'calibration' must be a path, not 5",
    ),
    "a sidecar that is a folder": ('env.NNModel("bad/folder.onnx")\n', "Directory "),
    "NN_DIR of a file": ('env["NN_DIR"] = "main.c"\n' + KWS, "File "),
    "NN_DIR below a file": ('env["NN_DIR"] = "main.c/nn"\n' + KWS, "File "),
    "NN_DIR of nothing": (
        'env["NN_DIR"] = "$BULID_DIR"\n' + KWS,
        "models/kws.onnx: NN_DIR must be a folder, not '$BULID_DIR'; hint: such as NN_DIR='build/nn'",
    ),
    "NN_DIR that is no path": ('env["NN_DIR"] = 5\n' + KWS, "models/kws.onnx: NN_DIR must be a folder, not 5"),
    "NN_VARIANT that leaves NN_DIR": (
        'env["NN_VARIANT"] = "../m0"\n' + KWS,
        "models/kws.onnx: NN_VARIANT must be the name of a folder in NN_DIR, not '../m0'",
    ),
    "NN_VARIANT that is no text": (
        'env["NN_VARIANT"] = ["m0"]\n' + KWS,
        "models/kws.onnx: NN_VARIANT must be text, not ['m0']",
    ),
    "NN_CPU that is no text": ('env["NN_CPU"] = 0\n' + KWS, "models/kws.onnx: NN_CPU must be text, not 0"),
    "another version": (
        'env["NN_REQUIRE"] = ">=0.0.9,<0.1"\n' + KWS,
        "NN_REQUIRE: this is nnbuild 0.1.0, and >=0.0.9,<0.1 is required; hint: it is in ",
    ),
    "a version that is none": (
        'env["NN_REQUIRE"] = ">=0.0.9,0.1"\n' + KWS,
        "NN_REQUIRE: '0.1' is no condition on a version; hint: such as NN_REQUIRE='>=0.3,<0.4'",
    ),
    "a version as a number": ('env["NN_REQUIRE"] = 0.3\n' + KWS, "NN_REQUIRE: must be text, not 0.3; hint: such as"),
    "a version that the tool is not": (
        'env = Environment(tools=["default", "nn"], NN_REQUIRE="<0.1")\n',
        "NN_REQUIRE: this is nnbuild 0.1.0, and <0.1 is required",
    ),
    "budget without an image": ("env.NNBudget()\n", "NNBudget: missing a required argument: 'elf'"),
    "misspelled variable of a budget": (
        'env.Clone(NN_CYLCES="a.json").NNBudget(env.Program("fw", "main.c"))\n',
        "NNBudget: unknown construction variable NN_CYLCES; hint: did you mean NN_CYCLES?",
    ),
    "budget of None": ("env.NNBudget(None)\n", "NNBudget: takes what env.Program returned, not None"),
    "budget of an alias": ('env.NNBudget(env.Alias("x"))\n', "NNBudget: takes what env.Program returned, not x"),
    "budget of a folder": ('env.NNBudget("models")\n', "Directory "),
    "limit without a region": (FW + 'env.NNBudget(fw, "64K")\n', "NNBudget: too many positional arguments"),
    "limit of None": (FW + "env.NNBudget(fw, FLASH=None)\n", "fw: budget FLASH must be a number of bytes or text like"),
    "budget before its Program": (
        'env.NNBudget("fw", FLASH="1K")\n',
        "fw: nothing builds this file; hint: call env.Program before env.NNBudget and pass its result",
    ),
    "linker script that is not there": (
        FW + 'env.NNBudget(fw, linker_script="no.ld")\n',
        "no.ld: no such linker script, and nothing builds it; hint: declare what builds it before env.NNBudget",
    ),
    "linker script that is a folder": (
        FW + 'env.NNBudget(fw, linker_script="models")\n',
        "models: linker_script must be a file, and this is a folder",
    ),
    "two linker scripts": (
        FW + 'env.NNBudget(fw, linker_script=["a.ld", "b.ld"])\n',
        "fw: linker_script must be one file, not ['a.ld', 'b.ld']",
    ),
    "linker script that is a number": (
        FW + "env.NNBudget(fw, linker_script=5)\n",
        "fw: linker_script must be one file, not 5",
    ),
    "a mistake in a function": ("def firmware():\n    env.NNModel(5)\n\nfirmware()\n", "NNModel: takes the name of"),
}
IN_A_FUNCTION = {"a mistake in a function": 2}
"""How many lines the mistake stands above the last."""


@pytest.mark.parametrize("name", list(READING))
def test_found_while_reading(project: Project, name: str) -> None:
    text, expected = READING[name]
    project.write(
        {
            "SConstruct": HOST + text,
            "other/KWS.onnx": MODEL,
            "folder.onnx/x": "",
            "bad/toml.toml": "# one\nflash = \n",
            "bad/bytes.toml": b"\xff\xfe",
            "bad/value.toml": "ram = [1]\n",
            "bad/path.toml": "calibration = 5\n",
            "bad/folder.toml/x": "",
        }
    )
    output = project.scons(status=2)
    message, place = output.split("scons: *** ")[1].splitlines()
    assert message.startswith(expected), output
    line = last_line(text) - IN_A_FUNCTION.get(name, 0)
    assert place.startswith(f'File "{project.folder}/SConstruct", line {line}, in '), output
    assert output.count("***") == 1
    assert project.calls() == []


def test_all_findings_of_one_call(project: Project) -> None:
    project.write({"SConstruct": HOST + 'env.NNModel("models/kws.onnx", zzz=1, flash="x", arena="y")\n'})
    output = project.scons(status=2).split("scons: *** ")[1].splitlines()
    assert [line.split("'")[1] for line in output[:-1]] == ["zzz", "arena", "flash"]
    assert output[-1] == f'File "{project.folder}/SConstruct", line 2, in <module>'


def test_all_findings_of_one_budget(project: Project) -> None:
    """One of them was said, and the next one in the next run."""
    project.write({"SConstruct": HOST + FW + 'env.NNBudget(fw, FLASH="64Q", CCM=1, RAM="5%", growth="x")\n'})
    output = project.scons(status=2)
    for named in (
        "budget FLASH must be",
        "budget for region 'CCM', which needs",
        "budget RAM is a share",
        "growth is held against",
    ):
        assert output.count(f"fw: {named}") == 1, named
    assert output.count("scons: ***") == 1


@pytest.mark.parametrize("command", ["nn-size", "nn-report", "nn-baseline", "nn-freeze"])
def test_commands_without_anything_to_do(project: Project, command: str) -> None:
    """SCons said that it does not know how to make a file of that name."""
    project.write({"SConstruct": HOST + 'env.Clone()\nenv.Program("fw", "main.c")\n'})
    (line,) = [line for line in project.scons(command, status=2).splitlines() if "***" in line]
    assert line.startswith(f"scons: *** [{command}:] no ")
    assert "; hint: " in line


def test_line_of_a_sconscript_and_of_a_module(project: Project) -> None:
    project.write(
        {
            "SConstruct": HOST + 'Export("env")\nSConscript("src/SConscript", variant_dir="out", duplicate=0)\n',
            "src/SConscript": 'Import("env")\n\nenv.NNModel(5)\n',
        }
    )
    assert f'File "{project.folder}/src/SConscript", line 3, in <module>' in project.scons(status=2)
    project.write({"SConstruct": HOST + "import firmware\nfirmware.add(env)\n"})
    project.write({"firmware.py": "def add(env):\n    env.NNBudget(5)\n"})
    assert f'File "{project.folder}/firmware.py", line 2, in add' in project.scons(status=2)


def test_line_where_nnbuild_is_a_folder_of_the_project(project: Project) -> None:
    """A checkout below the SConstruct is still not the user's."""
    (project.folder / "third_party").symlink_to(ROOT)
    project.write(
        {
            "SConstruct": HOST.replace('"nn"], ', '"nn"], toolpath=["third_party/nnbuild/scons"], ')
            + 'env.NNModel("models/kws.onnx", flash="1")\nenv.NNModel(5)\n'
        }
    )
    output = project.scons(status=2, site="")
    assert f'File "{project.folder}/SConstruct", line 3, in <module>' in output
    text = (project.folder / "SConstruct").read_text().replace("env.NNModel(5)\n", "")
    project.write({"SConstruct": text})
    assert "see above; declared in SConstruct, line 2\n" in project.scons("build", status=2, site="")


def test_faults_of_nnbuild_are_one_line(project: Project) -> None:
    """An object that no check foresaw; NNBUILD_DEBUG shows where it happened."""
    text = "class Odd(str):\n    def __str__(self):\n        raise KeyError('odd')\n\n\n"
    project.write({"SConstruct": text + HOST + 'env.NNModel(Odd("models/kws.onnx"))\n'})
    output = project.scons(status=2)
    assert (
        "*** internal error: KeyError: 'odd'; hint: this is a fault of nnbuild; NNBUILD_DEBUG=1 shows where" in output
    )
    assert f'File "{project.folder}/SConstruct", line 7, in <module>' in output


# --- found while something is built: the target, what is wrong, and the line that declares it ----------------------

OPTION = 'env.NNModel("models/kws.onnx", {})\n'
BUILDING = {
    "no model": ('env.NNModel("models/no.onnx")\n', "[build/nn/no.int8.onnx] models/no.onnx: not found"),
    "no model in Program": (
        'env.Program("fw", ["main.c", "models/no.onnx"])\n',
        "[build/nn/no.int8.onnx] models/no.onnx: not found",
    ),
    "a link to itself": ('env.NNModel("loop.onnx")\n', "[build/nn/loop.int8.onnx] loop.onnx: not found"),
    "no samples": (
        OPTION.format('calibration="models/no.npz"'),
        "[build/nn/kws.int8.onnx] models/no.npz: not found",
    ),
    "no samples of a sidecar": ('env.NNModel("side/car.onnx")\n', "[build/nn/car.int8.onnx] side/no.npz: not found"),
    "no file of the function": (
        OPTION.format('calibration="models/no.py:samples"'),
        "[build/nn/kws.int8.onnx] models/no.py: not found",
    ),
    "no Python": (
        'env["NNPYTHON"] = "no-such-python"\n' + KWS,
        "[build/nn/kws.int8.onnx] cannot run 'no-such-python': No such file or directory; hint: set NNPYTHON",
    ),
    "a folder as Python": (
        'env["NNPYTHON"] = "./models"\n' + KWS,
        "[build/nn/kws.int8.onnx] cannot run './models': Permission denied; hint: set NNPYTHON",
    ),
    "a text as Python": (
        'env["NNPYTHON"] = "./main.c"\n' + KWS,
        "[build/nn/kws.int8.onnx] cannot run './main.c': Permission denied; hint: set NNPYTHON",
    ),
    "no command": (
        'env["NNQUANTCOM"] = ""\n' + KWS,
        "[build/nn/kws.int8.onnx] there is no command to run; hint: set NNPYTHON",
    ),
    "a folder that cannot be": (
        'env["NN_DIR"] = "/proc/nn"\nDefault(env.NNModel("models/kws.onnx"))\n',
        "[/proc/nn] /proc/nn: No such file or directory",
    ),
}
SAID_ABOVE = {
    "a broken model": (
        'env.NNModel("other/broken.onnx")\n',
        "other/broken.onnx: node 'conv1' (Conv): broken\n",
        "[build/nn/broken.int8.onnx] Error 1, see above",
    ),
    "linker script without regions": (
        FW + 'env.NNBudget(fw, linker_script="main.c")\n',
        "main.c: has no MEMORY block; hint: name the script that has it, or give FLASH= and RAM= alone\n",
        "[fw] Error 1, see above",
    ),
    "budget of a library": (
        'env.NNBudget(env.StaticLibrary("kws", ["models/kws.onnx"]))\n',
        "libkws.a: is no ELF file that can be read; hint: ",
        "[libkws.a] Error 1, see above",
    ),
    "budget of what is no ELF": (
        'env.NNBudget(env.Command("fw.elf", "main.c", Copy("$TARGET", "$SOURCE")))\n',
        "fw.elf: is no ELF file that can be read; hint: ",
        "[fw.elf] Error 1, see above",
    ),
    "over budget": (
        FW + 'env.NNBudget(fw, FLASH="16")\n',
        "fw: FLASH is ",
        "[fw] Error 1, see above",
    ),
}


@pytest.fixture
def building(project: Project) -> Project:
    project.write({"other/broken.onnx": "broken", "side/car.onnx": MODEL, "side/car.toml": 'calibration = "no.npz"\n'})
    (project.folder / "loop.onnx").symlink_to("loop.onnx")
    return project


@pytest.mark.parametrize("name", list(BUILDING))
def test_found_while_building(building: Project, name: str) -> None:
    text, expected = BUILDING[name]
    building.write({"SConstruct": HOST + text})
    output = building.scons("-Q", status=2)
    stops = [line for line in output.splitlines() if line.startswith("scons: ***")]
    declared = "" if "/proc" in text else f"; declared in SConstruct, line {last_line(text)}"
    assert stops == [f"scons: *** {expected}{declared}"], output
    assert building.files("*.int8.onnx") == []


@pytest.mark.parametrize("name", list(SAID_ABOVE))
def test_said_by_a_command(building: Project, name: str) -> None:
    text, said, expected = SAID_ABOVE[name]
    building.write({"SConstruct": HOST + text})
    output = building.scons("-Q", status=2)
    stops = [line for line in output.splitlines() if line.startswith("scons: ***")]
    assert stops == [f"scons: *** {expected}; declared in SConstruct, line {last_line(text)}"], output
    assert output.count(f"\n{said}") == 1
