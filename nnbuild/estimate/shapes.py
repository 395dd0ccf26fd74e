"""An outline of a model (`nnbuild.outline`) becomes an integer network with placeholders for what only data could tell.

Everything goes the way of a build: quantized by the same rules, lowered by the same operators. Only the ranges are
made up. They differ from each other as real ones do, so that a change of scale between two layers is not lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from nnbuild import qdq
from nnbuild.errors import ModelError
from nnbuild.lower import lower
from nnbuild.network import Network
from nnbuild.onnxfile import is_qdq
from nnbuild.passes import FLOAT_RULES, simplify
from nnbuild.passes.graph import Graph
from nnbuild.placeholder import placeholder
from nnbuild.precision_names import named
from nnbuild.quantize import quantize
from nnbuild.ranges import Range, Ranges
from nnbuild.shrink import shrink

_LOW, _HIGH = -0.8, 1.0
_APART = 2.0**-7
_LOGITS = 24
"""What trained classifiers hand to Softmax reaches about so far; the length of its table depends on it."""


def network_of(
    model: onnx.ModelProto, where: str, input_layout: str = "", per_tensor: bool = False, int16: Sequence[str] = ()
) -> Network:
    """The network of an imported model, float or QDQ, that may hold placeholders; its numbers mean nothing.

    `per_tensor` is `fully_connected="per_tensor"` of a build, `int16` names values of 16 bits as there. ModelError as a
    build has it, ConfigError for names that nothing has. An int8 model of which all is known is shrunk as in a build;
    of others only a build can tell.
    """
    if is_qdq(model):
        return shrink(lower(model, where, input_layout))
    scales = "per_tensor" if per_tensor else "per_channel"
    try:
        spans = made_up_ranges(model)
        quantized = quantize(model, spans, fully_connected=scales)
        if int16:
            quantized = quantize(model, spans, fully_connected=scales, int16=named(quantized, int16))
    except ModelError as error:
        raise error.within(where) from None
    return lower(quantized, where, input_layout)


def made_up_ranges(model: onnx.ModelProto) -> Ranges:
    """A range for each value of a float model, no two the same, cut where a clamp cuts it."""
    graph = Graph(model)
    spans: dict[str, Range] = {}
    for index, name in enumerate((*graph.inputs, *(value for node in graph.nodes for value in node.output))):
        factor = 1 + index * _APART
        if any(reader.op_type == "Softmax" for reader in graph.readers(name)):
            factor *= _LOGITS
        low, high = _clamped(graph, name)
        spans[name] = (max(_LOW * factor, low), min(_HIGH * factor, high) if high > 0 else _HIGH * factor)
    return Ranges(spans, "made up", 0, "")


def _clamped(graph: Graph, value: str) -> Range:
    node = graph.producer(value)
    bounds = qdq.clamp_bounds(node, graph.constants.get) if node is not None else None
    return bounds if bounds is not None else (-math.inf, math.inf)


def unquantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float model of the shapes of a QDQ model, which is left alone; its constants are placeholders."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    for node in list(graph.nodes):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _take_out(graph, node)
    for name in graph.types:
        if name not in graph.constants:
            graph.types[name] = onnx.TensorProto.FLOAT
    simplify(graph, FLOAT_RULES)
    graph.commit()
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return copy


def _take_out(graph: Graph, node: onnx.NodeProto) -> None:
    known = graph.constant(node, 0)
    if known is None:
        graph.drop_inputs(node, 1)
        if not graph.bypass(node):
            node.op_type = "Identity"
            del node.attribute[:]
        return
    value = np.ones((), np.float32) if known.size == 1 else placeholder(known.shape, np.float32)
    graph.redirect(node.output[0], graph.add_constant(node.output[0], value.reshape(known.shape)))
    graph.remove(node)
