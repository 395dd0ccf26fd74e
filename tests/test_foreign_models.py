"""Quantized models of other tools, in the node patterns that these write: what builds, and what is refused in a line.

Tools and versions: docs/INTEROPERABILITY.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnbuild.errors import ModelError
from nnbuild.network import QuantParams
from tests.graphs import f32, i64, imported, kinds, node, weights
from tests.quantized_patterns import Pattern, build, compare, integers

I8, U8 = np.int8, np.uint8


# Brevitas, export_onnx_qcdq.


@pytest.mark.parametrize(
    ("zero_point", "low", "high"), [(I8(0), -8, 7), (I8(0), -3, 3), (U8(0), 0, 15), (U8(7), 0, 15)]
)
def test_brevitas_fewer_bits_are_a_clip_of_integers(zero_point: Any, low: int, high: int, tmp_path: Path) -> None:
    """The bounds are integers: taken for real values they would let everything through, or nothing."""
    pattern = Pattern()
    value = pattern.clip("x", 0.3, zero_point, low, high)
    pattern.constant("w_narrow", integers(5, 6, bits=4))
    pattern.constant("w_low", I8(-7))
    pattern.constant("w_high", I8(7))
    pattern.add("Clip", "w_narrow w_low w_high", "w")
    pattern.add("DequantizeLinear", f"w {pattern.parameters('w', 0.1, I8(0))}", "w_dq")
    pattern.add("Gemm", f"{value} w_dq b", "g", transB=1)
    pattern.constant("b", weights(5, seed=3))
    output = pattern.clip("g", 0.25, zero_point, low, high)
    proto = pattern.model([1, 6], [output])
    # Sums of so few bits are small, and requantization rounds twice.
    network = compare(tmp_path, proto, ["clamp", "fully_connected"], equal=0.8)
    offset = 128 if zero_point.dtype == U8 else 0
    params = network.layers[1].params
    assert (params.activation_min, params.activation_max) == (low - offset, high - offset)


def test_brevitas_narrow_range_of_a_layer_costs_nothing(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    pattern.add("Conv", f"{value} {pattern.weights('w', integers(4, 3, 3), 0.01)}", "c", pads=[1, 1])
    output = pattern.clip("c", 0.02, I8(0), -127, 127)
    network = compare(tmp_path, pattern.model([1, 3, 8], [output], opset=13), ["conv2d"])
    assert network.layers[1].params.activation_min == -127


def test_brevitas_full_range_clip_is_nothing(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.clip("x", 0.03, I8(0), -128, 127)
    pattern.add("Relu", value, "r")
    imported_kinds = kinds(imported(tmp_path, pattern.model([1, 8], [pattern.clip("r", 0.03, U8(0), 0, 255)])))
    assert "Clip" not in imported_kinds


@pytest.mark.parametrize("axis", [None, 0], ids=["per_tensor", "per_channel"])
@pytest.mark.parametrize("bias", ["none", "float", "int32"])
def test_brevitas_batch_normalization_behind_a_layer(bias: str, axis: int | None, tmp_path: Path) -> None:
    """It goes into scales and bias, exactly; one gamma is negative, one zero."""
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(3))
    scales = np.float32(0.01) if axis is None else f32(0.01, 0.02, 0.005, 0.015)
    inputs = f"{value} {pattern.weights('w', integers(4, 3, 3, 3), scales, axis)}"
    if bias == "float":
        inputs += " " + pattern.constant("b", weights(4, seed=2))
    if bias == "int32":
        stored = np.array([900, -400, 77, 0], np.int32)
        pattern.constant("b", stored)
        parameters = pattern.parameters("b", np.float32(0.03) * np.broadcast_to(scales, 4), np.zeros(4, np.int32))
        inputs += " " + pattern.add("DequantizeLinear", f"b {parameters}", "b_dq", axis=0)
    pattern.add("Conv", inputs, "c", pads=[1] * 4)
    for name, values in {"g": (1.0, -0.7, 0.0, 2.0), "be": (0.1, 0.5, 0.3, -1.0)}.items():
        pattern.constant(name, f32(*values))
    pattern.constant("m", weights(4, seed=5))
    pattern.constant("v", f32(1.0, 0.5, 2.0, 3.0))
    pattern.add("BatchNormalization", "c g be m v", "n")
    pattern.add("Relu", "n", "r")
    proto = pattern.model([1, 3, 6, 6], [pattern.quantize("r", 0.02, U8(0))])
    assert "BatchNormalization" not in kinds(imported(tmp_path, proto))
    compare(tmp_path, proto, ["conv2d"], equal=0.98)


def test_a_negative_scale_does_not_fit_a_weight_of_minus_128(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    pattern.add("Gemm", f"{value} {pattern.weights('w', np.full((2, 3), -128, I8), 0.01)}", "g", transB=1)
    pattern.add("Mul", f"g {pattern.constant('s', f32(1, -1))}", "m")
    with pytest.raises(ModelError, match=r"\(Gemm\): its output is not quantized: node '.*' \(Mul\) reads it in float"):
        build(tmp_path, pattern.model([1, 3], [pattern.quantize("m", 0.02, I8(0))]))


def test_a_bias_without_elements_behind_which_something_scales_is_refused(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    bias = pattern.constant("b", np.zeros(0, np.float32))
    pattern.add("Conv", f"{value} {pattern.weights('w', integers(4, 3, 1), 0.01)} {bias}", "c")
    pattern.add("Mul", f"c {pattern.constant('s', f32(2))}", "m")
    with pytest.raises(ModelError):
        build(tmp_path, pattern.model([1, 3, 5], [pattern.quantize("m", 0.02, I8(0))]))


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm"])
def test_scales_and_shifts_go_into_every_linear_operator(kind: str, tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(3))
    axis = 0 if kind == "Conv" else 1
    shape = (3, 3) if kind == "Gemm" else (3, 3, 2)
    pattern.add(kind, f"{value} {pattern.weights('w', integers(*shape), [0.01, 0.02, 0.03], axis)}", "c")
    full = (3,) if kind == "Gemm" else (3, 1)
    pattern.add("Mul", f"c {pattern.constant('s', f32(2, -1, 0.5).reshape(full))}", "m")
    pattern.add("Sub", f"m {pattern.constant('t', f32(0.4))}", "n")
    proto = pattern.model([1, 3] if kind == "Gemm" else [1, 3, 5], [pattern.quantize("n", 0.02, I8(-4))])
    compare(tmp_path, proto, [{"Conv": "conv2d", "Gemm": "fully_connected"}.get(kind, "conv_transpose")], equal=0.98)


def test_brevitas_concat_of_one_scale_needs_no_quantizer(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    for name, seed in (("a", 1), ("b", 2)):
        pattern.add("Conv", f"{value} {pattern.weights(f'w{name}', integers(2, 3, 1, seed=seed), 0.01)}", name)
    joined = " ".join(pattern.quantize(name, 0.02, I8(0)) for name in "ab")
    pattern.add("Concat", joined, "j", axis=1)
    pattern.add("Conv", f"j {pattern.weights('w', integers(3, 4, 1, seed=3), 0.01)}", "c")
    proto = pattern.model([1, 3, 5], [pattern.quantize("c", 0.03, I8(0))])
    compare(tmp_path, proto, ["conv2d", "conv2d", "concat", "conv2d"])


# PyTorch: PT2E by the dynamo exporter, FX by the older one.


def test_pytorch_pt2e(tmp_path: Path) -> None:
    """Per-channel weights, float biases, `axis` on everything, a HardTanh between two equal pairs, a mean."""
    pattern = Pattern()
    value = pattern.quantize("x", 0.025, I8(-10), axis=1)
    weight = pattern.weights("w", integers(4, 3, 3), [0.01, 0.02, 0.005, 0.015], 0)
    pattern.add("Conv", f"{value} {weight} {pattern.constant('b', weights(4))}", "c", pads=[1, 1], auto_pad="NOTSET")
    real = pattern.quantize("c", 0.015, I8(-11), axis=1)
    pattern.add(
        "Clip", f"{real} {pattern.constant('low', np.float32(-1))} {pattern.constant('high', np.float32(1))}", "h"
    )
    real = pattern.quantize("h", 0.015, I8(-11), axis=1)
    pattern.add("ReduceMean", f"{real} {pattern.constant('axes', i64(2))}", "m", keepdims=0)
    real = pattern.quantize("m", 0.008, I8(0), axis=1)
    linear = pattern.weights("l", integers(5, 4, seed=3), [0.01] * 5, 0)
    pattern.add("Gemm", f"{real} {linear} {pattern.constant('lb', weights(5, seed=4))}", "g", transB=1, beta=1.0)
    proto = pattern.model([1, 3, 8], [pattern.quantize("g", 0.02, I8(4), axis=1)], opset=20)
    compare(tmp_path, proto, ["conv2d", "clamp", "average_pool", "fully_connected"], equal=0.8)


@pytest.mark.parametrize("bias", ["float", "int32"])
def test_pytorch_linear_layer_over_rows(bias: str, tmp_path: Path) -> None:
    """Weights (out, in) behind a Transpose, MatMul of three axes, Add, Relu: one layer."""
    pattern = Pattern()
    value = pattern.quantize("x", 0.025, I8(-10), axis=1)
    pattern.add(
        "Transpose", pattern.weights("w", integers(5, 6), [0.01, 0.02, 0.005, 0.015, 0.01], 0), "t", perm=[1, 0]
    )
    pattern.add("MatMul", f"{value} t", "m")
    if bias == "float":
        pattern.constant("b", weights(5))
    else:
        pattern.constant("stored", np.array([900, -400, 77, 0, 5], np.int32))
        parameters = pattern.parameters(
            "stored", f32(0.01, 0.02, 0.005, 0.015, 0.01) * f32(0.025), np.zeros(5, np.int32)
        )
        pattern.add("DequantizeLinear", f"stored {parameters}", "b", axis=0)
    pattern.add("Add", "m b", "a")
    pattern.add("Relu", "a", "r")
    proto = pattern.model([1, 4, 6], [pattern.quantize("r", 0.02, U8(0))])
    assert "Transpose" not in kinds(imported(tmp_path, proto))
    compare(tmp_path, proto, ["fully_connected"], equal=0.98)


@pytest.mark.parametrize("kind", ["Pad", "Relu", "MaxPool"])
def test_pytorch_input_is_quantized_behind_its_first_operator(kind: str, tmp_path: Path) -> None:
    """F.pad of a causal convolution stands in front of the first QuantizeLinear."""
    pattern = Pattern()
    inputs = f"x {pattern.constant('pads', i64(0, 0, 2, 0, 0, 0))}" if kind == "Pad" else "x"
    pattern.add(kind, inputs, "p", **({"kernel_shape": [2]} if kind == "MaxPool" else {}))
    value = pattern.quantize("p", 0.025, I8(-10))
    pattern.add("Conv", f"{value} {pattern.weights('w', integers(4, 3, 3), 0.01)}", "c")
    layers = [{"Pad": "pad", "Relu": "clamp", "MaxPool": "max_pool"}[kind], "conv2d"]
    compare(tmp_path, pattern.model([1, 3, 8], [pattern.quantize("c", 0.05, I8(0))]), layers)


def test_an_input_that_others_read_too_does_not_take_a_clamped_scale(tmp_path: Path) -> None:
    """The scale behind Relu has no negative values: the other reader would lose them."""
    pattern = Pattern()
    pattern.add("Relu", "x", "r")
    pattern.add("Reshape", f"x {pattern.constant('shape', i64(1, 6))}", "v")
    both = f"{pattern.quantize('r', 0.02, U8(0))} {pattern.quantize('v', 0.04, U8(128))}"
    pattern.add("Concat", both, "c", axis=1)
    network = build(tmp_path, pattern.model([1, 6], [pattern.quantize("c", 0.04, U8(128))]))
    assert network.tensors[network.inputs[0].tensor].quant == QuantParams(float(np.float32(0.04)), 0)


@pytest.mark.parametrize("shape", [[1, 3, 5], [1, 3, 4, 5]], ids=["one_axis", "two_axes"])
def test_batch_normalization_of_quantized_values(shape: list[int], tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.025, I8(-10))
    for name, values in {
        "g": (1.0, -0.5, 0.0),
        "be": (0.1, 0.5, 0.3),
        "m": (0.0, 1.0, -1.0),
        "v": (1.0, 2.0, 3.0),
    }.items():
        pattern.constant(name, f32(*values))
    pattern.add("BatchNormalization", f"{value} g be m v", "n")
    pattern.add("Relu", "n", "r")
    proto = pattern.model(shape, [pattern.quantize("r", 0.0203, U8(0))])
    compare(tmp_path, proto, ["depthwise_conv2d"], equal=0.98)


def test_pytorch_log_softmax_in_float_at_the_end(tmp_path: Path) -> None:
    pattern = Pattern()
    pattern.add("LogSoftmax", pattern.quantize("x", 0.025, I8(-10)), "y", axis=-1)
    network = compare(tmp_path, pattern.model([1, 9], ["y"]), ["log_softmax"])
    assert network.tensors[network.outputs[0].tensor].quant.zero_point == 127


@pytest.mark.parametrize(("kind", "scale"), [("Sigmoid", 1 / 256), ("HardSigmoid", 1 / 256), ("Tanh", 1 / 128)])
def test_pytorch_output_in_float_has_a_scale_where_its_range_is_known(kind: str, scale: float, tmp_path: Path) -> None:
    pattern = Pattern()
    pattern.add(kind, pattern.quantize("x", 0.025, I8(-10)), "y")
    network = compare(tmp_path, pattern.model([1, 9], ["y"]), ["lookup"])
    assert network.tensors[network.outputs[0].tensor].quant.scale == scale


def test_pytorch_softmax_in_float_at_the_end(tmp_path: Path) -> None:
    pattern = Pattern()
    pattern.add("Softmax", pattern.quantize("x", 0.025, I8(-10)), "y", axis=-1)
    compare(tmp_path, pattern.model([1, 9], ["y"]), ["softmax"])


def test_pytorch_qat_divides_and_normalizes_behind_the_layer(tmp_path: Path) -> None:
    """Conv of weights times gamma / sigma, divided by that again, then BatchNormalization; weights kept in float."""
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, U8(128))
    pattern.constant("w", weights(4, 3, 3, 3) * 0.3)
    parameters = pattern.parameters("w", f32(0.01, 0.02, 0.005, 0.015), np.zeros(4, I8))
    pattern.add("QuantizeLinear", f"w {parameters}", "w_q", axis=0)
    pattern.add("DequantizeLinear", f"w_q {parameters}", "w_dq", axis=0)
    pattern.add("Conv", f"{value} w_dq {pattern.constant('zeros', np.zeros(4, np.float32))}", "c")
    pattern.add("Div", f"c {pattern.constant('factor', f32(1, 0.5, -2, 1.5).reshape(1, 4, 1, 1))}", "d")
    for name, values in {
        "g": (1, 0.5, -2, 1.5),
        "be": (0.1, 0.5, 0.3, -1.0),
        "m": (0, 1, -1, 0),
        "v": (1, 1, 2, 3),
    }.items():
        pattern.constant(name, f32(*values))
    pattern.add("BatchNormalization", "d g be m v", "n")
    pattern.add("Relu", "n", "r")
    compare(tmp_path, pattern.model([1, 3, 6, 6], [pattern.quantize("r", 0.02, U8(0))], opset=13), ["conv2d"])


def test_pytorch_seven_bits_of_uint8(tmp_path: Path) -> None:
    """`reduce_range`: activations from 0 to 127, which the older exporter writes as a Clip."""
    pattern = Pattern()
    value = pattern.clip("x", 0.05, U8(64), 0, 127)
    pattern.add("Gemm", f"{value} {pattern.weights('w', integers(5, 6), 0.01)}", "g", transB=1)
    output = pattern.clip("g", 0.1, U8(60), 0, 127)
    compare(tmp_path, pattern.model([1, 6], [output], opset=13), ["clamp", "fully_connected"])


# onnxruntime, quantize_static.


def test_onnxruntime_dedicated_pairs_are_one(tmp_path: Path) -> None:
    """`DedicatedQDQPair`: a QuantizeLinear for each reader."""
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    pattern.add("Conv", f"{value} {pattern.weights('w', integers(3, 3, 1), 0.01)}", "c")
    ends = []
    for number in (1, 2):
        parameters = pattern.parameters(f"c{number}", 0.02, I8(5))
        pattern.add("QuantizeLinear", f"c {parameters}", f"q{number}")
        ends.append(pattern.add("DequantizeLinear", f"q{number} {parameters}", f"d{number}"))
    pattern.add("Add", " ".join(ends), "y")
    compare(tmp_path, pattern.model([1, 3, 5], [pattern.quantize("y", 0.04, I8(0))]), ["conv2d", "add"])


def test_onnxruntime_quantizers_of_its_own_domain(tmp_path: Path) -> None:
    """`UseQDQContribOps`."""
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, U8(7))
    pattern.add("Gemm", f"{value} {pattern.weights('w', integers(6, 5), [0.01] * 5, 1)}", "g")
    proto = pattern.model([1, 6], [pattern.quantize("g", 0.1, U8(99))])
    for entry in proto.graph.node:
        if entry.op_type.endswith("Linear"):
            entry.domain = "com.microsoft"
    compare(tmp_path, proto, ["fully_connected"])


def test_onnxruntime_four_bit_weights(tmp_path: Path) -> None:
    """INT4 holds two weights in a byte; an odd number of them leaves half a byte."""
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    stored = integers(5, 3, bits=4)
    pattern.add("Gemm", f"{value} {pattern.weights('w', stored, [0.1] * 5, 0)}", "g", transB=1)
    proto = pattern.model([1, 3], [pattern.quantize("g", 0.05, I8(0))], opset=21)
    for tensor in proto.graph.initializer:
        if tensor.name in ("w", "w_zero"):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.INT4, values.shape, values.ravel().tolist()))
    network = compare(tmp_path, proto, ["fully_connected"])
    np.testing.assert_array_equal(network.layers[0].constants["weights"], stored)


def test_onnxruntime_matmul_weights_by_column_and_transposed_convolution(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    pattern.add(
        "ConvTranspose", f"{value} {pattern.weights('w', integers(2, 3, 2), [0.01, 0.02, 0.03], 1)}", "t", strides=[2]
    )
    real = pattern.quantize("t", 0.05, I8(0))
    pattern.add("Transpose", real, "p", perm=[0, 2, 1])
    real = pattern.quantize("p", 0.05, I8(0))
    pattern.add("MatMul", f"{real} {pattern.weights('m', integers(3, 2, seed=2), [0.01, 0.02], 1)}", "y")
    proto = pattern.model([1, 2, 5], [pattern.quantize("y", 0.05, I8(0))])
    compare(tmp_path, proto, ["conv_transpose", "fully_connected"], steps=2)


def test_one_value_read_by_several_and_a_view_on_the_way(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    pattern.add("Relu", value, "r")
    left = pattern.quantize("r", 0.0137, I8(-128))
    pattern.add("Reshape", f"{value} {pattern.constant('shape', i64(1, 4))}", "v")
    right = pattern.quantize("v", 0.0571, I8(3))
    pattern.add("Reshape", f"{left} shape", "l")
    pattern.add("Add", f"l {right}", "s")
    compare(tmp_path, pattern.model([1, 2, 2], [pattern.quantize("s", 0.0503, I8(-9))]), ["lookup", "lookup", "add"])


@pytest.mark.parametrize(
    ("kind", "inputs"), [("Add", "x_dq c"), ("Sub", "c x_dq"), ("Mul", "x_dq c"), ("Sub", "x_dq c")]
)
def test_one_real_number_is_a_table(kind: str, inputs: str, tmp_path: Path) -> None:
    pattern = Pattern()
    pattern.quantize("x", 0.03, I8(5))
    pattern.constant("c", f32(0.7))
    pattern.add(kind, inputs, "y")
    pattern.add("Relu", "y", "r")
    compare(tmp_path, pattern.model([1, 6], [pattern.quantize("r", 0.0271, I8(-90))]), ["lookup"])


def test_silu_between_two_quantizers_is_a_table(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(5))
    pattern.add("Sigmoid", value, "s")
    pattern.add("Mul", f"{value} s", "y")
    compare(tmp_path, pattern.model([1, 6], [pattern.quantize("y", 0.0271, I8(-90))]), ["lookup"])


def test_division_by_a_number_is_a_table(tmp_path: Path) -> None:
    pattern = Pattern()
    pattern.add("Div", f"{pattern.quantize('x', 0.03, I8(5))} {pattern.constant('six', np.float32(6))}", "y")
    compare(tmp_path, pattern.model([1, 6], [pattern.quantize("y", 0.00471, I8(-9))]), ["lookup"])


def test_a_convolution_takes_the_pad_in_front_of_it(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(5))
    pattern.add("Pad", f"{value} {pattern.constant('pads', i64(0, 0, 1, 0, 0, 2))}", "p")
    pattern.add("Conv", f"p {pattern.weights('w', integers(4, 3, 3), 0.01)}", "y")
    compare(tmp_path, pattern.model([1, 3, 8], [pattern.quantize("y", 0.0471, I8(-9))]), ["conv2d"])


@pytest.mark.parametrize("scale", [0.03, 0.0471], ids=["same_scale", "another_scale"])
def test_a_clamp_behind_pad_is_not_lost(scale: float, tmp_path: Path) -> None:
    """Pad absorbed the Relu between it and its QuantizeLinear, and let negative values through."""
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(5))
    pattern.add("Pad", f"{value} {pattern.constant('pads', i64(0, 0, 1, 0, 0, 2))}", "p")
    pattern.add("Relu", "p", "y")
    compare(tmp_path, pattern.model([1, 3, 8], [pattern.quantize("y", scale, I8(5))]), ["pad", "lookup"])


def test_global_max_pool_and_sum(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(5))
    pattern.add("GlobalMaxPool", value, "m")
    pattern.add("Sum", f"{value} {pattern.quantize('m', 0.03, I8(5))}", "y")
    compare(tmp_path, pattern.model([1, 3, 8], [pattern.quantize("y", 0.0571, I8(-9))]), ["max_pool", "add"])


@pytest.mark.parametrize("kind", [I8, U8])
def test_zero_points_that_are_left_out_are_those_of_the_stored_type(kind: Any, tmp_path: Path) -> None:
    """`output_dtype` of opset 21 makes QuantizeLinear write int8, with 0 as zero point."""
    pattern = Pattern()
    element = TensorProto.INT8 if kind == I8 else TensorProto.UINT8
    for value in ("x", "y"):
        pattern.constant(f"{value}_scale", np.float32(0.03))
    pattern.add("QuantizeLinear", "x x_scale", "x_q", output_dtype=element)
    pattern.add("DequantizeLinear", "x_q x_scale", "x_dq")
    pattern.add("Gemm", f"x_dq {pattern.weights('w', integers(6, 5), 0.01)}", "y")
    pattern.add("QuantizeLinear", "y y_scale", "y_q", output_dtype=element)
    pattern.add("DequantizeLinear", "y_q y_scale", "z")
    compare(tmp_path, pattern.model([1, 6], ["z"], opset=21), ["fully_connected"])


# Refused, in one line that names the node.


def refuses(folder: Path, proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build(folder, proto)
    assert len(caught.value.findings) == 1


def linear(pattern: Pattern, value: str, name: str = "g") -> str:
    pattern.nodes.append(node("Gemm", f"{value} {pattern.weights('w', integers(6, 6), 0.01)}", name, name="dense"))
    return name


def test_logits_in_float_are_refused(tmp_path: Path) -> None:
    pattern = Pattern()
    proto = pattern.model([1, 6], [linear(pattern, pattern.quantize("x", 0.03, I8(0)))])
    refuses(tmp_path, proto, r"node 'dense' \(Gemm\): the model's output 'g' is left in float; hint: .*its output too")


def test_an_operator_left_in_float_in_the_middle_is_refused(tmp_path: Path) -> None:
    pattern = Pattern()
    linear(pattern, pattern.quantize("x", 0.03, I8(0)))
    pattern.nodes.append(node("Sigmoid", "g", "s", name="gate"))
    proto = pattern.model([1, 6], [pattern.quantize("s", 1 / 256, U8(0))])
    refuses(tmp_path, proto, r"node 'dense' \(Gemm\): its output is not quantized: node 'gate' \(Sigmoid\) reads it in")


def test_two_scales_of_one_output_are_refused(tmp_path: Path) -> None:
    pattern = Pattern()
    linear(pattern, pattern.quantize("x", 0.03, I8(0)))
    ends = []
    for number in (1, 2):
        parameters = pattern.parameters(f"g{number}", 0.02 * number, I8(5))
        pattern.add("QuantizeLinear", f"g {parameters}", f"q{number}")
        ends.append(pattern.add("DequantizeLinear", f"q{number} {parameters}", f"d{number}"))
    pattern.add("Add", " ".join(ends), "y")
    refuses(
        tmp_path, pattern.model([1, 6], [pattern.quantize("y", 0.04, I8(0))]), "its output is quantized in several ways"
    )


def test_weights_in_float_are_refused(tmp_path: Path) -> None:
    """`nodes_to_exclude`."""
    pattern = Pattern()
    pattern.nodes.append(
        node("Gemm", f"{pattern.quantize('x', 0.03, I8(0))} {pattern.constant('w', weights(6, 6))}", "g", name="dense")
    )
    proto = pattern.model([1, 6], [pattern.quantize("g", 0.1, I8(0))])
    refuses(
        tmp_path, proto, r"node 'dense' \(Gemm\): its weights \(input 1\) are not quantized constants; hint: quantize"
    )


@pytest.mark.parametrize("kind", ["Gemm", "Mul"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_constant_that_is_no_number_is_refused(kind: str, number: float, tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    weight = f"{pattern.weights('w', integers(6, 5), 0.01)} " if kind == "Gemm" else ""
    pattern.add(kind, f"{value} {weight}{pattern.constant('c', f32(number))}", "y")
    refuses(
        tmp_path, pattern.model([1, 6], [pattern.quantize("y", 0.1, I8(0))]), "its (bias is not finite|constant is)"
    )


def test_asymmetric_weights_are_refused_unless_they_fit(tmp_path: Path) -> None:
    pattern = Pattern()
    value = pattern.quantize("x", 0.03, I8(0))
    pattern.constant("w", np.arange(36, dtype=U8).reshape(6, 6) * 7)
    pattern.add("DequantizeLinear", f"w {pattern.parameters('w', 0.01, U8(90))}", "w_dq")
    pattern.nodes.append(node("Gemm", f"{value} w_dq", "g", name="dense"))
    proto = pattern.model([1, 6], [pattern.quantize("g", 0.1, I8(0))])
    refuses(
        tmp_path, proto, r"node 'dense' \(Gemm\): weights with a zero point do not fit int8; hint: quantize weights sym"
    )
    zero_point = next(tensor for tensor in proto.graph.initializer if tensor.name == "w_zero")
    zero_point.CopyFrom(numpy_helper.from_array(np.asarray(128, U8), "w_zero"))
    compare(tmp_path, proto, ["fully_connected"])


def test_arithmetic_on_stored_integers_is_refused(tmp_path: Path) -> None:
    """Add of two int8 values is no addition of what they stand for."""
    pattern = Pattern()
    parameters = pattern.parameters("x", 0.03, I8(4))
    pattern.add("QuantizeLinear", f"x {parameters}", "q")
    pattern.nodes.append(node("Relu", "q", "s", name="bare"))
    pattern.add("DequantizeLinear", f"s {parameters}", "y")
    proto = pattern.model([1, 6], ["y"])
    refuses(
        tmp_path, proto, r"node 'bare' \(Relu\): it computes with the integers of 'q' as they are stored; hint: put a"
    )


def test_dynamic_quantization_is_refused(tmp_path: Path) -> None:
    pattern = Pattern()
    pattern.nodes.append(node("DynamicQuantizeLinear", "x", "q s z", name="ranges"))
    pattern.add("DequantizeLinear", "q s z", "y")
    message = r"node 'ranges' \(DynamicQuantizeLinear\): .*hint: scales must be constants: quantize statically"
    refuses(tmp_path, pattern.model([1, 6], ["y"]), message)


def test_an_element_type_that_is_not_supported_is_one_line(tmp_path: Path) -> None:
    pattern = Pattern()
    proto = pattern.model([1, 6], [pattern.quantize("x", 0.03, I8(0))], opset=21)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT8E4M3FN, [], [0.0]))
    refuses(tmp_path, proto, "tensor 'x_scale' and 1 more have the unsupported element type FLOAT8E4M3FN")


def test_activations_of_four_bits_are_refused(tmp_path: Path) -> None:
    pattern = Pattern()
    proto = pattern.model([1, 6], [pattern.quantize("x", 0.03, I8(0))], opset=21)
    zero_point = next(tensor for tensor in proto.graph.initializer if tensor.name == "x_zero")
    zero_point.CopyFrom(helper.make_tensor("x_zero", TensorProto.INT4, [], [0]))
    proto.graph.node[0].name = "narrow"
    with pytest.raises(ModelError, match=r"node 'narrow' \(QuantizeLinear\): quantizes to 4 bits"):
        build(tmp_path, proto)
