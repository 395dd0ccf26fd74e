"""A copy in another order: Transpose and whatever else a change of layout comes to where it cannot be folded.

ONNX Transpose changes offsets only (see `nnbuild.layout`); this layer appears where an operator, or the model's
output, needs the elements in another order than they have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import layout, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Overlap, Quantization, Run, SameAsInput, Source
from nnbuild.intervals import Interval, monotone
from nnbuild.kernels import cmsis_nn
from nnbuild.lower import Constant, Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.ram import overlap
from nnbuild.streams.sliding import Move, Sliding, Time, by_moves
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class TransposeParams:
    """Nested loops (count, input stride), outermost first, from input offset `start`; the output is written in order.

    Where `loops` is empty the constant `offsets` (int32) says where each element comes from.
    """

    size: int
    start: int
    loops: tuple[tuple[int, int], ...]


def copy(offsets: Array) -> tuple[TransposeParams, dict[str, Array]]:
    """Parameters and constants of the layer whose element i is the input's element `offsets[i]`."""
    found = layout.loops(offsets)
    if found is not None:
        return TransposeParams(offsets.size, int(offsets[0]), tuple((dim[0], dim[1]) for dim in found)), {}
    return TransposeParams(offsets.size, 0, ()), {"offsets": offsets.astype(np.int32)}


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Transpose: another order of the offsets, and no layer."""
    constant = ctx.constant(node, 0)
    rank = constant.values.ndim if constant is not None else ctx.activation(node, wide=True).index.ndim
    order = qdq.attribute(node, "perm", list(range(rank))[::-1])
    if sorted(order) != list(range(rank)):
        raise ctx.refuse(node, f"perm {list(order)} does not fit {rank} dimensions")
    if constant is not None:
        # Scale and zero point have the rank of the values, or one element.
        def turned(array: Array | None) -> Array | None:
            return array.transpose(order) if array is not None and array.ndim == rank else array

        ctx.values[node.output[0]] = Constant(
            constant.values.transpose(order), turned(constant.scale), turned(constant.zero_point)
        )
        return
    activation = ctx.activation(node, wide=True)
    ctx.define(node.output[0], activation.tensor, activation.index.transpose(order))


def reference(params: TransposeParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """int8 or int16, flat -> the same type, flat."""
    if "offsets" in constants:
        return np.asarray(inputs[0].ravel()[constants["offsets"]])
    return np.asarray(inputs[0].ravel()[layout.visit(params.loops, 0) + params.start])


def copies(view: LayerView, inputs: Sequence[Interval]) -> bool:
    """Whether the order is that of the input."""
    order = _offsets(view)
    return order.size == view.inputs[0].size and layout.is_contiguous(order)


def runs(view: LayerView) -> tuple[Run, ...]:
    """The whole output, where it lies in one piece in the input."""
    p = view.params
    return (Run(0, p.start, 0, p.size),) if p.loops in (((p.size, 1),), ((1, 0),)) else ()


def _offsets(view: LayerView) -> Array:
    """Where each element comes from."""
    offsets = view.constants.get("offsets")
    return layout.visit(view.params.loops, 0) + view.params.start if offsets is None else offsets


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Element by element; a part of the input in its own order is copied within it."""
    return {0: overlap.by_elements(_offsets(view), view.inputs[0].bytes, view.sizes)}


def slides(view: LayerView, times: Sequence[Time | None]) -> Sliding | str:
    """Elements stay in the order that they have at one point in time."""
    order = _offsets(view)
    found = by_moves([Move(order, np.arange(order.size))], times, elastic=True)
    if isinstance(found, str):
        return found
    return Sliding(found.output, found.reaches, lambda lengths, rows: copy(found.cut(lengths, rows)[0].offsets))


def render(view: LayerView, target: Target) -> Source:
    """Nested loops with constant strides."""
    values = {"p": view.params, "offset": layout.expression(view.params.loops, 0, view.params.start)}
    return Source(template="transpose.c.j2", values=values)


def render_gather(view: LayerView, target: Target) -> Source:
    """A table of offsets, for orders that no nested loops express."""
    offsets = view.constants["offsets"]
    kind = np.uint16 if math.prod(view.inputs[0].shape) <= 65536 else np.uint32
    return Source(template="gather.c.j2", values={"p": view.params}, data={"offsets": offsets.astype(kind)})


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Elements, and how often the innermost loop starts."""
    return {"output": view.params.size, "run": view.params.size // view.params.loops[-1][0]}


def cases() -> Iterable[Case]:
    """Channels first to last and back, odd sizes, several axes, an order that needs a table; elements of two bytes."""
    from nnbuild.ops import singles

    yield singles.transpose("transpose_channels_last", (1, 3, 5, 7), [((0, 2, 3, 1), None)])
    yield singles.transpose("transpose_channels_first", (1, 5, 7, 3), [((0, 3, 1, 2), None)])
    yield singles.transpose("transpose_reverse", (1, 2, 3, 5), [((0, 3, 2, 1), None)])
    shuffle = [(None, (1, 3, 4, 5, 2)), ((0, 2, 1, 4, 3), None), (None, (1, 24, 5))]
    yield singles.transpose("transpose_shuffle", (1, 12, 5, 2), shuffle)
    crooked = [((0, 2, 1), None), (None, (1, 4, 3)), ((0, 2, 1), None)]
    yield singles.transpose("transpose_table", (1, 2, 6), crooked)
    wide = QuantParams(0.0002, 0, "int16")
    yield singles.transpose("transpose_int16", (1, 3, 5, 7), [((0, 2, 3, 1), None)], wide)
    yield singles.transpose("transpose_int16_table", (1, 2, 6), crooked, wide)


OPERATOR = Operator(
    name="transpose",
    summary="copy into another order, where it cannot be folded",
    onnx=("Transpose",),
    lower=lower,
    quantization=lambda node: Quantization(output=SameAsInput(), wide=True),
    params=TransposeParams,
    reference=reference,
    bounds=monotone(reference),
    copies=copies,
    runs=runs,
    slides=slides,
    kernels=(
        Kernel(
            "direct",
            render,
            supports=lambda view, target: None if view.params.loops else "no nested loops express it",
            trips=trips,
            overlap=over,
        ),
        cmsis_nn.TRANSPOSE,
        Kernel(
            "gather",
            render_gather,
            supports=lambda view, target: "loops serve" if view.params.loops else None,
            overlap=over,
        ),
    ),
    cases=cases,
)
