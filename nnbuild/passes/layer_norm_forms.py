"""LayerNormalization in the forms that exporters write: PyTorch before opset 17, Keras by tf2onnx, by hand.

(x - mean) / sqrt(variance + epsilon), or times its reciprocal, which may hold the gain; x * s + (offset - mean * s)
with s that product; a BatchNormalization by the statistics of its own input, with a channel for each row; then gain and
offset. As separate int8 layers the squares alone would take all of their range. Axes that are not the last, such as
channels, are moved there and back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from nnbuild.network import Array
from nnbuild.passes import affine
from nnbuild.passes.graph import Graph, attribute

_ZERO = np.zeros(())
_VIEWS = ("Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class _Mean:
    """The mean of `value` over `axes`, which are kept as 1."""

    value: str
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Scaled:
    """`gain` / sqrt(variance of `mean.value` + `epsilon`); `gain` broadcasts against the value."""

    mean: _Mean
    epsilon: float
    gain: Array


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace the node that completes such a group, and the affine ones behind it; the others die."""
    if node.op_type == "Div":
        root = _root(graph, node.input[1])
        return root is not None and _centred(graph, node.input[0]) == root.mean and _replace(graph, node, root, _ZERO)
    if node.op_type == "Mul":
        return any(_product(graph, node, *pair) for pair in _ways(node))
    if node.op_type == "Add":
        return any(_sum(graph, node, *pair) for pair in _ways(node))
    if node.op_type == "BatchNormalization":
        return _batch_norm(graph, node)
    return node.op_type == "Sub" and _difference(graph, node)


def _product(graph: Graph, node: NodeProto, centred: str, factor: str) -> bool:
    """(x - mean) * s."""
    scaled = _factor(graph, factor)
    return scaled is not None and _centred(graph, centred) == scaled.mean and _replace(graph, node, scaled, _ZERO)


def _sum(graph: Graph, node: NodeProto, product: str, rest: str) -> bool:
    """x * s + (offset - mean * s)."""
    for value, factor in _ways(graph.producer(product), "Mul"):
        scaled = _factor(graph, factor)
        if scaled is not None and scaled.mean.value == value:
            offset = _less_mean(graph, rest, scaled.mean, factor)
            if offset is not None:
                return _replace(graph, node, scaled, offset)
    return False


def _difference(graph: Graph, node: NodeProto) -> bool:
    """x * s - mean * s."""
    for value, factor in _ways(graph.producer(node.input[0]), "Mul"):
        scaled = _factor(graph, factor)
        if scaled is not None and scaled.mean.value == value:
            return _is_product(graph, node.input[1], scaled.mean, factor) and _replace(graph, node, scaled, _ZERO)
    return False


def _batch_norm(graph: Graph, node: NodeProto) -> bool:
    """Keras' fused form: x as (1, rows, values, 1), normalized by the mean and variance of each row, and x again."""
    gain, offset = (_uniform(graph, node, index) for index in (1, 2))
    mean = _mean(graph, node.input[3], kept=False)
    if gain is None or offset is None or mean is None or mean.value != node.input[0]:
        return False
    if mean != _own_variance(graph, node.input[4]) or mean.axes != (0, *range(2, len(graph.shape(mean.value)))):
        return False
    epsilon = float(attribute(node, "epsilon", 1e-5))
    before, after = graph.producer(mean.value), graph.sole_reader(node.output[0])
    depth = math.prod(graph.shape(mean.value)[axis] for axis in mean.axes)
    if before is not None and before.op_type in _VIEWS and after is not None and after.op_type in _VIEWS:
        shape = graph.shape(before.input[0])
        first = next((axis for axis in reversed(range(len(shape))) if math.prod(shape[axis:]) == depth), None)
        if first is not None and graph.shape(after.output[0]) == shape:
            node, mean = after, _Mean(before.input[0], tuple(range(first, len(shape))))
    return _replace(graph, node, _Scaled(mean, epsilon, gain), offset)


def _own_variance(graph: Graph, value: str) -> _Mean | None:
    """The mean about which `value`, a sum of squared differences by their number, is the variance."""
    node = graph.producer(value)
    total = graph.producer(node.input[0]) if node is not None and node.op_type == "Div" else None
    squares = _square(graph, total.input[0]) if total is not None and total.op_type == "ReduceSum" else None
    mean = _centred(graph, squares) if squares is not None else None
    axes = graph.constant(total, 1) if total is not None else None
    if node is None or mean is None or axes is None:
        return None
    shape = graph.shape(mean.value)
    if {int(axis) % len(shape) for axis in axes.ravel()} != set(mean.axes):
        return None
    return mean if _number(graph, node, 1) == math.prod(shape[axis] for axis in mean.axes) else None


