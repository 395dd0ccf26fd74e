"""Generated C and MISRA C:2012: each deviation that cppcheck finds is in docs/MISRA.md, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnbuild.ops import ALL

from . import misra, misra_corpus
from .conftest import ROOT

DOCUMENT = ROOT / "docs" / "MISRA.md"


@pytest.fixture(autouse=True)
def cppcheck() -> None:
    found = misra.version()
    if not found:
        pytest.skip("cppcheck is not installed")
    if found not in misra.VERSIONS:
        pytest.skip(f"docs/MISRA.md is for cppcheck {', '.join(misra.VERSIONS)}, this is {found}")


def test_every_deviation_is_listed_and_every_listed_one_is_there(tmp_path: Path) -> None:
    files = misra_corpus.files()
    wrong = misra.differences(misra.findings(tmp_path, files), misra.listed(DOCUMENT.read_text(encoding="utf-8")))
    assert not wrong, "docs/MISRA.md:\n" + "\n".join(wrong)


def test_the_models_hold_every_operator_and_kernel() -> None:
    files = misra_corpus.files()
    reports = "".join(text for name, text in files.items() if name.endswith(".report.json"))
    for operator in ALL:
        for kernel in operator.kernels:
            if kernel.name != "cmsis_nn":
                assert f'"op": "{operator.name}"' in reports, operator.name
                assert f'"kernel": "{kernel.name}"' in reports, kernel.name


def test_a_new_deviation_fails(tmp_path: Path) -> None:
    """A jump in a layer, with a row for it, without one, and with a row for what is not there."""
    files = dict(list(misra_corpus.files().items())[:5])
    (name,) = (name for name in files if name == "m0.c")
    before = misra.findings(tmp_path / "before", files)
    files[name] = files[name].replace("    return 0;\n}", "    goto end;\nend:\n    return 0;\n}")
    known: dict[str, set[str]] = {}
    for rule, place in before:
        known.setdefault(rule, set()).add(place)
    found = misra.findings(tmp_path / "after", files)
    assert misra.differences(before, known) == []
    assert misra.differences(found, known) == ["rule 15.1 is broken in .c and not listed"]
    assert misra.differences(found, {**known, "15.1": {".c"}}) == []
    assert misra.differences(before, {**known, "15.1": {".c"}}) == ["rule 15.1 is listed for .c and not broken there"]
    assert misra.differences(before, {**known, "15.1": {"*"}}) == [
        "rule 15.1 is listed and never broken: take the row out"
    ]


def test_places() -> None:
    files = {
        "m3_x.c": "",
        "m3.report.json": '{"layers": [{"op": "add", "kernel": "direct", "function": "m3_l00_add"}]}',
        "m3.c": "int a;\nstatic inline int nn_b(void)\n{\n1;\n}\nstatic void m3_l00_add(int a,\n    int b)\n{\n2;\n}\n",
    }
    assert [misra._place(files, "m3.c", line) for line in (1, 2, 4, 9)] == [".c", "nn_b", "nn_b", "add/direct"]
    assert misra._place(files, "m3_x.c", 1) == "_x.c"
