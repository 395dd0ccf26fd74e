"""The SCons tool: what is built, what is built again, and what is said. Real scons runs, stand-in commands."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.scons_project import HOST, MAIN, ROOT, STANDIN_LINE, Project

MODEL = "weights=200 arena=100"
PROGRAM = (
    HOST + 'kws = env.NNModel("models/kws.onnx", calibration="models/calib.npz")\nenv.Program("fw", ["main.c", kws])\n'
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A firmware whose path has a space in it."""
    made = Project(tmp_path / "my firmware")
    made.write({"SConstruct": PROGRAM, "main.c": MAIN, "models/kws.onnx": MODEL, "models/calib.npz": "5"})
    return made


def test_builds_and_then_does_nothing(project: Project) -> None:
    output = project.scons()
    assert "QUANT  models/kws.onnx\nNNGEN  kws.c\n" in output
    assert project.calls() == ["quantize", "emit"]
    assert (project.folder / "fw").exists()
    assert not project.built(project.scons())
    assert project.calls() == []


def test_touched_model_rebuilds_nothing(project: Project) -> None:
    project.scons()
    project.write({"models/kws.onnx": MODEL})
    assert not project.built(project.scons())


def test_changed_model_rebuilds(project: Project) -> None:
    project.scons()
    project.calls()
    project.write({"models/kws.onnx": "weights=300 arena=100"})
    project.scons()
    assert project.calls() == ["quantize", "emit"]


def test_same_numbers_stop_behind_quantizing(project: Project) -> None:
    project.scons()
    project.calls()
    project.write({"models/calib.npz": " 5\n"})
    output = project.scons()
    assert project.calls() == ["quantize"]
    assert "gcc" not in output


def test_other_numbers_reach_the_image(project: Project) -> None:
    project.scons()
    project.calls()
    project.write({"models/calib.npz": "6"})
    project.scons()
    assert project.calls() == ["quantize", "emit"]


def test_changed_main_runs_no_command(project: Project) -> None:
    project.scons()
    project.calls()
    project.write({"main.c": MAIN + "/* */\nint more(void);\n"})
    output = project.scons()
    assert project.calls() == []
    assert "main.c" in output
    assert "kws.c" not in output


def test_main_follows_the_header(project: Project) -> None:
    project.scons()
    tree = project.scons("--tree=prune", "-n", "main.o")
    assert "kws.h" in tree


def test_changed_option_runs_its_command_only(project: Project) -> None:
    project.scons()
    project.calls()
    project.write({"SConstruct": PROGRAM.replace('calib.npz"', 'calib.npz", selftest=2, arena="caller"')})
    project.scons()
    assert project.calls() == ["emit"]
    assert project.files("kws_selftest.o") == ["kws_selftest.o"]


def test_clean_removes_all_that_was_made(project: Project) -> None:
    project.scons()
    project.scons("-c")
    assert project.files("*.o") == project.files("kws*.c") == project.files("*.int8.onnx") == []
    assert project.files("kws.*") == ["kws.onnx"]


def test_dry_run_runs_nothing(project: Project) -> None:
    output = project.scons("-n")
    assert "QUANT  models/kws.onnx\nNNGEN  kws.c\n" in output
    assert project.calls() == []
    assert project.files("*.o") == []


def test_parallel(project: Project) -> None:
    project.scons("-j4")
    assert project.calls() == ["quantize", "emit"]
    assert not project.built(project.scons("-j4"))


def test_explain_names_the_reason(project: Project) -> None:
    project.scons()
    project.write({"models/calib.npz": "7"})
    output = project.scons("--debug=explain")
    assert "rebuilding `build/nn/kws.int8.onnx' because `models/calib.npz' changed" in output


def test_verbose_prints_commands(project: Project) -> None:
    output = project.scons("VERBOSE=1")
    assert " -m nnbuild quantize models/kws.onnx --calibration models/calib.npz -o build/nn/kws.int8.onnx" in output
    assert "QUANT" not in output
    assert not project.built(project.scons())  # how it is shown is no reason to build


