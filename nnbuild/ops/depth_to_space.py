"""Blocks of channels become blocks of pixels, and back. ONNX DepthToSpace and SpaceToDepth, both modes."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from nnbuild import qdq
from nnbuild.contract import Case, Operator
from nnbuild.lower import Lowering
from nnbuild.network import Array
from nnbuild.ops import views


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Another order of the offsets, and no layer."""
    block = int(qdq.attribute(node, "blocksize", 0))
    to_space = node.op_type == "DepthToSpace"
    first = qdq.attribute(node, "mode", "DCR") == "DCR"

    def move(index: Array) -> Array:
        if index.ndim != 4 or block < 1:
            raise ctx.refuse(node, f"blocks of {block} in {index.ndim} dimensions", "one batch, channels, two of space")
        _, channels, height, width = index.shape
        if (channels % block**2 if to_space else height % block or width % block) != 0:
            raise ctx.refuse(node, f"shape {list(index.shape)} has no whole blocks of {block}")
        return (_to_space if to_space else _to_depth)(index, block, first)

    views.define(ctx, node, move)


def _to_space(index: Array, block: int, depth_first: bool) -> Array:
    """`depth_first` is the mode DCR: channel (row, column, depth); else CRD: (depth, row, column)."""
    batch, channels, height, width = index.shape
    depth = channels // block**2
    if depth_first:
        parts = index.reshape(batch, block, block, depth, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = index.reshape(batch, depth, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, depth, height * block, width * block)


def _to_depth(index: Array, block: int, depth_first: bool) -> Array:
    """The inverse of `_to_space`."""
    batch, channels, height, width = index.shape
    parts = index.reshape(batch, channels, height // block, block, width // block, block)
    parts = parts.transpose(0, 3, 5, 1, 2, 4) if depth_first else parts.transpose(0, 1, 3, 5, 2, 4)
    return parts.reshape(batch, channels * block**2, height // block, width // block)


def cases() -> Iterable[Case]:
    """Both modes, and back; odd counts."""
    from nnbuild.ops import singles

    for mode in ("DCR", "CRD"):
        name = f"depth_to_space_{mode.lower()}"
        yield singles.moved(name, "DepthToSpace", (1, 12, 2, 3), (), {"blocksize": 2, "mode": mode})
    yield singles.moved("space_to_depth", "SpaceToDepth", (1, 3, 6, 9), (), {"blocksize": 3})


OPERATOR = Operator(
    name="depth_to_space",
    summary="blocks of channels as blocks of pixels, and back",
    onnx=("DepthToSpace", "SpaceToDepth"),
    lower=lower,
    quantization=lambda node: views.QUANTIZATION,
    cases=cases,
)
