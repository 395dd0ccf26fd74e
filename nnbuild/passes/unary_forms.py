"""Several nodes that together are one function of one value: SiLU, HardSwish, Gelu and their like, however written.

Such a function is one table of 256 bytes; its parts would each need their own range, and a product of two values. What
a group of nodes computes is found by computing it: at some points it equals one of the functions that have an operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from onnx import NodeProto, TensorProto, defs, helper

from nnbuild.passes import affine, clamp_form
from nnbuild.passes.graph import Graph, attribute

SWISH_OPSET = 24

_POINTS = (-60.0, -20.0, *(number / 4 for number in range(-33, 34)), 20.0, 60.0)
_NEXT = 2.0**-10  # a step to either side of a number that a group compares with
_EPSILON = 1e-4  # what is added and less than this keeps a logarithm or a quotient finite, and stays
_TOLERANCE = 2e-6  # of constants in float32, such as 0.797884583

_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b,
    "Min": min,
    "Max": max,
    "Pow": math.pow,
    "Greater": lambda a, b: float(a > b),
    "GreaterOrEqual": lambda a, b: float(a >= b),
    "Less": lambda a, b: float(a < b),
    "LessOrEqual": lambda a, b: float(a <= b),
}
_FUNCTIONS = frozenset(
    (
        *("Abs", "Elu", "Erf", "Exp", "HardSigmoid", "LeakyRelu", "Log", "Neg", "Reciprocal", "Sigmoid", "Softplus"),
        *("Sqrt", "Tanh"),
    )
)
_CLAMPS = frozenset(("Clip", "Relu"))
_ELEMENTWISE = frozenset((*_ARITHMETIC, *_FUNCTIONS, *_CLAMPS, "Cast", "Where"))
_MOST_NODES = 12


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Replace the last node of such a group by the one operator; the others die."""
    if node.op_type == "PRelu":
        return _leaky_relu(graph, node)
    for value, group in _groups(graph, node) if _is_elementwise(graph, node) else ():
        found = _recognized(graph, value, group) if len(group) > 1 else None
        if found is not None and not _is_for_weights(graph, value, node, found[0]):
            return _replace(graph, node, found[0], value, **found[1])
    return False


def _groups(graph: Graph, node: NodeProto) -> Iterator[tuple[str, list[NodeProto]]]:
    """(x, nodes in the order of the graph) for each way to read `node` as a function of x alone, the smallest first.

    Nobody else reads what the nodes inside write.
    """
    group, shape = [node], graph.shape(node.output[0])
    while len(group) <= _MOST_NODES:
        inside = {entry.output[0] for entry in group}
        leaves = dict.fromkeys(
            value for entry in group for value in entry.input if value and value not in inside | graph.constants.keys()
        )
        closed = all(
            entry.output[0] not in graph.outputs
            and all(any(reader is other for other in group) for reader in graph.readers(entry.output[0]))
            for entry in group[:-1]
        )
        if len(leaves) == 1 and closed and graph.shape(next(iter(leaves))) == shape:
            yield next(iter(leaves)), group
        before = [graph.producer(value) for value in leaves]
        known = [entry for entry in before if entry is not None and _is_elementwise(graph, entry)]
        if not known:
            return
        group = [max(known, key=graph.position), *group]


def _is_elementwise(graph: Graph, node: NodeProto) -> bool:
    """Whether the node computes each element from those at the same place, and from single numbers."""
    numbers = all(graph.constants[value].size == 1 for value in node.input if value in graph.constants)
    cast_of_truth = node.op_type != "Cast" or (
        graph.types.get(node.input[0]) == TensorProto.BOOL and attribute(node, "to", 0) == TensorProto.FLOAT
    )
    return node.op_type in _ELEMENTWISE and numbers and cast_of_truth


def _recognized(graph: Graph, value: str, group: list[NodeProto]) -> tuple[str, dict[str, Any]] | None:
    """The operator, and its attributes, that equals the group at all points, and next to the numbers in it."""
    names = dict.fromkeys(name for node in group for name in node.input if name in graph.constants)
    numbers = sorted({float(graph.constants[name].reshape(())) for name in names})
    if any(0 < abs(number) < _EPSILON for number in numbers):
        return None
    points = (*_POINTS, *(number + side for number in numbers for side in (-_NEXT, _NEXT) if abs(number) < 60))
    try:
        computed = {x: _evaluate(graph, value, group, x) for x in points}
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    for kind, attributes in _candidates(computed, numbers):
        if _equals(helper.make_node(kind, ["x"], ["y"], **attributes), computed):
            return kind, attributes
    return None


