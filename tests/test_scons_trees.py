"""Trees as they are: variant folders, odd names, long commands; what was deleted, damaged or interrupted."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import fake_cmsis_nn
from tests.scons_project import HOST, MAIN, ROOT, SITE, Project
from tests.test_scons_real import MAIN as REAL_MAIN
from tests.test_scons_real import model, samples

MODEL = "weights=200 arena=100"
PROGRAM = 'env.Program("fw", ["main.c", env.NNModel("models/kws.onnx")])\n'
REAL = 'env = Environment(tools=["default", "nn"])\n'


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "my firmware")
    made.write({"SConstruct": HOST + PROGRAM, "main.c": MAIN, "models/kws.onnx": MODEL})
    return made


@pytest.fixture
def real(tmp_path: Path) -> Project:
    """Real commands; the model's tensors are in a file of their own."""
    made = Project(tmp_path / "my firmware")
    made.write({"src/main.c": REAL_MAIN, "src/models/calib.npz": samples()})
    onnx.save(
        onnx.load_from_string(model()),
        made.folder / "src/models/kws.onnx",
        save_as_external_data=True,
        location="kws weights.bin",
        size_threshold=0,
    )
    made.write(
        {
            "src/SConscript": 'Import("env")\nkws = env.NNModel("models/kws.onnx", calibration="models/calib.npz", '
            'selftest=1)\nenv.Program("fw", ["main.c", kws])\n'
        }
    )
    return made


@pytest.mark.parametrize("duplicate", [0, 1])
def test_external_data_in_variant_folders(real: Project, duplicate: int) -> None:
    """SCons hard-links sources into the variant folder, where onnx itself refuses external data."""
    call = f'SConscript("src/SConscript", variant_dir="out", duplicate={duplicate})\n'
    real.write({"SConstruct": REAL + 'Export("env")\n' + call})
    real.scons()
    assert subprocess.run([real.folder / "out/fw"], check=False).returncode == 0
    assert not real.built(real.scons())
    data = real.folder / "src/models/kws weights.bin"
    before = real.path("kws.int8.onnx").read_bytes()
    data.write_bytes((np.frombuffer(data.read_bytes(), np.float32) * 2).tobytes())
    assert "QUANT" in real.scons()
    assert real.path("kws.int8.onnx").read_bytes() != before
    data.unlink()
    expected = "src/models/kws weights.bin: not found; declared in src/SConscript, line 2\n"
    assert expected in real.scons(status=2).replace("out/SConscript", "src/SConscript")


def test_four_models_at_once(project: Project) -> None:
    names = ["kws", "one", "two", "three"]
    models = "".join(f'models += env.NNModel("models/{name}.onnx", calibration="calib")\n' for name in names)
    project.write({"SConstruct": f'{HOST}models = []\n{models}env.Program("fw", ["main.c", models])\n'})
    project.write({f"models/{name}.onnx": f"weights={200 + at}" for at, name in enumerate(names)})
    project.write({"calib/a.npz": "5"})
    project.scons("-j4")
    assert sorted(project.calls()) == ["emit"] * 4 + ["quantize"] * 4
    assert not project.built(project.scons("-j4"))
    project.write({"models/two.onnx": "broken"})
    assert "scons: *** [build/nn/two.int8.onnx] Error 1, see above; declared in SConstruct, line 5" in project.scons(
        "-j4", "-k", status=2
    )
    project.write({"models/two.onnx": "weights=500"})
    project.scons("-j4")
    assert (project.folder / "fw").exists()


def test_calibration_folder_is_sorted_and_follows_its_files(project: Project) -> None:
    """What the folder holds counts, in whatever order the system lists it; other files do not."""
    project.write({f"calib/{name}.npz": "1" for name in ("b", "c", "a")})
    project.write({"SConstruct": HOST + 'env.NNModel("models/kws.onnx", calibration="calib")\n'})
    project.scons()
    tree = project.scons("--tree=prune", "-n", "build/nn/kws.int8.onnx")
    listed = [line.strip(" +-|") for line in tree.splitlines() if line.endswith(".npz")]
    assert listed == ["calib/a.npz", "calib/b.npz", "calib/c.npz"]
    project.calls()
    project.write({"calib/notes.txt": "x"})
    assert not project.built(project.scons())
    (project.folder / "calib/b.npz").unlink()
    project.scons()
    assert project.calls() == ["quantize", "emit"]
    assert "calibration=2" in project.path("kws.int8.onnx").read_text()


