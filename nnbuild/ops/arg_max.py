"""The place of the largest or smallest value along one axis, as int32. ONNX ArgMax and ArgMin.

Only views may stand behind it: indices are an output of the model, and nothing computes with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import layout, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, SameAsInput, Source
from nnbuild.lower import Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.streams.sliding import by_depth
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class ArgMaxParams:
    """`rows` of `depth` values. `smallest`: of the smallest value; `last`: of equal values the last one."""

    rows: int
    depth: int
    smallest: bool
    last: bool


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """ArgMax or ArgMin along `axis`, which stays with length 1 where `keepdims` says so."""
    activation = ctx.activation(node)
    axis = int(qdq.attribute(node, "axis", 0)) % activation.index.ndim
    last = np.moveaxis(activation.index, axis, -1)
    shape = layout.memory_shape(last.shape)
    tensor = ctx.arrange(activation, last, node, shape)
    rows, depth = int(last.size // last.shape[-1]), int(last.shape[-1])
    params = ArgMaxParams(rows, depth, node.op_type == "ArgMin", bool(qdq.attribute(node, "select_last_index", 0)))
    out = shape[:-1] or (1,)
    name = ctx.layer("arg_max", (tensor,), out, QuantParams(1.0, 0), params, {}, node, dtype="int32")
    index = layout.contiguous(last.shape[:-1])
    ctx.define(node.output[0], name, np.expand_dims(index, axis) if qdq.attribute(node, "keepdims", 1) else index)


def reference(params: ArgMaxParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(rows * depth) int8 -> (rows,) int32."""
    values = inputs[0].reshape(params.rows, params.depth).astype(np.int64) * (-1 if params.smallest else 1)
    if params.last:
        return np.asarray(params.depth - 1 - values[:, ::-1].argmax(axis=1), np.int32)
    return np.asarray(values.argmax(axis=1), np.int32)


def render(view: LayerView, target: Target) -> Source:
    """One comparison for each value."""
    params = view.params
    beats = ("<" if params.smallest else ">") + ("=" if params.last else "")
    return Source("arg_max.c.j2", {"p": params, "beats": beats})


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Rows, and values in them."""
    return {"row": view.params.rows, "value": view.params.rows * view.params.depth}


def cases() -> Iterable[Case]:
    """A vector, rows, another axis, one value; the smallest, the last of equals."""
    from nnbuild.ops import singles

    quant = QuantParams(0.1, 3)
    table: list[tuple[str, str, tuple[int, ...], dict[str, object]]] = [
        ("vector", "ArgMax", (1, 10), {"axis": 1}),
        ("rows", "ArgMax", (1, 7, 5), {"axis": -1, "keepdims": 0}),
        ("channels", "ArgMax", (1, 4, 3, 5), {"axis": 1}),
        ("one", "ArgMax", (1, 3, 1), {"axis": 2}),
        ("many", "ArgMax", (1, 300), {"axis": 1, "keepdims": 0}),
        ("last", "ArgMax", (1, 6, 9), {"axis": 2, "select_last_index": 1}),
        ("smallest", "ArgMin", (1, 6, 9), {"axis": 1}),
        ("smallest_last", "ArgMin", (1, 5, 4), {"axis": 2, "select_last_index": 1}),
    ]
    for name, kind, shape, attributes in table:
        yield singles.indices(f"arg_max_{name}", kind, shape, quant, attributes)


OPERATOR = Operator(
    name="arg_max",
    summary="place of the largest or smallest value along an axis, int32",
    onnx=("ArgMax", "ArgMin"),
    lower=lower,
    quantization=lambda node: Quantization(output=SameAsInput()),
    params=ArgMaxParams,
    reference=reference,
    slides=by_depth,
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
