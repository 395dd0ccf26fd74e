"""Elements picked by known indices along one axis. ONNX Gather with constant indices."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from nnbuild import qdq
from nnbuild.contract import Case, Operator
from nnbuild.lower import Lowering
from nnbuild.network import Array
from nnbuild.ops import views


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Gather(x, indices): the offsets at `indices`, and no layer."""
    found = ctx.constant(node, 1)
    if found is None:
        raise ctx.refuse(node, "its indices are not constant", "nnbuild has no table lookup at run time yet")
    indices, axis = found.values.astype(np.int64), int(qdq.attribute(node, "axis", 0))

    def move(index: Array) -> Array:
        if not -index.ndim <= axis < index.ndim:
            raise ctx.refuse(node, f"axis {axis} of {index.ndim} dimensions")
        size = index.shape[axis]
        if indices.size and not -size <= indices.min() <= indices.max() < size:
            raise ctx.refuse(node, f"an index is outside of the {size} elements of axis {axis}")
        return index.take(indices, axis)

    views.define(ctx, node, move)


def cases() -> Iterable[Case]:
    """One index, several with repetitions, indices of two dimensions, channels."""
    from nnbuild.ops import singles

    yield singles.moved("gather_one", "Gather", (1, 4, 3, 5), (np.int64(2),), {"axis": 2})
    yield singles.moved("gather_several", "Gather", (1, 9), ([8, 0, -3, 3, 3],), {"axis": 1})
    yield singles.moved("gather_channels", "Gather", (1, 6, 2, 3), ([[5, 1], [2, 4]],), {"axis": 1})


OPERATOR = Operator(
    name="gather",
    summary="elements picked by constant indices",
    onnx=("Gather",),
    lower=lower,
    quantization=lambda node: views.QUANTIZATION,
    cases=cases,
)