def _equals(node: NodeProto, computed: Mapping[float, float]) -> bool:
    try:
        wanted = ((_function(node, x), result) for x, result in computed.items())
        return all(math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for one, other in wanted)
    except (ValueError, OverflowError, ZeroDivisionError):
        return False


def _candidates(computed: Mapping[float, float], numbers: Sequence[float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Functions of one value, those with parameters as these points would have them, or one of `numbers`."""
    one, zero, minus = computed[1.0], computed[0.0], computed[-1.0]
    for kind in ("Relu", "Abs", "HardSwish", "Mish", "Gelu", "Sigmoid", "Tanh", "Softplus", "Softsign"):
        yield kind, {}
    yield "Gelu", {"approximate": "tanh"}
    if 0 < one < 1 and _has_swish():
        steep = math.log(one / (1 - one))
        yield "Swish", {} if abs(steep - 1) < _TOLERANCE * 8 else {"alpha": steep}
    if 0 < zero < 1 and computed[60.0] == 1 and computed[-60.0] == 0:
        yield "HardSigmoid", {"alpha": (computed[0.25] - zero) * 4, "beta": zero}
    if one == 1 and minus < 0:
        yield "LeakyRelu", {"alpha": -minus}
        yield "Elu", {"alpha": minus / math.expm1(-1.0)}
    if one > 0 and minus < 0:
        yield "Selu", {"alpha": minus / one / math.expm1(-1.0), "gamma": one}
    for number in numbers:
        yield "ThresholdedRelu", {"alpha": number}
        if number > 0:
            yield "Celu", {"alpha": number}


def _evaluate(graph: Graph, value: str, group: list[NodeProto], x: float) -> float:
    """What the last node of the group writes where `value` is x."""
    known = {value: x}
    for node in group:
        inputs = [
            known[name] if name in known else float(graph.constants[name].reshape(())) for name in node.input if name
        ]
        if node.op_type in _ARITHMETIC:
            result = inputs[0]
            for other in inputs[1:]:
                result = _ARITHMETIC[node.op_type](result, other)
        elif node.op_type in _CLAMPS:
            low, high = clamp_form.bounds(graph, node) or (math.nan, math.nan)
            result = min(max(inputs[0], low), high)
        elif node.op_type == "Where":
            result = inputs[1] if inputs[0] else inputs[2]
        elif node.op_type == "Cast":
            result = inputs[0]
        else:
            result = _function(node, inputs[0])
        if math.isnan(result):
            raise ValueError(node.op_type)
        known[node.output[0]] = result
    return known[group[-1].output[0]]


def _function(node: NodeProto, x: float) -> float:
    from nnbuild.ops import lookup

    return max(x, 0.0) if node.op_type == "Relu" else float(lookup.FUNCTIONS[node.op_type](x, node))


def _is_for_weights(graph: Graph, value: str, node: NodeProto, kind: str) -> bool:
    """Whether a linear operator takes all of it, as factor, bias and clamp: a HardSigmoid that ends in its clamp."""
    before = graph.producer(value)
    while before is not None and (form := affine.of_node(graph, before)) is not None:
        before = graph.producer(form.value)
    linear = before is not None and before.op_type in affine.LINEAR
    return linear and kind == "HardSigmoid" and node.op_type in _CLAMPS


def _has_swish() -> bool:
    try:
        return bool(defs.get_schema("Swish", SWISH_OPSET, "").since_version <= SWISH_OPSET)
    except Exception:  # onnx.defs.SchemaError, which some versions do not export
        return False


def _leaky_relu(graph: Graph, node: NodeProto) -> bool:
    slope = graph.constant(node, 1)
    if slope is None or slope.size != 1:
        return False
    return _replace(graph, node, "LeakyRelu", node.input[0], alpha=float(slope.reshape(())))


def _replace(graph: Graph, node: NodeProto, kind: str, value: str, **attributes: Any) -> bool:
    output = node.output[0]
    graph.add_node(kind, [value], output, graph.shape(output), name=node.name or output, before=node, **attributes)
    graph.remove(node)
    return True
