"""Outputs over their inputs, at the least distance that kernels declare: right bytes, and nothing else is touched."""

from __future__ import annotations

import subprocess
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nnbuild.contract import Case
from nnbuild.network import Array
from nnbuild.ops import ALL
from nnbuild.ops.spatial import Window
from nnbuild.ram import overlap, streaming
from nnbuild.target import TARGETS, Target

from . import cmsis_library, overlaps, programs, qemu, random_layers
from .overlaps import Forced, Pinned
from .test_kernels_cores import roomy

CASES = [case for operator in ALL for case in operator.cases()]
PORTABLE = {"direct", "horner", "gather", "pairs"}
ASSEMBLY = {"assembly", "packed", "smlad", "mla", "mve", "dual"}
HERE: dict[str, tuple[Target, Container[str]]] = {
    "generic": (TARGETS["generic"], PORTABLE),
    **{
        cpu: (replace(TARGETS[cpu], guard=""), ASSEMBLY)
        for cpu in ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m55")
    },
}

DIRECTIONS = [(target, above) for target in HERE for above in (False, True) if (target, above) != ("cortex-m55", True)]
FEW = [("cortex-m3", True), ("cortex-m4", True)]
"""Where only depthwise convolutions go both ways; on Cortex-M55 none does."""


def differing(folder: Path, cases: Sequence[Pinned], target: Target, forced: Forced, *more: str) -> list[int]:
    """Numbers of the cases whose bytes differ on this machine; `more` for the compiler."""
    sources = [source for source in overlaps.write(folder, cases, target, forced) if source.suffix == ".c"]
    program = folder / "program"
    board = ["-include", str(qemu.BOARDS / "board.h"), str(qemu.BOARDS / "host.c")]
    command = ["gcc", "-O1", "-w", f"-I{folder}", *board, "-o", str(program)]
    subprocess.run([*command, *map(str, programs.units(folder, sources)), *more], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode != 0) == bool(done.stdout), done
    return [int(line.removeprefix("differs: ")) - 1 for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("target", "above"), DIRECTIONS)
def test_c_at_the_least_distance(target: str, above: bool, tmp_path: Path) -> None:
    """To the byte, whatever the planner makes multiples of."""
    forced = Forced(above, aligned=False)
    machine, kernels = HERE[target]
    cases = overlaps.pinned(CASES, machine, forced, kernels)
    assert differing(tmp_path, cases, machine, forced) == []
    assert sum(map(bool, forced.made)) >= (4 if (target, above) in FEW else 20)


NEARER = ("conv2d", "depthwise", "max_pool", "average_pool", "wide_", "rescale")


@pytest.mark.parametrize(("target", "above"), DIRECTIONS)
def test_nearer_than_declared_bytes_differ(target: str, above: bool, tmp_path: Path) -> None:
    """With each kernel of ours, and each direction that it has."""
    nearer = 8
    machine, kernels = HERE[target]
    cases = overlaps.pinned(CASES, machine, Forced(above, aligned=False), kernels)
    cases = [each for each in cases if each[0].name.startswith(NEARER)]
    wrong = differing(tmp_path, cases, machine, Forced(above, nearer, aligned=False))
    assert {_kernel(cases[number]) for number in wrong} == {_kernel(each) for each in cases}


BOTH = [("conv2d", "horner"), ("conv2d", "direct"), ("depthwise_conv2d", "direct")]
ON_M0 = [("conv2d", "assembly"), ("conv2d", "packed"), ("depthwise_conv2d", "assembly")]
IGNORED = {
    "generic": ({*BOTH, *((f"wide_{op}", kernel) for op, kernel in BOTH)}, True),
    "cortex-m0": ({*ON_M0, *((f"wide_{op}", kernel) for op, kernel in ON_M0)}, True),
    "cortex-m4": ({("depthwise_conv2d", "smlad"), ("wide_depthwise_conv2d", "smlad")}, True),
}
"""Kernels whose C has another order for outputs above their inputs."""


