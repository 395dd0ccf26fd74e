"""Cross-compiles generated C with the boards of tests/boards and runs it on QEMU: a machine for each core."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnbuild.target import TARGETS, Target

BOARDS = Path(__file__).resolve().parent / "boards"
COMPILER = "arm-none-eabi-gcc"
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror"]
SECTIONS = ["-ffunction-sections", "-fdata-sections"]
HARD = "-mfloat-abi=hard"


@dataclass(frozen=True, slots=True)
class Memory:
    """Where a machine starts from and what it may write: origin and length, as a linker script has them.

    `more` are further commands of a linker script, such as regions and sections.
    """

    flash: tuple[int, str]
    ram: tuple[int, str]
    stack: str
    more: str = ""

    def script(self) -> str:
        return (
            "MEMORY\n{\n"
            f"  FLASH (rx) : ORIGIN = {self.flash[0]:#x}, LENGTH = {self.flash[1]}\n"
            f"  RAM (rwx) : ORIGIN = {self.ram[0]:#x}, LENGTH = {self.ram[1]}\n"
            f"}}\n__stack_size = {self.stack};\n{self.more}"
        )


@dataclass(frozen=True, slots=True)
class Core:
    """`flags` compile for it, `machine` is QEMU's, `cpu` a name of nnbuild.target."""

    name: str
    flags: tuple[str, ...]
    machine: str
    memory: Memory
    cpu: str

    @property
    def target(self) -> Target:
        return TARGETS[self.cpu]

    @property
    def small(self) -> bool:
        """Whether only a few cases fit into an image."""
        return self.memory.ram[1] == "16K"


MICROBIT = Memory((0x00000000, "256K"), (0x20000000, "16K"), "2K")
MPS2 = Memory((0x00000000, "4M"), (0x20000000, "4M"), "32K")
AN505 = Memory((0x10000000, "4M"), (0x38000000, "2M"), "32K")
"""It leaves reset in the Secure state, and code below 0x10000000 is not secure: the secure aliases."""
AN547 = Memory((0x00000000, "512K"), (0x20000000, "512K"), "32K")
"""The tightly coupled memories."""

CORES = {
    core.name: core
    for core in (
        Core("m0", ("-mcpu=cortex-m0",), "microbit", MICROBIT, "cortex-m0"),
        Core("m3", ("-mcpu=cortex-m3",), "mps2-an385", MPS2, "cortex-m3"),
        Core("m4", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", HARD), "mps2-an386", MPS2, "cortex-m4"),
        Core("m7", ("-mcpu=cortex-m7", "-mfpu=fpv5-d16", HARD), "mps2-an500", MPS2, "cortex-m7"),
        Core("m33", ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", HARD), "mps2-an505", AN505, "cortex-m33"),
        Core("m55", ("-mcpu=cortex-m55", "-mfpu=auto", HARD), "mps3-an547", AN547, "cortex-m55"),
    )
}


def need() -> None:
    """Skip, in one line, where the cross compiler or QEMU is missing."""
    for tool in (COMPILER, "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def flags(core: Core) -> list[str]:
    """The compiler for a core, in the words of its command line."""
    return [COMPILER, *core.flags, "-mthumb", *SECTIONS]


def objects(command: Sequence[str], folder: Path, sources: Sequence[Path]) -> list[Path]:
    """Compiles `sources` into `folder`, on all processors; a warning is a failure."""
    folder.mkdir(parents=True, exist_ok=True)

    def build(source: Path) -> Path:
        output = folder / f"{source.stem}.o"
        done = subprocess.run(
            [*command, "-c", str(source), "-o", str(output)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return output

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(build, sources))


def link(
    folder: Path,
    sources: Sequence[Path],
    core: Core = CORES["m0"],
    optimize: str = "-O2",
    compile_arguments: Sequence[str] = (),
    link_arguments: Sequence[str] = (),
) -> Path:
    """An ELF of `sources` for the core's machine; a warning is a failure.

    `compile_arguments` are for `sources`, such as an include folder; `link_arguments` stand behind them, such as a
    library.
    """
    output = folder / "fw.elf"
    (folder / "memory.ld").write_text(core.memory.script())
    command = [*flags(core), *FLAGS, optimize, f"-I{folder}", "-include", str(BOARDS / "board.h"), *compile_arguments]
    built = objects(command, folder, [BOARDS / "startup.c", *sources])
    arguments = ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections,--no-warn-rwx-segments", f"-L{folder}"]
    arguments += [f"-T{BOARDS / 'sections.ld'}", "-o", str(output), *map(str, built), *link_arguments]
    done = subprocess.run([*flags(core), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def run(elf: Path, core: Core = CORES["m0"], seconds: int = 120) -> tuple[int, str]:
    """Exit status, and what the image printed: which cases differ, or in which one a fault struck."""
    command = ["qemu-system-arm", "-M", core.machine, "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", "-kernel", str(elf)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr
