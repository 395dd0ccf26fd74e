"""What a graph computes from constants and shapes alone, computed here, node by node, before any runtime sees the file.

Each node's output shapes are inferred first and bounded; only then is anything evaluated. What is left are the nodes
that work on activations, all of static and bounded shape. Everything that stands against that is reported at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TypeProto, checker, defs, helper
from onnx.reference import ReferenceEvaluator

from nnbuild.errors import Finding, ModelError, first_line
from nnbuild.network import Array
from nnbuild.node_order import remove_dead_nodes, sort_nodes
from nnbuild.node_types import output_types
from nnbuild.onnxfile import MAX_ELEMENTS, MAX_NODES, opset, subgraphs
from nnbuild.passes.graph import attribute, static_shape
from nnbuild.placeholder import array_of, is_unread, tensor_of
from nnbuild.states import RECURRENT
from nnbuild.unsupported import FOLDABLE, finding, hint_for, unsupported

MAX_ACTIVATION = 2**24  # elements of one activation
MAX_MACS = 2**32  # of one node

_SEVERAL_OUTPUTS = frozenset(("Split", *RECURRENT))

# Attributes that shape inference and runtimes divide by, or that have one meaning only within bounds.
_POSITIVE = frozenset(("strides", "dilations", "kernel_shape", "group"))
_MAX_ATTRIBUTE = 2**20
_MAY_BE_INFINITE = frozenset(("min", "max", "value", "value_float"))


@dataclass(slots=True)
class _Folder:
    """The walk over one graph: what is constant, what has which type, what is wrong."""

    model: onnx.ModelProto
    file: str
    supported: Collection[str]
    constants: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TypeProto] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    kept: list[NodeProto] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    created: int = 0

    @property
    def version(self) -> int:
        return opset(self.model)

    def report(self, node: NodeProto, message: str, hint: str = "") -> None:
        """Note what is wrong with `node`; what it writes stays unknown, and nobody complains about that again."""
        self.findings.append(finding(node, self.file, message, hint))
        self.unknown.update(node.output)

    def run(self) -> None:
        graph = self.model.graph
        for tensor in graph.initializer:
            self.constants[tensor.name] = array_of(tensor)
        for value in graph.input:
            self.types[value.name] = value.type
        pending = list(reversed(graph.node))
        steps = 0
        while pending:
            node = pending.pop()
            steps += 1
            if steps > MAX_NODES:
                raise ModelError(f"more than {MAX_NODES} nodes", self.file)
            if node.op_type == "If" and node.input[:1] and node.input[0] in self.constants:
                pending.extend(reversed(self._branch(node, steps)))
            else:
                self._visit(node)
        self._finish()

    def _visit(self, node: NodeProto) -> None:
        known = self.constants.keys() | self.types.keys() | self.unknown
        undefined = [value for value in node.input if value and value not in known]
        twice = [value for value in node.output if value and value in known]
        if undefined:
            self.report(node, f"reads '{undefined[0]}' before any node writes it", "the file is damaged")
        elif twice:
            self.report(node, f"writes '{twice[0]}' a second time", "the file is damaged")
        elif (reason := unsupported(node, self.supported) or self._missing(node)) is not None:
            self.report(node, reason, hint_for(node))
        elif any(value in self.unknown for value in node.input):
            self.unknown.update(node.output)
        elif (reason := self._malformed(node) or _bad_attribute(node)) is not None:
            self.report(node, reason)
        else:
            self._fold_or_keep(node)

    def _missing(self, node: NodeProto) -> str | None:
        known = defs.has(node.op_type, "") and _schema(node.op_type, self.version) is not None
        return None if known else f"operator '{node.op_type}' does not exist in opset {self.version}"

    def _malformed(self, node: NodeProto) -> str | None:
        """What onnx's own checker says against the node: number of inputs, attributes and their types."""
        if node.op_type == "Constant" and any(is_unread(entry.t) for entry in node.attribute):
            return None
        context = checker.C.CheckerContext()
        context.ir_version = self.model.ir_version
        context.opset_imports = {"": self.version}
        try:
            checker.check_node(node, context)
        except Exception as error:  # ValidationError, or what the C++ side raises for what it did not foresee
            return f"is malformed: {first_line(error)}"
        return None

    def _fold_or_keep(self, node: NodeProto) -> None:
        if node.op_type == "Constant":
            self._constant(node)
            return
        if node.op_type == "CastLike":
            node = self._cast(node)
        if node.op_type in ("Shape", "Size") and self._fold_shape(node):
            return
        outputs = self._infer(node)
        if outputs is None:
            return
        constant = all(value in self.constants for value in node.input if value) and any(node.input)
        if constant and node.op_type in FOLDABLE:
            self._evaluate(node, outputs)
        elif node.op_type not in self.supported:
            self.report(node, f"operator '{node.op_type}' is supported on constants only")
        else:
            self._keep(node, outputs)

    def _constant(self, node: NodeProto) -> None:
        found = node.attribute[0] if len(node.attribute) == 1 else None
        if found is None or found.name not in ("value", "value_float", "value_floats", "value_int", "value_ints"):
            self.report(node, "a constant of this form is not supported")
        elif found.name == "value":
            self.constants[node.output[0]] = array_of(found.t)
        else:
            kind = np.float32 if "float" in found.name else np.int64
            self.constants[node.output[0]] = np.asarray(helper.get_attribute_value(found), kind)

    def _cast(self, node: NodeProto) -> NodeProto:
        """CastLike as the Cast to the type of its second input, of which nothing else is asked."""
        like = node.input[1]
        array = self.constants.get(like)
        kind = self.types[like].tensor_type.elem_type if array is None else helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_node("Cast", node.input[:1], node.output, name=node.name, to=kind)

    def _fold_shape(self, node: NodeProto) -> bool:
        value = node.input[0]
        shape = self.constants[value].shape if value in self.constants else static_shape(self.types[value])
        if shape is None:
            return False
        dims = np.asarray(shape, np.int64)
        if node.op_type == "Size":
            self.constants[node.output[0]] = np.asarray(math.prod(shape), np.int64)
        else:
            first, last = attribute(node, "start", 0), attribute(node, "end", len(shape))
            self.constants[node.output[0]] = dims[first:last]
        return True

    def _infer(self, node: NodeProto) -> dict[str, TypeProto] | None:
        """Types of the outputs; None, with a finding, where they cannot be inferred."""
        try:
            return output_types(node, self.version, self.constants, self.types)
        except Exception as error:  # the C++ side raises RuntimeError, ValueError, KeyError, its own classes
            self.report(node, f"its shapes do not fit: {first_line(error)}", "the file is damaged or was edited")
            return None

    def _evaluate(self, node: NodeProto, outputs: dict[str, TypeProto]) -> None:
        limit = MAX_ELEMENTS - self.created
        size = sum(self._evaluated_size(node, outputs.get(value)) for value in node.output if value)
        if size < 0 or size > limit:
            self.report(node, f"computes a constant of {'unknown' if size < 0 else size} elements, which is too large")
            return
        self.created += size
        feeds = {value: self.constants[value] for value in node.input if value}
        function = helper.make_function(
            "nnbuild",
            "fold",
            list(feeds),
            [value for value in node.output if value],
            [node],
            [helper.make_opsetid("", self.version)],
        )
        try:
            with np.errstate(all="ignore"):
                results = ReferenceEvaluator(function).run(None, feeds, {})
        except Exception as error:  # whatever a damaged file makes numpy raise
            self.report(node, f"its constants cannot be computed: {first_line(error)}")
            return
        for value, result in zip((value for value in node.output if value), results, strict=True):
            self.constants[value] = np.asanyarray(result)

    def _evaluated_size(self, node: NodeProto, kind: TypeProto | None) -> int:
        """Elements that an output will have; far below zero where that is unknown."""
        if node.op_type == "NonZero":
            array = self.constants[node.input[0]]
            return array.size * max(array.ndim, 1)
        shape = static_shape(kind) if kind is not None else None
        return -(2**62) if shape is None else math.prod(shape)

    def _keep(self, node: NodeProto, outputs: dict[str, TypeProto]) -> None:
        for index, value in enumerate(node.output):
            kind = outputs.get(value)
            shape = static_shape(kind) if kind is not None else None
            if index and not value:
                continue
            if kind is None or shape is None:
                hint = "export with fixed shapes, or give --input-shape NAME=1,..."
                self.report(node, f"the shape of '{value}' depends on data", hint)
            elif 0 in shape or math.prod(shape) > MAX_ACTIVATION:
                size = "empty" if 0 in shape else "too large"
                self.report(node, f"its output '{value}' of shape {list(shape)} is {size}")
            elif _macs(node, shape, self) > MAX_MACS:
                self.report(node, f"more than {MAX_MACS} multiplications")
            else:
                self.types[value] = kind
                continue
            return
        self.kept.append(node)

    def _branch(self, node: NodeProto, serial: int) -> list[NodeProto]:
        """The nodes of the branch that a constant condition takes, their values renamed into the outer graph."""
        wanted = "then_branch" if bool(np.all(self.constants[node.input[0]])) else "else_branch"
        graph = next((entry.g for entry in node.attribute if entry.name == wanted), None)
        if graph is None or len(graph.output) != len(node.output):
            self.report(node, "has no such branch", "the file is damaged")
            return []
        renamed = {tensor.name: f"if{serial}_{tensor.name}" for tensor in graph.initializer}
        for tensor in graph.initializer:
            self.constants[renamed[tensor.name]] = array_of(tensor)
        for inner in graph.node:
            renamed.update({value: f"if{serial}_{value}" for value in inner.output if value})
        nodes = [_renamed(inner, renamed, f"if{serial}_") for inner in graph.node]
        for source, target in zip(graph.output, node.output, strict=True):
            inner_name = renamed.get(source.name, source.name)
            nodes.append(helper.make_node("Identity", [inner_name], [target], name=f"if{serial}_{target}"))
        return nodes

    def _finish(self) -> None:
        graph = self.model.graph
        for value in graph.output:
            if value.name in self.constants:
                self.findings.append(Finding(f"output '{value.name}' is a constant", self.file))
            elif value.name not in self.types and value.name not in self.unknown:
                self.findings.append(Finding(f"no node writes the output '{value.name}'", self.file))
        if self.findings:
            raise ModelError.of(dict.fromkeys(self.findings))
        _drop_spare_outputs(self)
        if self.findings:
            raise ModelError.of(self.findings)
        self._write_back()

    def _write_back(self) -> None:
        graph = self.model.graph
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in self.kept]
        outputs = [helper.make_value_info(value.name, self.types[value.name]) for value in graph.output]
        del graph.node[:], graph.initializer[:], graph.value_info[:], graph.output[:]
        graph.node.extend(nodes)
        graph.output.extend(outputs)
        named = {value.name for value in outputs}
        used = dict.fromkeys(value for node in nodes for value in node.input if value in self.constants)
        graph.initializer.extend(tensor_of(self.constants[name], name) for name in used)
        written = (value for node in nodes for value in node.output if value and value not in named)
        graph.value_info.extend(helper.make_value_info(name, self.types[name]) for name in written)


