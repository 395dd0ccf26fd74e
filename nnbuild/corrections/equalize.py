"""Channels of an activation get ranges that are alike, so that one scale serves all of them.

Behind a layer with weights and functions for which f(s x) = s f(x), a channel can be larger by a factor that the
weights of its readers take away again: the float model computes the same. (Nagel et al., Data-Free Quantization,
arXiv:1906.04721, section 4.1, with ranges of activations seen in calibration.) Weights have a scale for each output
channel, so the writer loses nothing by it, and a depthwise reader neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from nnbuild import simulation
from nnbuild.network import Array
from nnbuild.passes.graph import Graph, attribute
from nnbuild.samples import Sample

_LEAST = 2.0**-6  # of the largest channel: no channel grows by more than its inverse
_LINEAR = frozenset(("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"))


@dataclass(frozen=True, slots=True)
class _Link:
    """`value`, written by `writer` and what lies behind it, read by `readers` only."""

    value: str
    writer: NodeProto
    readers: tuple[NodeProto, ...]


def correct(model: onnx.ModelProto, samples: list[Sample], strength: float) -> onnx.ModelProto | None:
    """The float model with other weights; None where no channel can be scaled. `strength` 1 makes all ranges equal."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    links = list(_links(graph))
    if not links:
        return None
    found = simulation.run(model, [link.value for link in links], samples)
    for link in links:
        peaks = np.max(
            [np.abs(seen[link.value][0]).reshape(seen[link.value].shape[1], -1).max(axis=1) for seen in found], axis=0
        )
        largest = float(peaks.max())
        if largest > 0:
            factors = np.maximum(peaks.astype(np.float64) / largest, _LEAST) ** -strength
            _scale(graph, link, np.where(peaks > 0, factors, 1.0))
    graph.commit()
    return copy


def _links(graph: Graph) -> Iterator[_Link]:
    for writer in graph.nodes:
        if _output_channels(graph, writer) is None:
            continue
        value = writer.output[0]
        while (reader := graph.sole_reader(value)) is not None and reader.op_type in _LINEAR:
            value = reader.output[0]
        readers = graph.readers(value)
        fits = [_reads(graph, reader, value) for reader in readers]
        if readers and all(fits) and value not in graph.outputs:
            yield _Link(value, writer, readers)


def _output_channels(graph: Graph, node: NodeProto) -> int | None:
    """How many, where each is written with weights and a bias of its own."""
    weights = graph.constant(node, 1)
    if node.op_type not in ("Conv", "Gemm") or weights is None or weights.dtype != np.float32:
        return None
    count = int(weights.shape[_axes(node)[0]])
    bias = graph.constant(node, 2)
    absent = len(node.input) < 3 or not node.input[2]
    return count if absent or (bias is not None and bias.shape == (count,)) else None


def _reads(graph: Graph, node: NodeProto, value: str) -> bool:
    weights = graph.constant(node, 1)
    good = node.op_type in ("Conv", "Gemm") and weights is not None and weights.dtype == np.float32
    return good and list(node.input).count(value) == 1 and node.input[0] == value and not attribute(node, "transA", 0)


def _axes(node: NodeProto) -> tuple[int, int]:
    """Which axes of the weights count outputs and inputs."""
    return (0, 1) if node.op_type == "Conv" or attribute(node, "transB", 0) else (1, 0)


def _scale(graph: Graph, link: _Link, factors: Array) -> None:
    """Let each channel of the link be `factors` times as large."""
    weights, bias = graph.constant(link.writer, 1), graph.constant(link.writer, 2)
    assert weights is not None
    _replace(graph, link.writer, 1, weights * _along(factors, _axes(link.writer)[0], weights.ndim))
    if bias is not None:
        _replace(graph, link.writer, 2, bias * factors)
    for reader in link.readers:
        read = graph.constant(reader, 1)
        assert read is not None
        _replace(graph, reader, 1, read / _for_reader(reader, read, factors))


def _for_reader(reader: NodeProto, weights: Array, factors: Array) -> Array:
    """The factor of the input of each weight, for weights that groups may share out."""
    outputs, inputs = _axes(reader)
    groups = int(attribute(reader, "group", 1))
    if groups == 1:
        return _along(factors, inputs, weights.ndim)
    by_group = factors.reshape(groups, -1).repeat(weights.shape[outputs] // groups, axis=0)
    return by_group.reshape(*by_group.shape, *[1] * (weights.ndim - 2))


def _along(factors: Array, axis: int, rank: int) -> Array:
    shape = [1] * rank
    shape[axis] = -1
    return factors.reshape(shape)


def _replace(graph: Graph, node: NodeProto, position: int, values: Array) -> None:
    name = graph.add_constant(f"{node.output[0]}_equalized{position}", values.astype(np.float32))
    graph.set_input(node, position, name)
