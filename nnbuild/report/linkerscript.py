"""Memory regions from the MEMORY block of a GNU linker script (binutils' ld manual, section "MEMORY Command")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnbuild.errors import ConfigError

_OF_REGION = ("origin", "org", "o", "length", "len", "l")
_SCALE = {"": 1, "k": 1024, "m": 1 << 20}
_TOKEN = re.compile(r"\s*(?:(0[xX][0-9a-fA-F]+|\d+)([kKmM]?)\b|([A-Za-z_.$][\w.$]*)|(<<|>>|[-+*/()~&|]))")
_PRECEDENCE = {"|": 1, "&": 2, "<<": 3, ">>": 3, "+": 4, "-": 4, "*": 5, "/": 5}


@dataclass(frozen=True, slots=True)
class Region:
    """One memory of the chip: `length` bytes from address `origin`."""

    name: str
    origin: int
    length: int

    def __contains__(self, address: int) -> bool:
        return self.origin <= address < self.origin + self.length


class _Expression:
    """Integer expressions as linker scripts write them; `names` are symbols, ORIGIN(x) and LENGTH(x)."""

    def __init__(self, text: str, names: Mapping[str, int]) -> None:
        self._text, self._names = text, names
        self._tokens = list(self._split())
        self._at = 0

    def _split(self) -> Iterator[str | int]:
        at = 0
        text = self._text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ConfigError(f"cannot be read: '{self._text.strip()}'")
            yield _integer(match[1]) * _SCALE[match[2].lower()] if match[1] else match[3] or match[4]
            at = match.end()

    def _next(self) -> str | int:
        if self._at >= len(self._tokens):
            raise ConfigError(f"ends too early: '{self._text.strip()}'")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise ConfigError(f"lacks '{token}': '{self._text.strip()}'")

    def _operand(self) -> int:
        token = self._next()
        if isinstance(token, int):
            return token
        if token in ("-", "~"):
            value = self._operand()
            return -value if token == "-" else ~value
        if token == "(":
            value = self._binary(0)
            self._expect(")")
            return value
        name = token
        if name.lower() in _OF_REGION and self._tokens[self._at : self._at + 1] == ["("]:
            self._expect("(")
            name = f"{'ORIGIN' if name.lower()[0] == 'o' else 'LENGTH'}({self._next()})"
            self._expect(")")
        if name not in self._names:
            raise ConfigError(f"'{name}' is not known before the MEMORY block")
        return self._names[name]

    def _binary(self, lowest: int) -> int:
        value = self._operand()
        while self._at < len(self._tokens):
            operator = str(self._tokens[self._at])
            strength = _PRECEDENCE.get(operator, 0)
            if strength <= lowest:
                break
            self._at += 1
            value = _apply(operator, value, self._binary(strength))
        return value

    def value(self) -> int:
        """The number. ConfigError says what cannot be read."""
        result = self._binary(0)
        if self._at != len(self._tokens):
            raise ConfigError(f"cannot be read: '{self._text.strip()}'")
        return result


def _integer(text: str) -> int:
    """Decimal, 0x..., or octal with a leading zero, as in C."""
    octal = len(text) > 1 and text[0] == "0" and text[1] not in "xX"
    try:
        return int(text, 8 if octal else 0)
    except ValueError:
        raise ConfigError(f"cannot be read: '{text[:40]}'") from None


def _apply(operator: str, left: int, right: int) -> int:
    if operator == "/":
        if right == 0:
            raise ConfigError("divides by zero")
        return left // right
    if operator in ("<<", ">>"):
        if not 0 <= right < 64:
            raise ConfigError(f"shifts by {right}")
        return left << right if operator == "<<" else left >> right
    return {"|": left | right, "&": left & right, "+": left + right, "-": left - right, "*": left * right}[operator]


_INCLUDE = re.compile(r"\bINCLUDE\s+(\"[^\"]+\"|[^\s;]+)\s*;?")


def _read(path: Path) -> str:
    """The script without comments."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", str(path)) from None
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)


def _included(name: str, script: Path) -> Path | None:
    """The file that an INCLUDE in `script` means: beside it, or in the folder where the linker runs.

    The linker also looks along -L; what is there are sections without a MEMORY block, as a rule.
    """
    places = (script.parent / name.strip('"'), Path(name.strip('"')))
    return next((place for place in places if place.is_file()), None)


def included(path: str | Path) -> list[str]:
    """The files that the script INCLUDEs, and those that they do, as far as they are found; sorted."""
    found: dict[Path, str] = {}
    pending = [Path(path)]
    while pending:
        script = pending.pop()
        others = (_included(match[1], script) for match in _INCLUDE.finditer(_read(script)))
        for other in (file for file in others if file and file.resolve() not in found):
            found[other.resolve()] = str(other)
            pending.append(other)
    found.pop(Path(path).resolve(), None)
    return sorted(found.values())


def _text(path: Path, seen: frozenset[Path]) -> str:
    """The script without comments, with the text of the files that it INCLUDEs."""

    def included_text(match: re.Match[str]) -> str:
        other = _included(match[1], path)
        known = other is None or other.resolve() in seen
        return "" if other is None or known else _text(other, seen | {other.resolve()})

    return _INCLUDE.sub(included_text, _read(path))


_SYMBOL = re.compile(r"(PROVIDE(?:_HIDDEN)?\s*\(\s*)?([A-Za-z_.$][\w.$]*)\s*=\s*([^;={}]+);")
_MEMORY = re.compile(r"\bMEMORY\s*\{(.*?)\}", re.DOTALL)
_REGION = re.compile(
    r"\s*([A-Za-z_.$][\w.$-]*)\s*(?:\([^)]*\))?\s*:\s*(?:ORIGIN|org|o)\s*=\s*(.+?)\s*,\s*(?:LENGTH|len|l)\s*=\s*"
    r"(.+?)(?=\s+[A-Za-z_.$][\w.$-]*\s*(?:\([^)]*\)\s*)?:|\s*$)",
    re.DOTALL,
)


def _symbols(text: str, names: dict[str, int]) -> None:
    for provide, name, expression in _SYMBOL.findall(text):
        try:
            names[name] = _Expression(expression.rstrip().removesuffix(")" if provide else ""), names).value()
        except ConfigError:
            continue  # addresses of sections and the like; only a region that needs it makes it an error


def regions(path: str | Path) -> tuple[Region, ...]:
    """The regions of the script's MEMORY blocks, in their order. ConfigError names the script and the region."""
    text = _text(Path(path), frozenset({Path(path).resolve()}))
    names: dict[str, int] = {}
    found: dict[str, Region] = {}
    end = 0
    for block in _MEMORY.finditer(text):
        _symbols(text[end : block.start()], names)
        end, at = block.end(), 0
        body = block[1].rstrip()
        while at < len(body):
            match = _REGION.match(body, at)
            if match is None:
                raise ConfigError(f"MEMORY block cannot be read at '{body[at:].strip()[:40]}'", str(path))
            name, at = match[1], match.end()
            found[name] = _region(name, match[2], match[3], names, str(path))
    if not found:
        hint = "name the script that has it, or give FLASH= and RAM= alone"
        raise ConfigError("has no MEMORY block", str(path), hint)
    return tuple(found.values())


def _region(name: str, origin: str, length: str, names: dict[str, int], path: str) -> Region:
    try:
        region = Region(name, _Expression(origin, names).value(), _Expression(length, names).value())
    except ConfigError as error:
        raise ConfigError(f"region {name}: {error.findings[0].message}", path) from None
    names[f"ORIGIN({name})"], names[f"LENGTH({name})"] = region.origin, region.length
    return region
