"""Fits nnbuild/costs.json to what layers execute under QEMU: `python -m benchmarks.fit_costs [--write]`.

Runs the reference networks and single layers (cost_layers.py) with every kernel that serves, on a core of each class of
instruction sets, counts what each layer executes, and fits by nonnegative least squares what one trip of each of the
kernel's loops costs. Prints how far the estimate of each reference network is off, once with all measurements and once
without those of that very network. `--write` refreshes nnbuild/costs.json and docs/COSTS.md, which takes three minutes.
For a new operator there is `--only log_softmax --write`, less than one: it adds the costs of that operator alone.
`--only rows` is for what segments take that go row by row (`ram.rows`), besides their layers.
Needs the reference folder, the cross compiler, QEMU with plugins, and CMSIS-NN.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import command, cost_layers, target
from benchmarks.cost_fit import errors, evaluate, factors, fit
from benchmarks.cost_page import HEADER, line, page
from benchmarks.cost_samples import CORES, Sample, columns, measured
from benchmarks.footprint import ROOT
from nnbuild import cmsis_nn, cost
from nnbuild.files import write_text

COSTS = ROOT / "nnbuild" / "costs.json"
TABLE = ROOT / "docs" / "COSTS.md"


def main() -> int:
    """Measure, fit, print; write with --write. 1 where a network's error is above 25 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="refresh nnbuild/costs.json and docs/COSTS.md")
    parser.add_argument("--only", action="append", default=[], metavar="OPERATOR", help="single layers of this one")
    parser.add_argument("--samples", type=Path, help="keep what was measured in this file, and take it from there")
    arguments = parser.parse_args()
    shared = command.reference()
    root = cmsis_nn.find(None, os.environ)
    if shared is None or root is None:
        print("skipped: needs CMSIS-NN and the reference models", file=sys.stderr)
        return 0
    if arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            by_rows = cost_layers.networks(shared, Path(folder)) if cost.ROWS in arguments.only else {}
            document = _with(measured(by_rows, root, None, arguments.only), arguments.only)
        print(
            _json({"kernels": {name: document["kernels"][name] for name in _of(document["kernels"], arguments.only)}})
        )
        if arguments.write:
            write_text(COSTS, _json(document))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        samples = measured(cost_layers.networks(shared, Path(folder)), root, arguments.samples)
    rows = [row for isa in CORES for row in evaluate(isa, samples[isa])]
    print("\n".join([HEADER, *(line(row) for row in rows)]))
    fitted = {isa: fit(isa, samples[isa]) for isa in CORES}
    kernels = {name: {isa: fitted[isa][name] for isa in CORES if name in fitted[isa]} for name in _names(fitted)}
    document = {
        "compiler": f"{target.compiler_version()}, -O2",
        "columns": {isa: columns(isa) for isa in CORES},
        "errors": errors(rows),
        "factors": factors(rows),
        "kernels": kernels,
    }
    if arguments.write:
        write_text(COSTS, _json(document))
        write_text(TABLE, page(rows, fitted))
    return 1 if max(max(abs(row.unseen), abs(row.error)) for row in rows) > 25 else 0


def _names(fitted: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted({name for rows in fitted.values() for name in rows})


def _of(names: Iterable[str], operators: Sequence[str]) -> list[str]:
    return [name for name in names if name.split("/")[0] in operators]


def _with(found: Mapping[str, Sequence[Sample]], operators: Sequence[str]) -> dict[str, Any]:
    """The committed table with the costs of `operators` as measured."""
    document: dict[str, Any] = json.loads(COSTS.read_text(encoding="utf-8"))
    for isa, samples in found.items():
        fitted = fit(isa, samples)
        for name in _of(fitted, operators):
            document["kernels"].setdefault(name, {})[isa] = fitted[name]
    return document


def _json(table: Mapping[str, Any]) -> str:
    """One loop a line, so that a changed fit reads well as a difference."""
    head = {key: value for key, value in table.items() if key != "kernels"}
    lines = [json.dumps(head, indent=1)[:-2] + ',\n "kernels": {' if head else '{ "kernels": {']
    kernels = []
    for kernel, classes in sorted(table["kernels"].items()):
        inner = []
        for isa, loops in classes.items():
            text = ",\n".join(f"    {json.dumps(loop)}: {json.dumps(values)}" for loop, values in loops.items())
            inner.append(f"   {json.dumps(isa)}: {{\n{text}\n   }}")
        kernels.append(f"  {json.dumps(kernel)}: {{\n" + ",\n".join(inner) + "\n  }")
    return "\n".join([*lines, ",\n".join(kernels), " }", "}", ""])


if __name__ == "__main__":
    sys.exit(main())
