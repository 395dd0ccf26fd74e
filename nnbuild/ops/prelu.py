"""Positive values as they are, negative ones times a known slope. ONNX PRelu; TensorFlow Lite PRELU.

A single slope is a LeakyRelu, and so a table (see `nnbuild.passes.unary_forms`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.kernels.exact_requantize import single_requantization
from nnbuild.kernels.upper_half import upper
from nnbuild.lower import Constant, Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import broadcast
from nnbuild.ops.mul import MAX_MULTIPLIER
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class PReluParams:
    """Integers of one layer. Constant: `operand`, the slopes, int8.

    `multipliers` and `shifts`: of values from zero on, and of the product of a negative value and its slope.
    """

    loops: broadcast.Loops
    input_zero_point: int
    slope_zero_point: int
    multipliers: tuple[int, int]
    shifts: tuple[int, int]
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """PRelu(x, slope) with known slopes that broadcast to x."""
    activation, slope = ctx.activation(node), broadcast.operand(ctx, node, 1)
    if not isinstance(slope, Constant):
        raise ctx.refuse(node, "its slopes are not constant")
    walk = broadcast.pair(ctx, node, activation, slope)
    if walk.index.shape != activation.shape:
        raise ctx.refuse(node, f"slopes of shape {list(slope.values.shape)} do not fit {list(activation.shape)}")
    output = ctx.output(node)
    ratios = walk.quants[0].scale / output.quant.scale, walk.quants[0].scale * walk.quants[1].scale / output.quant.scale
    scaled = [fixedpoint.quantize_multiplier(min(ratio, MAX_MULTIPLIER)) for ratio in ratios]
    params = PReluParams(
        loops=walk.loops,
        input_zero_point=walk.quants[0].zero_point,
        slope_zero_point=walk.quants[1].zero_point,
        multipliers=(scaled[0][0], scaled[1][0]),
        shifts=(scaled[0][1], scaled[1][1]),
        output_zero_point=output.quant.zero_point,
        activation_min=output.activation_min,
        activation_max=output.activation_max,
    )
    name = ctx.layer("prelu", walk.inputs, walk.shape, output.quant, params, walk.constants, node)
    ctx.define(output.value, name, walk.index)


def reference(params: PReluParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """int8, flat -> int8, flat."""
    values, slopes = broadcast.gathered(params.loops, constants, inputs)
    values = values - params.input_zero_point
    products = values * (slopes - params.slope_zero_point)
    positive, negative = (
        fixedpoint.requantize(part, multiplier, shift)
        for part, multiplier, shift in zip((values, products), params.multipliers, params.shifts, strict=True)
    )
    result = np.where(values >= 0, positive, negative) + params.output_zero_point
    return fixedpoint.saturate(result, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """One loop for each of `loops`; one requantization for each element."""
    params: PReluParams = view.params
    slopes = [int(slope) - params.slope_zero_point for slope in (INT8_MIN, INT8_MAX)]
    products = [(INT8_MIN - params.input_zero_point) * slope for slope in slopes]
    reaches = (0, INT8_MAX - params.input_zero_point), (min(0, *products), max(0, *products))
    forms = []
    for multiplier, shift, reach in zip(params.multipliers, params.shifts, reaches, strict=True):
        line, own = single_requantization(params, multiplier, shift, reach, target)
        whole = None if target.armv6m else upper(params, multiplier, shift, reach)
        forms.append({"line": line, "own": own, "upper": whole})
    return broadcast.source(view, "prelu.c.j2", forms=forms)


def cases() -> Iterable[Case]:
    """A slope for each channel, for each element, above one and below zero; saturation; another memory order."""
    from nnbuild.ops import singles

    quant, slope, out = QuantParams(0.05, -7), QuantParams(0.01, 19), QuantParams(0.07, 3)
    slopes = np.array([-128, 127, 19, 5], np.int8)
    yield singles.several("prelu_channels", "PRelu", [(1, 4, 3, 5), slopes.reshape(4, 1, 1)], [quant, slope], out)
    yield singles.several(
        "prelu_channels_last", "PRelu", [(1, 3, 5, 4), slopes.reshape(4, 1, 1)], [quant, slope], out,
        orders=[(0, 3, 1, 2)],
    )  # fmt: skip
    yield singles.several("prelu_vector", "PRelu", [(1, 4), slopes], [quant, slope], QuantParams(0.001, 0))
    each = np.arange(-30, 30, dtype=np.int8).reshape(1, 3, 4, 5)
    yield singles.several("prelu_each", "PRelu", [(1, 3, 4, 5), each], [quant, slope], out, ("Clip", -0.5, 1.0))


OPERATOR = Operator(
    name="prelu",
    summary="negative values times a constant slope",
    onnx=("PRelu",),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True),
    params=PReluParams,
    reference=reference,
    inplace=broadcast.inplace,
    slides=broadcast.slides,
    kernels=(Kernel("direct", render, trips=broadcast.trips),),
    cases=cases,
)
