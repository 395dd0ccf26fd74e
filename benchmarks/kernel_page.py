"""docs/KERNELS.md: the table of the microbenchmark as it is read."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.kernel_table import COMMAND, LIBRARY, ROOT, Row, Table
from nnbuild import __version__

PAGE = ROOT / "docs" / "KERNELS.md"


def page(table: Table) -> str:
    """docs/KERNELS.md."""
    cores = dict.fromkeys(row.core for row in table.rows)
    beside = f", CMSIS-NN {table.cmsis_nn}" if table.cmsis_nn else ""
    return f"""# Kernels, layer by layer

nnbuild {__version__}{beside}, {table.compiler}, `-O2`;
refreshed by `{COMMAND}`, with benchmarks/kernels.json, which has all figures of all kernels.
`python -m benchmarks.kernels --only "fc 16x16"` prints some layers, `--check` holds our kernels against the table, and
so does a test: a figure above the table is an error under this compiler.

One layer in a network of its own, one inference on random bytes, counted under QEMU instruction for instruction; cycles
are these instructions weighed as in [COSTS.md](COSTS.md), memory never waits. "each" is cycles for one multiplication,
or for one element where a layer has none (of the larger of input and output). Cortex-M55 has no documented timings:
there it is instructions, of which one may work on 16 bytes. Weights are random over all of int8, which is the worst
case for kernels that gain from small ones. Code is the layer's function and all that it leads to: helpers, assembly,
the library; layers of a network share it where they can. Data is weights and parameters.

The kernel is what a network of this layer alone gets of ours with `optimize="balanced"`, "in C" what it gets with
`NN_ASSEMBLY=False`, and **bold** is what `backend="auto"` takes where CMSIS-NN is there. The last column has our other
kernels that serve, with their "each".

{chr(10).join(_section(table, core) for core in cores)}"""


HEADER = (
    "| layer | kernel | instructions | cycles | each | code | data | scratch | in C | each | code "
    "| CMSIS-NN: instructions | each | code | scratch | others |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---|"
)


def _section(table: Table, core: str) -> str:
    layers = dict.fromkeys(row.layer for row in table.rows if row.core == core)
    lines = [_line([row for row in table.rows if (row.core, row.layer) == (core, layer)]) for layer in layers]
    return "\n".join([f"## {core.capitalize().replace('-m', '-M')}", "", HEADER, *lines, ""])


def _line(rows: Sequence[Row]) -> str:
    """One layer on one core."""
    own, plain = (next(row for row in rows if role in row.roles) for role in ("own", "c"))
    library = next((row for row in rows if row.kernel == LIBRARY), None)
    others = [row for row in rows if row not in (own, plain, library)]
    cells = [own.layer, own.kernel, f"{own.instructions:,}", "" if own.cycles is None else f"{own.cycles:,}"]
    cells += [_each(own), f"{own.code:,}", f"{own.data:,}", f"{own.scratch:,}"]
    cells += [plain.kernel, f"{plain.each:.2f}", f"{plain.code:,}"]
    if library is not None:
        cells += [f"{library.instructions:,}", _each(library), f"{library.code:,}", f"{library.scratch:,}"]
    else:
        cells += [""] * 4
    return f"| {' | '.join([*cells, ', '.join(f'{row.kernel} {row.each:.2f}' for row in others)])} |"


def _each(row: Row) -> str:
    return f"**{row.each:.2f}**" if "auto" in row.roles else f"{row.each:.2f}"
