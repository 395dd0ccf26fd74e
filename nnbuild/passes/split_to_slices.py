"""Split becomes one Slice for each of its outputs: a part that nobody reads then is no part of the model."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace a Split by Slices with the bounds that shape inference found."""
    if node.op_type != "Split":
        return False
    source, start = node.input[0], 0
    axis = int(attribute(node, "axis", 0)) % len(graph.shape(source))
    for number, value in enumerate(list(node.output)):
        shape = graph.shape(value)
        bounds = {"start": start, "end": start + shape[axis], "axis": axis}
        constants = [graph.add_constant(f"{value}_{name}", np.array([at], np.int64)) for name, at in bounds.items()]
        graph.add_node(
            "Slice", [source, *constants], value, shape,
            name=f"{node.name or 'Split'}_{number}", before=node, element=graph.types[source],
        )  # fmt: skip
        start = bounds["end"]
    graph.remove(node)
    return True
