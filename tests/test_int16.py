"""Activations of int16: the quantizer, models of others, the arithmetic, the C interface, and the search for them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from nnbuild import cmsis_nn, fixedpoint, interpret, samples
from nnbuild.calibrate import ranges
from nnbuild.cli import main
from nnbuild.config import arguments, parse_options, quantizing
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ConfigError, ModelError
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import QuantParams
from nnbuild.passes.modern_opset import declare
from nnbuild.pipeline import Request, quantized
from nnbuild.placement import Placement
from nnbuild.precision_judge import Aim
from nnbuild.precision_names import named
from nnbuild.quantize import quantize
from nnbuild.ranges import Ranges
from nnbuild.selection import select
from nnbuild.target import TARGETS
from tests import host
from tests.graphs import f32, i64, imported, model, node, run, save, weights

COUNT = 24


@pytest.fixture
def float_model(tmp_path: Path) -> onnx.ModelProto:
    """Two convolutions of which one is depthwise, a sum, a pool that takes no int16, a mean, a product, Softmax."""
    nodes = [
        node("Conv", "x w0 b0", "c0", name="first", pads=[1, 1, 1, 1]),
        node("Relu", "c0", "r0"),
        node("Conv", "r0 w1 b1", "c1", name="depthwise", group=4, pads=[1, 1, 1, 1]),
        node("Add", "c1 r0", "s", name="sum"),
        node("Relu", "s", "r1", name="behind_sum"),
        node("MaxPool", "r1", "m", name="most", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", "m", "g", name="mean"),
        node("Flatten", "g", "f", name="flat"),
        node("Gemm", "f w2 b2", "p", name="product"),
        node("Softmax", "p", "y", name="softmax", axis=-1),
    ]
    constants = {
        **{"w0": weights(4, 2, 3, 3), "b0": weights(4, seed=1), "w1": weights(4, 1, 3, 3, seed=2)},
        **{"b1": weights(4, seed=3), "w2": weights(4, 5, seed=4) / 8, "b2": weights(5, seed=5)},
    }
    return imported(tmp_path, model(nodes, {"x": [1, 2, 8, 6]}, ["y"], constants))


def calibration(folder: Path) -> str:
    values = np.random.default_rng(7).normal(0, 1, (COUNT, 2, 8, 6)).astype(np.float32)
    np.savez(folder / "calib.npz", x=values)
    return str(folder / "calib.npz")


def ranges_of(float_model: onnx.ModelProto, folder: Path) -> Ranges:
    return ranges(float_model, samples.load(calibration(folder), {"x": (1, 2, 8, 6)}), "minmax")


ALL = ("x", "first", "depthwise", "sum", "mean", "product")


def errors(float_model: onnx.ModelProto, int8: onnx.ModelProto) -> tuple[float, float]:
    """Of the integers' outputs: noise against the float model, and the largest difference to the QDQ model's."""
    network, rng = lower(int8), np.random.default_rng(3)
    noise, worst = 0.0, 0.0
    port, result = network.inputs[0], network.outputs[0]
    for _ in range(5):
        x = rng.normal(0, 1, (1, 2, 8, 6)).astype(np.float32)
        flat = network.tensors[port.tensor].quant.quantize(x).ravel()
        ours = network.tensors[result.tensor].quant.dequantize(interpret.run(network, [flat])[0])
        noise += float(np.square(run(float_model, {"x": x})[0] - ours).sum())
        worst = max(worst, float(np.abs(run(int8, {"x": x})[0] - ours).max()))
    return noise, worst


@pytest.mark.parametrize("names", [(), ("first",), ("x", "sum"), ("mean", "product"), ALL])
def test_integers_agree_with_onnxruntime(float_model: onnx.ModelProto, tmp_path: Path, names: tuple[str, ...]) -> None:
    int8 = quantize(float_model, ranges_of(float_model, tmp_path), int16=names)
    onnx.checker.check_model(int8, full_check=True)
    network = lower(int8)
    wide = [tensor.name for tensor in network.tensors.values() if tensor.quant.wide]
    assert bool(wide) == bool(names)
    assert errors(float_model, int8)[1] <= 2 / 256, "of a Softmax, whose steps are 1/256"


def test_more_bits_mean_less_error(float_model: onnx.ModelProto, tmp_path: Path) -> None:
    found = ranges_of(float_model, tmp_path)
    noise = [errors(float_model, quantize(float_model, found, int16=names))[0] for names in ((), ALL)]
    assert noise[1] < noise[0]


def test_a_reader_of_int8_gets_a_copy(float_model: onnx.ModelProto, tmp_path: Path) -> None:
    """MaxPool reads int8 behind a rescaling; the clamp behind the sum is part of it."""
    int8 = quantize(float_model, ranges_of(float_model, tmp_path), int16=["sum"])
    layers = lower(int8).layers
    assert [layer.op for layer in layers][2:6] == ["depthwise_conv2d", "wide_add", "rescale", "max_pool"]
    by_clamp = lower(quantize(float_model, ranges_of(float_model, tmp_path), int16=["behind_sum"]))
    assert by_clamp.layers[3].op == "wide_add"


def test_a_model_without_int16_is_what_it_was(float_model: onnx.ModelProto, tmp_path: Path) -> None:
    int8 = quantize(float_model, ranges_of(float_model, tmp_path))
    assert int8.opset_import[0].version == 20
    assert '"dtype": "int16"' not in lower(int8).to_json()


@pytest.mark.parametrize(("name", "what"), [("nothing", "no such"), ("most", "MaxPool cannot"), ("softmax", "Softmax")])
def test_names_that_cannot_be(float_model: onnx.ModelProto, tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        quantize(float_model, ranges_of(float_model, tmp_path), int16=[name])


def test_layers_are_named_as_reports_name_them(float_model: onnx.ModelProto, tmp_path: Path) -> None:
    int8 = quantize(float_model, ranges_of(float_model, tmp_path))
    assert named(int8, ["m_l03_add", "l01_conv2d", "product"]) == ["sum", "first", "product"]


# Models of others.


def by_hand(middle: list[onnx.NodeProto], zero: int = 0, dtype: type = np.int16, **constants: Any) -> onnx.ModelProto:
    """An int16 input, `middle` from `a` to `b`, and an int16 output."""
    nodes = [node("DequantizeLinear", "x s z", "a"), *middle, node("QuantizeLinear", "b s z", "y")]
    given = {"s": np.float32(0.001), "z": dtype(zero), **constants}
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = model(nodes, {"x": [1, 3, 4, 4]}, ["y"], given, opset=21, element=element)
    declare(proto, 21)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True)


def test_a_foreign_model_with_int16_ports(tmp_path: Path) -> None:
    stored = np.arange(-13, 14, dtype=np.int8).reshape(9, 3, 1, 1)
    weighted: dict[str, Any] = {"w": stored, "ws": f32(*[0.01] * 9), "wz": np.zeros(9, np.int8)}
    nodes = [node("DequantizeLinear", "w ws wz", "d", axis=0), node("Conv", "a d", "b", name="conv")]
    proto = imported(tmp_path, by_hand(nodes, **weighted))
    network = lower(proto)
    assert [network.tensors[port.tensor].dtype for port in (*network.inputs, *network.outputs)] == ["int16", "int16"]
    x = np.random.default_rng(2).integers(-32768, 32768, (1, 3, 4, 4)).astype(np.int16)
    channels_last = [layer.op for layer in network.layers]
    assert channels_last == ["transpose", "wide_conv2d", "transpose"]
    difference = interpret.run(network, [x.ravel()])[0].astype(np.int64) - run(proto, {"x": x})[0]
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("dtype", "expected"), [(np.int16, "direct"), (np.int8, "cmsis_nn")])
def test_int8_functions_of_cmsis_nn_are_not_called_for_int16(cmsis_nn_dir: Path, dtype: type, expected: str) -> None:
    target = replace(TARGETS["cortex-m4"], cmsis_nn=cmsis_nn.read(cmsis_nn_dir))
    network = lower(by_hand([node("Transpose", "a", "b", perm=[0, 2, 3, 1])], dtype=dtype))
    assert [choice.kernel.name for choice in select(network, target, backend="cmsis_nn")] == [expected]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Samples for onnxruntime's quantizer."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.samples = iter([{"x": rng.normal(0, 1, (1, 2, 8, 6)).astype(np.float32)} for _ in range(8)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.samples, None)


@pytest.mark.parametrize("contrib", [False, True])
def test_a_model_that_onnxruntime_quantized(float_model: onnx.ModelProto, tmp_path: Path, contrib: bool) -> None:
    """16x8, per channel; without MaxPool and Softmax's int16 output, which nothing of ours takes."""
    nodes = [entry for entry in float_model.graph.node if entry.op_type not in ("MaxPool", "Softmax")]
    for entry in nodes:
        entry.input[:] = ["r1" if name == "m" else name for name in entry.input]
    del float_model.graph.node[:]
    float_model.graph.node.extend(nodes)
    float_model.graph.output[0].name = "p"
    del float_model.graph.value_info[:]
    extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "UseQDQContribOps": contrib}
    path = tmp_path / "q.onnx"
    quantize_static(
        str(save(tmp_path, float_model)), str(path), Reader(), QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt16, weight_type=QuantType.QInt8, extra_options=extra,
    )  # fmt: skip
    proto = import_model(str(path), {})
    network = lower(proto)
    assert all(tensor.quant.wide for tensor in network.tensors.values())
    x = np.random.default_rng(9).normal(0, 1, (1, 2, 8, 6)).astype(np.float32)
    tensor, result = (network.tensors[port.tensor] for port in (network.inputs[0], network.outputs[0]))
    ours = result.quant.dequantize(interpret.run(network, [tensor.quant.quantize(x).ravel()])[0])
    assert np.abs(ours - run(onnx.load(path), {"x": x})[0]).max() <= 4 * result.quant.scale


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (by_hand([node("MaxPool", "a", "b", name="pool", kernel_shape=[1, 1])]), "'pool' .*int16, which this operator"),
        (by_hand([node("Sigmoid", "a", "b", name="curve")]), "'curve' .*is int16, which this operator does not take"),
        (by_hand([node("Relu", "a", "b")], zero=5), "int16 with zero point 5 is not supported; hint: quantize symm"),
        (by_hand([node("Relu", "a", "b")], dtype=np.uint16), "UINT16"),
    ],
)
def test_what_is_refused(proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        lower(proto)


def test_an_output_that_cannot_be_int16_is_refused() -> None:
    nodes = [node("QuantizeLinear", "a t u", "q"), node("DequantizeLinear", "q t u", "e")]
    proto = by_hand([*nodes, node("Sigmoid", "e", "b", name="curve")], t=np.float32(0.1), u=np.int8(3))
    with pytest.raises(ModelError, match=r"'curve' .*its output is int16, which this operator does not write"):
        lower(proto)


def test_sums_that_may_overflow_are_refused() -> None:
    weighted = {"w": np.full((600, 3), 127, np.int8), "ws": np.float32(0.01), "wz": np.int8(0), "t": i64(1, 600)}
    nodes = [node("DequantizeLinear", "w ws wz", "d"), node("MatMul", "a d", "b", name="long")]
    proto = model(
        [node("DequantizeLinear", "x s z", "a"), *nodes, node("QuantizeLinear", "b s z", "y")],
        {"x": [1, 600]}, ["y"], {"s": np.float32(0.001), "z": np.int16(0), **weighted}, 21, TensorProto.INT16,
    )  # fmt: skip
    with pytest.raises(ModelError, match="32-bit sum of channel 0 can overflow; hint: keep its input in 8 bits"):
        lower(onnx.shape_inference.infer_shapes(proto))


# The arithmetic.


@given(st.integers(-(2**24), 2**24), st.integers(0, 2**31 - 1), st.integers(0, 6))
def test_scaling_rounds_once(total: int, multiplier: int, left: int) -> None:
    exact = Fraction(total * 2**left * multiplier, 2**32)
    assert int(fixedpoint.scale_upper(total, multiplier, left)) == floor(exact + Fraction(1, 2))


@given(st.integers(1, 2**31 - 256), st.floats(1e-8, 1.0))
def test_sums_and_multipliers_stay_within_32_bits(reach: int, real: float) -> None:
    left = fixedpoint.headroom(reach)
    real = min(real, 2.0 ** (left - 1) * (1 - 2**-31))
    multiplier = fixedpoint.upper_multiplier(real, left)
    assert 0 <= reach << left < 2**31
    assert 0 <= multiplier < 2**31
    assert abs(multiplier * 2.0 ** (left - 32) - real) * reach <= 0.5


@settings(max_examples=200)
@given(st.data())
def test_planes_stay_within_32_bits_and_are_near(data: st.DataObject) -> None:
    def quant(dtype: str) -> QuantParams:
        scale = float(np.float32(2.0 ** data.draw(st.floats(-8, 0)) / (256 if dtype == "int16" else 1)))
        return QuantParams(scale, data.draw(st.integers(-128, 127)) if dtype == "int8" else 0, dtype)

    first, second, output = (quant(data.draw(st.sampled_from(("int8", "int16")))) for _ in range(3))
    plane = fixedpoint.plane([(first, 1.0), (second, -1.0)], output)
    a, b = (data.draw(st.integers(*own.limits)) for own in (first, second))
    total = a * plane.factors[0] + b * plane.factors[1] + plane.offset
    partial = a * plane.factors[0] + b * plane.factors[1]
    assert max(abs(total), abs(partial), abs(a * plane.factors[0]), abs(b * plane.factors[1])) < 2**31
    real = (first.scale * (a - first.zero_point) - second.scale * (b - second.zero_point)) / output.scale
    wanted = min(max(real + output.zero_point, output.limits[0]), output.limits[1])
    found = min(max(total >> plane.shift, output.limits[0]), output.limits[1])
    steps = abs(a - first.zero_point) + abs(b - second.zero_point)
    assert abs(found - wanted) <= 0.501 + steps * 2.0 ** -(plane.shift + 1)


# The interface in C.


MAIN = """
#include "m.h"
#include <stdio.h>
int main(void)
{
    static const float values[2] = { 1.5f, -100000.0f };
    int16_t stored[M_INPUT_SIZE] = { 0 };
    float back[M_OUTPUT_SIZE];
    int16_t wide[M_OUTPUT_SIZE] = { 1000, -32768 };
    float all[M_INPUT_SIZE] = { 0 };
    all[0] = values[0];
    all[1] = values[1];
    m_quantize_input(all, stored);
    m_dequantize_output(wide, back);
    printf("%d %d %.6f %.6f %d %d %d", stored[0], stored[1], (double)back[0], (double)back[1], m_argmax(wide),
        M_OUTPUT_Q(0.5), M_OUTPUT_Q(1e9));
    return m_selftest();
}
"""


@pytest.mark.parametrize("options", [{}, {"arena": "caller"}, {"placement": Placement(io="arena")}])
def test_the_interface_in_c(tmp_path: Path, options: dict[str, object]) -> None:
    proto = imported(tmp_path, by_hand([node("Clip", "a - h", "b")], h=np.float32(20)))
    files = emit(lower(proto), EmitOptions("m", selftest=3, **options))  # type: ignore[arg-type]
    assert "int16_t" in files["m.h"]
    sources = host.write(tmp_path, {**files, "main.c": MAIN})
    host.compile_c(["gcc", f"-I{tmp_path}", "-fsanitize=undefined,address"], tmp_path / "program", sources)
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1500 -32768 1.000000 -32.768002 0 500 32767"


def test_raw_input_needs_int8(tmp_path: Path) -> None:
    proto = imported(tmp_path, by_hand([node("Relu", "a", "b")]))
    with pytest.raises(ConfigError, match="int16"):
        emit(lower(proto), EmitOptions("m", raw=("i16", 1.0, 0.0)))


# The options, and the command; tests/test_precision.py has the search.


def test_options() -> None:
    assert parse_options({"int16": "sum"}, "m.onnx") == {"int16": ("sum",)}
    both = parse_options({"int16": ["auto", "x"], "min_sqnr": 30, "validation": "v.npz"}, "m.onnx")
    assert arguments(both, "quantize") == ["--int16", "auto", "--int16", "x", "--min-sqnr", "30.0"]
    limited = parse_options({"int16": "auto", "max_drop": "1%", "validation": "v.npz", "ram": "2K"}, "m.onnx")
    assert arguments(limited, "quantize") == ["--int16", "auto", "--ram", 2048, "--max-drop", "0.01"]
    assert set(quantizing(limited)) == {"int16", "ram", "max_drop"}
    plain = parse_options({"int16": ["x"], "min_sqnr": 30, "validation": "v.npz"}, "m.onnx")
    assert arguments(plain, "quantize") == ["--int16", "x"]
    assert set(quantizing(plain)) == {"int16"}
    with pytest.raises(ConfigError, match="needs min_sqnr, min_agreement or max_drop"):
        parse_options({"int16": "auto"}, "m.onnx")
    with pytest.raises(ConfigError, match="list of names"):
        parse_options({"int16": []}, "m.onnx")


def test_the_command(float_model: onnx.ModelProto, tmp_path: Path) -> None:
    path = save(tmp_path, float_model)
    words = ["quantize", str(path), "--calibration", calibration(tmp_path), "-o", str(tmp_path / "m.int8.onnx")]
    assert main([*words, "--int16", "m_l03_add", "--int16", "x"]) == 0
    network = lower(onnx.load(tmp_path / "m.int8.onnx"))
    assert network.tensors[network.inputs[0].tensor].dtype == "int16"
    assert any(layer.op == "wide_add" for layer in network.layers)
    request = Request(str(path), calibration(tmp_path), int16=("auto",), aim=Aim(min_sqnr=43.0))
    assert quantized(request).content == quantized(request).content
