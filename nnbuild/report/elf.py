"""Sections and symbols of an ELF file: a linked image, or an object that is not linked yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from nnbuild.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named range of a section; `offset` is from the section's start, `file` the source file of a local symbol."""

    name: str
    offset: int
    size: int
    function: bool
    file: str


@dataclass(frozen=True, slots=True)
class Section:
    """A section that takes memory. `load` is the address of its copy in flash, None where nothing is loaded."""

    name: str
    address: int
    load: int | None
    size: int
    writable: bool
    symbols: tuple[Symbol, ...]


@dataclass(frozen=True, slots=True)
class Elf:
    """What nnbuild reads of an ELF file; `values` are the absolute values of all named symbols."""

    path: str
    linked: bool
    sections: tuple[Section, ...]
    values: dict[str, int]


def read(path: str | Path) -> Elf:
    """The sections and symbols of `path`. ConfigError where it is no ELF, or holds no machine code yet (LTO)."""
    where = str(path)
    try:
        with open(path, "rb") as stream:
            return _read(ELFFile(stream), where)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where) from None
    except (ELFError, UnicodeDecodeError, ValueError, KeyError, IndexError, AttributeError):
        # pyelftools trusts headers; a file cut short makes it fail in many ways.
        hint = "objects of -flto hold no machine code; compile the model with -fno-lto or use env.NNBudget alone"
        raise ConfigError("is no ELF file that can be read", where, hint) from None


def _read(elf: Any, where: str) -> Elf:
    linked = elf.header["e_type"] != "ET_REL"
    symbols, values = _symbols(elf, linked)
    sections = tuple(
        _section(elf, section, tuple(sorted(symbols.get(index, ()), key=lambda symbol: (symbol.offset, symbol.name))))
        for index, section in enumerate(elf.iter_sections())
        if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section["sh_size"]
    )
    if not linked and not sections and any(s.name.startswith(".gnu.lto_") for s in elf.iter_sections()):
        hint = "compile the model with -fno-lto or -ffat-lto-objects, or use env.NNBudget alone"
        raise ConfigError("holds no machine code yet, only -flto's, so its size is not known", where, hint)
    return Elf(where, linked, sections, values)


def _symbols(elf: Any, linked: bool) -> tuple[dict[int, list[Symbol]], dict[str, int]]:
    """The sized symbols by section, and the values of all."""
    found: dict[int, list[Symbol]] = {}
    values: dict[str, int] = {}
    for table in elf.iter_sections("SHT_SYMTAB"):
        file = ""
        for symbol in table.iter_symbols():
            kind, value, index = symbol["st_info"]["type"], symbol["st_value"], symbol["st_shndx"]
            local = symbol["st_info"]["bind"] == "STB_LOCAL"
            if kind == "STT_FILE":
                file = symbol.name
            elif symbol.name and index != "SHN_UNDEF" and kind != "STT_SECTION":
                values.setdefault(symbol.name, value)
                if isinstance(index, int) and symbol["st_size"]:
                    found.setdefault(index, []).append(_symbol(elf, symbol, index, linked, file if local else ""))
    return found, values


def _symbol(elf: Any, symbol: Any, index: int, linked: bool, file: str) -> Symbol:
    function = symbol["st_info"]["type"] == "STT_FUNC"
    # Bit 0 of a function's address says Thumb, it is no address.
    value = symbol["st_value"] & ~1 if function and elf.header["e_machine"] == "EM_ARM" else symbol["st_value"]
    offset = value - elf.get_section(index)["sh_addr"] if linked else value
    return Symbol(symbol.name, offset, symbol["st_size"], function, file)


def _section(elf: Any, section: Any, symbols: tuple[Symbol, ...]) -> Section:
    address = section["sh_addr"]
    load = None if section["sh_type"] == "SHT_NOBITS" else _load_address(elf, section)
    writable = bool(section["sh_flags"] & SH_FLAGS.SHF_WRITE)
    return Section(section.name, address, load, section["sh_size"], writable, symbols)


def _load_address(elf: Any, section: Any) -> int:
    for segment in _loaded(elf):
        inside = section["sh_offset"] - segment["p_offset"]
        if inside >= 0 and inside + section["sh_size"] <= segment["p_filesz"]:
            return int(segment["p_paddr"] + inside)
    return int(section["sh_addr"])


def _loaded(elf: Any) -> Iterator[Any]:
    return (segment for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD")
