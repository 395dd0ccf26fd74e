"""Random QDQ networks that run along time: windows of all kinds, branches of different delays, ends of all kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class RandomStream:
    """`model` takes a window along `axis` of its input; a call brings `times` as many frames as it must."""

    model: onnx.ModelProto
    axis: int
    times: int
    seed: int


@dataclass(frozen=True)
class Map:
    """A value (1, channels, time, width)."""

    name: str
    channels: int
    time: int
    width: int


class Builder:
    """The graph under construction; every value is quantized."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**20)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def constant(self, array: npt.ArrayLike) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}_{name}", **attributes))
        return name

    def pair(self, value: str, scale: float | None = None) -> str:
        scale = float(self.rng.uniform(0.02, 0.2)) if scale is None else scale
        both = self.constant(np.float32(scale)), self.constant(np.int8(self.rng.integers(-128, 128)))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", value, *both), *both)

    def weights(self, shape: Sequence[int], axis: int = 0) -> str:
        values = self.constant(self.rng.integers(-127, 128, shape).astype(np.int8))
        count = shape[axis]
        scales = self.constant(
            (self.rng.uniform(0.5, 2.0, count) / math.sqrt(math.prod(shape) / count) / 60).astype(np.float32)
        )
        return self.node("DequantizeLinear", values, scales, self.constant(np.zeros(count, np.int8)), axis=axis)

    # Parts: a map in, a map out.

    def conv(self, x: Map, depthwise: bool = False, kernel: int | None = None) -> Map:
        dilation = self.number(1, 2) if x.time > 4 else 1
        kernel = self.number(1, min(4, (x.time - 1) // dilation + 1)) if kernel is None else kernel
        dilation = dilation if (kernel - 1) * dilation < x.time else 1
        stride = self.number(1, 2) if x.time > 5 else 1
        wide = self.number(1, min(2, x.width))
        pad = self.number(0, wide - 1)
        channels = x.channels if depthwise else self.number(1, 4)
        shape = (channels, 1 if depthwise else x.channels, kernel, wide)
        value = self.node(
            "Conv", x.name, self.weights(shape), strides=[stride, 1], dilations=[dilation, 1],
            pads=[0, pad, 0, 0], group=x.channels if depthwise else 1,
        )  # fmt: skip
        time = (x.time - (kernel - 1) * dilation - 1) // stride + 1
        value = self.node("Relu", value) if self.number(0, 1) else value
        return Map(self.pair(value), channels, time, x.width + pad - wide + 1)

    def pool(self, x: Map) -> Map:
        kernel, wide = self.number(1, min(3, x.time)), self.number(1, x.width)
        stride = self.number(1, 2) if x.time > 5 else 1
        kind = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        value = self.node(kind, x.name, kernel_shape=[kernel, wide], strides=[stride, 1])
        return Map(self.pair(value), x.channels, (x.time - kernel) // stride + 1, x.width - wide + 1)

    def table(self, x: Map) -> Map:
        kind = self.draw(st.sampled_from(["Tanh", "Sigmoid", "Neg"]))
        return Map(self.pair(self.node(kind, x.name)), x.channels, x.time, x.width)

    def scaled(self, x: Map) -> Map:
        factors = self.constant(self.rng.integers(-100, 100, (1, x.channels, 1, x.width)).astype(np.int8))
        zero = self.constant(np.int8(0))
        other = self.node("DequantizeLinear", factors, self.constant(np.float32(0.02)), zero)
        kind = self.draw(st.sampled_from(["Mul", "Add", "Sub"]))
        return Map(self.pair(self.node(kind, x.name, other)), x.channels, x.time, x.width)

    def crop(self, x: Map, first: int, time: int) -> Map:
        bounds = [self.constant(np.array([n], np.int64)) for n in (first, first + time, 2)]
        return Map(self.node("Slice", x.name, *bounds), x.channels, time, x.width)

    def branches(self, x: Map) -> Map:
        """Two ways of different delays that meet: a crop beside a window, or two windows."""
        kernel = self.number(2, min(4, x.time))
        one = self.depth_one(x, kernel)
        other = self.table(x) if self.number(0, 1) else x
        if other.time > one.time:
            other = self.crop(other, self.number(0, other.time - one.time), one.time)
        if self.number(0, 1):
            value = self.node("Concat", one.name, other.name, axis=1)
            return Map(self.pair(value), one.channels + other.channels, one.time, x.width)
        return Map(self.pair(self.node("Add", one.name, other.name)), x.channels, one.time, x.width)

    def depth_one(self, x: Map, kernel: int) -> Map:
        value = self.node("Conv", x.name, self.weights((x.channels, 1, kernel, 1)), group=x.channels)
        return Map(self.pair(value), x.channels, x.time - kernel + 1, x.width)

    # Ends.

    def end(self, x: Map) -> str:
        kind = self.draw(st.sampled_from(["flat", "mean", "last", "frames", "each", "softmax", "lost"]))
        size = x.channels * x.time * x.width
        if kind == "flat":
            flat = self.node("Flatten", x.name, axis=1)
            return self.pair(self.node("Gemm", flat, self.weights((size, 3), 1)))
        if kind == "mean":
            mean = self.pair(self.node("GlobalAveragePool", x.name))
            flat = self.node("Flatten", mean, axis=1)
            return self.pair(self.node("Gemm", flat, self.weights((x.channels, 2), 1)))
        if kind == "last":
            return self.node("Flatten", self.crop(x, x.time - 1, 1).name, axis=1)
        if kind == "lost":  # the newest frames do not count
            return self.node("Flatten", self.crop(x, 0, max(1, x.time - 1)).name, axis=1)
        if kind == "frames":
            return x.name
        frames = self.node("Transpose", x.name, perm=[0, 2, 3, 1])
        width = x.width * x.channels
        frames = self.node("Reshape", frames, self.constant(np.array([1, x.time, width], np.int64)))
        if kind == "softmax":
            return self.pair(self.node("Softmax", frames, axis=-1), 1 / 256)
        return self.pair(self.node("MatMul", frames, self.weights((width, 3), 1)))


@st.composite
def streams(draw: Any) -> RandomStream:
    """Networks of up to four parts behind an input channels first or last, or without width."""
    build = Builder(draw)
    channels, time, width = build.number(1, 3), build.number(5, 14), build.number(1, 3)
    order = draw(st.sampled_from(["first", "last", "line"]))
    if order == "first":
        shape, axis = [1, channels, time, width], 2
        value = build.pair("x")
    elif order == "last":
        shape, axis = [1, time, width, channels], 1
        value = build.node("Transpose", build.pair("x"), perm=[0, 3, 1, 2])
    else:
        shape, axis, width = [1, channels, time], 2, 1
        value = build.node("Unsqueeze", build.pair("x"), build.constant(np.array([3], np.int64)))
    x = Map(value, channels, time, width)
    for _ in range(build.number(1, 4)):
        if x.time < 2:
            break
        part = draw(st.sampled_from(["conv", "conv", "depthwise", "pool", "table", "scaled", "branches"]))
        parts = {"depthwise": lambda x: build.conv(x, True)} | {
            name: getattr(build, name) for name in ("conv", "pool", "table", "scaled", "branches")
        }
        x = parts[part](x)
    output = build.end(x)
    graph = helper.make_graph(
        build.nodes,
        "stream",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        build.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return RandomStream(model, axis, build.number(1, 3), build.number(0, 999))
