"""Values side by side along an axis: each is copied into its place. ONNX Concat; TensorFlow Lite CONCATENATION.

A value of another scale than the output's is copied through a table of 256 entries; so is every value where a clamp
stands behind. Values that differ in memory order are copied in the order of the output: channels last where one of
them is, else that of the ONNX value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import layout, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Run, Source
from nnbuild.intervals import monotone
from nnbuild.kernels import cmsis_nn
from nnbuild.lower import Activation, Constant, Lowering, Output
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import broadcast, lookup
from nnbuild.streams.sliding import Move, Sliding, Time, by_moves
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class ConcatPart:
    """One copy.

    `source` is "input0", "input1", ... or the name of a constant (int8, in the order of the output). `loops` are
    (count, source stride, output stride), outermost first, from `source_start` and `output_start` on. `table` names
    the constant (int8[256], indexed by value + 128) that the values go through; "" for none.
    """

    source: str
    source_start: int
    output_start: int
    loops: tuple[tuple[int, int, int], ...]
    table: str


@dataclass(frozen=True, slots=True)
class ConcatParams:
    """Elements of the output, and the copies that together write each of them once."""

    size: int
    parts: tuple[ConcatPart, ...]


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Concat(a, b, ...) along any axis; at least one value is computed. Inputs of one scale give it to the output."""
    values = [broadcast.operand(ctx, node, position) for position in range(len(node.input))]
    computed = [value for value in values if isinstance(value, Activation)]
    if not computed:
        raise ctx.refuse(node, "all inputs are constants", "fold them when exporting")
    shapes = [value.shape if isinstance(value, Activation) else tuple(value.values.shape) for value in values]
    axis = int(qdq.attribute(node, "axis", 1)) % len(shapes[0])
    ends = [int(end) for end in np.cumsum([shape[axis] for shape in shapes])]
    shape = (*shapes[0][:axis], ends[-1], *shapes[0][axis + 1 :])
    scales = {broadcast.quant(ctx, value) if isinstance(value, Constant) else ctx.quant(value) for value in values}
    output = ctx.output(node, default=scales.pop() if len(scales) == 1 else None)
    memory, index = _memory(computed, shape)
    constants: dict[str, Array] = {}
    inputs: list[str] = []
    parts: list[ConcatPart] = []
    for value, end in zip(values, ends, strict=True):
        place = index.take(range(end - _length(value, axis), end), axis).ravel()
        order = np.argsort(place)
        if isinstance(value, Constant):
            name, table, offsets = f"part{len(parts)}", "", np.arange(order.size)
            constants[name] = _requantized(ctx, value, output).ravel()[order]
        else:
            name, table = f"input{len(inputs)}", _table(ctx, value, output, constants)
            tensor, offsets = _walkable(ctx, node, value, order, place[order])
            inputs.append(tensor)
        parts.append(_part(name, offsets, place[order], table))
    params = ConcatParams(index.size, tuple(parts))
    name = ctx.layer("concat", tuple(inputs), memory, output.quant, params, constants, node)
    ctx.define(output.value, name, index)


def _walkable(ctx: Lowering, node: onnx.NodeProto, value: Activation, order: Array, places: Array) -> tuple[str, Array]:
    """The tensor and the offsets to copy to `places`: those of `value`, or a copy's where no loops reach them."""
    offsets = value.index.ravel()[order]
    if layout.loops(offsets, places) is not None:
        return value.tensor, offsets
    return ctx.arrange(value, offsets, node, (order.size,)), np.arange(order.size)


def _length(value: Activation | Constant, axis: int) -> int:
    return int((value.index if isinstance(value, Activation) else value.values).shape[axis])


def _memory(computed: Sequence[Activation], shape: tuple[int, ...]) -> tuple[tuple[int, ...], Array]:
    """Shape of the output's tensor, and where in it the elements of the ONNX value of `shape` lie."""
    last = (shape[0], *shape[2:], shape[1]) if len(shape) in (3, 4) else shape
    if last == shape or not any(_is_channels_last(value.index) for value in computed):
        return layout.memory_shape(shape), layout.contiguous(shape)
    return layout.memory_shape(last), np.moveaxis(layout.contiguous(last), -1, 1)


def _is_channels_last(index: Array) -> bool:
    return bool((np.diff(layout.channels_last(index).ravel()) > 0).all())


def _requantized(ctx: Lowering, value: Constant, output: Output) -> Array:
    """The constant's values (int8) with the parameters of the output, clamped as it is."""
    table = lookup.rescaling(broadcast.quant(ctx, value), output.quant, output.activation_min, output.activation_max)
    return np.asarray(table[value.values.astype(np.int64) - INT8_MIN])


def _table(ctx: Lowering, value: Activation, output: Output, constants: dict[str, Array]) -> str:
    """The name in `constants` of the table that `value` needs; values of one scale share it."""
    limits = (output.activation_min, output.activation_max)
    if ctx.quant(value) == output.quant and limits == (INT8_MIN, INT8_MAX):
        return ""
    table = lookup.rescaling(ctx.quant(value), output.quant, *limits)
    for name, other in constants.items():
        if name.startswith("table") and np.array_equal(other, table):
            return name
    name = f"table{sum(other.startswith('table') for other in constants)}"
    constants[name] = table
    return name


def _part(source: str, offsets: Array, places: Array, table: str) -> ConcatPart:
    """The copy of the elements at `offsets` to `places`, which ascend."""
    found = layout.loops(offsets, places)
    assert found is not None  # a block of an array, in its order, is nested loops
    loops = tuple((dim[0], dim[1], dim[2]) for dim in found)
    return ConcatPart(source, int(offsets[0]), int(places[0]), loops, table)


