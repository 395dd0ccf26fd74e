"""Elements of one value or of another, as a known mask says, with broadcasting. ONNX Where; TensorFlow Lite SELECT_V2.

Both values and the output have one scale. Where a model's differ, a table (`lookup`) changes an input's in front. What
is known and lies beyond the output's range, such as the -1e9 or -inf of an attention mask, saturates (see `Masked` in
`nnbuild.contract` for the scale).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, layout
from nnbuild.contract import Case, Kernel, LayerView, Masked, Operator, Quantization, Source
from nnbuild.lower import Activation, Constant, Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import broadcast, extremum
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class WhereParams:
    """Integers of one choice, and the walk over both values and the mask.

    Constants: `mask`, int8, 1 where the first value is taken and 0 where the second is; `operand`, int8, where the
    second is known.
    """

    loops: broadcast.Loops
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Where(condition, x, y) with a known condition; at least one of x and y is computed."""
    condition = ctx.constant(node, 0)
    if condition is None:
        raise ctx.refuse(node, "its condition is computed", "only a constant mask is supported")
    output = ctx.output(node)
    mask = condition.values != 0
    first, second = (_operand(ctx, node, position, output.quant) for position in (1, 2))
    if isinstance(first, Constant) and isinstance(second, Constant):
        raise ctx.refuse(node, "both values are constants", "fold them when exporting")
    shape = np.broadcast_shapes(mask.shape, broadcast.shape_of(first), broadcast.shape_of(second))
    if not isinstance(first, Activation) or (
        first.shape != shape and isinstance(second, Activation) and second.shape == shape
    ):
        first, second, mask = second, first, ~mask
    walk = broadcast.walk(ctx, node, (first, second, Constant(mask.astype(np.int8))))
    second = walk.operands[1]
    constants = {"operand": second.values.ravel()} if isinstance(second, Constant) else {}
    params = WhereParams(walk.loops, output.activation_min, output.activation_max)
    name = ctx.layer(
        "where",
        tuple(value.tensor for value in walk.operands if isinstance(value, Activation)),
        walk.shape,
        output.quant,
        params,
        {**constants, "mask": mask.astype(np.int8).ravel()},
        node,
    )
    ctx.define(output.value, name, walk.index)


def _operand(ctx: Lowering, node: onnx.NodeProto, position: int, quant: QuantParams) -> Activation | Constant:
    """Input `position` with the parameters `quant`: what is known is rounded once, a float saturates."""
    known = ctx.constant(node, position)
    if known is None:
        return extremum.rescaled(ctx, node, ctx.activation(node, position), quant)
    return Constant(quant.quantize(known.real()), np.array(quant.scale), np.array(quant.zero_point))


def reference(params: WhereParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """Two int8 arrays (the second may be the constant), flat -> int8, flat."""
    first, second = broadcast.gathered(params.loops, constants, inputs)
    mask = constants["mask"].ravel()[layout.visit(params.loops, 2)]
    return fixedpoint.saturate(np.where(mask != 0, first, second), params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """One loop for each of `loops`."""
    params = view.params
    clamps = (params.activation_min, params.activation_max) != (INT8_MIN, INT8_MAX)
    mask_at = f"mask[{layout.expression(params.loops, 2)}]"
    source = broadcast.source(view, "where.c.j2", mask_at=mask_at, clamps=clamps)
    return Source(source.template, source.values, {**source.data, "mask": view.constants["mask"]})


def cases() -> Iterable[Case]:
    """Masks of equal shape and broadcast, either value known, both computed, scales, memory orders, a clamp behind."""
    from nnbuild.ops import singles

    a, b, out = QuantParams(0.05, -7), QuantParams(0.021, 19), QuantParams(0.055, 3)
    shape, last = (1, 3, 4, 5), (0, 3, 1, 2)
    ramp = np.arange(60).reshape(shape)
    mask, causal = ramp % 7 < 3, np.tril(np.ones((6, 6), np.bool_))
    constant = (4 * ramp - 120).astype(np.int8)
    lowest, row = np.array(-128, np.int8), constant[:, :, :1, :]
    yield singles.chosen("where_same", mask, [shape, shape], [a, a], a)
    yield singles.chosen("where_rescaled", mask, [shape, shape], [a, b], out)
    yield singles.chosen("where_clamped", mask, [shape, shape], [a, a], a, ("Clip", -1.0, 3.0))
    yield singles.chosen("where_causal", causal, [(1, 2, 6, 6), lowest], [a, a], a)
    yield singles.chosen("where_fill_saturates", causal, [(1, 6, 6), np.array(100, np.int8)], [b, a], b)
    yield singles.chosen("where_constant_first", mask[:, :1], [row, shape], [b, a], out, ("Relu",))
    yield singles.chosen("where_channels", mask[0, :, :1, :1], [(1, 3, 1, 1), shape], [a, a], a)
    yield singles.chosen("where_last", mask[:, :, :1, :], [(1, 4, 5, 3), constant], [a, b], a, orders=[last])
    yield singles.chosen("where_two_orders", mask, [(1, 4, 5, 3), shape], [a, a], a, orders=[last])
    yield singles.chosen("where_wide_mask", mask, [(1, 1, 4, 1), (5,)], [a, b], a)


OPERATOR = Operator(
    name="where",
    summary="one value or another, as a constant mask says",
    onnx=("Where",),
    lower=lower,
    quantization=lambda node: Quantization(output=Masked(), fuses_clamp=True, inputs_like_output=True),
    params=WhereParams,
    reference=reference,
    inplace=broadcast.inplace,
    slides=broadcast.slides,
    kernels=(Kernel("direct", render, trips=broadcast.trips),),
    cases=cases,
)
