"""Operands that are walked together, element by element, with numpy's broadcasting: for Add, Mul, Min, Max, Where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from nnbuild import layout
from nnbuild.contract import LayerView, RowForm, Source, tied
from nnbuild.errors import InternalError
from nnbuild.lower import Activation, Constant, Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.streams.sliding import Move, Sliding, Time, by_moves
from nnbuild.target import Target

Loops = tuple[tuple[int, ...], ...]
"""(count, stride of operand 1, stride of operand 2, ...), outermost first; the output is written in order."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The loops over `operands`, the first of which leads, and what the output looks like.

    The output is a tensor of `shape` in whose memory the elements of the ONNX value lie at `index`.
    """

    loops: Loops
    operands: tuple[Activation | Constant, ...]
    shape: tuple[int, ...]
    index: Array


@dataclass(frozen=True, slots=True)
class Pair:
    """How two operands are walked, and what the output looks like.

    `quants` and `loops` are of the operands in the order in which the layer takes them, which is the given one unless
    `swapped`; `inputs` and `constants` (`operand`, int8, where the second is known) are the layer's. The output is a
    tensor of `shape` in whose memory the elements of the ONNX value lie at `index`.
    """

    loops: Loops
    quants: tuple[QuantParams, QuantParams]
    inputs: tuple[str, ...]
    constants: Mapping[str, Array]
    shape: tuple[int, ...]
    index: Array
    swapped: bool


def operand(ctx: Lowering, node: onnx.NodeProto, position: int, wide: bool = False) -> Activation | Constant:
    """Input `position` of `node`: computed (with `wide` also int16), or a constant of int8 with one scale."""
    constant = ctx.constant(node, position)
    if constant is None:
        return ctx.activation(node, position, wide=wide)
    if constant.scale is None or constant.zero_point is None or constant.scale.size != 1:
        message = f"its constant (input {position}) is not quantized per tensor"
        raise ctx.refuse(node, message, "quantize the whole model")
    if constant.values.min(initial=0) < INT8_MIN or constant.values.max(initial=0) > INT8_MAX:
        raise ctx.refuse(node, f"its constant (input {position}) is wider than 8 bits", "quantize it to int8")
    return constant


def quant(ctx: Lowering, value: Activation | Constant) -> QuantParams:
    """Scale and zero point of an operand."""
    if isinstance(value, Activation):
        return ctx.quant(value)
    assert value.scale is not None
    assert value.zero_point is not None
    return QuantParams(float(np.float32(value.scale.ravel()[0])), int(value.zero_point.ravel()[0]))


def pair(ctx: Lowering, node: onnx.NodeProto, first: Activation | Constant, second: Activation | Constant) -> Pair:
    """The walk over two operands, of which at least one is computed; a copy goes in front where no loops serve."""
    swapped = isinstance(first, Constant)
    if isinstance(first, Constant):
        first, second = second, first
    if not isinstance(first, Activation):
        raise ctx.refuse(node, "both inputs are constants", "fold them when exporting")
    shape = np.broadcast_shapes(first.shape, shape_of(second))
    if first.shape != shape and isinstance(second, Activation) and second.shape == shape:
        first, second, swapped = second, first, not swapped
    found = walk(ctx, node, (first, second))
    tensors = tuple(value.tensor for value in found.operands if isinstance(value, Activation))
    return Pair(
        loops=found.loops,
        quants=(quant(ctx, first), quant(ctx, second)),
        inputs=tensors,
        constants={"operand": second.values.astype(np.int8).ravel()} if isinstance(second, Constant) else {},
        shape=found.shape,
        index=found.index,
        swapped=swapped,
    )


def walk(ctx: Lowering, node: onnx.NodeProto, operands: Sequence[Activation | Constant]) -> Walk:
    """The walk over any number of operands, the first of which is computed; copies go in front where no loops serve."""
    shape = np.broadcast_shapes(*map(shape_of, operands))
    found = _loops(operands, shape)
    if found is None:
        operands = [_in_order(ctx, node, value) if isinstance(value, Activation) else value for value in operands]
        found = _loops(operands, shape)
    if found is None:
        raise ctx.refuse(node, "this mixture of memory orders is not supported", "add a Transpose")
    first = operands[0]
    assert isinstance(first, Activation)
    order = _order(first, shape)
    index = np.empty(order.size, np.int64)
    index[order] = np.arange(order.size)
    memory = ctx.tensors[first.tensor]
    same = first.shape == shape and memory.size == order.size
    return Walk(
        loops=found,
        operands=tuple(operands),
        shape=memory.shape if same else layout.memory_shape(shape),
        index=index.reshape(shape),
    )


def shape_of(value: Activation | Constant) -> tuple[int, ...]:
    """The ONNX shape of an operand."""
    return value.shape if isinstance(value, Activation) else tuple(value.values.shape)


def _order(first: Activation, shape: tuple[int, ...]) -> Array:
    """The output takes the memory order of the first operand where that has its shape, else its own order."""
    return np.argsort(first.index.ravel()) if first.shape == shape else np.arange(math.prod(shape))


def _loops(operands: Sequence[Activation | Constant], shape: tuple[int, ...]) -> Loops | None:
    """The loops over all operands from their first elements on; None where there are none."""
    first = operands[0]
    assert isinstance(first, Activation)
    order = _order(first, shape)
    indexes = [
        value.index if isinstance(value, Activation) else layout.contiguous(value.values.shape) for value in operands
    ]
    offsets = [np.broadcast_to(index, shape).ravel()[order] for index in indexes]
    found = layout.loops(*offsets)
    return None if any(offset[0] for offset in offsets) else found


def _in_order(ctx: Lowering, node: onnx.NodeProto, value: Activation) -> Activation:
    """`value` in a tensor that holds it in its own order."""
    tensor = ctx.arrange(value, value.index, node, layout.memory_shape(value.shape))
    return Activation(tensor, layout.contiguous(value.shape))


def gathered(loops: Loops, constants: Mapping[str, Array], inputs: Sequence[Array]) -> tuple[Array, Array]:
    """The values of both operands (int64, flat) in the order of the output: what references work on."""
    second = constants["operand"] if "operand" in constants else inputs[1]
    first, other = (
        values.ravel()[layout.visit(loops, position)].astype(np.int64)
        for position, values in enumerate((inputs[0], second))
    )
    return first, other


def inplace(view: LayerView) -> tuple[int, ...]:
    """Inputs that are read in the order in which the output is written, by everyone who reads them."""
    names = view.layer.inputs
    in_order = [layout.is_contiguous(layout.visit(view.params.loops, position)) for position in range(len(names))]
    return tuple(
        position
        for position, name in enumerate(names)
        if all(ordered for other, ordered in zip(names, in_order, strict=True) if other == name)
    )


def slides(view: LayerView, times: Sequence[Time | None]) -> Sliding | str:
    """Element by element, beside constants that are the same at all times."""
    loops: Loops = view.params.loops
    operands = len(loops[0]) - 1
    constants = [None] * (operands - len(times))
    places = np.arange(view.output.size)
    moves = [Move(layout.visit(loops, place), places) for place in range(operands)]
    found = by_moves(moves, [*times, *constants])
    if isinstance(found, str):
        return found

    def cut(lengths: Sequence[int], rows: int) -> tuple[Any, Mapping[str, Array]]:
        offsets = [move.offsets for move in found.cut([*lengths, *(0 for _ in constants)], rows)]
        shorter = layout.loops(*offsets)
        if shorter is None or any(each[0] for each in offsets):
            raise InternalError(f"layer {view.layer.name} has no loops over a part of its time")
        return replace(view.params, loops=shorter), view.constants

    return Sliding(found.output, found.reaches[: len(times)], cut)


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Elements, and how often the innermost loop starts."""
    return {"output": view.output.size, "run": view.output.size // view.params.loops[-1][0]}


def source(view: LayerView, template: str, **values: object) -> Source:
    """`template` inside the loops of `broadcast.c.j2`; it finds the first two operands in `a_at` and `b_at`."""
    loops = view.params.loops
    second = "operand" if "operand" in view.constants else "input2"
    places = {"a_at": f"input[{layout.expression(loops, 0)}]", "b_at": f"{second}[{layout.expression(loops, 1)}]"}
    data = {name: view.constants[name] for name in ("operand",) if name in view.constants}
    return Source(template=template, values={"p": view.params, **places, **values}, data=data)


def _divides(view: LayerView) -> bool:
    """Element by element, in the order of memory, over tensors of one shape."""
    same = all(tensor.shape == view.output.shape for tensor in view.inputs)
    return same and all(layout.is_contiguous(layout.visit(view.params.loops, place)) for place in (0, 1))


def _without(view: LayerView, kept: Array) -> tuple[Any, Mapping[str, Array]]:
    constants = {name: array.reshape(-1, kept.size)[:, kept].ravel() for name, array in view.constants.items()}
    order = np.arange(view.output.size // kept.size * int(kept.sum()))
    return replace(view.params, loops=layout.loops(order, order)), constants


CHANNELS = tied(_divides, _without)
"""How layers over two operands lose channels."""


def by_rows(view: LayerView, count: int | None, together: int) -> RowForm | None:
    """Of layers over two computed values of one shape and order."""
    if count is None or "operand" in view.constants or not _divides(view) or view.output.size % count:
        return None
    order = np.arange(view.output.size // count * together)
    params = replace(view.params, loops=layout.loops(order, order))
    return RowForm.of_elements(count, together, params) if count >= together else None
