"""The worst-case stack of a function, read from the machine code of the linked image.

Each function's instructions are followed along all paths with the distance of sp to where it was at the entry, and
with the few values that sp or an address of a function can be made of. So it does not matter which flags, compiler or
library the code comes from, or whether it was written by hand. Recursion, calls through pointers that are not
constants, and changes of sp by an amount that is not constant make the stack unknown, with the reason; it is never
guessed. What interrupts take comes on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nnbuild.report import machine_code, thumb
from nnbuild.report.machine_code import Image, NotThumbError
from nnbuild.report.thumb import LR, PC, SP, Op

_WORD = 0xFFFFFFFF
_FILLING = (0xBF00, 0x46C0)
"""NOP, and what stands for it on ARMv6-M."""

_CALL_WRITES = 0b101_0000_0000_1111
"""r0 to r3, r12 and lr: what a function may change."""


@dataclass(frozen=True, slots=True)
class StackUse:
    """Bytes that a call takes at most, and the calls that lead there; None and the reason where nobody can know."""

    bytes: int | None
    path: tuple[str, ...] = ()
    note: str = ""


class _UnknownError(Exception):
    """The stack of a function cannot be told; the message is the reason."""


# A value is (kind, number): "constant", "sp" plus a number, "return", where the caller goes on, or "entry", one of the
# words of a table at an address. None is any other.
_Value = tuple[str, int] | None
_RETURN: _Value = ("return", 0)


@dataclass(frozen=True, slots=True)
class _State:
    """Before an instruction: sp relative to the entry, r0 to r14, where return addresses lie on the stack, and how many
    conditional instructions are `ahead`."""

    sp: int
    registers: tuple[_Value, ...]
    kept: frozenset[int]
    ahead: int = 0

    def get(self, register: int) -> _Value:
        return ("sp", self.sp) if register == SP else self.registers[register] if register < PC else None

    def put(self, values: dict[int, _Value]) -> _State:
        registers = tuple(values.get(register, value) for register, value in enumerate(self.registers))
        return replace(self, registers=registers)

    def without(self, mask: int, fuzzy: bool = False) -> _State:
        """The registers of `mask` are anything; with `fuzzy`, which names too many, only constants are forgotten."""
        lost = [register for register in range(PC) if mask >> register & 1 and self.registers[register] is not None]
        if fuzzy:
            lost = [register for register in lost if (self.registers[register] or ("", 0))[0] == "constant"]
        return self.put(dict.fromkeys(lost)) if lost else self


@dataclass(frozen=True, slots=True)
class _Frame:
    """What one function takes itself, and its calls as (bytes taken at the call, address)."""

    own: int
    calls: tuple[tuple[int, int], ...]


def inference(path: str | Path, names: list[str]) -> list[StackUse]:
    """The worst-case stack of each of the functions `names` in the linked image `path`."""
    try:
        image = machine_code.read(path)
    except NotThumbError as error:
        return [StackUse(None, (), str(error)) for _ in names]
    program = _Program(image)
    return [program.named(name) for name in names]


class _Program:
    """Frames of functions, each computed once."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._worst: dict[int, StackUse] = {}

    def named(self, name: str) -> StackUse:
        """The function, or the copies that a compiler has specialized (`name.constprop.0`): the worst of them."""
        starts = [at for own, at in sorted(self._image.functions.items()) if own == name or own.startswith(f"{name}.")]
        if not starts:
            return StackUse(None, (), f"the image has no function {name}: it was left out, or put into its caller")
        found = [self._of(start, ()) for start in starts]
        return max(found, key=lambda use: float("inf") if use.bytes is None else use.bytes)

    def _of(self, start: int, callers: tuple[int, ...]) -> StackUse:
        if start in callers:
            names = [self._image.name(at) for at in (*callers[callers.index(start) :], start)]
            return StackUse(None, (), f"recursion: {' -> '.join(names)}")
        if start not in self._worst:
            use = self._computed(start, callers)
            if use.note.startswith("recursion"):
                return use  # what it is depends on who called
            self._worst[start] = use
        return self._worst[start]

    def _computed(self, start: int, callers: tuple[int, ...]) -> StackUse:
        name = self._image.name(start)
        try:
            frame = _Walk(self._image, start).frame()
        except _UnknownError as error:
            return StackUse(None, (name,), f"{name} {error}")
        most = frame.own
        path: tuple[str, ...] = (name,)
        for taken, callee in frame.calls:
            use = self._of(callee, (*callers, start))
            if use.bytes is None:
                return StackUse(None, (name, *use.path), use.note)
            if taken + use.bytes > most:
                most, path = taken + use.bytes, (name, *use.path)
        return StackUse(most, path)


