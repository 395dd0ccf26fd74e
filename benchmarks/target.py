"""Builds a generated network into the reference harness and runs it under QEMU: bytes, stack, counted instructions.

The harness (`harness/` of the reference folder, see its README) counts executed instructions with a QEMU plugin.
Flash and RAM are those of the linked image less those of the same image with an empty network.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CC = "arm-none-eabi-gcc"
CORES: Mapping[str, tuple[str, list[str]]] = {
    "M0": ("m0", ["-mcpu=cortex-m0", "-mthumb", "-mfloat-abi=soft"]),
    "M4": ("m4", ["-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]),
    "M7": ("m7", ["-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"]),
    "M55": ("m55", ["-mcpu=cortex-m55", "-mthumb", "-mfpu=auto", "-mfloat-abi=hard"]),
}
SECTIONS = ["-ffunction-sections", "-fdata-sections", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"]

GLUE = """
#include "hc.h"
#include "net.h"
#ifdef NET_INPUT_OFFSET
#define input net_input()
#else
static int8_t input[NET_INPUT_SIZE];
#endif
#ifdef NET_OUTPUT_OFFSET
#define output net_output()
#else
static int8_t output[NET_OUTPUT_SIZE];
#endif
void *model_input(void) { return input; }
const void *model_output(void) { return output; }
size_t model_input_size(void) { return NET_INPUT_SIZE; }
size_t model_output_size(void) { return NET_OUTPUT_SIZE; }
"""


def glue(header: str) -> str:
    """What the harness calls: the network of this header, whose input may be pushed, and which may keep a state."""
    found = prototypes(header, "net")
    parameters = re.findall(r"\w+(?=[,)])", found["net_run"][1])
    arguments = ", ".join(name for name in parameters if name != "void")
    init = "net_reset();" if "net_reset" in found else ""
    push = "for (int32_t y = 0; y < NET_INPUT_ROWS; y++) { net_push_row(y, &input[y * NET_INPUT_ROW_SIZE]); } "
    run = f"{push if 'net_push_row' in found else ''}net_run({arguments});"
    return f"{GLUE}void model_init(void) {{ {init} }}\nvoid model_run(void) {{ {run} }}\n"


def prototypes(header: str, network: str) -> dict[str, tuple[str, str]]:
    """The type and the parameters, with their parentheses, of each function of a network."""
    found = re.findall(rf"^((?:const )?\w+ \*?)({network}_\w+)(\(.*\));$", header, re.MULTILINE)
    return {name: (kind, parameters) for kind, name, parameters in found}


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of flash and of static RAM that the network adds, stack at its deepest, instructions of one inference."""

    flash: int
    static_ram: int
    stack: int
    instructions: int
    outputs: npt.NDArray[Any]


def compiler_version() -> str:
    """The first line of `--version`."""
    return subprocess.run([CC, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def measure(
    core: str,
    files: Mapping[str, str],
    inputs: npt.NDArray[Any],
    harness: Path,
    folder: Path,
    extra: Sequence[str] = (),
) -> Measured:
    """Compile `files` of a network named `net` at -O2, link, run `inputs` (samples, elements; int8).

    `extra` are further arguments of the link: include folders, libraries.
    """
    flash, ram = sizes(core, files, harness, folder, extra)
    elf = folder / "net.elf"
    inputs.tofile(folder / "input.bin")
    (folder / "output.bin").unlink(missing_ok=True)
    printed = _run(core, elf, harness, folder)
    size = int(re.search(r"#define NET_OUTPUT_SIZE (\d+)", files["net.h"]).group(1))  # type: ignore[union-attr]
    outputs = np.fromfile(folder / "output.bin", np.int8).reshape(-1, size)
    found = dict(re.findall(r"^(\w+)=([\d.]+)$", printed, re.MULTILINE))
    instructions = float(found["insn_run_mean"] if "insn_run_mean" in found else found["insn_run"])
    return Measured(flash, ram, int(found["stack_run"]), round(instructions), outputs)


def sizes(
    core: str, files: Mapping[str, str], harness: Path, folder: Path, extra: Sequence[str] = ()
) -> tuple[int, int]:
    """(flash, static RAM) that the network in `files` adds to an image, which is linked as `folder`/net.elf."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "glue.c").write_text(glue(files["net.h"]))
    sources = [folder / name for name in files if name.endswith((".c", ".S"))]
    flash, ram = _sizes(_link(core, [*sources, folder / "glue.c"], harness, folder / "net.elf", extra))
    base_flash, base_ram = _sizes(_link(core, [_empty(files["net.h"], folder)], harness, folder / "empty.elf", ()))
    return flash - base_flash, ram - base_ram


def _empty(header: str, folder: Path) -> Path:
    """The glue around a network that does nothing: what start-up, harness and buffers take."""
    path = folder / "empty.c"
    stubs = [
        f"{kind}{name}{parameters} {{ {'' if kind == 'void ' else 'return 0;'} }}"
        for name, (kind, parameters) in prototypes(header, "net").items()
    ]
    path.write_text("\n".join([glue(header), *stubs, ""]))
    return path


def _link(core: str, sources: Sequence[Path], harness: Path, output: Path, extra: Sequence[str]) -> Path:
    flags = CORES[core][1]
    objects = [str(source) for source in sources]
    own = [str(harness / "hc_main.c"), str(harness / "hc_startup.c")]
    compiled = []
    for number, (source, level) in enumerate([*[(s, "-O2") for s in objects], *[(s, "-Os") for s in own]]):
        obj = output.with_suffix(f".{number}.o")
        options = [level, *SECTIONS, f"-I{harness}", f"-I{output.parent}", *[e for e in extra if e.startswith("-I")]]
        quiet = ["-fno-tree-loop-distribute-patterns"] if source in own else []
        subprocess.run([CC, *flags, *options, *quiet, "-c", source, "-o", str(obj)], check=True)
        compiled.append(str(obj))
    script = "an547.ld" if core == "M55" else "mps2.ld"
    link = ["-nostartfiles", "--specs=nano.specs", f"-L{harness}", f"-T{harness / script}"]
    link += ["-Wl,--gc-sections,--no-warn-rwx-segments", *[e for e in extra if not e.startswith("-I")], "-lm"]
    subprocess.run([CC, *flags, "-Os", *compiled, *link, "-o", str(output)], check=True)
    return output


def _sizes(elf: Path) -> tuple[int, int]:
    """(flash, static RAM) without stack."""
    done = subprocess.run(["arm-none-eabi-size", "-A", str(elf)], capture_output=True, text=True, check=True)
    sections = {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)\s+\d+$", done.stdout, re.MULTILINE)}
    flash = sum(sections.get(name, 0) for name in (".text", ".ARM.exidx", ".data"))
    return flash, sections.get(".data", 0) + sections.get(".bss", 0)


def _run(core: str, elf: Path, harness: Path, folder: Path) -> str:
    plugin = folder / "hc_plugin.so"
    for name in ("hc_run.sh", "cores.sh"):
        (folder / name).write_text((harness / name).read_text())
    if not plugin.exists():
        command = ["gcc", "-O2", "-shared", "-fPIC", "-w", "-o", str(plugin), str(harness / "hc_plugin.c")]
        subprocess.run(command, check=True)
    done = subprocess.run(
        [
            "bash",
            str(folder / "hc_run.sh"),
            CORES[core][0],
            str(elf),
            str(folder / "input.bin"),
            str(folder / "output.bin"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or "insn_run=" not in done.stdout:
        raise RuntimeError(f"QEMU: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout
