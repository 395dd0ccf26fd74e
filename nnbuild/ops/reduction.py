"""What the Reduce operators share: any axes of a value, as one window of a pool over it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx

from nnbuild import layout, qdq
from nnbuild.lower import Activation, Lowering
from nnbuild.network import Array
from nnbuild.ops.spatial import Window


@dataclass(frozen=True, slots=True)
class Reduction:
    """The tensor to pool, its one window for each result, and the results' offsets in the ONNX shape."""

    tensor: str
    window: Window
    index: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the result."""
        return (*self.window.output, self.window.input[2])


def of(ctx: Lowering, node: onnx.NodeProto, activation: Activation) -> Reduction:
    """The reduction that `node` is of `activation`: axes as an attribute or a known input, all where there are none.

    Without a copy where the reduced axes lie together in memory, in front of or behind all others.
    """
    rank = activation.index.ndim
    axes = sorted(_axes(ctx, node, rank))
    kept = [axis for axis in range(rank) if axis not in axes]
    count = math.prod(activation.shape[axis] for axis in axes)
    behind = activation.index.transpose(*kept, *axes)
    if layout.is_contiguous(behind):
        size, kernel, order = (behind.size // count, count, 1), (1, count), behind
    else:
        space = activation.shape[2:] if axes == [2, 3] == list(range(2, rank)) else (1, count)
        order = activation.index.transpose(*axes, *kept)
        size, kernel = (space[0], space[1], order.size // count), (space[0], space[1])
    place = Window(size, (size[0] // kernel[0], size[1] // kernel[1]), kernel, (1, 1), (1, 1), (0, 0), (0, 0))
    tensor = ctx.arrange(activation, order, node, size)
    result = tuple(1 if axis in axes else size for axis, size in enumerate(activation.shape))
    if not qdq.attribute(node, "keepdims", 1):
        result = tuple(activation.shape[axis] for axis in kept)
    return Reduction(tensor, place, layout.contiguous(result))


def _axes(ctx: Lowering, node: onnx.NodeProto, rank: int) -> set[int]:
    """Axes are an attribute up to opset 17 (12 for ReduceSum) and an input later."""
    given = ctx.constant(node, 1)
    if given is None and len(node.input) > 1 and node.input[1]:
        raise ctx.refuse(node, "its axes are not constant", "export them as a constant")
    axes = [int(axis) for axis in (qdq.attribute(node, "axes", []) if given is None else given.values.ravel())]
    if not axes and qdq.attribute(node, "noop_with_empty_axes", 0):
        raise ctx.refuse(node, "it reduces no axis", "leave it out")
    if any(not -rank <= axis < rank for axis in axes):
        raise ctx.refuse(node, f"axes {axes} do not fit {rank} dimensions")
    return {axis % rank for axis in axes} or set(range(rank))
