"""Assembly for 16-bit activations: its arithmetic for any numbers, and that the cases catch its faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbuild import fixedpoint, interpret
from nnbuild.contract import LayerView
from nnbuild.kernels import smlad_depthwise, smlad_weights, wide_requantize
from nnbuild.network import QuantParams
from nnbuild.ops import BY_NAME, channels, singles

from . import overlaps, programs, qemu

INT32 = st.integers(-(2**31), 2**31 - 1)


def by_halves(summed: int, multiplier: int) -> int:
    """What `by_product` of requantize_armv6m.S.j2 computes; every value stays within 32 bits."""
    low, high = summed & 0xFFFF, summed >> 16
    multiplier_low, multiplier_high = multiplier & 0xFFFF, multiplier >> 16
    part = low * multiplier_low
    middle = high * multiplier_low + (part >> 16)
    last = low * multiplier_high + (middle & 0xFFFF)
    assert 0 <= part < 2**32
    assert 0 <= last < 2**32
    assert -(2**31) <= middle < 2**31
    upper = high * multiplier_high + (middle >> 16)
    assert -(2**31) <= upper < 2**31
    return upper + (last >> 16) + (last >> 15 & 1)


@given(INT32, st.integers(0, 2**31 - 1))
@settings(max_examples=500, deadline=None)
def test_products_from_halves_are_those_of_64_bits(summed: int, multiplier: int) -> None:
    assert by_halves(summed, multiplier) == int(fixedpoint.scale_upper(summed, multiplier, 0))


@pytest.mark.parametrize("multiplier", [0, 1, 0xFFFF, 0x10000, 2**31 - 1])
@pytest.mark.parametrize("summed", [-(2**31), -(2**31) + 1, -0x10000, -0xFFFF, -1, 0, 1, 0xFFFF, 0x10000, 2**31 - 1])
def test_products_from_halves_at_the_ends(summed: int, multiplier: int) -> None:
    assert by_halves(summed, multiplier) == int(fixedpoint.scale_upper(summed, multiplier, 0))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_sums_of_raised_inputs_are_the_reference_s(data: st.DataObject) -> None:
    """Modulo 2^32, with the zero point and what a kernel adds to its inputs taken off by the bias."""
    wide = data.draw(st.booleans())
    zero_point = 0 if wide else data.draw(st.integers(-128, 127))
    quant = QuantParams(0.0002, 0, "int16") if wide else QuantParams(0.05, zero_point)
    output = data.draw(st.sampled_from([QuantParams(0.001, 0, "int16"), QuantParams(0.3, 5)]))
    shape = (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40)))
    case = singles.weighted("p", "Gemm", (1, shape[1]), shape, 0, quant, output, {"transB": 1})
    (layer,) = (layer for layer in case.network.layers if "weights" in layer.constants)
    if layer.op != "wide_conv2d":
        return
    view = LayerView.of(case.network, layer)
    weights = layer.constants["weights"].reshape(shape)
    raised = data.draw(st.sampled_from([0, 128, 32768]))
    form, own = wide_requantize.requantization(view, weights, raised)
    x = case.inputs[0][0].astype(np.int64).ravel()
    sums = fixedpoint.wrap32((x + raised) @ weights.astype(np.int64).T)
    total = fixedpoint.wrap32((sums << form.left) + own[:, 0])
    made = fixedpoint.scale_upper(total, own[:, 1], 0) + form.zero
    (expected,) = interpret.run(case.network, [case.inputs[0][0]])
    assert np.array_equal(np.clip(made, form.low, form.high), expected.ravel())


@given(st.lists(st.floats(1e-9, 100.0), min_size=1, max_size=6), st.integers(1, 2**31 - 256))
@settings(max_examples=200, deadline=None)
def test_sums_are_shifted_as_far_as_multipliers_need(scales: list[float], reach: int) -> None:
    output = QuantParams(0.5, 0, "int16")
    left, found = channels.upper_multipliers(np.array(scales), output, np.array([reach]))
    most = fixedpoint.headroom(reach)
    assert 0 <= left <= most
    assert left % 4 == 0 or left == most
    for scale, multiplier in zip(scales, found["multiplier"].tolist(), strict=True):
        real = scale / 0.5
        fits = real < 2.0 ** (most - 1)
        assert not fits or abs(multiplier * 2.0 ** (left - 32) - real) <= 2.0 ** (left - 32)
        assert left == 0 or max(scales) / 0.5 >= 2.0 ** (left - 5)


def test_order_of_weights() -> None:
    """Words of two channels and two inputs; depthwise, pairs of channels (0, 1) and (2, 3)."""
    weights = np.array([[[1, -2, 3]], [[-4, 5, 6]], [[7, 8, 9]]], np.int8)
    found = smlad_weights.two_by_two(weights).view(np.uint32).tolist()
    assert found == [0x05FEFC01, 0x00080007, 0x00000603, 0x00000009]
    rows = np.array([[1, -2, 3, 4]], np.int8)
    assert smlad_depthwise.words(rows, 2).view(np.uint32).tolist() == [[0xFFFE0001, 0x00040003]]


# (core, operator whose cases must notice, text in the assembly, what it becomes)
MUTANTS = [
    ("m0", "wide_conv2d", "    adcs    r0, r0, r4", "    adds    r0, r0, r4"),
    ("m0", "wide_conv2d", "    uxth    r5, r5\n    muls    r0", "    nop\n    muls    r0"),
    ("m0", "wide_conv2d", "    ldrh    r4, [r6, #2]", "    ldrh    r4, [r6, #0]"),
    ("m0", "wide_conv2d", "    eors    r5, r5, r6\n    stmia", "    nop\n    stmia"),
    ("m0", "wide_conv2d", "    mvns    r0, r0\n    lsrs    r0, r0, #17", "    nop\n    lsrs    r0, r0, #17"),
    ("m0", "wide_depthwise_conv2d", "    ldrsh   r3, [r5, r6]", "    ldrsh   r3, [r5, r4]"),
    ("m0", "wide_depthwise_conv2d", "    lsrs    r4, r5, #1\n", "    movs    r4, r5\n"),
    ("m0", "wide_depthwise_conv2d", "    sxth    r4, r4", "    uxth    r4, r4"),
    ("m4", "wide_conv2d", "    sxtb16  lr, r12, ror #8", "    sxtb16  lr, r12, ror #16"),
    ("m4", "wide_conv2d", "    pkhbt   r0, r0, r1, lsl #16", "    pkhbt   r0, r0, r5, lsl #16"),
    ("m4", "wide_conv2d", "    smmulr  r4", "    smmul   r4"),
    ("m4", "wide_depthwise_conv2d", "    smlatb  r4", "    smlabb  r4"),
    ("m4", "wide_depthwise_conv2d", "    smlatt  r1", "    smlabt  r1"),
]


@pytest.mark.parametrize(("core", "operator", "old", "new"), MUTANTS)
def test_mutants_of_the_assembly_are_caught(core: str, operator: str, old: str, new: str, tmp_path: Path) -> None:
    qemu.need()
    machine = qemu.CORES[core]
    cases = list(BY_NAME[operator].cases())[:40]
    # Depthwise of 16 to 8 bits takes columns only where its output lies apart.
    with overlaps.planned(overlaps.apart()):
        sources = programs.write(tmp_path, cases, machine.target, backend="direct")
    found = 0
    for source in sources:
        text = source.read_text()
        if source.suffix == ".S" and old in text:
            found += 1
            source.write_text(text.replace(old, new))
    assert found, "no such text"
    status, _ = qemu.run(qemu.link(tmp_path, programs.units(tmp_path, sources), machine), machine)
    assert status != 0
