"""Product of two values, or of a value and a constant, with broadcasting. ONNX Mul; TensorFlow Lite MUL.

A constant that is one number, or one for each channel, is mostly gone before: it went into weights, or became a
depthwise convolution (see `nnbuild.passes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.intervals import corners
from nnbuild.kernels import cmsis_nn
from nnbuild.kernels.exact_requantize import single_requantization
from nnbuild.kernels.upper_half import upper
from nnbuild.lower import Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import broadcast, lookup
from nnbuild.target import Target

MAX_MULTIPLIER = 2.0**13
"""A product of 1 saturates any int8 here already, and the largest product, 255 * 255, still fits an int32.

Also with single rounding on MVE, where CMSIS-NN shifts the product one bit further to the left.
"""


@dataclass(frozen=True, slots=True)
class MulParams:
    """Integers of one product.

    Where only one input is computed, the other is the constant `operand` (int8).
    """

    loops: broadcast.Loops
    zero_points: tuple[int, int]
    output_multiplier: int
    output_shift: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Mul(a, b); at least one of them is computed. The multiplier is computed in double, as TFLite Micro does."""
    if lookup.arithmetic(ctx, node):
        return
    walk = broadcast.pair(ctx, node, broadcast.operand(ctx, node, 0), broadcast.operand(ctx, node, 1))
    output = ctx.output(node)
    a, b, out = (float(np.float32(quant.scale)) for quant in (*walk.quants, output.quant))
    multiplier, shift = fixedpoint.quantize_multiplier(min(a * b / out, MAX_MULTIPLIER))
    params = MulParams(
        loops=walk.loops,
        zero_points=(walk.quants[0].zero_point, walk.quants[1].zero_point),
        output_multiplier=multiplier,
        output_shift=shift,
        output_zero_point=output.quant.zero_point,
        activation_min=output.activation_min,
        activation_max=output.activation_max,
    )
    name = ctx.layer("mul", walk.inputs, walk.shape, output.quant, params, walk.constants, node)
    ctx.define(output.value, name, walk.index)


def reference(params: MulParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """Two int8 arrays (the second may be the constant), flat -> int8, flat."""
    a, b = broadcast.gathered(params.loops, constants, inputs)
    product = (a - params.zero_points[0]) * (b - params.zero_points[1])
    scaled = fixedpoint.requantize(product, params.output_multiplier, params.output_shift)
    return fixedpoint.saturate(scaled + params.output_zero_point, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """One loop for each of `loops`."""
    params: MulParams = view.params
    ends = [(INT8_MIN - zero_point, INT8_MAX - zero_point) for zero_point in params.zero_points]
    products = [a * b for a in ends[0] for b in ends[1]]
    reach = (min(products), max(products))
    line, own = single_requantization(params, params.output_multiplier, params.output_shift, reach, target)
    whole = None if target.armv6m else upper(params, params.output_multiplier, params.output_shift, reach)
    return broadcast.source(view, "mul.c.j2", line=line, own=own, upper=whole)


def cases() -> Iterable[Case]:
    """Equal shapes, squeeze-and-excite, broadcast values and constants, mixed memory orders, extreme multipliers."""
    from nnbuild.ops import singles

    a, b = QuantParams(0.05, -7), QuantParams(0.021, 19)
    out, last = QuantParams(0.07, 3), (0, 3, 1, 2)
    yield singles.several("mul_same", "Mul", [(1, 5, 3, 4), (1, 5, 3, 4)], [a, b], out)
    yield singles.several("mul_relu6", "Mul", [(1, 48), (1, 48)], [a, b], QuantParams(0.06, -90), ("Clip", 0.0, 6.0))
    yield singles.several("mul_saturates", "Mul", [(1, 33), (1, 33)], [a, a], QuantParams(0.001, 0))
    # Both at the far end of their zero points: the largest product there is.
    ends = [QuantParams(0.05, -128), QuantParams(0.02, 127)]
    yield singles.several("mul_largest", "Mul", [(1, 40), (1, 40)], ends, QuantParams(0.1, 127))
    yield singles.several("mul_exact", "Mul", [(1, 64), (1, 64)], [QuantParams(0.125, 1)] * 2, QuantParams(0.25, 2))
    yield singles.several("mul_huge_multiplier", "Mul", [(1, 31), (1, 31)], ends, QuantParams(1e-9, 5))
    yield singles.several("mul_tiny_multiplier", "Mul", [(1, 31), (1, 31)], [QuantParams(1e-6, 3)] * 2, out)
    gate = QuantParams(1 / 256, -128)
    yield singles.several("mul_gate", "Mul", [(1, 4, 5, 3), (1, 3, 1, 1)], [a, gate], a, orders=[last])
    yield singles.several("mul_mask", "Mul", [(1, 4, 5, 3), (1, 1, 4, 5)], [a, gate], a, orders=[last])
    yield singles.several("mul_columns", "Mul", [(5,), (1, 3, 4, 5)], [b, a], out)
    yield singles.several("mul_outer", "Mul", [(1, 3, 1, 1), (1, 1, 4, 5)], [a, b], out)
    constant = np.arange(-30, 30, dtype=np.int8).reshape(1, 3, 4, 5)
    yield singles.several("mul_constant", "Mul", [(1, 3, 4, 5), constant], [a, b], out)
    yield singles.several("mul_constant_rows", "Mul", [constant[:, :1, :, :1], (1, 3, 4, 5)], [b, a], out)
    yield singles.repeated("mul_square", "Mul", (1, 256), 2, a, out)


OPERATOR = Operator(
    name="mul",
    summary="product of two values, or of a value and a constant",
    onnx=("Mul",),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True),
    params=MulParams,
    reference=reference,
    bounds=corners(reference),
    channels=broadcast.CHANNELS,
    rows=broadcast.by_rows,
    inplace=broadcast.inplace,
    slides=broadcast.slides,
    kernels=(
        Kernel("direct", render, trips=broadcast.trips, outruns_library=lambda target: not target.mve),
        cmsis_nn.MUL,
    ),
    cases=cases,
)