def test_messages_are_variables(project: Project) -> None:
    project.write(
        {"SConstruct": PROGRAM.replace('"nn"], ', '"nn"], NNQUANTCOMSTR="Q ${TARGET.file}", NNEMITCOMSTR="", ')}
    )
    output = project.scons()
    assert "\nQ kws.int8.onnx\n" in output
    assert " emit build/nn/kws.int8.onnx --name kws " in output


def test_failing_command_says_its_line_and_leaves_nothing(project: Project) -> None:
    project.scons()
    project.write({"models/kws.onnx": "broken"})
    output = project.scons(status=2)
    assert "models/kws.onnx: node 'conv1' (Conv): broken\n" in output
    assert "scons: *** [build/nn/kws.int8.onnx] Error 1" in output
    assert project.files("*.int8.onnx") == []
    project.write({"models/kws.onnx": MODEL})
    project.scons()
    assert project.files("*.int8.onnx") == ["kws.int8.onnx"]


def test_keep_going_builds_the_rest(project: Project) -> None:
    project.write(
        {
            "SConstruct": HOST + 'env.Program("bad", ["b.c", env.NNModel("models/bad.onnx")])\n'
            'env.Program("good", ["main.c", env.NNModel("models/kws.onnx")])\n',
            "models/bad.onnx": "broken",
            "b.c": '#include "bad.h"\nint main(void)\n{\n    return bad_run(0);\n}\n',
        }
    )
    project.scons("-k", status=2)
    assert (project.folder / "good").exists()
    assert not (project.folder / "bad").exists()


def test_missing_python_is_one_line(project: Project) -> None:
    project.write({"SConstruct": PROGRAM.replace(STANDIN_LINE, 'NNPYTHON="no-such-python"')})
    output = project.scons(status=2)
    assert "cannot run 'no-such-python': No such file or directory; hint: set NNPYTHON" in output


def test_objects_sources_and_header(project: Project) -> None:
    """sources=True returns C files that a host compiles itself; the result is the same program."""
    sconstruct = (
        HOST + 'src = env.NNModel("models/kws.onnx", sources=True, selftest=1)\nenv.Program("fw", ["main.c", src])\n'
    )
    project.write({"SConstruct": sconstruct + 'print("SRC", *[s.name for s in src])\n'})
    output = project.scons()
    assert "SRC kws.c kws_weights.c kws_kernels.S kws_selftest.c\n" in output
    assert "-ffunction-sections" not in output


def test_model_flags_stand_behind_the_users(project: Project) -> None:
    project.write({"SConstruct": PROGRAM.replace('"nn"], ', '"nn"], CCFLAGS=["-Os", "-DX=1 2"], ')})
    output = project.scons()
    line = next(line for line in output.splitlines() if "kws_weights.o -c" in line)
    assert "-Os" in line.split("-O2")[0]
    assert "-O2 -ffunction-sections -fdata-sections" in line
    assert "-O2" not in next(line for line in output.splitlines() if "main.o -c" in line)


def test_model_in_a_library(project: Project) -> None:
    project.write(
        {
            "SConstruct": HOST + 'kws = env.NNModel("models/kws.onnx")\nlib = env.StaticLibrary("kws", kws)\n'
            'env.Program("fw", "main.c", LIBS=["kws"], LIBPATH=["."])\n'
        }
    )
    project.scons()
    assert (project.folder / "fw").exists()


# --- a model listed by name --------------------------------------------------------------------------------------

PLAIN = HOST + 'env.Program("fw", ["main.c", "models/kws.onnx"])\n'


def test_plain_model_is_the_model_of_nnmodel(project: Project) -> None:
    """By name with a sidecar, or by NNModel: the same commands, the same objects, nothing to do in between."""
    project.write({"SConstruct": PLAIN, "models/kws.toml": 'calibration = "calib.npz"\nselftest = 2\nram = "1K"\n'})
    project.scons()
    assert project.calls() == ["quantize", "emit", "size"]
    call = 'env.NNModel("models/kws.onnx", calibration="models/calib.npz", selftest=2, ram=1024)'
    project.write({"SConstruct": PLAIN.replace('"models/kws.onnx"', call)})
    (project.folder / "models/kws.toml").unlink()
    assert not project.built(project.scons())


