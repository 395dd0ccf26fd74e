"""Least and most cycles of assembly: by hand, against all paths of random programs, and around what QEMU executes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import executed
from nnbuild import static_cost
from nnbuild.contract import Assembly
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import InternalError
from nnbuild.network import Network, QuantParams
from nnbuild.ops import BY_NAME, singles
from nnbuild.rendering import assembly_range
from nnbuild.selection import candidates, select
from nnbuild.target import TARGETS
from tests import qemu, random_layers

CLAMPED = """
@ int32_t f(int32_t x)
    .balign 4
    .thumb_func
f:
    push    {r4, lr}
    cmp     r0, #0
    bge     1f                      @ clamped
    movs    r0, #0
1:  pop     {r4, pc}
"""

NESTED = """
f:
    movs    r0, #3
.Lf_row:
    movs    r1, #5
.Lf_pixel:
    ldrb    r2, [r0]
    ldrb    r3, [r1]
    ldrb    r3, [r3]
    subs    r1, r1, #1
    bne     .Lf_pixel
    subs    r0, r0, #1
    bne     .Lf_row
    bx      lr
"""


def test_a_clamp_is_two_numbers() -> None:
    found = static_cost.cycles(CLAMPED, "f", "cortex-m0", {"call": 10})
    # Not jumping takes 1 and one more move, jumping 3.
    assert found == static_cost.Range(10 * (3 + 1 + 1 + 1 + 6), 10 * (3 + 1 + 3 + 6))
    assert static_cost.instructions(CLAMPED, "f", {"call": 10}) == static_cost.Range(40, 50)


def test_loops_by_their_runs() -> None:
    runs = {"call": 2, "row": 6, "pixel": 30}
    assert static_cost.cycles(NESTED, "f", "cortex-m0", runs) == static_cost.Range(*2 * [
        2 * (1 + 3) + 6 * 2 + (6 - 2) * 3 + 2 + 30 * 7 + (30 - 6) * 3 + 6
    ])  # fmt: skip
    # A load behind a load is quicker on M4, but not one that needs it, nor the first of a pass.
    assert static_cost.cycles(NESTED, "f", "cortex-m4", runs) == static_cost.Range(*2 * [
        2 * (1 + 3) + 6 * 2 + (6 - 2) * 2 + 2 + 30 * (2 + 1 + 2 + 1) + (30 - 6) * 2 + 6
    ])  # fmt: skip
    assert static_cost.instructions(NESTED, "f", runs).most == 2 * 2 + 6 * 3 + 30 * 5


@pytest.mark.parametrize(
    ("text", "runs", "message"),
    [
        (NESTED, {"call": 2, "row": 6}, "a loop without a label"),
        (NESTED, {"call": 2, "row": 6, "pixel": 30, "block": 1}, "no label block"),
        (NESTED, {"call": 2, "row": 1, "pixel": 30}, "contradict"),
        (CLAMPED.replace("f:\n", "g:\n"), {"call": 1}, "no function f"),
    ],
)
def test_what_cannot_be_told_is_an_error(text: str, runs: dict[str, int], message: str) -> None:
    with pytest.raises(InternalError, match=message):
        static_cost.cycles(text, "f", "cortex-m0", runs)


def random_program(source: random.Random) -> str:
    """Blocks that begin with a counted label, jump forward at random, and then go to any counted label, or end."""
    blocks = source.randint(1, 4)
    lines = ["f:"]
    for block in range(blocks):
        lines.append(f".Lf_b{block}:")
        for place in range(source.randint(1, 4)):
            lines += ["    adds    r0, r0, r1"] * source.randint(1, 3)
            lines.append(
                f"    beq     {source.choice(['7f', f'.Lf_b{source.randrange(blocks)}'])}" if place else "    nop"
            )
        lines += ["    muls    r0, r1, r0"] * source.randint(0, 2)
        lines += [source.choice(["    ldr     r0, [r1]", "    nop"]), "7:  nop"]
        lines.append(source.choice([f"    b       .Lf_b{source.randrange(blocks)}", "    bx      lr", "    nop"]))
    return "\n".join([*lines, "    bx      lr", ""])


def walked(text: str, source: random.Random) -> tuple[int, dict[str, int]]:
    """Cycles on a Cortex-M0 of one run with random decisions, and how often each label was passed."""
    lines = static_cost._lines(text, "f")
    cycles, at, runs = 0, 0, {"call": 1}
    for _ in range(400):
        line = lines[at]
        for label in line.labels:
            if label.startswith(".Lf_"):
                runs[label[4:]] = runs.get(label[4:], 0) + 1
        if line.leaves:
            return cycles + 3, runs
        taken = bool(line.target) and (not line.conditional or source.random() < 0.4)
        cycles += 3 if taken else 2 if line.instruction.kind == "load" else 1
        at = static_cost._place(lines, at, line.target) if taken else at + 1
    return -1, runs


def test_every_run_of_random_programs_is_in_the_range() -> None:
    """And what is executed once with each decision open is reached: the range is no wider than it has to be."""
    compared, met = 0, 0
    for seed in range(80):
        source = random.Random(seed)
        text = random_program(source)
        seen: dict[tuple[tuple[str, int], ...], set[int]] = {}
        for _ in range(60):
            cycles, runs = walked(text, source)
            if cycles >= 0:
                seen.setdefault(tuple(sorted(runs.items())), set()).add(cycles)
        for counts, found in seen.items():
            # Labels that this run did not pass are not passed at all.
            runs = {name: 0 for name in (f"b{n}" for n in range(4)) if f".Lf_{name}:" in text} | dict(counts)
            bounds = static_cost.cycles(text, "f", "cortex-m0", runs)
            assert bounds.least <= min(found), text
            assert max(found) <= bounds.most, text
            compared += 1
            met += (bounds.least, bounds.most) == (min(found), max(found))
    assert compared > 200
    assert met > compared / 4


# --- what kernels say of themselves --------------------------------------------------------------------------------


AROUND = 60
"""Cycles of C around one call, at most: of a row of a matrix, or of all columns. Those of a window at a border, which C
gathers, are not bounded."""


def by_columns(height: int, stride: int, top: int, bottom: int) -> Network:
    """A depthwise 3x3 over 9 columns of 3 channels."""
    attributes = {"group": 3, "strides": [stride, stride], "pads": [top, 1, bottom, 1]}
    quants = QuantParams(0.05, -20), QuantParams(0.1, 5)
    return singles.weighted("d", "Conv", (1, 3, height, 9), (3, 1, 3, 3), 0, *quants, attributes).network


BY_COLUMNS = [by_columns(height, 1, 1, 1) for height in range(2, 8)]
BY_COLUMNS += [by_columns(height, 2, top, bottom) for height in (4, 5, 8) for top in (0, 1) for bottom in (0, 1)]


def holds(own: Assembly, cycles: float) -> bool:
    """Whether a layer that calls `own` may take so many."""
    try:
        bounds = assembly_range(own, "cortex-m0")
    except InternalError:
        return False
    return bounds is not None and bounds.least <= cycles <= bounds.most + own.runs["call"] * AROUND


def test_runs_of_columns_are_those_that_run_and_no_others(tmp_path: Path) -> None:
    """With one run of a label more or less for each channel, the range does not hold what QEMU counts."""
    qemu.need()
    target = TARGETS["cortex-m0"]
    emitted = [emit(network, EmitOptions(f"n{number}", target)) for number, network in enumerate(BY_COLUMNS)]
    for network, ran in zip(BY_COLUMNS, executed.run("cortex-m0", emitted, tmp_path), strict=True):
        # A transpose is on either side.
        _, choice, _ = select(network, target)
        (own,) = choice.kernel.render(choice.view, target).assembly
        assert own.name == "columns"
        cycles = ran.layers[1].cycles("cortex-m0")
        assert holds(own, cycles), own
        for name, count in own.runs.items():
            for wrong in (count - own.runs["channel"], count + own.runs["channel"]):
                assert wrong < 0 or not holds(replace(own, runs={**own.runs, name: wrong}), cycles), (name, own)


def test_all_assembly_for_armv6m_states_what_runs() -> None:
    """So that every function has its cycles in `<model>_kernels.S`, and every layer in the report."""
    target, names = TARGETS["cortex-m0"], set()
    cases = [*(case for operator in BY_NAME.values() for case in operator.cases()), *random_layers.cases(0, 40)]
    for network in (*(case.network for case in cases), *BY_COLUMNS):
        for layer in candidates(network, target):
            for own in (own for kernel in layer.kernels for own in kernel.render(layer.view, target).assembly):
                bounds = assembly_range(own, "cortex-m0")
                assert bounds is not None, own
                assert 0 < bounds.least <= bounds.most, own
                names.add((own.template, own.name))
    assert len(names) >= 5


@pytest.mark.parametrize("pinned", ["assembly", "packed"])
def test_what_runs_is_in_the_range_of_every_function(pinned: str, tmp_path: Path) -> None:
    """Cycles of a layer's functions in assembly, as QEMU counts them on a Cortex-M0, for the operators' cases."""
    qemu.need()
    target = TARGETS["cortex-m0"]
    networks: list[Network] = []
    for operator in ("conv2d", "depthwise_conv2d", "fully_connected"):
        networks += [case.network for case in BY_NAME[operator].cases()]
    emitted: list[dict[str, str]] = []
    for network in networks:
        pins = {
            layer.layer.name: pinned
            for layer in candidates(network, target)
            if pinned in {kernel.name for kernel in layer.kernels}
        }
        emitted.append(emit(network, EmitOptions(f"n{len(emitted)}", target, pins=pins)))
    compared = 0
    for files, ran in zip(emitted, executed.run("cortex-m0", emitted, tmp_path), strict=True):
        (name,) = (name for name in files if name.endswith(".report.json"))
        for layer, work in zip(json.loads(files[name])["layers"], ran.layers, strict=True):
            if layer["assembly"]:
                cycles, bounds = work.cycles("cortex-m0"), layer["assembly"]
                assert bounds["least"] <= cycles, (name, layer["name"])
                # C around the calls is not in the range: it is little but where it makes patches.
                if layer["op"] == "fully_connected":
                    assert cycles <= bounds["most"] + AROUND * layer["output"][0], (name, layer["name"])
                compared += 1
    assert compared > 20