def fold(model: onnx.ModelProto, file: str, supported: Collection[str]) -> None:
    """Fold the constants of `model`, whose inputs have static shapes, in place.

    `supported` are the operators that may stay.
    Afterwards every value is float or integer data of static, bounded shape, noted in value_info. ModelError lists
    every unknown or unsupported operator, shape that depends on data, and oversized value.
    """
    sort_nodes(model.graph)
    remove_dead_nodes(model.graph)
    _Folder(model, file, supported).run()


def _renamed(node: NodeProto, renamed: dict[str, str], prefix: str) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = prefix + node.name
    _rename(copy, renamed)
    return copy


def _rename(node: NodeProto, renamed: dict[str, str]) -> None:
    for values in (node.input, node.output):
        for index, value in enumerate(values):
            values[index] = renamed.get(value, value)
    for graph in subgraphs(node):
        for value in graph.output:
            value.name = renamed.get(value.name, value.name)
        for inner in graph.node:
            _rename(inner, renamed)


def _schema(op_type: str, version: int) -> Any:
    """The operator's schema in this opset; None where it does not exist there or is deprecated."""
    try:
        schema = defs.get_schema(op_type, version, "")
    except Exception:  # onnx.defs.SchemaError, which some versions do not export
        return None
    return None if schema.deprecated else schema


