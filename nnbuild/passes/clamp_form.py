"""Every clamp becomes Relu, or Clip with scalar constants for the bounds it has.

HardTanh arrives as Clip(-1, 1) with bounds of any origin (folding made them constants), or as Min and Max.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto, TensorProto

from nnbuild.network import Array
from nnbuild.passes.graph import Graph

_UNBOUNDED = float(np.finfo(np.float32).max)  # what opset 6 exporters write for "no bound"


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Bring one Min, Max or Clip into the form."""
    if graph.types.get(node.output[0]) != TensorProto.FLOAT:
        return False
    if node.op_type in ("Min", "Max"):
        return _from_min_max(graph, node)
    if node.op_type != "Clip":
        return False
    found = bounds(graph, node)
    if found is None:
        return False
    low, high = found
    if low == -math.inf and high == math.inf:
        return graph.bypass(node)
    if low == 0.0 and high == math.inf:
        graph.drop_inputs(node, 1)
        node.op_type = "Relu"
        return True
    return write_bounds(graph, node, low, high)


def bounds(graph: Graph, node: NodeProto) -> tuple[float, float] | None:
    """(low, high) of a Relu or Clip, infinite where there is none; None where a bound is computed.

    Where low > high, Clip gives high everywhere; then both are high.
    """
    if node.op_type == "Relu":
        return 0.0, math.inf
    found = [-math.inf, math.inf]
    for index, value in enumerate(node.input[1:3]):
        if value:
            array = graph.constants.get(value)
            if array is None or array.size != 1 or np.isnan(array).any():
                return None
            found[index] = float(array.reshape(())[()])
    low, high = found
    low, high = (-math.inf if low <= -_UNBOUNDED else low), (math.inf if high >= _UNBOUNDED else high)
    return min(low, high), high


def write_bounds(graph: Graph, node: NodeProto, low: float, high: float) -> bool:
    """Let a Clip have these bounds; False if it has them in this form already."""
    wanted = [low, high] if high != math.inf else [low]
    changed = len(node.input) != 1 + len(wanted)
    graph.drop_inputs(node, min(len(node.input), 1 + len(wanted)))
    for index, (bound, wish) in enumerate(zip(wanted, ("min", "max"), strict=False), start=1):
        if math.isinf(bound):
            changed |= len(node.input) > index and node.input[index] != ""
            graph.set_input(node, index, "")
        elif not _is_scalar(graph.constant(node, index), bound):
            name = graph.add_constant(f"{node.output[0]}_{wish}", np.asarray(bound, np.float32))
            graph.set_input(node, index, name)
            changed = True
    return changed


def _is_scalar(array: Array | None, value: float) -> bool:
    return array is not None and array.shape == () and float(array) == value


def _from_min_max(graph: Graph, node: NodeProto) -> bool:
    """Min or Max of one value and one number."""
    if len(node.input) != 2:
        return False
    constant = next((index for index in (1, 0) if node.input[index] in graph.constants), None)
    if constant is None:
        return False
    array, other = graph.constants[node.input[constant]], node.input[1 - constant]
    if array.size != 1 or np.isnan(array).any() or graph.shape(other) != graph.shape(node.output[0]):
        return False
    bound = graph.add_constant(f"{node.output[0]}_bound", array.reshape(()))
    inputs = [other, bound] if node.op_type == "Max" else [other, "", bound]
    node.op_type = "Clip"
    graph.drop_inputs(node, 0)
    for index, value in enumerate(inputs):
        graph.set_input(node, index, value)
    return True
