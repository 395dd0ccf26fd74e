"""Quantization: the QDQ form, its numbers, and frozen files with their locks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from nnbuild import samples
from nnbuild.accuracy import measure
from nnbuild.cli import main
from nnbuild.contract import Calibrated, Fixed, Quantization, SameAsInput
from nnbuild.errors import CalibrationError, ConfigError, ModelError
from nnbuild.freeze import lock_path
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import QuantParams
from nnbuild.passes.graph import attribute
from nnbuild.pipeline import Request, input_shapes, quantized, serialized
from nnbuild.quantize import parameters, quantize, weight_scales
from nnbuild.ranges import Ranges
from tests.graphs import constant, feeds_for, kinds, model, node, run, save, weights

SOFTMAX = QuantParams(1 / 256, -128)


def gemm_rule(entry: NodeProto) -> Quantization:
    return Quantization(
        weights=1, weight_axis=lambda n, shape: 0 if attribute(n, "transB", 0) else 1, bias=2, fuses_clamp=True
    )


RULES: dict[str, Callable[[NodeProto], Quantization]] = {
    "Conv": lambda entry: Quantization(weights=1, bias=2, fuses_clamp=True),
    "Gemm": gemm_rule,
    "Add": lambda entry: Quantization(fuses_clamp=True),
    "Relu": lambda entry: Quantization(output=SameAsInput()),
    "Clip": lambda entry: Quantization(output=SameAsInput(), parameters=frozenset((1, 2))),
    "MaxPool": lambda entry: Quantization(output=SameAsInput()),
    "Reshape": lambda entry: Quantization(output=SameAsInput()),
    "Sigmoid": lambda entry: Quantization(output=Calibrated()),
    "Softmax": lambda entry: Quantization(output=Fixed(SOFTMAX)),
    "Pad": lambda entry: Quantization(output=SameAsInput(), parameters=frozenset((1, 2, 3))),
    "Identity": lambda entry: Quantization(output=SameAsInput()),
}


def ranges_of(proto: onnx.ModelProto, **given: tuple[float, float]) -> Ranges:
    names = [value.name for value in proto.graph.input] + [n for e in proto.graph.node for n in e.output]
    return Ranges({name: given.get(name, (-4.0, 4.0)) for name in names}, "minmax", 1, "")


def prepared(folder: Path, proto: onnx.ModelProto) -> onnx.ModelProto:
    return import_model(save(folder, proto), operators=RULES)


def quantization(proto: onnx.ModelProto, value: str) -> tuple[float, int]:
    """Parameters of the pair whose DequantizeLinear writes, or whose QuantizeLinear reads, `value`."""
    for entry in proto.graph.node:
        if entry.op_type == "QuantizeLinear" and value in (entry.input[0], entry.output[0]):
            return float(constant(proto, entry.input[1])), int(constant(proto, entry.input[2]))
        if entry.op_type == "DequantizeLinear" and entry.output[0] == value:
            return float(constant(proto, entry.input[1])), int(constant(proto, entry.input[2]))
    raise KeyError(value)


def dequantized(proto: onnx.ModelProto, value: str) -> tuple[Any, Any, int]:
    """(stored, scales, axis) of a constant behind its DequantizeLinear."""
    entry = next(entry for entry in proto.graph.node if value in entry.output)
    stored, scales = (constant(proto, name) for name in entry.input[:2])
    return stored, scales, attribute(entry, "axis", 0)


# Numbers.


@pytest.mark.parametrize("span", [(0.0, 255.0), (-1.0, 1.0), (2.0, 6.0), (-7.0, -3.0), (-0.3, 12.7), (-1e-3, 1e3)])
def test_zero_is_exact_and_the_range_is_covered(span: tuple[float, float]) -> None:
    quant = parameters(span)
    low, high = (quant.scale * (end - quant.zero_point) for end in (-128, 127))
    assert -128 <= quant.zero_point <= 127
    assert quant.scale == float(np.float32(quant.scale))
    assert low <= min(span[0], 0) + quant.scale / 2
    assert high >= max(span[1], 0) - quant.scale / 2
    assert quant.scale <= (max(span[1], 0) - min(span[0], 0)) / 255 * 1.000001


def test_pixels_keep_their_values() -> None:
    assert parameters((0.0, 255.0)) == QuantParams(1.0, -128)


@pytest.mark.parametrize("span", [(0.0, 0.0), (0.0, 1e-44), (-1e-30, 0.0)])
def test_values_that_hardly_differ_from_zero(span: tuple[float, float]) -> None:
    assert parameters(span).scale > 1e-11


def test_weight_scale_is_raised_until_the_bias_fits() -> None:
    channels = np.array([[1.0, -0.5], [1e-9, 0.0], [1e-9, 0.0]], np.float32)
    bias = np.array([100.0, 0.0, 3.0], np.float32)
    scales = weight_scales(channels, bias, 0.01)
    assert scales[0] == pytest.approx(1 / 127)
    assert scales[1] == pytest.approx(1e-10)
    assert abs(bias / (0.01 * scales.astype(np.float64))).max() <= 2**30 * 1.0001


def test_weight_scale_is_that_of_the_least_squared_error() -> None:
    channels = np.random.default_rng(3).standard_normal((40, 30)).astype(np.float32)
    many = np.random.default_rng(4).standard_normal((2, 20_000))  # clipping a few of many makes all others finer
    grid = np.array([[-127, 5, 64], [3, 127, 0]]) * np.array([[0.5], [0.03]])  # this is exact already

    def error(scales: Any) -> Any:
        steps = np.clip(np.rint(channels / scales[:, None]), -127, 127)
        return np.square(steps * scales[:, None] - channels).sum(axis=1)

    found, widest = weight_scales(channels, None, 0.05), np.abs(channels).max(axis=1) / 127
    assert (error(found) <= error(widest) * 1.0001).all()
    assert (found <= widest * 1.0001).all()
    assert (weight_scales(many, None, 0.05) < np.abs(many).max(axis=1) / 127 * 0.99).all()
    assert weight_scales(grid, None, 0.05) == pytest.approx([0.5, 0.03])
    # Clipping never takes the room that a bias needs.
    assert weight_scales(channels, np.full(40, 1e8, np.float32), 0.05) == pytest.approx(np.full(40, 1e8 / 0.05 / 2**30))


def test_channels_of_zeros_keep_their_bias() -> None:
    channels = np.array([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]], np.float32)
    bias = np.array([3.0, 0.0, 0.0], np.float32)
    scales = weight_scales(channels, bias, 0.05).astype(np.float64)
    assert (scales > 0).all()
    stored = np.rint(bias / (0.05 * scales))
    np.testing.assert_allclose(stored * 0.05 * scales, bias, rtol=1e-5)
    assert weight_scales(channels, None, 0.05)[0] == pytest.approx(2 / 127)
    assert weight_scales(np.zeros((2, 2), np.float32), None, 0.05).tolist() == [1.0, 1.0]


# Form.


def test_convolution_with_clamp(tmp_path: Path) -> None:
    w = weights(4, 3, 3, 3)
    w[1] *= 100
    nodes = [node("Conv", "x w b", "c"), node("Clip", "c lo hi", "y")]
    constants = {"w": w, "b": weights(4), "lo": np.float32(0), "hi": np.float32(6)}
    proto = prepared(tmp_path, model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], constants))
    result = quantize(proto, ranges_of(proto, x=(-1.0, 1.0), c=(-50.0, 50.0), y=(0.0, 6.0)), RULES)
    onnx.checker.check_model(result, full_check=True)
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert kinds(result) == [*pair, "DequantizeLinear", "DequantizeLinear", "Conv", "Clip", *pair]
    conv = next(entry for entry in result.graph.node if entry.op_type == "Conv")
    stored, scales, axis = dequantized(result, conv.input[1])
    assert (stored.dtype, scales.shape, axis) == (np.int8, (4,), 0)
    np.testing.assert_allclose(scales, np.abs(w).reshape(4, -1).max(axis=1) / 127, rtol=1e-6)
    assert np.abs(stored).max(axis=(1, 2, 3)).tolist() == [127] * 4
    bias, bias_scales, axis = dequantized(result, conv.input[2])
    assert (bias.dtype, axis) == (np.int32, 0)
    np.testing.assert_array_equal(bias_scales, np.float32(parameters((-1, 1)).scale) * scales)
    assert quantization(result, "y") == (parameters((0.0, 6.0)).scale, -128)
    assert [value.name for value in result.graph.output] == ["y"]


def test_a_clamp_with_other_readers_in_front_is_not_fused(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Add", "c r", "y")]
    proto = prepared(tmp_path, model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], {"w": weights(4, 3, 1, 1)}))
    result = quantize(proto, ranges_of(proto, c=(-5.0, 4.0)), RULES)
    assert quantization(result, "c") == quantization(result, "r")
    assert kinds(result).count("QuantizeLinear") == 4


def test_a_clamp_behind_an_output_is_not_fused(tmp_path: Path) -> None:
    nodes = [node("Gemm", "x w", "y"), node("Relu", "y", "z")]
    proto = prepared(tmp_path, model(nodes, {"x": ["N", 3]}, ["y", "z"], {"w": weights(3, 2)}))
    result = quantize(proto, ranges_of(proto), RULES)
    assert [value.name for value in result.graph.output] == ["y", "z"]
    assert kinds(result).count("QuantizeLinear") == 3
    assert len(run(result, feeds_for(result))) == 2


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_weights_are_per_output(transposed: int, tmp_path: Path) -> None:
    w = weights(5, 3) if transposed else weights(3, 5)
    gemm = node("Gemm", "x w b", "y", transB=transposed)
    proto = prepared(tmp_path, model([gemm], {"x": ["N", 3]}, ["y"], {"w": w, "b": weights(5)}))
    result = quantize(proto, ranges_of(proto), RULES)
    entry = next(entry for entry in result.graph.node if entry.op_type == "Gemm")
    stored, scales, axis = dequantized(result, entry.input[1])
    assert (axis, len(scales)) == (1 - transposed, 5)
    np.testing.assert_allclose(stored * np.expand_dims(scales, 1 - axis), w, atol=scales.max() / 2)


@pytest.mark.parametrize(("weights_shape", "axis", "scales"), [((4, 3, 2, 2), 1, 3), ((2, 1, 2, 2), 0, 2)])
def test_groups_of_a_transposed_convolution_share_the_scales_of_weights(
    weights_shape: tuple[int, ...], axis: int, scales: int, tmp_path: Path
) -> None:
    outputs = 2 * weights_shape[1]
    bias = np.arange(1, outputs + 1, dtype=np.float32)
    constants = {"w": weights(*weights_shape), "b": bias}
    nodes = [node("ConvTranspose", "x w b", "y", strides=[2, 2], group=2)]
    proto = import_model(save(tmp_path, model(nodes, {"x": [1, weights_shape[0], 3, 3]}, ["y"], constants)))
    result = quantize(proto, ranges_of(proto))
    (entry,) = (entry for entry in result.graph.node if entry.op_type == "ConvTranspose")
    _, weight_scales, found = dequantized(result, entry.input[1])
    stored, bias_scales, _ = dequantized(result, entry.input[2])
    assert (found, weight_scales.size) == (axis, scales)
    np.testing.assert_allclose(stored * bias_scales, bias, rtol=1e-3)
    network = lower(result, "m")
    assert [layer.params.groups for layer in network.layers if layer.op == "conv_transpose"] == [2]


def test_same_as_input_and_fixed(tmp_path: Path) -> None:
    nodes = [
        node("MaxPool", "x", "m", kernel_shape=[2, 2]),
        node("Reshape", "m s", "f"),
        node("Softmax", "f", "y"),
    ]
    proto = prepared(tmp_path, model(nodes, {"x": ["N", 1, 3, 3]}, ["y"], {"s": np.array([1, 4])}))
    result = quantize(proto, ranges_of(proto, x=(-3.0, 1.0), m=(-1.0, 1.0)), RULES)
    assert quantization(result, "x") == quantization(result, "m") == quantization(result, "f")
    assert quantization(result, "y") == (1 / 256, -128)


@pytest.mark.parametrize(
    ("fill", "reader", "low"),
    [
        (-1e9, "Softmax", -10.0),
        (-30.0, "Softmax", -10.0),
        (-5.0, "Softmax", -5.0),
        (-1e9, "Tanh", -2.0),
        (-30.0, "Tanh", -30.0),
    ],
)
def test_the_fill_of_a_mask_leaves_the_other_values_their_steps(
    fill: float, reader: str, low: float, tmp_path: Path
) -> None:
    constants = {"m": np.array([True, False]), "f": np.float32(fill)}
    nodes = [node("Relu", "x", "r"), node("Neg", "r", "n"), node("Where", "m n f", "w"), node(reader, "w", "y")]
    proto = import_model(save(tmp_path, model(nodes, {"x": [1, 2]}, ["y"], constants)))
    spans = {"x": (-1.0, 2.0), "r": (0.0, 2.0), "n": (-2.0, 0.0), "w": (min(fill, -2.0), 0.0), "y": (-1.0, 1.0)}
    result = quantize(proto, ranges_of(proto, **spans))
    scale, zero_point = quantization(result, "w")
    assert scale == pytest.approx(-low / 255)
    assert zero_point == 127
    assert quantization(result, "n") == (scale, zero_point)
    where = next(entry for entry in result.graph.node if entry.op_type == "Where")
    assert dequantized(result, where.input[2])[0] == max(round(fill / scale) + 127, -128)


def test_the_fill_of_a_mask_does_not_count_as_noise(tmp_path: Path) -> None:
    constants = {"m": np.tril(np.ones((6, 6), np.bool_)), "f": np.float32(-np.inf)}
    nodes = [node("Where", "m x f", "w"), node("Softmax", "w", "y")]
    save(tmp_path, model(nodes, {"x": [1, 6, 6]}, ["y"], constants))
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).normal(0, 2, (8, 1, 6, 6)).astype(np.float32))
    request = Request(str(tmp_path / "m.onnx"), str(tmp_path / "c.npz"))
    int8 = onnx.load_model_from_string(quantized(request).content)
    proto = import_model(tmp_path / "m.onnx")
    found = measure(proto, int8, samples.load(str(tmp_path / "c.npz"), input_shapes(proto)))
    (chosen,) = (layer for layer in found.layers if layer.op == "where")
    assert chosen.sqnr_db is not None
    assert chosen.sqnr_db > 25


def test_a_constant_operand_is_int8(tmp_path: Path) -> None:
    k = np.linspace(-1, 3, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    proto = prepared(tmp_path, model([node("Add", "x k", "y")], {"x": ["N", 3, 4, 4]}, ["y"], {"k": k}))
    result = quantize(proto, ranges_of(proto), RULES)
    add = next(entry for entry in result.graph.node if entry.op_type == "Add")
    stored, scale, _ = dequantized(result, add.input[1])
    assert stored.dtype == np.int8
    assert float(scale) == parameters((-1, 3)).scale


def test_bounds_stay_float(tmp_path: Path) -> None:
    nodes = [node("Clip", "x lo hi", "c"), node("Pad", "c p v", "y")]
    constants = {"lo": np.float32(-1), "hi": np.float32(1), "p": np.array([0, 1, 0, 0]), "v": np.float32(0.5)}
    proto = prepared(tmp_path, model(nodes, {"x": ["N", 4]}, ["y"], constants))
    result = quantize(proto, ranges_of(proto), RULES)
    assert kinds(result).count("DequantizeLinear") == 3
    clip = next(entry for entry in result.graph.node if entry.op_type == "Clip")
    assert [float(constant(result, name)) for name in clip.input[1:]] == [-1.0, 1.0]


def test_scale_and_bias_of_a_normalization_stay_float(tmp_path: Path) -> None:
    nodes = [node("LayerNormalization", "x g b", "n"), node("Relu", "n", "y")]
    constants = {"g": weights(4), "b": weights(4, seed=1)}
    path = save(tmp_path, model(nodes, {"x": ["N", 3, 4]}, ["y"], constants))
    result = quantize(import_model(path), ranges_of(import_model(path)))
    assert kinds(result) == [
        "QuantizeLinear", "DequantizeLinear", "LayerNormalization", "Relu", "QuantizeLinear", "DequantizeLinear",
    ]  # fmt: skip
    norm = next(entry for entry in result.graph.node if entry.op_type == "LayerNormalization")
    for name, values in zip(norm.input[1:], constants.values(), strict=True):
        np.testing.assert_array_equal(constant(result, name), values)


def test_an_input_that_is_an_output(tmp_path: Path) -> None:
    proto = prepared(tmp_path, model([node("Identity", "x", "y")], {"x": ["N", 4]}, ["y"]))
    result = quantize(proto, ranges_of(proto), RULES)
    feeds = feeds_for(result, spread=1.0)
    np.testing.assert_allclose(run(result, feeds)[0], feeds["x"], atol=8 / 255)


def test_names_that_are_taken(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "x_quantized"), node("Sigmoid", "x_quantized", "x_scale"), node("Add", "x_scale x", "y")]
    proto = prepared(tmp_path, model(nodes, {"x": ["N", 4]}, ["y"]))
    result = quantize(proto, ranges_of(proto), RULES)
    onnx.checker.check_model(result, full_check=True)
    written = [name for entry in result.graph.node for name in entry.output]
    written += [tensor.name for tensor in result.graph.initializer]
    assert len(written) == len(set(written))


def test_weights_of_two_nodes(tmp_path: Path) -> None:
    """One initializer, two scales, because the second bias does not fit the first's."""
    nodes = [node("Gemm", "x w b", "t"), node("Gemm", "t w c", "y")]
    constants = {"w": weights(3, 3), "b": weights(3), "c": np.array([1e12, 0, 0], np.float32)}
    proto = prepared(tmp_path, model(nodes, {"x": ["N", 3]}, ["y"], constants))
    result = quantize(proto, ranges_of(proto), RULES)
    gemms = [entry for entry in result.graph.node if entry.op_type == "Gemm"]
    first, second = (dequantized(result, entry.input[1])[1] for entry in gemms)
    assert first[0] < second[0]
    assert first[1] == second[1]


