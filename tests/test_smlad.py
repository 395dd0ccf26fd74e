"""Kernels for cores with the DSP extension: order of weights, requantization at every threshold, who is taken first."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbuild import cmsis_nn, fixedpoint
from nnbuild.contract import Case, LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.kernels import smlad, smlad_depthwise, smlad_strips, smlad_weights
from nnbuild.kernels.exact_requantize import Channels
from nnbuild.kernels.smlad_requantize import RAISED, Requantization, line, requantization
from nnbuild.kernels.smlad_strips import Lines
from nnbuild.network import Array, QuantParams
from nnbuild.ops import singles
from nnbuild.ops.spatial import Window
from nnbuild.selection import select
from nnbuild.target import TARGETS, Target
from tests import programs, qemu
from tests.test_kernels_host import mismatches

M4 = TARGETS["cortex-m4"]


def test_order_of_weights() -> None:
    """Halfwords for inputs 0 and 2, then 1 and 3; in each the upper channel, and the lower one plus the offset."""
    weights = np.array([[[1, 2, 3, 4, 5]], [[-1, -2, -3, -4, -5]]], np.int8)
    for offset in (0, 128):
        words = smlad_weights.words(weights, 4, offset).astype(np.int64) & 0xFFFFFFFF
        empty = offset << 16 | offset
        first = (-3 * 256 + 3 + offset & 0xFFFF) << 16 | (-1 * 256 + 1 + offset & 0xFFFF)
        second = (-4 * 256 + 4 + offset & 0xFFFF) << 16 | (-2 * 256 + 2 + offset & 0xFFFF)
        assert words[:4].tolist() == [first, empty, second, empty]
        assert words[4:].tolist() == [offset << 16 | -5 * 256 + 5 + offset & 0xFFFF, empty, empty, empty]


def test_rows_begin_with_a_four_that_overlaps() -> None:
    weights = np.arange(1, 8, dtype=np.int8).reshape(1, 1, 7)
    assert smlad_weights.overlapping(weights).tolist() == [[[1, 2, 3, 0, 4, 5, 6, 7]]]
    assert smlad_weights.overlapping(weights[..., :2]).tolist() == [[[1, 2, 0, 0]]]
    assert smlad_weights.overlapping(weights[..., :4]).tolist() == [[[1, 2, 3, 4]]]


def test_pairs_that_are_no_halfword() -> None:
    weights = np.array([[-1, 5], [-128, 5], [3, -128]], np.int8).reshape(3, 1, 2)
    assert smlad_weights.wraps(weights)
    assert not smlad_weights.wraps(weights[1:])
    assert not smlad_weights.wraps(weights[:1])


def test_order_of_depthwise_weights() -> None:
    """Pairs of channels (0, 2) and (1, 3); the last four overlap the ones before."""
    weights = np.array([[1, -2, 3, 4, 5, 6]], np.int8)[:, smlad_depthwise._order(6)]
    assert smlad_depthwise.words(weights).tolist() == [[3 << 16 | 1, 4 << 16 | 0xFFFE], [5 << 16 | 3, 6 << 16 | 4]]


def view(weights: Array, bias: Array, multiplier: Array, shift: Array, zero: int, low: int) -> LayerView:
    """What `requantization` reads of a fully connected layer."""
    params = SimpleNamespace(input_zero_point=3, output_zero_point=zero, activation_min=low, activation_max=127)
    constants = {"weights": weights, "bias": bias, "multiplier": multiplier, "shift": shift}
    return cast(LayerView, SimpleNamespace(params=params, constants=constants))


def outputs(form: Requantization, own: Array, sums: Array) -> Array:
    """What smlad_requantize.S.j2 computes from sums of one channel, in 32 bits."""
    if form.raised:
        bias, multiplier = (int(number) for number in own)
        upper = (sums << form.raised) + bias
        assert np.array_equal(upper, fixedpoint.wrap32(upper))
        return np.asarray(np.clip((upper * multiplier >> 32) >> 16, 0, 255) - 128)
    twice, multiplier, added, right = (int(number) for number in own)
    upper = 2 * sums + twice
    assert np.array_equal(upper, fixedpoint.wrap32(upper))
    upper = (upper * multiplier + (2**31 if form.nearest else 0)) >> 32
    upper = upper - (form.lowered & (upper < 0)) + added
    assert np.array_equal(upper, fixedpoint.wrap32(upper))
    return np.asarray(np.clip(upper >> right, form.low, form.high))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize(("zero", "low"), [(-128, -128), (5, -128), (5, 5), (-3, 10), (127, -100)])
def test_outputs_equal_the_reference_for_every_sum(single: bool, spread: bool, zero: int, low: int) -> None:
    """By a line where outputs are on one side of zero and scales are alike, otherwise as the reference does."""
    random = np.random.default_rng(1000 + zero + low)
    weights = random.integers(-128, 128, (40, 9)).astype(np.int8)
    weights[-1] = 0
    multiplier = random.integers(2**30, 2**31, 40).astype(np.int32)
    shifts = [-1, -2, -5, -7, -9, -12, -23, -31] if spread else [-6, -7, -8, -9, -10]
    shift = np.resize(np.array(shifts, np.int8), 40)
    multiplier[:8], shift[-1] = 2**30, 3
    bias = random.integers(-9000, 9000, 40).astype(np.int32)
    with fixedpoint.rounding(single):
        found = requantization(view(weights, bias, multiplier, shift, zero, low), weights)
        assert found is not None
        form, scaling = found
        assert bool(form.raised) == (not spread and low == -128 and (single or zero == -128))
        assert form.raised or form.lowered == (not single and low < zero)
        for channel, own in enumerate(scaling):
            taps = weights[channel].astype(np.int64)
            lowest, highest = (int(pick(taps * -128, taps * 127).sum()) for pick in (np.minimum, np.maximum))
            sums = np.arange(lowest, highest + 1)
            folded = sums + int(bias[channel]) - 3 * int(taps.sum())
            scaled = fixedpoint.requantize(folded, int(multiplier[channel]), int(shift[channel]))
            assert np.array_equal(outputs(form, own, sums), np.clip(scaled + zero, low, 127))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_lines_go_through_every_threshold(data: st.DataObject) -> None:
    """A line that is found equals the reference beside each of its steps and at both ends; others are no lines."""
    count = data.draw(st.integers(1, 5))
    numbers = {
        "bias": st.integers(-(2**20), 2**20),
        "multiplier": st.integers(2**30, 2**31 - 1),
        "shift": st.integers(-12, -5),
        "reach": st.integers(0, 2**18),
    }
    drawn = {
        name: np.array(data.draw(st.lists(kind, min_size=count, max_size=count)), np.int64)
        for name, kind in numbers.items()
    }
    zero, raised = data.draw(st.integers(0, 255)), data.draw(st.sampled_from(RAISED))
    channels = Channels(drawn["bias"], drawn["multiplier"], drawn["shift"], -drawn["reach"], drawn["reach"], zero, 255)
    found = line(channels, raised)
    if found is None:
        return
    steps = channels.thresholds()
    sums = np.concatenate([steps, steps - 1, channels.lowest[:, None], channels.highest[:, None]], axis=1)
    sums = np.clip(sums, channels.lowest[:, None], channels.highest[:, None])
    form = Requantization(raised, False, False, -128, 127)
    made = np.array([outputs(form, own, row) for own, row in zip(found, sums, strict=True)])
    assert np.array_equal(made + 128, channels.values(sums))


def test_scales_of_a_half_and_more_have_no_form() -> None:
    weights, one = np.ones((1, 9), np.int8), np.ones(1, np.int32)
    assert requantization(view(weights, one, one * 2**30, one * -1, 0, -128), weights) is not None
    assert requantization(view(weights, one, one * 2**30, one * 0, 0, -128), weights) is None


INPUT, OUTPUT = QuantParams(0.05, -20), QuantParams(0.2, -128)


def convolution(**options: Any) -> Case:
    return singles.weighted("conv", "Conv", (1, 8, 6, 6), (8, 8, 3, 3), 0, INPUT, OUTPUT, **options)


def test_without_a_form_the_layer_is_c() -> None:
    case = singles.weighted("c", "Conv", (1, 4, 2, 2), (4, 4, 1, 1), 0, QuantParams(30.0, 3), QuantParams(0.001, 0))
    assert "all of its kernels are C" in emit(case.network, EmitOptions("m", M4))["m_kernels.S"]
    assert "smlad" in emit(convolution().network, EmitOptions("m", M4))["m_kernels.S"]


def reasons(target: Target) -> dict[str, str]:
    choices = select(convolution().network, target)
    return dict(next(choice for choice in choices if choice.layer.op == "conv2d").reasons)


def test_reasons_against() -> None:
    assert reasons(TARGETS["cortex-m3"])["smlad"] == "this core has no DSP instructions"
    assert reasons(TARGETS["cortex-m55"])["smlad"] == "its assembly is for cores without MVE"
    assert reasons(replace(M4, assembly=False))["smlad"] == "assembly is switched off"
    assert reasons(M4)["horner"] == "smlad comes first"
    assert reasons(M4)["mla"] == "its assembly is for ARMv7-M without DSP instructions"
    assert reasons(TARGETS["cortex-m3"])["horner"] == "mla comes first"
    assert reasons(replace(TARGETS["cortex-m3"], assembly=False))["mla"] == "assembly is switched off"


def test_auto_takes_what_is_faster_on_the_core() -> None:
    """Own kernels that outrun CMSIS-NN's come first, CMSIS-NN's before the others."""
    library = cmsis_nn.CmsisNN(version="7.0.0", functions=frozenset({"arm_convolve_s8"}), convolve_upscales=True)
    taken = {}
    for cpu in ("cortex-m3", "cortex-m4", "cortex-m33", "cortex-m55"):
        choices = select(convolution().network, replace(TARGETS[cpu], cmsis_nn=library))
        taken[cpu] = next(choice.kernel.name for choice in choices if choice.layer.op == "conv2d")
    assert taken == {"cortex-m3": "mla", "cortex-m4": "smlad", "cortex-m33": "smlad", "cortex-m55": "mve"}
    without = select(convolution().network, replace(M4, cmsis_nn=library, assembly=False))
    assert "cmsis_nn" in {choice.kernel.name for choice in without}


def test_weights_of_four_channels_are_the_bytes_of_a_word() -> None:
    weights = np.array([[[1, 2]], [[-1, -2]], [[3, 4]], [[-128, 127]], [[5, 6]]], np.int8)
    words = smlad_weights.bytes_of_four(weights).astype(np.int64) & 0xFFFFFFFF
    assert words.tolist() == [0x8003FF01, 0x7F04FE02, 5, 6]
    by_tap = np.array([[1, 2, 3, -4], [5, 6, 7, 8]], np.int8)
    found = smlad_depthwise.bytes_of_four(by_tap).astype(np.int64) & 0xFFFFFFFF
    assert found.tolist() == [[0xFC030201, 0x08070605]]


def place_of(case: Case) -> Window:
    place = next(layer.params.window for layer in case.network.layers if layer.op.endswith("conv2d"))
    assert isinstance(place, Window)
    return place


def test_what_rows_leave_over_is_one_four() -> None:
    rgb = replace(place_of(convolution()), input=(8, 8, 3), kernel=(3, 3))
    assert smlad_weights.packed(rgb) == (3, 2, 1)
    assert smlad_weights.packed(replace(rgb, input=(8, 8, 4))) == ()
    assert smlad_weights.packed(replace(rgb, input=(8, 8, 2))) == ()
    assert smlad_weights.packed(replace(rgb, dilation=(1, 2))) == ()
    assert smlad_weights.packed(replace(rgb, kernel=(1, 3))) == ()


def test_pixels_inside() -> None:
    place = place_of(convolution(attributes={"pads": [1, 0, 1, 1], "strides": [2, 1]}))
    taps = place.taps(np.ones(place.input), 0)
    whole = taps.all(axis=(2, 3, 4))
    rows, columns = smlad.inside(place)
    assert np.array_equal(np.argwhere(whole), [(y, x) for y in rows for x in columns])
    assert smlad.inside(replace(place, dilation=(1, 2))) == (range(0), range(0))


def test_order_of_weights_of_strips() -> None:
    """For each column the rows (0, 1), then (1, 2), of four channels."""
    weights = np.arange(24, dtype=np.int8).reshape(3, 2, 4) - 9
    found = smlad_strips.words(weights)
    assert found.shape == (1, 16)
    pairs = [(int(weights[v, u, c]), int(weights[v + 1, u, c])) for u in (0, 1) for v in (0, 1) for c in range(4)]
    assert [(word << 16 & 0xFFFFFFFF, word >> 16) for word in found[0].tolist()] == [
        (low << 16 & 0xFFFFFFFF, high) for low, high in pairs
    ]


def test_strips_are_for_windows_that_share_columns() -> None:
    place = replace(place_of(convolution()), kernel=(3, 3), stride=(1, 1))
    assert smlad_strips.serves(place)
    others: list[dict[str, Any]] = [{"kernel": (5, 5)}, {"kernel": (3, 1)}, {"stride": (2, 2)}, {"dilation": (2, 1)}]
    for other in (*others, {"output": (1, 4)}):
        assert not smlad_strips.serves(replace(place, **other))


def test_depthwise_outputs_are_paired_along_the_longer_axis() -> None:
    place = place_of(convolution())
    tall = replace(place, output=(4, 1), stride=(2, 1))
    assert smlad_depthwise.lines(tall) == Lines(5, 3, beside=False)
    assert smlad_depthwise.lines(replace(tall, output=(3, 3))) == Lines(5, 5, beside=False)
    # An odd number of outputs has one more beside it.
    assert smlad_depthwise.lines(replace(tall, output=(1, 3))) == Lines(3, 6, beside=True)
    assert smlad_depthwise.lines(replace(tall, output=(3, 4))) == Lines(3, 6, beside=True)


def test_layers_of_all_sizes_share_a_function() -> None:
    """Depthwise layers whose windows, strides and kinds of requantization are alike."""
    for cpu in ("cortex-m4", "cortex-m3"):
        made = set()
        for number, (channels, height, width) in enumerate([(4, 6, 5), (6, 8, 8), (33, 3, 3), (96, 2, 9)]):
            attributes = {"pads": [1, 1, 1, 1], "strides": [2, 2], "group": channels}
            shape = (1, channels, 2 * height, 2 * width)
            output = QuantParams(0.2, -128)
            case = singles.weighted(f"c{number}", "Conv", shape, (channels, 1, 3, 3), 0, INPUT, output, attributes)
            for choice in select(case.network, TARGETS[cpu]):
                made |= {repr(own) for own in choice.kernel.render(choice.view, TARGETS[cpu]).assembly}
        assert len(made) == 1


@pytest.mark.parametrize("where", ["m4", "m3", "here"])
def test_weights_of_minus_128(where: str, tmp_path: Path) -> None:
    """Pairs that are no halfword without an offset: at borders, with odd channels, in rows of fewer than four bytes."""
    quant, out = QuantParams(0.05, -20), QuantParams(0.3, 5)
    shapes = [((1, 3, 6, 5), (5, 3, 3, 3), 1), ((1, 8, 4, 4), (6, 8, 3, 3), 1), ((1, 22, 3, 3), (7, 22, 1, 1), 0)]
    shapes += [((1, 1, 6, 6), (4, 1, 3, 3), 0), ((1, 6, 5, 3), (3, 6, 2, 2), 0)]
    cases = []
    for number, (shape, weights, pad) in enumerate(shapes):
        case = singles.weighted(f"c{number}", "Conv", shape, weights, 0, quant, out, {"pads": [pad] * 4})
        layers = []
        for layer in case.network.layers:
            if layer.op == "conv2d":
                own = layer.constants["weights"].copy()
                own[1::2], own[0::2, ..., 0] = -128, -1
                assert smlad_weights.wraps(own.reshape(len(own), own.shape[1], -1))
                layer = replace(layer, constants={**layer.constants, "weights": own})
            layers.append(layer)
        network = replace(case.network, layers=tuple(layers))
        cases.append(replace(case, network=network))
    run(cases, where, tmp_path)


def run(cases: list[Case], where: str, folder: Path) -> None:
    """In assembly on a core, or the C beside it on this machine."""
    if where == "here":
        for number, (case, cpu) in enumerate(itertools.product(cases, ("cortex-m4", "cortex-m3"))):
            assert mismatches(case, replace(TARGETS[cpu], guard=""), folder / str(number)) == 0
        return
    qemu.need()
    core = qemu.CORES[where]
    sources = programs.write(folder, cases, core.target, backend="direct")
    assert qemu.run(qemu.link(folder, programs.units(folder, sources), core), core) == (0, "")


@pytest.mark.parametrize("where", ["m4", "m3", "here"])
@pytest.mark.parametrize("zero", [-128, 9])
def test_windows_of_every_kind(where: str, zero: int, tmp_path: Path) -> None:
    """Both forms of requantization: left over bytes in one four, strips with odd lines and channels, a pixel alone."""
    table: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ((1, 3, 7, 9), (6, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ((1, 3, 5, 5), (4, 3, 3, 3), {}),
        ((1, 5, 5, 4), (3, 5, 2, 2), {"pads": [0, 1, 1, 0]}),
        ((1, 64, 3, 3), (9, 64, 1, 1), {}),
        ((1, 68, 1, 3), (4, 68, 1, 1), {}),
        ((1, 24, 4, 4), (5, 24, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((1, 6, 5, 7), (6, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 6}),
        ((1, 9, 2, 2), (9, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 9}),
        ((1, 4, 6, 8), (4, 1, 3, 5), {"pads": [0, 2, 0, 1], "group": 4}),
        ((1, 7, 5, 9), (7, 1, 3, 2), {"pads": [2, 0, 2, 2], "dilations": [1, 3], "group": 7}),
        ((1, 6, 9, 7), (6, 1, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2], "group": 6}),
        ((1, 9, 5, 12), (9, 1, 3, 3), {"pads": [0, 1, 1, 1], "strides": [2, 2], "group": 9}),
        ((1, 5, 1, 8), (5, 1, 1, 3), {"pads": [0, 2, 0, 1], "dilations": [1, 2], "group": 5}),
        ((1, 4, 7, 1), (4, 1, 4, 1), {"strides": [3, 1], "group": 4}),
        ((1, 4, 6, 1), (4, 1, 3, 3), {"pads": [3, 3, 0, 0], "strides": [2, 4], "group": 4}),
        ((1, 5, 3, 4), (5, 1, 3, 3), {"pads": [4, 4, 3, 3], "strides": [2, 1], "group": 5}),
        ((1, 11, 3, 4), (11, 1, 2, 2), {"pads": [2, 2, 0, 1], "strides": [1, 3], "dilations": [2, 2], "group": 11}),
    ]
    cases = []
    for number, (shape, weights, attributes) in enumerate(table):
        output, clamp = QuantParams(0.2, zero), ("Relu",) if number % 2 else ()
        case = singles.weighted(f"c{number}", "Conv", shape, weights, 0, INPUT, output, attributes, clamp)
        cases.append(case)
    run(cases, where, tmp_path)


DEPTHWISE_MUTANTS = [
    ("addcs   r12, r12, #20", "addcs   r12, r12, #24"),
    ("addcs   r0, r0, r7", "addcs   r0, r0, r6"),
    ("movne   r7, r4", "movne   r7, r6"),
    ("add     r0, r0, r7, lsl #1", "add     r0, r0, r7"),
    ("adds    r3, r3, #4", "adds    r3, r3, #0"),
    ("add     r8, r8, #40", "add     r8, r8, #20"),
    ("adds    r6, r6, #4", "adds    r6, r6, #1"),
    ("moveq   r11, #0", "moveq   r11, r11"),
    ("add     r10, r10, r12, lsl #1", "add     r10, r10, r12"),
]


@pytest.mark.parametrize(("old", "new"), DEPTHWISE_MUTANTS)
def test_mutants_of_depthwise_assembly_are_caught(old: str, new: str, tmp_path: Path) -> None:
    """Two lines at a time, and one with an odd number of outputs; lines beside the input, six channels."""
    qemu.need()
    core, cases = qemu.CORES["m4"], []
    for number, shape in enumerate([(1, 6, 8, 7), (1, 6, 1, 9)]):
        rows = min(shape[2], 3)
        attributes = {"pads": [rows // 2, 1, rows // 2, 1], "strides": [2, 2], "group": 6}
        cases.append(
            singles.weighted(f"c{number}", "Conv", shape, (6, 1, rows, 3), 0, INPUT, QuantParams(0.2, 9), attributes)
        )
    sources = programs.units(tmp_path, programs.write(tmp_path, cases, core.target, backend="direct"))
    found = 0
    for kernels in tmp_path.glob("*_kernels.S"):
        text = kernels.read_text()
        found += text.count(old)
        kernels.write_text(text.replace(old, new))
    assert found
    status, _ = qemu.run(qemu.link(tmp_path, sources, core), core)
    assert status != 0


@pytest.mark.parametrize("cpu", ["cortex-m3", "cortex-m4", "cortex-m55"])
@pytest.mark.parametrize(("name", "group"), [("depthwise", 64), ("conv", 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_c_without_a_requantization_has_its_patch(cpu: str, name: str, group: int, dilation: int) -> None:
    """Scales that no form of these cores has: what C gathers there fits into the scratch memory."""
    attributes = {"group": group, "pads": [1] * 4, "dilations": [dilation] * 2}
    coarse, fine = QuantParams(30.0, -3), QuantParams(0.001, 5)
    case = singles.weighted(name, "Conv", (1, 64, 5, 5), (64, 64 // group, 3, 3), 0, coarse, fine, attributes)
    (choice,) = (choice for choice in select(case.network, TARGETS[cpu]) if "conv" in choice.layer.op)
    source = choice.kernel.render(choice.view, TARGETS[cpu])
    if choice.kernel.name != "direct":
        assert source.template in ("depthwise_conv2d.c.j2", "horner_conv2d.c.j2")
    assert choice.kernel.scratch(choice.view, TARGETS[cpu]) >= 3 * 3 * 64
