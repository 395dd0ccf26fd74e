"""What a function brings into an image: its bytes and those of every function and constant that it leads to.

Read from the relocations that the linker keeps (`-Wl,-q`), so what another function or a constant is referred to by
does not matter: a call, an address in a pool of literals, a pair of MOVW and MOVT. One case they leave open: where a
static array is referred to by its end alone, what lies behind it counts in its place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

SECTION = ".text"
ABSOLUTE = 2
"""R_ARM_ABS32: a word that holds an address."""


@dataclass(frozen=True, slots=True)
class Image:
    """Of each function and constant in flash, by its address: bytes, and the addresses that it refers to."""

    sizes: Mapping[int, int]
    references: Mapping[int, frozenset[int]]
    names: Mapping[str, int]

    def bytes_of(self, function: str, without: Iterable[str] = ()) -> int:
        """Bytes of a function in C, however the compiler renamed it, and of all that it leads to but `without`.

        Padding between them is not counted.
        """
        seen = {self.names[name] for name in without if name in self.names}
        waiting = {at for name, at in self.names.items() if name.partition(".")[0] == function}
        if not waiting:
            raise KeyError(function)
        total = 0
        while waiting:
            at = waiting.pop()
            total += self.sizes[at]
            seen.add(at)
            waiting |= self.references.get(at, frozenset()) - seen
        return total


def read(elf: Path) -> Image:
    """The image of a linked file. Where a name stands for several functions, it is one of them."""
    with elf.open("rb") as stream:
        file: Any = ELFFile(stream)
        section, index = file.get_section_by_name(SECTION), file.get_section_index(SECTION)
        symbols = file.get_section_by_name(".symtab").iter_symbols()
        found = [symbol for symbol in symbols if symbol["st_size"] and symbol["st_shndx"] == index]
        sizes = {symbol["st_value"] & ~1: symbol["st_size"] for symbol in found}
        names = {symbol.name: symbol["st_value"] & ~1 for symbol in found}
        references: dict[int, set[int]] = {}
        starts = sorted(sizes)
        for place, target in _relocations(file, section["sh_addr"], section.data()):
            owner, referred = (_start(starts, sizes, address) for address in (place, target))
            if owner is not None and referred is not None:
                references.setdefault(owner, set()).add(referred)
    return Image(sizes, {at: frozenset(targets) for at, targets in references.items()}, names)


def _relocations(file: Any, base: int, data: bytes) -> Iterator[tuple[int, int]]:
    """(address of the reference, an address in what it refers to), of all in flash."""
    table = file.get_section_by_name(f".rel{SECTION}")
    symbols = [
        None if symbol["st_info"]["type"] == "STT_SECTION" else symbol["st_value"] & ~1
        for symbol in file.get_section(table["sh_link"]).iter_symbols()
    ]
    for entry in table.iter_relocations():
        place, value = entry["r_offset"], symbols[entry["r_info_sym"]]
        # A symbol says it best, since what is added to it may point behind an array. What the compiler named by its
        # section has its address in the word that is relocated.
        if value is None:
            assert entry["r_info_type"] == ABSOLUTE
            value = int.from_bytes(data[place - base : place - base + 4], "little") & ~1
        yield place, value


def _start(starts: list[int], sizes: Mapping[int, int], address: int) -> int | None:
    """Where what lies at `address` begins; None for what is in no function and no constant, or in RAM."""
    position = bisect_right(starts, address) - 1
    if position < 0 or address >= starts[position] + sizes[starts[position]]:
        return None
    return starts[position]