@pytest.mark.parametrize("name", ["kws müller", "kws $HOME", "kws ${x}", "kws 'q' \"r\"", "kws;#&"])
def test_odd_names_of_folders_and_models(tmp_path: Path, name: str) -> None:
    """Names are words of a list and never meet a shell; a dollar is written twice, as everywhere in SCons."""
    project = Project(tmp_path / "firmware ñ")
    written = repr(f"models/{name}.onnx".replace("$", "$$"))
    project.write({"SConstruct": f'{HOST}env.Program("fw", ["main.c", env.NNModel({written}, name="kws")])\n'})
    project.write({"main.c": MAIN, f"models/{name}.onnx": MODEL, f"models/{name}.toml": 'calibration = "a$b ö.npz"\n'})
    project.write({"models/a$b ö.npz": "3"})
    project.scons()
    assert (project.folder / "fw").exists()
    assert "calibration=3" in project.path("kws.int8.onnx").read_text()
    assert not project.built(project.scons())


def test_included_linker_scripts_are_dependencies(project: Project) -> None:
    """Beside the script, in the folder where the linker runs, and what those include; a circle is no harm."""
    text = 'fw = env.Program("fw", ["main.c", "models/kws.onnx"])\nenv.NNBudget(fw, linker_script="ld/chip.ld")\n'
    project.write(
        {
            "SConstruct": HOST + text,
            "ld/chip.ld": "INCLUDE memory.ld\nINCLUDE more.ld\nINCLUDE nowhere.ld\n",
            "ld/memory.ld": 'INCLUDE "chip.ld"\nMEMORY { ROM : ORIGIN = 0, LENGTH = 16M }\n',
            "more.ld": "INCLUDE last.ld\n",
            "last.ld": "/* INCLUDE main.c */\n",
        }
    )
    tree = project.scons("--tree=prune", "-n", "fw")
    assert [line.rpartition("-")[2] for line in tree.splitlines() if line.endswith(".ld")] == [
        "ld/chip.ld",
        "ld/memory.ld",
        "last.ld",
        "more.ld",
    ]
    project.scons()
    for file in ("ld/memory.ld", "more.ld", "last.ld"):
        project.write({file: (project.folder / file).read_text() + "/* changed */\n"})
        project.calls()
        project.scons()
        assert project.calls() == ["size"], file


def test_commands_longer_than_the_system_takes(project: Project) -> None:
    """Arguments go by a file then, whose name is no part of what the target depends on; nothing of it stays."""
    text = HOST.replace('"nn"], ', '"nn"], CMSIS_NN="cmsis", CC="gcc", TEMPFILEDIR="arguments", ')
    project.write({"SConstruct": text + PROGRAM})
    fake_cmsis_nn.write(project.folder / "cmsis")
    project.scons()
    assert not (project.folder / "arguments").exists()
    short = {path.name: path.read_bytes() for path in project.folder.rglob("kws*.[cho]")}
    project.scons("-c")
    project.calls()
    project.write({"SConstruct": text.replace("TEMPFILEDIR", "MAXLINELENGTH=150, TEMPFILEDIR") + PROGRAM})
    assert "Using tempfile" in project.scons()
    assert project.calls() == ["quantize", "emit"]
    assert {path.name: path.read_bytes() for path in project.folder.rglob("kws*.[cho]")} == short
    assert os.listdir(project.folder / "arguments") == []
    assert not project.built(project.scons())


# --- what was deleted, damaged, interrupted ------------------------------------------------------------------------


def test_deleted_files_are_made_again(project: Project) -> None:
    project.scons()
    for pattern in ("kws.c", "kws.h", "kws.report.json", "kws_weights.o", "kws.int8.onnx"):
        path = project.path(f"build/**/{pattern}")
        content = path.read_bytes()
        path.unlink()
        project.scons()
        assert path.read_bytes() == content
    assert project.calls() == ["quantize", "emit", "emit", "emit", "emit", "quantize"]


def test_damaged_files_are_told_and_made_again(real: Project) -> None:
    """Where somebody wrote over a generated file, the next command says so; without the file it is made again."""
    real.write({"SConstruct": REAL + 'Export("env")\nSConscript("src/SConscript")\n'})
    real.scons()
    path = real.path("kws.int8.onnx")
    before = path.read_bytes()
    path.write_bytes(before[:100])
    output = real.scons(status=2)
    assert "src/build/nn/kws.int8.onnx: not an ONNX file, or truncated; hint: " in output
    assert "see above; declared in src/SConscript, line 2\n" in output
    path.unlink()
    real.scons()
    assert path.read_bytes() == before
    assert subprocess.run([real.folder / "src/fw"], check=False).returncode == 0


