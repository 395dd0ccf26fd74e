"""y = x * scale + shift by constants: reading it off a node, and putting it into the weights of a linear operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from nnbuild.network import Array
from nnbuild.passes.graph import Graph, attribute

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Affine:
    """`value` * `scale` + `shift`; both are float64 arrays that broadcast against the value.

    Those of a BatchNormalization are (channels,), along axis 1.
    """

    value: str
    scale: Array
    shift: Array


def of_node(graph: Graph, node: NodeProto) -> Affine | None:
    """The affine form of Add, Sub, Mul or Div with one constant operand that does not widen the other; else None."""
    if node.op_type not in _FORMS or len(node.input) != 2:
        return None
    left, right = graph.constant(node, 0), graph.constant(node, 1)
    if (left is None) == (right is None):
        return None
    value = node.input[0] if right is not None else node.input[1]
    constant = np.asarray(left if right is None else right, np.float64)
    if graph.shape(value) != graph.shape(node.output[0]):
        return None
    one, zero = np.ones(()), np.zeros(())
    if node.op_type == "Add":
        return Affine(value, one, constant)
    if node.op_type == "Mul":
        return Affine(value, constant, zero)
    if node.op_type == "Sub":
        return Affine(value, one, -constant) if right is not None else Affine(value, -one, constant)
    return Affine(value, 1.0 / constant, zero) if right is not None and np.all(constant) else None


_FORMS = frozenset(("Add", "Sub", "Mul", "Div"))


def output_axis(graph: Graph, node: NodeProto) -> int | None:
    """The axis of a linear node's weights that counts its outputs; None where the weights are not constant."""
    weights = graph.constant(node, 1)
    if node.op_type not in LINEAR or weights is None or weights.dtype != np.float32:
        return None
    if len(node.input) > 2 and node.input[2] and graph.constant(node, 2) is None:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        return 0 if node.op_type == "Conv" else 1
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        return (0 if attribute(node, "transB", 0) else 1) if plain else None
    return 1 if weights.ndim == 2 else None


def scale_outputs(graph: Graph, node: NodeProto, scale: Array, shift: Array) -> bool:
    """Let a linear node compute y * scale + shift, each (channels,) float64; False where its weights cannot take it."""
    axis = output_axis(graph, node)
    if axis is None or (node.op_type == "MatMul" and np.any(shift)):
        return False
    weights = graph.constants[node.input[1]].astype(np.float64)
    groups = attribute(node, "group", 1) if node.op_type == "ConvTranspose" else 1
    shape = [1] * weights.ndim
    shape[axis] = -1
    # The groups of a ConvTranspose are along its inputs, and its outputs are counted anew in each.
    grouped = weights.reshape(groups, -1, *weights.shape[1:])
    scaled = (grouped * scale.reshape(groups, *shape)).astype(np.float32).reshape(weights.shape)
    bias = graph.constant(node, 2)
    old = np.zeros(1) if bias is None else bias.astype(np.float64).reshape(-1)
    moved = (old * scale + shift).astype(np.float32)
    if not (np.isfinite(scaled).all() and np.isfinite(moved).all()):
        return False
    graph.set_input(node, 1, graph.add_constant(f"{node.output[0]}_weights", scaled))
    if node.op_type != "MatMul" and (bias is not None or np.any(shift)):
        graph.set_input(node, 2, graph.add_constant(f"{node.output[0]}_bias", moved))
    return True


def channels_of(graph: Graph, value: str, node: NodeProto) -> tuple[int, int]:
    """(axis, size) of the channels in `value`, which `node` (one of LINEAR) writes."""
    shape = graph.shape(value)
    axis = 1 if node.op_type in ("Conv", "ConvTranspose") else len(shape) - 1
    return axis, shape[axis]


def along(array: Array, size: int, rank: int, axis: int) -> Array | None:
    """`array` as (size,) where, broadcast against a value of `rank`, it varies along `axis` alone; else None."""
    if array.ndim > rank:
        return None
    full = (1,) * (rank - array.ndim) + array.shape
    if array.size != full[axis] or full[axis] not in (1, size):
        return None
    return np.broadcast_to(np.asarray(array, np.float64).reshape(-1), (size,))
