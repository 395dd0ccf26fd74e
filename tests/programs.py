"""C programs that run operator cases: exit status 0, or 1 + the number of the first case whose bytes differ.

A case also fails where its model writes outside of its output, or behind its arena, or wants an arena that is aligned
to more than 4 bytes. All cases run; `CASE_DIFFERS` (tests/boards/board.h) is told each that fails.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnbuild import interpret
from nnbuild.contract import Case
from nnbuild.emit import EmitOptions, emit
from nnbuild.target import Target

from . import host
from .host import Array

UNIT = 8
"""Models in one translation unit: a compiler takes longer to start than to compile a model."""

_CHECKS = """\
#define GUARD 16

static int all_are(const int8_t *bytes, int count, int value)
{
    for (int i = 0; i < count; i++) {
        if (bytes[i] != value) { return 0; }
    }
    return 1;
}

static int differs(const int8_t *expected, int size, int arena_size)
{
    for (int i = 0; i < size; i++) {
        if (output[i] != expected[i]) { return 1; }
    }
    return !all_are((const int8_t *)results, GUARD + 1, 77) || !all_are(output + size, GUARD, 77)
        || !all_are(arena + arena_size, GUARD, 77);
}

static void prepare(int size, int arena_size)
{
    memset(results, 77, (size_t)(GUARD + 1 + size + GUARD));
    memset(arena, 77, (size_t)(arena_size + GUARD));
}
"""


def write(folder: Path, cases: Sequence[Case], target: Target, **options: Any) -> list[Path]:
    """The C sources of a program with model m0, m1, ... for `cases`, all in one arena of the caller's.

    `options` go to EmitOptions, such as `backend="cmsis_nn"`.
    """
    sources = host.write(folder, {"main.c": _main(cases)})
    for number, case in enumerate(cases):
        sources += host.write(folder, emit(case.network, EmitOptions(f"m{number}", target, arena="caller", **options)))
    return sources


def units(folder: Path, sources: Sequence[Path]) -> list[Path]:
    """Fewer sources that include `sources`: models by eights, and all weights, still apart from the code."""
    weights = [source for source in sources if source.name.endswith("_weights.c")]
    models = [source for source in sources if source not in weights and source.name != "main.c"]
    texts = {f"models{n}.c": "".join(map(_included, models[n : n + UNIT])) for n in range(0, len(models), UNIT)}
    texts["weights.c"] = "".join(f'#include "{source.name}"\n' for source in weights)
    return [*host.write(folder, texts), *(source for source in sources if source.name == "main.c")]


def _included(model: Path) -> str:
    """The source with names of its own for what layers share: every model has a copy."""
    names = sorted(set(re.findall(r"\bnn_\w+", model.read_text())))
    before = "".join(f"#define {name} {model.stem}_{name}\n" for name in names)
    return f'{before}#include "{model.name}"\n' + "".join(f"#undef {name}\n" for name in names)


def _main(cases: Sequence[Case]) -> str:
    numbers = range(len(cases))
    lines = ["#include <stddef.h>", "#include <string.h>", *[f'#include "m{n}.h"' for n in numbers]]
    lines += ["#ifndef CASE_BEGINS", "#define CASE_BEGINS(number)", "#define CASE_DIFFERS(number)", "#endif"]
    lines += ["int main(void);", "/* 4 bytes behind an address that is aligned to 8: an arena needs no more than 4. */"]
    lines += ["static union {", "    uint64_t alignment;"]
    lines += [f"    char of_m{n}[4 + M{n}_ARENA_SIZE + 16];" for n in numbers]
    lines += ["} memory;", "static int8_t *const arena = (int8_t *)&memory + 4;"]
    lines += ["/* Output at an odd address: it may have any alignment. */", "static union {", "    uint32_t alignment;"]
    lines += [f"    int8_t of_m{n}[17 + M{n}_OUTPUT_SIZE + 16];" for n in numbers]
    lines += ["} result_memory;", "static int8_t *const results = (int8_t *)&result_memory;"]
    lines += ["static int8_t *const output = (int8_t *)&result_memory + 17;", _CHECKS]
    for number, case in enumerate(cases):
        lines += _check(number, case)
    lines += ["static int (*const checks[])(void) = {", *[f"    check{n}," for n in numbers], "};"]
    return "\n".join([*lines, _RUN])


_RUN = """
int main(void)
{
    const int count = (int)(sizeof checks / sizeof checks[0]);
    int first = 0;

    for (int number = 1; number <= count; number++) {
        CASE_BEGINS(number);
        if (checks[number - 1]() != 0) {
            CASE_DIFFERS(number);
            first = first == 0 ? number : first;
        }
    }
    return first;
}
"""


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
        *_data(f"m{number}", case),
        f"static int check{number}(void)",
        "{",
        f"    for (int k = 0; k < {len(case.inputs[0])}; k++) {{",
        f"        prepare(M{number}_OUTPUT_SIZE, M{number}_ARENA_SIZE);",
        f"        if (m{number}_run(arena, {inputs}, output) != 0) {{ return 1; }}",
        f"        if (differs(m{number}_out[k], M{number}_OUTPUT_SIZE, M{number}_ARENA_SIZE)) {{ return 1; }}",
        "    }",
        "    return 0;",
        "}",
    ]
