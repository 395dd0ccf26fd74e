"""A walk over the layers with weights of a QDQ model and of its float model side by side.

At each layer a correction sees the integers that reach it, all layers before it corrected, and may change the layer's
stored weights and bias before the walk goes on. Of a walk only values that are still to be read are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from nnbuild import float_model, simulation
from nnbuild.network import Array
from nnbuild.passes.graph import Graph, attribute
from nnbuild.samples import Sample

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators whose weights are input 1 and whose bias, where there is one, is input 2."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its node in the QDQ model, open for changes, and what the samples give.

    `real` are its weights in float, `inputs` what reaches it in int8 (dequantized), `expected` its output in float.
    """

    graph: Graph
    node: NodeProto
    real: Array
    inputs: Sequence[Array]
    expected: Sequence[Array]

    def stored(self, position: int) -> tuple[Array, Array] | None:
        """Integers and scales of input `position`; None where it is absent or in float."""
        dequantize = self.graph.producer(self.node.input[position]) if position < len(self.node.input) else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return None
        values, scales = (self.graph.constant(dequantize, index) for index in (0, 1))
        return None if values is None or scales is None else (values, scales)

    def store(self, position: int, values: Array) -> None:
        """Put other integers of the same type and shape in the place of those of input `position`."""
        dequantize = self.graph.producer(self.node.input[position])
        assert dequantize is not None
        self.graph.constants[dequantize.input[0]] = values

    @property
    def channel_axis(self) -> int:
        """Which axis of the weights counts output channels."""
        return 0 if self.node.op_type == "Conv" or attribute(self.node, "transB", 0) else 1

    @property
    def output_axis(self) -> int:
        """Which axis of the output counts channels."""
        return 1 if self.node.op_type == "Conv" else -1


class _Side:
    """One of the two models: values by sample, and how many of its nodes have run."""

    def __init__(self, graph: Graph, samples: Sequence[Sample]) -> None:
        self.graph = graph
        self.values: list[dict[str, Array]] = [dict(sample) for sample in samples]
        self.next = 0

    def advance(self, node: NodeProto, past: int) -> None:
        """Run what is in front of `node`, and `past` 1 the node too; let go of what nobody behind reads."""
        end = self.graph.position(node) + past
        nodes = self.graph.nodes[self.next : end]
        self.next = end
        later = {name for rest in self.graph.nodes[end:] for name in rest.input}
        later.update(node.output if past else ())
        written = [name for entry in nodes if not self._known(entry) for name in entry.output if name in later]
        if written:
            part, given = with_constants(self.graph, [entry for entry in nodes if not self._known(entry)], written)
            session = float_model.session(part, written)
            found = simulation.each(lambda values: session.run({name: values[name] for name in given}), self.values)
            self.values = [{**values, **more} for values, more in zip(self.values, found, strict=True)]
        self.values = [{name: values[name] for name in values if name in later} for values in self.values]

    def _known(self, node: NodeProto) -> bool:
        """Whether it computes a constant, such as weights, which may still be corrected before they are read."""
        return all(name in self.graph.constants for name in node.input if name)


def with_constants(
    graph: Graph, nodes: Sequence[NodeProto], wanted: Sequence[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """The model of `nodes` and of what dequantizes their constants, and the values that it is given."""
    own = {name for node in nodes for name in node.output}
    read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in own)
    makers = {name: graph.producer(name) for name in read}
    constant = [
        maker for maker in makers.values()
        if maker is not None and all(name in graph.constants for name in maker.input if name)
    ]  # fmt: skip
    made = {name for maker in constant for name in maker.output}
    given = [name for name in read if name not in made and name not in graph.constants]
    return simulation.part(graph, [*constant, *nodes], given, wanted), given


def walk(
    model: onnx.ModelProto, int8: onnx.ModelProto, samples: Sequence[Sample], correct: Callable[[Layer], None]
) -> onnx.ModelProto:
    """The QDQ model `int8` of the float `model` with each layer as `correct` leaves it; both are left alone."""
    copy = onnx.ModelProto()
    copy.CopyFrom(int8)
    graph, real = Graph(copy), Graph(model)
    ours, theirs = _Side(graph, samples), _Side(real, samples)
    for node, twin in _pairs(graph, real):
        ours.advance(node, 0)
        theirs.advance(twin, 1)
        weights = real.constant(twin, 1)
        assert weights is not None
        inputs = [known[node.input[0]] for known in ours.values]
        expected = [known[twin.output[0]] for known in theirs.values]
        correct(Layer(graph, node, weights, inputs, expected))
    graph.commit()
    return copy


def _pairs(graph: Graph, real: Graph) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Nodes with constant weights in the QDQ model, and the same in the float model."""
    twins = {node.name: node for node in real.nodes}
    for node in graph.nodes:
        twin = twins.get(node.name)
        if node.op_type in WEIGHTED and twin is not None and real.constant(twin, 1) is not None:
            yield node, twin


def matrix(weights: Array, axis: int) -> Array:
    """Weights as float64 (channels, n)."""
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).astype(np.float64)
