"""Cross-compiles generated C with the example's board support and runs it on QEMU's micro:bit, a true Cortex-M0."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

BOARD = Path(__file__).resolve().parents[1] / "example_firmware" / "board"
COMPILER = "arm-none-eabi-gcc"
CORE = ["-mcpu=cortex-m0", "-mthumb"]
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror"]
SECTIONS = ["-ffunction-sections", "-fdata-sections"]


def need() -> None:
    """Skip, in one line, where the cross compiler or QEMU is missing."""
    for tool in (COMPILER, "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def link(folder: Path, sources: Sequence[Path], optimize: str = "-O2") -> Path:
    """An ELF of `sources` for the micro:bit; a warning is a failure."""
    output = folder / "fw.elf"
    board = [BOARD / name for name in ("startup.c", "text.c", "microbit.c")]
    command = [COMPILER, *CORE, *FLAGS, *SECTIONS, optimize, f"-I{BOARD}", f"-I{folder}", "-nostartfiles"]
    command += [
        "--specs=nano.specs",
        "-Wl,--gc-sections,--no-warn-rwx-segments",
        f"-L{BOARD}",
        f"-T{BOARD}/microbit.ld",
    ]
    done = subprocess.run(
        [*command, "-o", str(output), *map(str, (*board, *sources))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return output


def run(elf: Path, seconds: int = 120) -> tuple[int, str]:
    """Exit status and what the UART printed."""
    command = ["qemu-system-arm", "-M", "microbit", "-nographic", "-monitor", "none", "-serial", "stdio"]
    command += ["-semihosting-config", "enable=on,target=native", "-kernel", str(elf)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout
