"""Operators against the ONNX project's own tests: none wrong, none crashed, most of them passed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from benchmarks.conformance import TABLE, page
from tests.conformance import NodeTest, judge, node_tests

LEAST_PASSED = 0.7


@pytest.fixture(scope="module")
def tests() -> list[NodeTest]:
    return list(node_tests())


def test_none_is_wrong_and_most_pass(tests: list[NodeTest], tmp_path: Path) -> None:
    results = [judge(test, tmp_path) for test in tests]
    bad = [result for result in results if result.outcome in ("wrong", "crashed")]
    assert not bad
    counts = Counter(result.outcome for result in results)
    assert counts["passed"] >= LEAST_PASSED * len(results), counts
    assert all(result.detail for result in results if result.outcome == "refused")
    committed = TABLE.read_text(encoding="utf-8")
    if f"(onnx {onnx.__version__})" in committed:
        assert _counts(page(results)) == _counts(committed), "run python -m benchmarks.conformance"


def _counts(text: str) -> str:
    """The row of totals; reasons quote other libraries."""
    return text.split("|---|---|---|---|---|\n")[1].splitlines()[0]


def test_a_wrong_operator_is_found(tests: list[NodeTest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnbuild.ops import lookup

    found = next(test for test in tests if test.name == "test_tanh")
    assert judge(found, tmp_path).outcome == "passed"
    monkeypatch.setitem(lookup.FUNCTIONS, "Tanh", lambda x, node: x / (1 + abs(x)))
    assert judge(found, tmp_path).outcome == "wrong"
