"""Flags and files as other people's SConstructs have them: how a model is compiled there. Real scons and compilers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.scons_project import HOST, MAIN, Project
from tests.test_scons_real import model, samples

MODEL = "weights=200 arena=100"
PROGRAM = 'env.Program("fw", ["main.c", env.NNModel("models/kws.onnx")])\n'


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "my firmware")
    made.write({"main.c": MAIN, "models/kws.onnx": MODEL})
    return made


def compiled(output: str, file: str) -> str:
    """The command that compiles `file`."""
    return next(line for line in output.splitlines() if re.search(rf"{file}\.o -c ", line))


FLAGS = {
    "strings": 'CCFLAGS="-Os -DONE -DTWO=2", CFLAGS="-std=c99 -DTHREE"',
    "lists": 'CCFLAGS=["-Os", "-DONE", "-DTWO=2"], CFLAGS=["-std=c99", "-DTHREE"]',
    "CFLAGS alone": 'CFLAGS="-std=c99 -Os -DONE -DTWO=2 -DTHREE"',
    "a variable": 'ARCHFLAGS="-DONE -DTWO=2", CFLAGS="-std=c99 -DTHREE", CCFLAGS="$ARCHFLAGS -Os"',
    "a list of variables": 'ARCHFLAGS=["-DONE", "-DTWO=2"], C99=["-std=c99"], CFLAGS="$C99 -DTHREE", '
    'CCFLAGS=["$ARCHFLAGS", "-Os"]',
    "in CC": 'CC="gcc -DONE -DTWO=2", CFLAGS="-std=c99 -DTHREE", CCFLAGS="-Os"',
}


@pytest.mark.parametrize("name", list(FLAGS))
def test_flags_however_they_are_given(project: Project, name: str) -> None:
    """The same words reach the compiler of the model, and the compiler that `emit` asks for its core."""
    project.write({"SConstruct": HOST.replace('"nn"], ', f'"nn"], {FLAGS[name]}, ') + PROGRAM})
    line = compiled(project.scons(), "kws").split()
    words = {"-std=c99", "-Os", "-DONE", "-DTWO=2", "-DTHREE"}
    assert words <= set(line)
    assert line.index("-O2") > line.index("-Os")
    (emit,) = [line for line in (project.folder / "calls.log").read_text().splitlines() if line.startswith("emit")]
    arguments = emit.split("\t")
    asked = arguments[arguments.index("--compiler") + 1].split()
    assert asked[0] == "gcc"
    assert words <= set(asked)


@pytest.mark.parametrize("value", ["True", "False"])
def test_assembly_can_be_switched_off(project: Project, value: str) -> None:
    project.write({"SConstruct": HOST.replace('"nn"], ', f'"nn"], NN_ASSEMBLY={value}, ') + PROGRAM})
    project.scons()
    calls = (project.folder / "calls.log").read_text()
    assert ("--no-assembly" in calls) == (value == "False")


def test_spaces_in_a_flag(project: Project) -> None:
    """An element of a list stays one word, also for the compiler that `emit` asks."""
    text = HOST.replace('"nn"], ', '"nn"], CCFLAGS=["-isystem", "sys include", "-DTEXT=a b"], ') + PROGRAM
    project.write({"SConstruct": text})
    assert '"sys include"' in compiled(project.scons(), "kws")
    assert "--compiler\tgcc -isystem 'sys include' '-DTEXT=a b'" in (project.folder / "calls.log").read_text()


@pytest.mark.parametrize("where", ["CFLAGS", "CCFLAGS"])
def test_firmware_without_optimization(project: Project, where: str) -> None:
    """Kernels keep NN_KERNEL_CCFLAGS, or what the firmware says that they should have."""
    text = HOST.replace('"nn"], ', f'"nn"], {where}="-O0 -g", ')
    project.write({"SConstruct": text + PROGRAM})
    output = project.scons()
    assert re.search(r"-O0 -g .*-O2 -ffunction-sections", compiled(output, "kws_weights"))
    assert "-O2" not in compiled(output, "main")
    project.write({"SConstruct": text.replace('"nn"], ', '"nn"], NN_KERNEL_CCFLAGS="-O3 -g0", ') + PROGRAM})
    assert re.search(r"-O0 -g .*-O3 -g0 -ffunction-sections", compiled(project.scons(), "kws"))


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [('env.Dir("obj")', "objkws.o"), ('"fw_"', "fw_kws.o"), ('"${TARGET_CPU}-"', "m0-kws.o")],
)
def test_prefix_of_objects(project: Project, prefix: str, expected: str) -> None:
    """Also a node, of which SCons takes the name; two firmwares of one SConstruct do not share an object."""
    text = HOST + f'env["TARGET_CPU"] = "m0"\nenv["OBJPREFIX"] = {prefix}\n' + PROGRAM
    project.write({"SConstruct": text})
    project.scons()
    assert project.files("*kws.o") == [expected]
    assert (project.folder / "fw").exists()
    assert not project.built(project.scons())


SORTING = {
    "sorted nodes": 'sources = sorted(env.NNModel("models/kws.onnx") + Glob("src/*.c"))\n',
    "sorted by name": 'sources = sorted(env.NNModel("models/kws.onnx") + Glob("src/*.c"), key=str)\n',
    "a set": 'sources = list(set(env.NNModel("models/kws.onnx", ram="1K") + Glob("src/*.c")))\n',
    "models by Glob": 'sources = Glob("src/*.c") + Glob("models/*.onnx")\n',
    "models by Glob, one by one": 'sources = Glob("src/*.c") + [env.NNModel(m) for m in Glob("models/*.onnx")]\n',
    "names from Python": "import glob\nsources = sorted(glob.glob('src/*.c') + glob.glob('models/*.onnx'))\n",
    "a generator of C files": 'sources = sorted(env.NNModel("models/kws.onnx", sources=True) + Glob("src/*.c"))\n',
}


@pytest.mark.parametrize("name", list(SORTING))
def test_sources_sorted_and_globbed(project: Project, name: str) -> None:
    project.write({"SConstruct": HOST + SORTING[name] + 'env.Program("fw", sources)\n', "src/main.c": MAIN})
    project.scons()
    assert (project.folder / "fw").exists()
    assert project.calls()[:2] == ["quantize", "emit"]
    again = project.scons()
    # A set of nodes is ordered by their addresses, in each run anew: the program may be linked again, and no more.
    assert "kws.o -c" not in again if name == "a set" else not project.built(again)
    assert "emit" not in project.calls()


def test_shared_library(project: Project) -> None:
    """For tests on the host: a model by name, compiled once for each kind of object, its own budget included."""
    text = 'env.SharedLibrary("kws", ["models/kws.onnx"])\nenv.LoadableModule("mod", ["models/kws.onnx"])\n'
    project.write({"SConstruct": HOST + text + PROGRAM, "models/kws.toml": 'ram = "1K"\n'})
    output = project.scons()
    assert "-fPIC" in next(line for line in output.splitlines() if "kws.os -c" in line)
    assert "-fPIC" not in compiled(output, "kws")
    assert project.calls() == ["quantize", "emit", "size", "size"]
    symbols = subprocess.run(["nm", "-D", project.folder / "libkws.so"], capture_output=True, text=True, check=True)
    assert " T kws_run" in symbols.stdout
    project.write({"models/kws.toml": 'ram = "50"\n'})
    assert "bytes over" in project.scons("libkws.so", status=2)
    assert project.files("kws.os*") == ["kws.os.overbudget"]


def test_shared_library_from_sources(project: Project) -> None:
    project.write({"SConstruct": HOST + 'env.SharedLibrary("kws", env.NNModel("models/kws.onnx", sources=True))\n'})
    assert "kws_weights.os" in project.scons()


def test_compile_commands(project: Project) -> None:
    """Generated files have their entries, with the flags that they are compiled with."""
    text = 'env.Tool("compilation_db")\nenv.CompilationDatabase()\n'
    project.write({"SConstruct": HOST + text + PROGRAM})
    project.scons()
    entries = {entry["file"]: entry for entry in json.loads((project.folder / "compile_commands.json").read_text())}
    for name in ("kws.c", "kws_weights.c"):
        (file,) = [file for file in entries if file.endswith(f"/{name}")]
        assert (project.folder / file).exists()
        assert "-O2 -ffunction-sections" in entries[file]["command"]
        assert entries[file]["directory"] == str(project.folder)
    assert "main.c" in entries


# --- a firmware without libc -------------------------------------------------------------------------------------

BARE = """#include <stddef.h>
#include "kws.h"
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
void *memmove(void *to, const void *from, size_t size);
void _start(void);
void *memcpy(void *to, const void *from, size_t size)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    while (size-- > 0u) {
        *out++ = *in++;
    }
    return to;
}
void *memset(void *to, int value, size_t size)
{
    unsigned char *out = to;
    while (size-- > 0u) {
        *out++ = (unsigned char)value;
    }
    return to;
}
void *memmove(void *to, const void *from, size_t size)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    if (out < in) {
        return memcpy(to, from, size);
    }
    while (size-- > 0u) {
        out[size] = in[size];
    }
    return to;
}
void _start(void)
{
    static const int8_t input[KWS_INPUT_SIZE] = {1};
    static int8_t output[KWS_OUTPUT_SIZE];
    for (;;) {
        (void)kws_run(input, output);
    }
}
"""
STRICT = (
    "-std=c99 -ffreestanding -fno-builtin -Wall -Wextra -Werror -Wconversion -Wshadow -Wstrict-prototypes -Wcast-qual"
)


@pytest.mark.parametrize(
    ("core", "library"), [("-mcpu=cortex-m0 -mthumb", '"gcc"'), ("-mcpu=cortex-m4 -mthumb", "")], ids=["m0", "m4"]
)
def test_firmware_without_libc(project: Project, core: str, library: str) -> None:
    """-nostdlib -fno-builtin -Werror and a memcpy of its own; libgcc alone, and that only for 64 bits on ARMv6-M."""
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    flags = f'CC="arm-none-eabi-gcc", CCFLAGS="{core} {STRICT}", LINKFLAGS="{core} -nostdlib", LIBS=[{library}]'
    project.write(
        {
            "SConstruct": f'env = Environment(tools=["default", "nn"], {flags})\n'
            'env.Program("fw.elf", ["main.c", env.NNModel("models/kws.onnx", calibration="models/calib.npz")])\n',
            "main.c": BARE,
            "models/kws.onnx": model(),
            "models/calib.npz": samples(),
        }
    )
    assert "warning" not in project.scons()
    undefined = subprocess.run(
        ["arm-none-eabi-nm", "-u", project.folder / "fw.elf"], capture_output=True, text=True, check=True
    )
    assert undefined.stdout == ""
