"""Limits, linker scripts, and how full regions are."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnbuild.errors import BudgetError, ConfigError
from nnbuild.report import budget
from nnbuild.report.elf import Elf, Section
from nnbuild.report.linkerscript import Region, regions

FLASH, RAM = Region("FLASH", 0, 4096), Region("RAM", 0x20000000, 1024)


def section(name: str, address: int, load: int | None, size: int, writable: bool = False) -> Section:
    return Section(name, address, load, size, writable, ())


IMAGE = Elf(
    "fw.elf",
    True,
    (
        section(".text", 0, 0, 1000),
        section(".data", 0x20000000, 1000, 40, writable=True),
        section(".ramcode", 0x20000028, 1040, 60),
        section(".bss", 0x20000064, None, 200, writable=True),
    ),
    {},
)


@pytest.mark.parametrize(
    ("text", "limit"), [("240K", 245760), (100, 100), ("85%", budget.Share(85)), (" 12.5 % ", budget.Share(12.5))]
)
def test_limits(text: str | int, limit: int | budget.Share) -> None:
    assert budget.parse_limit(text) == limit


@pytest.mark.parametrize("text", ["0%", "101%", "%", "-5%", "x", "", None, 1.5])
def test_no_limits(text: object) -> None:
    with pytest.raises(ConfigError):
        budget.parse_limit(text)


def uses(
    given: dict[str, int | budget.Share], where: tuple[Region, ...], reserve: int = 0
) -> dict[str, budget.RegionUse]:
    return {use.name: use for use in budget.region_uses([IMAGE], reserve, where, given, "chip.ld")}


@pytest.mark.parametrize("where", [(), (FLASH, RAM)])
def test_what_is_loaded_counts_in_flash_and_what_is_there_at_run_time_in_ram(where: tuple[Region, ...]) -> None:
    """Initial values of variables, and code that runs from RAM, take both."""
    found = uses({}, where, reserve=512)
    assert found["FLASH"].used == 1000 + 40 + 60
    assert found["RAM"].used == 40 + 60 + 200 + 512


def test_regions_without_limit_are_held_against_their_length() -> None:
    assert uses({}, (FLASH, RAM), reserve=724)["RAM"].over == 0
    assert uses({}, (FLASH, RAM), reserve=725)["RAM"].over == 1
    assert uses({}, (), reserve=10**6)["RAM"].over == 0


def test_limits_of_regions() -> None:
    found = uses({"FLASH": 1100, "RAM": budget.Share(25)}, (FLASH, RAM))
    assert (found["FLASH"].limit, found["FLASH"].over) == (1100, 0)
    assert (found["RAM"].limit, found["RAM"].over) == (256, 44)


def test_over_budget_names_every_region() -> None:
    over = list(uses({"FLASH": 1099, "RAM": 100}, (FLASH, RAM)).values())
    found = budget.region_verdicts(over, lambda use: "largest layers: a 1")
    with pytest.raises(BudgetError) as caught:
        budget.check(found, "fw.elf")
    assert str(caught.value).splitlines() == [
        "fw.elf: FLASH is 1 bytes over its limit: 1,100 of 1,099 bytes; hint: largest layers: a 1",
        "fw.elf: RAM is 200 bytes over its limit: 300 of 100 bytes; hint: largest layers: a 1",
    ]
    budget.check(budget.region_verdicts(list(uses({"FLASH": 1100}, (FLASH, RAM)).values())), "fw.elf")


VERDICTS: list[tuple[budget.Verdict, float | None, str]] = [
    (budget.Verdict("FLASH", 100, 100), 0, ""),
    (budget.Verdict("RAM", 1101, 100), 1001, "RAM is 1,001 bytes over its limit: 1,101 of 100 bytes"),
    (
        budget.Verdict("kws latency", 2100.26, 2000, "us", "a; b"),
        100.26,
        "kws latency is 100.3 us over its limit: 2,100.3 of 2,000.0 us; hint: a; b",
    ),
    (budget.Verdict("kws agreement", 97.0, 97.0, "percent", at_least=True), 0, ""),
    (
        budget.Verdict("kws agreement", 95.5, 97.0, "percent", at_least=True),
        1.5,
        "kws agreement is 1.50 percent below its limit: 95.50 of at least 97.00 percent",
    ),
    (
        budget.Verdict("kws sqnr", 20.0, 25.5, "dB", at_least=True),
        5.5,
        "kws sqnr is 5.50 dB below its limit: 20.00 of at least 25.50 dB",
    ),
    (
        budget.Verdict("kws stack", None, 512, hint="recursion"),
        None,
        "kws stack is unknown, and its limit is 512 bytes; hint: recursion",
    ),
]


@pytest.mark.parametrize(("verdict", "over", "line"), VERDICTS)
def test_verdicts(verdict: budget.Verdict, over: float | None, line: str) -> None:
    """Upper and lower limits, and values that nobody knows, which are never good."""
    assert verdict.over == (over if over is None else pytest.approx(over))
    assert verdict.ok == (line == "")
    assert verdict.data()["ok"] == verdict.ok
    if line:
        assert str(verdict.finding("fw.elf")) == f"fw.elf: {line}"


def test_the_failure_table_holds_what_is_missed_and_what_helps() -> None:
    lines = budget.failure_table([verdict for verdict, _, _ in VERDICTS])
    assert len(lines) == 1 + 5 + 3
    assert [line.split()[:2] for line in lines[1:3]] == [["RAM", "1,101"], ["kws", "latency"]]
    assert lines[3:5] == ["    a", "    b"]
    assert ">= 97.00 percent" in lines[5]
    assert lines[7].split() == ["kws", "stack", "unknown", "512", "bytes", "?"]
    assert budget.failure_table([VERDICTS[0][0]]) == []


def test_wrong_regions_are_named_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        uses({"CCM": 1, "ROM": 1}, (FLASH, RAM))
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(ConfigError, match=r"chip.ld: budget RAM is a share of an unknown length"):
        uses({"RAM": budget.Share(50)}, ())


# --- linker scripts ----------------------------------------------------------------------------------------------

SCRIPTS: dict[str, tuple[str, list[tuple[str, int, int]]]] = {
    "plain": (
        "MEMORY\n{\n  FLASH (rx) : ORIGIN = 0x08000000, LENGTH = 256K\n"
        "  RAM (xrw) : ORIGIN = 0x20000000, LENGTH = 16K\n}\n",
        [("FLASH", 0x08000000, 262144), ("RAM", 0x20000000, 16384)],
    ),
    "short, in one line": (
        "MEMORY { rom : org = 0, len = 1M  ram(!rx):o=0x100,l=010K }",
        [("rom", 0, 1 << 20), ("ram", 256, 8192)],
    ),
    "comments": (
        "/* MEMORY { NO : ORIGIN = 0, LENGTH = 1 } */ MEMORY { A /* (rx) */ : ORIGIN = 1 /* , */, LENGTH = 2 }",
        [("A", 1, 2)],
    ),
    "expressions": (
        "boot = 4K; PROVIDE(app = (256K - boot) / 2);\n"
        "MEMORY { A : ORIGIN = 0x1000 + boot, LENGTH = app\n "
        " B : ORIGIN = ORIGIN(A) + LENGTH(A), LENGTH = 3 * (2 + 2) << 1 }",
        [("A", 8192, 129024), ("B", 137216, 24)],
    ),
    "two blocks": (
        "MEMORY { A : ORIGIN = 0, LENGTH = 1 }\nx = 2;\nMEMORY { B : ORIGIN = 1, LENGTH = x }",
        [("A", 0, 1), ("B", 1, 2)],
    ),
    "sections around": (
        "ENTRY(main)\n_estack = 0x20004000;\n"
        "MEMORY { A : ORIGIN = 0, LENGTH = 1K }\nSECTIONS { .text : { *(.text) } > A }",
        [("A", 0, 1024)],
    ),
    "names of all kinds": (
        "MEMORY { .flash-2 (rx) : ORIGIN = 0, LENGTH = 1K\n_RAM$1 : ORIGIN = 9, LENGTH = 1 }",
        [(".flash-2", 0, 1024), ("_RAM$1", 9, 1)],
    ),
}


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_linker_scripts(tmp_path: Path, name: str) -> None:
    text, expected = SCRIPTS[name]
    path = tmp_path / "chip.ld"
    path.write_text(text)
    assert [(region.name, region.origin, region.length) for region in regions(path)] == expected


def test_included_scripts(tmp_path: Path) -> None:
    (tmp_path / "memory.x").write_text("MEMORY { A : ORIGIN = 0, LENGTH = 1K }\nINCLUDE link.ld\n")
    (tmp_path / "link.ld").write_text('INCLUDE "memory.x"\nINCLUDE elsewhere.ld\n')
    assert [region.name for region in regions(tmp_path / "link.ld")] == ["A"]


BAD_SCRIPTS = {
    "SECTIONS { }": "has no MEMORY block",
    "MEMORY { }": "has no MEMORY block",
    "MEMORY { A : ORIGIN = 0 }": "MEMORY block cannot be read at 'A : ORIGIN = 0'",
    "MEMORY { A : ORIGIN = 0, LENGTH = size }": "region A: 'size' is not known before the MEMORY block",
    "MEMORY { A : ORIGIN = 0, LENGTH = 1 / 0 }": "region A: divides by zero",
    "MEMORY { A : ORIGIN = 0, LENGTH = 1 << 99 }": "region A: shifts by 99",
    "MEMORY { A : ORIGIN = 0, LENGTH = (1 + 2 }": "region A: ends too early",
    "MEMORY { A : ORIGIN = 0, LENGTH = 1 2 }": "region A: cannot be read: '1 2'",
    "MEMORY { A : ORIGIN = 0, LENGTH = 09 }": "region A: cannot be read: '09'",
    "MEMORY { A : ORIGIN = ?, LENGTH = 1 }": "region A: cannot be read: '?'",
}


@pytest.mark.parametrize("text", list(BAD_SCRIPTS))
def test_bad_linker_scripts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chip.ld"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        regions(path)
    assert str(caught.value).startswith(f"{path}: {BAD_SCRIPTS[text]}")


def test_missing_linker_script(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no.ld: cannot be read: No such file or directory"):
        regions(tmp_path / "no.ld")


@pytest.mark.parametrize(
    ("symbols", "home"), [({}, "RAM"), ({"_estack": 0x1100}, "DTCM"), ({"_estack": 0x9000}, "RAM")]
)
def test_the_stack_is_where_the_variables_are_not_in_the_first_region(symbols: dict[str, int], home: str) -> None:
    """An arena of its own section in front of .bss does not draw the stack reserve to its region."""
    places = [Region("DTCM", 0x1000, 0x100), Region("RAM", 0x2000, 0x1000)]
    sections = (section(".dtcm", 0x1000, None, 64, writable=True), section(".bss", 0x2000, None, 32, writable=True))
    uses = budget.region_uses([Elf("fw.elf", True, sections, symbols)], 200, places, {}, "chip.ld")
    used = {"DTCM": 64, "RAM": 32}
    assert {use.name: use.used for use in uses} == {**used, home: used[home] + 200}
    assert [use.name for use in uses if use.home] == [home]
