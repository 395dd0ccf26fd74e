"""The decoder against binutils' disassembler, on whatever a compiler makes for each core."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from nnbuild.report import thumb
from nnbuild.report.thumb import Op
from tests import qemu

# What objdump calls the registers.
NAMES = {f"r{n}": n for n in range(16)} | {"sp": 13, "lr": 14, "pc": 15, "ip": 12, "fp": 11, "sl": 10, "sb": 9, "r9": 9}

SOURCE = """
#include <stdint.h>
#include <string.h>
int64_t wide(int64_t a, int32_t b) { return a * b >> 7; }
float real(const float *v, int n) { float s = 0; for (int i = 0; i < n; i++) { s += v[i] * v[n - i]; } return s; }
int32_t dot(const int8_t *restrict a, const int8_t *restrict b, int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++) { sum += a[i] * b[i]; }
    return sum;
}
void scale(int16_t *restrict to, const int16_t *restrict from, int n)
{
    for (int i = 0; i < n; i++) { to[i] = (int16_t)((from[i] * 77 + 3) >> 4); }
}
int many(const int32_t *x, int32_t *y)
{
    int32_t big[700];
    memcpy(big, x, sizeof big);
    for (int i = 3; i < 700; i++) { big[i] ^= big[i - 1] % (big[i - 3] | 1) + (big[i - 2] << (i & 7)); }
    memcpy(y, big, sizeof big);
    switch (big[5]) {
    case 1: return y[1] / 3;
    case 2: return (int)wide(y[2], y[3]);
    case 3: return dot((int8_t *)y, (int8_t *)big, 99);
    case 4: return (int)real((float *)y, 9);
    case 5: return y[4] < 0 ? -1 : y[4] > 5;
    }
    return big[1] > 0 ? many(y, big) : 0;
}
"""


def disassembled(path: Path) -> list[tuple[int, int, int, str, str]]:
    """Address, halfwords, mnemonic without its suffix, operands."""
    text = subprocess.run(["arm-none-eabi-objdump", "-d", path], capture_output=True, text=True, check=True).stdout
    pattern = re.compile(r"\s*([0-9a-f]+):\t([0-9a-f]{4})(?: ([0-9a-f]{4}))? +\t([a-z]\w*)\S*(?:\t([^@\n]*))?")
    found = (pattern.match(line) for line in text.splitlines())
    return [(int(m[1], 16), int(m[2], 16), int(m[3] or "0", 16), m[4], (m[5] or "").strip()) for m in found if m]


def kind(mnemonic: str, operands: str) -> str:
    """What the decoder must call it, "" where the name alone does not say."""
    if re.fullmatch(r"v?push|v?pop", mnemonic) or re.search(r"\[sp, #-?\d+\]!|\[sp\], #|^sp!", operands):
        return "move"
    if re.fullmatch(r"bl|bx|blx|b|cbn?z|wls|le|letp|wlstp|tb[bh]|udf|it[te]*", mnemonic):
        names = {"bl": "call", "bx": "jump_register", "blx": "call_register", "b": "jump", "udf": "stop"}
        if mnemonic in names:
            return names[mnemonic]
        return {"c": "branch", "w": "loop", "l": "loop", "t": "table", "i": "it"}[mnemonic[0]]
    if mnemonic == "mov" and operands.startswith("pc,"):
        return "jump_register"
    if re.fullmatch(r"b(eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)", mnemonic):
        return "branch"
    return ""


def moved(mnemonic: str, operands: str) -> int:
    """By how much sp moves."""
    number = re.search(r"#(-?\d+)", operands)
    if number is not None:
        return int(number[1])
    ranges = re.findall(r"([a-z]+)(\d+)?(?:-[a-z]+(\d+))?", operands.partition("{")[2])
    size = sum((8 if name == "d" else 4) * (int(last) - int(first) + 1 if last else 1) for name, first, last in ranges)
    return -size if mnemonic in ("push", "vpush", "stmdb") else size


def written(mnemonic: str, operands: str) -> list[int]:
    """The registers that it writes, as far as its text says; branches and what moves sp are not asked."""
    names = [name.strip() for name in operands.split(",")]
    if re.match(r"str|cmp|cmn|tst|teq|nop|dsb|pld|vst|vld|vmsr|vctp|stm", mnemonic):
        names = []
    elif mnemonic.startswith("ldm"):
        names = re.findall(r"\w+", operands.partition("{")[2])
    elif re.match(r"ldrd|[su]m(ull|lal)|lsll|asrl|lsrl|vmlaldav|vaddlv", mnemonic):
        names = names[:2]
    else:
        names = names[:1]
    back = re.search(r"\[(\w+)[^]]*\]!|\[(\w+)\], |^(\w+)!", operands)
    names += [back[1] or back[2] or back[3]] if back else []
    return [NAMES[name] for name in names if name in NAMES]


def wrong(at: int, op: Op, size: int, mnemonic: str, operands: str) -> bool:
    """Whether the decoder and the disassembler disagree."""
    expected = kind(mnemonic, operands)
    if op.size != size:
        return True
    if expected == "move":
        return op.kind != "move" or op.number != moved(mnemonic, operands)
    if expected in ("call", "jump", "branch", "loop"):
        target = re.search(r"\b([0-9a-f]+) <", operands)
        return op.kind not in (expected, "branch") or target is None or op.number != int(target[1], 16)
    if expected:
        return op.kind != expected or (expected == "it" and op.number != len(mnemonic) - 1)
    if mnemonic.startswith(("add", "sub")) and re.match(r"sp, (sp, )?#", operands):
        by = int(operands.partition("#")[2]) * (-1 if mnemonic.startswith("sub") else 1)
        return op.number != by or (op.kind != "move" and (op.kind, op.rd, op.rn) != ("set", 13, 13))
    if op.kind not in ("next", "set", "shift", "upper", "literal", "indexed"):
        return True
    return any(register != op.rd and not op.written >> register & 1 for register in written(mnemonic, operands))


@pytest.mark.parametrize("optimize", ["-O0", "-Os", "-O3"])
@pytest.mark.parametrize("core", ["m0", "m4", "m33", "m55"])
def test_the_disassembler_agrees(tmp_path: Path, core: str, optimize: str) -> None:
    qemu.need()
    (tmp_path / "code.c").write_text(SOURCE)
    output = tmp_path / "fw.elf"
    link = ["--specs=nano.specs", "-nostartfiles", "-Wl,-emany", "-o", str(output)]
    subprocess.run([*qemu.flags(qemu.CORES[core]), optimize, "code.c", *link], cwd=tmp_path, check=True)
    found = disassembled(output)
    assert len(found) > 200
    bad = []
    for at, first, second, mnemonic, operands in found:
        op = thumb.decode(first, second, at)
        if wrong(at, op, 4 if thumb.is_wide(first) else 2, mnemonic, operands):
            bad.append(f"{at:x}: {first:04x} {second:04x} {mnemonic} {operands}: {op}")
    assert not bad, "\n".join(bad)
