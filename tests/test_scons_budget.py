"""Budgets that fail the build, and what is left behind. Real scons and compilers, stand-in quantize and emit."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scons_project import HOST, MAIN, SITE, Project

SMALL, LARGE = "weights=200 arena=100", "weights=100000 arena=100"
IMAGE = (
    HOST + 'kws = env.NNModel("models/kws.onnx")\nfw = env.Program("fw.elf", ["main.c", kws])\n'
    'env.Command("fw.bin", fw, Copy("$TARGET", "$SOURCE"))\nenv.NNBudget(fw, FLASH="{limit}")\n'
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "my firmware")
    made.write({"main.c": MAIN, "models/kws.onnx": SMALL})
    return made


def over_budget(project: Project, *arguments: str) -> str:
    """A run that must fail over budget, and leave neither ELF nor .bin."""
    (project.folder / "fw.bin").unlink(missing_ok=True)
    output = project.scons(*arguments, status=2)
    assert "scons: *** [fw.elf] Error 1" in output
    assert "bytes over" in output
    assert not (project.folder / "fw.elf").exists()
    assert not (project.folder / "fw.bin").exists()
    assert (project.folder / "fw.elf.overbudget").exists()
    return output


def good(project: Project) -> str:
    output = project.scons()
    assert (project.folder / "fw.elf").exists()
    assert (project.folder / "fw.bin").exists()
    assert not (project.folder / "fw.elf.overbudget").exists()
    return output


def test_limits_and_models_that_come_and_go(project: Project) -> None:
    """Over budget never turns into up to date, whatever is changed and put back."""
    project.write({"SConstruct": IMAGE.format(limit="90K"), "models/kws.onnx": LARGE})
    over_budget(project)
    over_budget(project)  # again: not 'up to date'
    over_budget(project, "-k", "-j2")
    project.write({"SConstruct": IMAGE.format(limit="190K")})
    good(project)  # the limit is raised
    assert not project.built(project.scons())
    project.write({"SConstruct": IMAGE.format(limit="90K")})
    over_budget(project)  # lowered
    project.write({"models/kws.onnx": SMALL})
    good(project)  # a smaller model
    assert not project.built(project.scons())
    project.write({"models/kws.onnx": LARGE})
    over_budget(project)
    project.write({"models/kws.onnx": SMALL})
    good(project)  # the model is put back
    assert not project.built(project.scons())


def test_what_is_said(project: Project) -> None:
    project.write({"SConstruct": IMAGE.format(limit="90K"), "models/kws.onnx": LARGE})
    output = over_budget(project)
    assert "SIZE   fw.elf\n" in output
    (error,) = [line for line in output.splitlines() if line.startswith("fw.elf: FLASH is ")]
    assert "over its limit" in error
    assert "of 92,160 bytes; hint: layer kws_l00_conv2d (conv2d 16 -> 16) holds 98 % of it: weights 100,000" in error
    report = json.loads((project.folder / "fw.size.json").read_text())
    (flash,) = [region for region in report["regions"] if region["name"] == "FLASH"]
    assert flash["limit"] == 92160
    assert f"{flash['over']:,} bytes over" in output
    assert flash["used"] - flash["limit"] == flash["over"] > 0
    assert report["models"][0]["model_id"] == "0x12345678"
    assert "KWS_MODEL_ID 0x12345678" in (project.folder / "fw.size.txt").read_text()


def test_same_limit_written_otherwise_is_no_change(project: Project) -> None:
    project.write({"SConstruct": IMAGE.format(limit="90K")})
    good(project)
    project.write({"SConstruct": IMAGE.format(limit="92160")})
    assert not project.built(project.scons())


def test_clean_and_dry_run(project: Project) -> None:
    project.write({"SConstruct": IMAGE.format(limit="90K"), "models/kws.onnx": LARGE})
    assert "SIZE   fw.elf" in project.scons("-n")
    over_budget(project)
    project.scons("-c")
    assert project.files("fw*") == []


def test_the_check_comes_before_the_users_actions(project: Project) -> None:
    text = IMAGE.format(limit="90K").replace(
        "env.NNBudget", 'env.AddPostAction(fw, Copy("fw.hex", "$TARGET"))\nenv.NNBudget'
    )
    project.write({"SConstruct": text, "models/kws.onnx": LARGE})
    over_budget(project)
    assert not (project.folder / "fw.hex").exists()


def test_report_alone_never_fails(project: Project) -> None:
    project.write({"SConstruct": IMAGE.replace(', FLASH="{limit}"', ""), "models/kws.onnx": LARGE})
    good(project)
    assert json.loads((project.folder / "fw.size.json").read_text())["flash"]["weights"] == 100000


def test_models_in_libraries_are_reported(project: Project) -> None:
    text = IMAGE.format(limit="190K").replace('["main.c", kws]', '"main.c", LIBS=[env.StaticLibrary("kws", kws)]')
    project.write({"SConstruct": text, "models/kws.onnx": LARGE})
    good(project)
    assert [model["name"] for model in json.loads((project.folder / "fw.size.json").read_text())["models"]] == ["kws"]


def test_nn_size_prints_the_table(project: Project) -> None:
    project.write({"SConstruct": HOST + 'env.Program("fw", ["main.c", env.NNModel("models/kws.onnx")])\n'})
    project.scons()
    for _ in range(2):  # always, not only when something has changed
        output = project.scons("nn-size")
        assert "kws_l00_conv2d" in output
        assert "generated code" in output
    project.calls()
    project.scons()
    assert project.calls() == []  # but only when asked


@pytest.mark.parametrize(("variables", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_nn_size_on_a_terminal(project: Project, variables: dict[str, str], colour: bool) -> None:
    """Colours reach the terminal through scons, and what the shell says against them reaches nnbuild."""
    project.write({"SConstruct": HOST + 'env.Program("fw", ["main.c", env.NNModel("models/kws.onnx")])\n'})
    shell = {key: text for key, text in os.environ.items() if key not in ("NO_COLOR", "SCONSFLAGS")}
    outside, inside = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "SCons", SITE, "nn-size"],
        cwd=project.folder,
        env={**shell, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **variables},
        stdin=subprocess.DEVNULL,
        stdout=inside,
    ) as process:
        os.close(inside)
        printed = b""
        # Linux says EIO when nobody holds the other end any more.
        with contextlib.suppress(OSError):
            while chunk := os.read(outside, 4096):
                printed += chunk
    os.close(outside)
    assert process.returncode == 0
    assert "kws_l00_conv2d" in printed.decode()
    assert "█".encode() in printed
    assert (b"\x1b[" in printed) == colour


def test_nn_report_writes_the_pages(project: Project) -> None:
    project.write({"SConstruct": IMAGE.format(limit="190K"), "models/kws.onnx": SMALL})
    project.scons()
    assert project.files("fw.size.*") == ["fw.size.json", "fw.size.txt"]
    for _ in range(2):
        project.scons("nn-report")
        assert project.files("fw.size.*") == ["fw.size.html", "fw.size.json", "fw.size.md", "fw.size.txt"]
        (project.folder / "fw.size.html").unlink()
    assert "kws_l00_conv2d" in (project.folder / "fw.size.md").read_text(encoding="utf-8")
    project.calls()
    assert not project.built(project.scons())  # the pages are nobody's targets
    project.scons("-c")
    assert project.files("fw.size.*") == []


def test_nn_report_shows_an_image_that_is_over(project: Project) -> None:
    project.write({"SConstruct": IMAGE.format(limit="90K"), "models/kws.onnx": LARGE})
    project.scons("nn-report", status=2)
    assert "1 budget missed" in (project.folder / "fw.size.html").read_text(encoding="utf-8")
    assert "Over budget: FLASH" in (project.folder / "fw.size.md").read_text(encoding="utf-8")


def test_nn_report_of_an_image_without_budget(project: Project) -> None:
    project.write({"SConstruct": HOST + 'env.Program("fw", ["main.c", env.NNModel("models/kws.onnx")])\n'})
    project.scons("nn-report")
    assert "kws_l00_conv2d" in (project.folder / "fw.size.html").read_text(encoding="utf-8")


def test_failing_measurement_leaves_no_image(project: Project) -> None:
    """An image that could not be checked is no more to be trusted than one that is over."""
    text = IMAGE.format(limit="90K").replace("env.NNBudget", 'env["NNSIZECOM"] = "no-such-program"\nenv.NNBudget')
    project.write({"SConstruct": text})
    output = project.scons(status=2)
    assert "cannot run 'no-such-program'" in output
    assert not (project.folder / "fw.elf").exists()


# --- a model's own budget ----------------------------------------------------------------------------------------

MODEL = HOST + 'kws = env.NNModel("models/kws.onnx", {options})\nenv.Program("fw.elf", ["main.c", kws])\n'
USERS = {
    "program": 'env.Program("fw.elf", ["main.c", kws])\n',
    "library": 'env.Program("fw.elf", "main.c", LIBS=[env.StaticLibrary("kws", kws)])\n',
    "command": 'env.Command("fw.elf", [env.Object("main.c"), kws], "$CC -o $TARGET $SOURCES")\n',
}


@pytest.mark.parametrize("user", list(USERS))
def test_model_over_its_budget_is_never_linked(project: Project, user: str) -> None:
    """Whoever uses the objects, in whatever way, waits for the check."""
    text = HOST + 'kws = env.NNModel("models/kws.onnx", flash="{limit}", selftest=1)\n' + USERS[user]
    project.write({"SConstruct": text.format(limit="90K"), "models/kws.onnx": LARGE})
    for _ in range(2):
        output = project.scons("-j2", status=2)
        assert "kws.o: kws flash is " in output
        assert "bytes over its limit" in output
        assert not (project.folder / "fw.elf").exists()
    project.write({"SConstruct": text.format(limit="110K")})
    project.scons()
    assert (project.folder / "fw.elf").exists()
    assert project.files("*.overbudget") == []
    assert not project.built(project.scons())
    project.write({"SConstruct": text.format(limit="90K")})
    project.scons(status=2)
    project.write({"models/kws.onnx": SMALL})
    project.scons()


def test_weights_alone_are_checked_too(project: Project) -> None:
    """Only the weights' file differs between these two models, and the check must run again."""
    project.write({"SConstruct": MODEL.format(options='flash="90K"')})
    project.scons()
    emitted = project.path("kws_weights.c")
    emitted.write_text(emitted.read_text().replace("[200]", "[100000]"))
    assert "bytes over its limit" in project.scons("build/nn", status=2)


