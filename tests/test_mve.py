"""Kernels for MVE: orders of weights, the walk over windows, requantization, sizes of every remainder, mutants."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbuild import fixedpoint
from nnbuild.contract import Case, LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.kernels import mve, mve_depthwise
from nnbuild.kernels.smlad_requantize import Requantization
from nnbuild.network import QuantParams
from nnbuild.ops import BY_NAME, singles
from nnbuild.selection import select
from nnbuild.target import TARGETS, Target

from . import programs, qemu

M55 = TARGETS["cortex-m55"]
OPERATORS = ("fully_connected", "conv2d", "depthwise_conv2d", "add")
CASES = [case for operator in OPERATORS for case in BY_NAME[operator].cases()]


@given(channels=st.integers(1, 13), taps=st.integers(1, 70))
def test_order_of_weights(channels: int, taps: int) -> None:
    """As nn_interleaved_weight has it, missing channels of zeros, and sixteen bytes from every load's address."""
    weights = np.random.default_rng(taps).integers(-128, 128, (channels, taps)).astype(np.int8)
    flat = mve.interleaved(weights)
    padded = np.pad(weights, ((0, -channels % 4), (0, 0)))
    for channel in range(len(padded)):
        for tap in range(taps):
            first = tap // 16 * 16
            lanes = min(taps - first, 16)
            at = channel // 4 * 4 * taps + first * 4 + channel % 4 * lanes
            assert flat[at + tap % 16] == padded[channel, tap]
            assert at + 16 <= len(flat)


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), step=st.integers(1, 500))
def test_the_walk_over_a_window(rows: int, columns: int, step: int) -> None:
    """Each tap is reached in turn, by loads that reach 127 bytes; no base is moved that need not be."""
    start, taps = mve_depthwise.walk(rows, columns, step)
    at, row, reached = start, 0, []
    for tap in taps:
        row += tap.down
        at += tap.move
        assert abs(tap.offset) <= mve_depthwise.NEAR
        reached.append((row, at + tap.offset))
    assert reached == [(row, column * step) for row in range(rows) for column in range(columns)]
    if (columns - 1) * step <= 2 * mve_depthwise.NEAR and step <= mve_depthwise.NEAR and columns <= 3:
        assert not any(tap.move for tap in taps)


def test_order_of_depthwise_weights() -> None:
    weights = np.arange(20, dtype=np.int8).reshape(2, 10)
    own = mve_depthwise.ordered(weights).reshape(2, 2, 8)
    assert own[0].tolist() == [list(range(8)), list(range(10, 18))]
    assert own[1].tolist() == [[8, 9, 0, 0, 0, 0, 0, 0], [18, 19, 0, 0, 0, 0, 0, 0]]


def layer(multiplier: int, shift: int, bias: int, zero: int, low: int) -> LayerView:
    """What `scaling` reads of a fully connected layer of 100 inputs and one output."""
    params = SimpleNamespace(input_zero_point=3, output_zero_point=zero, activation_min=low, activation_max=127)
    numbers = {"bias": [bias], "multiplier": [multiplier], "shift": [shift]}
    constants = {"weights": np.full((1, 100), 127), **{name: np.array(value) for name, value in numbers.items()}}
    return cast(LayerView, SimpleNamespace(params=params, constants=constants))


def outputs(form: Requantization, own: Any, sums: Any) -> Any:
    """What mve_requantize.S.j2 computes: VQRDMULH or VQDMULH, VSHR and VADD, VADD, VSHL; each in 32 bits."""
    bias, multiplier, added, shift = (int(number) for number in own)
    upper = (2 * (sums + bias) * multiplier + (2**31 if form.nearest else 0)) >> 32
    upper = upper + (upper >> 31 if form.lowered else 0) + added
    assert np.array_equal(upper, fixedpoint.wrap32(upper))
    return np.clip(upper >> -shift, form.low, form.high)


@settings(max_examples=200)
@given(
    multiplier=st.integers(2**30, 2**31 - 1) | st.sampled_from([2**30, 2**31 - 1]),
    shift=st.integers(-20, -1),
    bias=st.integers(-(2**20), 2**20),
    zero=st.integers(-128, 127) | st.sampled_from([-128, 127]),
    relu=st.booleans(),
    single=st.booleans(),
)
def test_outputs_equal_the_reference(
    multiplier: int, shift: int, bias: int, zero: int, relu: bool, single: bool
) -> None:
    """For sums over the whole range, and for all of those around halves."""
    low = max(zero, -128) if relu else -128
    with fixedpoint.rounding(single):
        view = layer(multiplier, shift, bias, zero, low)
        found = mve.scaling(view, view.constants["weights"].astype(np.int8), range(4))
        assert found is not None
        form, numbers = found
        folded = bias - 3 * 127 * 100
        sums = np.unique(
            np.concatenate([np.linspace(-128, 127, 4001).astype(np.int64) * 12700, -folded + np.arange(-999, 999)])
        )
        sums = sums[(sums >= -128 * 12700) & (sums <= 127 * 12700)]
        scaled = fixedpoint.requantize(sums + folded, multiplier, shift)
        assert np.array_equal(outputs(form, numbers.reshape(4, 4)[:, 0], sums), np.clip(scaled + zero, low, 127))