def _uniform(graph: Graph, node: NodeProto, index: int) -> Array | None:
    """A constant whose elements are all equal, as one number."""
    constant = graph.constant(node, index)
    if constant is None or not constant.size or (constant != constant.flat[0]).any():
        return None
    return np.asarray(constant.flat[0], np.float64)


def _less_mean(graph: Graph, value: str, mean: _Mean, factor: str) -> Array | None:
    """The offset where `value` is offset - mean * factor: a constant, or 0 where there is none."""
    node = graph.producer(value)
    if node is None:
        return None
    if node.op_type == "Add":
        for part, offset in _ways(node):
            if offset in graph.constants and _less_mean(graph, part, mean, factor) is not None:
                return graph.constants[offset].astype(np.float64)
    if node.op_type == "Sub" and node.input[0] in graph.constants:
        return (
            graph.constants[node.input[0]].astype(np.float64)
            if _is_product(graph, node.input[1], mean, factor)
            else None
        )
    if node.op_type == "Neg" and _is_product(graph, node.input[0], mean, factor):
        return _ZERO
    for left, right in _ways(node, "Mul"):
        negative = graph.producer(left)
        if right == factor and negative is not None and negative.op_type == "Neg":
            return _ZERO if _mean(graph, negative.input[0]) == mean else None
    return None


def _is_product(graph: Graph, value: str, mean: _Mean, factor: str) -> bool:
    ways = _ways(graph.producer(value), "Mul")
    return any(right == factor and _mean(graph, left) == mean for left, right in ways)


def _factor(graph: Graph, value: str) -> _Scaled | None:
    """1 / sqrt(variance + epsilon), times a constant or not."""
    node = graph.producer(value)
    if node is None:
        return None
    for part, gain in _ways(node, "Mul"):
        inner = _factor(graph, part) if gain in graph.constants else None
        if inner is not None:
            return replace(inner, gain=inner.gain * graph.constants[gain].astype(np.float64))
    if node.op_type == "Reciprocal":
        return _root(graph, node.input[0])
    if node.op_type == "Div" and _number(graph, node, 0) == 1:
        return _root(graph, node.input[1])
    return (
        _guarded_variance(graph, node.input[0]) if node.op_type == "Pow" and _number(graph, node, 1) == -0.5 else None
    )


def _root(graph: Graph, value: str) -> _Scaled | None:
    """What divides by `value`, sqrt(variance + epsilon), is scaled by."""
    node = graph.producer(value)
    if node is None or not (node.op_type == "Sqrt" or (node.op_type == "Pow" and _number(graph, node, 1) == 0.5)):
        return None
    return _guarded_variance(graph, node.input[0])


def _guarded_variance(graph: Graph, value: str) -> _Scaled | None:
    """variance + epsilon."""
    node = graph.producer(value)
    form = affine.of_node(graph, node) if node is not None and node.op_type == "Add" else None
    mean = _variance(graph, form.value) if form is not None else None
    if form is None or mean is None or form.shift.size != 1:
        return None
    epsilon = float(form.shift.reshape(()))
    return _Scaled(mean, epsilon, np.ones(())) if 0 <= epsilon < math.inf else None


def _variance(graph: Graph, value: str) -> _Mean | None:
    """The mean about which `value` is the variance: that of the squared differences, or of squares less its own."""
    outer = _mean(graph, value)
    if outer is not None:
        difference = _square(graph, outer.value)
        inner = _centred(graph, difference) if difference is not None else None
        return inner if inner is not None and inner.axes == outer.axes else None
    node = graph.producer(value)
    if node is None or node.op_type != "Sub":
        return None
    squares, mean = _mean(graph, node.input[0]), _square(graph, node.input[1])
    found = _mean(graph, mean) if mean is not None else None
    if squares is None or found is None or _square(graph, squares.value) != found.value or squares.axes != found.axes:
        return None
    return found


