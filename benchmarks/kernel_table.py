"""The table of the microbenchmark, benchmarks/kernels.json, and what is worse than it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "benchmarks" / "kernels.json"
COMMAND = "python -m benchmarks.kernels --write"
LIBRARY = "cmsis_nn"
FIGURES = ("instructions", "cycles", "code", "data", "scratch")
"""What is not to grow; the last three in bytes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One layer with one kernel on one core, one inference.

    `roles` says where it is what nnbuild takes: "own" of our kernels, "c" with assembly off, "auto" where CMSIS-NN is
    there and the choice is nnbuild's. `elements` are those of the largest among inputs and output. `code` is the
    layer's function and all that it leads to, `data` its weights and parameters, both in bytes, as is `scratch`.
    `cycles` is None where the core has no table of timings.
    """

    core: str
    layer: str
    kernel: str
    roles: tuple[str, ...]
    macs: int
    elements: int
    instructions: int
    cycles: int | None
    code: int
    data: int
    scratch: int

    @property
    def each(self) -> float:
        """Cycles (where there are none, instructions) of one multiplication, or of one element where there are none."""
        return (self.instructions if self.cycles is None else self.cycles) / (self.macs or self.elements)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows, the compiler that they hold for, and the release of CMSIS-NN ("" without it)."""

    compiler: str
    cmsis_nn: str
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table that `text` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        rows = (Row(**{**row, "roles": tuple(row["roles"])}) for row in stored["rows"])
        return cls(stored["compiler"], stored["cmsis_nn"], tuple(rows))

    def text(self) -> str:
        """As it is stored: one row a line, so that a change reads well as a difference."""
        head = json.dumps({"compiler": self.compiler, "cmsis_nn": self.cmsis_nn}, indent=1)[:-2]
        rows = ",\n".join(f"  {json.dumps(asdict(row))}" for row in self.rows)
        return f'{head},\n "rows": [\n{rows}\n ]\n}}\n'

    def row(self, core: str, layer: str, kernel: str = "", role: str = "") -> Row | None:
        """The row of that kernel, or with that role."""
        for row in self.rows:
            if (row.core, row.layer) == (core, layer) and (row.kernel == kernel or role in row.roles):
                return row
        return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What fails a check, and what is only to be said; lines of text."""

    errors: tuple[str, ...]
    remarks: tuple[str, ...]


def judge(committed: Table, found: Table) -> Verdict:
    """Our kernels of `found` against the committed table.

    Nothing here is random: inputs are the same in every run and QEMU counts every instruction, so there is no
    tolerance. The compilers must be the same for a figure above the committed one to be an error.
    """
    changes = [change for old, new in _pairs(committed, found) for change in _changes(old, new)]
    worse = [text for larger, text in changes if larger]
    better = [text for larger, text in changes if not larger]
    absent = [_name(row) for row in _own(found) if committed.row(row.core, row.layer, row.kernel) is None]
    refresh = f"refresh the table with `{COMMAND}`"
    remarks = [f"not in the table: {name}; {refresh}" for name in absent]
    if committed.compiler != found.compiler:
        head = f"the table is of {committed.compiler}, this is {found.compiler}: "
        return Verdict((), (*remarks, f"{head}{len(worse)} figures above it, {len(better)} below", *worse, *better))
    if better:
        remarks += [f"{len(better)} figures are below the table, which is out of date; {refresh}", *better]
    errors = [f"{len(worse)} figures are above the table; where that is meant, {refresh}", *worse] if worse else []
    return Verdict(tuple(errors), tuple(remarks))


def _own(table: Table) -> Iterator[Row]:
    return (row for row in table.rows if row.kernel != LIBRARY)


def _pairs(committed: Table, found: Table) -> Iterator[tuple[Row, Row]]:
    """Rows to compare: those of one kernel, and those of the kernels that nnbuild took then and takes now."""
    for new in _own(found):
        old = committed.row(new.core, new.layer, new.kernel)
        if old is not None:
            yield old, new
        for role in ("own", "c"):
            before = committed.row(new.core, new.layer, role=role) if role in new.roles else None
            if before is not None and before.kernel != new.kernel:
                yield before, new


def _changes(old: Row, new: Row) -> Iterator[tuple[bool, str]]:
    """(whether it grew, figure before and after)."""
    for figure in FIGURES:
        before, after = getattr(old, figure), getattr(new, figure)
        if before is not None and after is not None and before != after:
            share = f" ({100 * (after / before - 1):+.1f} %)" if before else ""
            taken = _name(new) if old.kernel == new.kernel else f"{_name(new)} in place of {old.kernel}"
            yield after > before, f"  {taken}: {figure} {before:,} -> {after:,}{share}"


def _name(row: Row) -> str:
    return f"{row.core}, {row.layer}, {row.kernel}"
