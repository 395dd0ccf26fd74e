"""Where a model's weights and arena lie, and whether its inputs and outputs lie in the arena.

Weights go to a section by an attribute of their declarations. The arena goes to one in `<name>_kernels.S`, because only
there a section of any name can be without contents: in C, gcc would store its zeros in flash.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnbuild import config
from nnbuild.ram.memory import ALIGNMENT


@dataclass(frozen=True, slots=True)
class Placement:
    """Sections, "" for the compiler's own; `arena_align` in bytes; `io` is who owns inputs and outputs."""

    section: str = ""
    arena_section: str = ""
    arena_align: int = ALIGNMENT
    io: str = "caller"

    @property
    def in_arena(self) -> bool:
        """Whether inputs and outputs lie in the arena."""
        return self.io == "arena"

    def reserved(self, name: str, arena: str) -> str:
        """The section that `<name>_kernels.S` reserves the arena in; "" where it is C or somebody else's."""
        if arena != "static" or (not self.arena_section and self.arena_align == ALIGNMENT):
            return ""
        return self.arena_section or f".bss.{name}_arena"

    def check(self, arena: str) -> None:
        """ConfigError with all that cannot be, `arena` being who owns the arena."""
        sections = {"section": self.section or None, "arena_section": self.arena_section or None}
        config.parse_options({**sections, "arena_align": self.arena_align, "io": self.io, "arena": arena}, "")
