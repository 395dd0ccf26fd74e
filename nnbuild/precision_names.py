"""Names of values of 16 bits: those of layers as reports have them stand for the nodes that write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

from nnbuild.lower import lower

AUTO = "auto"
"""Stands for all that a search finds."""


def named(int8: onnx.ModelProto, names: Iterable[str]) -> list[str]:
    """Layers of the lowered model, with or without the model's prefix, as `quantize` names them; others stay."""
    nodes: dict[str, str] = {}
    found = []
    for name in names:
        layer = re.fullmatch(r"(?:\w*_)?(l\d\d+_\w+)", name)
        if layer is not None and not nodes:
            nodes = {layer.name: layer.node for layer in lower(int8).layers}
        found.append(nodes.get(layer[1], name) if layer is not None else name)
    return found


def layer_names(int8: onnx.ModelProto) -> dict[str, str]:
    """The last layer of each node, by the node's name: what `named` takes for it."""
    return {layer.node: layer.name for layer in lower(int8).layers}