def test_plain_model_in_a_library_and_with_overrides(project: Project) -> None:
    project.write(
        {
            "SConstruct": HOST + 'lib = env.StaticLibrary("kws", ["models/kws.onnx"])\n'
            'env.Program("fw", ["main.c", lib], LINKFLAGS=[])\n'
            'env.Clone().Program("two", ["main.c", "models/kws.onnx"], OBJPREFIX="two_")\n',
        }
    )
    project.scons()
    assert (project.folder / "fw").exists()
    assert (project.folder / "two").exists()
    assert project.calls() == ["quantize", "emit"]


def test_changed_sidecar_counts(project: Project) -> None:
    project.write({"SConstruct": PLAIN, "models/kws.toml": 'calibration = "calib.npz"\n'})
    project.scons()
    project.calls()
    project.write({"models/kws.toml": 'calibration = "calib.npz"\nselftest = 1\n'})
    project.scons()
    assert project.calls() == ["emit"]


def test_the_call_wins_over_the_sidecar(project: Project) -> None:
    project.write(
        {
            "SConstruct": HOST + 'env.NNModel("models/kws.onnx", selftest=0)\n',
            "models/kws.toml": "selftest = 1\nzzz = 1\n",
        }
    )
    assert "models/kws.toml: unknown option 'zzz'" in project.scons(status=2)
    project.write({"models/kws.toml": "selftest = 1\n"})
    project.scons()
    assert project.files("kws_selftest.c") == []


# --- dependencies ------------------------------------------------------------------------------------------------


def test_calibration_folder(project: Project) -> None:
    project.write(
        {"SConstruct": PROGRAM.replace("calib.npz", "calib"), "models/calib/a.npz": "1", "models/calib/b.npy": "2"}
    )
    project.scons()
    project.calls()
    assert "calibration=3" in project.path("kws.int8.onnx").read_text()
    project.write({"models/calib/c.npy": "0"})
    project.scons()
    assert project.calls() == ["quantize"]
    project.write({"models/calib/a.npz": "5"})
    project.scons()
    assert "calibration=7" in project.path("kws.int8.onnx").read_text()


def test_calibration_function(project: Project) -> None:
    project.write({"SConstruct": PROGRAM.replace("calib.npz", "calib.py:samples"), "models/calib.py": "4"})
    project.scons()
    project.calls()
    project.write({"models/calib.py": "8"})
    project.scons()
    assert project.calls() == ["quantize", "emit"]


def test_calibration_that_is_built(project: Project) -> None:
    project.write(
        {
            "SConstruct": HOST + 'data = env.Command("data.npz", "in.txt", Copy("$TARGET", "$SOURCE"))\n'
            'env.NNModel("models/kws.onnx", calibration=data)\n',
            "in.txt": "9",
        }
    )
    project.scons()
    assert "calibration=9" in project.path("kws.int8.onnx").read_text()


def test_dollars_in_paths_reach_the_command(project: Project) -> None:
    project.write({"SConstruct": PROGRAM.replace("calib.npz", "a$$b.npz"), "models/a$b.npz": "3"})
    project.scons()
    assert "calibration=3" in project.path("kws.int8.onnx").read_text()
    project.write({"SConstruct": PLAIN, "models/kws.toml": 'calibration = "a$b.npz"\n'})
    assert not project.built(project.scons())


def test_model_that_is_built(project: Project) -> None:
    """A training script may write the model; what it names is looked up once it is there."""
    text = PROGRAM.replace(
        '"models/kws.onnx"', 'env.Command("kws.onnx", "models/kws.onnx", Copy("$TARGET", "$SOURCE"))'
    )
    project.write({"SConstruct": text.replace("kws =", 'env["CPPPATH"] = "include:more"\nkws =')})
    assert "-Iinclude -Imore -Ibuild/nn/" in project.scons()
    assert project.calls() == ["quantize", "emit"]
    assert not project.built(project.scons())