class _Walk:
    """All paths through one function."""

    def __init__(self, image: Image, start: int) -> None:
        self._image, self._start = image, start
        self._states: dict[int, _State] = {}
        self._todo: list[int] = []
        self._calls: dict[tuple[int, int], None] = {}
        self._deepest = 0

    def frame(self) -> _Frame:
        """The result. _UnknownError says what cannot be followed."""
        registers: tuple[_Value, ...] = (None,) * LR + (_RETURN,)
        self._reach(self._start, _State(0, registers, frozenset()))
        while self._todo:
            self._step(self._todo.pop())
        return _Frame(self._deepest, tuple(sorted(self._calls)))

    def _reach(self, address: int, state: _State) -> None:
        """Go on at `address`, with what all ways there have in common."""
        known = self._states.get(address)
        if known is None:
            self._states[address] = state
            self._todo.append(address)
            return
        if (known.sp, known.ahead) != (state.sp, state.ahead):
            raise _UnknownError(f"moves sp differently on two ways to +{address - self._start:#x}")
        registers = tuple(
            one if one == two else None for one, two in zip(known.registers, state.registers, strict=True)
        )
        joined = replace(known, registers=registers, kept=known.kept & state.kept)
        if joined != known:
            self._states[address] = joined
            self._todo.append(address)

    def _step(self, address: int) -> None:
        state = self._states[address]
        first, second = self._image.half(address), self._image.half(address + 2)
        if first is None or not self._image.code(address):
            raise _UnknownError(f"leaves its code at +{address - self._start:#x}")
        op = thumb.decode(first, second or 0, address)
        then = replace(state, ahead=max(0, state.ahead - 1))
        if state.ahead:
            self._fall(address, op, then)
        for target, after in self._after(address, op, then):
            self._reach(target, after)

    def _fall(self, address: int, op: Op, state: _State) -> None:
        """Go on behind an instruction."""
        self._reach(address + op.size, state)

    def _after(self, address: int, op: Op, state: _State) -> Iterator[tuple[int, _State]]:
        """Where an instruction leads, with what it has changed."""
        behind, kind = address + op.size, op.kind
        if kind == "next":
            yield behind, state.without(op.written, op.fuzzy)
        elif kind == "indexed" and op.rd == PC:
            yield from self._entries(address, _entry(state, op), state)
        elif kind in ("set", "shift", "upper", "literal", "indexed"):
            yield behind, self._assigned(address, op, state)
        elif kind == "move":
            yield from self._moved(address, op, state)
        elif kind == "it":
            yield behind, replace(state, ahead=op.number)
        elif kind in ("jump", "branch", "loop"):
            if kind != "jump":
                yield behind, state.without(op.written)
            yield from self._jump(op.number, state.without(op.written))
        elif kind in ("call", "call_register"):
            target = op.number if kind == "call" else self._pointed(address, state.get(op.rm), "calls")
            yield from self._called(target, behind, state)
        elif kind == "jump_register":
            yield from self._to(address, state.get(op.rm), state)
        elif kind == "jump_literal":
            yield from self._jump(self._pointed(address, self._word(op.number), "jumps"), state)
        elif kind == "table":
            yield from self._table(address, op, state)
        elif kind == "unknown":
            raise _UnknownError(f"{op.note} at +{address - self._start:#x}")

    def _to(self, address: int, value: _Value, state: _State) -> Iterator[tuple[int, _State]]:
        """A jump to what a register holds: back to the caller, by a table, or to a function."""
        if value == _RETURN:
            self._returned(address, state.sp)
        elif value is not None and value[0] == "entry":
            yield from self._entries(address, value, state)
        else:
            yield from self._jump(self._pointed(address, value, "jumps"), state)

    def _entries(self, address: int, value: _Value, state: _State) -> Iterator[tuple[int, _State]]:
        """All words from the start of a table on that lead into this function."""
        at = value[1] if value is not None else 0
        targets = []
        while (word := self._image.word(at)) is not None and self._image.function_of(word & ~1) == self._start:
            targets.append(word & ~1)
            at += 4
        if not targets:
            raise _UnknownError(f"jumps through a pointer at +{address - self._start:#x}")
        yield from ((target, state) for target in dict.fromkeys(targets))

    def _returned(self, address: int, sp: int) -> None:
        if sp != 0:
            raise _UnknownError(f"returns with {-sp} bytes on the stack at +{address - self._start:#x}")

    def _deepen(self, address: int, sp: int) -> None:
        if sp > 0:
            raise _UnknownError(f"takes more off the stack than it put there at +{address - self._start:#x}")
        self._deepest = max(self._deepest, -sp)

    def _word(self, address: int) -> _Value:
        word = self._image.word(address)
        return None if word is None else ("constant", word)

    def _pointed(self, address: int, value: _Value, verb: str) -> int:
        """The address that a pointer holds, which must be that of code in Thumb state."""
        if value is None or value[0] != "constant" or not value[1] & 1:
            raise _UnknownError(f"{verb} through a pointer at +{address - self._start:#x}")
        return value[1] & ~1

    def _assigned(self, address: int, op: Op, state: _State) -> _State:
        if op.kind == "literal":
            value = self._word(op.number)
        elif op.kind == "indexed":
            value = _entry(state, op)
        elif op.kind == "set":
            value = _sum(state, op)
        else:
            before = state.get(op.rd if op.kind == "upper" else op.rn)
            value = None
            if before is not None and op.kind == "shift" and op.number == 0:
                value = before
            elif before is not None and before[0] == "constant":
                shifted = before[1] << op.number & _WORD
                value = ("constant", shifted if op.kind == "shift" else before[1] & 0xFFFF | op.number << 16)
        if op.rd != SP:
            return state.put({op.rd: value})
        if value is None or value[0] != "sp":
            raise _UnknownError(f"moves sp by an amount that is not constant at +{address - self._start:#x}")
        self._deepen(address, value[1])
        return replace(state, sp=value[1])

    def _moved(self, address: int, op: Op, state: _State) -> Iterator[tuple[int, _State]]:
        """A push or a pop: return addresses are followed through the stack."""
        sp = state.sp + op.number
        low = min(sp, state.sp)
        kept = state.kept - {low + offset for _, offset in op.stored}
        kept |= {low + offset for register, offset in op.stored if state.get(register) == _RETURN}
        loaded = {r: _RETURN if low + offset in state.kept else None for r, offset in op.loaded}
        self._deepen(address, sp)
        after = replace(state, sp=sp, kept=frozenset(at for at in kept if at >= sp)).put(loaded)
        if PC not in loaded:
            yield address + op.size, after
        elif loaded[PC] != _RETURN:
            raise _UnknownError(f"pops a pc that is not its return address at +{address - self._start:#x}")
        else:
            self._returned(address, sp)

    def _called(self, target: int, behind: int, state: _State) -> Iterator[tuple[int, _State]]:
        after = state.without(_CALL_WRITES)
        if target not in self._image.names and self._image.function_of(target) == self._start:
            yield target, after  # ARMv6-M's jump of long distance, in a function that has stored lr
            return
        self._calls[-state.sp, target] = None
        name = self._image.names.get(target, "")
        if name.startswith("__gnu_thumb1_case_"):
            yield from self._thumb1_table(name, behind, after)
        elif self._goes_on(behind, after):
            yield behind, after

    def _goes_on(self, behind: int, state: _State) -> bool:
        """Whether a call may return: behind one that does not there can be data, or another function."""
        while self._image.half(behind) in _FILLING:
            behind += 2
        if behind not in self._image.names:
            return self._image.code(behind)
        return state.sp == 0 and (_RETURN in state.registers or bool(state.kept))

    def _jump(self, target: int, state: _State) -> Iterator[tuple[int, _State]]:
        """Within the function, or to another one, whose return is then ours. Cold parts belong to their function."""
        name = self._image.names.get(target)
        if name is None or ".cold" in name or target == self._start:
            yield target, state
        else:
            self._calls[-state.sp, target] = None

    def _table(self, address: int, op: Op, state: _State) -> Iterator[tuple[int, _State]]:
        base = address + op.size
        for offset in self._offsets(base, op.number, signed=False):
            yield base + offset, state

    def _thumb1_table(self, name: str, base: int, state: _State) -> Iterator[tuple[int, _State]]:
        """The table behind a call of one of gcc's helpers for `switch` on ARMv6-M."""
        size = {"qi": 1, "hi": 2, "si": 4}.get(name[-2:])
        if size is None:
            raise _UnknownError(f"jumps by {name}")
        start = base + 3 & ~3 if size == 4 else base
        for offset in self._offsets(start, size, signed="_s" in name[-4:-2] or size == 4):
            yield (start + offset if size == 4 else base + offset), state

    def _offsets(self, start: int, size: int, signed: bool) -> Iterator[int]:
        """The offsets of a table of halfwords; filling bytes at its end would lead into the table itself."""
        end = self._image.next_mark(start)
        if end is None or self._image.code(start):
            raise _UnknownError(f"jumps by a table without an end at +{start - self._start:#x}")
        for at in range(start, end - size + 1, size):
            data = self._image.word(at) if size == 4 else self._image.half(at & ~1)
            value = (data or 0) >> (8 * (at & 1) if size == 1 else 0) & ((1 << 8 * size) - 1)
            value = value - (1 << 8 * size) if signed and value >> (8 * size - 1) else value
            offset = value if size == 4 else 2 * value
            if not 0 <= offset < end - start:
                yield offset


def _entry(state: _State, op: Op) -> _Value:
    """A word of the table at the one of two registers that is constant."""
    bases = [value for value in (state.get(op.rn), state.get(op.rm)) if value is not None and value[0] == "constant"]
    return ("entry", bases[0][1]) if len(bases) == 1 else None


def _sum(state: _State, op: Op) -> _Value:
    """`rn` + `rm` * `sign` + `number`, where it is a constant or an address on the stack."""
    if op.rd == LR and op.rn == LR and state.get(LR) == _RETURN:
        return _RETURN  # gcc's helpers for `switch` return behind a table
    terms = [(state.get(r), sign) for r, sign in ((op.rn, 1), (op.rm, op.sign)) if r >= 0]
    if len(terms) == 1 and op.number == 0 and terms[0][1] == 1:
        return terms[0][0]
    total, kind = op.number, "constant"
    for value, sign in terms:
        if value is None or value[0] in ("return", "entry") or (value[0] == "sp" and (sign < 0 or kind == "sp")):
            return None
        number = value[1]
        total += sign * number
        kind = "sp" if value[0] == "sp" else kind
    if kind == "constant":
        return kind, total & _WORD
    return kind, (total + (1 << 31) & _WORD) - (1 << 31)
