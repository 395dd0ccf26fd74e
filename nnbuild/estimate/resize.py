"""A float model with other sizes: wider or narrower layers, another input size, another activation.

The model is an imported one, its constants placeholders or not. An edit names what changes; a walk over the graph
gives everything behind it the size that follows: inputs of weights, groups of depthwise convolutions, windows that
cover all of space, targets of Reshape. Where two branches meet in an Add, the other branch is changed, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from nnbuild.network import Array
from nnbuild.node_types import output_types
from nnbuild.onnxfile import opset
from nnbuild.passes.graph import Graph, attribute, drop_attribute, set_attribute, static_shape
from nnbuild.placeholder import placeholder, tensor_of

Shape = tuple[int, ...]

_LINEAR = ("Conv", "Gemm", "MatMul")
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Where")


@dataclass(frozen=True, slots=True)
class Edit:
    """Outputs of linear nodes by name, shapes of inputs by name, operators that replace others by node name."""

    widths: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Shape] = field(default_factory=dict)
    operators: Mapping[str, str] = field(default_factory=dict)


class _UnfitError(Exception):
    """The edit does not lead to a network with the same outputs."""


class _TiedError(Exception):
    """A value must get `size` channels, because another that is combined with it has."""

    def __init__(self, value: str, size: int) -> None:
        super().__init__(value)
        self.value, self.size = value, size


def resized(model: onnx.ModelProto, edit: Edit) -> tuple[onnx.ModelProto, Edit] | None:
    """`model` after `edit`, and the edit with the layers that had to follow; None where that is no network."""
    graph = Graph(model)
    for _ in range(len(graph.nodes) + 1):
        try:
            return _Walk(graph, edit).run(), edit
        except _TiedError as tied:
            source = width_source(graph, tied.value)
            if source is None or source in edit.widths:
                return None
            edit = replace(edit, widths={**edit.widths, source: tied.size})
        except _UnfitError:
            return None
    return None


def widths(graph: Graph) -> dict[str, int]:
    """The number of outputs of each linear node by name, but for depthwise convolutions, which have their input's."""
    found = {}
    for node in graph.nodes:
        if node.op_type in _LINEAR and node.input[1] in graph.constants and not _depthwise(graph, node):
            weights = graph.constants[node.input[1]]
            found[node.name] = int(weights.shape[_output_axis(node, weights.ndim)])
    return found


def width_source(graph: Graph, value: str) -> str | None:
    """The linear node whose number of outputs is the number of channels of `value`; None where there is none."""
    while (node := graph.producer(value)) is not None:
        if node.op_type in _LINEAR and not _depthwise(graph, node):
            return str(node.name) if node.input[1] in graph.constants else None
        same = [name for name in node.input if name and len(graph.shapes.get(name, ())) == len(graph.shape(value))]
        same = [name for name in same if name not in graph.constants and graph.shape(name)[1] == graph.shape(value)[1]]
        if not same or node.op_type in ("Concat", "Transpose", "Reshape"):
            return None
        value = same[0]
    return None


def _depthwise(graph: Graph, node: NodeProto) -> bool:
    return node.op_type == "Conv" and attribute(node, "group", 1) > 1 and graph.shape(node.input[1])[1] == 1


def _output_axis(node: NodeProto, rank: int) -> int:
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else rank - 1


