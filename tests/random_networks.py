"""Random small QDQ networks for property tests: every supported node with odd shapes, scales and layouts.

A network is built by draws, so that hypothesis shrinks what fails. Beside each value goes `error`, an estimate of how
far (standard deviation, in steps of that value) integer rounding may take it from a run of the same model in floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

MAX_ELEMENTS = 600
"""Of one value: networks stay small enough to compile by the dozen."""


@dataclass(frozen=True)
class Value:
    """A dequantized value: ONNX name, shape, scale, int8 zero point, and the error estimate in steps."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    error: float = 0.5
    unsigned: bool = False


@dataclass(frozen=True)
class RandomNetwork:
    """`model`; `inputs` are (name, shape, element type, scale, int8 zero point), `outputs` the last three.

    `tolerance` is how many steps each output may be off from a run in floats.
    """

    model: onnx.ModelProto
    inputs: tuple[tuple[str, tuple[int, ...], int, float, int], ...]
    tolerance: tuple[float, ...]
    outputs: tuple[tuple[int, float, int], ...]
    seed: int

    def samples(self, count: int) -> list[list[Array]]:
        """int8 inputs: the corners, then random bytes."""
        rng = np.random.default_rng(self.seed)
        sizes = [math.prod(shape) for _, shape, *_ in self.inputs]
        rows: list[list[Array]] = [[np.full(n, corner, np.int8) for n in sizes] for corner in (-128, 127)]
        while len(rows) < count:
            rows.append([rng.integers(-128, 128, n).astype(np.int8) for n in sizes])
        return rows[:count]

    def feeds(self, sample: Sequence[Array]) -> dict[str, Array]:
        """The int8 `sample` as onnxruntime takes it."""
        feeds = {}
        for (name, shape, kind, scale, zero_point), values in zip(self.inputs, sample, strict=True):
            wide = values.astype(np.int64).reshape(shape)
            if kind == TensorProto.FLOAT:
                feeds[name] = ((wide - zero_point) * np.float64(np.float32(scale))).astype(np.float32)
            elif kind == TensorProto.UINT8:
                feeds[name] = (wide + 128).astype(np.uint8)
            else:
                feeds[name] = wide.astype(np.int8)
        return feeds

    def steps(self, position: int, found: Array) -> Array:
        """What onnxruntime gave for output `position`, in int8 steps (not rounded)."""
        kind, scale, zero_point = self.outputs[position]
        if kind == TensorProto.FLOAT:
            return np.asarray(found.astype(np.float64) / np.float64(np.float32(scale)) + zero_point)
        return found.astype(np.float64) - (128 if kind == TensorProto.UINT8 else 0)