@pytest.mark.parametrize(
    ("options", "fails"), [('ram="99"', True), ('ram="100"', False), ('ram="1K", flash="199"', True)]
)
def test_model_ram(project: Project, options: str, fails: bool) -> None:
    project.write({"SConstruct": MODEL.format(options=options)})
    output = project.scons(status=2 if fails else 0)
    assert ("over its limit" in output) == fails


def test_lto_objects_cannot_be_measured(project: Project) -> None:
    text = MODEL.format(options='flash="90K"').replace('"nn"], ', '"nn"], CCFLAGS=["-flto"], ')
    project.write({"SConstruct": text})
    output = project.scons(status=2)
    assert "holds no machine code yet" in output
    assert "-fno-lto" in output
    project.write({"SConstruct": text.replace("NNPYTHON", 'NN_KERNEL_CCFLAGS="-O2 -fno-lto", NNPYTHON')})
    project.scons()


# --- a Cortex-M image with a linker script -----------------------------------------------------------------------

LINKER_SCRIPT = """/* a small chip */
MEMORY { FLASH (rx) : ORIGIN = 0x0, LENGTH = 128K
         RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 2K }
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text* .rodata*) } > FLASH
  .data : { *(.data*) } > RAM AT > FLASH
  .bss : { *(.bss* COMMON) } > RAM
  .stack (NOLOAD) : { . += 1K; } > RAM
}
"""
CORTEX = (
    HOST.replace(
        '"nn"], ',
        '"nn"], CC="arm-none-eabi-gcc", CCFLAGS=["-mcpu=cortex-m0", "-mthumb"], '
        'LINKFLAGS=["-mcpu=cortex-m0", "-mthumb", "-nostdlib", "-Wl,-Tchip.ld", "-Wl,-emain"], ',
    )
    + 'fw = env.Program("fw.elf", ["main.c", env.NNModel("models/kws.onnx")])\n'
    'env.NNBudget(fw, linker_script="chip.ld", {limits})\n'
)


