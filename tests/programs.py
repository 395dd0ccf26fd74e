"""C programs that run operator cases: exit status 0, or 1 + the number of the first case whose bytes differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnbuild import interpret
from nnbuild.contract import Case
from nnbuild.emit import EmitOptions, emit
from nnbuild.target import Target

from . import host
from .host import Array


def write(folder: Path, cases: Sequence[Case], target: Target) -> list[Path]:
    """The C sources of a program with model m0, m1, ... for `cases`, all in one arena of the caller's."""
    sources = host.write(folder, {"main.c": _main(cases)})
    for number, case in enumerate(cases):
        sources += host.write(folder, emit(case.network, EmitOptions(f"m{number}", target, arena="caller")))
    return sources


def _main(cases: Sequence[Case]) -> str:
    numbers = range(len(cases))
    lines = [f'#include "m{n}.h"' for n in numbers]
    lines += ["int main(void);", "static union {", "    uint32_t alignment;"]
    lines += [f"    char of_m{n}[M{n}_ARENA_SIZE + 4];" for n in numbers]
    lines += ["} arena;", "static union {"]
    lines += [f"    int8_t of_m{n}[M{n}_OUTPUT_SIZE + 1];" for n in numbers]
    lines += ["} results;"]
    for number, case in enumerate(cases):
        lines += _data(f"m{number}", case)
    lines += ["int main(void)", "{", "    /* An odd address: outputs may have any alignment. */"]
    lines += ["    int8_t *output = (int8_t *)&results + 1;"]
    for number, case in enumerate(cases):
        lines += _check(number, case)
    return "\n".join([*lines, "    return 0;", "}", ""])


def _data(name: str, case: Case) -> list[str]:
    count = len(case.inputs[0])
    expected = np.array([interpret.run(case.network, [v[k] for v in case.inputs])[0].ravel() for k in range(count)])
    lines = [
        f"static const int8_t {name}_in{position}[{count}][{values.shape[1]}] = {{\n{_rows(values)}\n}};"
        for position, values in enumerate(case.inputs)
    ]
    return [*lines, f"static const int8_t {name}_out[{count}][{expected.shape[1]}] = {{\n{_rows(expected)}\n}};"]


def _rows(values: Array) -> str:
    return ",\n".join("{" + ", ".join(map(str, row.tolist())) + "}" for row in values)


def _check(number: int, case: Case) -> list[str]:
    inputs = ", ".join(f"m{number}_in{position}[k]" for position in range(len(case.inputs)))
    return [
        f"    for (int k = 0; k < {len(case.inputs[0])}; k++) {{",
        f"        if (m{number}_run(&arena, {inputs}, output) != 0) {{ return {number + 1}; }}",
        f"        for (int i = 0; i < M{number}_OUTPUT_SIZE; i++) {{",
        f"            if (output[i] != m{number}_out[k][i]) {{ return {number + 1}; }}",
        "        }",
        "    }",
    ]