def reference(params: ConcatParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """int8 arrays, flat -> int8, flat."""
    output = np.zeros(params.size, np.int8)
    sources = {**constants, **{f"input{number}": values for number, values in enumerate(inputs)}}
    for part in params.parts:
        values = sources[part.source].ravel()[layout.visit(part.loops, 0) + part.source_start]
        if part.table:
            values = constants[part.table][values.astype(np.int64) - INT8_MIN]
        output[layout.visit(part.loops, 1) + part.output_start] = values
    return output


def runs(view: LayerView) -> tuple[Run, ...]:
    """All inputs, where each is copied in one piece and as it is."""
    found = []
    for part in view.params.parts:
        ((count, *strides),) = part.loops if len(part.loops) == 1 else ((0, 0, 0),)
        if not part.source.startswith("input") or part.table or not count or (count > 1 and strides != [1, 1]):
            return ()
        found.append(Run(int(part.source.removeprefix("input")), part.source_start, part.output_start, count))
    return tuple(found)


def slides(view: LayerView, times: Sequence[Time | None]) -> Sliding | str:
    """Values side by side at each point in time."""
    params: ConcatParams = view.params
    names = [f"input{number}" for number in range(len(times))]
    if any(part.source not in names for part in params.parts):
        return "it joins a constant"
    moves = [
        Move(layout.visit(part.loops, 0) + part.source_start, layout.visit(part.loops, 1) + part.output_start)
        for part in params.parts
    ]
    own = [names.index(part.source) for part in params.parts]
    found = by_moves(moves, [times[number] for number in own], elastic=True)
    if isinstance(found, str):
        return found

    def cut(lengths: Sequence[int], rows: int) -> tuple[ConcatParams, Mapping[str, Array]]:
        newest = found.cut([lengths[number] for number in own], rows)
        parts = [
            _part(part.source, move.offsets, move.places, part.table)
            for part, move in zip(params.parts, newest, strict=True)
        ]
        return ConcatParams(sum(move.places.size for move in newest), tuple(parts)), view.constants

    reaches = [found.reaches[own.index(number)] for number in range(len(times))]
    return Sliding(found.output, tuple(reaches), cut)


def render(view: LayerView, target: Target) -> Source:
    """Nested loops for each part."""
    names = {f"input{number}": "input" if number == 0 else f"input{number + 1}" for number in range(len(view.inputs))}
    parts = [
        {
            "loops": part.loops,
            "source": names.get(part.source, part.source),
            "from": layout.expression(part.loops, 0, part.source_start),
            "to": layout.expression(part.loops, 1, part.output_start),
            "table": part.table,
        }
        for part in view.params.parts
    ]
    return Source(template="concat.c.j2", values={"parts": parts}, data=dict(view.constants))


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Copies, how often their innermost loops start, and elements, through a table or not."""
    found = {"part": len(view.params.parts), "run": 0, "output": 0, "looked_up": 0}
    for part in view.params.parts:
        size = math.prod(dim[0] for dim in part.loops)
        found["run"] += size // part.loops[-1][0]
        found["looked_up" if part.table else "output"] += size
    return found


def cases() -> Iterable[Case]:
    """Each axis, many inputs, one twice, memory orders, scales, constants, a clamp behind."""
    from nnbuild.ops import singles

    a, b, out = QuantParams(0.05, -7), QuantParams(0.021, 19), QuantParams(0.055, 3)
    last = (0, 3, 1, 2)

    def case(
        name: str,
        operands: Sequence[Sequence[int] | Array],
        quants: Sequence[QuantParams],
        output: QuantParams,
        axis: int,
        clamp: tuple[object, ...] = (),
        orders: Sequence[Sequence[int]] = (),
    ) -> Case:
        return singles.several(f"concat_{name}", "Concat", operands, quants, output, clamp, orders, {"axis": axis})

    yield case("features", [(1, 7), (1, 260)], [a, a], a, 1)
    yield case("channels", [(1, 3, 4, 5), (1, 2, 4, 5)], [a, b], out, 1)
    yield case("channels_last", [(1, 4, 5, 3), (1, 4, 5, 1), (1, 4, 5, 6)], [a, b, a], a, 1, orders=[last] * 3)
    yield case("mixed_orders", [(1, 3, 4, 5), (1, 4, 5, 2)], [a, a], a, 1, orders=[(), last])
    yield case("rows", [(1, 4, 5, 3), (1, 2, 5, 3)], [a, b], b, 2, orders=[last] * 2)
    yield case("columns", [(1, 3, 4, 5), (1, 3, 4, 1)], [a, a], out, -1)
    yield case("1d", [(1, 3, 9), (1, 2, 9)], [a, b], a, 1)
    yield case("clamped", [(1, 256), (1, 9)], [a, b], a, 1, clamp=("Clip", -1.0, 2.0))
    yield case("one", [(1, 256)], [a], b, 1)
    constant = np.arange(-120, 120, 4, dtype=np.int8).reshape(1, 3, 4, 5)
    yield case("constant", [(1, 4, 5, 3), constant], [a, b], a, 1, orders=[last])
    yield case("constant_first", [constant, (1, 3, 4, 5)], [a, a], a, 3, clamp=("Relu",))
    yield singles.repeated("concat_twice", "Concat", (1, 2, 4, 5), 3, a, out, {"axis": 1})


OPERATOR = Operator(
    name="concat",
    summary="values side by side along an axis",
    onnx=("Concat",),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True, inputs_like_output=True),
    params=ConcatParams,
    reference=reference,
    runs=runs,
    bounds=monotone(reference),  # its tables change scales, and rise
    slides=slides,
    kernels=(Kernel("direct", render, trips=trips), cmsis_nn.CONCAT),
    cases=cases,
)