@pytest.fixture
def cortex(project: Project) -> Project:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    project.write({"chip.ld": LINKER_SCRIPT, "main.c": "int used = 5;\n" + MAIN.replace("* 0", "* 0 + used")})
    return project


def test_regions_of_a_linker_script(cortex: Project) -> None:
    cortex.write({"SConstruct": CORTEX.format(limits='FLASH="50%"')})
    output = cortex.scons()
    assert "arm-none-eabi-gcc -mcpu=cortex-m0" in output
    report = json.loads((cortex.folder / "fw.size.json").read_text())
    flash, ram = report["regions"]
    assert (flash["name"], flash["length"], flash["limit"]) == ("FLASH", 131072, 65536)
    assert (ram["name"], ram["length"], ram["limit"]) == ("RAM", 2048, 2048)
    assert report["ram"] == {"arena": 100, "scratch": 0, "other": 4, "stack_reserve": 1024, "total": 1128}
    assert ram["used"] == 1128
    assert report["flash"]["weights"] == 200


def test_changed_linker_script_is_checked(cortex: Project) -> None:
    cortex.write({"SConstruct": CORTEX.format(limits='RAM="90%"')})
    cortex.scons()
    cortex.write({"chip.ld": LINKER_SCRIPT.replace("LENGTH = 2K", "LENGTH = 1200")})
    assert "RAM is 48 bytes over its limit: 1,128 of 1,080 bytes" in cortex.scons(status=2)
    assert not (cortex.folder / "fw.elf").exists()


