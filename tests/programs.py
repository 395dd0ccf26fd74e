"""C programs that run operator cases: exit status 0, or 1 + the number of the first case whose bytes differ.

A case also fails where its model writes outside of its output, or behind its arena, or wants an arena that is aligned
to more than 4 bytes. All cases run; `CASE_DIFFERS` (tests/boards/board.h) is told each that fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnbuild import cnames, interpret
from nnbuild.contract import Case, LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.ops import BY_NAME
from nnbuild.placement import Placement
from nnbuild.target import Target

from . import host
from .host import Array

UNIT = 12
"""Models in one translation unit: a compiler takes longer to start than to compile a model."""

_PROGRAM = """
#define GUARD 16
#define FILL 77

static int all_fill(const int8_t *bytes, int count)
{
    for (int i = 0; i < count; i++) {
        if (bytes[i] != FILL) { return 0; }
    }
    return 1;
}

static int differs(const struct test *test, int sample)
{
    int8_t *const output = results + GUARD + 1;

    memset(results, FILL, (size_t)(GUARD + 1 + test->size + GUARD));
    memset(arena, FILL, (size_t)(test->arena_size + GUARD));
    return CASE_RUN(test->run, sample, output) != 0
        || memcmp(output, test->expected + sample * test->size, (size_t)test->size) != 0
        || !all_fill(results, GUARD + 1) || !all_fill(output + test->size, GUARD)
        || !all_fill(arena + test->arena_size, GUARD);
}

