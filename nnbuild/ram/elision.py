"""Copies that memory makes unnecessary: of layers that only move whole runs of their inputs, nothing is left to do.

A part that lies in one piece is read where it is. Values side by side are written there by the layers that compute
them. What moves is said by the operators' records (`Operator.runs`); the model's inputs and outputs stay what its
caller passes, so an input that is put beside something is copied, and so is a part of a value that is an output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnbuild.contract import LayerView, Run
from nnbuild.network import Layer, Network, View
from nnbuild.ops import BY_NAME


def elide(network: Network) -> Network:
    """The network without those layers, their tensors being views; the same one where there are none."""
    found = network
    for layer in network.layers:
        views = _views(found, layer, BY_NAME[layer.op].runs(LayerView.of(network, layer)))
        if views:
            layers = tuple(other for other in found.layers if other is not layer)
            found = replace(found, layers=layers, views={**found.views, **views})
    return found


def _views(network: Network, layer: Layer, runs: Sequence[Run]) -> dict[str, View]:
    """What lies in what without `layer`; empty where it is needed."""
    kinds = {network.tensors[name].dtype for name in (*layer.inputs, layer.output)}
    if not runs or len(kinds) > 1:
        return {}
    if len(runs) == 1 and layer.output not in {port.tensor for port in network.outputs}:
        return {layer.output: View(layer.inputs[runs[0].input], runs[0].start)}
    found = {layer.inputs[run.input]: View(layer.output, run.place) for run in runs}
    whole = all(run.size == network.tensors[layer.inputs[run.input]].size for run in runs)
    return found if whole and len(found) == len(runs) and not _settled(network) & found.keys() else {}


def _settled(network: Network) -> set[str]:
    """Tensors whose place is given already."""
    return {*network.views, *(port.tensor for port in (*network.inputs, *network.outputs))}