def test_missing_calibration_is_one_line(project: Project) -> None:
    (project.folder / "models/calib.npz").unlink()
    expected = "[build/nn/kws.int8.onnx] models/calib.npz: not found; declared in SConstruct, line 2\n"
    assert f"scons: *** {expected}" in project.scons(status=2)
    project.scons("-c")


def test_external_data_are_dependencies(project: Project) -> None:
    onnx = pytest.importorskip("onnx")
    import numpy as np

    tensor = onnx.numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    path = project.folder / "models" / "kws.onnx"
    onnx.save(
        onnx.helper.make_model(graph), path, save_as_external_data=True, location="kws weights.bin", size_threshold=0
    )
    project.write({"SConstruct": HOST + 'env.NNModel("models/kws.onnx")\n'})
    project.scons()
    project.calls()
    data = project.folder / "models" / "kws weights.bin"
    data.write_bytes(data.read_bytes()[::-1])
    project.scons()
    assert project.calls() == ["quantize"]
    data.unlink()
    expected = "[build/nn/kws.int8.onnx] models/kws weights.bin: not found; declared in SConstruct, line 2\n"
    assert f"scons: *** {expected}" in project.scons(status=2)


@pytest.mark.parametrize(
    ("file", "runs"),
    [("importer.py", ["quantize", "emit"]), ("templates/model.c.j2", ["emit"]), ("csrc/nn_x.h", ["emit"])],
)
def test_nnbuilds_own_files_are_dependencies(project: Project, file: str, runs: list[str]) -> None:
    """In a checkout of nnbuild as a submodule; what the commands write then is the same, and nothing else is built."""
    copy = project.folder / "third_party" / "nn build"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nnbuild", copy / "nnbuild", ignore=ignore)
    shutil.copytree(ROOT / "site_scons", copy / "site_scons", ignore=ignore)
    site = "--site-dir=third_party/nn build/site_scons"
    project.scons(site=site)
    project.calls()
    path = copy / "nnbuild" / file
    path.write_text((path.read_text() if path.exists() else "") + "\n")
    # The stand-in writes the same text, so the second command stops at the first's unchanged file unless it must not.
    output = project.scons(site=site)
    assert project.calls() == runs
    assert "gcc" not in output


# --- several models, cores and SConscripts -----------------------------------------------------------------------


def test_two_cores_share_one_quantization(project: Project) -> None:
    project.write(
        {
            "SConstruct": HOST + "for flag in ['-DA', '-DB']:\n"
            "    mine = env.Clone(CCFLAGS=[flag], OBJPREFIX=flag[-1], NN_VARIANT=flag[-1])\n"
            '    mine.Program("fw" + flag[-1], ["main.c", mine.NNModel("models/kws.onnx")])\n'
        }
    )
    project.scons()
    assert project.calls() == ["quantize", "emit", "emit"]
    assert (project.folder / "build/nn/A/kws.c").exists()
    assert (project.folder / "build/nn/B/kws.c").exists()
    project.write({"SConstruct": (project.folder / "SConstruct").read_text().replace(", NN_VARIANT=flag[-1]", "")})
    project.scons()
    assert project.calls() == ["emit", "emit"]


def test_each_core_includes_its_own_header(project: Project) -> None:
    """A Clone inherits CPPPATH, and with it the header of the environment that it was made from."""
    project.write(
        {
            "SConstruct": HOST + 'env["NN_VARIANT"] = "one"\nenv.NNModel("models/kws.onnx")\n'
            'two = env.Clone(CCFLAGS=["-DTWO"], NN_VARIANT="two", CPPPATH=["$CPPPATH", "include"])\n'
            'two.Program("fw", ["main.c", two.NNModel("models/kws.onnx")])\n'
        }
    )
    line = next(line for line in project.scons().splitlines() if "main.o -c" in line)
    assert "-Ibuild/nn/two" in line
    assert "-Iinclude" in line
    assert "-Ibuild/nn/one" not in line