int main(void)
{
    const int count = (int)(sizeof tests / sizeof tests[0]);
    int first = 0;

    for (int number = 1; number <= count; number++) {
        int wrong = 0;
        CASE_BEGINS(number);
        for (int sample = 0; sample < tests[number - 1].samples && !wrong; sample++) {
            wrong = differs(&tests[number - 1], sample);
        }
        if (wrong) {
            CASE_DIFFERS(number);
            first = first == 0 ? number : first;
        }
    }
    return first;
}
"""


Gaps = Mapping[int, Sequence[tuple[int, int]]]
"""By the number of a case: pieces of the arena, (offset, bytes), that it must leave as they are."""


def write(
    folder: Path,
    cases: Sequence[Case],
    target: Target,
    gaps: Gaps | None = None,
    own_pins: Sequence[Mapping[str, str]] = (),
    **options: Any,
) -> list[Path]:
    """The sources of a program with model m0, m1, ... for `cases`, all in one arena of the caller's.

    `options` go to EmitOptions, such as `backend="cmsis_nn"`; `own_pins` are the pins of each case. Assembly is among
    the sources where it holds more than remarks.
    """
    in_arena = options.get("placement", Placement()).in_arena
    sources, pushed = [], bool(options.get("push_rows"))
    for number, case in enumerate(cases):
        own: dict[str, Any] = {"pins": own_pins[number]} if own_pins else {}
        files = emit(case.network, EmitOptions(f"m{number}", target, arena="caller", **options, **own))
        sources += host.write(folder, files)
        sources += [folder / name for name, text in files.items() if name.endswith(".S") and ".syntax" in text]
    # Only now what the models leave alone is known.
    return [*host.write(folder, {"main.c": _main(cases, in_arena, pushed, gaps or {})}), *sources]


def units(folder: Path, sources: Sequence[Path]) -> list[Path]:
    """Fewer sources that include `sources`: models by the dozen, and all weights, still apart from the code."""
    weights = [source for source in sources if source.name.endswith("_weights.c")]
    assembly = [source for source in sources if source.suffix == ".S"]
    models = [source for source in sources if source not in (*weights, *assembly) and source.name != "main.c"]
    texts = {f"models{n}.c": "".join(map(_included, models[n : n + UNIT])) for n in range(0, len(models), UNIT)}
    texts["weights.c"] = "".join(f'#include "{source.name}"\n' for source in weights)
    written = [*host.write(folder, texts), *(source for source in sources if source.name == "main.c")]
    if not assembly:
        return written
    kernels = folder / "kernels.S"
    kernels.write_text("".join(f'#include "{source.name}"\n' for source in assembly))
    return [*written, kernels]


def _included(model: Path) -> str:
    """The source with names of its own for what layers share: every model has a copy."""
    names = sorted(set(re.findall(r"\bnn_\w+", model.read_text())))
    before = "".join(f"#define {name} {model.stem}_{name}\n" for name in names)
    return f'{before}#include "{model.name}"\n' + "".join(f"#undef {name}\n" for name in names)


def _main(cases: Sequence[Case], in_arena: bool, pushed: bool, gaps: Gaps) -> str:
    numbers = range(len(cases))
    lines = ["#include <stddef.h>", "#include <string.h>", *[f'#include "m{n}.h"' for n in numbers]]
    lines += ["#ifndef CASE_BEGINS", "#define CASE_BEGINS(number)", "#define CASE_DIFFERS(number)", "#endif"]
    lines += ["#ifndef CASE_RUN", "#define CASE_RUN(run, sample, output) run(sample, output)", "#endif"]
    lines += ["int main(void);", "/* 4 bytes behind an address that is aligned to 8: an arena needs no more than 4. */"]
    lines += ["static union {", "    uint64_t alignment;"]
    lines += [f"    char of_m{n}[4 + M{n}_ARENA_SIZE + 16];" for n in numbers]
    lines += ["} memory;", "static int8_t *const arena = (int8_t *)&memory + 4;"]
    lines += ["/* Output at an odd address: it may have any alignment. */", "static union {", "    uint32_t alignment;"]
    lines += [f"    int8_t of_m{n}[17 + {output_bytes(case, n)} + 16];" for n, case in enumerate(cases)]
    lines += ["} result_memory;", "static int8_t *const results = (int8_t *)&result_memory;"]
    lines += ["static int all_fill(const int8_t *bytes, int count);"]
    if any(map(keeps_states, cases)):
        lines += ["#define STATE_WORDS 64", "static uint32_t states[STATE_WORDS];"]
    for number, case in enumerate(cases):
        lines += _case(f"m{number}", case, in_arena, pushed, gaps.get(number, ()))
    lines += [
        "static const struct test {",
        "    int (*run)(int sample, int8_t *output);",
        "    const int8_t *expected;",
    ]
    lines += ["    int samples, size, arena_size;", "} tests[] = {"]
    lines += [
        f"    {{run_m{n}, (const int8_t *)m{n}_out, {len(case.inputs[0])}, {output_bytes(case, n)}, M{n}_ARENA_SIZE}},"
        for n, case in enumerate(cases)
    ]
    return "\n".join([*lines, "};", _PROGRAM])


def _case(name: str, case: Case, in_arena: bool, pushed: bool, gaps: Sequence[tuple[int, int]]) -> list[str]:
    """Inputs and outputs of all samples, and a function that runs one."""
    count, states = len(case.inputs[0]), interpret.States()
    outputs = [interpret.run(case.network, [values[k] for values in case.inputs], states)[0] for k in range(count)]
    expected = np.array([output.ravel().view(np.int8) for output in outputs])
    inputs = [
        f"(const {values.dtype}_t *){name}_in{position} + sample * {values.shape[1]}"
        for position, values in enumerate(case.inputs)
    ]
    return [
        *[_array(f"{name}_in{position}", values) for position, values in enumerate(case.inputs)],
        _array(f"{name}_out", expected),
        f"static int run_{name}(int sample, int8_t *output)",
        "{",
        *(_reset(name) if states else ()),
        *(_pushed(name, inputs[0]) if pushed else ()),
        *(
            _run_in_arena(name, case, () if pushed else inputs, gaps)
            if in_arena
            else _run(name, case, bool(states), inputs)
        ),
        "}",
    ]


def _pushed(name: str, source: str) -> list[str]:
    """The rows of the only input, one by one."""
    row = f"{source} + row * {name.upper()}_INPUT_ROW_SIZE"
    return [
        f"    for (int32_t row = 0; row < {name.upper()}_INPUT_ROWS; row++) {{",
        f"        if ({name}_push_row(arena, row, {row}) != 0) {{ return 1; }}",
        "    }",
    ]


def _reset(name: str) -> list[str]:
    """The samples of a network that keeps something are one sequence."""
    size = f"{name.upper()}_STATE_SIZE"
    return [
        f"    if (sample == 0 && ({size} > (int)sizeof states || {name}_reset(states) != 0)) {{ return 1; }}",
    ]


def _run(name: str, case: Case, keeps: bool, inputs: Sequence[str]) -> list[str]:
    words = f"{name}_run(arena, {'states, ' if keeps else ''}{', '.join(inputs)}, "
    if output_type(case) == "int8":
        return [f"    return {words}output);"]
    return [
        f"    static {output_type(case)}_t values[{name.upper()}_OUTPUT_SIZE];",
        f"    if ({words}values) != 0) {{ return 1; }}",
        "    memcpy(output, values, sizeof values);",
        "    return 0;",
    ]


def output_type(case: Case) -> str:
    """int8, int16, or int32 of indices."""
    return case.network.tensors[case.network.outputs[0].tensor].dtype


def output_bytes(case: Case, number: int) -> str:
    """The size of the output of model m<number>, in C."""
    return f"{np.dtype(output_type(case)).itemsize} * M{number}_OUTPUT_SIZE"


def _run_in_arena(name: str, case: Case, inputs: Sequence[str], gaps: Sequence[tuple[int, int]]) -> list[str]:
    offsets = [f"{name.upper()}_INPUT_OFFSET"] if inputs else []
    if len(inputs) > 1:
        offsets = [f"{name.upper()}_INPUT_{own.upper()}_OFFSET" for own in _own_names(case)]
    return [
        *(
            f"    memcpy(arena + {offset}, {source}, {values[0].nbytes});"
            for offset, source, values in zip(offsets, inputs, case.inputs, strict=False)
        ),
        f"    if ({name}_run(arena{', states' if keeps_states(case) else ''}) != 0) {{ return 1; }}",
        *(f"    if (!all_fill(arena + {offset}, {size})) {{ return 1; }}" for offset, size in gaps),
        f"    memcpy(output, {name}_output(arena), sizeof({output_type(case)}_t) * {name.upper()}_OUTPUT_SIZE);",
        "    return 0;",
    ]


def keeps_states(case: Case) -> bool:
    """Whether a layer of the case keeps something."""
    views = [LayerView.of(case.network, layer) for layer in case.network.layers]
    return any(BY_NAME[view.layer.op].state(view) is not None for view in views)


def _own_names(case: Case) -> list[str]:
    return cnames.distinct([port.name for port in case.network.inputs])


def _array(name: str, values: Array) -> str:
    """Bytes as little-endian words of 64 bits, which compile several times as fast as bytes one by one."""
    flat = np.ascontiguousarray(values).ravel().view(np.int8)
    words = np.pad(flat, (0, -flat.size % 8)).view("<u8").tolist()
    rows = ["    " + ", ".join(f"0x{word:x}u" for word in words[n : n + 6]) for n in range(0, len(words), 6)]
    return f"static const uint64_t {name}[{len(words)}] = {{\n" + ",\n".join(rows) + "\n};"
