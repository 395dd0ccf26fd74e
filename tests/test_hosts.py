"""The recipes of docs/hosts: each is copied into an empty folder and built as its README says.

What cannot be had here is a stand-in in tests/hosts, which says so; the real PlatformIO is taken where the Python of
the tests has it, the real RT-Thread where RTT_ROOT names it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import qemu
from tests.conftest import ROOT

HOSTS = ROOT / "docs" / "hosts"
STANDINS = ROOT / "tests" / "hosts"
INSTALLED = {"PYTHONPATH": str(ROOT)}
"""As if nnbuild were installed in the Python that runs scons."""
SYMBOLS = {"kws_run", "kws_selftest", "kws_l00_fully_connected_weights"}


def lay_out(host: str, folder: Path) -> Path:
    """A copy of the recipe, with the network of docs/hosts/models where its README puts it."""
    if shutil.which(qemu.COMPILER) is None:
        pytest.skip(f"{qemu.COMPILER} is not installed")
    shutil.copytree(HOSTS / host, folder)
    below = re.search(r"cp -r \.\./models (\S+?)[`\n)]", (HOSTS / host / "README.md").read_text(encoding="utf-8"))
    assert below is not None, "its README says where the models go"
    shutil.copytree(HOSTS / "models", folder / below[1] / "models" if below[1] != "models/" else folder / "models")
    return folder


def run(command: list[str], folder: Path, variables: Mapping[str, str] = INSTALLED, status: int = 0) -> str:
    """What the command prints; a failure is shown."""
    environment = {key: text for key, text in os.environ.items() if key not in ("PYTHONPATH", "SCONSFLAGS", "RTT_ROOT")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    assert "Traceback" not in output, output
    return output


def scons(folder: Path, *arguments: str, variables: Mapping[str, str] = INSTALLED, status: int = 0) -> str:
    return run([sys.executable, "-m", "SCons", *arguments], folder, variables, status)


def symbols(elf: Path) -> set[str]:
    return {line.split()[-1] for line in run(["arm-none-eabi-nm", str(elf)], elf.parent).splitlines()}


def link_python(folder: Path) -> None:
    """`.venv/bin/python`: the Python of the tests."""
    (folder / ".venv/bin").mkdir(parents=True)
    script = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    (folder / ".venv/bin/python").write_text(script)
    (folder / ".venv/bin/python").chmod(0o755)


def checkout(folder: Path) -> None:
    """`third_party/nnbuild`: this checkout."""
    (folder / "third_party").mkdir()
    (folder / "third_party/nnbuild").symlink_to(ROOT)


# --- SCons alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["plain", "library"])
def test_builds_once(host: str, tmp_path: Path) -> None:
    folder = lay_out(host, tmp_path / "a firmware")
    check_built(folder, scons(folder))
    assert "is up to date." in scons(folder)


def check_built(folder: Path, output: str) -> None:
    assert symbols(folder / "fw.elf") >= SYMBOLS
    (kernel,) = [line for line in output.splitlines() if "/kws.o -c" in line]
    assert max(["-O0", "-Os", "-O2"], key=kernel.rfind) == "-O2", "the flags of networks stand behind the firmware's"


@pytest.mark.parametrize("host", ["plain", "library"])
def test_runs_on_this_machine(host: str, tmp_path: Path) -> None:
    """With the machine's own compiler instead of the cross compiler, and no flags for a core."""
    folder = lay_out(host, tmp_path / "fw")
    text = (folder / "SConstruct").read_text()
    text = re.sub(r"^CORE = .*$", "CORE = []", text, flags=re.MULTILINE)
    text = text.replace("arm-none-eabi-", "").replace(', "--specs=nosys.specs"', "")
    # The budget of an image on a desk says nothing.
    (folder / "SConstruct").write_text(re.sub(r"^env.NNBudget.*\n", "", text, flags=re.MULTILINE))
    scons(folder)
    run([str(folder / "fw.elf")], folder)