def test_same_declaration_twice_is_one_model(project: Project) -> None:
    call = 'env.NNModel("models/kws.onnx", flash="64K", selftest=1)'
    project.write({"SConstruct": HOST + f"a = {call}\nb = {call.replace('64K', '65536')}\nprint('SAME', a == b)\n"})
    assert "SAME True" in project.scons("-n")


@pytest.mark.parametrize("duplicate", [0, 1])
def test_variant_dirs(project: Project, duplicate: int) -> None:
    """Generated files go below the variant's folder, none into the source folder."""
    project.write(
        {
            "SConstruct": HOST
            + f"Export('env')\nSConscript('src/SConscript', variant_dir='out dir', duplicate={duplicate})\n",
            "src/SConscript": "Import('env')\nenv.Program('fw', ['main.c', env.NNModel('models/kws.onnx',"
            " calibration='calib', ram='1K')])\n",
            "src/main.c": MAIN,
            "src/models/kws.onnx": MODEL,
            "src/calib/a.npz": "5",
        }
    )
    project.scons()
    assert (project.folder / "out dir" / "fw").exists()
    assert (project.folder / "out dir" / "build" / "nn" / "kws.int8.onnx").exists()
    assert not (project.folder / "src" / "build").exists()
    assert project.calls() == ["quantize", "emit", "size"]
    assert not project.built(project.scons())
    project.write({"src/calib/a.npz": "6"})
    project.scons()
    assert project.calls() == ["quantize", "emit", "size"]


# --- how the tool is found, and what it costs --------------------------------------------------------------------


def test_found_as_an_installed_package(project: Project) -> None:
    """toolpath with PyPackageDir needs nothing but the package on Python's path."""
    packages = project.folder / "packages"
    packages.mkdir()
    (packages / "nnbuild").symlink_to(ROOT / "nnbuild")
    text = f"import sys\nsys.path.insert(0, {str(packages)!r})\n" + PROGRAM.replace(
        '"nn"], ', '"nn"], toolpath=[PyPackageDir("nnbuild.scons")], '
    )
    project.write({"SConstruct": text})
    project.scons(site="")
    assert project.calls() == ["quantize", "emit"]


def test_found_by_a_path_into_a_checkout(project: Project) -> None:
    (project.folder / "third_party").symlink_to(ROOT)
    project.write({"SConstruct": PROGRAM.replace('"nn"], ', '"nn"], toolpath=["third_party/nnbuild/scons"], ')})
    project.scons(site="")
    assert project.calls() == ["quantize", "emit"]


def test_found_by_a_link_to_site_scons(project: Project) -> None:
    (project.folder / "site_scons").symlink_to(ROOT / "site_scons")
    project.scons(site="")
    assert project.calls() == ["quantize", "emit"]


def test_loads_nothing_heavy(project: Project) -> None:
    project.write(
        {
            "SConstruct": PROGRAM + "import sys\nprint('HEAVY', [m for m in ('numpy', 'onnx', 'onnxruntime', 'jinja2',"
            " 'elftools') if m in sys.modules])\n"
        }
    )
    assert "HEAVY []" in project.scons("-n")


def test_tool_twice_in_one_environment(project: Project) -> None:
    project.write({"SConstruct": PLAIN.replace("env.Program", 'env = env.Clone(tools=["nn"])\nenv.Program')})
    project.scons()
    assert project.calls() == ["quantize", "emit"]


def test_python_of_the_commands_finds_this_package() -> None:
    """The commands must run this checkout's nnbuild, and never be fed another Python's site-packages."""
    from nnbuild.scons import run

    env = {"ENV": {"PATH": ["/a", "/b"], "PYTHONPATH": "/c"}}
    variables = run.environment(env)
    assert variables["PATH"] == "/a:/b"
    assert variables["PYTHONPATH"] == f"{ROOT}:/c"
    assert sys.executable