class _Walk:
    """One pass over the graph: the new shape of each value, the new constants of each node."""

    def __init__(self, graph: Graph, edit: Edit) -> None:
        self.graph = graph
        self.edit = edit
        self.version = opset(graph.model)
        self.shapes: dict[str, Shape] = {name: edit.inputs.get(name, graph.shape(name)) for name in graph.inputs}
        self.constants: dict[str, Array] = {}
        self.nodes: list[NodeProto] = []

    def run(self) -> onnx.ModelProto:
        for original in self.graph.nodes:
            node = NodeProto.FromString(original.SerializeToString())
            if node.name in self.edit.operators:
                _exchange(node, self.edit.operators[node.name], self._constant)
            self._fit(node)
            self._infer(node)
            self.nodes.append(node)
        if any(self.shapes[name] != self.graph.shape(name) for name in self.graph.outputs):
            raise _UnfitError
        return self._model()

    def _constant(self, node: NodeProto, index: int, array: Array) -> None:
        """Let input `index` of `node` be `array`, which no other node reads."""
        while len(node.input) <= index:
            node.input.append("")
        name = f"{node.name}:{index}"
        node.input[index] = name
        self.constants[name] = array

    def _reshape_constant(self, node: NodeProto, index: int, shape: Shape) -> None:
        old = self._known(node, index)
        if old is not None and old.shape != shape:
            self._constant(node, index, placeholder(shape, old.dtype))

    def _known(self, node: NodeProto, index: int) -> Array | None:
        name = node.input[index] if index < len(node.input) else ""
        return self.constants[name] if name in self.constants else self.graph.constants.get(name)

    def _shape(self, name: str) -> Shape:
        if name in self.shapes:
            return self.shapes[name]
        return tuple((self.constants[name] if name in self.constants else self.graph.constants[name]).shape)

    # What follows from new shapes of the inputs.

    def _fit(self, node: NodeProto) -> None:
        if node.op_type in _LINEAR and self._known(node, 1) is not None:
            self._linear(node)
        elif node.op_type == "Reshape":
            self._target(node)
        elif node.op_type in ("MaxPool", "AveragePool"):
            self._window(node)
        elif node.op_type == "LayerNormalization":
            self._normalized(node)
        elif node.op_type in _ELEMENTWISE:
            self._operands(node)

    def _linear(self, node: NodeProto) -> None:
        old, source = self.graph.shape(node.input[1]), self._shape(node.input[0])
        if node.op_type == "Conv":
            new = self._convolution(node, old, source[1])
        else:
            axis = _output_axis(node, len(old))
            sizes = [source[-1]] * len(old)
            sizes[axis] = self.edit.widths.get(node.name, old[axis])
            if len(old) != 2:
                raise _UnfitError
            new = tuple(sizes)
        self._reshape_constant(node, 1, new)
        bias = self._known(node, 2)
        if bias is not None:
            outputs, before = (shape[_output_axis(node, len(shape))] for shape in (new, old))
            self._reshape_constant(node, 2, tuple(outputs if size == before else size for size in bias.shape))

    def _convolution(self, node: NodeProto, old: Shape, channels: int) -> Shape:
        group = attribute(node, "group", 1)
        if group > 1 and old[1] == 1:
            set_attribute(node, "group", channels)
            return (channels * (old[0] // group), *old[1:])
        outputs = self.edit.widths.get(node.name, old[0])
        if channels % group or outputs % group:
            raise _UnfitError
        return (outputs, channels // group, *old[2:])

    def _target(self, node: NodeProto) -> None:
        before, after = self.graph.shape(node.input[0]), self.graph.shape(node.output[0])
        new = _regrouped(before, self._shape(node.input[0]), after)
        if new != after:
            self._constant(node, 1, np.array(new, np.int64))

    def _window(self, node: NodeProto) -> None:
        """A window over all of space stays one."""
        before, after = self.graph.shape(node.input[0])[2:], self._shape(node.input[0])[2:]
        if before != after and tuple(attribute(node, "kernel_shape", [])) == before:
            set_attribute(node, "kernel_shape", list(after))

    def _normalized(self, node: NodeProto) -> None:
        """Scale and bias have the shape of what is normalized."""
        axis = attribute(node, "axis", -1)
        for index in range(1, len(node.input)):
            if self.graph.shape(node.input[index]) == self.graph.shape(node.input[0])[axis:]:
                self._reshape_constant(node, index, self._shape(node.input[0])[axis:])

    def _operands(self, node: NodeProto) -> None:
        """Operands that had one size have one again: constants by themselves, computed ones by their source."""
        output = self.graph.shape(node.output[0])
        computed = [name for name in node.input if name and self._known(node, list(node.input).index(name)) is None]
        target = list(output)
        for name in computed:
            offset = len(output) - len(self._shape(name))
            for axis, (size, was) in enumerate(zip(self._shape(name), self.graph.shape(name), strict=True)):
                if size != was and was == output[offset + axis]:
                    target[offset + axis] = size
        for index, name in enumerate(node.input):
            known = self._known(node, index)
            rank = len(known.shape if known is not None else self._shape(name)) if name else 0
            old = self.graph.shape(name) if name else ()
            ahead = len(output) - rank
            new = tuple(t if s == o else s for s, o, t in zip(old, output[ahead:], target[ahead:], strict=True))
            if known is not None:
                self._reshape_constant(node, index, new)
            elif name and self._shape(name) != new:
                if rank < 2 or self._shape(name)[:1] + self._shape(name)[2:] != new[:1] + new[2:]:
                    raise _UnfitError
                raise _TiedError(name, new[1])

    def _infer(self, node: NodeProto) -> None:
        constants = {name: known for at, name in enumerate(node.input) if (known := self._known(node, at)) is not None}
        read = [name for name in node.input if name and name not in constants]
        types = {name: helper.make_tensor_type_proto(self.graph.types[name], self._shape(name)) for name in read}
        try:
            found = output_types(node, self.version, constants, types)
        except Exception:  # the C++ side raises several classes where a window is larger than what it moves over
            raise _UnfitError from None
        for name in node.output:
            shape = static_shape(found[name]) if name in found else None
            if shape is None or any(size < 1 for size in shape):
                raise _UnfitError
            self.shapes[name] = shape

    def _model(self) -> onnx.ModelProto:
        model = onnx.ModelProto(ir_version=self.graph.model.ir_version)
        model.opset_import.extend(self.graph.model.opset_import)
        model.graph.name = self.graph.model.graph.name
        model.graph.node.extend(self.nodes)
        types = self.graph.types

        def value(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, types[name], self.shapes[name])

        model.graph.input.extend(value(name) for name in self.graph.inputs)
        model.graph.output.extend(value(name) for name in self.graph.outputs)
        inside = (name for name in self.shapes if name not in {*self.graph.inputs, *self.graph.outputs})
        model.graph.value_info.extend(value(name) for name in inside)
        read = dict.fromkeys(name for node in self.nodes for name in node.input if name)
        known: dict[str, Any] = {**self.graph.constants, **self.constants}
        model.graph.initializer.extend(tensor_of(known[name], name) for name in read if name in known)
        return model


def _exchange(node: NodeProto, operator: str, constant: Any) -> None:
    """Let `node` be Relu, or the Clip that HardTanh is."""
    for entry in list(node.attribute):
        drop_attribute(node, entry.name)
    node.op_type = operator
    del node.input[1:]
    if operator == "Clip":
        constant(node, 1, np.array(-1, np.float32))
        constant(node, 2, np.array(1, np.float32))


def _regrouped(before: Shape, now: Shape, after: Shape) -> Shape:
    """The target of a Reshape `before` -> `after` whose input is `now`: dimensions that were merged stay merged."""
    new: list[int] = []
    for sources, targets in _groups(before, after):
        size = math.prod(now[axis] for axis in sources)
        if size == math.prod(targets):
            new += targets
        elif sum(each != 1 for each in targets) == 1:
            new += [size if each != 1 else 1 for each in targets]
        else:
            raise _UnfitError
    return tuple(new)


def _groups(before: Shape, after: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """The shortest runs of axes of `before` that hold as many elements as a run of sizes of `after`, with those."""
    axes, sizes = list(range(len(before))), list(after)
    while axes or sizes:
        sources, targets = axes[:1], sizes[:1]
        del axes[:1], sizes[:1]
        while (held := math.prod(before[axis] for axis in sources)) != math.prod(targets):
            if held < math.prod(targets) and axes:
                sources.append(axes.pop(0))
            elif sizes:
                targets.append(sizes.pop(0))
            else:
                raise _UnfitError
        yield sources, targets
