"""What Thumb instructions do to the stack pointer and to control flow; nothing else of them is decoded.

Encodings: Arm v6-M, v7-M and v8-M Architecture Reference Manuals. A register's new value is decoded where compilers
make stack pointers and addresses of functions with it; any other instruction says only which registers it may write.
"""

from __future__ import annotations

from dataclasses import dataclass

SP, LR, PC = 13, 14, 15
_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Op:
    """One instruction of `size` bytes; what else counts depends on `kind`.

    next            writes at most the registers of mask `written`; with `fuzzy` the mask has too many, but of those
                    that hold return addresses or addresses on the stack it writes none
    set             register `rd` = value of register `rn` (or none, -1) + value of `rm` (or none) * `sign` + `number`
    shift           register `rd` = register `rn` << `number`
    upper           register `rd` has its upper half replaced by `number`
    literal         register `rd` = the word at address `number`
    indexed         register `rd`, or pc, = the word at the sum of registers `rn` and `rm` (shifted)
    move            sp += `number`; `stored` and `loaded` are (register, offset from the lower of the two sp)
    call, jump, branch, loop    to address `number`; branch and loop are conditional
    call_register, jump_register    to where register `rm` points
    jump_literal    to the word at address `number`
    table           to where a table of offsets of `number` bytes behind it says
    it              the next `number` instructions are conditional
    stop            no instruction follows
    unknown         changes sp or pc in a way that `note` names
    """

    kind: str
    size: int
    rd: int = -1
    rn: int = -1
    rm: int = -1
    sign: int = 1
    number: int = 0
    written: int = 0
    fuzzy: bool = False
    stored: tuple[tuple[int, int], ...] = ()
    loaded: tuple[tuple[int, int], ...] = ()
    note: str = ""


def is_wide(first: int) -> bool:
    """Whether this first halfword is that of a 32-bit instruction."""
    return first >> 11 in (0b11101, 0b11110, 0b11111)


def decode(first: int, second: int, at: int) -> Op:
    """The instruction at address `at`; `second` is read only where it has 32 bits."""
    return _wide(first, second, at) if is_wide(first) else _narrow(first, at)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def _listed(mask: int) -> tuple[tuple[int, int], ...]:
    """The registers of a list with their offsets: the lowest register is at the lowest address."""
    registers = [register for register in range(16) if mask >> register & 1]
    return tuple((register, 4 * place) for place, register in enumerate(registers))


def _push(size: int, mask: int) -> Op:
    return Op("move", size, number=-4 * mask.bit_count(), stored=_listed(mask))


def _pop(size: int, mask: int) -> Op:
    return Op("move", size, number=4 * mask.bit_count(), loaded=_listed(mask))


def _writes(size: int, mask: int) -> Op:
    return Op("next", size, written=mask)


def _copy(size: int, rd: int, rn: int, number: int = 0) -> Op:
    return Op("set", size, rd=rd, rn=rn, number=number)


def _constant(size: int, rd: int, number: int) -> Op:
    return Op("set", size, rd=rd, number=number & _WORD)


def _result(size: int, rd: int, what: str) -> Op:
    """An instruction that writes `rd` with a value nobody follows."""
    return Op("unknown", size, note=what) if rd in (SP, PC) else _writes(size, 1 << rd)


# --- 16 bits -----------------------------------------------------------------------------------------------------


def _narrow(h: int, at: int) -> Op:
    top = h >> 11
    if top < 8:
        return _narrow_arithmetic(h, top)
    if top == 8:
        return _narrow_registers(h)
    if top == 9:
        return Op("literal", 2, rd=h >> 8 & 7, number=(at + 4 & ~3) + (h & 255) * 4)
    if h >> 9 == 0b0101100:
        return Op("indexed", 2, rd=h & 7, rn=h >> 3 & 7, rm=h >> 6 & 7)
    if top < 18:
        loads = h >> 9 & 7 >= 3 if top < 12 else top & 1
        return _writes(2, 1 << (h & 7) if loads else 0)
    if top in (18, 19):
        return _writes(2, 1 << (h >> 8 & 7) if top == 19 else 0)
    if top == 20:
        return _constant(2, h >> 8 & 7, (at + 4 & ~3) + (h & 255) * 4)
    if top == 21:
        return _copy(2, h >> 8 & 7, SP, (h & 255) * 4)
    if top in (22, 23):
        return _narrow_other(h, at)
    if top in (24, 25):
        return _writes(2, 1 << (h >> 8 & 7) | (h & 255 if top == 25 else 0))
    if top == 28:
        return Op("jump", 2, number=at + 4 + 2 * _signed(h & 0x7FF, 11))
    condition = h >> 8 & 15
    if condition >= 14:
        return Op("stop" if condition == 14 else "next", 2)
    return Op("branch", 2, number=at + 4 + 2 * _signed(h & 255, 8))


