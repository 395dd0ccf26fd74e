"""Networks of one operator for the operators' test cases: a small QDQ model is built and lowered, like a user's.

Inputs hold random bytes and the corners: all -128, all 127, both alternating, and a ramp through all 256 values.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nnbuild.contract import Case
from nnbuild.lower import lower
from nnbuild.network import Array, Layer, Network, Port, QuantParams, Tensor
from nnbuild.states import keep_states

Clamp = tuple[Any, ...]
"""("Relu",), ("Clip", low, high), ("Min", high) or ("Max", low)."""


class _Model:
    """A QDQ graph under construction; values are named v0, v1, ..."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def value(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def constant(self, array: Array) -> str:
        name = self.value()
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = self.value()
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}_{output}", **attributes))
        return output

    def pair(self, value: str, quant: QuantParams) -> str:
        """QuantizeLinear and DequantizeLinear."""
        scale = self.constant(np.array(quant.scale, np.float32))
        zero = self.constant(np.array(quant.zero_point, quant.dtype))
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [value, scale, zero]), scale, zero])

    def input(self, shape: Sequence[int], quant: QuantParams) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return self.pair(name, quant)

    def quantized(self, array: Array, scale: Array, axis: int = 0, zero_point: int = 0) -> str:
        """A constant behind DequantizeLinear."""
        scale = np.asarray(scale, np.float32)
        zero = np.full(scale.shape, zero_point, array.dtype)
        inputs = [self.constant(array), self.constant(scale), self.constant(zero)]
        return self.node("DequantizeLinear", inputs, axis=axis)

    def operands(
        self, operands: Sequence[Sequence[int] | Array], quants: Sequence[QuantParams], orders: Sequence[Sequence[int]]
    ) -> list[str]:
        """Inputs by shape and constants by value, some of them behind a Transpose (see `several`)."""
        values = [
            self.quantized(operand, np.array(quant.scale), zero_point=quant.zero_point)
            if isinstance(operand, np.ndarray)
            else self.input(operand, quant)
            for operand, quant in zip(operands, quants, strict=True)
        ]
        for position, order in enumerate(orders):
            if order:
                values[position] = self.node("Transpose", [values[position]], perm=list(order))
        return values

    def clamp(self, value: str, clamp: Clamp) -> str:
        if not clamp:
            return value
        bounds = [self.constant(np.array(bound, np.float32)) for bound in clamp[1:]]
        return self.node(clamp[0], [value, *bounds])

    def model(self, value: str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        output = helper.make_tensor_value_info(value, kind, None)
        graph = helper.make_graph(self.nodes, self.name, self.inputs, [output], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)

    def case(self, value: str, keep: bool = False, kind: int = TensorProto.FLOAT) -> Case:
        model = self.model(value, kind)
        if keep:
            keep_states(model)
        network = lower(model, self.name)
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        tensors = [network.tensors[port.tensor] for port in network.inputs]
        samples = [np.concatenate(_samples(each, rng)).reshape(-1, each.size) for each in tensors]
        return Case(self.name, network, tuple(samples))


def _samples(tensor: Tensor, rng: np.random.Generator) -> list[Array]:
    size, (least, most) = tensor.size, tensor.quant.limits
    ramp = np.arange(size, dtype=np.int64)
    found = [
        np.full(size, least),
        np.full(size, most),
        np.where(ramp % 2 == 0, least, most),
        ramp % 256 * ((most - least) // 255) + least,
        *(rng.integers(least, most + 1, size) for _ in range(3)),
    ]
    return [values.astype(tensor.dtype) for values in found]


def unary(
    name: str,
    kind: str,
    shape: Sequence[int],
    quant: QuantParams,
    output: QuantParams,
    attributes: Mapping[str, Any] | None = None,
    clamp: Clamp = (),
) -> Case:
    """One node of one input, with a clamp behind it if wanted."""
    model = _Model(name)
    result = model.node(kind, [model.input(shape, quant)], **(attributes or {}))
    return model.case(model.pair(model.clamp(result, clamp), output))


def several(
    name: str,
    kind: str,
    operands: Sequence[Sequence[int] | Array],
    quants: Sequence[QuantParams],
    output: QuantParams,
    clamp: Clamp = (),
    orders: Sequence[Sequence[int]] = (),
    attributes: Mapping[str, Any] | None = None,
) -> Case:
    """One node of several inputs; an operand that is an int8 array is a constant.

    Operand k goes through a Transpose with `orders[k]` first, where that is there and not empty.
    """
    model = _Model(name)
    result = model.node(kind, model.operands(operands, quants, orders), **(attributes or {}))
    return model.case(model.pair(model.clamp(result, clamp), output))


def chosen(
    name: str,
    condition: Array,
    operands: Sequence[Sequence[int] | Array],
    quants: Sequence[QuantParams],
    output: QuantParams,
    clamp: Clamp = (),
    orders: Sequence[Sequence[int]] = (),
) -> Case:
    """One Where with a constant condition (bool); the rest as in `several`."""
    model = _Model(name)
    mask = model.constant(condition)
    result = model.node("Where", [mask, *model.operands(operands, quants, orders)])
    return model.case(model.pair(model.clamp(result, clamp), output))


def normalized(
    name: str,
    shape: Sequence[int],
    axis: int,
    quant: QuantParams,
    output: QuantParams,
    clamp: Clamp = (),
    order: Sequence[int] = (),
    epsilon: float = 1e-5,
    affine: bool = True,
    bias: bool = True,
) -> Case:
    """One LayerNormalization, its input transposed by `order` first; with scales and biases of both signs, or without.

    Rows are constant in the first two samples; a further one holds rows of which a single value differs.
    """
    model = _Model(name)
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    value = model.input(shape, quant)
    if order:
        value, shape = model.node("Transpose", [value], perm=list(order)), [shape[axis] for axis in order]
    factors = [np.ones(shape[axis:], np.float32)]
    if affine:
        factors = [rng.normal(size=shape[axis:]).astype(np.float32) for _ in range(2 if bias else 1)]
    inputs = [value, *(model.constant(factor) for factor in factors)]
    result = model.node("LayerNormalization", inputs, axis=axis, epsilon=epsilon)
    case = model.case(model.pair(model.clamp(result, clamp), output))
    single = np.full(case.inputs[0].shape[1], 3, np.int8)
    single[:: shape[-1]] = 4
    return replace(case, inputs=(np.vstack([case.inputs[0], single]),))


def repeated(
    name: str,
    kind: str,
    shape: Sequence[int],
    count: int,
    quant: QuantParams,
    output: QuantParams,
    attributes: Mapping[str, Any] | None = None,
) -> Case:
    """One node that takes one value `count` times."""
    model = _Model(name)
    result = model.node(kind, [model.input(shape, quant)] * count, **(attributes or {}))
    return model.case(model.pair(result, output))


def clamp(name: str, bounds: Clamp, shape: Sequence[int], quant: QuantParams, output: QuantParams) -> Case:
    """A clamp that stands alone."""
    model = _Model(name)
    return model.case(model.pair(model.clamp(model.input(shape, quant), bounds), output))


def requantization(name: str, shape: Sequence[int], quant: QuantParams, output: QuantParams) -> Case:
    """A value that is quantized a second time with another scale."""
    model = _Model(name)
    return model.case(model.pair(model.input(shape, quant), output))


def pad(name: str, shape: Sequence[int], pads: Sequence[int], value: float, quant: QuantParams) -> Case:
    """Pad with a constant."""
    model = _Model(name)
    inputs = [
        model.input(shape, quant),
        model.constant(np.array(pads, np.int64)),
        model.constant(np.array(value, np.float32)),
    ]
    return model.case(model.pair(model.node("Pad", inputs), quant))


def resized(name: str, shape: Sequence[int], scales: Sequence[float], attributes: Mapping[str, Any]) -> Case:
    """One Resize, and arithmetic behind it."""
    model = _Model(name)
    quant = QuantParams(0.1, 3)
    inputs = [model.input(shape, quant), "", model.constant(np.array(scales, np.float32))]
    value = model.pair(model.node("Resize", inputs, **attributes), quant)
    return model.case(model.pair(model.node("Neg", [value]), QuantParams(0.11, -2)))


def reduced(
    name: str, kind: str, shape: Sequence[int], axes: Sequence[int], quant: QuantParams, output: QuantParams,
    keepdims: int = 1,
) -> Case:  # fmt: skip
    """One Reduce node."""
    model = _Model(name)
    inputs = [model.input(shape, quant), model.constant(np.array(axes, np.int64))]
    return model.case(model.pair(model.node(kind, inputs, keepdims=keepdims), output))


def moved(
    name: str,
    kind: str,
    shape: Sequence[int],
    numbers: Sequence[Any] = (),
    attributes: Mapping[str, Any] | None = None,
) -> Case:
    """One node that moves values about, as `numbers`, its int64 inputs, say; and arithmetic behind it."""
    model = _Model(name)
    quant = QuantParams(0.1, 3)
    inputs = [model.input(shape, quant), *(model.constant(np.array(number, np.int64)) for number in numbers)]
    value = model.pair(model.node(kind, inputs, **(attributes or {})), quant)
    return model.case(model.pair(model.node("Neg", [value]), QuantParams(0.11, -2)))


def transpose(
    name: str,
    shape: Sequence[int],
    steps: Sequence[tuple[Sequence[int] | None, Sequence[int] | None]],
    quant: QuantParams | None = None,
) -> Case:
    """Transposes (perm) and reshapes (shape), one after the other."""
    model = _Model(name)
    value = model.input(shape, quant or QuantParams(0.1, 3))
    for order, reshaped in steps:
        if order is not None:
            value = model.node("Transpose", [value], perm=list(order))
        if reshaped is not None:
            value = model.node("Reshape", [value, model.constant(np.array(reshaped, np.int64))])
    return model.case(value)


def weighted(
    name: str,
    kind: str,
    shape: Sequence[int],
    weight_shape: Sequence[int],
    channels_axis: int,
    quant: QuantParams,
    output: QuantParams,
    attributes: Mapping[str, Any] | None = None,
    clamp: Clamp = (),
    bias: bool = True,
    exact: bool = False,
) -> Case:
    """Conv, Gemm or MatMul with random weights in which every channel has a scale of its own, and the corners.

    The first channel's weights are all 127 and the second's all -127, so that sums saturate. With `exact` every scale
    is 2^-9: with powers of two around it, many sums lie halfway between two outputs.
    """
    model = _Model(name)
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    count = weight_shape[channels_axis]
    weights = np.moveaxis(rng.integers(-127, 128, weight_shape).astype(np.int8), channels_axis, 0).copy()
    weights[:1], weights[1:2] = 127, -127
    scales = rng.uniform(0.2, 3.0, count).astype(np.float32) * np.float32(0.004)
    if exact:
        scales = np.full(count, 2.0**-9, np.float32)
    inputs = [
        model.input(shape, quant),
        model.quantized(np.ascontiguousarray(np.moveaxis(weights, 0, channels_axis)), scales, channels_axis),
    ]
    attributes = attributes or {}
    if bias:
        # The groups of a ConvTranspose share the scales of their weights; each output has a bias of its own.
        groups = int(attributes.get("group", 1)) if kind == "ConvTranspose" and channels_axis else 1
        reach = rng.integers(-20000, 20000, count * groups).astype(np.int32)
        inputs.append(model.quantized(reach, np.tile(np.float32(quant.scale) * scales, groups)))
    result = model.node(kind, inputs, **attributes)
    return model.case(model.pair(model.clamp(result, clamp), output))


def recurrent(
    name: str,
    kind: str,
    shape: Sequence[int],
    hidden: int,
    quant: QuantParams,
    output: QuantParams,
    attributes: Mapping[str, Any] | None = None,
    last: bool = False,
    start: bool = False,
    keep: bool = False,
    cell_power: int = -12,
    per_gate: bool = False,
) -> Case:
    """LSTM, GRU or RNN over input of `shape`, with random weights and biases.

    `last` takes the last step alone, `start` gives an initial state, `keep` lets the state outlive the call. Each row
    of the weights has a scale, or with `per_gate` each gate.
    """
    model = _Model(name)
    value = _recurrent(model, kind, shape, hidden, quant, attributes or {}, start, cell_power, per_gate)
    value = model.pair(value, output)
    if last:
        first = 0 if (attributes or {}).get("direction") == "reverse" else shape[0] - 1
        bounds = [model.constant(np.array([number], np.int64)) for number in (first, first + 1, 0)]
        value = model.node("Slice", [value, *bounds])
    return model.case(value, keep)


def recurrent_model(
    name: str, kind: str, shape: Sequence[int], hidden: int, quant: QuantParams, output: QuantParams,
    attributes: Mapping[str, Any],
) -> onnx.ModelProto:  # fmt: skip
    """The QDQ model of such a case, for a runtime."""
    model = _Model(name)
    return model.model(model.pair(_recurrent(model, kind, shape, hidden, quant, attributes, True, -12, False), output))


def _recurrent(
    model: _Model, kind: str, shape: Sequence[int], hidden: int, quant: QuantParams, attributes: Mapping[str, Any],
    start: bool, cell_power: int, per_gate: bool,
) -> str:  # fmt: skip
    """The node, its weights and its input; the name of Y."""
    rng = np.random.default_rng(zlib.crc32(model.name.encode()) + 2)
    directions, gates = 1 + (attributes.get("direction") == "bidirectional"), {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    rows = gates * hidden
    inputs = [model.input(shape, quant)]
    for depth in (shape[2], hidden):
        weights = rng.integers(-127, 128, (directions, rows, depth)).astype(np.int8)
        scales = rng.uniform(0.3, 2.0, gates if per_gate else rows) * 0.02
        inputs.append(model.quantized(weights, np.repeat(scales, rows // scales.size), 1))
    inputs.append(model.constant(rng.normal(0, 0.5, (directions, 2 * rows)).astype(np.float32)))
    state = (rng.integers(-115, 116, (directions, shape[1], hidden)) / 128).astype(np.float32)
    inputs += ["", model.constant(state) if start else ""]
    if kind == "LSTM":
        cells = np.rint(state * 2.0**-cell_power * start * 0.9).astype(np.int32)
        inputs.append(model.quantized(cells, np.array(2.0**cell_power)))
    return model.node(kind, inputs, hidden_size=hidden, **attributes)


def indices(name: str, kind: str, shape: Sequence[int], quant: QuantParams, attributes: Mapping[str, Any]) -> Case:
    """One node whose output are indices, ArgMax or ArgMin."""
    model = _Model(name)
    return model.case(model.node(kind, [model.input(shape, quant)], **attributes), kind=TensorProto.INT64)


def history(name: str, params: Any, quant: QuantParams) -> Case:
    """A history of these `HistoryParams` with some other beginning than zero, and a clamp that reads it."""
    from nnbuild.ops.clamp import ClampParams

    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shape = (params.outer, params.new, params.inner)
    new, size = params.outer * params.new * params.inner, params.outer * params.rows * params.inner
    start = rng.integers(-128, 128, params.outer * params.inner).astype(np.int8)
    rows = (params.outer, params.rows, params.inner)
    network = Network(
        tensors={
            "input0": Tensor("input0", shape, quant),
            "input0_history": Tensor("input0_history", rows, quant),
            "l00_clamp": Tensor("l00_clamp", rows, quant),
        },
        layers=(
            Layer("input0_history", "history", ("input0",), "input0_history", params, {"start": start}, "clamp"),
            Layer("l00_clamp", "clamp", ("input0_history",), "l00_clamp", ClampParams(size, -120, 110), {}, "clamp"),
        ),
        inputs=(Port("x0", "input0", shape, "x".join(map(str, shape))),),
        outputs=(Port("v0", "l00_clamp", rows, "x".join(map(str, rows))),),
    )
    network.verify()
    return Case(name, network, (np.concatenate(_samples(network.tensors["input0"], rng)).reshape(-1, new),))
