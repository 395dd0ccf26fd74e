"""Models in the QOperator format, as onnxruntime's quantizer writes them, against onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from nnbuild import interpret, pipeline
from nnbuild.errors import ModelError
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import Array
from tests.graphs import kinds, model, node, run, save, weights

SHAPE = (1, 3, 8, 8)


def network() -> onnx.ModelProto:
    """Every operator that the format has and nnbuild too, but for QLinearReduceMean."""
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p w2", "d"),
        node("Add", "p d", "e"),
        node("Sigmoid", "e", "s"),
        node("Mul", "s e", "t"),
        node("Concat", "t e", "sides", axis=1),
        node("AveragePool", "t", "a", kernel_shape=[2, 2]),
        node("GlobalAveragePool", "a", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f v vb", "h", transB=1),
        node("LeakyRelu", "h", "l"),
        node("MatMul", "l m", "z"),
        node("Softmax", "z", "y"),
    ]
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "w2": (4, 4, 1, 1), "v": (5, 4), "vb": (5,), "m": (5, 6)}
    constants = {name: weights(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    return model(nodes, {"x": list(SHAPE)}, ["y", "sides"], constants)


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Random inputs."""

    def __init__(self) -> None:
        self.inputs = inputs()

    def get_next(self) -> dict[str, Array] | None:
        found = next(self.inputs, None)
        return None if found is None else {"x": found}


def inputs() -> Iterator[Array]:
    rng = np.random.default_rng(4)
    yield from (rng.normal(size=SHAPE).astype(np.float32) for _ in range(12))


@pytest.mark.parametrize(
    ("per_channel", "kind"), [(False, QuantType.QUInt8), (True, QuantType.QInt8)], ids=["uint8", "int8_per_channel"]
)
def test_onnxruntimes_format(per_channel: bool, kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    quantize_static(
        str(save(tmp_path, network())), str(path), Samples(), quant_format=QuantFormat.QOperator,
        per_channel=per_channel, activation_type=kind, weight_type=QuantType.QInt8,
    )  # fmt: skip
    assert any(entry.op_type.startswith("QLinear") for entry in onnx.load(path).graph.node)
    lowered = lower(onnx.load_model_from_string(pipeline.quantized(pipeline.Request(str(path))).content))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    quant = lowered.tensors[lowered.inputs[0].tensor].quant
    for sample in inputs():
        ours = interpret.run(lowered, [quant.quantize(sample)])
        for port, q, real in zip(lowered.outputs, ours, session.run(None, {"x": sample}), strict=True):
            scale = lowered.tensors[port.tensor].quant
            # Its own roundings differ from TensorFlow Lite's by a step, which later layers mostly hide.
            assert np.abs(scale.dequantize(q) - real).max() <= 2.01 * scale.scale


def pool(**attributes: Any) -> onnx.ModelProto:
    constants = {"s": np.float32(0.1), "z": np.uint8(3)}
    entry = node("QLinearGlobalAveragePool", "q s z s z", "p", domain="com.microsoft", **attributes)
    nodes = [node("QuantizeLinear", "x s z", "q"), entry, node("DequantizeLinear", "p s z", "y")]
    proto = model(nodes, {"x": [1, 2, 3, 4]}, ["y"], constants)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return proto


def test_an_attribute_that_the_onnx_operator_lacks_is_refused(tmp_path: Path) -> None:
    expected = ["QuantizeLinear", "DequantizeLinear", "GlobalAveragePool", "QuantizeLinear", "DequantizeLinear"]
    assert kinds(import_model(save(tmp_path, pool(channels_last=0)))) == expected
    with pytest.raises(ModelError, match=r"\(QLinearGlobalAveragePool\)"):
        import_model(save(tmp_path, pool(channels_last=1)))


def test_a_bias_without_constant_scales_is_refused(tmp_path: Path) -> None:
    constants = {"z": np.uint8(3), "w": np.ones((2, 2, 1, 1), np.int8), "zw": np.int8(0), "b": np.zeros(2, np.int32)}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("QLinearConv", "q s z w s zw s z b", "p"),
        node("DequantizeLinear", "p s z", "y"),
    ]
    with pytest.raises(ModelError):
        import_model(save(tmp_path, model(nodes, {"x": [1, 2, 3, 4], "s": [1]}, ["y"], constants)))


def test_a_scale_for_each_of_something_else_is_refused(tmp_path: Path) -> None:
    """The bias has the scale input * weights, and an input has one."""
    scales = {"s": np.full(2, 0.1, np.float32), "ws": np.full(4, 0.1, np.float32)}
    zeros = {"z": np.zeros(2, np.uint8), "zw": np.zeros(4, np.int8)}
    constants = {**scales, **zeros, "w": np.ones((4, 2, 1, 1), np.int8), "b": np.zeros(4, np.int32)}
    nodes = [node("QuantizeLinear", "x s z", "q", axis=1), node("QLinearConv", "q s z w ws zw s z b", "y")]
    with pytest.raises(ModelError, match=r"\(QLinearConv\): "):
        import_model(save(tmp_path, model(nodes, {"x": [1, 2, 3, 4]}, ["y"], constants)))


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_pad_of_stored_integers(kind: Any, tmp_path: Path) -> None:
    """Its fill is an integer: the zero point, or what stands for another value."""
    constants = {"s": np.float32(0.1), "z": kind(3), "fill": kind(17), "pads": np.array([0, 0, 1, 0, 0, 2], np.int64)}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("Pad", "q pads fill", "p"),
        node("DequantizeLinear", "p s z", "y"),
    ]
    proto = model(nodes, {"x": [1, 2, 4]}, ["y"], constants)
    lowered = lower(import_model(save(tmp_path, proto)))
    sample = next(inputs())[0, :2, 0, :4][None]
    quant = lowered.tensors[lowered.outputs[0].tensor].quant
    ours = quant.dequantize(interpret.run(lowered, [quant.quantize(sample)])[0])
    np.testing.assert_allclose(ours.reshape(1, 2, 7), run(proto, {"x": sample})[0], rtol=1e-6)