def test_regions_of_other_names(cortex: Project) -> None:
    """Tightly coupled memory, with a limit in hexadecimal or as a share."""
    script = LINKER_SCRIPT.replace("}\nSECTIONS", "DTCM (rw) : ORIGIN = 0x10000000, LENGTH = 4K }\nSECTIONS")
    source = 'static char fast[3000] __attribute__((section(".dtcm"), used));\n' + MAIN
    cortex.write(
        {
            "main.c": source,
            "chip.ld": script.replace("SECTIONS {", "SECTIONS {\n  .dtcm (NOLOAD) : { *(.dtcm) } > DTCM\n"),
        }
    )
    cortex.write({"SConstruct": CORTEX.format(limits='DTCM="75%"')})
    cortex.scons()
    for limit in ("0xBB7", "2999", "73%"):
        cortex.write({"SConstruct": CORTEX.format(limits=f'DTCM="{limit}"')})
        assert "fw.elf: DTCM is " in cortex.scons(status=2)
    cortex.write({"SConstruct": CORTEX.format(limits='DTCM="0xBB8"')})
    cortex.scons()


def test_unknown_region_is_named(cortex: Project) -> None:
    cortex.write({"SConstruct": CORTEX.format(limits='CCM="1K"')})
    output = cortex.scons(status=2)
    assert "chip.ld: budget for region 'CCM', which does not exist; hint: the regions are FLASH, RAM" in output