def _narrow_arithmetic(h: int, top: int) -> Op:
    """Shifts, additions, and instructions with an immediate byte."""
    rd, rn, third = h & 7, h >> 3 & 7, h >> 6 & 7
    if top == 0:
        return Op("shift", 2, rd=rd, rn=rn, number=h >> 6 & 31)
    if top < 3:
        return _writes(2, 1 << rd)
    if top == 3:
        sign = -1 if h >> 9 & 1 else 1
        if h >> 10 & 1:
            return _copy(2, rd, rn, sign * third)
        return Op("set", 2, rd=rd, rn=rn, rm=third, sign=sign)
    rd, number = h >> 8 & 7, h & 255
    if top == 4:
        return _constant(2, rd, number)
    return _writes(2, 0) if top == 5 else _copy(2, rd, rd, number if top == 6 else -number)


def _narrow_registers(h: int) -> Op:
    """Between registers: 16 operations on low ones, and ADD, CMP, MOV, BX, BLX on all."""
    if not h >> 10 & 1:
        operation = h >> 6 & 15
        if operation == 9:
            return Op("set", 2, rd=h & 7, rm=h >> 3 & 7, sign=-1)
        return _writes(2, 0 if operation in (8, 10, 11) else 1 << (h & 7))
    rd, rm, operation = h & 7 | h >> 4 & 8, h >> 3 & 15, h >> 8 & 3
    if operation == 3:
        return Op("call_register" if h >> 7 & 1 else "jump_register", 2, rm=rm)
    if operation == 1:
        return _writes(2, 0)
    if rd == PC:
        return Op("jump_register", 2, rm=rm) if operation == 2 else Op("unknown", 2, note="adds to pc")
    return _copy(2, rd, rm) if operation == 2 else Op("set", 2, rd=rd, rn=rd, rm=rm)


def _narrow_other(h: int, at: int) -> Op:
    kind = h >> 8 & 15
    if kind == 0:
        return Op("move", 2, number=(h & 127) * (-4 if h >> 7 & 1 else 4))
    if kind in (1, 3, 9, 11):
        return Op("branch", 2, number=at + 4 + (h >> 9 & 1) * 64 + (h >> 3 & 31) * 2)
    if kind in (2, 10):
        return _writes(2, 1 << (h & 7))
    if kind in (4, 5):
        return _push(2, h & 255 | (h >> 8 & 1) << LR)
    if kind in (12, 13):
        return _pop(2, h & 255 | (h >> 8 & 1) << PC)
    if kind == 15 and h & 15:
        return Op("it", 2, number=4 - ((h & 15 & -(h & 15)).bit_length() - 1))
    return Op("unknown", 2, note="is no instruction") if kind in (7, 8) else _writes(2, 0)


# --- 32 bits -----------------------------------------------------------------------------------------------------


def _wide(a: int, b: int, at: int) -> Op:
    if a >> 10 in (0b111011, 0b111111):
        return _coprocessor(a, b)
    group = a >> 11 & 3
    if group == 1:
        if a >> 9 & 1:
            return _shifted_register(a, b)
        return _dual(a, b) if a >> 6 & 1 else _multiple(a, b)
    if group == 2:
        if b >> 15:
            return _control(a, b, at)
        return _plain_immediate(a, b, at) if a >> 9 & 1 else _modified_immediate(a, b)
    if a >> 9 & 1 == 0:
        return _single(a, b, at)
    written = 1 << (b >> 8 & 15) | (1 << (b >> 12) if a >> 8 & 1 else 0)
    return _writes(4, written & ~(1 << PC))


def _multiple(a: int, b: int) -> Op:
    """LDM and STM; those with sp that is written back are PUSH and POP."""
    rn, back, load, mode = a & 15, a >> 5 & 1, a >> 4 & 1, a >> 7 & 3
    if rn == SP and back:
        if (load, mode) == (0, 2):
            return _push(4, b)
        return _pop(4, b) if (load, mode) == (1, 1) else Op("unknown", 4, note="uses the stack upwards")
    if load and b >> PC:
        return Op("unknown", 4, note="loads pc")
    return _writes(4, (b if load else 0) | back << rn)


