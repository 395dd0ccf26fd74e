"""Limits on memory, and what is over them.

Without a linker script there are two regions: FLASH, all that is loaded, and RAM, all that is writable. With one
they are those of its MEMORY block. The SCons side imports this module: standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnbuild.config import parse_size
from nnbuild.errors import BudgetError, ConfigError, Finding
from nnbuild.report.linkerscript import Region

if TYPE_CHECKING:
    from nnbuild.report.elf import Elf, Section


@dataclass(frozen=True, slots=True)
class Share:
    """A limit as a part of the region's length."""

    percent: float


@dataclass(frozen=True, slots=True)
class RegionUse:
    """Bytes used of a region; `length` and `limit` are None where there is none."""

    name: str
    used: int
    length: int | None
    limit: int | None

    @property
    def over(self) -> int:
        """Bytes above the limit, 0 where it holds."""
        return max(0, self.used - self.limit) if self.limit is not None else 0


def parse_limit(value: Any) -> int | Share:
    """Bytes of `"240K"` or `245760`, or the share of `"85%"`. ConfigError for anything else."""
    if isinstance(value, str) and value.strip().endswith("%"):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)
        if match is None or not 0 < float(match[1]) <= 100:
            raise ConfigError("must be a share above 0% and up to 100%")
        return Share(float(match[1]))
    try:
        return parse_size(value)
    except ConfigError as error:
        raise ConfigError(f"{error.findings[0].message} or a share like '85%'") from None


def region_uses(
    elves: Sequence[Elf], reserve: int, regions: Sequence[Region], limits: Mapping[str, int | Share], script: str
) -> list[RegionUse]:
    """How much of each region is used; `reserve` are bytes for the stack that no section shows.

    ConfigError for a limit on a region that does not exist, or a share of one whose length nobody knows.
    """
    sections = [section for elf in elves for section in elf.sections]
    if not regions:
        used = {"FLASH": sum(s.size for s in sections if s.load is not None), "RAM": reserve}
        used["RAM"] += sum(s.size for s in sections if s.writable or s.load not in (None, s.address))
        lengths: dict[str, int | None] = {"FLASH": None, "RAM": None}
    else:
        used = {region.name: sum(_bytes_in(region, section) for section in sections) for region in regions}
        lengths = {region.name: region.length for region in regions}
        home = _home(sections, regions)
        used[home] += reserve
    _known(limits, lengths, script)
    return [RegionUse(name, used[name], lengths[name], _limit(limits.get(name), lengths[name])) for name in used]


def _bytes_in(region: Region, section: Section) -> int:
    runs_there = section.address in region
    stored_there = section.load is not None and section.load != section.address and section.load in region
    return section.size * (runs_there + stored_there)


def _home(sections: Sequence[Section], regions: Sequence[Region]) -> str:
    """The region that holds the firmware's variables, hence its stack."""
    for section in sections:
        for region in regions:
            if section.writable and section.address in region:
                return region.name
    return regions[-1].name


def _known(limits: Mapping[str, int | Share], lengths: Mapping[str, int | None], script: str) -> None:
    findings = []
    for name, limit in limits.items():
        if name not in lengths:
            hint = f"the regions are {', '.join(lengths)}"
            findings.append(Finding(f"budget for region '{name}', which does not exist", script, hint))
        elif isinstance(limit, Share) and lengths[name] is None:
            findings.append(Finding(f"budget {name} is a share of an unknown length", script, "give linker_script"))
    if findings:
        raise ConfigError.of(findings)


def _limit(limit: int | Share | None, length: int | None) -> int | None:
    if isinstance(limit, Share):
        return int((length or 0) * limit.percent / 100)
    return length if limit is None else limit


def check(uses: Sequence[RegionUse], where: str, hint: str) -> None:
    """BudgetError with a line for each region that is over its limit."""
    findings = [
        Finding(f"{use.name} is {use.over:,} bytes over its limit: {use.used:,} of {use.limit:,} bytes", where, hint)
        for use in uses
        if use.over
    ]
    if findings:
        raise BudgetError.of(findings)
