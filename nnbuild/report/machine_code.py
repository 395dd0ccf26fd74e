"""The machine code of a linked ELF for a Cortex-M: its bytes, its functions, where data lie between instructions."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile


class NotThumbError(Exception):
    """Code that is not read: of another core, not linked, or no ELF."""


@dataclass(frozen=True, slots=True)
class Image:
    """`functions` are addresses by name, `names` names by address, `starts` those addresses in order.

    `marks` are the sorted starts of code and of data, `is_code` says which.
    """

    sections: tuple[tuple[int, bytes], ...]
    functions: Mapping[str, int]
    names: Mapping[int, str]
    starts: tuple[int, ...]
    marks: tuple[int, ...]
    is_code: tuple[bool, ...]

    def half(self, address: int) -> int | None:
        """The halfword at `address`, None outside of all sections."""
        value = self._bytes(address, 2)
        return None if value is None else int.from_bytes(value, "little")

    def word(self, address: int) -> int | None:
        """The word at `address`, None outside of all sections."""
        value = self._bytes(address, 4)
        return None if value is None else int.from_bytes(value, "little")

    def _bytes(self, address: int, count: int) -> bytes | None:
        for start, data in self.sections:
            if start <= address <= start + len(data) - count:
                return data[address - start : address - start + count]
        return None

    def code(self, address: int) -> bool:
        """Whether instructions, and no data, are at `address`."""
        place = bisect.bisect_right(self.marks, address) - 1
        return place >= 0 and self.is_code[place]

    def next_mark(self, address: int) -> int | None:
        """Where the code or data at `address` ends for the other."""
        place = bisect.bisect_right(self.marks, address)
        return self.marks[place] if place < len(self.marks) else None

    def function_of(self, address: int) -> int | None:
        """The start of the function that `address` is in: the nearest one before it."""
        place = bisect.bisect_right(self.starts, address)
        return self.starts[place - 1] if place else None

    def name(self, address: int) -> str:
        """The function's name, or its address."""
        return self.names.get(address, f"{address:#x}")


def read(path: str | Path) -> Image:
    """The code of a linked little-endian image in Thumb state. NotThumbError with the reason where it is none."""
    try:
        with open(path, "rb") as stream:
            return _read(ELFFile(stream))
    except (OSError, ELFError, UnicodeDecodeError, ValueError, KeyError, IndexError, AttributeError):
        raise NotThumbError("the file cannot be read") from None


def _read(elf: Any) -> Image:
    if elf.header["e_machine"] != "EM_ARM" or not elf.little_endian:
        raise NotThumbError("not computed for this core")
    if elf.header["e_type"] == "ET_REL":
        raise NotThumbError("known when it is linked")
    loaded = {
        index: section
        for index, section in enumerate(elf.iter_sections())
        if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section["sh_type"] == "SHT_PROGBITS"
    }
    sections = tuple((section["sh_addr"], section.data()) for section in loaded.values())
    functions: dict[str, int] = {}
    names: dict[int, tuple[bool, int, str]] = {}
    marks: dict[int, bool] = {}
    for table in elf.iter_sections("SHT_SYMTAB"):
        for symbol in table.iter_symbols():
            name, value, kind = symbol.name, symbol["st_value"], symbol["st_info"]["type"]
            index = symbol["st_shndx"]
            if index not in loaded or not loaded[index]["sh_flags"] & SH_FLAGS.SHF_EXECINSTR:
                continue
            if name.split(".")[0] in ("$t", "$d", "$a"):
                marks[value] = name[1] == "t"
            elif kind == "STT_FUNC" and value & 1:
                functions.setdefault(name, value & ~1)
                rank = (symbol["st_info"]["bind"] == "STB_LOCAL", name.count("_"), name)
                names[value & ~1] = min(rank, names.get(value & ~1, rank))
    ordered = sorted(marks.items())
    shown = {address: name for address, (_, _, name) in names.items()}
    starts = tuple(sorted(shown))
    return Image(sections, functions, shown, starts, tuple(a for a, _ in ordered), tuple(c for _, c in ordered))
