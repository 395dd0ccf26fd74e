"""CMSIS-NN: where it is found, which version it is, which of its sources are needed, and how it is fetched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnbuild import cmsis_nn, ops
from nnbuild.cli import main
from nnbuild.errors import ConfigError

from . import fake_cmsis_nn

ROOT = Path(__file__).resolve().parents[1]
RELEASES = ["v6.0.0", "v7.0.0"]
COMPILERS = {
    "host": ["gcc"],
    "m0": ["arm-none-eabi-gcc", "-mcpu=cortex-m0", "-mthumb"],
    "m4": ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb"],
    "m55": ["arm-none-eabi-gcc", "-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"],
}


# --- where -------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Environment variables of a user who has a CMSIS-NN in every place."""
    fake_cmsis_nn.write(tmp_path / "mine")
    for version in ("6.0.0", "9.1.0", "10.0.0-rc1", "10.0.0"):
        fake_cmsis_nn.write(tmp_path / "packs/ARM/CMSIS-NN" / version, release=version)
    (tmp_path / "packs/ARM/CMSIS-NN/11.0.0").mkdir()
    fake_cmsis_nn.write(tmp_path / "cache/nnbuild/CMSIS-NN")
    names = {"CMSIS_NN": "mine", "CMSIS_PACK_ROOT": "packs", "XDG_CACHE_HOME": "cache"}
    return {name: str(tmp_path / place) for name, place in names.items()}


def test_the_order_of_places(places: dict[str, str], tmp_path: Path) -> None:
    other = fake_cmsis_nn.write(tmp_path / "other")
    assert cmsis_nn.find(str(other), places) == other
    assert cmsis_nn.find(None, places) == cmsis_nn.named("", places) == tmp_path / "mine"
    del places["CMSIS_NN"]
    assert cmsis_nn.named(None, places) is None
    for version in ("10.0.0", "10.0.0-rc1", "9.1.0", "6.0.0"):  # 11.0.0 is empty
        assert cmsis_nn.find(None, places) == tmp_path / "packs/ARM/CMSIS-NN" / version
        shutil.rmtree(tmp_path / "packs/ARM/CMSIS-NN" / version)
    assert cmsis_nn.find(None, places) == tmp_path / "cache/nnbuild/CMSIS-NN"
    assert cmsis_nn.find(None, {"HOME": str(tmp_path)}) is None
    fake_cmsis_nn.write(tmp_path / ".cache/nnbuild/CMSIS-NN")
    assert cmsis_nn.find(None, {"HOME": str(tmp_path)}) == tmp_path / ".cache/nnbuild/CMSIS-NN"


def test_a_named_folder_without_one_is_an_error(places: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no CMSIS-NN here: Include/arm_nnfunctions.h is missing; hint: "):
        cmsis_nn.find(str(tmp_path), places)
    with pytest.raises(ConfigError, match="no CMSIS-NN here"):
        cmsis_nn.find(None, {**places, "CMSIS_NN": str(tmp_path)})


# --- which -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("revision", "release", "version"),
    [
        ("16.0.0", "", "6.0.0"),
        ("16.2.0", "", "6.0.0 or newer (V.16.2.0)"),
        ("18.0.0", "0.0.0", "7.0.0"),
        ("19.1.0", "", "7.0.0 or newer (V.19.1.0)"),
        ("19.1.0", "7.1.0", "7.1.0"),
        ("x", "", "of unknown version"),
    ],
)
def test_version_in_words(tmp_path: Path, revision: str, release: str, version: str) -> None:
    found = cmsis_nn.read(fake_cmsis_nn.write(tmp_path, revision, release))
    assert found.version == version
    assert found.functions == {"arm_softmax_s8", "arm_avgpool_s8_get_buffer_size", "arm_convolve_s8"}
    assert found.convolve_upscales


@pytest.mark.parametrize(
    ("revision", "release", "named"),
    [("12.4.0", "", "with arm_nnfunctions.h V.12.4.0"), ("15.9.9", "0.0.0", "V.15.9.9"), ("16.0.0", "5.0.0", "5.0.0")],
)
def test_older_than_6_is_refused(tmp_path: Path, revision: str, release: str, named: str) -> None:
    fake_cmsis_nn.write(tmp_path, revision, release)
    with pytest.raises(ConfigError, match=rf"{named} is older than 6.0.0; hint: take release 6.0.0 or newer"):
        cmsis_nn.find(str(tmp_path), {})


# --- which sources -----------------------------------------------------------------------------------------------


