"""Classes of instructions, and how many cycles of a core each takes: what executed code is weighed with.

Cortex-M0, M0+, M3 and M4 Technical Reference Manuals (Arm DDI 0432, 0484, 0337, 0439), memory that never waits, MULS
in one cycle. Where a manual states a range (SMULL, SMLAL, division, the refill of the pipeline behind a branch) it is
the value in its middle: 4, 5 and 7 cycles, refill 1 for direct branches and 2 for those through a register.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# class -> cycles on M0, M0+, M3, M4. `registers` is for each register of LDM, STM, PUSH and POP, on top of `several`.
CYCLES: Mapping[str, tuple[float, float, float, float]] = {
    "plain": (1, 1, 1, 1),
    "multiply": (1, 1, 1, 1),
    "multiply_add": (1, 1, 2, 1),
    "long_multiply": (1, 1, 4, 1),
    "long_multiply_add": (1, 1, 5, 1),
    "divide": (7, 7, 7, 7),
    "load": (2, 2, 2, 2),
    "next_load": (2, 2, 1, 1),
    "double": (3, 3, 3, 3),
    "store": (2, 2, 1, 1),
    "indexed_store": (2, 2, 2, 2),
    "several": (1, 1, 1, 1),
    "registers": (1, 1, 1, 1),
    "branch": (3, 2, 2, 2),
    "call": (4, 3, 2, 2),
    "jump": (3, 2, 3, 3),
    "system": (4, 3, 2, 2),
}
MISSING = ("multiply_add", "long_multiply", "long_multiply_add", "divide", "double")
"""What ARMv6-M does not have."""
CORES = ("cortex-m0", "cortex-m0plus", "cortex-m3", "cortex-m4")

# The first pattern that matches the whole mnemonic decides; what none matches is plain.
_CLASSES: tuple[tuple[str, str], ...] = (
    (r"push|pop|ldm\w*|stm\w*|vpush|vpop|vldm\w*|vstm\w*", "several"),
    (r"ldrd|strd", "double"),
    (r"v?ldr\w*", "load"),
    (r"v?str\w*", "store"),
    (r"muls?", "multiply"),
    (r"ml[as]|smla(bb|bt|tb|tt|wb|wt|d|dx)|smls\w+|smmla\w*", "multiply_add"),
    (r"[su]mull", "long_multiply"),
    (r"[su]mlal\w*", "long_multiply_add"),
    (r"[su]div", "divide"),
    (r"bl", "call"),
    (r"bx|blx|tbb|tbh", "jump"),
    (r"(?!bic|bfi|bfc|bkpt)(b|b\w\w)|cbn?z", "branch"),
    (r"mrs|msr|dmb|dsb|isb", "system"),
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of an image: mnemonic without width suffix, operands as objdump prints them, bytes."""

    mnemonic: str
    operands: str
    size: int

    @property
    def kind(self) -> str:
        """Its class, without a look at its neighbours."""
        for pattern, name in _CLASSES:
            if re.fullmatch(pattern, self.mnemonic):
                indexed = name == "store" and re.search(r"\[\w+, [a-z]", self.operands)
                return "indexed_store" if indexed else name
        return "plain"

    @property
    def registers(self) -> int:
        """How many registers a list such as {r4, r5, r7, lr} or {r0-r3} names."""
        if "{" not in self.operands:
            return 0
        total = 0
        for name in self.operands[self.operands.index("{") + 1 : self.operands.index("}")].split(","):
            first, _, last = name.strip().partition("-")
            total += int(last[1:]) - int(first[1:]) + 1 if last else 1
        return total

    def follows(self, load: Instruction) -> bool:
        """Whether this load overlaps with `load` in front of it: its address does not wait for that one's result."""
        result = load.operands.split(",")[0].strip()
        return not re.search(rf"\[[^\]]*\b{result}\b", self.operands)


def of_block(block: list[Instruction], taken: float) -> dict[str, float]:
    """Instructions of one run of `block` by class; `taken` is how often (0 to 1) its last one branches."""
    found: dict[str, float] = {}

    def add(kind: str, count: float = 1) -> None:
        found[kind] = found.get(kind, 0) + count

    previous: Instruction | None = None
    for instruction in block:
        kind = instruction.kind
        if kind == "several":
            add("registers", instruction.registers)
            if "pc" in instruction.operands:
                add("jump")
        if kind == "load" and previous is not None and previous.kind == "load" and instruction.follows(previous):
            kind = "next_load"
        if kind == "branch":
            add("branch", taken)
            add("plain", 1 - taken)
        else:
            add(kind)
        previous = instruction
    return found
