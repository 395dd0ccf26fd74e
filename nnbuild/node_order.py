"""The order of a graph's nodes: execution order as ONNX asks for it, and as the exporter wrote it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

import onnx
from onnx import NodeProto

from nnbuild.onnxfile import subgraphs


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Bring the nodes into execution order, which ONNX asks for and some exporters forget; stable.

    Nodes that wait for each other, or for a value that nobody writes, stay at the end, where the walk reports them.
    """
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    writer = {value: index for index, node in enumerate(nodes) for value in node.output if value}
    waits = [{writer[value] for value in _reads(node) if value in writer} for node in nodes]
    readers: dict[int, list[int]] = {}
    for index, needed in enumerate(waits):
        for before in needed:
            readers.setdefault(before, []).append(index)
    left = [len(needed) for needed in waits]
    ready = [index for index, count in enumerate(left) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            left[reader] -= 1
            if left[reader] == 0:
                heapq.heappush(ready, reader)
    placed = set(order)
    order += [index for index in range(len(nodes)) if index not in placed]
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def remove_dead_nodes(graph: onnx.GraphProto) -> None:
    """Drop the nodes that no output depends on."""
    alive = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if alive.intersection(node.output):
            kept.append(NodeProto.FromString(node.SerializeToString()))
            alive.update(_reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))


def positions(graph: onnx.GraphProto) -> dict[str, int]:
    """Where in the graph each value is written."""
    return {value: index for index, node in enumerate(graph.node) for value in node.output if value}


def restore_order(graph: onnx.GraphProto, before: Mapping[str, int]) -> None:
    """Bring the nodes of `graph` into the order that they had, by `positions` of that time.

    onnxruntime writes some models in another order. Where a network branches the memory plan depends on it, so the
    exporter's order is kept. A node that was not there comes behind what it reads.
    """
    written: dict[str, int] = {}
    keys = []
    for index, node in enumerate(graph.node):
        known = [before[value] for value in node.output if value in before]
        key = known[0] if known else max((written[value] for value in node.input if value in written), default=0)
        written.update(dict.fromkeys(node.output, key))
        keys.append((key, index))
    nodes = [NodeProto.FromString(graph.node[index].SerializeToString()) for _, index in sorted(keys)]
    del graph.node[:]
    graph.node.extend(nodes)
    sort_nodes(graph)


def _reads(node: NodeProto) -> Iterator[str]:
    """What a node reads, captures of its sub-graphs included."""
    yield from (value for value in node.input if value)
    for graph in subgraphs(node):
        for value in graph.output:
            yield value.name
        for inner in graph.node:
            yield from _reads(inner)
