"""`python -m nnbuild export`: the folder builds alone, with every tool that its README names and that is here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnbuild.export import MANIFEST
from tests import host, qemu
from tests.conftest import ROOT
from tests.graphs import model as graph
from tests.graphs import node, save, weights
from tests.test_scons_real import model, samples

CALL = """#include "kws.h"
#include "wake.h"

int main(void);
int main(void)
{
    return kws_selftest() | wake_selftest();
}
"""


def export(folder: Path, *arguments: str, status: int = 0) -> str:
    """What the command prints, run in `folder`."""
    command = [sys.executable, "-m", "nnbuild", "export", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    assert "Traceback" not in output, output
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lay_out(folder: Path) -> None:
    """Two models with their samples; the second has options of its own in a sidecar."""
    (folder / "models").mkdir(parents=True)
    dense = [node("Gemm", "x w", "h"), node("Tanh", "h", "t"), node("Gemm", "t v", "y")]
    constants = {"w": weights(8, 12), "v": weights(12, 4, seed=1)}
    save(folder / "models", graph(dense, {"x": [1, 8]}, ["y"], constants), "kws.onnx")
    (folder / "models/second.onnx").write_bytes(model(seed=2))
    (folder / "models/second.toml").write_text('name = "wake"\ncalibration = "calib.npz"\nselftest = 3\nflash = "9K"\n')
    (folder / "models/calib.npz").write_bytes(samples())


BOTH = ("models/kws.onnx", "models/second.onnx", "--calibration", "models/calib.npz", "--selftest", "2")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    lay_out(tmp_path / "my firmware")
    return tmp_path / "my firmware"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models for any core, sharing their arena; the folder of the export, with a main.c beside it."""
    folder = tmp_path_factory.mktemp("export")
    lay_out(folder)
    said = export(folder, "nn models", *BOTH, "--arena", "shared")
    assert "models/second.toml: flash: only SCons builds check it" in said
    assert "nn models: 15 files, kws, wake\n" in said
    (folder / "main.c").write_text(CALL)
    return folder / "nn models"


def listed(folder: Path) -> list[Path]:
    return [folder / name for name in (folder / "sources.txt").read_text().splitlines()]


def test_compiles_alone_without_a_warning_and_passes_its_self_test(exported: Path, tmp_path: Path) -> None:
    sources = [exported.parent / "main.c", *listed(exported)]
    for level in ("-O0", "-O2"):
        host.compile_c(["gcc", level, f"-I{exported}"], tmp_path / "fw", sources)
        assert subprocess.run([tmp_path / "fw"], check=False).returncode == 0


@pytest.mark.parametrize("arena", ["static", "shared", "caller"])
def test_aligned_arena(arena: str, project: Path) -> None:
    """An arena of its own comes with an assembly file then, which CMake compiles too."""
    export(project, "nn", *BOTH, "--arena", arena, "--arena-align", "64")
    assert ("kws_kernels.S" in contents(project / "nn")) == (arena == "static")
    (project / "main.c").write_text(CALL)
    sources = [project / "main.c", *listed(project / "nn")]
    host.compile_c(["gcc", f"-I{project / 'nn'}", "-no-pie"], project / "fw", sources)
    symbols = subprocess.run(["nm", project / "fw"], capture_output=True, text=True, check=True).stdout
    addresses = [int(digits, 16) for digits in re.findall(r"^(\w+) . (?:kws|nn_shared)_arena$", symbols, re.MULTILINE)]
    assert len(addresses) == (arena != "caller")
    assert not any(address % 64 for address in addresses)
    assert subprocess.run([project / "fw"], check=False).returncode == 0
    if shutil.which("cmake") is not None:
        build_with_cmake(project)


def test_the_self_test_of_an_export_can_fail(exported: Path, tmp_path: Path) -> None:
    text = (exported / "kws_weights.c").read_text()
    number = re.search(r"\{\n    (-?\d+)", text)
    assert number is not None
    broken = text[: number.start(1)] + str(int(number[1]) ^ 64) + text[number.end(1) :]
    (tmp_path / "kws_weights.c").write_text(broken)
    sources = [path for path in listed(exported) if path.name != "kws_weights.c"]
    sources += [tmp_path / "kws_weights.c", exported.parent / "main.c"]
    host.compile_c(["gcc", "-O1", f"-I{exported}"], tmp_path / "fw", sources)
    assert subprocess.run([tmp_path / "fw"], check=False).returncode != 0


def test_cross_compiles_for_the_core_it_names(project: Path, tmp_path: Path) -> None:
    if shutil.which(qemu.COMPILER) is None:
        pytest.skip(f"{qemu.COMPILER} is not installed")
    export(project, "nn", *BOTH, "--cpu", "cortex-m0")
    core = qemu.CORES["m0"]
    command = [*qemu.flags(core), *qemu.FLAGS, "-O2"]
    qemu.objects(command, tmp_path / "objects", listed(project / "nn"))
    other = [*qemu.flags(qemu.CORES["m4"]), "-fsyntax-only", str(project / "nn/kws.c")]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert "was generated for cortex-m0" in refused.stderr