def test_numbers_lie_in_the_order_of_lanes() -> None:
    weights = np.ones((10, 4), np.int8)
    params = SimpleNamespace(input_zero_point=0, output_zero_point=0, activation_min=-128, activation_max=127)
    constants = {"weights": weights, "bias": np.arange(10), "multiplier": np.full(10, 2**30), "shift": np.full(10, -3)}
    view = cast(LayerView, SimpleNamespace(params=params, constants=constants))
    found = mve.scaling(view, weights, mve_depthwise.ORDER)
    assert found is not None
    own = found[1].reshape(2, 4, 8)
    assert own[0, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert own[1].tolist() == [[8, 0, 0, 0, 9, 0, 0, 0], *([n, 0, 0, 0, n, 0, 0, 0] for n in (2**30, 4, -3))]


# --- which kernel ---


def convolution(**options: Any) -> Case:
    shapes = (1, 8, 6, 6), (8, 8, 3, 3)
    return singles.weighted("conv", "Conv", *shapes, 0, QuantParams(0.05, -20), QuantParams(0.2, -128), **options)


def reasons(target: Target) -> dict[str, str]:
    choices = select(convolution().network, target)
    return dict(next(choice for choice in choices if choice.layer.op == "conv2d").reasons)


def test_reasons_against() -> None:
    assert reasons(TARGETS["cortex-m4"])["mve"] == "this core has no MVE"
    assert reasons(replace(M55, assembly=False))["mve"] == "assembly is switched off"
    assert reasons(M55)["horner"] == "mve comes first"


def test_without_a_form_the_layer_is_c() -> None:
    upscaling = QuantParams(30.0, 3), QuantParams(0.001, 0)
    for group, shape in ((1, (4, 4, 1, 1)), (4, (4, 1, 1, 1))):
        case = singles.weighted("c", "Conv", (1, 4, 2, 2), shape, 0, *upscaling, {"group": group})
        assert "all of its kernels are C" in emit(case.network, EmitOptions("m", M55))["m_kernels.S"]
    text = emit(convolution().network, EmitOptions("m", M55))["m_kernels.S"]
    assert "vmladava" in text
    assert "l01_conv2d: 8 calls in one inference, " in text
    assert " instructions on cortex-m55\n" in text


def test_pairs_of_weights_that_leave_16_bits() -> None:
    weights = np.array([[-128, -128], [127, -128]], np.int8)
    assert not mve_depthwise._pairs_fit(weights)
    assert mve_depthwise._pairs_fit(weights[:, :1])
    assert mve_depthwise._pairs_fit(np.array([[127], [-127], [-128]], np.int8))


# --- what runs ---


def sweep() -> Iterator[Case]:
    """Every remainder of vectors and blocks, zero points at both ends, clamps."""
    zeros = (-128, 127, -20, 0)
    for number in range(1, 41):
        quant, out = QuantParams(0.05, zeros[number % 4]), QuantParams(0.2, zeros[number // 4 % 4])
        clamp = ("Clip", -3.0, 2.5) if number % 3 == 0 else ("Relu",) if number % 3 == 1 else ()
        rest: dict[str, Any] = {"quant": quant, "output": out, "clamp": clamp}
        outputs = number * 7 % 19 + 1
        rows = 1 + number % 3
        yield singles.weighted(f"fc_{number}", "MatMul", (1, rows, number), (number, outputs), 1, bias=False, **rest)
        rest["attributes"] = {"pads": [number % 2] * 4, "strides": [1 + number // 2 % 2] * 2}
        weights = (outputs, 1 + number % 9, 1 + number % 4, 2 + number % 2)
        yield singles.weighted(f"conv_{number}", "Conv", (1, weights[1], 4, 5), weights, 0, **rest)
        rest["attributes"] = {**rest["attributes"], "group": number}
        yield singles.weighted(f"depthwise_{number}", "Conv", (1, number, 4, 5), (number, 1, 3, 3), 0, **rest)
        sizes = [(1, number), (1, number)]
        yield singles.several(f"add_{number}", "Add", sizes, [quant, QuantParams(0.03 + number / 999, 7)], out)
    yield from wholly_outside()


def wholly_outside() -> Iterator[Case]:
    """Windows that see nothing of the input, at every side and corner, and a row of them."""
    rest: dict[str, Any] = {"quant": QuantParams(0.05, -20), "output": QuantParams(0.2, 3)}
    for dilations in ([1, 1], [2, 1], [1, 2]):
        own: dict[str, Any] = {"pads": [6, 6, 6, 6], "dilations": dilations}
        yield singles.weighted("outside", "Conv", (1, 8, 2, 3), (8, 8, 3, 3), 0, attributes=own, **rest)
        own["group"] = 8
        yield singles.weighted("outside", "Conv", (1, 8, 2, 3), (8, 1, 3, 3), 0, attributes=own, **rest)
    own = {"pads": [4, 4, 4, 0], "strides": [4, 4], "group": 8}
    yield singles.weighted("outside", "Conv", (1, 8, 1, 1), (8, 1, 3, 3), 0, attributes=own, **rest)


def few(case: Case) -> Case:
    return replace(case, inputs=tuple(values[[0, 1, 3, 5]] for values in case.inputs))


def run(folder: Path, cases: list[Case]) -> tuple[int, str]:
    core = qemu.CORES["m55"]
    sources = programs.units(folder, programs.write(folder, cases, core.target, backend="direct", apart=True))
    return qemu.run(qemu.link(folder, sources, core), core)


@pytest.mark.parametrize("single", [False, True])
def test_every_remainder(single: bool, tmp_path: Path) -> None:
    qemu.need()
    cases = [few(replace(case, network=replace(case.network, single_rounding=single))) for case in sweep()]
    assert run(tmp_path, cases) == (0, "")


@pytest.mark.parametrize("single", [False, True])
def test_the_same_in_c(single: bool, tmp_path: Path) -> None:
    """Beside the assembly, for compilers that are not GNU's; on this machine."""
    cases = [*CASES, *map(few, sweep())]
    cases = [replace(case, network=replace(case.network, single_rounding=single)) for case in cases]
    sources = programs.units(tmp_path, programs.write(tmp_path, cases, replace(M55, guard="")))
    program = tmp_path / "program"
    command = ["gcc", "-O0", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=address", "-o", str(program)]
    subprocess.run([*command, *map(str, sources)], check=True)
    assert subprocess.run([str(program)], check=False, timeout=120).returncode == 0


MUTANTS = [
    ("fully_connected", "vctp.8  r11", "vctp.16 r11"),
    ("fully_connected", "vctp.32 r12", "vctp.16 r12"),
    ("fully_connected", "add     r5, r0, r11 ", "mov     r5, r0 "),
    ("fully_connected", "subs    r12, r12, #4", "subs    r12, r12, #3"),
    ("fully_connected", "vqrdmulh", "vqdmulh"),
    ("fully_connected", "vshr.s32 q1, q0, #31", "vmov.i32 q1, #0"),
    ("fully_connected", "vmax.s32", "vmin.s32"),
    ("fully_connected", "[r2], #16", "[r2], #15"),
    ("fully_connected", "dls     lr, r7", "mov     lr, #1"),
    ("conv2d", "subs    r11, r11, #1", "subs    r11, r11, r11"),
    ("conv2d", "moveq   r4, r5", "nop"),
    ("conv2d", "subs    r9, r9, #2", "subs    r9, r9, #1"),
    ("conv2d", "mov     r10, r2", "mov     r10, r0"),
    ("conv2d", "vldrbt.u8 q1, [r9]", "vldrbt.u8 q1, [r1]"),
    ("conv2d", "add     r0, r0, r5", "add     r0, r0, r3"),
    ("conv2d", "wlstp.8 lr, r4", "wlstp.8 lr, r2"),
    ("conv2d", "cbz     r6", "cbnz    r6"),
    ("depthwise_conv2d", "add     r4, r4, r7", "nop"),
    ("depthwise_conv2d", "vadd.i16", "vsub.i16"),
    ("depthwise_conv2d", "vmovlt.s16", "vmovlb.s16"),
    ("depthwise_conv2d", "vctp.16 r6", "vctp.8  r6"),
    ("depthwise_conv2d", "vqmovnt", "vqmovnb"),
    ("depthwise_conv2d", "vmin.s16", "vmax.s16"),
    ("add", "wlstp.32", "wlstp.16"),
    ("add", "vmlas.s32 q0, q2, r6", "vmul.i32 q0, q0, q2"),
    ("add", "vmla.s32 q0, q1, r5", "vmla.s32 q0, q1, r4"),
    ("add", "vrshl", "vshl"),
    ("add", "vshr.s32 q1, q0, #31", "vmov.i32 q1, #0"),
    ("add", "vadd.i32 q0, q0, r3", "nop"),
    ("add", "vmax.s32", "vmin.s32"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Programs of the operators' cases; they pass."""
    qemu.need()
    folders = {}
    for operator in OPERATORS:
        folder = folders[operator] = tmp_path_factory.mktemp(operator)
        assert run(folder, list(BY_NAME[operator].cases())) == (0, "")
    return folders


@pytest.mark.parametrize(("operator", "old", "new"), MUTANTS)
def test_mutants_of_the_assembly_are_caught(
    operator: str, old: str, new: str, built: dict[str, Path], tmp_path: Path
) -> None:
    """Only the assembly is made again; the other objects are those of the program that passes."""
    core, folder = qemu.CORES["m55"], built[operator]
    text = "".join(path.read_text() for path in sorted(folder.glob("m*_kernels.S")))
    assert old in text
    (tmp_path / "mutant.S").write_text(text.replace(old, new))
    objects = [path for path in folder.glob("*.o") if path.stem != "kernels"]
    command = [*qemu.flags(core), "-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections,--no-warn-rwx-segments"]
    command += [f"-L{folder}", f"-T{qemu.BOARDS / 'sections.ld'}", "-o", "fw.elf", *map(str, objects), "mutant.S"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert qemu.run(tmp_path / "fw.elf", core, seconds=20)[0] != 0
