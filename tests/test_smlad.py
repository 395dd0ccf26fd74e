"""Kernels for cores with the DSP extension: order of weights, requantization at every threshold, who is taken first."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from nnbuild import cmsis_nn, fixedpoint
from nnbuild.contract import Case, LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.kernels import smlad, smlad_depthwise
from nnbuild.network import Array, QuantParams
from nnbuild.ops import singles
from nnbuild.selection import select
from nnbuild.target import TARGETS, Target

M4 = TARGETS["cortex-m4"]


def test_order_of_weights() -> None:
    """Halfwords for inputs 0 and 2, then 1 and 3; in each the upper channel, and the lower one plus 128."""
    weights = np.array([[[1, 2, 3, 4, 5]], [[-1, -2, -3, -4, -5]]], np.int8)
    words = smlad.words(weights, 4).astype(np.int64) & 0xFFFFFFFF
    empty = 0x00800080
    first = (-3 * 256 + 131 & 0xFFFF) << 16 | (-1 * 256 + 129 & 0xFFFF)
    second = (-4 * 256 + 132 & 0xFFFF) << 16 | (-2 * 256 + 130 & 0xFFFF)
    assert words[:4].tolist() == [first, empty, second, empty]
    assert words[4:].tolist() == [0x0080 << 16 | -5 * 256 + 133 & 0xFFFF, empty, empty, empty]


def test_order_of_depthwise_weights() -> None:
    """Pairs of channels (0, 2) and (1, 3); the last four overlap the ones before."""
    weights = np.array([[1, -2, 3, 4, 5, 6]], np.int8)
    assert smlad_depthwise.words(weights).tolist() == [3 << 16 | 1, 4 << 16 | 0xFFFE, 5 << 16 | 3, 6 << 16 | 4]


def view(weights: Array, bias: Array, multiplier: Array, shift: Array, zero: int, low: int) -> LayerView:
    """What `requantization` reads of a fully connected layer."""
    params = SimpleNamespace(input_zero_point=3, output_zero_point=zero, activation_min=low, activation_max=127)
    constants = {"weights": weights, "bias": bias, "multiplier": multiplier, "shift": shift}
    return cast(LayerView, SimpleNamespace(params=params, constants=constants))


def outputs(form: smlad.Requantization, own: Array, sums: Array) -> Array:
    """What smlad_requantize.S.j2 computes from sums of one channel, in 32 bits."""
    twice, multiplier, added, right = (int(number) for number in own)
    upper = 2 * sums + twice
    assert np.array_equal(upper, fixedpoint.wrap32(upper))
    upper = (upper * multiplier + (2**31 if form.nearest else 0)) >> 32
    upper = upper - (form.lowered & (upper < 0)) + added
    assert np.array_equal(upper, fixedpoint.wrap32(upper))
    return np.asarray(np.clip(upper >> right, form.low, form.high))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(("zero", "low"), [(-128, -128), (5, -128), (5, 5), (-3, 10), (127, -100)])
def test_outputs_equal_the_reference_for_every_sum(single: bool, zero: int, low: int) -> None:
    random = np.random.default_rng(1000 + zero + low)
    weights = random.integers(-128, 128, (40, 9)).astype(np.int8)
    weights[-1] = 0
    multiplier = random.integers(2**30, 2**31, 40).astype(np.int32)
    shift = np.resize(np.array([-1, -2, -5, -7, -9, -12, -23, -31], np.int8), 40)
    multiplier[:8], shift[-1] = 2**30, 3
    bias = random.integers(-9000, 9000, 40).astype(np.int32)
    with fixedpoint.rounding(single):
        found = smlad.requantization(view(weights, bias, multiplier, shift, zero, low), weights, 40)
        assert found is not None
        form, scaling = found
        assert form.lowered == (not single and low < zero)
        for channel, own in enumerate(scaling.reshape(40, 4)):
            taps = weights[channel].astype(np.int64)
            lowest, highest = (int(pick(taps * -128, taps * 127).sum()) for pick in (np.minimum, np.maximum))
            sums = np.arange(lowest, highest + 1)
            folded = sums + int(bias[channel]) - 3 * int(taps.sum())
            scaled = fixedpoint.requantize(folded, int(multiplier[channel]), int(shift[channel]))
            assert np.array_equal(outputs(form, own, sums), np.clip(scaled + zero, low, 127))


def test_scales_of_a_half_and_more_have_no_form() -> None:
    weights, one = np.ones((1, 9), np.int8), np.ones(1, np.int32)
    assert smlad.requantization(view(weights, one, one * 2**30, one * -1, 0, -128), weights, 1) is not None
    assert smlad.requantization(view(weights, one, one * 2**30, one * 0, 0, -128), weights, 1) is None


def convolution(**options: Any) -> Case:
    shapes = (1, 8, 6, 6), (8, 8, 3, 3)
    return singles.weighted("conv", "Conv", *shapes, 0, QuantParams(0.05, -20), QuantParams(0.2, -128), **options)


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


def test_auto_takes_what_is_faster_on_the_core() -> None:
    """Own kernels that outrun CMSIS-NN's come first, CMSIS-NN's before the others."""
    library = cmsis_nn.CmsisNN(version="7.0.0", functions=frozenset({"arm_convolve_s8"}), convolve_upscales=True)
    taken = {}
    for cpu in ("cortex-m3", "cortex-m4", "cortex-m33", "cortex-m55"):
        choices = select(convolution().network, replace(TARGETS[cpu], cmsis_nn=library))
        taken[cpu] = next(choice.kernel.name for choice in choices if choice.layer.op == "conv2d")
    assert taken == {"cortex-m3": "horner", "cortex-m4": "smlad", "cortex-m33": "smlad", "cortex-m55": "mve"}
    without = select(convolution().network, replace(M4, cmsis_nn=library, assembly=False))
    assert "cmsis_nn" in {choice.kernel.name for choice in without}


def test_depthwise_outputs_are_paired_along_the_longer_axis() -> None:
    place = next(layer.params.window for layer in convolution().network.layers if layer.op == "conv2d")
    tall = replace(place, output=(4, 1), stride=(1, 1))
    assert smlad_depthwise.rows(tall).vertical
    assert smlad_depthwise.rows(replace(tall, output=(1, 1))).second == 0
    assert not smlad_depthwise.rows(replace(tall, output=(1, 4))).vertical
