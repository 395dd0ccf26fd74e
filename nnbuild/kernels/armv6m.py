"""What kernels in assembly for ARMv6-M share: constants in registers, and how long their code is.

Lengths are in instructions, all of which have 16 bits. Estimates need them where no template can be rendered; a test
compares them with the rendered text.
"""

from __future__ import annotations

from nnbuild.kernels.exact_requantize import Form


def constant(register: str, value: int) -> list[str]:
    """Instructions that load a constant of up to 32 bits into a low register."""
    shift = (value & -value).bit_length() - 1 if value > 255 else 0
    digits = (value >> shift).to_bytes(4, "big").lstrip(b"\0") or b"\0"
    lines = [f"movs    {register}, #{digits[0]}"]
    for digit in digits[1:]:
        lines += [f"lsls    {register}, {register}, #8", *([f"adds    {register}, #{digit}"] if digit else [])]
    return [*lines, *([f"lsls    {register}, {register}, #{shift}"] if shift else [])]


def requantization(line: Form, low: int) -> int:
    """From a sum to its output: the macros of requantize_armv6m.S.j2, without what loads a channel's words."""
    scale = 11 if line.wide else 7 + (line.dropped > 0)
    return 5 * line.bounded + scale + (7 if line.two_sided else 1) + 4 + 2 * (line.span != 255) + (low != 0)


def channel(line: Form, low: int) -> int:
    """The same, with words that one pointer walks along."""
    return requantization(line, low) + 2 * line.bounded + 1 + line.two_sided
