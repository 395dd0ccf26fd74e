"""Pad in forms that are no layer of their own: other modes are Slices side by side, negative pads are a Slice.

reflect: 3 2 | 1 2 3 | 2 1; edge: 1 1 | 1 2 3 | 3 3; wrap: 2 3 | 1 2 3 | 1 2. Source: ONNX operators, Pad.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute

Piece = tuple[int, int, int, int]
"""(start, end, step, repeats) of a part of an axis."""


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Pad one axis of another mode, or cut off what a constant Pad cuts off."""
    if node.op_type != "Pad" or graph.constant(node, 1) is None:
        return False
    mode = attribute(node, "mode", b"constant")
    before, after = _amounts(graph, node)
    if mode == b"constant":
        return min(*before, *after) < 0 and _cropped(graph, node, before, after)
    shape = graph.shape(node.input[0])
    pieces = {
        axis: _pieces(mode.decode(), size, before[axis], after[axis])
        for axis, size in enumerate(shape)
        if before[axis] or after[axis]
    }
    found = [(axis, piece) for axis, piece in pieces.items() if piece is not None]
    if len(found) < len(pieces):
        return False
    value, result = node.input[0], node.output[0]
    for axis, parts in found:
        value = _side_by_side(graph, node, value, axis, parts)
    graph.add_node("Identity", [value], result, graph.shape(result), name=result, before=node)
    graph.remove(node)
    return True


def _amounts(graph: Graph, node: NodeProto) -> tuple[list[int], list[int]]:
    """Elements in front of and behind each axis."""
    rank = len(graph.shape(node.input[0]))
    pads, given = graph.constants[node.input[1]].ravel(), graph.constant(node, 3)
    axes = list(range(rank)) if given is None else [int(axis) % rank for axis in given.ravel()]
    before, after = [0] * rank, [0] * rank
    for position, axis in enumerate(axes):
        before[axis], after[axis] = int(pads[position]), int(pads[len(axes) + position])
    return before, after


def _pieces(mode: str, size: int, before: int, after: int) -> list[Piece] | None:
    """What lies side by side along an axis; None where this form does not serve."""
    reach = size - 1 if mode == "reflect" else size
    if min(before, after) < 0 or (mode != "edge" and max(before, after) > reach):
        return None
    whole = (0, size, 1, 1)
    first, last = {
        "reflect": ((before, 0, -1, 1), (size - 2, size - 2 - after, -1, 1)),
        "edge": ((0, 1, 1, before), (size - 1, size, 1, after)),
        "wrap": ((size - before, size, 1, 1), (0, after, 1, 1)),
    }[mode]
    return [*([first] if before else []), whole, *([last] if after else [])]


def _side_by_side(graph: Graph, node: NodeProto, value: str, axis: int, pieces: list[Piece]) -> str:
    """A Concat of slices of `value` along `axis`."""
    parts, length = [], 0
    for piece in pieces:
        part = value if piece == (0, graph.shape(value)[axis], 1, 1) else _slice(graph, node, value, axis, piece)
        parts += [part] * piece[3]
        length += graph.shape(part)[axis] * piece[3]
    shape = list(graph.shape(value))
    shape[axis] = length
    result = graph.unique(f"{node.output[0]}_axis{axis}")
    graph.add_node(
        "Concat", parts, result, shape, name=f"{node.name or node.output[0]}_axis{axis}", before=node, axis=axis
    )
    return result


def _slice(graph: Graph, node: NodeProto, value: str, axis: int, piece: Piece) -> str:
    start, end, step, _ = piece
    shape = list(graph.shape(value))
    shape[axis] = len(range(start, end, step))
    # Down to element 0 is an end in front of the axis: -1 would mean its last element.
    end = -shape[axis] - graph.shape(value)[axis] - 1 if end < 0 else end
    part = graph.unique(f"{node.output[0]}_part")
    bounds = [graph.add_constant(f"{part}_bound", np.array([at], np.int64)) for at in (start, end, axis, step)]
    graph.add_node("Slice", [value, *bounds], part, shape, name=part, before=node)
    return part


def _cropped(graph: Graph, node: NodeProto, before: list[int], after: list[int]) -> bool:
    """A Slice in front of a Pad that is nowhere negative."""
    value = node.input[0]
    shape = graph.shape(value)
    starts = [max(-amount, 0) for amount in before]
    ends = [size - max(-amount, 0) for size, amount in zip(shape, after, strict=True)]
    if any(start >= end for start, end in zip(starts, ends, strict=True)):
        return False
    cut = graph.unique(f"{value}_cut")
    bounds = [graph.add_constant(f"{cut}_bound", np.array(at, np.int64)) for at in (starts, ends)]
    size = [end - start for start, end in zip(starts, ends, strict=True)]
    graph.add_node("Slice", [value, *bounds], cut, size, name=f"{node.name or node.output[0]}_cut", before=node)
    pads = np.maximum([*before, *after], 0)
    graph.set_input(node, 0, cut)
    graph.set_input(node, 1, graph.add_constant(f"{node.output[0]}_pads", pads))
    if len(node.input) > 3:
        graph.drop_inputs(node, 3)
    return True
