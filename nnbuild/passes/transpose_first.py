"""A constant operand in front of a Transpose moves behind it: where channels come last, it then varies along axis 1.

That is how Keras normalizes images, before the one Transpose that exporters put in front of the first convolution.
"""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes import affine
from nnbuild.passes.graph import Graph, attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Let the Transpose that alone reads `node` (Add, Sub, Mul, Div by a constant) go first."""
    form = affine.of_node(graph, node)
    after = graph.sole_reader(node.output[0]) if form is not None else None
    if form is None or after is None or after.op_type != "Transpose":
        return False
    index = list(node.input).index(form.value)
    constant, shape = graph.constants[node.input[1 - index]], graph.shape(form.value)
    if constant.ndim > len(shape):
        return False
    backwards = list(range(len(shape)))[::-1]
    perm = attribute(after, "perm", backwards)
    full = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    turned = graph.unique(f"{form.value}_transposed")
    result = tuple(shape[axis] for axis in perm)
    graph.add_node("Transpose", [form.value], turned, result, name=after.name or turned, before=node, perm=perm)
    graph.set_input(node, index, turned)
    graph.set_input(node, 1 - index, graph.add_constant(f"{after.output[0]}_constant", full.transpose(perm)))
    graph.shapes[node.output[0]] = result
    graph.absorb(node, after)
    return True
