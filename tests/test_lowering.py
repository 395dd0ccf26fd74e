"""Forms of QDQ that other tools write, and what no tool should: each was once lowered wrongly or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnbuild import interpret
from nnbuild.contract import Case
from nnbuild.errors import ModelError
from nnbuild.network import Array, QuantParams
from nnbuild.ops import singles
from nnbuild.target import TARGETS

from .test_kernels_host import mismatches

QUANT, OTHER = QuantParams(0.05, -20), QuantParams(0.06, 5)


def quantized_behind_a_view(model: singles._Model) -> str:
    weights = model.quantized(np.arange(-6, 6, dtype=np.int8).reshape(2, 6, 1), np.array(0.02))
    convolved = model.node("Conv", [model.input((1, 6, 4), QUANT), weights])
    return model.pair(model.node("Flatten", [convolved]), OTHER)


def max_pool_without_a_scale_of_its_own(model: singles._Model) -> str:
    return model.node("MaxPool", [model.input((1, 3, 6), QUANT)], kernel_shape=[2], strides=[2])


def clamp_without_a_scale_of_its_own(model: singles._Model) -> str:
    return model.clamp(model.input((1, 40), QUANT), ("Clip", -1.0, 2.0))


def clamp_whose_bounds_cross(model: singles._Model) -> str:
    return model.pair(model.clamp(model.input((1, 40), QUANT), ("Clip", 2.0, 1.0)), QUANT)


FORMS: dict[str, tuple[Callable[[singles._Model], str], list[str]]] = {
    "quantized_behind_a_view": (quantized_behind_a_view, ["transpose", "conv2d", "transpose"]),
    "max_pool_without_a_scale_of_its_own": (
        max_pool_without_a_scale_of_its_own,
        ["transpose", "max_pool", "transpose"],
    ),
    "clamp_without_a_scale_of_its_own": (clamp_without_a_scale_of_its_own, ["clamp"]),
    "clamp_whose_bounds_cross": (clamp_whose_bounds_cross, ["clamp"]),
}


def built(name: str) -> Case:
    model = singles._Model(name)
    return model.case(FORMS[name][0](model))


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str, tmp_path: Path) -> None:
    case = built(name)
    assert [layer.op for layer in case.network.layers] == FORMS[name][1]
    assert mismatches(case, TARGETS["generic"], tmp_path) == 0


def test_bounds_that_cross_give_the_upper_one() -> None:
    """ONNX, Clip: 'When min is greater than max, the clip operator sets all the input values to the value of max'."""
    case = built("clamp_whose_bounds_cross")
    (output,) = interpret.run(case.network, [np.arange(-20, 20, dtype=np.int8)])
    assert set(output.ravel().tolist()) == {0}  # 1.0 / 0.05 - 20


def test_a_bound_that_is_no_number() -> None:
    model = singles._Model("nan")
    with pytest.raises(ModelError, match="bounds are not scalar constants"):
        model.case(model.pair(model.clamp(model.input((1, 4), QUANT), ("Clip", float("nan"), 1.0)), QUANT))


@pytest.mark.parametrize(
    ("scale", "zeros", "message"),
    [
        (np.array([-0.1, 0.1], np.float32), np.zeros(2, np.int8), "a scale is not a positive number"),
        (np.array([np.nan, 0.1], np.float32), np.zeros(2, np.int8), "a scale is not a positive number"),
        (np.array([0.1, 0.1], np.float32), np.zeros(1, np.int8), "1 zero points for 2 scales"),
        (np.array([], np.float32), np.zeros(0, np.int8), "0 zero points for 0 scales"),
    ],
)
def test_weights_whose_quantization_makes_no_sense(scale: Array, zeros: Array, message: str) -> None:
    model = singles._Model("weights")
    value = model.input((1, 3), QUANT)
    stored = [model.constant(np.ones((2, 3), np.int8)), model.constant(scale), model.constant(zeros)]
    weights = model.node("DequantizeLinear", stored, axis=0)
    with pytest.raises(ModelError, match=message):
        model.case(model.pair(model.node("Gemm", [value, weights], transB=1), OTHER))


def test_an_axis_that_is_not_there() -> None:
    model = singles._Model("axis")
    value = model.input((1, 3), QUANT)
    weights = model.quantized(np.ones((2, 3), np.int8), np.array([0.1, 0.1], np.float32), axis=7)
    with pytest.raises(ModelError, match="blocked quantization is not supported"):
        model.case(model.pair(model.node("Gemm", [value, weights], transB=1), OTHER))


def never_fired(model: singles._Model, kind: str) -> str:
    """`kind` on values of scale 1 with an output of scale 1e-10, which calibration gives an activation of zeros."""
    value = model.input((1, 4, 1), QuantParams(1.0, 0))
    if kind == "Add":
        result = model.node("Add", [value, model.input((1, 4, 1), QuantParams(0.5, 0))])
    elif kind == "GlobalAveragePool":
        result = model.node(kind, [value])
    else:
        weights = model.quantized(np.arange(1, 17, dtype=np.int8).reshape(4, 4, 1), np.array(0.01))
        result = model.node("Conv", [value, weights])
    return model.pair(result, QuantParams(1e-10, 0))


@pytest.mark.parametrize("kind", ["Add", "Conv", "GlobalAveragePool"])
def test_an_output_scale_far_too_small_saturates(kind: str, tmp_path: Path) -> None:
    model = singles._Model(kind)
    case = model.case(never_fired(model, kind))
    for value in (-128, -77, -1, 0, 1, 5, 77, 127):
        (output,) = interpret.run(case.network, [np.full(4, value, np.int8) for _ in case.inputs])
        assert set(output.ravel().tolist()) == {max(min(value * 999, 127), -128)}, value
    assert mismatches(case, TARGETS["generic"], tmp_path) == 0


def test_celu_of_values_far_above_its_alpha() -> None:
    """A step of 0.5 and an alpha of 0.01: e^(x / alpha) is no number, and not needed."""
    case = singles.unary("t", "Celu", (1, 256), QuantParams(0.5, 0), QuantParams(0.5, 0), {"alpha": 0.01})
    every = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(interpret.run(case.network, [every])[0].ravel(), np.maximum(every, 0))
