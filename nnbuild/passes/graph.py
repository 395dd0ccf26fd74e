"""An ONNX graph open for rewriting: the protobuf's nodes with the indexes that rules need.

The protobuf stays the representation; `Graph` only knows who writes and who reads each value, and keeps that true
while rules change nodes through its methods. `commit` writes the nodes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from nnbuild.errors import InternalError
from nnbuild.network import Array
from nnbuild.placeholder import array_of, tensor_of


class Graph:
    """The nodes of `model.graph` in execution order, with constants and static shapes at hand."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.inputs: tuple[str, ...] = tuple(value.name for value in model.graph.input)
        self.outputs: tuple[str, ...] = tuple(value.name for value in model.graph.output)
        self.constants: dict[str, Array] = {tensor.name: array_of(tensor) for tensor in model.graph.initializer}
        self.shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in self.constants.items()}
        self.types: dict[str, int] = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
            shape = static_shape(value.type)
            if shape is not None and value.name not in self.constants:
                self.shapes[value.name] = shape
                self.types[value.name] = value.type.tensor_type.elem_type
        self._producers: dict[str, NodeProto] = {}
        self._readers: dict[str, list[NodeProto]] = {}
        self._names: set[str] = set(self.inputs) | set(self.constants)
        self._node_names: set[str] = {node.name for node in self.nodes}
        self._live: set[int] = set()
        for node in self.nodes:
            self._index(node)

    # What a rule asks.

    def producer(self, value: str) -> NodeProto | None:
        """The node that writes `value`; None for inputs and constants."""
        return self._producers.get(value)

    def readers(self, value: str) -> tuple[NodeProto, ...]:
        """The nodes that read `value`, one entry for each, in the order of the graph as it was read."""
        return tuple(self._readers.get(value, ()))

    def sole_reader(self, value: str) -> NodeProto | None:
        """The only node that reads `value`, which is no output of the graph; else None."""
        readers = self._readers.get(value, ())
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def feeding(self, node: NodeProto, index: int, *types: str) -> NodeProto | None:
        """The node of one of `types` whose output only `node` reads, as its input `index`; else None."""
        before = self.producer(node.input[index]) if index < len(node.input) else None
        if before is None or before.op_type not in types or self.sole_reader(before.output[0]) is not node:
            return None
        return before if list(node.input).count(before.output[0]) == 1 else None

    def constant(self, node: NodeProto, index: int) -> Array | None:
        """The constant that is input `index` of `node`; None where it is computed or absent."""
        return self.constants.get(node.input[index]) if index < len(node.input) else None

    def shape(self, value: str) -> tuple[int, ...]:
        """The static shape of `value`; InternalError where it was never inferred."""
        if value not in self.shapes:
            raise InternalError(f"no shape is known for value '{value}'")
        return self.shapes[value]

    def position(self, node: NodeProto) -> int:
        """Where `node` stands in the order of execution."""
        return next(index for index, other in enumerate(self.nodes) if other is node)

    def alive(self, node: NodeProto) -> bool:
        """Whether `node` is still in the graph."""
        return id(node) in self._live

    def where(self, node: NodeProto) -> str:
        """How a finding names `node`."""
        return f"node '{node.name}' ({node.op_type})"

    # What a rule does.

    def unique(self, wish: str) -> str:
        """A value name nobody uses, as close to `wish` as that goes."""
        name, count = wish, 1
        while name in self._names:
            count += 1
            name = f"{wish}_{count}"
        self._names.add(name)
        return name

    def add_constant(self, wish: str, array: Array | np.generic) -> str:
        """A new initializer; returns its name."""
        name = self.unique(wish)
        self.constants[name] = np.asanyarray(array)
        self.shapes[name] = self.constants[name].shape
        self.types[name] = helper.np_dtype_to_tensor_dtype(self.constants[name].dtype)
        return name

    def add_node(
        self,
        op_type: str,
        inputs: Sequence[str],
        output: str,
        shape: Sequence[int],
        *,
        name: str,
        before: NodeProto | None = None,
        after: NodeProto | None = None,
        element: int = TensorProto.FLOAT,
        **attributes: Any,
    ) -> NodeProto:
        """A new node that writes `output` (of `shape` and type `element`), placed before or after another, or last."""
        unique, count = name, 1
        while unique in self._node_names:
            count += 1
            unique = f"{name}_{count}"
        node = helper.make_node(op_type, list(inputs), [output], name=unique, **attributes)
        if before is not None:
            self.nodes.insert(self.position(before), node)
        elif after is not None:
            self.nodes.insert(self.position(after) + 1, node)
        else:
            self.nodes.append(node)
        self.shapes[output] = tuple(shape)
        self.types[output] = element
        self._index(node)
        return node

    def set_input(self, node: NodeProto, index: int, value: str) -> None:
        """Let `node` read `value` as its input `index`, which may be one past the last."""
        while len(node.input) <= index:
            node.input.append("")
        old = node.input[index]
        node.input[index] = value
        if old and old not in node.input:
            self._drop_reader(old, node)
        if value and not any(reader is node for reader in self._readers.get(value, ())):
            self._readers.setdefault(value, []).append(node)

    def drop_inputs(self, node: NodeProto, keep: int) -> None:
        """Cut the inputs of `node` down to the first `keep`."""
        for index in range(keep, len(node.input)):
            self.set_input(node, index, "")
        del node.input[keep:]

    def set_output(self, node: NodeProto, value: str) -> None:
        """Let `node` write `value` instead of its first output, which must have no readers left."""
        old = node.output[0]
        self._producers.pop(old, None)
        node.output[0] = value
        self._producers[value] = node
        self._names.add(value)
        if old in self.shapes:
            self.shapes.setdefault(value, self.shapes[old])
            self.types.setdefault(value, self.types[old])

    def rename_output(self, node: NodeProto, position: int, value: str, shape: Sequence[int]) -> None:
        """Let `node` write `value` of `shape` as its output `position`; the old one is left to another writer."""
        old = node.output[position]
        self._producers.pop(old, None)
        node.output[position] = value
        self._producers[value] = node
        self.shapes[value], self.types[value] = tuple(shape), self.types[old]

    def redirect(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new`."""
        for node in self.readers(old):
            for index, value in enumerate(node.input):
                if value == old:
                    self.set_input(node, index, new)

    def remove(self, node: NodeProto) -> None:
        """Take `node` out; its output must have no readers left."""
        del self.nodes[self.position(node)]
        self._live.discard(id(node))
        for value in set(node.input):
            self._drop_reader(value, node)
        for value in node.output:
            if self._producers.get(value) is node:
                del self._producers[value]

    def bypass(self, node: NodeProto) -> bool:
        """Remove `node`, whose first output equals its first input. False where an output's name stands against it."""
        source, result = node.input[0], node.output[0]
        if result not in self.outputs:
            self.redirect(result, source)
            self.remove(node)
            return True
        before = self.producer(source)
        if before is None or source in self.outputs or before.output[0] != source:
            return False
        self.remove(node)
        self.redirect(source, result)
        self.set_output(before, result)
        return True

    def absorb(self, node: NodeProto, after: NodeProto) -> None:
        """Let `node` write what `after`, its sole reader, wrote; remove `after`."""
        self.remove(after)
        self.set_output(node, after.output[0])

    def remove_dead(self) -> bool:
        """Remove every node whose outputs nobody reads."""
        before = len(self.nodes)
        for node in reversed(list(self.nodes)):
            if not any(value in self.outputs or self._readers.get(value) for value in node.output if value):
                self.remove(node)
        return len(self.nodes) != before

    def commit(self) -> None:
        """Write nodes and the constants that are still read back into the protobuf, in a fixed order."""
        graph = self.model.graph
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.initializer[:]
        used: dict[str, None] = dict.fromkeys(value for node in nodes for value in node.input if value)
        kept = [name for name in used if name in self.constants]
        kept += [name for name in self.outputs if name in self.constants and name not in used]
        graph.initializer.extend(tensor_of(self.constants[name], name) for name in kept)
        del graph.value_info[:]
        written = (value for node in nodes for value in node.output if value and value not in self.outputs)
        graph.value_info.extend(
            helper.make_tensor_value_info(name, self.types[name], self.shapes[name])
            for name in written
            if name in self.shapes
        )

    def _index(self, node: NodeProto) -> None:
        self._live.add(id(node))
        for value in dict.fromkeys(node.input):
            if value:
                self._readers.setdefault(value, []).append(node)
        for value in node.output:
            if value:
                self._producers[value] = node
                self._names.add(value)
        self._names.update(node.input)
        self._node_names.add(node.name)

    def _drop_reader(self, value: str, node: NodeProto) -> None:
        self._readers[value] = [reader for reader in self._readers.get(value, ()) if reader is not node]


def static_shape(kind: onnx.TypeProto) -> tuple[int, ...] | None:
    """The dimensions of a tensor type where all are known, else None."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in dims):
        return None
    return tuple(int(dim.dim_value) for dim in dims)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute: int, float, bytes, list, tensor; `default` where it is absent."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    if found is None:
        return default
    value = helper.get_attribute_value(found)
    several = isinstance(value, Iterable) and not isinstance(value, bytes | str)
    return list(value) if several else value


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Set or replace an attribute."""
    drop_attribute(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def drop_attribute(node: NodeProto, name: str) -> None:
    """Remove an attribute if it is there."""
    kept = [entry for entry in node.attribute if entry.name != name]
    if len(kept) != len(node.attribute):
        copies = [onnx.AttributeProto.FromString(entry.SerializeToString()) for entry in kept]
        del node.attribute[:]
        node.attribute.extend(copies)