def test_the_bare_firmware_runs(tmp_path: Path) -> None:
    """In QEMU; its exit status is that of the self-test."""
    qemu.need()
    folder = lay_out("bare", tmp_path / "fw")
    check_built(folder, scons(folder))
    assert qemu.run(folder / "fw.elf", seconds=30)[0] == 0
    main = folder / "main.c"
    main.write_text(main.read_text().replace("return kws_selftest()", "return kws_selftest() + 1"))
    scons(folder)
    assert qemu.run(folder / "fw.elf", seconds=30)[0] != 0


def test_the_library_with_cmsis_nn(tmp_path: Path, cmsis_nn_dir: Path) -> None:
    """What the network calls is found, although `-lkws` is all that the application names."""
    folder = lay_out("library", tmp_path / "fw")
    script = folder / "nn/SConscript"
    script.write_text(script.read_text().replace("selftest=4", 'selftest=4, backend="cmsis_nn"'))
    scons(folder, "-j2", variables={**INSTALLED, "CMSIS_NN": str(cmsis_nn_dir)})
    assert any(name.startswith("arm_fully_connected") for name in symbols(folder / "fw.elf"))


def repository(folder: Path) -> None:
    """A git repository of what a user of the tool needs of this checkout, as it is on disk now."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("nnbuild", "site_scons"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "nnbuild"],
    ):
        run(["git", *words], folder, {})


def test_submodule(tmp_path: Path) -> None:
    """The commands of its README, with a repository on this machine; then the two other ways that it names."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = lay_out("submodule", tmp_path / "fw")
    repository(tmp_path / "nnbuild.git")
    readme = (HOSTS / "submodule/README.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    local = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always"}
    run(["git", "init", "-q"], folder, {})
    commands = block[1].replace("https://example.com/nnbuild.git", f"'{tmp_path / 'nnbuild.git'}'")
    for line in commands.splitlines():
        if line == "scons":
            scons(folder, variables={})
        elif not line.startswith("cp "):
            run(["sh", "-c", line], folder, local)
    assert symbols(folder / "fw.elf") >= SYMBOLS
    (folder / "site_scons").unlink()
    (way,) = re.findall(r"`scons (--site-dir=\S+)`", readme)
    assert "is up to date." in scons(folder, way, variables={})
    (way,) = re.findall(r"`(toolpath=.*?)` in", readme)
    text = (folder / "SConstruct").read_text().replace('tools=["default", "nn"]', f'tools=["default", "nn"], {way}')
    (folder / "SConstruct").write_text(text)
    assert "is up to date." in scons(folder, variables={})


# --- PlatformIO --------------------------------------------------------------------------------------------------

SENSOR = '#include "kws.h"\n\nint sensor(void);\nint sensor(void)\n{\n    return KWS_INPUT_SIZE;\n}\n'


def platformio(folder: Path) -> Path:
    """The recipe with its submodule and Python, and a library that includes the network's header."""
    lay_out("platformio", folder)
    checkout(folder)
    link_python(folder)
    (folder / "lib/sensor").mkdir(parents=True)
    (folder / "lib/sensor/sensor.c").write_text(SENSOR)
    (folder / "lib/sensor/sensor.h").write_text("int sensor(void);\n")
    main = folder / "src/main.c"
    text = main.read_text().replace('"kws.h"\n', '"kws.h"\n#include "sensor.h"\n')
    main.write_text(text.replace("return kws_selftest()", "return sensor() == 0 ? 1 : kws_selftest()"))
    return folder


def standin(folder: Path, *arguments: str, status: int = 0) -> str:
    """The stand-in for `pio run`, in a Python that has not heard of nnbuild."""
    there = STANDINS / "platformio"
    return scons(
        folder,
        "-f",
        str(there / "SConstruct"),
        f"PLATFORM={there / 'platform'}",
        *arguments,
        variables={},
        status=status,
    )


