"""Least and most cycles of assembly: by hand, against all paths of random programs, and around what QEMU executes."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import executed
from nnbuild import static_cost
from nnbuild.contract import Assembly, LayerView, Order
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import InternalError
from nnbuild.instruction_timings import CORES
from nnbuild.network import Network, QuantParams
from nnbuild.ops import BY_NAME, singles
from nnbuild.rendering import assembly_range
from nnbuild.selection import candidates, select
from nnbuild.target import TARGETS
from tests import overlaps, qemu, random_layers
from tests.overlaps import Forced

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


ENTERED = """
f:
    push    {r4, lr}
    tbh     [pc, r0, lsl #1]
.Lf_entries:
    .2byte  (.Lf_0 - .Lf_entries) / 2
    .2byte  (.Lf_1 - .Lf_entries) / 2
.Lf_0:
    mla     r3, r3, r3, r2
.Lf_1:
    ldr     r2, [r1], #4
    ldr     r3, [r1], #4
    subs    r4, r4, #1
    bne     .Lf_0
    cmp     r3, #0
    ite     eq
    moveq   r0, #1
    movne   r0, #2
    cbz     r0, 1f
    nop
1:  pop     {r4, pc}
"""


def test_a_jump_by_a_table_leads_to_what_is_in_it() -> None:
    """Three passes, of which the first begins at the second entry, or at the first; blocks of IT take their time."""
    around, one, two = 3 + 3, 1, 2 + 1 + 1
    behind = 1 + 1 + 2 + 2 + 6
    for entry in (0, 1):
        runs = {"call": 1, "0": 3 - entry, "1": 3}
        found = static_cost.cycles(ENTERED, "f", "cortex-m4", runs)
        passes = around + (3 - entry) * one + 3 * two + 2 * 2 + 1 + behind
        assert found == static_cost.Range(passes, passes)
    # Where the entry is not told it may be the one as well as the other.
    found = static_cost.cycles(ENTERED.replace("bne     .Lf_0", "nop"), "f", "cortex-m3", {"call": 1})
    assert found.most - found.least == 2


@pytest.mark.parametrize(
    ("text", "runs", "message"),
    [
        (NESTED, {"call": 2, "row": 6}, "a loop without a label"),
        (NESTED, {"call": 2, "row": 6, "pixel": 30, "block": 1}, "no label block"),
        (NESTED, {"call": 2, "row": 1, "pixel": 30}, "contradict"),
        (CLAMPED.replace("f:\n", "g:\n"), {"call": 1}, "no function f"),
        (ENTERED.replace(".2byte", ".4byte"), {"call": 1, "0": 1, "1": 1}, "a jump by a table that does not follow"),
        (ENTERED.replace("(.Lf_1 -", "(.Lf_2 -"), {"call": 1, "0": 1, "1": 1}, "no label .Lf_2 to jump to"),
        (ENTERED, {"call": 1, "0": 1, "1": 3}, "contradict"),
    ],
)
def test_what_cannot_be_told_is_an_error(text: str, runs: dict[str, int], message: str) -> None:
    with pytest.raises(InternalError, match=message):
        static_cost.cycles(text, "f", "cortex-m0", runs)


HELIUM = """
f:
    push    {r4, lr}
    wlstp.8 lr, r2, 2f
.Lf_fill:
    vstrb.8 q1, [r0], #16
    letp    lr, .Lf_fill
2:  dls     lr, r1
.Lf_sum:
    vldrb.u8 q0, [r3], #16
    vmladava.s8 r4, q0, q0
    le      lr, .Lf_sum
    vctp.8  r2
    vpst
    vldrbt.u8 q0, [r3]
    wls     lr, r2, 3f
.Lf_word:
    nop
    le      lr, .Lf_word
3:  cmp     r4, #0
    itt     eq
    moveq   r4, r5
    addeq   r4, r4, #1
    pop     {r4, pc}
"""


@pytest.mark.parametrize(("fill", "words"), [(3, 1), (0, 0), (1, 7)])
def test_low_overhead_loops(fill: int, words: int) -> None:
    """WLS and WLSTP jump behind a loop without a pass; each LE and LETP counts, and so does what is predicated."""
    runs = {"call": 2, "fill": fill, "sum": 5, "word": words}
    executed = 2 * (2 + 1 + 4 + 5) + 2 * fill + 5 * 3 + 2 * words
    assert static_cost.instructions(HELIUM, "f", runs) == static_cost.Range(executed, executed)


def test_dls_makes_a_pass_at_least() -> None:
    with pytest.raises(InternalError, match="contradict"):
        static_cost.instructions(HELIUM, "f", {"call": 2, "fill": 0, "sum": 1, "word": 0})
    static_cost.instructions(HELIUM, "f", {"call": 2, "fill": 0, "sum": 2, "word": 0})
    with pytest.raises(InternalError, match="a loop without a label"):
        static_cost.instructions(HELIUM, "f", {"call": 2, "fill": 0, "sum": 2})


SKIPPED = """
f:
    ittt    ne
    ldrne   r0, [r2]
    ldrne   r1, [r3]
    popne   {r4, pc}
    it      eq
    beq.w   1f
    nop
1:  bx      lr
"""


def test_it_blocks() -> None:
    """What is skipped counts as an instruction of one cycle, and what would leave goes on there."""
    assert static_cost.instructions(SKIPPED, "f", {"call": 10}) == static_cost.Range(40, 80)
    # All but the return skipped, or the second load behind one that was skipped, and no jump.
    assert static_cost.cycles(SKIPPED, "f", "cortex-m4", {"call": 1}) == static_cost.Range(
        1 + 1 + 1 + 6, 1 + 2 + 2 + 1 + 1 + 1 + 1 + 3
    )


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


QUANT = QuantParams(0.05, -20)
# Long rows of inputs, which take several passes of unrolled loops; borders; what rows have left over in one four.
LONG: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("long", (1, 68, 3, 3), (5, 68, 1, 1), {}),
    ("longer", (1, 30, 5, 4), (6, 30, 3, 3), {"pads": [1, 1, 1, 1]}),
    ("longest", (1, 136, 2, 2), (4, 136, 1, 1), {}),
    ("rgb", (1, 3, 9, 9), (4, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
]

# --- what kernels say of themselves --------------------------------------------------------------------------------


def by_columns(height: int, stride: int, top: int, bottom: int) -> Network:
    """A depthwise 3x3 over 9 columns of 3 channels."""
    attributes = {"group": 3, "strides": [stride, stride], "pads": [top, 1, bottom, 1]}
    quants = QuantParams(0.05, -20), QuantParams(0.1, 5)
    return singles.weighted("d", "Conv", (1, 3, height, 9), (3, 1, 3, 3), 0, *quants, attributes).network


BY_COLUMNS = [by_columns(height, 1, 1, 1) for height in range(2, 8)]
BY_COLUMNS += [by_columns(height, 2, top, bottom) for height in (4, 5, 8) for top in (0, 1) for bottom in (0, 1)]


def holds(own: Assembly, cycles: float) -> bool:
    """Whether `own` may take so many in one inference."""
    try:
        bounds = assembly_range(own, "cortex-m0")
    except InternalError:
        return False
    return bounds is not None and bounds.least <= cycles <= bounds.most


@pytest.mark.parametrize("order", [Order.ANY, Order.FORWARDS, Order.BACKWARDS])
def test_runs_of_columns_are_those_that_run_and_no_others(order: Order, tmp_path: Path) -> None:
    """With one run of a label more or less for each channel, the range does not hold what QEMU counts."""
    qemu.need()
    target = TARGETS["cortex-m0"]
    forced = overlaps.apart() if order is Order.ANY else Forced(order is Order.BACKWARDS)
    with overlaps.planned(forced):
        emitted = [emit(network, EmitOptions(f"n{number}", target)) for number, network in enumerate(BY_COLUMNS)]
    for network, ran, over in zip(BY_COLUMNS, executed.run("cortex-m0", emitted, tmp_path), forced.made, strict=True):
        # A transpose is on either side.
        _, choice, _ = select(network, target)
        used = order if choice.layer.name in over else Order.ANY
        (own,) = choice.kernel.render(replace(choice.view, order=used), target).assembly
        assert own.name == "columns"
        found = ran.layers[1].assembly
        assert found is not None
        cycles = found.cycles("cortex-m0")
        assert holds(own, cycles), own
        for name, count in own.runs.items():
            for wrong in (count - own.runs["channel"], count + own.runs["channel"]):
                assert wrong < 0 or not holds(replace(own, runs={**own.runs, name: wrong}), cycles), (name, own)


@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m3", "cortex-m4", "cortex-m33", "cortex-m55"])
def test_all_assembly_states_what_runs(core: str) -> None:
    """So that every function has its cycles in `<model>_kernels.S`, and every layer in the report."""
    target, names = TARGETS[core], set()
    cases = [*(case for operator in BY_NAME.values() for case in operator.cases()), *random_layers.cases(0, 40)]
    for network in (*(case.network for case in cases), *BY_COLUMNS):
        for layer in candidates(network, target):
            for own in (own for kernel in layer.kernels for own in kernel.render(layer.view, target).assembly):
                bounds = assembly_range(own, core)
                assert bounds is not None, own
                assert 0 < bounds.least <= bounds.most, own
                names.add((own.template, own.name))
    assert len(names) >= 3


KERNELS = [
    *[("cortex-m0", "assembly"), ("cortex-m0", "packed"), ("cortex-m4", "smlad"), ("cortex-m3", "mla")],
    ("cortex-m55", "mve"),
]


def networks_of_cases() -> list[Network]:
    """Of the operators that have assembly, and a few more."""
    operators = ("conv2d", "depthwise_conv2d", "fully_connected", "add")
    found = [case.network for operator in operators for case in BY_NAME[operator].cases()]
    for name, shape, weights, attributes in LONG:
        case = singles.weighted(name, "Conv", shape, weights, 0, QUANT, QuantParams(0.3, 5), attributes)
        found.append(case.network)
    return found


OVER = [("cortex-m0", "assembly", True), ("cortex-m0", "packed", True), ("cortex-m4", "smlad", False)]
"""Kernels whose output lies over the input, above it or not."""


@pytest.mark.parametrize(("core", "pinned", "above"), [*((*own, None) for own in KERNELS), *OVER])
def test_what_runs_is_in_the_range_of_every_function(
    core: str, pinned: str, above: bool | None, tmp_path: Path
) -> None:
    """Cycles, or instructions, of a layer's functions in assembly, as QEMU counts them, without the C around them."""
    qemu.need()
    target, networks = TARGETS[core], networks_of_cases()
    emitted: list[dict[str, str]] = []
    for network in networks:
        pins = {
            layer.layer.name: pinned
            for layer in candidates(network, target)
            if pinned in {kernel.name for kernel in layer.kernels}
        }
        with overlaps.planned(None if above is None else Forced(above)):
            emitted.append(emit(network, EmitOptions(f"n{len(emitted)}", target, pins=pins)))
    compared = 0
    for files, ran in zip(emitted, executed.run(core, emitted, tmp_path), strict=True):
        (name,) = (name for name in files if name.endswith(".report.json"))
        for layer, work in zip(json.loads(files[name])["layers"], ran.layers, strict=True):
            if layer["assembly"]:
                assert work.assembly is not None
                counted = work.assembly.cycles(core) if core in CORES else work.assembly.instructions
                bounds = layer["assembly"]
                assert bounds["unit"] == ("cycles" if core in CORES else "instructions")
                assert bounds["least"] <= counted <= bounds["most"], (name, layer["name"])
                # No way through the functions depends on values, but on ARMv6-M, where clamps are jumps; on Cortex-M3
                # and M4 it is open whether rows of a convolution's windows have a second four.
                if core != "cortex-m0":
                    wide = 1.05 if pinned != "mve" and layer["op"] == "conv2d" else 1
                    assert bounds["most"] <= wide * bounds["least"], (name, layer["name"])
                compared += 1
            else:
                assert core == "cortex-m0" or not work.assembly or not work.assembly.instructions, (name, layer["name"])
    assert compared > 20


@pytest.mark.parametrize("cpu", ["cortex-m4", "cortex-m3"])
def test_a_wrong_number_of_runs_shows(cpu: str) -> None:
    """One more of any label contradicts the others, or moves both ends of the range."""
    target, pinned = TARGETS[cpu], dict(KERNELS)[cpu]
    sources = [
        kernel.render(layer.view, target)
        for network in networks_of_cases()
        for layer in candidates(network, target)
        for kernel in layer.kernels
        if kernel.name == pinned
    ]
    noticed = 0
    for own in (own for source in sources for own in source.assembly):
        right = assembly_range(own, cpu)
        assert right is not None
        for name, count in own.runs.items():
            try:
                wrong = assembly_range(replace(own, runs={**own.runs, name: count + 1}), cpu)
            except InternalError:
                wrong = None
            assert wrong is None or (wrong.least > right.least and wrong.most > right.most), (own, name)
            noticed += 1
    assert noticed > 200


def test_wrong_runs_of_helium_are_noticed() -> None:
    """Each of them that is one more or less makes another number, or none: the test above sees every one."""
    target, changed = TARGETS["cortex-m55"], set()
    for operator in ("conv2d", "depthwise_conv2d", "fully_connected", "add"):
        (kernel,) = (kernel for kernel in BY_NAME[operator].kernels if kernel.name == "mve")
        for case in BY_NAME[operator].cases():
            view = LayerView.of(case.network, next(one for one in case.network.layers if one.op == operator))
            for own in () if kernel.supports(view, target) else kernel.render(view, target).assembly:
                right = assembly_range(own, target.cpu)
                assert right is not None
                assert right.least == right.most
                for name, by in itertools.product([name for name in own.runs if own.runs[name]], (1, -1)):
                    wrong = replace(own, runs={**own.runs, name: own.runs[name] + by})
                    with contextlib.suppress(InternalError):
                        assert assembly_range(wrong, target.cpu) != right, (case.name, name)
                    changed.add((own.template, name))
    assert len(changed) == 20
