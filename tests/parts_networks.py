"""Random networks that take values apart and put them together, and a simulation of their memory plans in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from nnbuild import interpret
from nnbuild.contract import LayerView
from nnbuild.lower import lower
from nnbuild.network import Array, Network, QuantParams
from nnbuild.ops import BY_NAME, singles
from nnbuild.ram.memory import Plan
from nnbuild.selection import Choice
from nnbuild.target import Target

Draw = Callable[[int], int]
"""A number from 0 up to what is passed, exclusive."""

UNIT, OTHER = QuantParams(1 / 128, 0), QuantParams(1 / 100, 5)


def network(draw: Draw) -> Network:
    """Vectors through tables, sums, parts and concatenations; one or two outputs."""
    model = singles._Model("parts")
    values = [(model.input((1, size), UNIT), size) for size in (4 + draw(14) for _ in range(1 + draw(2)))]
    for _ in range(3 + draw(7)):
        values.append(STEPS[draw(len(STEPS))](model, draw, values))
    outputs = dict.fromkeys(value for value, _ in (values[-1], values[-1 - draw(min(3, len(values)))]))
    # An output is what a node computes; a view of an input has no layer of its own.
    named = [model.pair(model.node("Neg", [value]), UNIT) if draw(2) else value for value in outputs]
    ports = [helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in dict.fromkeys(named)]
    graph = helper.make_graph(model.nodes, "parts", model.inputs, ports, model.initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return lower(onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True), "parts")


Value = tuple[str, int]


def _table(model: singles._Model, draw: Draw, values: Sequence[Value]) -> Value:
    value, size = values[draw(len(values))]
    kind = ("Tanh", "Neg", "Sigmoid", "Abs")[draw(4)]
    return model.pair(model.node(kind, [value]), UNIT if draw(4) else OTHER), size


def _part(model: singles._Model, draw: Draw, values: Sequence[Value]) -> Value:
    value, size = values[draw(len(values))]
    start = draw(size)
    count = 1 + draw(size - start)
    bounds = [model.constant(np.array([bound], np.int64)) for bound in (start, start + count, 1)]
    return model.node("Slice", [value, *bounds]), count


def _together(model: singles._Model, draw: Draw, values: Sequence[Value]) -> Value:
    picked = [values[draw(len(values))] for _ in range(2 + draw(2))]
    output = model.node("Concat", [value for value, _ in picked], axis=1)
    return model.pair(output, UNIT), sum(size for _, size in picked)


def _sum(model: singles._Model, draw: Draw, values: Sequence[Value]) -> Value:
    value, size = values[draw(len(values))]
    others = [other for other, own in values if own == size]
    return model.pair(model.node("Add", [value, others[draw(len(others))]]), UNIT), size


STEPS = (_table, _table, _part, _part, _together, _together, _sum)


def samples(found: Network, count: int) -> list[list[Array]]:
    """int8 inputs, flat."""
    rng = np.random.default_rng(3)
    sizes = [found.tensors[port.tensor].size for port in found.inputs]
    return [[rng.integers(-128, 128, size).astype(np.int8) for size in sizes] for _ in range(count)]


def simulated(
    found: Network, planned: Plan, choices: Sequence[Choice], target: Target, sample: Sequence[Array]
) -> list[Array]:
    """The outputs (flat) of one inference in an arena that is noise at first.

    As bad as kernels may be: scratch is noise before and behind each layer, and an output is noise before its layer has
    read any input but the one that it may overwrite.
    """
    rng = np.random.default_rng(5)
    arena = rng.integers(-128, 128, planned.arena).astype(np.int8)
    ports = {
        port.tensor: np.zeros(found.tensors[port.tensor].size, np.int8) for port in (*found.inputs, *found.outputs)
    }

    def of(tensor: str) -> Array:
        size = found.tensors[tensor].size
        if tensor in planned.offsets:
            return arena[planned.offsets[tensor] : planned.offsets[tensor] + size]
        root, start = found.place(tensor)
        return ports[root][start : start + size]

    def spoil(choice: Choice) -> None:
        size = choice.kernel.scratch(choice.view, target)
        if size:
            start = planned.scratch[choice.layer.name]
            arena[start : start + size] = rng.integers(-128, 128, size)

    for port, values in zip(found.inputs, sample, strict=True):
        of(port.tensor)[:] = values
    for choice in choices:
        layer = choice.layer
        spoil(choice)
        early = {name: of(name).copy() for name in _overwritten(found, planned, choice, target)}
        of(layer.output)[:] = rng.integers(-128, 128, found.tensors[layer.output].size)
        inputs = [early.get(name, of(name)) for name in layer.inputs]
        of(layer.output)[:] = interpret.run_layer(found, layer, inputs, {}).ravel()
        spoil(choice)
    return [of(port.tensor).copy() for port in found.outputs]


def _overwritten(found: Network, planned: Plan, choice: Choice, target: Target) -> list[str]:
    """The inputs that the layer's output may replace while they are read: at their place, or as its kernel says."""
    layer, place = choice.layer, planned.offsets.get(choice.layer.output, -1)
    allowed = {layer.inputs[position] for position in BY_NAME[layer.op].inplace(LayerView.of(found, layer))}
    inside = [name for name in allowed if planned.offsets.get(name) == place]
    for position, over in choice.kernel.overlap(choice.view, target).items():
        distance = place - planned.offsets.get(layer.inputs[position], place + 1)
        if place >= 0 and distance % over.step == 0 and (distance <= -over.below or distance >= over.above):
            inside.append(layer.inputs[position])
    return inside