def test_the_float_model_is_left_alone(tmp_path: Path) -> None:
    proto = prepared(tmp_path, model([node("Relu", "x", "y")], {"x": ["N", 3]}, ["y"]))
    before = serialized(proto)
    quantize(proto, ranges_of(proto), RULES)
    assert serialized(proto) == before


def test_ranges_of_another_model(tmp_path: Path) -> None:
    proto = prepared(tmp_path, model([node("Relu", "x", "y")], {"x": ["N", 3]}, ["y"]))
    with pytest.raises(CalibrationError, match="hold nothing for 'y': they belong to another model"):
        quantize(proto, Ranges({"x": (0.0, 1.0)}, "minmax", 1, ""), RULES)


def test_operators_without_a_rule_are_listed(tmp_path: Path) -> None:
    proto = prepared(tmp_path, model([node("Relu", "x", "r"), node("Sigmoid", "r", "y")], {"x": ["N", 3]}, ["y"]))
    with pytest.raises(ModelError) as caught:
        quantize(proto, ranges_of(proto), {})
    assert len(caught.value.findings) == 2


# The reference networks.

NETWORKS = [
    ("tf2onnx/kws01_tf", "kws01_calib", "kws01_dev", 300, 0.986, 30.0),
    ("torch/kws01_torch_legacy", "kws01_calib", "kws01_dev", 300, 0.986, 30.0),
    ("torch/kws01_torch_dynamo", "kws01_calib", "kws01_dev", 300, 0.986, 30.0),
    ("tf2onnx/ic01_tf", "ic01_calib", "ic01_dev", 500, 0.99, 27.0),
    ("torch/ic01_torch_legacy", "ic01_calib", "ic01_dev", 500, 0.99, 27.0),
    ("torch/ic01_torch_dynamo", "ic01_calib", "ic01_dev", 500, 0.99, 27.0),
    ("tf2onnx/ad01_tf", "ad01_calib", "ad01_calib", 20, 0.0, 35.0),
    ("torch/ad01_torch_legacy", "ad01_calib", "ad01_calib", 20, 0.0, 35.0),
    ("torch/ad01_torch_dynamo", "ad01_calib", "ad01_calib", 20, 0.0, 35.0),
    ("tf2onnx/sww_tf", "sww_calib", "sww_calib", 24, 0.99, 35.0),
    ("torch/sww_torch_legacy", "sww_calib", "sww_calib", 24, 0.99, 35.0),
    ("torch/sww_torch_dynamo", "sww_calib", "sww_calib", 24, 0.99, 35.0),
    ("tf2onnx/vww96_tf", "vww96_calib_surrogate", "vww96_calib_surrogate", 20, 0.99, 28.0),
    ("torch/vww96_torch_legacy", "vww96_calib_surrogate", "vww96_calib_surrogate", 20, 0.99, 28.0),
    ("torch/vww96_torch_dynamo", "vww96_calib_surrogate", "vww96_calib_surrogate", 20, 0.99, 28.0),
]


