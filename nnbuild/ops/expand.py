"""A value repeated along its axes. ONNX Expand and Tile.

Where an operand of arithmetic is meant, the repetition costs nothing: broadcasting reads the offsets.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from nnbuild.contract import Case, Operator
from nnbuild.lower import Lowering
from nnbuild.network import Array
from nnbuild.ops import views


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Expand(x, shape) or Tile(x, repeats): offsets that come several times, and no layer."""
    counts = views.numbers(ctx, node, 1)

    def expand(index: Array) -> Array:
        try:
            return np.broadcast_to(index, np.broadcast_shapes(index.shape, tuple(counts)))
        except ValueError:
            raise ctx.refuse(node, f"shape {list(index.shape)} does not expand to {counts}") from None

    def tile(index: Array) -> Array:
        if len(counts) != index.ndim:
            raise ctx.refuse(node, f"repeats {counts} do not fit {index.ndim} dimensions")
        return np.tile(index, counts)

    views.define(ctx, node, expand if node.op_type == "Expand" else tile)


def cases() -> Iterable[Case]:
    """One axis, several axes, a new leading axis."""
    from nnbuild.ops import singles

    yield singles.moved("expand_channels", "Expand", (1, 3, 1, 1), ([1, 3, 4, 5],))
    yield singles.moved("expand_new_axis", "Expand", (3, 1), ([2, 1, 4],))
    yield singles.moved("tile_two_axes", "Tile", (1, 2, 3, 4), ([1, 1, 2, 3],))
    yield singles.moved("tile_channels", "Tile", (1, 5), ([1, 3],))


OPERATOR = Operator(
    name="expand",
    summary="a value repeated along its axes",
    onnx=("Expand", "Tile"),
    lower=lower,
    quantization=lambda node: views.QUANTIZATION,
    cases=cases,
)