def _bad_attribute(node: NodeProto) -> str | None:
    """Why an attribute cannot be meant; None where all can."""
    for entry in node.attribute:
        values = [*entry.ints, entry.i]
        if entry.name in _POSITIVE and any(value < 1 for value in (entry.ints if entry.ints else [entry.i])):
            return f"its attribute '{entry.name}' must be positive"
        if entry.name in _POSITIVE | {"pads"} and any(abs(value) > _MAX_ATTRIBUTE for value in values):
            return f"its attribute '{entry.name}' is too large"
        if math.isnan(entry.f) or (math.isinf(entry.f) and entry.name not in _MAY_BE_INFINITE):
            return f"its attribute '{entry.name}' is {entry.f}"
    return None


def _macs(node: NodeProto, output: tuple[int, ...], folder: _Folder) -> int:
    """Multiplications (or comparisons of a pool) of the node: elements of the output times those of the window."""
    if node.op_type in ("MaxPool", "AveragePool"):
        window: list[int] = attribute(node, "kernel_shape", [1])
        return math.prod(output) * math.prod(window)
    axis = _OUTPUT_AXIS.get(node.op_type)
    if axis is None or len(node.input) < 2:
        return 0
    value = node.input[1]
    array = folder.constants.get(value)
    shape = array.shape if array is not None else static_shape(folder.types[value]) or ()
    outputs = shape[axis] if len(shape) > 1 else 1
    return math.prod(output) * max(math.prod(shape) // max(outputs, 1), 1)


# The axis of the weights that counts output channels.
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}


def _drop_spare_outputs(folder: _Folder) -> None:
    """Cut second outputs (Dropout's mask, MaxPool's indices) that nobody reads; report those that somebody does."""
    read = {value for node in folder.kept for value in node.input} | {value.name for value in folder.model.graph.output}
    for node in folder.kept:
        if node.op_type in _SEVERAL_OUTPUTS or len(node.output) < 2:
            continue
        used = [value for value in node.output[1:] if value in read]
        if used:
            folder.report(node, f"its second output '{used[0]}' is not supported")
        else:
            del node.output[1:]
