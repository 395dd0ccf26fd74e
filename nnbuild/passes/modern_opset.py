"""Few opsets for everything downstream: nodes of opsets 7 to 19 in the form that they have in opset 20.

Source: onnx/docs/Changelog.md. Most operators only gained element types; the table names those whose form changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from nnbuild.network import Array
from nnbuild.onnxfile import opset
from nnbuild.passes.graph import Graph, attribute, drop_attribute, set_attribute

TARGET = 20
NEWEST = 24
"""What came later changed types only, but for a mode of SpaceToDepth; runtimes know this one."""
IR_VERSION = 9  # of onnx 1.15, which brought opset 20


def raise_opset(graph: Graph) -> None:
    """Rewrite the nodes of a graph with static shapes; a model of opset 21 to 24 keeps its own."""
    version = opset(graph.model)
    for node in list(graph.nodes):
        change = _CHANGES.get(node.op_type)
        if change is not None and version < change[0]:
            change[1](graph, node)
    moved = [node for node in graph.nodes if node.op_type == "SpaceToDepth"]
    later = any(attribute(node, "mode", b"DCR") != b"DCR" for node in moved)
    for node in moved if not later else ():
        drop_attribute(node, "mode")
    declare(graph.model, version if later else min(max(version, TARGET), NEWEST))


def declare(model: onnx.ModelProto, version: int) -> None:
    """Let `model` import the default domain in this version, and nothing else."""
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", version))
    model.ir_version = max(IR_VERSION, helper.find_min_ir_version_for(model.opset_import))


def _axes_to_input(graph: Graph, node: NodeProto) -> None:
    _ints_to_input(graph, node, "axes", 1)


def _split(graph: Graph, node: NodeProto) -> None:
    if len(node.input) < 2 or not node.input[1]:
        axis = attribute(node, "axis", 0)
        sizes = [graph.shape(value)[axis] for value in node.output]
        _to_input(graph, node, 1, np.asarray(sizes, np.int64))
    drop_attribute(node, "split")


def _ints_to_input(graph: Graph, node: NodeProto, name: str, index: int) -> None:
    values = attribute(node, name, None)
    if values is not None:
        _to_input(graph, node, index, np.asarray(values, np.int64))
        drop_attribute(node, name)


def _to_input(graph: Graph, node: NodeProto, index: int, array: Array) -> None:
    graph.set_input(node, index, graph.add_constant(f"{node.output[0]}_input{index}", array))


def _clip(graph: Graph, node: NodeProto) -> None:
    for index, name in enumerate(("min", "max"), start=1):
        bound = attribute(node, name, None)
        if bound is not None:
            _to_input(graph, node, index, np.asarray(bound, np.float32))
            drop_attribute(node, name)


def _pad(graph: Graph, node: NodeProto) -> None:
    _ints_to_input(graph, node, "pads", 1)
    value = attribute(node, "value", 0.0)
    drop_attribute(node, "value")
    if value:
        _to_input(graph, node, 2, np.asarray(value, np.float32))


def _slice(graph: Graph, node: NodeProto) -> None:
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        _ints_to_input(graph, node, name, index)


def _dropout(graph: Graph, node: NodeProto) -> None:
    drop_attribute(node, "ratio")


def _batchnorm(graph: Graph, node: NodeProto) -> None:
    drop_attribute(node, "spatial")


def _softmax(graph: Graph, node: NodeProto) -> None:
    """Before opset 13 all axes from `axis` on (1 by default) were one: a matrix that softmax went over row by row."""
    shape = graph.shape(node.input[0])
    axis = attribute(node, "axis", 1) % max(len(shape), 1)
    if math.prod(shape[axis:]) in (1, shape[axis]):
        set_attribute(node, "axis", axis)
        return
    matrix = (math.prod(shape[:axis]), math.prod(shape[axis:]))
    output, element = node.output[0], graph.types.get(node.output[0], TensorProto.FLOAT)
    rows, result = graph.unique(f"{output}_rows"), graph.unique(f"{output}_matrix")
    dims = [graph.add_constant(f"{output}_shape", np.asarray(size, np.int64)) for size in (matrix, shape)]
    graph.add_node("Reshape", [node.input[0], dims[0]], rows, matrix, name=f"{node.name}_in", before=node)
    graph.set_input(node, 0, rows)
    graph.shapes[result], graph.types[result] = matrix, element
    graph.set_output(node, result)
    graph.add_node("Reshape", [result, dims[1]], output, shape, name=f"{node.name}_out", after=node, element=element)
    set_attribute(node, "axis", 1)


def _upsample(graph: Graph, node: NodeProto) -> None:
    """Upsample became Resize: scales moved to the third input, positions count from the corner."""
    scales = attribute(node, "scales", None)
    name = node.input[1] if len(node.input) > 1 else graph.add_constant("scales", np.asarray(scales, np.float32))
    drop_attribute(node, "scales")
    _resize(graph, node, name)


def _old_resize(graph: Graph, node: NodeProto) -> None:
    if len(node.input) == 2:
        _resize(graph, node, node.input[1])


def _resize(graph: Graph, node: NodeProto, scales: str) -> None:
    node.op_type = "Resize"
    graph.drop_inputs(node, 1)
    graph.set_input(node, 2, scales)
    set_attribute(node, "coordinate_transformation_mode", "asymmetric")
    set_attribute(node, "nearest_mode", "floor")


_CHANGES: dict[str, tuple[int, Callable[[Graph, NodeProto], None]]] = {
    "BatchNormalization": (9, _batchnorm),
    "Clip": (11, _clip),
    "Dropout": (12, _dropout),
    "LogSoftmax": (13, _softmax),
    "Pad": (11, _pad),
    "ReduceL1": (18, _axes_to_input),
    "ReduceL2": (18, _axes_to_input),
    "ReduceMax": (18, _axes_to_input),
    "ReduceMean": (18, _axes_to_input),
    "ReduceMin": (18, _axes_to_input),
    "ReduceSum": (13, _axes_to_input),
    "ReduceSumSquare": (18, _axes_to_input),
    "Resize": (11, _old_resize),
    "Slice": (10, _slice),
    "Softmax": (13, _softmax),
    "Split": (18, _split),
    "Squeeze": (13, _axes_to_input),
    "Unsqueeze": (13, _axes_to_input),
    "Upsample": (10, _upsample),
}
