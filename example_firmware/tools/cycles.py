"""Estimated cycles of executed code: QEMU's trace of basic blocks, each instruction weighed with the core's timings.

Timings: Cortex-M0 and Cortex-M4 Technical Reference Manuals (Arm DDI 0432, DDI 0439), memory without wait states,
MULS in one cycle, pipeline refill of the M4 one cycle for direct branches and two for the others. An estimate: only
the board knows. The log must come from `qemu-system-arm -d exec,in_asm,nochain` without -icount.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of the image: mnemonic without width suffix, and operands as objdump prints them."""

    mnemonic: str
    operands: str


@dataclass(frozen=True, slots=True)
class Count:
    """What a stretch of execution took."""

    instructions: int
    cycles: int


Cost = Callable[[Instruction, bool], int]


def _registers(operands: str) -> int:
    """How many registers a list such as {r4, r5, r7, lr} or {r0-r3} names."""
    names = operands[operands.index("{") + 1 : operands.index("}")].split(",")
    total = 0
    for name in names:
        first, _, last = name.strip().partition("-")
        total += int(last[1:]) - int(first[1:]) + 1 if last else 1
    return total


def _always(cycles: int) -> Cost:
    return lambda instruction, taken: cycles


def _branch(taken_cycles: int) -> Cost:
    return lambda instruction, taken: taken_cycles if taken else 1


def _several(refill: int) -> Cost:
    """LDM, STM, PUSH, POP: one cycle and one a register; `refill` more when the program counter is loaded."""

    def cost(instruction: Instruction, taken: bool) -> int:
        return 1 + _registers(instruction.operands) + (refill if "pc" in instruction.operands else 0)

    return cost


def _m4_store(instruction: Instruction, taken: bool) -> int:
    return 2 if re.search(r"\[\w+, [a-z]", instruction.operands) else 1


# The first pattern that matches the whole mnemonic decides; what none matches takes one cycle.
TIMINGS: Mapping[str, tuple[tuple[str, Cost], ...]] = {
    "cortex-m0": (
        (r"(push|pop|ldm|stm)\w*", _several(3)),
        (r"(ldr|str)\w*", _always(2)),
        (r"bl", _always(4)),
        (r"blx|bx|b", _always(3)),
        (r"b\w\w", _branch(3)),
        (r"mrs|msr|dmb|dsb|isb", _always(4)),
    ),
    "cortex-m4": (
        (r"(push|pop|ldm|stm)\w*", _several(2)),
        (r"(ldrd|strd)", _always(3)),
        (r"ldr\w*", _always(2)),
        (r"str\w*", _m4_store),
        (r"bl|b", _always(2)),
        (r"bx|blx|tbb|tbh", _always(3)),
        (r"cbn?z|b\w\w", _branch(2)),
        (r"[su]div", _always(7)),
    ),
}
_NOT_BRANCHES = frozenset({"bic", "bics", "bfi", "bfc"})


def disassemble(objdump: str, elf: str) -> dict[int, Instruction]:
    """The instructions of the image by address."""
    text = subprocess.run([objdump, "-d", "--no-show-raw-insn", elf], capture_output=True, text=True, check=True).stdout
    found: dict[int, Instruction] = {}
    for address, mnemonic, operands in re.findall(r"^\s+([0-9a-f]+):\t(\S+)[\t ]*([^;\n]*)", text, re.MULTILINE):
        found[int(address, 16)] = Instruction(mnemonic.split(".")[0], operands.strip())
    return found


def symbols(nm: str, elf: str) -> dict[str, int]:
    """Addresses of the functions of the image by name."""
    text = subprocess.run([nm, elf], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^([0-9a-f]+) [Tt] (\w+)$", text, re.MULTILINE)
    return {name: int(address, 16) & ~1 for address, name in found}


def _cost(core: str, instruction: Instruction) -> Cost:
    if instruction.mnemonic not in _NOT_BRANCHES:
        for pattern, cost in TIMINGS[core]:
            if re.fullmatch(pattern, instruction.mnemonic):
                return cost
    return _always(1)


class Trace:
    """Reads the log line by line and keeps what ran between calls of `mark`, by the functions that ran there."""

    def __init__(self, core: str, code: Mapping[int, Instruction], mark: int, entries: Mapping[str, int]) -> None:
        self.stretches: dict[str, Count] = {}
        self._core = core
        self._code = code
        self._mark = mark
        self._entries = {address: name for name, address in entries.items()}
        self._blocks: dict[int, list[int]] = {}

    def read(self, log: Iterable[str]) -> None:
        """Consume the log until every entry has been seen once between two marks.

        A log without the instructions of its blocks (a QEMU built without a disassembler) leaves `stretches` empty.
        """
        steps: Counter[tuple[int, int]] = Counter()
        inside: str | None = None
        marked = False  # what runs before the first mark, such as a self-test, is no stretch
        block: list[int] = []
        previous = -1
        for line in log:
            if line.startswith("Trace"):
                address = int(line.split("/", 2)[1], 16)
                if previous >= 0:
                    steps[previous, address] += 1
                if address == self._mark:
                    if inside is not None and inside not in self.stretches and self._blocks:
                        self.stretches[inside] = self._weigh(steps)
                    if len(self.stretches) == len(self._entries):
                        return
                    steps.clear()
                    inside, marked = None, True
                elif marked and address in self._entries:
                    inside = self._entries[address]
                previous = address
            elif line.startswith("IN:"):
                block = []
            elif line.startswith("0x"):
                address = int(line.split(":", 1)[0], 16)
                block.append(address)
                self._blocks[block[0]] = block

    def _weigh(self, steps: Mapping[tuple[int, int], int]) -> Count:
        instructions = cycles = 0
        for (start, following), times in steps.items():
            block = self._blocks[start]
            instructions += times * len(block)
            # A branch was taken unless the block that follows in memory ran next.
            taken = not block[-1] < following <= block[-1] + 4
            for address in block:
                instruction = self._code[address]
                cycles += times * _cost(self._core, instruction)(instruction, taken)
        return Count(instructions, cycles)
