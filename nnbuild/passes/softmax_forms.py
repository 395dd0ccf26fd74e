"""Softmax and LogSoftmax in the forms that exporters write.

Log(Softmax(x)); exp(x - max) / sum(exp(x - max)); x - max - log(sum(exp(x - max))). As separate int8 layers most of
their range is lost: the logarithm of a small probability needs all of its bits.
"""

from __future__ import annotations

from onnx import NodeProto

from nnbuild.passes.graph import Graph, attribute


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace the last node of such a group; the others die."""
    rule = {"Log": _log_of_softmax, "Div": _quotient, "Sub": _difference}.get(node.op_type)
    return rule is not None and rule(graph, node)


def _log_of_softmax(graph: Graph, node: NodeProto) -> bool:
    softmax = graph.feeding(node, 0, "Softmax")
    if softmax is None:
        return False
    return _replace(graph, node, "LogSoftmax", softmax.input[0], int(attribute(softmax, "axis", -1)))


def _quotient(graph: Graph, node: NodeProto) -> bool:
    total = graph.feeding(node, 1, "ReduceSum")
    exponential = graph.producer(node.input[0])
    axis = _axis(graph, total) if total is not None and total.input[0] == node.input[0] else None
    if axis is None or exponential is None or exponential.op_type != "Exp":
        return False
    return _replace(graph, node, "Softmax", _unshifted(graph, exponential.input[0], axis), axis)


def _difference(graph: Graph, node: NodeProto) -> bool:
    log = graph.feeding(node, 1, "Log")
    total = graph.feeding(log, 0, "ReduceSum") if log is not None else None
    exponential = graph.feeding(total, 0, "Exp") if total is not None else None
    axis = _axis(graph, total) if total is not None else None
    if axis is None or exponential is None or exponential.input[0] != node.input[0]:
        return False
    return _replace(graph, node, "LogSoftmax", _unshifted(graph, node.input[0], axis), axis)


def _unshifted(graph: Graph, value: str, axis: int) -> str:
    """x where `value` is x less its largest element along `axis`: neither function sees the difference."""
    shifted = graph.producer(value)
    if shifted is None or shifted.op_type != "Sub":
        return value
    largest = graph.producer(shifted.input[1])
    if largest is None or largest.op_type != "ReduceMax" or largest.input[0] != shifted.input[0]:
        return value
    return str(shifted.input[0]) if _axis(graph, largest) == axis else value


def _axis(graph: Graph, node: NodeProto) -> int | None:
    """The one axis of a Reduce that keeps its dimensions."""
    axes = graph.constant(node, 1)
    if axes is None or axes.size != 1 or not attribute(node, "keepdims", 1):
        return None
    return int(axes.ravel()[0]) % len(graph.shape(node.input[0]))


def _replace(graph: Graph, node: NodeProto, kind: str, value: str, axis: int) -> bool:
    output = node.output[0]
    name = node.name or output
    graph.add_node(kind, [value], output, graph.shape(output), name=name, before=node, axis=axis)
    graph.remove(node)
    return True