def test_a_shared_arena_leaves_kernels_in_assembly_alone(project: Path) -> None:
    """They share a file with the arena's common symbol, which an export has in C."""
    export(project, "nn", *BOTH, "--cpu", "cortex-m0", "--arena", "shared")
    text = (project / "nn/kws_kernels.S").read_text()
    assert ".thumb_func" in text
    assert "nn_shared_arena" not in text
    export(project, "nn", *BOTH, "--cpu", "cortex-m0", "--arena", "shared", "--no-assembly")
    assert "kws_kernels.S" not in contents(project / "nn")


def build_with_cmake(folder: Path, *definitions: str) -> None:
    """`main.c` and the export in `nn`, as its README says."""
    readme = (folder / "nn/README.txt").read_text()
    lines = re.search(r"CMake\n    add_subdirectory\(<this folder>\)\n    (.*)\n", readme)
    assert lines is not None
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(firmware C)\nadd_executable(firmware main.c)\n"
        f"add_subdirectory(nn)\n{lines[1]}\n"
    )
    for command in (["cmake", "-S", ".", "-B", "build", "-Werror=dev", *definitions], ["cmake", "--build", "build"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert subprocess.run([folder / "build/firmware"], check=False).returncode == 0


def test_builds_with_cmake(exported: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    shutil.copytree(exported, tmp_path / "nn")
    shutil.copy(exported.parent / "main.c", tmp_path / "main.c")
    build_with_cmake(tmp_path)


def test_builds_with_the_make_lines_of_its_readme(exported: Path, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copytree(exported, tmp_path / "nn")
    shutil.copy(exported.parent / "main.c", tmp_path / "main.c")
    lines = re.search(r"GNU make .*\n((?:    .*\n)+)", (exported / "README.txt").read_text())
    assert lines is not None
    text = re.sub(r"^    ", "", lines[1], flags=re.MULTILINE).replace("path/to/this/folder", "nn")
    rule = "fw: main.c $(SRCS)\n\t$(CC) $(CFLAGS) -o $@ $^\n"
    (tmp_path / "Makefile").write_text(f"SRCS :=\n{text}{rule}")
    subprocess.run(["make", "-s", "fw"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "fw"], check=False).returncode == 0


def test_is_the_c_of_the_commands_wherever_it_runs(project: Path, tmp_path: Path) -> None:
    """The same bytes from another folder, from the int8 file, and from `quantize` and `emit`."""
    export(project, "nn", *BOTH)
    lay_out(tmp_path / "elsewhere")
    export(tmp_path / "elsewhere", "other", *BOTH)
    assert contents(tmp_path / "elsewhere/other") == contents(project / "nn")
    nnbuild = [sys.executable, "-m", "nnbuild"]
    here = {"cwd": project, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    quantize = ["quantize", "models/kws.onnx", "--calibration", "models/calib.npz", "-o", "kws.int8.onnx"]
    emit = ["emit", "kws.int8.onnx", "--name", "kws", "--output-dir", "emitted", "--selftest", "2"]
    for command in (quantize, emit):
        subprocess.run([*nnbuild, *command], check=True, **here)  # type: ignore[call-overload]
    export(project, "from int8", "kws.int8.onnx", "--selftest", "2")
    for name in ("kws.c", "kws.h", "kws_weights.c", "kws_selftest.c", "kws.report.json"):
        written = (project / "nn" / name).read_bytes()
        assert written == (project / "emitted" / name).read_bytes()
        assert written == (project / "from int8" / name).read_bytes()
    assert not any(str(tmp_path).encode() in data for data in contents(project / "nn").values())


def test_a_failure_writes_nothing_and_names_every_model(project: Path) -> None:
    export(project, "nn", *BOTH)
    before = contents(project / "nn")
    (project / "models/kws.onnx").write_bytes(model(operator="Hardmax"))
    (project / "models/second.onnx").write_bytes(b"no model")
    said = export(project, "nn", *BOTH, status=1)
    assert "models/kws.onnx: node 'last'" in said
    assert "models/second.onnx: " in said
    export(project, "new", *BOTH, status=1)
    assert contents(project / "nn") == before
    assert sorted(path.name for path in project.iterdir()) == ["models", "nn"]


def test_a_second_export_removes_what_it_no_longer_writes(project: Path) -> None:
    export(project, "nn", *BOTH)
    (project / "nn/mine.c").write_text("/* not of an export */\n")
    header = project / "nn/kws.h"
    os.utime(header, (1, 1))
    export(project, "nn", "models/kws.onnx", "--calibration", "models/calib.npz")
    files = {"CMakeLists.txt", "README.txt", MANIFEST, "sources.txt"}
    files |= {"kws.c", "kws.h", "kws.report.json", "kws_weights.c", "mine.c"}
    assert set(contents(project / "nn")) == files
    assert header.stat().st_mtime == 1, "a file that stays the same keeps its date"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("models", *BOTH), "models: holds files that are not an export; hint: name a new or empty folder"),
        (("models/kws.onnx", *BOTH), "models/kws.onnx: is not a folder"),
        (("nn", "models/kws.onnx"), "models/kws.onnx: a float model needs calibration samples"),
        (("nn", *BOTH, "--name", "kws"), "--name is for one model"),
        (("nn", "models/kws.onnx", "models/kws.onnx", *BOTH[2:]), "'kws' is also the name of models/kws.onnx"),
        (("nn", "models/kws.onnx", "models/kws_weights.onnx", *BOTH[2:]), "kws_weights.c would be written by another"),
        (("nn", "models/kws.onnx", *BOTH[2:], "--name", "3d"), "option 'name' must be a C identifier"),
        (("nn", "models/kws.onnx", *BOTH[2:], "--cpu", "z80"), "unknown cpu 'z80'"),
        (("nn", "absent.onnx"), "absent.onnx: cannot read"),
    ],
)
def test_what_goes_wrong_is_one_line(project: Path, arguments: tuple[str, ...], expected: str) -> None:
    shutil.copy(project / "models/kws.onnx", project / "models/kws_weights.onnx")
    said = [line for line in export(project, *arguments, status=1).splitlines() if "only SCons builds" not in line]
    assert len(said) == 1, said
    assert expected in said[0]
    assert not (project / "nn").exists()


def test_broken_sidecar_and_manifest(project: Path) -> None:
    (project / "models/second.toml").write_text('calibration = "calib.npz"\nselftset = 3\n')
    assert "models/second.toml: unknown option 'selftset'" in export(project, "nn", *BOTH, status=1)
    (project / "models/second.toml").unlink()
    export(project, "nn", *BOTH)
    (project / "nn" / MANIFEST).write_text('{"schema": 1, "files": ["../main.c"]}')
    assert "export.json: is not the list of an export" in export(project, "nn", *BOTH, status=1)


def test_the_call_wins_over_the_sidecar(project: Path) -> None:
    second = ("models/second.onnx", "--name", "other", "--arena", "static", "--selftest", "0")
    (project / "models/second.toml").write_text('calibration = "calib.npz"\narena = "caller"\nselftest = 3\n')
    export(project, "nn", *second)
    assert "int other_run(const int8_t *input" in (project / "nn/other.h").read_text()
    assert not (project / "nn/other_selftest.c").exists()


def lay_out_image(folder: Path) -> None:
    """A convolution, which CMSIS-NN computes."""
    convolution = graph(
        [node("Conv", "x w", "y", name="conv", kernel_shape=[3, 3])],
        {"x": [1, 4, 8, 8]},
        ["y"],
        {"w": weights(8, 4, 3, 3)},
    )
    save(folder, convolution, "image.onnx")
    (folder / "calib.py").write_text(
        "import numpy as np\n\ndef samples():\n    yield np.linspace(-1, 1, 256).reshape(1, 4, 8, 8)\n"
    )
    (folder / "main.c").write_text(CALL.replace('#include "wake.h"\n', "").replace(" | wake_selftest()", ""))


def export_image(folder: Path, *arguments: str) -> None:
    export(
        folder, "nn", "image.onnx", "--name", "kws", "--calibration", "calib.py:samples", "--selftest", "1", *arguments
    )


def test_builds_with_cmake_and_cmsis_nn(tmp_path: Path, cmsis_nn_dir: Path) -> None:
    """On this machine, for which CMSIS-NN has plain C."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    lay_out_image(tmp_path)
    export_image(tmp_path, "--backend", "cmsis_nn", "--cmsis-nn", str(cmsis_nn_dir))
    assert "arm_convolve_s8(" in (tmp_path / "nn/kws.c").read_text()
    build_with_cmake(tmp_path, f"-DCMSIS_NN={cmsis_nn_dir}")


def test_with_cmsis_nn_the_files_that_it_calls_are_listed(tmp_path: Path, cmsis_nn_dir: Path) -> None:
    """They are enough to link, they are not copied, and what no layer calls is not among them."""
    if shutil.which(qemu.COMPILER) is None:
        pytest.skip(f"{qemu.COMPILER} is not installed")
    lay_out_image(tmp_path)
    export_image(tmp_path, "--cpu", "cortex-m4", "--backend", "cmsis_nn", "--cmsis-nn", str(cmsis_nn_dir))
    names = (tmp_path / "nn/cmsis_nn_sources.txt").read_text().splitlines()
    assert "Source/ConvolutionFunctions/arm_convolve_s8.c" in names
    assert not any("softmax" in name.lower() for name in names)
    assert not any(name.startswith("arm_") for name in contents(tmp_path / "nn"))
    core = qemu.CORES["m4"]
    folder = tmp_path / "built"
    include = ["-isystem", str(cmsis_nn_dir / "Include"), f"-I{tmp_path / 'nn'}"]
    library = qemu.objects(
        [*qemu.flags(core), "-O2", *include], folder / "cmsis_nn", [cmsis_nn_dir / name for name in names]
    )
    elf = qemu.link(
        folder, [tmp_path / "main.c", *listed(tmp_path / "nn")], core, "-O2", include, [str(path) for path in library]
    )
    if shutil.which("qemu-system-arm") is not None:
        assert qemu.run(elf, core)[0] == 0
