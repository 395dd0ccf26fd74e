"""Boot the firmware in QEMU, show what it prints, and what its networks cost.

    python run.py fw.elf --board microbit --model touch --model touch_cnn

Instructions are counted by the firmware's own timer: with `-icount shift=0` one instruction takes exactly one
nanosecond of virtual time. Cycles are estimated: the instructions of one frame weighed with the timings of the core
(cycles.py). How long QEMU takes says nothing and is not shown. The exit status is the firmware's.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass

import cycles

TIME_LIMIT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Board:
    """A machine of QEMU: its core, the frequency of the timer that the firmware reads, the clocks to show."""

    machine: str
    core: str
    timer_hz: int
    clocks_mhz: tuple[int, ...]


BOARDS = {
    "microbit": Board("microbit", "cortex-m0", 16_000_000, (16, 48)),
    "an386": Board("mps2-an386", "cortex-m4", 25_000_000, (64, 120)),
}


def _qemu(board: Board, elf: str, *options: str) -> list[str]:
    quiet = ("-display", "none", "-monitor", "none", "-semihosting-config", "enable=on,target=native")
    return ["qemu-system-arm", "-M", board.machine, *quiet, *options, "-kernel", elf]


def _missing_tools(prefix: str) -> list[str]:
    return [tool for tool in ("qemu-system-arm", f"{prefix}objdump", f"{prefix}nm") if shutil.which(tool) is None]


def boot(board: Board, elf: str) -> tuple[str, int]:
    """Run to the end; what the firmware printed, which is shown at once as well, and its exit status."""
    command = _qemu(board, elf, "-icount", "shift=0", "-serial", "stdio")
    printed = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(TIME_LIMIT_SECONDS, process.kill)
        watchdog.start()
        for line in process.stdout:
            print(line.rstrip(), flush=True)
            printed.append(line)
        status = process.wait()
        watchdog.cancel()
    return "".join(printed), status


def trace(board: Board, elf: str, prefix: str, models: list[str]) -> dict[str, cycles.Count]:
    """Instructions and estimated cycles of the first frame of each model."""
    names = cycles.symbols(f"{prefix}nm", elf)
    entries = {model: names[f"{model}_run"] for model in models}
    reader = cycles.Trace(board.core, cycles.disassemble(f"{prefix}objdump", elf), names["timer_ticks"], entries)
    command = _qemu(board, elf, "-serial", "null", "-d", "exec,in_asm,nochain")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        reader.read(process.stderr)
        process.kill()
    return reader.stretches


def summary(board: Board, printed: str, counts: dict[str, cycles.Count]) -> list[str]:
    """The table: accuracy, instructions, estimated cycles, microseconds at each clock."""
    clocks = "".join(f"{f'us @ {clock} MHz':>14}" for clock in board.clocks_mhz)
    lines = [f"{'':12}{'right':>14}{'instructions':>14}{'cycles (est.)':>15}{clocks}"]
    ratios = {name: count.cycles / count.instructions for name, count in counts.items()}
    pattern = r"^(\w+): frames (\d+) right (\d+) exact \d+ ticks (\d+) longest \d+"
    for name, *numbers in re.findall(pattern, printed, re.MULTILINE):
        frames, right, ticks = (int(number) for number in numbers)
        instructions = ticks * 1e9 / board.timer_hz / frames
        line = f"{name:12}{f'{right}/{frames} {100 * right / frames:.1f} %':>14}{instructions:>14,.0f}"
        if name in ratios:
            estimate = instructions * ratios[name]
            line += f"{estimate:>15,.0f}" + "".join(f"{estimate / clock:>14,.0f}" for clock in board.clocks_mhz)
        lines.append(line)
    each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()) or "unknown, QEMU traces no instructions"
    lines.append(f"Mean of one frame. Instructions: counted by the board's timer. Cycles: estimated for {board.core},")
    lines.append(f"no wait states, from the instructions that one frame executes (per instruction: {each}).")
    return lines


def main() -> int:
    """Command line; returns the firmware's exit status, 2 where a tool is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("elf")
    parser.add_argument("--board", choices=sorted(BOARDS), required=True)
    parser.add_argument("--model", action="append", required=True, help="name of a model; once for each")
    parser.add_argument("--prefix", default="arm-none-eabi-", help="of the binary utilities")
    arguments = parser.parse_args()
    board = BOARDS[arguments.board]
    missing = _missing_tools(arguments.prefix)
    if missing:
        hint = "on Debian and Ubuntu: apt-get install qemu-system-arm gcc-arm-none-eabi"
        print(f"run.py: {', '.join(missing)} not found; hint: {hint}", file=sys.stderr)
        return 2
    printed, status = boot(board, arguments.elf)
    if status == 0:
        print()
        print("\n".join(summary(board, printed, trace(board, arguments.elf, arguments.prefix, arguments.model))))
    return status


if __name__ == "__main__":
    sys.exit(main())