def test_platformio_standin(tmp_path: Path) -> None:
    folder = platformio(tmp_path / "my project")
    output = standin(folder)
    built = folder / ".pio/build/bbcmicrobit"
    assert symbols(built / "program.elf") >= SYMBOLS | {"sensor"}
    (kernel,) = [line for line in output.splitlines() if "/kws.o -c" in line]
    assert "-mcpu=cortex-m0 -O2" in kernel, "the board's core, and the flags of networks behind the project's"
    assert "model kws: kws flash" in output
    assert json.loads((built / "nn/model/kws.report.json").read_text())["cpu"] == "cortex-m0"
    assert "is up to date." in standin(folder)


@pytest.mark.parametrize(
    ("line", "changed", "expected"),
    [
        ("custom_nn_flash = 8K", "custom_nn_flsh = 8K", "models/kws.onnx: unknown option 'flsh'; hint: did you mean"),
        ("custom_nn_flash = 8K", "custom_nn_flash = 1K", "kws flash is 1,"),
        ("third_party/nnbuild", "nowhere", "platformio.ini: custom_nn_path = nowhere is no checkout of nnbuild"),
        ("custom_nn_selftest = 4", "custom_nn_selftest = many", "option 'selftest' must be a number"),
    ],
)
def test_platformio_mistakes_are_one_line(line: str, changed: str, expected: str, tmp_path: Path) -> None:
    folder = platformio(tmp_path / "fw")
    ini = folder / "platformio.ini"
    ini.write_text(ini.read_text().replace(line, changed))
    assert expected in standin(folder, status=2)


def test_platformio_options(tmp_path: Path) -> None:
    """Numbers, shapes and several models; what one model has of its own is in its sidecar."""
    folder = platformio(tmp_path / "fw")
    shutil.copy(folder / "models/kws.onnx", folder / "models/wake.onnx")
    (folder / "models/wake.toml").write_text('arena = "caller"\n')
    ini = folder / "platformio.ini"
    text = ini.read_text().replace("models/kws.onnx", "\n    models/kws.onnx\n    models/wake.onnx")
    ini.write_text(text + "custom_nn_raw_input = u8\ncustom_nn_raw_input_scale = 0.0625\n")
    standin(folder)
    headers = {name: (folder / f".pio/build/bbcmicrobit/nn/model/{name}.h").read_text() for name in ("kws", "wake")}
    assert "kws_set_input_u8" in headers["kws"]
    assert "int wake_run(void *arena" in headers["wake"]


def real_platformio(folder: Path) -> dict[str, str]:
    """The variables for the real PlatformIO; skips where this Python has none.

    Its SCons is this Python's, put where PlatformIO would have downloaded it to.
    """
    if importlib.util.find_spec("platformio") is None:
        pytest.skip("PlatformIO is not installed: `pip install platformio` into the Python of the tests")
    import SCons
    from platformio.dependencies import get_core_dependencies  # type: ignore[import-not-found,unused-ignore]

    version = get_core_dependencies()["tool-scons"].lstrip("~^=")
    tool = folder / "packages/tool-scons"
    tool.mkdir(parents=True)
    packages = str(Path(SCons.__file__).parents[1])
    (tool / "scons.py").write_text(
        f"import sys\nsys.path.append({packages!r})\nimport SCons.Script\nSCons.Script.main()\n"
    )
    spec = {"owner": "platformio", "name": "tool-scons", "id": None, "requirements": None, "uri": None}
    (tool / "package.json").write_text(json.dumps({"name": "tool-scons", "version": version}))
    (tool / ".piopm").write_text(json.dumps({"type": "tool", "name": "tool-scons", "version": version, "spec": spec}))
    settings = {"ENABLE_TELEMETRY": "no", "CHECK_PLATFORMIO_INTERVAL": "9999", "CHECK_PRUNE_SYSTEM_THRESHOLD": "0"}
    return {"PLATFORMIO_CORE_DIR": str(folder), **{f"PLATFORMIO_SETTING_{key}": text for key, text in settings.items()}}


def test_platformio_itself(tmp_path: Path) -> None:
    variables = real_platformio(tmp_path / "core")
    folder = platformio(tmp_path / "my project")
    shutil.copytree(STANDINS / "platformio/platform", folder / "platform")
    ini = folder / "platformio.ini"
    text = ini.read_text().replace("platform = nordicnrf51", "platform = symlink://platform")
    ini.write_text(text.replace("framework = mbed\n", ""))
    command = [sys.executable, "-m", "platformio", "run"]
    output = run([*command, "-v"], folder, variables)
    assert symbols(folder / ".pio/build/bbcmicrobit/program.elf") >= SYMBOLS | {"sensor"}
    (kernel,) = [line for line in output.splitlines() if "/kws.o -c" in line]
    assert "-mcpu=cortex-m0 -O2" in kernel
    again = run(command, folder, variables)
    assert "QUANT" not in again
    assert "Compiling" not in again
    run([*command, "-t", "compiledb"], folder, variables)
    assert "nn/model/kws.c" in (folder / "compile_commands.json").read_text()


# --- RT-Thread ---------------------------------------------------------------------------------------------------


def rt_thread(folder: Path) -> Path:
    """A BSP of ours in RT-Thread's form, with the recipe's folder in it."""
    lay_out("rt-thread", folder)
    shutil.copytree(STANDINS / "rt_thread/bsp", folder, dirs_exist_ok=True)
    checkout(folder)
    return folder


def rt_thread_root(folder: Path, real: bool) -> dict[str, str]:
    """A root of RT-Thread without a kernel: our stand-in, or with the tools of the one that RTT_ROOT names."""
    shutil.copytree(STANDINS / "rt_thread/root", folder)
    if real:
        if "RTT_ROOT" not in os.environ:
            pytest.skip("RT-Thread is not here; RTT_ROOT names it")
        shutil.rmtree(folder / "tools")
        shutil.copytree(Path(os.environ["RTT_ROOT"]) / "tools", folder / "tools")
    return {"RTT_ROOT": str(folder)}


@pytest.mark.parametrize("real", [False, True], ids=["standin", "itself"])
def test_rt_thread(real: bool, tmp_path: Path) -> None:
    variables = rt_thread_root(tmp_path / "root", real)
    folder = rt_thread(tmp_path / "bsp")
    output = scons(folder, *(["--verbose"] if real else []), variables=variables)
    assert symbols(folder / "rt-thread.elf") >= SYMBOLS
    for name in ("kws", "kws_weights", "kws_selftest"):
        (line,) = [line for line in output.splitlines() if f"/{name}.o -c" in line]
        assert line.rfind("-O2") > line.rfind("-O0"), "LOCAL_CCFLAGS stand behind the BSP's"
    assert "-O2" not in next(line for line in output.splitlines() if "main.o -c" in line)
    assert json.loads(next(folder.rglob("kws.report.json")).read_text())["cpu"] == "cortex-m4"
    assert "is up to date." in scons(folder, variables=variables)


def test_rt_thread_project_files_list_the_last_build(tmp_path: Path) -> None:
    variables = rt_thread_root(tmp_path / "root", real=False)
    folder = rt_thread(tmp_path / "bsp")
    scons(folder, variables=variables)
    listed = scons(folder, "--target=mdk5", variables=variables)
    assert "GROUP NN kws.c kws_kernels.S kws_selftest.c kws_weights.c\n" in listed


# --- what the pages say ------------------------------------------------------------------------------------------


def test_every_recipe_is_in_the_tables() -> None:
    folders = {path.name for path in HOSTS.iterdir() if path.is_dir() and path.name != "models"}
    for page, prefix in ((HOSTS / "README.md", ""), (ROOT / "README.md", "docs/hosts/")):
        linked = set(re.findall(rf"\]\({prefix}([\w-]+)\)", page.read_text(encoding="utf-8")))
        assert folders <= linked, page
    assert all((HOSTS / name / "README.md").is_file() for name in folders)


def test_links_lead_somewhere() -> None:
    for page in HOSTS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_standins_say_so() -> None:
    for path in (STANDINS / "platformio/SConstruct", STANDINS / "rt_thread/root/tools/building.py"):
        assert path.read_text(encoding="utf-8").startswith('"""A stand-in for ')
