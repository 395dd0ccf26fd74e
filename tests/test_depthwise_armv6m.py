"""Depthwise convolutions in assembly for ARMv6-M: bytes for shapes of any kind, and one function for many of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nnbuild.contract import Assembly, Case
from nnbuild.network import QuantParams
from nnbuild.ops import singles
from nnbuild.optimize import Aim
from nnbuild.selection import select
from nnbuild.target import TARGETS

from . import overlaps, programs, qemu
from .test_kernels_cores import explain, roomy
from .test_packed import HERE

M0 = TARGETS["cortex-m0"]
FAST = Aim("speed")


def depthwise(
    shape: tuple[int, int, int],
    kernel: tuple[int, int] = (3, 3),
    stride: int = 1,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    zeros: tuple[int, int] = (-20, 5),
    clamped: bool = False,
) -> Case:
    """Of an input (channels, height, width); `pads` as in ONNX, `zeros` are those of input and output."""
    attributes: dict[str, Any] = {"group": shape[0], "strides": [stride, stride], "pads": list(pads)}
    quants = QuantParams(0.05, zeros[0]), QuantParams(0.025, -128) if clamped else QuantParams(0.1, zeros[1])
    clamp = ("Clip", 0.0, 6.0) if clamped else ()
    weights = (shape[0], 1, *kernel)
    return singles.weighted("d", "Conv", (1, *shape), weights, 0, *quants, attributes, clamp)


def assembly(case: Case) -> Assembly:
    (choice,) = (choice for choice in select(case.network, M0) if choice.layer.op == "depthwise_conv2d")
    (own,) = choice.kernel.render(choice.view, M0).assembly
    return own


# Maps of three columns, of which none lies within the borders, or one.
SMALLEST = [
    depthwise((2, 2, 3), stride=2, pads=(0, left, 1, right), zeros=(127, -128)) for left in (0, 1) for right in (0, 1)
]


@st.composite
def layers(draw: st.DrawFn, columns: bool) -> Case:
    """Of the form by columns, or with any other window."""
    zero = st.sampled_from([-128, -127, 0, 127]) | st.integers(-128, 127)
    stride = draw(st.integers(1, 2))
    kernel, pad = (3, 3), (1, 1) if stride == 1 else (0, 1)
    if not columns:
        kernel, pad = (draw(st.integers(1, 5)), draw(st.integers(2, 7))), (0, 2)
    top, left, bottom, right = (draw(st.integers(*pad)) for _ in range(4))
    height = draw(st.integers(max(kernel[0] - top - bottom, 2), 11))
    width = draw(st.integers(max(kernel[1] - left - right, 3), 11))
    channels = draw(st.integers(1 if columns else 3, 12) | st.sampled_from([64, 129]))
    zeros = draw(zero), draw(zero)
    pads = (top, left, bottom, right)
    return depthwise((channels, height, width), kernel, stride, pads, zeros, clamped=draw(st.booleans()))


@pytest.mark.parametrize("columns", [True, False])
@settings(max_examples=3, deadline=None, database=None, phases=[Phase.generate])
@given(data=st.data())
def test_odd_shapes(columns: bool, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In QEMU, and by the C that stands beside the assembly on this machine."""
    qemu.need()
    cases = [*(SMALLEST if columns else ()), *data.draw(st.lists(layers(columns), min_size=12, max_size=12))]
    pins = [{own.name: "assembly" for own in case.network.layers if own.op == "depthwise_conv2d"} for case in cases]
    folder = tmp_path_factory.mktemp("core")
    core = roomy("m0")
    sources = programs.units(folder, programs.write(folder, cases, core.target, own_pins=pins))
    status, printed = qemu.run(qemu.link(folder, sources, core), core)
    assert (status, printed) == (0, ""), explain(status, printed, cases)
    reports = [path.read_text() for path in folder.glob("m*.report.json")]
    assert sum('"kernel": "assembly"' in text for text in reports) > len(cases) / 2
    here = tmp_path_factory.mktemp("here")
    sources = [source for source in programs.write(here, cases, HERE, own_pins=pins) if source.suffix == ".c"]
    program = here / "program"
    command = ["gcc", "-O1", "-w", "-fsanitize=address,undefined", "-o", str(program)]
    subprocess.run([*command, *map(str, programs.units(here, sources))], check=True)
    assert subprocess.run([str(program)], check=False, timeout=60).returncode == 0


def test_layers_of_one_stride_share_a_function() -> None:
    """Whatever their channels, their height and their width are; so do windows of one size."""
    by_columns = [assembly(depthwise(shape)) for shape in ((3, 4, 5), (130, 2, 3), (2, 40, 4), (64, 25, 5))]
    strided = [assembly(depthwise((each, 6, 8), stride=2, pads=(0, 0, 1, 1))) for each in (3, 200)]
    windows = [assembly(depthwise((each, 9, each), (5, 4), pads=(0, 0, 0, 0))) for each in (5, 70)]
    for same in (by_columns, strided, windows):
        assert len({repr(own) for own in same}) == 1, same
    assert [own.name for own in (by_columns[0], strided[0], windows[0])] == ["columns", "columns", "window"]


# --- they can fail ---------------------------------------------------------------------------------------------------

SINGLE = [
    ("strb    r4, [r5, #5]", "strb    r4, [r5, #4]"),
    ("movs    r0, r1\n", "movs    r1, r1\n"),
    ("movs    r0, r2\n", "movs    r0, r1\n"),
    ("subs    r5, r5, r2", "adds    r5, r5, r2"),
    ("muls    r5, r4, r5", "movs    r5, #0"),
    ("cmp     r5, lr", "cmp     r5, r5"),
    ("subs    r5, r5, r6", "subs    r5, r5, #1"),
    ("adds    r5, r5, r6\n    str     r5, [sp, #48]", "str     r5, [sp, #48]"),
]
STRIDED = [
    ("lsls    r3, r2, #1", "movs    r3, r2"),
    ("adds    r6, r6, r2", "adds    r6, r6, #1"),
    ("muls    r6, r4, r6", "movs    r6, #0"),
    ("cmp     r5, lr", "cmp     r5, r5"),
]
WINDOWS = [
    ("adds    r1, r1, r6", "adds    r1, r1, #1"),
    ("adds    r1, r1, r7", "adds    r1, r1, r6"),
    ("mov     r10, r6", "mov     r6, r6"),
]
MUTANTS = [(form, *mutant) for form, own in enumerate((SINGLE, STRIDED, WINDOWS)) for mutant in own]


@pytest.mark.parametrize(("form", "old", "new"), MUTANTS)
def test_mutants_of_the_assembly_are_caught(form: int, old: str, new: str, tmp_path: Path) -> None:
    qemu.need()
    cases = [
        [depthwise((3, height, 5)) for height in (5, 6, 7)],
        [depthwise((3, 6, 8), stride=2, pads=(0, 0, 1, 1))],
        [depthwise((3, 6, 8), (3, 4), pads=(0, 0, 0, 0))],
    ][form]
    core = roomy("m0")
    with overlaps.planned(overlaps.apart()):
        sources = programs.units(tmp_path, programs.write(tmp_path, cases, core.target, aim=FAST))
    for kernels in tmp_path.glob("m*_kernels.S"):
        text = kernels.read_text()
        assert old in text
        kernels.write_text(text.replace(old, new))
    status, _ = qemu.run(qemu.link(tmp_path, sources, core), core)
    assert status != 0