def reference_samples(folder: Path, data: Path, name: str, proto: onnx.ModelProto) -> str:
    """The data file in the model's layout; without the calibration samples where it is for validation."""
    archive = np.load(data / f"{name}.npz")
    x = archive["x"]
    if "calib_idx" in archive:
        x = np.delete(x, archive["calib_idx"], axis=0)
    if name.startswith("vww96"):
        x = x / np.float32(255)
    (shape,) = input_shapes(proto).values()
    if len(shape) == 4 and x.shape[1:] != shape[1:]:
        x = x.transpose(0, 3, 1, 2)
    np.save(folder / f"{name}.npy", x)
    return str(folder / f"{name}.npy")


@pytest.mark.parametrize(("name", "calibration", "validation", "count", "agreement", "sqnr"), NETWORKS)
def test_reference_networks_keep_their_accuracy(
    name: str, calibration: str, validation: str, count: int, agreement: float, sqnr: float,
    reference_dir: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """With default options, measured in integers on samples that did not calibrate."""
    path = reference_dir / "models" / f"{name}.onnx"
    proto = import_model(path)
    data = reference_dir / "data"
    result = quantized(Request(str(path), reference_samples(tmp_path, data, calibration, proto)))
    int8 = onnx.load_model_from_string(result.content)
    onnx.checker.check_model(int8, full_check=True)
    spec = reference_samples(tmp_path, data, validation, proto)
    found = measure(proto, import_model(save(tmp_path, int8)), samples.load(spec, input_shapes(proto)), count)
    assert found.agreement is not None
    assert found.agreement >= 100 * agreement
    assert found.sqnr_db >= sqnr


# The commands.


def small(folder: Path) -> tuple[str, str]:
    nodes = [node("Gemm", "x w b", "t"), node("Relu", "t", "y")]
    proto = model(nodes, {"x": ["N", 3]}, ["y"], {"w": weights(3, 4), "b": weights(4)})
    np.savez(folder / "c.npz", x=np.random.default_rng(0).normal(size=(20, 3)))
    return str(save(folder, proto)), str(folder / "c.npz")


def test_command_is_deterministic_and_runs(tmp_path: Path) -> None:
    path, spec = small(tmp_path)
    for name in ("a", "b"):
        assert main(["quantize", path, "--calibration", spec, "-o", str(tmp_path / f"{name}.int8.onnx")]) == 0
    assert (tmp_path / "a.int8.onnx").read_bytes() == (tmp_path / "b.int8.onnx").read_bytes()
    result = onnx.load(tmp_path / "a.int8.onnx")
    feeds = feeds_for(result, spread=0.5)
    np.testing.assert_allclose(run(result, feeds)[0], run(import_model(path), feeds)[0], atol=0.1)


def test_calibrating_apart_gives_the_same(tmp_path: Path) -> None:
    path, spec = small(tmp_path)
    ranges, one, two = (str(tmp_path / name) for name in ("m.ranges.json", "one.onnx", "two.onnx"))
    assert main(["calibrate", path, "--calibration", spec, "-o", ranges]) == 0
    assert main(["quantize", path, "--ranges", ranges, "-o", one]) == 0
    assert main(["quantize", path, "--calibration", spec, "--corrections", "none", "-o", two]) == 0
    assert Path(one).read_bytes() == Path(two).read_bytes()
    corrected, again = (str(tmp_path / name) for name in ("three.onnx", "four.onnx"))
    assert main(["quantize", path, "--ranges", ranges, "--calibration", spec, "-o", corrected]) == 0
    assert main(["quantize", path, "--calibration", spec, "-o", again]) == 0
    assert Path(corrected).read_bytes() == Path(again).read_bytes()
    assert main(["quantize", path, "--ranges", ranges, "--method", "mse", "-o", two]) == 1


def test_made_up_samples_are_remarked(tmp_path: Path) -> None:
    path, spec = small(tmp_path)
    one, two, ranges = (str(tmp_path / name) for name in ("one.onnx", "two.onnx", "m.ranges.json"))
    assert main(["quantize", path, "--calibration", "synthetic", "-o", one]) == 0
    assert main(["calibrate", path, "--calibration", "synthetic", "-o", ranges]) == 0
    assert main(["quantize", path, "--ranges", ranges, "--calibration", spec, "-o", two]) == 0
    assert Path(one).read_bytes() == Path(two).read_bytes()
    assert lower(import_model(one)).synthetic
    assert main(["quantize", path, "--calibration", spec, "-o", two]) == 0
    assert not lower(import_model(two)).synthetic
    out = tmp_path / "out"
    assert main(["emit", one, "--name", "m", "--cpu", "cortex-m0", "--output-dir", str(out)]) == 0
    for name in ("m.c", "m.h"):
        assert 'made-up samples (calibration="synthetic")' in (out / name).read_text()
    assert json.loads((out / "m.report.json").read_text())["synthetic"] is True


def test_a_quantized_model_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, spec = small(tmp_path)
    int8, again = str(tmp_path / "m.int8.onnx"), str(tmp_path / "again.onnx")
    assert main(["quantize", path, "--calibration", spec, "-o", int8]) == 0
    assert main(["quantize", int8, "-o", again]) == 0
    first, second = onnx.load(int8), onnx.load(again)
    assert kinds(first) == kinds(second)
    for one, two in zip(first.graph.initializer, second.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two))
    assert main(["quantize", int8, "--calibration", spec, "-o", again]) == 1
    assert "already quantized" in capsys.readouterr().err