class Builder:
    """The graph under construction."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**20)))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.graph_inputs: list[onnx.ValueInfoProto] = []
        self.inputs: list[tuple[str, tuple[int, ...], int, float, int]] = []
        self.values: list[Value] = []
        self.count = 0
        self.wild = (1e-7, 1e6) if draw(st.integers(0, 7)) == 7 else ()
        """Factors between scales as no quantizer of sound mind writes them."""

    # Parts.

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def choose(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def chance(self) -> bool:
        return bool(self.draw(st.booleans()))

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def constant(self, array: Array) -> str:
        name = self.fresh()
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = self.fresh()
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}_{output}", **attributes))
        return output

    def zero_point(self) -> int:
        return int(self.draw(st.one_of(st.sampled_from([-128, 127, 0]), st.integers(-128, 127))))

    def scale(self, around: float) -> float:
        return float(np.float32(around * self.choose(0.25, 0.5, 0.9, 1.0, 1.3, 2.0, 4.0, *self.wild)))

    def stored(self, zero_point: int, unsigned: bool) -> Array:
        return np.array(zero_point + 128, np.uint8) if unsigned else np.array(zero_point, np.int8)

    def parameters(self, value: Value) -> list[str]:
        zero = self.stored(value.zero_point, value.unsigned)
        return [self.constant(np.array(value.scale, np.float32)), self.constant(zero)]

    def pair(self, source: str, shape: Sequence[int], scale: float, zero_point: int, error: float) -> Value:
        """Q and DQ behind `source`; the value that follows."""
        made = Value("", tuple(shape), scale, zero_point, error, self.unsigned)
        both = self.parameters(made)
        name = self.node("DequantizeLinear", [self.node("QuantizeLinear", [source, *both]), *both])
        value = replace(made, name=name)
        self.values.append(value)
        return value

    def kept(self, source: str, shape: Sequence[int], like: Value) -> Value:
        """A value that moved: with or without a Q/DQ pair of its own."""
        if self.chance():
            return self.pair(source, shape, like.scale, like.zero_point, like.error)
        value = replace(like, name=source, shape=tuple(shape))
        self.values.append(value)
        return value

    def clamped(self, source: str, scale: float) -> str:
        """Sometimes a clamp in front of the Q."""
        kind = self.choose("", "", "Relu", "Clip", "Min", "Max", "ClipLow", "ClipCrossed")
        steps = self.number(-60, 60)
        low, high = np.array(scale * (steps - 40.3), np.float32), np.array(scale * (steps + 40.7), np.float32)
        if kind == "Relu":
            return self.node("Relu", [source])
        if kind == "Clip":
            return self.node("Clip", [source, self.constant(low), self.constant(high)])
        if kind == "ClipLow":
            return self.node("Clip", [source, self.constant(low)])
        if kind == "ClipCrossed":
            return self.node("Clip", [source, self.constant(high), self.constant(low)])
        if kind:
            both = [source, self.constant(high if kind == "Min" else low)]
            return self.node(kind, both[::-1] if self.chance() else both)
        return source

    def add_input(self, shape: Sequence[int], scale: float) -> Value:
        kind = self.choose(TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT8)
        if kind == TensorProto.INT8 and self.unsigned:
            kind = TensorProto.UINT8
        name, zero_point = f"in{len(self.inputs)}", self.zero_point()
        self.graph_inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        self.inputs.append((name, tuple(shape), kind, scale, zero_point))
        if kind == TensorProto.FLOAT:
            return self.pair(name, shape, scale, zero_point, 0.0)
        made = Value("", tuple(shape), scale, zero_point, 0.0, self.unsigned)
        value = replace(made, name=self.node("DequantizeLinear", [name, *self.parameters(made)]))
        self.values.append(value)
        return value

    @property
    def unsigned(self) -> bool:
        """uint8 activations in the whole model, or int8; drawn once."""
        if not hasattr(self, "_unsigned"):
            self._unsigned = self.chance()
        return self._unsigned

    # Weights.

    def weighted(
        self, kind: str, value: Value, shape: Sequence[int], axis: int, **attributes: Any
    ) -> tuple[str, float, float]:
        """Node with int8 weights (channels along `axis`) and sometimes a bias: (output, its scale, its error)."""
        count = shape[axis]
        fan_in = math.prod(shape) // count
        weights = self.rng.integers(-127, 128, shape).astype(np.int8)
        if self.chance():
            np.moveaxis(weights, axis, 0)[0] = 127
        per_channel = self.chance()
        size = 1 / (73 * math.sqrt(fan_in))
        scales = (size * self.rng.uniform(0.3, 1.5, count if per_channel else 1)).astype(np.float32)
        stored = scales if per_channel else scales[0]
        zeros = np.zeros(stored.shape, np.int8)
        inputs = [value.name]
        places = {"axis": axis} if per_channel else {}
        constants = [self.constant(array) for array in (weights, stored, zeros)]
        inputs.append(self.node("DequantizeLinear", constants, **places))
        if kind != "MatMul" and self.chance():
            reach = np.float32(value.scale) * np.broadcast_to(scales, (count,))
            bias = np.rint(self.rng.normal(0, 40, count) * value.scale / reach).astype(np.int32)
            constants = [self.constant(array) for array in (bias, reach, np.zeros(count, np.int32))]
            inputs.append(self.node("DequantizeLinear", constants, axis=0))
        out = self.scale(value.scale)
        real = np.moveaxis(weights.astype(np.float64), axis, -1).reshape(-1, count) * scales
        gain = float(np.sqrt((real**2).sum(axis=0)).max()) * value.scale / out
        return self.node(kind, inputs, **attributes), out, math.hypot(0.5, gain * value.error)

    # Steps; each takes a value and returns one, or None where it does not apply.

    def window(self, value: Value, dilated: bool, ceil: bool) -> tuple[dict[str, Any], list[int], list[int]] | None:
        """Attributes of a Conv or pool, its kernel, and its output's extents."""
        spatial = value.shape[2:]
        kernel = [self.number(1, min(n + 2, 4)) for n in spatial]
        strides = [self.number(1, 3) for _ in spatial]
        dilations = [self.number(1, 2) if dilated else 1 for _ in spatial]
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        attributes: dict[str, Any] = {"strides": strides}
        if dilated:
            attributes["dilations"] = dilations
        mode = self.choose("none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID")
        pads = [0] * 2 * len(spatial)
        if mode == "pads":
            limit = kernel if ceil else extent  # onnxruntime's, for pools
            pads = [self.number(0, n - 1) for n in (*limit, *limit)]
            attributes["pads"] = pads
        elif mode != "none":
            attributes["auto_pad"] = mode
        if mode.startswith("SAME"):
            out = [-(-n // s) for n, s in zip(spatial, strides, strict=True)]
            short = any((o - 1) * s + e < n for o, s, e, n in zip(out, strides, extent, spatial, strict=True))
            if short or any(d > 1 for d in dilations):
                return None  # onnxruntime refuses it for some operators
            return attributes, kernel, out
        room = [n + a + b - e for n, a, b, e in zip(spatial, pads, pads[len(spatial) :], extent, strict=False)]
        if min(room) < 0:
            return None
        if ceil and mode in ("none", "pads") and self.chance():
            attributes["ceil_mode"] = 1
        return attributes, kernel, [r // s + 1 for r, s in zip(room, strides, strict=True)]

    def conv(self, value: Value) -> Value | None:
        found = self.window(value, True, False) if len(value.shape) in (3, 4) else None
        if found is None:
            return None
        attributes, kernel, out = found
        channels = value.shape[1]
        groups = self.choose(*(g for g in range(1, channels + 1) if channels % g == 0))
        if self.chance():
            groups = self.choose(1, channels)
        filters = groups * self.number(1, max(1, 8 // groups))
        weights = (filters, channels // groups, *kernel)
        output, scale, error = self.weighted("Conv", value, weights, 0, group=groups, **attributes)
        return self.pair(self.clamped(output, scale), (1, filters, *out), scale, self.zero_point(), error)

    def gemm(self, value: Value) -> Value | None:
        if len(value.shape) != 2:
            return None
        count, outputs, by_row = value.shape[1], self.number(1, 12), self.chance()
        weights = (outputs, count) if by_row else (count, outputs)
        output, scale, error = self.weighted("Gemm", value, weights, 0 if by_row else 1, transB=int(by_row))
        return self.pair(self.clamped(output, scale), (1, outputs), scale, self.zero_point(), error)

    def matmul(self, value: Value) -> Value | None:
        if len(value.shape) < 2:
            return None
        outputs = self.number(1, 9)
        output, scale, error = self.weighted("MatMul", value, (value.shape[-1], outputs), 1)
        return self.pair(self.clamped(output, scale), (*value.shape[:-1], outputs), scale, self.zero_point(), error)

    def add(self, value: Value) -> Value | None:
        """With an earlier value, an own transpose, or a constant, broadcast or not."""
        others = [other for other in self.values if _broadcasts(other.shape, value.shape)]
        if others and self.chance():
            other = self.choose(*others[-6:])
            ratio = other.scale / value.scale
            if not 0.01 < ratio < 100:
                return None
        else:
            shape = tuple(1 if self.chance() else n for n in value.shape)
            if self.chance() and len(shape) > 1:
                shape = shape[self.number(0, len(shape) - 1) :]
            made = Value("", shape, self.scale(value.scale), self.zero_point(), 0.0, self.unsigned)
            integers = self.rng.integers(-128, 128, shape)
            stored = (integers + 128).astype(np.uint8) if made.unsigned else integers.astype(np.int8)
            name = self.node("DequantizeLinear", [self.constant(stored), *self.parameters(made)])
            other = Value(name, shape, made.scale, made.zero_point, 0.0, made.unsigned)
        names = [value.name, other.name]
        out = self.scale(max(value.scale, other.scale))
        error = math.hypot(0.5, value.error * value.scale / out, other.error * other.scale / out)
        output = self.node("Add", names[::-1] if self.chance() else names)
        shape = tuple(np.broadcast_shapes(value.shape, other.shape))
        return self.pair(self.clamped(output, out), shape, out, self.zero_point(), error)

    def max_pool(self, value: Value) -> Value | None:
        found = self.window(value, self.chance(), True) if len(value.shape) in (3, 4) else None
        if found is None:
            return None
        attributes, kernel, out = found
        if "ceil_mode" in attributes:
            out = _pooled(value.shape[2:], kernel, attributes)
            if not out:
                return None
        output = self.node("MaxPool", [value.name], kernel_shape=kernel, **attributes)
        shape = (*value.shape[:2], *out)
        if self.chance():
            return self.kept(self.clamped(output, value.scale), shape, value)
        scale = self.scale(value.scale)
        return self.pair(output, shape, scale, self.zero_point(), math.hypot(0.5, value.error * value.scale / scale))

    def average_pool(self, value: Value) -> Value | None:
        found = self.window(value, False, True) if len(value.shape) in (3, 4) else None
        if found is None:
            return None
        attributes, kernel, out = found
        if "ceil_mode" in attributes:
            out = _pooled(value.shape[2:], kernel, attributes)
            if not out:
                return None
        if self.chance():
            attributes["count_include_pad"] = self.number(0, 1)
        output = self.node("AveragePool", [value.name], kernel_shape=kernel, **attributes)
        return self.averaged(value, output, (*value.shape[:2], *out))

    def averaged(self, value: Value, output: str, shape: Sequence[int]) -> Value:
        same = self.chance()
        scale = value.scale if same else self.scale(value.scale)
        zero_point = value.zero_point if same else self.zero_point()
        error = math.hypot(0.5, value.error * value.scale / scale)
        return self.pair(self.clamped(output, scale), shape, scale, zero_point, error)

    def global_mean(self, value: Value) -> Value | None:
        rank = len(value.shape)
        if rank not in (3, 4):
            return None
        if self.chance():
            output = self.node("GlobalAveragePool", [value.name])
            return self.averaged(value, output, (*value.shape[:2], *[1] * (rank - 2)))
        axes = [axis - rank if self.chance() else axis for axis in range(2, rank)]
        keep = self.number(0, 1)
        output = self.node("ReduceMean", [value.name, self.constant(np.array(axes))], keepdims=keep)
        return self.averaged(value, output, (*value.shape[:2], *[1] * (rank - 2) * keep))

    def pad(self, value: Value) -> Value | None:
        rank = len(value.shape)
        pads = [0, *(self.number(0, 2) for _ in range(rank - 1)), 0, *(self.number(0, 2) for _ in range(rank - 1))]
        shape = [n + pads[axis] + pads[rank + axis] for axis, n in enumerate(value.shape)]
        fill = np.array(value.scale * self.choose(0, 0, 7, -3.3), np.float32)
        output = self.node("Pad", [value.name, self.constant(np.array(pads, np.int64)), self.constant(fill)])
        return self.pair(output, shape, value.scale, value.zero_point, value.error)

    def unary(self, value: Value) -> Value | None:
        kind, gain = self.choose(
            ("Tanh", 1), ("Sigmoid", 1), ("LeakyRelu", 1), ("HardSwish", 1.5), ("Elu", 1), ("Abs", 1), ("Neg", 1)
        )
        attributes = {"alpha": self.choose(0.01, 0.3, 1.0)} if kind in ("LeakyRelu", "Elu") else {}
        bounded = {"Tanh": 1 / 128, "Sigmoid": 1 / 256}
        scale = self.scale(bounded.get(kind, value.scale))
        error = math.hypot(0.5, gain * value.error * value.scale / scale)
        output = self.node(kind, [value.name], **attributes)
        return self.pair(self.clamped(output, scale), value.shape, scale, self.zero_point(), error)

    def clamp(self, value: Value) -> Value | None:
        output = self.clamped(value.name, value.scale)
        if output == value.name:
            return None
        if self.chance():
            return self.kept(output, value.shape, value)
        scale = self.scale(value.scale)
        error = math.hypot(0.5, value.error * value.scale / scale)
        return self.pair(output, value.shape, scale, self.zero_point(), error)

    def softmax(self, value: Value) -> Value | None:
        axis = self.number(1, len(value.shape) - 1) if len(value.shape) > 1 else 0
        axis = axis - len(value.shape) if self.chance() else axis
        output = self.node("Softmax", [value.name], axis=axis)
        error = math.hypot(0.7, value.error * min(value.scale, 1e3) * 64)
        return self.pair(output, value.shape, 1 / 256, -128, error)

    def transpose(self, value: Value) -> Value | None:
        order = [0, *self.draw(st.permutations(range(1, len(value.shape))))]
        output = self.node("Transpose", [value.name], perm=order)
        return self.kept(output, [value.shape[axis] for axis in order], value)

    def reshape(self, value: Value) -> Value | None:
        size = math.prod(value.shape)
        shape = [1]
        for _ in range(self.number(0, 2)):
            shape.append(self.choose(*(n for n in range(1, size + 1) if size % n == 0)))
            size //= shape[-1]
        shape.append(size)
        if self.chance():
            output = self.node("Flatten", [value.name], axis=1)
            return self.kept(output, (1, math.prod(value.shape)), value)
        return self.kept(self.node("Reshape", [value.name, self.constant(np.array(shape, np.int64))]), shape, value)

    def squeeze(self, value: Value) -> Value | None:
        ones = [axis for axis, n in enumerate(value.shape) if n == 1 and axis]
        if ones and self.chance():
            axis = self.choose(*ones)
            output = self.node("Squeeze", [value.name, self.constant(np.array([axis], np.int64))])
            return self.kept(output, [n for a, n in enumerate(value.shape) if a != axis], value)
        if len(value.shape) > 3:
            return None
        axis = self.number(1, len(value.shape))
        output = self.node("Unsqueeze", [value.name, self.constant(np.array([axis], np.int64))])
        return self.kept(output, [*value.shape[:axis], 1, *value.shape[axis:]], value)

    def requantize(self, value: Value) -> Value | None:
        scale = self.scale(value.scale)
        error = math.hypot(0.5, value.error * value.scale / scale)
        return self.pair(value.name, value.shape, scale, self.zero_point(), error)


STEPS = (
    Builder.conv,
    Builder.conv,
    Builder.conv,
    Builder.gemm,
    Builder.gemm,
    Builder.matmul,
    Builder.add,
    Builder.add,
    Builder.max_pool,
    Builder.average_pool,
    Builder.global_mean,
    Builder.pad,
    Builder.unary,
    Builder.clamp,
    Builder.softmax,
    Builder.transpose,
    Builder.reshape,
    Builder.squeeze,
    Builder.requantize,
)


def _broadcasts(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    try:
        shape = np.broadcast_shapes(one, other)
    except ValueError:
        return False
    return math.prod(shape) <= MAX_ELEMENTS and shape[0] == 1


def _pooled(spatial: Sequence[int], kernel: Sequence[int], attributes: dict[str, Any]) -> list[int]:
    """Output extents with ceil_mode; none where a window would start in the padding behind the input.

    ONNX and onnxruntime do not agree on those.
    """
    axes = len(spatial)
    pads = attributes.get("pads", [0] * 2 * axes)
    dilations = attributes.get("dilations", [1] * axes)
    result = []
    for axis in range(axes):
        extent, stride = (kernel[axis] - 1) * dilations[axis] + 1, attributes["strides"][axis]
        room = spatial[axis] + pads[axis] + pads[axes + axis] - extent
        count = -(-room // stride) + 1
        if (count - 1) * stride >= spatial[axis] + pads[axis]:
            return []
        result.append(count)
    return result


@st.composite
def networks(draw: Draw, layers: int = 6) -> RandomNetwork:
    """A network of 1 to `layers` steps with one or two inputs and one to three outputs."""
    build = Builder(draw)
    shape = draw(
        st.one_of(
            st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 7), st.integers(1, 7)),
            st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 12)),
            st.tuples(st.just(1), st.integers(1, 24)),
        )
    )
    scale = float(np.float32(draw(st.sampled_from([0.02, 0.02, 0.1, 1.0, 1e-6, 3e-3, 1e4]))))
    current = build.add_input(shape, scale)
    if build.chance() and build.chance():
        build.add_input(shape if build.chance() else (1, shape[1]), scale)
    for _ in range(draw(st.integers(1, layers))):
        step = draw(st.sampled_from(STEPS))
        source = current if draw(st.integers(0, 3)) else draw(st.sampled_from(build.values))
        count = (len(build.nodes), len(build.initializers))
        following = step(build, source)
        if following is None or math.prod(following.shape) > MAX_ELEMENTS:
            del build.nodes[count[0] :], build.initializers[count[1] :]
            build.values = [value for value in build.values if following is None or value.name != following.name]
            continue
        current = following
    return _finished(build, current)


def _finished(build: Builder, current: Value) -> RandomNetwork:
    chosen = [current]
    while build.chance() and len(chosen) < 3:
        other = build.choose(*build.values)
        if other.name not in {value.name for value in chosen}:
            chosen.append(other)
    written = {node.output[0]: node for node in build.nodes}
    outputs, infos, tolerance = [], [], []
    for value in chosen:
        last = written[value.name]
        name, kind = value.name, TensorProto.FLOAT
        if last.op_type == "DequantizeLinear" and last.input[0] in written and build.chance():
            name, kind = last.input[0], TensorProto.UINT8 if value.unsigned else TensorProto.INT8
        infos.append(helper.make_tensor_value_info(name, kind, list(value.shape)))
        outputs.append((kind, value.scale, value.zero_point))
        tolerance.append(2 + 6 * value.error)
    graph = helper.make_graph(build.nodes, "random", build.graph_inputs, infos, build.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = _without_dead_ends(model)
    return RandomNetwork(model, tuple(build.inputs), tuple(tolerance), tuple(outputs), build.number(0, 1000))


def _without_dead_ends(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what no output needs; the inputs stay."""
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if set(node.output) & needed:
            kept.append(node)
            needed |= set(node.input)
    for value in model.graph.input:
        if value.name not in needed:
            reader = next(node for node in model.graph.node if value.name in node.input)
            kept.append(reader)
            needed |= set(reader.input)
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(initializers)
    return model