def _dual(a: int, b: int) -> Op:
    """LDRD, STRD, exclusive accesses, and jumps by table."""
    rn, before, back, load = a & 15, a >> 8 & 1, a >> 5 & 1, a >> 4 & 1
    if a & 0xFFF0 == 0xE8D0 and b & 0xFFE0 == 0xF000:
        if rn != PC:
            return Op("unknown", 4, note="jumps by a table elsewhere")
        return Op("table", 4, number=2 if b >> 4 & 1 else 1)
    pair = ((b >> 12, 0), (b >> 8 & 15, 4))
    if not before and not back:
        return Op("next", 4, written=_fields(a, b), fuzzy=True)
    if rn == SP and back:
        number = (b & 255) * (4 if a >> 7 & 1 else -4)
        return _moved(number, before, load, pair)
    return _writes(4, (1 << pair[0][0] | 1 << pair[1][0] if load else 0) | back << rn)


def _moved(number: int, before: int, load: int, pair: tuple[tuple[int, int], ...]) -> Op:
    """A load or store that moves sp: `[sp, #-8]!` as PUSH, or `[sp], #8` as POP."""
    if load and not before and number > 0:
        return Op("move", 4, number=number, loaded=pair)
    if not load and before and number < 0:
        return Op("move", 4, number=number, stored=pair)
    return Op("unknown", 4, note="uses the stack upwards")


def _shifted_register(a: int, b: int) -> Op:
    operation, sets, rn, rd, rm = a >> 5 & 15, a >> 4 & 1, a & 15, b >> 8 & 15, b & 15
    plain = b & 0x70F0 == 0
    if operation == 2 and sets and rm in (SP, PC):
        return Op("next", 4, written=_fields(a, b), fuzzy=True)  # the long shifts of Arm v8.1-M
    if rd == PC and sets and operation in (0, 4, 8, 13):
        return _writes(4, 0)
    if operation == 2 and rn == PC and plain and rd != PC:
        return _copy(4, rd, rm)
    if operation in (8, 13) and plain and rd != PC:
        return Op("set", 4, rd=rd, rn=rn, rm=rm, sign=1 if operation == 8 else -1)
    return _result(4, rd, "computes sp")


def _modified_immediate(a: int, b: int) -> Op:
    operation, sets, rn, rd = a >> 5 & 15, a >> 4 & 1, a & 15, b >> 8 & 15
    number = _expanded((a >> 10 & 1) << 11 | (b >> 12 & 7) << 8 | b & 255)
    if rd == PC and sets and operation in (0, 4, 8, 13):
        return _writes(4, 0)
    if rd != PC and rn == PC and operation in (2, 3):
        return _constant(4, rd, number if operation == 2 else ~number)
    if rd != PC and operation in (8, 13):
        return _copy(4, rd, rn, number if operation == 8 else -number)
    return _result(4, rd, "aligns sp" if rd == SP else "computes pc")


def _expanded(field: int) -> int:
    """A constant of 12 bits as the manual's ThumbExpandImm."""
    byte = field & 255
    if field >> 10 == 0:
        return byte * (1, 0x00010001, 0x01000100, 0x01010101)[field >> 8 & 3]
    value, turn = 0x80 | field & 127, field >> 7
    return (value >> turn | value << (32 - turn)) & _WORD


def _plain_immediate(a: int, b: int, at: int) -> Op:
    operation, rn, rd = a >> 4 & 31, a & 15, b >> 8 & 15
    number = (a >> 10 & 1) << 11 | (b >> 12 & 7) << 8 | b & 255
    if rd != PC and operation in (0, 10):
        signed = number if operation == 0 else -number
        return _constant(4, rd, (at + 4 & ~3) + signed) if rn == PC else _copy(4, rd, rn, signed)
    if rd not in (SP, PC) and operation in (4, 12):
        half = rn << 12 | number
        return _constant(4, rd, half) if operation == 4 else Op("upper", 4, rd=rd, number=half)
    return _result(4, rd, "computes sp")


