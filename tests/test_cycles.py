"""The cycle estimate of the example's tools, on a log written by hand."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.example_tools import tool


@pytest.fixture(scope="module")
def cycles() -> ModuleType:
    return tool("cycles")


def test_a_loop_counted_by_hand(cycles: ModuleType) -> None:
    listing = {
        0x10: ("push", "{r4, r5, lr}"),
        0x12: ("movs", "r0, #3"),
        0x14: ("ldr", "r1, [r2, #4]"),
        0x16: ("muls", "r1, r0"),
        0x18: ("subs", "r0, #1"),
        0x1A: ("bne", "14 <loop>"),
        0x1C: ("pop", "{r4, r5, pc}"),
    }
    code = {address: cycles.Instruction(*text) for address, text in listing.items()}
    blocks = {0x10: (0x10, 0x12, 0x14, 0x16, 0x18, 0x1A), 0x14: (0x14, 0x16, 0x18, 0x1A), 0x1C: (0x1C,)}
    log = []
    for block in blocks.values():
        log += ["IN: f", *(f"0x{address:08x}:  0000" for address in block)]
    mark = 0x100
    log += ["IN: timer_ticks", f"0x{mark:08x}:  4770", "IN: main", "0x00000200:  0000"]
    code[mark], code[0x200] = cycles.Instruction("bx", "lr"), cycles.Instruction("nop", "")
    path = [0x10, 0x14, mark, 0x200, 0x10, 0x14, 0x14, 0x1C, 0x200, mark]
    log += [f"Trace 0: 0x7f00 [00000000/{address:08x}/00/00]" for address in path]
    reader = cycles.Trace("cortex-m0", code, mark, {"f": 0x10})
    reader.read(log)
    # bx 3 and nop 1; push 1+3, movs 1; three rounds of ldr 2, muls 1, subs 1 and bne 3, 3, 1; pop 1+3+3; nop 1.
    assert reader.stretches["f"] == cycles.Count(instructions=18, cycles=3 + 1 + 5 + 3 * 4 + 3 + 3 + 1 + 7 + 1)


@pytest.mark.parametrize(
    ("core", "mnemonic", "operands", "expected"),
    [
        ("cortex-m0", "bics", "r0, r1", 1),
        ("cortex-m0", "bl", "14 <f>", 4),
        ("cortex-m0", "stmia", "r0!, {r1-r4}", 5),
        ("cortex-m4", "smlad", "r0, r1, r2, r3", 1),
        ("cortex-m4", "str", "r0, [r1, #4]", 1),
        ("cortex-m4", "str", "r0, [r1, r2]", 2),
        ("cortex-m4", "sdiv", "r0, r1, r2", 7),
        ("cortex-m4", "bfi", "r0, r1, #0, #8", 1),
    ],
)
def test_costs(cycles: ModuleType, core: str, mnemonic: str, operands: str, expected: int) -> None:
    instruction = cycles.Instruction(mnemonic, operands)
    assert cycles._cost(core, instruction)(instruction, True) == expected