def test_command_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = small(tmp_path)
    output = str(tmp_path / "out.onnx")
    (tmp_path / "bad.json").write_text("{")
    assert main(["quantize", path, "-o", output]) == 1
    assert main(["quantize", path, "--ranges", str(tmp_path / "bad.json"), "-o", output]) == 1
    assert main(["quantize", path, "--ranges", str(tmp_path / "none.json"), "-o", output]) == 1
    assert main(["quantize", path, "--calibration", str(tmp_path / "none.npz"), "-o", output]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "not a ranges file" in lines[1]
    assert not Path(output).exists()


# Frozen.


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    path, spec = small(tmp_path)
    assert main(["freeze", path, "--calibration", spec, "-o", str(tmp_path / "m.int8.onnx")]) == 0
    return tmp_path


def thaw(folder: Path, *more: str, calibration: str = "c.npz") -> int:
    words = ["quantize", str(folder / "m.onnx"), "--frozen", str(folder / "m.int8.onnx")]
    words += ["--calibration", str(folder / calibration)] if calibration else []
    return main([*words, *more, "-o", str(folder / "out.onnx")])


def test_frozen_file_is_copied(frozen: Path) -> None:
    assert lock_path("a/m.int8.onnx") == Path("a/m.int8.lock")
    assert thaw(frozen) == 0
    assert (frozen / "out.onnx").read_bytes() == (frozen / "m.int8.onnx").read_bytes()
    lock = json.loads((frozen / "m.int8.lock").read_text())
    assert set(lock["versions"]) == {"nnbuild", "numpy", "onnx", "onnxruntime"}
    assert str(frozen) not in (frozen / "m.int8.lock").read_text()


def test_another_version_does_not_break_a_lock(frozen: Path) -> None:
    lock = json.loads((frozen / "m.int8.lock").read_text())
    lock["versions"]["onnxruntime"] = "0.1"
    (frozen / "m.int8.lock").write_text(json.dumps(lock))
    assert thaw(frozen) == 0


def test_the_same_samples_in_another_file(frozen: Path) -> None:
    np.save(frozen / "d.npy", np.load(frozen / "c.npz")["x"])
    assert thaw(frozen, calibration="d.npy") == 0


def test_absent_calibration_data_is_not_checked(frozen: Path) -> None:
    (frozen / "c.npz").unlink()
    assert thaw(frozen) == 0
    assert thaw(frozen, calibration="") == 0


def test_everything_that_changed_is_named(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (frozen / "m.onnx").open("ab") as stream:
        stream.write(onnx.ModelProto(doc_string="changed").SerializeToString())
    np.savez(frozen / "c.npz", x=np.ones((2, 3)))
    assert thaw(frozen, "--method", "minmax") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "the model" in lines[0]
    assert 'option method is "minmax", frozen with not given' in lines[1]
    assert "the calibration samples" in lines[2]
    assert all("m.int8.onnx: " in line and "; hint: freeze again" in line for line in lines)
    assert not (frozen / "out.onnx").exists()


def test_an_edited_int8_file(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((frozen / "m.int8.onnx").read_bytes())
    content[-20] ^= 1
    (frozen / "m.int8.onnx").write_bytes(content)
    assert thaw(frozen) == 1
    assert "the int8 file is not the one that the lock was written for" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 7}'])
def test_damaged_locks(text: str, frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frozen / "m.int8.lock").write_text(text)
    assert thaw(frozen) == 1
    assert "m.int8.lock: not a lock file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["m.int8.lock", "m.int8.onnx"])
def test_missing_files(name: str, frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frozen / name).unlink()
    assert thaw(frozen) == 1
    assert f"{name}: cannot read: No such file or directory; hint: freeze again" in capsys.readouterr().err


def test_external_data_is_locked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, spec = small(tmp_path)
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    assert main(["freeze", path, "--calibration", spec, "-o", str(tmp_path / "m.int8.onnx")]) == 0
    assert thaw(tmp_path) == 0
    content = bytearray((tmp_path / "m.bin").read_bytes())
    content[3] ^= 1
    (tmp_path / "m.bin").write_bytes(content)
    assert thaw(tmp_path) == 1
    assert "the model's data file 'm.bin' is not the one that was frozen" in capsys.readouterr().err


def test_a_frozen_build_does_not_import_onnxruntime(frozen: Path) -> None:
    script = "import sys; sys.modules['onnxruntime'] = None\nfrom nnbuild.cli import main\nsys.exit(main(sys.argv[1:]))"
    words = ["quantize", "m.onnx", "--frozen", "m.int8.onnx", "--calibration", "c.npz", "-o", "out.onnx"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=frozen, capture_output=True, text=True, check=False, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_freezing_a_quantized_model(frozen: Path) -> None:
    int8 = str(frozen / "m.int8.onnx")
    assert main(["freeze", int8, "-o", str(frozen / "n.int8.onnx")]) == 0
    assert main(["quantize", int8, "--frozen", str(frozen / "n.int8.onnx"), "-o", str(frozen / "o.onnx")]) == 0
    with pytest.raises(ConfigError):
        quantized(Request(int8, str(frozen / "c.npz")))


# The accuracy command.


def test_accuracy_command(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(30, 3)).astype(np.float32)
    labels = [int(np.argmax(run(import_model(frozen / "m.onnx"), {"x": row[None]})[0])) for row in x]
    np.savez(frozen / "v.npz", x=x, y=labels)
    words = ["accuracy", str(frozen / "m.onnx"), str(frozen / "m.int8.onnx"), "--samples", str(frozen / "v.npz")]
    assert main([*words, "--min-agreement", "0.8", "--min-sqnr", "20"]) == 0
    printed = capsys.readouterr().out
    assert "samples    30" in printed
    assert "(float 100.00 %)" in printed
    assert main([*words, "--limit", "7"]) == 0
    assert "samples    7" in capsys.readouterr().out
    assert main([*words, "--min-sqnr", "90"]) == 1
    assert "m sqnr is " in capsys.readouterr().err


def test_accuracy_of_another_model(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = save(frozen, model([node("Relu", "x", "y")], {"x": ["N", 5]}, ["y"]), "other.onnx")
    words = ["--samples", str(frozen / "c.npz")]
    assert main(["accuracy", str(other), str(frozen / "m.int8.onnx"), *words]) == 1
    assert main(["accuracy", str(frozen / "m.onnx"), str(other), *words]) == 1
    assert main(["accuracy", str(frozen / "m.int8.onnx"), str(frozen / "m.int8.onnx"), *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "other inputs or outputs" in lines[0]
    assert "is not quantized" in lines[1]
    assert "there is no float model" in lines[2]


def test_fully_connected_per_tensor_has_one_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = (rng.normal(size=(4, 8)) * np.array([[1.0], [0.1], [3.0], [0.01]])).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="fc", transB=1)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, [1, 8])],
        [value("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.savez(tmp_path / "c.npz", x=rng.normal(size=(20, 8)).astype(np.float32))
    distinct = {}
    for how in ("per_channel", "per_tensor"):
        request = Request(str(path), str(tmp_path / "c.npz"), fully_connected=how)
        network = lower(onnx.ModelProto.FromString(quantized(request).content))
        distinct[how] = len(set(network.layers[0].constants["multiplier"].tolist()))
    assert distinct == {"per_channel": 4, "per_tensor": 1}
