"""Addition of two values, or of a value and a constant, with broadcasting. ONNX Add; TensorFlow Lite ADD."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, layout
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.kernels import cmsis_nn
from nnbuild.lower import Activation, Constant, Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.target import Target

LEFT_SHIFT = 20
"""Bits that both inputs gain before they are scaled (TensorFlow Lite, `add.cc`)."""


@dataclass(frozen=True, slots=True)
class AddParams:
    """Integers of one addition.

    `loops` are (count, stride of input 1, stride of input 2), outermost first; the output is written in order. Where
    only one input is computed, the other is the constant `operand` (int8).
    """

    loops: tuple[tuple[int, int, int], ...]
    zero_points: tuple[int, int]
    multipliers: tuple[int, int]
    shifts: tuple[int, int]
    output_multiplier: int
    output_shift: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Add(a, b); at least one of them is computed."""
    operands = [_operand(ctx, node, position) for position in (0, 1)]
    if isinstance(operands[0], Constant):
        operands.reverse()
    first, second = operands
    if not isinstance(first, Activation):
        raise ctx.refuse(node, "both inputs are constants", "fold them when exporting")
    shape = np.broadcast_shapes(first.shape, _shape(second))
    if first.shape != shape and isinstance(second, Activation) and second.shape == shape:
        first, second = second, first
    # The output takes the memory order of the first input where that has its shape, else its own order.
    order = np.argsort(first.index.ravel()) if first.shape == shape else np.arange(int(np.prod(shape)))
    offsets = [np.broadcast_to(_index(value), shape).ravel()[order] for value in (first, second)]
    quants = [_quant(ctx, value) for value in (first, second)]
    found = layout.loops(*offsets)
    if found is None or offsets[0][0] or offsets[1][0]:
        raise ctx.refuse(node, "this mixture of memory orders is not supported", "add a Transpose")
    output = ctx.output(node)
    params = _params(found, quants, output.quant, output.activation_min, output.activation_max)
    constants: dict[str, Array] = {}
    inputs = [first.tensor]
    if isinstance(second, Activation):
        inputs.append(second.tensor)
    else:
        constants["operand"] = second.values.astype(np.int8).ravel()
    index = np.empty(int(np.prod(shape)), np.int64)
    index[order] = np.arange(index.size)
    memory = ctx.tensors[first.tensor].shape if first.shape == shape else tuple(shape[1:])
    name = ctx.layer("add", tuple(inputs), memory, output.quant, params, constants, node)
    ctx.define(output.value, name, index.reshape(shape))


def _operand(ctx: Lowering, node: onnx.NodeProto, position: int) -> Activation | Constant:
    constant = ctx.constant(node, position)
    if constant is None:
        return ctx.activation(node, position)
    if constant.scale is None or constant.zero_point is None or constant.scale.size != 1:
        raise ctx.refuse(
            node, f"its constant (input {position}) is not quantized per tensor", "quantize the whole model"
        )
    if np.abs(constant.values).max(initial=0) > 128:
        raise ctx.refuse(node, f"its constant (input {position}) is wider than 8 bits", "quantize it to int8")
    return constant


def _shape(value: Activation | Constant) -> tuple[int, ...]:
    return value.shape if isinstance(value, Activation) else tuple(value.values.shape)


def _index(value: Activation | Constant) -> Array:
    return value.index if isinstance(value, Activation) else layout.contiguous(value.values.shape)


def _quant(ctx: Lowering, value: Activation | Constant) -> QuantParams:
    if isinstance(value, Activation):
        return ctx.quant(value)
    assert value.scale is not None
    assert value.zero_point is not None
    return QuantParams(float(value.scale.ravel()[0]), int(value.zero_point.ravel()[0]))


