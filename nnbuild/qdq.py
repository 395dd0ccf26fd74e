"""Questions about an ONNX graph that lowering and quantizing both ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx

from nnbuild.fixedpoint import round_half_away
from nnbuild.network import Array, QuantParams

VIEWS = frozenset(
    (
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout", "Cast"),
        *("DepthToSpace", "Expand", "Gather", "Resize", "Slice", "SpaceToDepth", "Tile"),
    )
)
"""Operators that move no value into another range."""


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute (bytes as str), or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def name(node: onnx.NodeProto) -> str:
    """The node's name, or where it has none the name of its output."""
    return str(node.name or (node.output[0] if node.output else ""))


def place(where: str, node: onnx.NodeProto) -> str:
    """`file: node 'name' (Op)`, for messages."""
    spot = f"node '{name(node)}' ({node.op_type})"
    return f"{where}: {spot}" if where else spot


def shapes(graph: onnx.GraphProto) -> Mapping[str, tuple[int, ...]]:
    """Shape of every value that has a static one."""
    found: dict[str, tuple[int, ...]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    found.update({initializer.name: tuple(initializer.dims) for initializer in graph.initializer})
    return found


def types(graph: onnx.GraphProto) -> Mapping[str, int]:
    """Element type of every value that has one."""
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def readers(graph: onnx.GraphProto) -> Mapping[str, list[onnx.NodeProto]]:
    """The nodes that read each value, in order; a node that reads it twice is there twice."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            found.setdefault(value, []).append(node)
    return found


def clamp_bounds(node: onnx.NodeProto, constant: Callable[[str], Array | None]) -> tuple[float, float] | None:
    """(low, high) of a node that only clamps: Relu, Clip, or Min / Max with a scalar constant; None for any other.

    `constant` gives the value of a known input. Clip's bounds are attributes up to opset 6 and inputs later.
    """
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type == "Clip":
        bounds = [attribute(node, "min", -math.inf), attribute(node, "max", math.inf)]
        for position, value in enumerate(node.input[1:3]):
            if value:
                array = constant(value)
                if array is None or array.size != 1:
                    return None
                bounds[position] = float(array.ravel()[0])
        if any(map(math.isnan, bounds)):
            return None
        # Bounds that cross: ONNX says that every value becomes the upper one.
        return float(min(bounds)), float(bounds[1])
    if node.op_type in ("Min", "Max") and len(node.input) == 2:
        # The constant may stand on either side; the value that is clamped is the other.
        array = constant(node.input[1])
        if array is None or array.size != 1 or array.ndim > 1:
            return None
        bound = float(array.ravel()[0])
        if math.isnan(bound):
            return None
        return (-math.inf, bound) if node.op_type == "Min" else (bound, math.inf)
    return None


def quantized_bound(bound: float, quant: QuantParams) -> int:
    """A clamp's bound as stored: round(bound / scale) + zero_point, saturated; infinities give the type's limits."""
    least, most = quant.limits
    if math.isinf(bound):
        return least if bound < 0 else most
    limited = min(max(bound / quant.scale, -1e6), 1e6)
    return min(max(round_half_away(limited) + quant.zero_point, least), most)
