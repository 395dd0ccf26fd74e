"""Limits, what is held against them, and the one table of all that is over.

Whatever is limited (regions, a model's flash, RAM and stack, growth, latency, accuracy) ends as a `Verdict`; `check`
reports all that are missed at once. Regions: without a linker script there are two, FLASH, all that is loaded, and
RAM, all that is writable; with one they are those of its MEMORY block. The SCons side imports this module: standard
library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnbuild.errors import BudgetError, ConfigError, Finding
from nnbuild.option_values import parse_size
from nnbuild.report.linkerscript import Region

if TYPE_CHECKING:
    from nnbuild.report.elf import Elf, Section


_DIGITS = {"bytes": 0, "cycles": 0, "us": 1, "percent": 2, "points": 2, "dB": 2}


def amount(value: float, unit: str) -> str:
    """A value as reports show it: `1,234 bytes`, `1,234.5 us`, `97.25 percent`, `31.42 dB`."""
    return f"{value:,.{_DIGITS[unit]}f} {unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One budget held against its limit.

    `what` names it (`FLASH`, `growth RAM`, `kws flash`, `kws latency`, `kws sqnr`), `unit` is bytes, us, cycles,
    percent, points (of percentages) or dB. `value` is None where it cannot be known, which `hint` explains: such a
    budget is missed. With `at_least` the limit is the least that is allowed, as for accuracy. `hint` says what would
    help, in parts separated by `; `.
    """

    what: str
    value: float | None
    limit: float
    unit: str = "bytes"
    hint: str = ""
    at_least: bool = False

    @property
    def over(self) -> float | None:
        """By how much the limit is missed, in `unit`; 0 where it holds, None where the value is unknown."""
        if self.value is None:
            return None
        missing = self.limit - self.value if self.at_least else self.value - self.limit
        return max(0, round(missing, 6))

    @property
    def ok(self) -> bool:
        """Whether the budget holds."""
        return self.over == 0

    def data(self) -> dict[str, Any]:
        """The verdict as `budgets` of fw.size.json has it."""
        return {key: getattr(self, key) for key in ("what", "value", "limit", "unit", "over", "ok", "hint")}

    def finding(self, where: str) -> Finding:
        """The one line that says that it is missed."""
        limit = amount(self.limit, self.unit)
        if self.value is None or self.over is None:
            return Finding(f"{self.what} is unknown, and its limit is {limit}", where, self.hint)
        short, least = ("below", "at least ") if self.at_least else ("over", "")
        value = amount(self.value, self.unit).removesuffix(f" {self.unit}")
        missed = f"{amount(self.over, self.unit)} {short} its limit: {value} of {least}{limit}"
        return Finding(f"{self.what} is {missed}", where, self.hint)


def failure_table(verdicts: Iterable[Verdict]) -> list[str]:
    """The lines of the table of missed budgets: what, value, limit, by how much, and below each what would help."""
    missed = [verdict for verdict in verdicts if not verdict.ok]
    if not missed:
        return []
    width = max(16, *(len(verdict.what) for verdict in missed))
    lines = [f"{'over its budget':<{width + 2}}{'value':>18}{'limit':>18}{'over':>18}"]
    for verdict in missed:
        lines.append(f"  {verdict.what:<{width}}" + "".join(f"{cell:>18}" for cell in _cells(verdict)))
        lines += [f"    {part}" for part in verdict.hint.split("; ") if part]
    return lines


def _cells(verdict: Verdict) -> Iterator[str]:
    yield "unknown" if verdict.value is None else amount(verdict.value, verdict.unit)
    yield (">= " if verdict.at_least else "") + amount(verdict.limit, verdict.unit)
    yield "?" if verdict.over is None else amount(verdict.over, verdict.unit)


def check(verdicts: Iterable[Verdict], where: str) -> None:
    """BudgetError with a line for each missed budget; `where` is the file that they are about."""
    findings = [verdict.finding(where) for verdict in verdicts if not verdict.ok]
    if findings:
        raise BudgetError.of(findings)


@dataclass(frozen=True, slots=True)
class Share:
    """A limit as a part of the region's length."""

    percent: float


@dataclass(frozen=True, slots=True)
class RegionUse:
    """Bytes used of a region, `constant` of them by code and constants; `length` and `limit` are None for none.

    `home` says that it holds the variables of the firmware, and with them the stack.
    """

    name: str
    used: int
    length: int | None
    limit: int | None
    constant: int = 0
    home: bool = True

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


Growth = int | Share
"""How much a region may grow since the last accepted build: bytes, or a share of what it was."""


def parse_growth(value: Any) -> Growth:
    """Growth of `"+1K"`, `1024` or `"2%"`. ConfigError for anything else."""
    try:
        return parse_limit(value.strip().removeprefix("+") if isinstance(value, str) else value)
    except ConfigError:
        raise ConfigError("must be bytes or a share, such as '+1K' or '2%'") from None


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
        home = "RAM"
    else:
        used = {region.name: sum(_bytes_in(region, section) for section in sections) for region in regions}
        lengths = {region.name: region.length for region in regions}
        home = _home(elves, regions)
        used[home] += reserve
    _known(limits, lengths, script)
    constant = {"FLASH": used["FLASH"]} if not regions else {r.name: _constants(r, sections) for r in regions}
    bounds = {name: _limit(limits.get(name), length) for name, length in lengths.items()}
    return [
        RegionUse(name, size, lengths[name], bounds[name], constant.get(name, 0), name == home)
        for name, size in used.items()
    ]


def _constants(region: Region, sections: Sequence[Section]) -> int:
    return sum(section.size for section in sections if not section.writable and section.address in region)


def _bytes_in(region: Region, section: Section) -> int:
    runs_there = section.address in region
    stored_there = section.load is not None and section.load != section.address and section.load in region
    return section.size * (runs_there + stored_there)


_STACK_TOPS = ("__StackTop", "__stack_top", "_estack", "__stack", "_stack_top")


def _home(elves: Sequence[Elf], regions: Sequence[Region]) -> str:
    """The region that holds the stack: where symbols say it ends, else that of .bss or .data, else of any variable."""
    sections = [section for elf in elves for section in elf.sections if section.writable]
    addresses = [elf.values[name] - 1 for name in _STACK_TOPS for elf in elves if name in elf.values]
    addresses += [section.address for section in sections if re.match(r"\.(bss|data)\b", section.name)]
    addresses += [section.address for section in sections]
    names = (region.name for address in addresses for region in regions if address in region)
    return next(names, regions[-1].name)


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


def region_verdicts(uses: Sequence[RegionUse], hint: Callable[[RegionUse], str] = lambda use: "") -> list[Verdict]:
    """The regions that have a limit, each held against it."""
    return [Verdict(use.name, use.used, use.limit, hint=hint(use)) for use in uses if use.limit is not None]