def _params(
    found: tuple[layout.Dim, ...], quants: list[QuantParams], output: QuantParams, low: int, high: int
) -> AddParams:
    """Scales relative to twice the larger one, as TensorFlow Lite prepares them (`AddParams`, double precision)."""
    scales = [float(np.float32(quant.scale)) for quant in quants]
    twice = 2.0 * max(scales)
    inputs = [fixedpoint.quantize_multiplier(scale / twice) for scale in scales]
    out = fixedpoint.quantize_multiplier(twice / ((1 << LEFT_SHIFT) * float(np.float32(output.scale))))
    return AddParams(
        loops=tuple((dim[0], dim[1], dim[2]) for dim in found),
        zero_points=(quants[0].zero_point, quants[1].zero_point),
        multipliers=(inputs[0][0], inputs[1][0]),
        shifts=(inputs[0][1], inputs[1][1]),
        output_multiplier=out[0],
        output_shift=out[1],
        output_zero_point=output.zero_point,
        activation_min=low,
        activation_max=high,
    )


def reference(params: AddParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """Two int8 arrays (the second may be the constant), flat -> int8, flat."""
    second = constants["operand"] if "operand" in constants else inputs[1]
    scaled = []
    for position, values in enumerate((inputs[0], second)):
        gathered = values.ravel()[layout.visit(params.loops, position)].astype(np.int64)
        shifted = (gathered - params.zero_points[position]) << LEFT_SHIFT
        scaled.append(fixedpoint.requantize(shifted, params.multipliers[position], params.shifts[position]))
    total = fixedpoint.requantize(scaled[0] + scaled[1], params.output_multiplier, params.output_shift)
    return fixedpoint.saturate(total + params.output_zero_point, params.activation_min, params.activation_max)


def inplace(view: LayerView) -> tuple[int, ...]:
    """Inputs that are read in the order in which the output is written."""
    order = [layout.visit(view.params.loops, position) for position in range(len(view.inputs))]
    return tuple(position for position, offsets in enumerate(order) if layout.is_contiguous(offsets))


def render(view: LayerView, target: Target) -> Source:
    """One loop for each of `loops`."""
    constants = {"operand": view.constants["operand"]} if "operand" in view.constants else {}
    second = "operand" if "operand" in view.constants else "input2"
    values = {"p": view.params, "left_shift": LEFT_SHIFT, "second_name": second}
    values |= {"first": layout.expression(view.params.loops, 0), "second": layout.expression(view.params.loops, 1)}
    return Source(template="add.c.j2", values=values, data=constants)


def cases() -> Iterable[Case]:
    """Equal shapes, broadcast values and constants, mixed memory orders, saturation."""
    from nnbuild.ops import singles

    a, b = QuantParams(0.05, -7), QuantParams(0.021, 19)
    out = QuantParams(0.055, 3)
    yield singles.binary("add_same", "Add", [(1, 5, 3, 4), (1, 5, 3, 4)], [a, b], out)
    yield singles.binary("add_relu", "Add", [(1, 16), (1, 16)], [a, b], QuantParams(0.06, -128), clamp=("Relu",))
    yield singles.binary("add_saturates", "Add", [(1, 33), (1, 33)], [a, a], QuantParams(0.01, 0))
    yield singles.binary("add_channels", "Add", [(1, 3, 4, 5), (1, 3, 1, 1)], [a, b], out)
    yield singles.binary("add_columns", "Add", [(1, 3, 4, 5), (5,)], [a, b], out)
    yield singles.binary("add_outer", "Add", [(1, 3, 1, 1), (1, 1, 4, 5)], [a, b], out)
    yield singles.binary("add_tiny_scale", "Add", [(1, 9), (1, 9)], [QuantParams(1e-6, 0), b], b)
    constant = np.arange(-30, 30, dtype=np.int8).reshape(1, 3, 4, 5)
    yield singles.binary("add_constant", "Add", [(1, 3, 4, 5), constant], [a, b], out)
    yield singles.binary("add_constant_channel", "Add", [constant[:, :, :1, :1], (1, 3, 4, 5)], [b, a], out)


OPERATOR = Operator(
    name="add",
    summary="sum of two values, or of a value and a constant",
    onnx=("Add",),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True),
    params=AddParams,
    reference=reference,
    inplace=inplace,
    kernels=(Kernel("direct", render), cmsis_nn.ADD),
    cases=cases,
)
