"""Models in onnxruntime over many samples: what calibration and corrections measure with.

A QDQ model computes here what its integers do, but for sums in float32: close enough to compare two quantizations of a
model, and many times faster than `nnbuild.interpret`, which judges in the end. Samples run on two threads, each on its
own, so that results do not depend on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import onnx
from onnx import NodeProto, helper

from nnbuild import float_model
from nnbuild.network import Array
from nnbuild.passes.graph import Graph
from nnbuild.samples import Sample

Values = Mapping[str, Array]

_THREADS = 2
_SQUASHING = frozenset(("LogSoftmax", "Sigmoid", "Softmax"))
_PAIR = ("QuantizeLinear", "DequantizeLinear")

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of each item, in order, on two threads: onnxruntime lets go of the interpreter."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


class Spread(Generic[T]):
    """At most `most` samples of a stream of any length, evenly spread over it; no more than twice as many are held."""

    def __init__(self, most: int) -> None:
        self._most, self._stride, self._count = most, 1, 0
        self._held: list[T] = []

    def add(self, sample: T) -> None:
        """The next one of the stream."""
        if self._count % self._stride == 0:
            self._held.append(sample)
        self._count += 1
        if len(self._held) > 2 * self._most:
            self._held, self._stride = self._held[::2], 2 * self._stride

    @property
    def samples(self) -> list[T]:
        """Those that are kept, in their order."""
        count = len(self._held)
        most = min(self._most, count)
        return [self._held[index * count // most] for index in range(most)]


def judged(graph: Graph) -> list[str]:
    """Where two quantizations are compared: the outputs, but in front of what squashes them.

    Behind a Softmax only the few samples that are near to two classes would count.
    """
    found = dict.fromkeys(squashed(graph, name)[0] for name in graph.outputs)
    return [name for name in found if graph.producer(name) is not None]


def squashed(graph: Graph, output: str) -> tuple[str, list[NodeProto]]:
    """Where `output` is judged, and the nodes from there to it, Q/DQ pairs among them; none where it is so itself."""
    name, nodes = output, list[NodeProto]()
    while (node := graph.producer(name)) is not None and node.op_type in (*_PAIR, *_SQUASHING):
        name, nodes = node.input[0], [node, *nodes]
        if node.op_type in _SQUASHING:
            return name, nodes
    return output, []


def noise(real: Sequence[Values], ours: Sequence[Values]) -> float:
    """Power of the error over that of the signal, of each value by its name; of several values the sum."""
    total = 0.0
    for name in real[0]:
        exact = [values[name].astype(np.float64) for values in real]
        signal = math.fsum(float(np.sum(np.square(values))) for values in exact)
        errors = (float(np.sum(np.square(one - two[name]))) for one, two in zip(exact, ours, strict=True))
        total += math.fsum(errors) / (signal or 1.0)
    return total


def part(graph: Graph, nodes: Sequence[NodeProto], given: Sequence[str], wanted: Sequence[str]) -> onnx.ModelProto:
    """The model of `nodes` alone, in their order, from the values `given` to the values `wanted`."""
    info = helper.make_tensor_value_info
    used = dict.fromkeys(name for node in nodes for name in node.input if name in graph.constants)
    model = onnx.ModelProto()
    model.CopyFrom(helper.make_model(helper.make_graph(
        list(nodes),
        "part",
        [info(name, graph.types[name], graph.shapes[name]) for name in given],
        [info(name, graph.types[name], graph.shapes[name]) for name in wanted],
        [onnx.numpy_helper.from_array(graph.constants[name], name) for name in used],
    )))  # fmt: skip
    model.ir_version = graph.model.ir_version
    del model.opset_import[:]
    model.opset_import.extend(graph.model.opset_import)
    return model


def behind(graph: Graph, value: str, wanted: Sequence[str]) -> tuple[onnx.ModelProto, list[str]] | None:
    """The part of the model from `value` to the values `wanted`, and what else of the model it reads; None for none."""
    reached, nodes = {value}, []
    for node in graph.nodes:
        if value not in node.output and any(name in reached for name in node.input):
            reached.update(name for name in node.output if name)
            nodes.append(node)
    ends = [name for name in wanted if name in reached]
    needed, kept = set(ends), []
    for node in reversed(nodes):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    if not kept:
        return None
    kept.reverse()
    written = {name for node in kept for name in node.output}
    read = dict.fromkeys(name for node in kept for name in node.input if name)
    given = [name for name in read if name not in written and name not in graph.constants]
    return part(graph, kept, given, ends), [name for name in given if name != value]


def run(model: onnx.ModelProto, names: Sequence[str], samples: Sequence[Sample]) -> list[Values]:
    """The values `names` of a model for each sample."""
    session = float_model.session(model, names)
    return each(session.run, samples)