def _control(a: int, b: int, at: int) -> Op:
    """Branches, calls, hardware loops, and instructions of the system."""
    kind = b & 0x5000
    sign = a >> 10 & 1
    if kind in (0x5000, 0x1000):
        i1, i2 = ~(b >> 13 ^ sign) & 1, ~(b >> 11 ^ sign) & 1
        offset = sign << 24 | i1 << 23 | i2 << 22 | (a & 0x3FF) << 12 | (b & 0x7FF) << 1
        return Op("call" if kind == 0x5000 else "jump", 4, number=at + 4 + _signed(offset, 25))
    if kind == 0x4000:
        return _loop(a, b, at)
    if a >> 7 & 7 != 7:
        offset = sign << 20 | (b >> 11 & 1) << 19 | (b >> 13 & 1) << 18 | (a & 0x3F) << 12 | (b & 0x7FF) << 1
        return Op("branch", 4, number=at + 4 + _signed(offset, 21))
    if a & 0xFFF0 == 0xF7F0:
        return Op("stop", 4)
    if a & 0xFFE0 == 0xF380:  # MSR; the stack pointers are SYSm 8 and 9, and 0x88, 0x89, 0x98 of the other world
        return Op("unknown", 4, note="sets sp") if b & 0x7F in (0x08, 0x09, 0x18) else _writes(4, 0)
    return _writes(4, 1 << (b >> 8 & 15) if a & 0xFFE0 == 0xF3E0 else 0)


def _loop(a: int, b: int, at: int) -> Op:
    """The low-overhead loops of Arm v8.1-M: WLS skips forwards, LE returns, DLS and LCTP do neither."""
    if not b & 1:
        return Op("unknown", 4, note="changes to Arm state")
    if a & 0xFF80 != 0xF000:
        return Op("unknown", 4, note="announces a branch")
    if b >> 12 == 0b1110:
        return _writes(4, 1 << LR if b & 0x0800 == 0 else 0)
    offset = (b >> 1 & 0x3FF) << 2 | (b >> 11 & 1) << 1
    back = a & 15 == PC
    return Op("loop", 4, number=at + 4 - offset if back else at + 4 + offset, written=1 << LR)


def _single(a: int, b: int, at: int) -> Op:
    """Loads and stores of one register."""
    rn, rt, load, word = a & 15, b >> 12, a >> 4 & 1, a >> 5 & 3 == 2
    goes = rt == PC and load and word  # with another size it is a hint about the cache
    written = 1 << rt if load and rt != PC else 0
    if rn == PC:
        number = (at + 4 & ~3) + (b & 0xFFF) * (1 if a >> 7 & 1 else -1)
        if goes:
            return Op("jump_literal", 4, number=number)
        return Op("literal", 4, rd=rt, number=number) if load and word and rt < SP else _result_of_load(rt, written)
    if not a >> 7 & 1 and b >> 11 & 1 and b >> 8 & 1:
        number = (b & 255) * (1 if b >> 9 & 1 else -1)
        if rn == SP:
            return _moved(number, b >> 10 & 1, load, ((rt, 0),))
        written |= 1 << rn
    if load and word and not a >> 7 & 1 and b & 0x0FC0 == 0 and rt != SP:
        return Op("indexed", 4, rd=rt, rn=rn, rm=b & 15)
    if goes:
        return Op("unknown", 4, note="loads pc")
    return _result_of_load(rt, written)


def _result_of_load(rt: int, written: int) -> Op:
    return Op("unknown", 4, note="loads sp") if written >> SP & 1 and rt == SP else _writes(4, written)


def _fields(a: int, b: int) -> int:
    """Every register that one of the usual fields names, with its neighbour: some instructions write pairs."""
    mask = 0
    for field in (a & 15, b >> 12, b >> 8 & 15, b & 15):
        mask |= 3 << (field & ~1)
    return mask & ~(1 << SP | 1 << PC)


def _coprocessor(a: int, b: int) -> Op:
    """Floating point, vectors and coprocessors. Only VPUSH and VPOP move sp."""
    rn, before, up, back, load = a & 15, a >> 8 & 1, a >> 7 & 1, a >> 5 & 1, a >> 4 & 1
    if a >> 9 & 7 != 6 or not (before or up or back):
        return Op("next", 4, written=_fields(a, b), fuzzy=True)
    if not back:
        return _writes(4, 0)
    if rn != SP:
        return Op("next", 4, written=1 << rn)
    if b >> 9 & 7 == 5 and (before, up, load) == (1, 0, 0):
        return Op("move", 4, number=-4 * (b & 255))
    if b >> 9 & 7 == 5 and (before, up, load) == (0, 1, 1):
        return Op("move", 4, number=4 * (b & 255))
    return Op("unknown", 4, note="moves sp with a vector")
