"""Every operator case on a Cortex-M0 under QEMU: the bytes are those of the integer reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnbuild.contract import Case
from nnbuild.ops import ALL
from nnbuild.target import TARGETS

from . import programs, qemu

BATCH = 12
"""Cases in one image; more would not fit the micro:bit's 16 KB of RAM."""


def batches() -> list[tuple[str, list[Case]]]:
    found = []
    for operator in ALL:
        cases = list(operator.cases())
        found += [(f"{operator.name}{n // BATCH}", cases[n : n + BATCH]) for n in range(0, len(cases), BATCH)]
    return found


@pytest.mark.parametrize(("name", "cases"), batches(), ids=lambda value: value if isinstance(value, str) else "")
def test_c_equals_reference_on_cortex_m0(name: str, cases: list[Case], tmp_path: Path) -> None:
    qemu.need()
    sources = programs.write(tmp_path, cases, TARGETS["cortex-m0"])
    status, printed = qemu.run(qemu.link(tmp_path, sources))
    assert status == 0, f"case {cases[status - 1].name if status <= len(cases) else status} differs; {printed}"


def test_a_wrong_byte_is_noticed(tmp_path: Path) -> None:
    qemu.need()
    cases = next(list(operator.cases())[:2] for operator in ALL if operator.name == "fully_connected")
    sources = programs.write(tmp_path, cases, TARGETS["cortex-m0"])
    main = tmp_path / "main.c"
    main.write_text(main.read_text().replace("output[i] != m1_out", "(output[i] ^ 1) != m1_out"))
    status, _ = qemu.run(qemu.link(tmp_path, sources))
    assert status == 2
