"""Layers that go row by row: the same bytes as whole ones, whatever the windows, branches and pools."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nnbuild import rows
from nnbuild.contract import Case
from nnbuild.placement import Placement
from nnbuild.target import TARGETS

from . import programs, qemu, row_networks
from .row_networks import SEGMENT

GENERIC = TARGETS["generic"]


def run_here(folder: Path, cases: Sequence[Case], mutate: tuple[str, str] = ("", ""), **options: Any) -> int:
    """The status of a program of this machine, under sanitizers."""
    sources = [path for path in programs.write(folder, cases, **options) if path.suffix == ".c"]
    if mutate[0]:
        texts = {path: path.read_text() for path in sources if path.name[0] == "m" and path.name[1:-2].isdigit()}
        assert any(mutate[0] in text for text in texts.values()), mutate
        for path, text in texts.items():
            path.write_text(text.replace(*mutate))
    program = folder / "program"
    command = ["gcc", "-O1", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover", "-o", str(program)]
    subprocess.run([*command, *map(str, programs.units(folder, sources))], check=True)
    return subprocess.run([str(program)], capture_output=True, check=False, timeout=120).returncode


@settings(max_examples=2, deadline=None, database=None, phases=[Phase.generate])
@given(data=st.data())
def test_rows_are_the_whole(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read where the input lies, pushed, and with everything in the arena; by C of every kind of core."""
    cases = data.draw(st.lists(row_networks.cases(), min_size=10, max_size=10))
    for name in ("generic", "cortex-m0", "cortex-m4", "cortex-m55"):
        target = replace(TARGETS[name], guard="")
        assert run_here(tmp_path_factory.mktemp(name), cases, target=target, stream_rows=SEGMENT) == 0
    io = Placement(io="arena")
    assert run_here(tmp_path_factory.mktemp("io"), cases, target=GENERIC, stream_rows=SEGMENT, placement=io) == 0
    pushed = [case for case in cases if case.network.layers[0].name == "first"]
    options: dict[str, Any] = {"stream_rows": SEGMENT, "push_rows": True, "placement": io}
    assert run_here(tmp_path_factory.mktemp("pushed"), pushed, target=GENERIC, **options) == 0


@pytest.mark.parametrize("core", ["m0", "m4", "m55"])
def test_rows_on_cores(core: str, tmp_path: Path) -> None:
    """The assembly, over the same networks on each."""
    qemu.need()
    board = qemu.CORES[core]
    board = replace(board, machine="mps2-an385", memory=qemu.MPS2) if core == "m0" else board
    cases = fixed_cases(12)
    sources = programs.units(tmp_path, programs.write(tmp_path, cases, board.target, stream_rows=SEGMENT))
    assert qemu.run(qemu.link(tmp_path, sources, board), board) == (0, "")


def fixed_cases(count: int) -> list[Case]:
    """The same networks on every machine, which are not small: of several rows and with branches."""
    found: list[Case] = []

    def large(case: Case) -> bool:
        layers = case.network.layers
        segment = rows.segment(case.network, *run_of(case))
        return len(layers) > 4 and segment is not None and segment[0].height > 5

    @settings(max_examples=400, deadline=None, database=None, phases=[Phase.generate], derandomize=True)
    @given(row_networks.cases())
    def collect(case: Case) -> None:
        if len(found) < count and large(case):
            found.append(case)

    collect()
    assert len(found) == count
    assert any(layer.op == "add" for case in found for layer in case.network.layers)
    return found


def run_of(case: Case) -> tuple[int, int]:
    names = [layer.name for layer in case.network.layers]
    return names.index("first"), names.index("last")


MUTANTS = [
    ("nn_rows_up(&arena[", "(void)(&arena["),  # rows stay where they are
    ("nn_fill(&arena[", "(void)(&arena["),  # padding is what was there before
    ("= row > 0 ? sums[channel] : 0;", "= sums[channel];"),  # sums of the run before
    ("rows[i] = rows[i + by];", "rows[i] = rows[i + by - 1];"),
    ("to[2] = c;", "to[2] = d;"),
    ("since % every != 0", "0"),
    ("(int8_t)(inside ? map[(top + row) * bytes + i] : fill)", "(int8_t)fill"),
    ("return &map[top * bytes];", "return &map[top * bytes + bytes];"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[old for old, _ in MUTANTS])
def test_mutants_are_caught(mutant: tuple[str, str], tmp_path: Path) -> None:
    assert run_here(tmp_path, fixed_cases(12), mutant, target=GENERIC, stream_rows=SEGMENT) != 0