def test_sources_are_those_that_calls_lead_to(tmp_path: Path) -> None:
    found = [path.name for path in cmsis_nn.sources(fake_cmsis_nn.write(tmp_path))]
    assert found == ["arm_nn_double.c", "arm_avgpool_get_buffer_sizes_s8.c", "arm_softmax_s8.c"]


def test_the_table_of_calls_is_complete() -> None:
    """Whatever a kernel's template or module names of CMSIS-NN is in the table, else the library would lack it."""
    listed = {name for functions in cmsis_nn.CALLS.values() for name in functions}
    called: set[str] = set()
    for path in [*(ROOT / "nnbuild/kernels").rglob("*"), *(ROOT / "nnbuild/ops").iterdir()]:
        if path.suffix in (".py", ".j2"):
            called |= set(re.findall(r"\barm_\w+(?=\(|\")", path.read_text(encoding="utf-8")))
    assert "arm_convolve_s8" in called
    assert called - listed == set()
    with_kernel = {op.name for op in ops.ALL if any(kernel.name == "cmsis_nn" for kernel in op.kernels)}
    assert "conv2d" in with_kernel
    assert with_kernel - set(cmsis_nn.CALLS) == set()


@pytest.fixture(scope="module", params=["found", *RELEASES])
def release(request: pytest.FixtureRequest, cmsis_nn_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CMSIS-NN that a build finds, and the releases that its git history holds."""
    if request.param == "found":
        return cmsis_nn_dir
    folder = tmp_path_factory.mktemp(request.param)
    archive = ["git", "-C", str(cmsis_nn_dir), "archive", "-o", str(folder / "a.tar"), request.param]
    done = subprocess.run([*archive, "Include", "Source"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the CMSIS-NN here has no {request.param} in its history")
    shutil.unpack_archive(folder / "a.tar", folder)
    return folder


def test_version_of_a_release(release: Path) -> None:
    found = cmsis_nn.read(release)
    named = re.match(r"v(\d\.0\.0)", release.name)
    assert found.version == named[1] if named else re.match(r"\d", found.version)
    assert found.convolve_upscales == (found.version != "6.0.0")
    assert ("arm_fully_connected_per_channel_s8" in found.functions) == (found.version != "6.0.0")


@pytest.mark.parametrize("core", list(COMPILERS))
def test_sources_are_closed_and_free_of_warnings(release: Path, core: str, tmp_path: Path) -> None:
    if core in ("m0", "m4") and release.name.startswith("v"):
        pytest.skip("all forms of the code are in the host's and the M55's; these cores are covered in one version")
    compiler = COMPILERS[core]
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not installed")
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{release / 'Include'}"]
    sources = [str(path) for path in cmsis_nn.sources(release)]
    assert len(sources) < 50
    assert not [name for name in sources if re.search(r"_(f16|f32|s4)\b|svdf", name)]
    objects = subprocess.run(
        [*compiler, *flags, "-c", *sources], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert objects.returncode == 0, objects.stderr
    parts = [str(path) for path in tmp_path.glob("*.o")]
    subprocess.run([*compiler, "-r", "-nostdlib", "-o", str(tmp_path / "all"), *parts], check=True)
    prefix = compiler[0].removesuffix("gcc")
    listed = subprocess.run([f"{prefix}nm", str(tmp_path / "all")], capture_output=True, text=True, check=True).stdout
    missing = re.findall(r" U (\w+)", listed)
    assert set(missing) - {"memcpy", "memset", "memmove"} - {name for name in missing if name.startswith("__")} == set()
    declared = cmsis_nn.read(release).functions
    called = {name for functions in cmsis_nn.CALLS.values() for name in functions} & declared
    assert called - set(re.findall(r" T (\w+)", listed)) == set()
    assert len(called) > 15


# --- fetching ----------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> tuple[str, str]:
    """A repository with a release: its address and the commit of tag v7.0.0."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = fake_cmsis_nn.write(tmp_path / "origin")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "Release")
    git(folder, "tag", "v7.0.0")
    return folder.as_uri(), git(folder, "rev-parse", "HEAD")


def test_fetch_clones_the_release(origin: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "cache/nnbuild/CMSIS-NN"
    cmsis_nn.fetch(folder, *origin[:1], commit=origin[1])
    assert cmsis_nn.read(folder).version == "7.0.0"
    assert [path.name for path in folder.parent.iterdir()] == ["CMSIS-NN"]
    with pytest.raises(ConfigError, match="is there already; hint: move it away"):
        cmsis_nn.fetch(folder, *origin[:1], commit=origin[1])


def test_fetch_takes_no_other_commit(origin: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "cache/CMSIS-NN"
    with pytest.raises(ConfigError, match=rf"tag v7.0.0 is commit {origin[1]}, not {'0' * 40}"):
        cmsis_nn.fetch(folder, origin[0], commit="0" * 40)
    assert list(folder.parent.iterdir()) == []


def test_fetch_without_network_or_git_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache/CMSIS-NN"
    with pytest.raises(ConfigError) as caught:
        cmsis_nn.fetch(folder, (tmp_path / "nowhere").as_uri())
    assert re.fullmatch(r"git clone: fatal: .*; hint: this needs the network; or set CMSIS_NN.*", str(caught.value))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^git is not installed; hint: install git, or set CMSIS_NN"):
        cmsis_nn.fetch(folder)
    assert list(folder.parent.iterdir()) == []


def test_the_pinned_release_is_the_tag(cmsis_nn_dir: Path) -> None:
    tag = f"{cmsis_nn.RELEASE_TAG}^{{commit}}"
    done = subprocess.run(
        ["git", "-C", str(cmsis_nn_dir), "rev-parse", tag], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"the CMSIS-NN here has no {cmsis_nn.RELEASE_TAG} in its history")
    assert done.stdout.strip() == cmsis_nn.RELEASE_COMMIT


# --- commands ----------------------------------------------------------------------------------------------------


def command(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: text for name, text in os.environ.items() if name not in ("CMSIS_NN", "CMSIS_PACK_ROOT")}
    return subprocess.run(
        [sys.executable, "-m", "nnbuild", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_what_there_is(tmp_path: Path) -> None:
    folder = fake_cmsis_nn.write(tmp_path / "mine")
    done = command({"CMSIS_NN": str(folder)}, "cmsis-nn")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"CMSIS-NN 7.0.0 in {folder}; 3 of its files are compiled")
    assert re.search(r"^softmax +arm_softmax_s8$", done.stdout, re.MULTILINE)
    assert re.search(r"^max_pool +nothing; not in this version: arm_max_pool_s8$", done.stdout, re.MULTILINE)


def test_the_command_where_there_is_none(tmp_path: Path) -> None:
    done = command({"XDG_CACHE_HOME": str(tmp_path)}, "cmsis-nn")
    assert done.returncode == 1
    assert done.stderr == (
        "no CMSIS-NN found; hint: set CMSIS_NN to its folder, or run `python -m nnbuild cmsis-nn --fetch`\n"
    )


def test_fetch_of_the_command_without_git(tmp_path: Path) -> None:
    done = command({"XDG_CACHE_HOME": str(tmp_path), "PATH": str(tmp_path)}, "cmsis-nn", "--fetch")
    assert done.returncode == 1
    assert done.stderr.startswith("git is not installed")
    assert len(done.stderr.splitlines()) == 1


def test_backends_of_the_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str], cmsis_nn_dir: Path) -> None:
    from .test_scons_real import model, samples

    (tmp_path / "m.onnx").write_bytes(model())
    (tmp_path / "x.npz").write_bytes(samples())
    quantized = str(tmp_path / "m.int8.onnx")
    assert main(["quantize", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "x.npz"), "-o", quantized]) == 0
    emit = ["emit", quantized, "--name", "m", "--output-dir", str(tmp_path)]
    assert main([*emit, "--backend", "cmsis_nn"]) == 1
    assert capsys.readouterr().err == ("backend cmsis_nn without a CMSIS-NN; hint: name its folder: --cmsis-nn DIR\n")
    given = ["--cmsis-nn", str(cmsis_nn_dir), "--cpu", "cortex-m4"]
    kernels = {}
    for backend in ("auto", "direct", "cmsis_nn"):
        assert main(["select", quantized, *given, "--backend", backend]) == 0
        kernels[backend] = re.findall(r"fully_connected +\S+ +\S+ +(\w+)", capsys.readouterr().out)[0]
        assert main(["plan", quantized, *given, "--backend", backend]) == 0
        assert main([*emit, *given, "--backend", backend]) == 0
        report = (tmp_path / "m.report.json").read_text()
        assert f'"backend": "{backend}"' in report
        assert f'"cmsis_nn": "{cmsis_nn.read(cmsis_nn_dir).version}"' in report
        assert ("arm_fully_connected" in (tmp_path / "m.c").read_text()) == (backend == "cmsis_nn")
        capsys.readouterr()
    assert kernels == {"auto": "smlad", "direct": "smlad", "cmsis_nn": "cmsis_nn"}
    assert str(cmsis_nn_dir) not in "".join(path.read_text() for path in tmp_path.glob("m[._]*[ch]"))