@pytest.mark.parametrize("target", IGNORED)
def test_c_that_does_not_heed_the_order_is_noticed(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, above = IGNORED[target]
    monkeypatch.setattr(streaming, "in_order", lambda network, selection, planned, target: selection)
    machine, forced = HERE[target][0], Forced(above)
    cases = overlaps.pinned(CASES, machine, forced, {name for _, name in kernels})
    wrong = differing(tmp_path, cases, machine, forced)
    assert kernels <= {_kernel(cases[number]) for number in wrong}


@pytest.mark.parametrize(
    ("core", "above", "kernel"),
    [
        ("m0", False, ("depthwise_conv2d", "assembly")),
        ("m0", True, ("depthwise_conv2d", "assembly")),
        ("m0", False, ("wide_depthwise_conv2d", "assembly")),
        ("m0", True, ("wide_depthwise_conv2d", "assembly")),
        ("m4", False, ("conv2d", "smlad")),
        ("m4", False, ("wide_conv2d", "smlad")),
    ],
)
def test_assembly_that_does_not_heed_the_order_is_noticed(
    core: str, above: bool, kernel: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu.need()
    monkeypatch.setattr(streaming, "in_order", lambda network, selection, planned, target: selection)
    machine, forced = roomy(core), Forced(above)
    pinned = [each for each in overlaps.pinned(CASES, machine.target, forced, {kernel[1]}) if _kernel(each) == kernel]
    sources = programs.units(tmp_path, overlaps.write(tmp_path, pinned, machine.target, forced))
    status, _ = qemu.run(qemu.link(tmp_path, sources, machine), machine)
    assert status != 0


def _kernel(case: Pinned) -> tuple[str, str]:
    ((name, kernel),) = case[1].items()
    return next(layer.op for layer in case[0].network.layers if layer.name == name), kernel


def run_on(core: str, cases: list[Case], above: bool, folder: Path) -> int:
    """How many outputs lie over their inputs in these cases with kernels in assembly, all of which are right."""
    machine, forced = roomy(core), Forced(above)
    pinned = overlaps.pinned(cases, machine.target, forced, ASSEMBLY)
    sources = programs.units(folder, overlaps.write(folder, pinned, machine.target, forced))
    status, printed = qemu.run(qemu.link(folder, sources, machine), machine)
    assert (status, printed) == (0, "")
    return sum(map(len, forced.made))


@pytest.mark.parametrize(("target", "above"), DIRECTIONS[2:])
def test_assembly_at_the_least_distance(target: str, above: bool, tmp_path: Path) -> None:
    qemu.need()
    core = target.replace("cortex-", "")
    assert run_on(core, CASES, above, tmp_path) >= (4 if (target, above) in FEW else 20)


@pytest.mark.parametrize(("core", "above"), [("m0", False), ("m0", True), ("m4", False), ("m4", True), ("m55", False)])
@settings(max_examples=2, deadline=None, database=None, phases=[Phase.generate])
@given(seed=st.integers(0, 10**6))
def test_random_layers_at_the_least_distance(
    core: str, above: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    qemu.need()
    run_on(core, list(random_layers.cases(seed, 24)), above, tmp_path_factory.mktemp("core"))


@pytest.mark.parametrize("core", ["m0", "m4"])
def test_cmsis_nn_at_the_least_distance(core: str, tmp_path: Path) -> None:
    qemu.need()
    library, machine, forced = cmsis_library.library(core), roomy(core), Forced(above=False)
    target = cmsis_library.target(core)
    cases = overlaps.pinned(CASES, target, forced, {"cmsis_nn"})
    sources = programs.units(tmp_path, overlaps.write(tmp_path, cases, target, forced))
    arguments = library.compile_arguments, library.link_arguments
    elf = qemu.link(tmp_path, sources, machine, compile_arguments=arguments[0], link_arguments=arguments[1])
    assert qemu.run(elf, machine) == (0, "")
    assert sum(map(bool, forced.made)) >= 20


# --- distances of sequences of steps ---------------------------------------------------------------------------------


def harmed(reads: Array, writes: Array, whole: bool, distance: int) -> bool:
    """Whether a byte that a step writes is read afterwards, for an output that begins so far below its input."""
    written: set[int] = set()
    for read, write in zip(reads.tolist(), writes.tolist(), strict=True):
        own, new = set(range(*read)), set(range(write[0] - distance, write[1] - distance))
        if own & (written if whole else written | new):
            return True
        written |= new
    return False


@st.composite
def steps(draw: st.DrawFn) -> tuple[Array, Array]:
    span = st.tuples(st.integers(0, 12), st.integers(1, 4)).map(lambda own: (own[0], own[0] + own[1]))
    pairs = draw(st.lists(st.tuples(span, span), min_size=1, max_size=8))
    reads, writes = (np.array([pair[position] for pair in pairs]) for position in (0, 1))
    return reads, writes


@given(steps(), st.booleans())
def test_distances_are_the_least(own: tuple[Array, Array], whole: bool) -> None:
    below, above = overlap.below(*own, whole=whole), overlap.above(*own, whole=whole)
    for further in range(0, 20):
        assert not harmed(*own, whole, below + further)
        assert not harmed(*own, whole, -above - further)
    assert below == 0 or harmed(*own, whole, below - 1)
    assert above == 0 or harmed(*own, whole, -above + 1)


@given(
    st.tuples(*[st.integers(1, 6)] * 2, st.integers(1, 3)),
    *[st.tuples(st.integers(1, 3), st.integers(1, 3))] * 3,
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_windows_are_those_that_taps_read(
    shape: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pad: tuple[int, int],
) -> None:
    extent = [(kernel[axis] - 1) * dilation[axis] + 1 for axis in (0, 1)]
    height, width = (max((shape[axis] + 2 * pad[axis] - extent[axis]) // stride[axis] + 1, 1) for axis in (0, 1))
    place = Window(shape, (height, width), kernel, stride, dilation, pad, pad)
    # Between the taps of a dilated kernel everything counts.
    elements, solid = (
        np.arange(np.prod(shape)).reshape(shape),
        replace(place, kernel=(extent[0], extent[1]), dilation=(1, 1)),
    )
    read = [own.taps(elements, -1).reshape(place.pixels, -1) for own in (place, solid)]
    spans, _ = overlap.windows(place, 1)
    wide, written = overlap.windows(place, 3, (2, 4))
    for pixel, (span, taps, inside) in enumerate(zip(spans.tolist(), *read, strict=True)):
        assert all(span[0] <= tap < span[1] for tap in taps[taps >= 0])
        seen = inside[inside >= 0]
        assert tuple(span) == ((seen.min(), seen.max() + 1) if seen.size else overlap.NOTHING)
        assert not seen.size or wide[pixel].tolist() == [2 * span[0], 2 * span[1]]
        assert written[pixel].tolist() == [12 * pixel, 12 * pixel + 12]