def interrupted(project: Project, ready: Path, after: float = 0.0) -> str:
    """The output of scons and its commands, to which Ctrl-C comes `after` seconds from when `ready` is there."""
    environment = {key: text for key, text in os.environ.items() if key not in ("SCONSFLAGS", "PYTHONPATH")}
    process = subprocess.Popen(
        [sys.executable, "-m", "SCons", SITE],
        cwd=project.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not ready.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return output


def test_half_a_file_of_an_interrupted_command_does_not_count(project: Project) -> None:
    """Even of a command that writes in place, which nnbuild's own do not."""
    project.write({"models/kws.onnx": "slow"})
    interrupted(project, project.folder / "started")
    assert project.path("kws.int8.onnx").read_text() == "half"
    project.write({"models/kws.onnx": MODEL})
    (project.folder / "started").unlink()
    project.calls()
    project.scons()
    assert project.calls() == ["quantize", "emit"]
    assert "weights=200" in project.path("kws.int8.onnx").read_text()


@pytest.mark.parametrize("stage", ["quantize", "emit"])
def test_interrupted_commands_leave_nothing(real: Project, stage: str) -> None:
    """Ctrl-C while nnbuild's own commands run: no traceback, no file, no temporary file; then all is built."""
    real.write({"SConstruct": REAL + 'Export("env")\nSConscript("src/SConscript")\n'})
    nn = real.folder / "src/build/nn"
    whole = {f"kws{ending}" for ending in (".c", ".h", "_weights.c", "_kernels.S", ".report.json", "_selftest.c")}
    for after in (0.3, 0.15, 0.6, 0.05, 1.0):
        shutil.rmtree(nn, ignore_errors=True)
        output = interrupted(real, nn if stage == "quantize" else nn / "kws.int8.onnx", after)
        # A Python that was only starting says so and prints a traceback; no line of nnbuild has run then.
        early = "Python runtime state" in output
        assert early or "Traceback" not in output
        left = {path.name for path in nn.rglob("*") if path.is_file()} if nn.exists() else set()
        # Where the machine was faster than the signal, all that a command writes is there; never some of it.
        rest = left - {"kws.int8.onnx"} - whole
        assert left & whole in (set(), whole), sorted(left)
        assert all(name.endswith(".o") for name in rest), sorted(left)
        if not early and not left - ({"kws.int8.onnx"} if stage == "emit" else set()):
            break
    real.scons()
    assert subprocess.run([real.folder / "src/fw"], check=False).returncode == 0


def test_full_disk(real: Project) -> None:
    """A file that cannot be written whole is one line, and no file, not even a temporary one."""
    real.write({"SConstruct": REAL + 'Export("env")\nSConscript("src/SConscript")\n'})
    real.scons("src/build/nn/kws.int8.onnx")
    words = ["emit", "src/build/nn/kws.int8.onnx", "--name", "kws", "--output-dir", "out", "--cpu", "cortex-m0"]
    done = subprocess.run(
        [sys.executable, "-m", "nnbuild", *words],
        cwd=real.folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400)),
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "out/kws.h: cannot write: File too large\n")
    assert os.listdir(real.folder / "out") == []


# --- the Python that runs the commands -------------------------------------------------------------------------------


def test_python_without_packages_is_one_line(real: Project) -> None:
    """NNPYTHON points at another environment: here one that nobody has installed anything into."""
    venv.create(real.folder / "empty env", with_pip=False, symlinks=True)
    text = REAL.replace('"nn"]', '"nn"], NNPYTHON=["empty env/bin/python"]')
    real.write({"SConstruct": text + 'Export("env")\nSConscript("src/SConscript")\n'})
    output = real.scons("-Q", status=2)
    assert "this Python has no package 'numpy'; hint: " in output
    assert output.count("hint:") == 1
    assert "see above; declared in src/SConscript, line 2\n" in output


def test_files_of_the_firmware_are_no_modules(real: Project) -> None:
    """The commands run in the firmware's folder, which may have a numpy.py or an onnx folder of its own."""
    real.write({"SConstruct": REAL + 'Export("env")\nSConscript("src/SConscript")\n'})
    real.write({"numpy.py": "raise SystemExit('mine')\n", "onnx/__init__.py": "raise SystemExit('mine')\n"})
    real.scons()
    assert subprocess.run([real.folder / "src/fw"], check=False).returncode == 0
