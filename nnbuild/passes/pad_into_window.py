"""Pad with zeros in front of Conv or AveragePool becomes the window's own padding, which costs no memory."""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute, set_attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Merge the Pad in front of `node`; an average counts the padding then, so it must not have excluded its own."""
    if node.op_type not in ("Conv", "AveragePool"):
        return False
    pad = graph.feeding(node, 0, "Pad")
    pads = _spatial_zeros(graph, pad) if pad is not None else None
    if pad is None or pads is None:
        return False
    own = attribute(node, "pads", [0] * len(pads))
    if attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    if node.op_type == "AveragePool":
        if attribute(node, "ceil_mode", 0) or (any(own) and not attribute(node, "count_include_pad", 0)):
            return False
        extents = attribute(node, "kernel_shape", [])
        if any(amount >= extent for amount, extent in zip(pads, extents * 2, strict=True)):
            return False  # runtimes refuse a pool whose padding is as large as its window
        set_attribute(node, "count_include_pad", 1)
    set_attribute(node, "pads", [a + b for a, b in zip(own, pads, strict=True)])
    graph.set_input(node, 0, pad.input[0])
    graph.remove(pad)
    return True


def _spatial_zeros(graph: Graph, pad: NodeProto) -> list[int] | None:
    """Amounts (all begins, then all ends) of a Pad that adds zeros around the spatial axes only; else None."""
    rank = len(graph.shape(pad.input[0]))
    amounts, value, axes = (graph.constant(pad, index) for index in (1, 2, 3))
    if amounts is None or attribute(pad, "mode", b"constant") != b"constant":
        return None
    if len(pad.input) > 2 and pad.input[2] and (value is None or value.size != 1 or value.any()):
        return None
    if len(pad.input) > 3 and pad.input[3] and axes is None:
        return None
    full = [0] * (2 * rank)
    listed = range(rank) if axes is None else [int(axis) % rank for axis in axes]
    for position, axis in enumerate(listed):
        full[axis], full[axis + rank] = int(amounts[position]), int(amounts[position + len(listed)])
    if any(amount < 0 for amount in full) or any(full[axis] for axis in (0, 1, rank, rank + 1)):
        return None
    return full[2:rank] + full[rank + 2 :]