def _centred(graph: Graph, value: str) -> _Mean | None:
    """The mean that was taken off its own value."""
    node = graph.producer(value)
    mean = _mean(graph, node.input[1]) if node is not None and node.op_type == "Sub" else None
    return mean if node is not None and mean is not None and mean.value == node.input[0] else None


def _square(graph: Graph, value: str) -> str | None:
    node = graph.producer(value)
    if node is None:
        return None
    twice = node.op_type == "Mul" and node.input[0] == node.input[1]
    return node.input[0] if twice or (node.op_type == "Pow" and _number(graph, node, 1) == 2) else None


def _mean(graph: Graph, value: str, kept: bool = True) -> _Mean | None:
    """ReduceMean that keeps its axes or not, or a view that puts them back or takes them out."""
    node, shape = graph.producer(value), graph.shape(value)
    if node is not None and node.op_type in _VIEWS:
        node = graph.producer(node.input[0])
    axes = graph.constant(node, 1) if node is not None and node.op_type == "ReduceMean" else None
    if node is None or axes is None or not axes.size:
        return None
    full = graph.shape(node.input[0])
    found = tuple(sorted({int(axis) % len(full) for axis in axes.ravel()}))
    wanted = tuple(1 if axis in found else size for axis, size in enumerate(full) if kept or axis not in found)
    return _Mean(node.input[0], found) if shape == wanted else None


def _number(graph: Graph, node: NodeProto, index: int) -> float | None:
    constant = graph.constant(node, index)
    return float(constant.reshape(())) if constant is not None and constant.size == 1 else None


def _ways(node: NodeProto | None, kind: str = "") -> tuple[tuple[str, str], ...]:
    """Both orders of the operands of `node`, where it is of `kind`."""
    if node is None or (kind and node.op_type != kind) or len(node.input) != 2:
        return ()
    return (node.input[0], node.input[1]), (node.input[1], node.input[0])


def _replace(graph: Graph, node: NodeProto, scaled: _Scaled, offset: Array) -> bool:
    """Put a LayerNormalization in the place of `node` and of gain and offset behind it."""
    shape, axes = graph.shape(scaled.mean.value), scaled.mean.axes
    gain, shift = _along(scaled.gain, shape, axes), _along(offset, shape, axes)
    if gain is None or shift is None or graph.shape(node.output[0]) != shape:
        return False
    while (reader := graph.sole_reader(node.output[0])) is not None:
        form = affine.of_node(graph, reader)
        parts = [_along(part, shape, axes) for part in (form.scale, form.shift)] if form is not None else [None]
        if any(part is None for part in parts):
            break
        gain, shift, node = gain * parts[0], shift * parts[0] + parts[1], reader
    _insert(graph, node, scaled, gain, shift)
    graph.remove(node)
    return True


def _along(array: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array | None:
    """`array`, which broadcasts against a value of `shape`, over `axes` alone; None where it varies along another."""
    full = (1,) * (len(shape) - array.ndim) + array.shape
    if len(full) > len(shape) or any(size != 1 for axis, size in enumerate(full) if axis not in axes):
        return None
    return np.broadcast_to(array.reshape([full[axis] for axis in axes]), [shape[axis] for axis in axes])


def _insert(graph: Graph, node: NodeProto, scaled: _Scaled, gain: Array, offset: Array) -> None:
    """Write the output of `node` by a normalization, between Transposes where `axes` are not the last."""
    value, axes, output = scaled.mean.value, scaled.mean.axes, node.output[0]
    name, shape = node.name or output, graph.shape(value)
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    order = [*kept, *axes]
    moved = order != sorted(order)
    source, result, turned = value, output, tuple(shape[axis] for axis in order)
    if moved:
        source, result = graph.unique(f"{value}_transposed"), graph.unique(f"{output}_transposed")
        graph.add_node("Transpose", [value], source, turned, name=f"{name}_in", before=node, perm=order)
    constants = [graph.add_constant(f"{output}_scale", gain.astype(np.float32))]
    if offset.any():
        constants.append(graph.add_constant(f"{output}_bias", offset.astype(np.float32)))
    graph.add_node(
        "LayerNormalization", [source, *constants], result, turned,
        name=name, before=node, axis=-len(axes), epsilon=scaled.epsilon,
    )  # fmt: skip
    if moved:
        back = [order.index(axis) for axis in range(len(order))]
        graph.add_node("Transpose", [result], output, shape, name=f"{name}_out", before=node, perm=back)
