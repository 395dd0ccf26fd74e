"""How nnbuild does on the ONNX project's own tests of operators: `python -m benchmarks.conformance` refreshes
docs/CONFORMANCE.md. Takes half a minute."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx

from benchmarks.footprint import ROOT
from nnbuild.files import write_text
from tests.conformance import Result, judge, node_tests

TABLE = ROOT / "docs" / "CONFORMANCE.md"

_TEXT = """# Conformance

The ONNX project's backend tests of single nodes (onnx {version}) with float32 data whose operators nnbuild lists.
Each is imported, calibrated with its own inputs, quantized to int8, lowered, and run by the integer reference, which is
what the generated C computes. *Passed* is within one output step for each layer (two for softmax, one a time step for
recurrent layers) of the float operator on the dequantized inputs. *Refused* ends in one line that names what is not
supported.
`python -m benchmarks.conformance` writes this page; a test compares it, and fails where a test is wrong or crashes.

| tests | passed | refused | wrong | crashed |
|---|---|---|---|---|
| {total} | {passed} | {refused} | {wrong} | {crashed} |

| why refused | tests |
|---|---|
{reasons}
"""


def page(results: Sequence[Result]) -> str:
    """The Markdown of the results."""
    counts = Counter(result.outcome for result in results)
    reasons = Counter(result.detail for result in results if result.outcome == "refused")
    rows = sorted(reasons.items(), key=lambda row: (-row[1], row[0]))
    outcomes = {name: counts[name] for name in ("passed", "refused", "wrong", "crashed")}
    listed = "\n".join(f"| {reason.replace('|', '/')} | {count} |" for reason, count in rows)
    return _TEXT.format(version=onnx.__version__, total=len(results), reasons=listed, **outcomes)


def measured() -> list[Result]:
    """Every test, judged."""
    with tempfile.TemporaryDirectory() as folder:
        return [judge(test, Path(folder)) for test in node_tests()]


def main() -> None:
    """Refresh the table."""
    write_text(TABLE, page(measured()))
    print(TABLE.read_text().split("|---|---|---|---|---|\n")[1].splitlines()[0])


if __name__ == "__main__":
    main()
