"""CMSIS-NN in builds: when it is used, how its library is made and linked, and one arena for several models."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import fake_cmsis_nn
from tests.scons_project import HOST, MAIN, Project

EXAMPLE = Path(__file__).resolve().parents[1] / "example_firmware" / "models"
GIVEN = HOST.replace('"nn"], ', '"nn"], CMSIS_NN="third_party/CMSIS-NN", ')
PROGRAM = 'env.Program("fw", ["main.c", env.NNModel("models/kws.onnx")])\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A firmware with a CMSIS-NN of a few bytes in its tree and another in the user's cache."""
    for name in ("CMSIS_NN", "CMSIS_PACK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Project(tmp_path / "my firmware")
    made.write({"SConstruct": GIVEN + PROGRAM, "main.c": MAIN, "models/kws.onnx": "weights=200"})
    fake_cmsis_nn.write(made.folder / "third_party/CMSIS-NN")
    fake_cmsis_nn.write(tmp_path / "cache/nnbuild/CMSIS-NN", revision="19.1.0")
    return made


def emitted(project: Project) -> list[str]:
    """The arguments of the one emit command so far."""
    (line,) = [line for line in (project.folder / "calls.log").read_text().splitlines() if line.startswith("emit")]
    return line.split("\t")


def libraries(project: Project) -> list[str]:
    return project.files("libcmsis_nn.a")


def test_library_is_made_once_and_linked_last(project: Project) -> None:
    output = project.scons()
    assert "--cmsis-nn\tthird_party/CMSIS-NN" in (project.folder / "calls.log").read_text()
    assert "--backend" not in emitted(project)
    assert libraries(project) == ["libcmsis_nn.a"]
    link = next(line for line in output.splitlines() if " -o fw " in line)
    assert re.search(r"build/nn/cmsis-nn-[0-9a-f]{8}/libcmsis_nn\.a$", link.rstrip("'\" "))
    assert not project.built(project.scons())
    project.write({"third_party/CMSIS-NN/Source/SVDFunctions/arm_svdf_s8.c": "int other;\n"})
    assert not project.built(project.scons())
    header = project.folder / "third_party/CMSIS-NN/Include/arm_nnfunctions.h"
    header.write_text(header.read_text() + "int32_t arm_more_s8(int32_t value);\n")
    project.calls()
    project.scons()
    assert project.calls() == ["emit"]
    project.scons("-c")
    assert libraries(project) == []


def test_flags_of_the_library(project: Project) -> None:
    """The firmware's own, but for its warnings, then NN_KERNEL_CCFLAGS: -O2 also in a firmware of -O0."""
    flags = 'CFLAGS="-std=c99", CCFLAGS="-O0 -DX=1 -Wall -Wextra -Werror -Wconversion -pedantic", CPPDEFINES=["Y"], '
    project.write({"SConstruct": GIVEN.replace('"nn"], ', f'"nn"], {flags}') + PROGRAM})
    output = project.scons()
    line = next(line for line in output.splitlines() if "arm_softmax_s8.o" in line and " -c " in line)
    assert re.search(r" -std=c99 -O0 -DX=1 -Wall -Wextra -O2 .* -DY ", line)
    assert "-Wconversion" not in line
    assert "-Werror" not in line
    assert re.findall(r"-I\S+", line) == ["-Ithird_party/CMSIS-NN/Include"]
    assert "warning" not in output
    model = next(line for line in output.splitlines() if "kws.o -c" in line)
    assert "third_party/CMSIS-NN/Include" in model
    assert "-Wconversion" in model
    assert "CMSIS" not in next(line for line in output.splitlines() if "main.o -c" in line)


def test_nothing_of_it_unless_named(project: Project) -> None:
    """What lies in somebody's cache is no input of a build that does not ask for it."""
    project.write({"SConstruct": HOST + PROGRAM})
    project.scons()
    assert "--cmsis-nn" not in emitted(project)
    assert libraries(project) == []


@pytest.mark.parametrize("backend", ["cmsis_nn", "auto"])
def test_asked_for_it_is_found_in_the_cache(project: Project, tmp_path: Path, backend: str) -> None:
    project.write({"SConstruct": HOST + PROGRAM.replace('.onnx"', f'.onnx", backend="{backend}"')})
    project.scons()
    arguments = emitted(project)
    assert arguments[arguments.index("--cmsis-nn") + 1] == str(tmp_path / "cache/nnbuild/CMSIS-NN")
    assert arguments[arguments.index("--backend") + 1] == backend
    assert libraries(project) == ["libcmsis_nn.a"]


def test_asked_for_and_not_there(project: Project, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache")
    project.write({"SConstruct": HOST + PROGRAM.replace('.onnx"', '.onnx", backend="cmsis_nn"')})
    output = project.scons(status=2)
    expected = "models/kws.onnx: option backend='cmsis_nn', and no CMSIS-NN was found; hint: set CMSIS_NN to its folder"
    assert f"scons: *** {expected}" in output
    project.write({"SConstruct": HOST + PROGRAM.replace('.onnx"', '.onnx", backend="auto"')})
    project.scons()
    assert libraries(project) == []


def test_direct_wins_over_the_variable(project: Project) -> None:
    project.write({"SConstruct": GIVEN + PROGRAM.replace('.onnx"', '.onnx", backend="direct"')})
    project.scons()
    assert "--cmsis-nn" not in emitted(project)
    assert libraries(project) == []


def test_environment_variable(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the top folder, as the construction variable; that wins."""
    monkeypatch.setenv("CMSIS_NN", "third_party/CMSIS-NN")
    project.write({"SConstruct": HOST + "Export('env')\nSConscript('src/SConscript')\n"})
    project.write({"src/SConscript": "Import('env')\n" + PROGRAM.replace("models", "../models"), "src/main.c": MAIN})
    project.scons()
    assert emitted(project)[-2:] == ["--cmsis-nn", "third_party/CMSIS-NN"]
    project.calls()
    fake_cmsis_nn.write(project.folder / "src/mine")
    project.write(
        {"SConstruct": GIVEN.replace("third_party/CMSIS-NN", "mine") + "Export('env')\nSConscript('src/SConscript')\n"}
    )
    project.scons()
    assert emitted(project)[-2:] == ["--cmsis-nn", "src/mine"]


def test_a_wrong_or_old_folder_is_one_line(project: Project) -> None:
    project.write({"SConstruct": GIVEN.replace("third_party/CMSIS-NN", "third_party") + PROGRAM})
    assert re.search(r"\*\*\* .*/third_party: no CMSIS-NN here: Include/arm_nnfunctions.h is", project.scons(status=2))
    fake_cmsis_nn.write(project.folder / "third_party", revision="12.4.0")
    assert "is older than 6.0.0; hint: take release 6.0.0 or newer" in project.scons(status=2)
    project.write({"SConstruct": GIVEN.replace('"third_party/CMSIS-NN"', "5") + PROGRAM})
    assert "*** CMSIS_NN: must be a folder, not 5" in project.scons(status=2)


def test_firmware_that_builds_it_itself(project: Project) -> None:
    text = PROGRAM.replace('.onnx"', '.onnx", cmsis_nn_sources=False')
    text = text.replace('"main.c"', '"main.c", Glob("third_party/CMSIS-NN/Source/*/arm_softmax_s8.c"), "d.c"')
    text = text.replace("env.Program", 'env["CPPPATH"] = ["third_party/CMSIS-NN/Include"]\nenv.Program')
    project.write(
        {
            "SConstruct": GIVEN + text,
            "d.c": '#include "arm_nnsupportfunctions.h"\nint32_t arm_nn_double(int32_t value) { return value; }\n',
        }
    )
    project.scons()
    assert "--cmsis-nn" in emitted(project)
    assert libraries(project) == []


def test_sources_instead_of_objects(project: Project) -> None:
    project.write({"SConstruct": GIVEN + PROGRAM.replace('.onnx"', '.onnx", sources=True')})
    project.scons()
    assert (project.folder / "fw").exists()


def test_behind_libraries_that_call_it(project: Project) -> None:
    """The model in a library; libraries that are named later, or in the call alone."""
    for text in (
        'lib = env.StaticLibrary("kws", env.NNModel("models/kws.onnx"))\n'
        'env.Program("fw", "main.c", LIBS=["kws"], LIBPATH=["."])\n',
        'env.StaticLibrary("kws", env.NNModel("models/kws.onnx"))\n'
        'env.Append(LIBS=["kws"], LIBPATH=["."])\nenv.Program("fw", "main.c")\n',
        'other = env.Clone()\nlib = other.StaticLibrary("kws", other.NNModel("models/kws.onnx"))\n'
        'env.Program("fw", ["main.c", lib], CPPPATH=other["CPPPATH"])\n',
    ):
        project.write({"SConstruct": GIVEN + text})
        (project.folder / "fw").unlink(missing_ok=True)
        project.scons()
        assert (project.folder / "fw").exists()


def test_two_cores_and_two_models(project: Project) -> None:
    """One library for each core and set of flags, whatever the number of models."""
    project.write(
        {
            "SConstruct": GIVEN + "for flag in ['-DA', '-DB']:\n"
            "    mine = env.Clone(CCFLAGS=[flag], OBJPREFIX=flag[-1])\n"
            '    models = [mine.NNModel("models/kws.onnx"), mine.NNModel("models/two.onnx")]\n'
            '    mine.Program("fw" + flag[-1], ["main.c", models])\n',
            "models/two.onnx": "weights=100",
        }
    )
    project.scons()
    assert libraries(project) == ["libcmsis_nn.a"] * 2
    assert project.calls().count("emit") == 4


def test_single_rounding_follows_the_macro(project: Project) -> None:
    for flags in ('CPPDEFINES={"CMSIS_NN_USE_SINGLE_ROUNDING": 1}', 'CCFLAGS="-DCMSIS_NN_USE_SINGLE_ROUNDING"'):
        project.write({"SConstruct": GIVEN.replace('"nn"], ', f'"nn"], {flags}, ') + PROGRAM})
        output = project.scons()
        assert emitted(project)[-2:] == ["--rounding", "single"]
        line = next(line for line in output.splitlines() if "arm_softmax_s8.o" in line and " -c " in line)
        assert "-DCMSIS_NN_USE_SINGLE_ROUNDING" in line
        project.calls()


# --- with the real commands and the real CMSIS-NN -----------------------------------------------------------------

REAL = (
    'env = Environment(tools=["default", "nn"], CMSIS_NN={root!r}, CC={cc!r}, '
    'CCFLAGS="{core} -O0 -std=c99 -Wall -Wextra -Werror -Wconversion -Wshadow -Wstrict-prototypes {more}", '
    'LINKFLAGS="{link}")\n'
    'given = {{"calibration": "models/touch_calib.npz", "selftest": 3, "arena": "shared", "backend": "cmsis_nn"}}\n'
    'one = env.NNModel("models/touch.onnx", **given)\n'
    'two = env.NNModel("models/touch_cnn.onnx", **given)\n'
    'fw = env.Program("fw.elf", ["main.c", one, two])\n'
    'env.Program("small.elf", ["small.c", one])\n'
    "env.NNBudget(fw)\n"
)
SELFTEST = '#include "{0}.h"\n{1}int main(void);\nint main(void)\n{{\n    return {2};\n}}\n'


def real_project(folder: Path, root: Path, core: str = "", cc: str = "gcc", link: str = "", more: str = "") -> Project:
    made = Project(folder / "my firmware")
    (made.folder / "models").mkdir()
    for name in ("touch.onnx", "touch_cnn.onnx", "touch_calib.npz"):
        shutil.copy(EXAMPLE / name, made.folder / "models")
    both = SELFTEST.format("touch", '#include "touch_cnn.h"\n', "touch_selftest() * 16 + touch_cnn_selftest()")
    small = SELFTEST.format("touch", "", "touch_selftest()")
    text = REAL.format(root=str(root), cc=cc, core=core, link=link, more=more)
    made.write({"SConstruct": text, "main.c": both, "small.c": small})
    return made


def arena_bytes(elf: Path, nm: str = "nm") -> list[int]:
    listed = subprocess.run([nm, "-S", str(elf)], capture_output=True, text=True, check=True).stdout
    return [int(size, 16) for size in re.findall(r"^\w+ (\w+) . \w*_arena$", listed, re.MULTILINE)]


@pytest.mark.parametrize("more", ["", "-flto"])
def test_two_models_with_one_arena_on_the_host(tmp_path: Path, cmsis_nn_dir: Path, more: str) -> None:
    """Under the firmware's own strict warnings and at -O0; with -flto, whose linker compares types across files."""
    project = real_project(tmp_path, cmsis_nn_dir, link=f"{more} -Werror" if more else "", more=more)
    output = project.scons()
    assert "warning" not in output
    for name in ("fw.elf", "small.elf"):
        assert subprocess.run([project.folder / name], check=False).returncode == 0
    reports = [json.loads(path.read_text()) for path in (project.folder / "build/nn").rglob("*.report.json")]
    arenas = {report["name"]: report["arena_bytes"] for report in reports}
    assert arenas["touch_cnn"] > arenas["touch"] > 0
    # One arena an image: as large as the largest of the models that it has, whatever else was built.
    assert arena_bytes(project.folder / "fw.elf") == [arenas["touch_cnn"]]
    assert arena_bytes(project.folder / "small.elf") == [-(-arenas["touch"] // 4) * 4]
    assert "cmsis_nn" in {layer["kernel"] for report in reports for layer in report["layers"]}
    if not more:
        assert not project.built(project.scons())


def test_size_report_of_a_cortex_m4(tmp_path: Path, cmsis_nn_dir: Path) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    core = "-mcpu=cortex-m4 -mthumb"
    project = real_project(
        tmp_path, cmsis_nn_dir, core, "arm-none-eabi-gcc", f"{core} --specs=nosys.specs -Wl,--gc-sections"
    )
    output = project.scons()
    assert "arm-none-eabi-gcc-ar " in output
    size = json.loads((project.folder / "fw.size.json").read_text())
    listed = subprocess.run(
        ["arm-none-eabi-nm", "-S", str(project.folder / "fw.elf")], capture_output=True, text=True, check=True
    ).stdout
    functions = [int(size, 16) for size in re.findall(r"^\w+ (\w+) T arm_\w+$", listed, re.MULTILINE)]
    assert len(functions) > 5
    assert size["flash"]["kernels"] >= sum(functions)
    assert all(model["flash"]["kernels"] == 0 for model in size["models"])
    assert size["ram"]["arena"] == max(model["shared_arena"] for model in size["models"])
