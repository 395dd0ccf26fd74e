"""What kernels in assembly for ARMv6-M share: constants in registers, and how long their code is.

Lengths are in instructions, all of which have 16 bits. Estimates need them where no template can be rendered; a test
compares them with the rendered text.
"""

from __future__ import annotations

from nnbuild.kernels.exact_requantize import Form
from nnbuild.kernels.wide_requantize import Upper


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


def limits(form: Upper) -> tuple[str, ...]:
    """Instructions that clamp a 16-bit output, `{0}`, to limits that are not those of its type; r4 is lost."""
    if form.bits == 8 or form.saturates:
        return ()
    high, low = (_loaded("r4", limit) for limit in (form.high, form.low))
    above = [*high, "cmp     {0}, r4", "ble     1f", "movs    {0}, r4"]
    below = [f"1:  {low[0]}", *low[1:], "cmp     {0}, r4", "bge     1f", "movs    {0}, r4", "1:"]
    return (*above, *below)


def _loaded(register: str, value: int) -> list[str]:
    return constant(register, abs(value)) + ([f"rsbs    {register}, {register}, #0"] if value < 0 else [])


def by_product(form: Upper) -> int:
    """From a sum to its output by `by_product` of requantize_armv6m.S.j2."""
    added = form.zero - (form.low if form.bits == 8 else 0)
    own = 20 + (form.left > 0) + (added != 0)
    if form.bits == 8:
        return own + 4 + 2 * (form.high - form.low != 255) + (form.low != 0)
    if not form.saturates:
        return own + len(limits(form)) - 1
    return own + (8 if form.low else 5)
