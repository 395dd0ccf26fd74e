"""The microbenchmark: no kernel of ours takes more than the committed table says, and the table is whole."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import executed, kernel_layers, kernels, reach, target
from benchmarks.kernel_page import PAGE, page
from benchmarks.kernel_table import COMMAND, DATA, LIBRARY, Row, Table, judge
from nnbuild import rendering
from nnbuild.contract import Assembly
from nnbuild.target import TARGETS
from tests import qemu

LAYER, ON = "fc 16x16", "cortex-m0"


@pytest.fixture(scope="module")
def committed() -> Table:
    return Table.read(DATA)


def test_no_kernel_takes_more_than_the_table_says(committed: Table) -> None:
    """All of ours on all cores, measured again; under another compiler than the table's the difference is a warning."""
    qemu.need()
    verdict = judge(committed, Table(target.compiler_version(), "", tuple(kernels.measured())))
    if verdict.remarks:
        warnings.warn("\n".join(verdict.remarks), stacklevel=1)
    assert not verdict.errors, "\n".join(verdict.errors)


@pytest.mark.parametrize("core", kernels.CORES)
def test_the_table_has_every_layer_and_every_kernel_that_serves(core: str, committed: Table) -> None:
    """And says which of them nnbuild takes."""
    wanted = {
        (one.layer, one.kernel): {role for role in one.roles if role != "auto"}
        for case in kernel_layers.cases()
        for one in kernels.variants(case, TARGETS[core])
    }
    stored = {
        (row.layer, row.kernel): {role for role in row.roles if role != "auto"}
        for row in committed.rows
        if row.core == core and row.kernel != LIBRARY
    }
    assert stored == wanted, f"refresh the table with `{COMMAND}`"
    assert any(row.kernel == LIBRARY for row in committed.rows if row.core == core)


def test_the_page_is_of_the_table(committed: Table) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(committed), f"refresh the page with `{COMMAND}`"
    assert DATA.read_text(encoding="utf-8") == committed.text()


# --- that it can fail ------------------------------------------------------------------------------------------------


def doctored(table: Table, **less: int) -> Table:
    """The table with one row's figures made smaller by `less`."""
    rows = [
        replace(row, **{name: getattr(row, name) - by for name, by in less.items()}) if _is_doctored(row) else row
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows))


def _is_doctored(row: Row) -> bool:
    return (row.core, row.layer) == (ON, LAYER) and "own" in row.roles


@pytest.mark.parametrize("figure", ["instructions", "cycles", "code", "data"])
def test_one_more_of_anything_is_an_error(figure: str, committed: Table) -> None:
    before = doctored(committed, **{figure: 1})
    (row,) = (row for row in committed.rows if _is_doctored(row))
    verdict = judge(before, committed)
    assert not verdict.remarks
    head, line = verdict.errors
    assert COMMAND in head
    assert f"{ON}, {LAYER}, {row.kernel}: {figure} {getattr(row, figure) - 1:,} -> {getattr(row, figure):,}" in line


def test_one_less_is_a_remark(committed: Table) -> None:
    verdict = judge(doctored(committed, instructions=-1, code=-2), committed)
    assert not verdict.errors
    assert verdict.remarks[0].startswith("2 figures are below the table")
    assert COMMAND in verdict.remarks[0]


def test_another_compiler_is_a_remark(committed: Table) -> None:
    verdict = judge(doctored(committed, instructions=1), replace(committed, compiler="gcc 99"))
    assert not verdict.errors
    head, line = verdict.remarks
    assert "this is gcc 99: 1 figures above it, 0 below" in head
    assert "instructions" in line


def test_a_worse_kernel_in_place_of_another_is_an_error(committed: Table) -> None:
    """Neither kernel grew, but nnbuild takes the other one."""
    slower = committed.row(ON, LAYER, "direct")
    rows = [
        replace(row, roles=("own",)) if row is slower else replace(row, roles=()) if _is_doctored(row) else row
        for row in committed.rows
    ]
    verdict = judge(committed, replace(committed, rows=tuple(rows)))
    assert any("direct in place of" in line and "cycles" in line for line in verdict.errors)


def test_a_kernel_that_is_not_in_the_table_is_named(committed: Table) -> None:
    rows = tuple(row for row in committed.rows if not _is_doctored(row))
    verdict = judge(replace(committed, rows=rows), committed)
    assert any(line.startswith(f"not in the table: {ON}, {LAYER}, ") for line in verdict.remarks)


def test_one_instruction_more_in_a_kernel_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, with a kernel in assembly that begins with a NOP."""
    qemu.need()
    found = Table(target.compiler_version(), "", tuple(kernels.measured([ON], only=LAYER)))
    path = tmp_path / "kernels.json"
    path.write_text(found.text())
    monkeypatch.setattr(kernels, "DATA", path)
    monkeypatch.setattr(kernels, "CORES", (ON,))
    monkeypatch.setattr(sys, "argv", ["kernels", "--check", "--only", LAYER])
    assert kernels.main() == 0
    original = rendering.assembly_text

    def slower(assembly: Assembly, symbol: str = "f") -> str:
        return original(assembly, symbol).replace(f"{symbol}:\n", f"{symbol}:\n    nop\n")

    monkeypatch.setattr("nnbuild.emit.assembly_text", slower)
    assert kernels.main() == 1
    printed = capsys.readouterr().out
    row = found.row(ON, LAYER, "assembly")
    assert row is not None
    assert f"{row.kernel}: instructions {row.instructions:,} -> {row.instructions + 1:,}" in printed
    assert f"{row.kernel}: code {row.code:,} -> {row.code + 2:,}" in printed


# --- bytes that a function leads to ----------------------------------------------------------------------------------

REACHING = """
#include <stdint.h>
const int8_t ends[24] = {4, 5, 6}, behind[16] = {7};
static const int8_t inside[40] = {1, 2, 3};
volatile int32_t sink;

__attribute__((noinline)) static void leaf(const int8_t *at) { sink += *at + behind[sink]; }
__attribute__((noinline)) static void twice(void) { leaf(inside + sink); leaf(inside + sink); }
__attribute__((noinline)) static void to_end(void) { for (const int8_t *at = ends; at != ends + 24; at++) sink = *at; }

int main(void) { twice(); to_end(); return 0; }
"""


@pytest.mark.parametrize("core", kernels.CORES)
def test_bytes_are_those_that_a_function_leads_to(core: str, tmp_path: Path) -> None:
    """Once each, however often they are called; not what lies behind an array whose end is referred to."""
    qemu.need()
    (tmp_path / "main.c").write_text(REACHING)
    elf = qemu.link(tmp_path, [tmp_path / "main.c"], executed.CORES[core], link_arguments=["-Wl,-q"])
    image = reach.read(elf)
    found = {name.partition(".")[0]: image.sizes[at] for name, at in image.names.items()}
    assert image.bytes_of("leaf") == found["leaf"] + 16
    assert image.bytes_of("leaf", ["behind"]) == found["leaf"]
    assert image.bytes_of("twice") == found["twice"] + found["leaf"] + 16 + 40
    assert image.bytes_of("to_end") == found["to_end"] + 24
    with pytest.raises(KeyError):
        image.bytes_of("absent")
