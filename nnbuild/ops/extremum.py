"""What `minimum` and `maximum` share: the smaller or larger of two values. TensorFlow Lite MINIMUM and MAXIMUM.

Both inputs and the output have one scale there. Where a model's differ, a table (`lookup`) changes an input's before,
or the result's behind. That is exact: a change of scale keeps the order, so it may come before the choice or after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from nnbuild import fixedpoint
from nnbuild.contract import Case, LayerView, Quantization, Source
from nnbuild.lower import Activation, Constant, Lowering, Output
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import broadcast, lookup
from nnbuild.target import Target

QUANTIZATION = Quantization(fuses_clamp=True, inputs_like_output=True)


@dataclass(frozen=True, slots=True)
class ExtremumParams:
    """Integers of one choice. Where only one input is computed, the other is the constant `operand` (int8)."""

    loops: broadcast.Loops
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto, op: str) -> None:
    """Min or Max of any number of values, as a chain of layers `op`; at least one value is computed."""
    operands = [broadcast.operand(ctx, node, position) for position in range(len(node.input))]
    if len(operands) < 2:
        raise ctx.refuse(node, "it has one input", "leave the node out")
    # Computed values first, so that every step has one.
    operands.sort(key=lambda value: isinstance(value, Constant))
    output = ctx.output(node)
    quants = {broadcast.quant(ctx, value) for value in operands}
    common = next(iter(quants)) if len(quants) == 1 else output.quant
    inside = output if common == output.quant else replace(output, activation_min=INT8_MIN, activation_max=INT8_MAX)
    values = [rescaled(ctx, node, value, common) for value in operands]
    result = values[0]
    for position, value in enumerate(values[1:], 2):
        clamp = inside if position == len(values) else replace(inside, activation_min=INT8_MIN, activation_max=INT8_MAX)
        result = _step(ctx, node, op, result, value, common, clamp)
    assert isinstance(result, Activation)
    if common != output.quant:
        low, high = output.activation_min, output.activation_max
        result = lookup.apply(ctx, node, result, output.quant, lookup.rescaling(common, output.quant, low, high))
    ctx.define(output.value, result.tensor, result.index)


def rescaled(
    ctx: Lowering, node: onnx.NodeProto, value: Activation | Constant, quant: QuantParams
) -> Activation | Constant:
    """`value` with the parameters `quant`: a constant at once, a computed value by a table."""
    old = broadcast.quant(ctx, value)
    if old == quant:
        return value
    values = lookup.rescaling(old, quant, INT8_MIN, INT8_MAX)
    if isinstance(value, Activation):
        return lookup.apply(ctx, node, value, quant, values)
    return Constant(values[value.values - INT8_MIN], np.array(quant.scale), np.array(quant.zero_point))


def _step(
    ctx: Lowering,
    node: onnx.NodeProto,
    op: str,
    first: Activation | Constant,
    second: Activation | Constant,
    quant: QuantParams,
    clamp: Output,
) -> Activation:
    walk = broadcast.pair(ctx, node, first, second)
    params = ExtremumParams(walk.loops, clamp.activation_min, clamp.activation_max)
    return Activation(ctx.layer(op, walk.inputs, walk.shape, quant, params, walk.constants, node), walk.index)


def reference(
    choose: Callable[[Array, Array], Array],
    params: ExtremumParams,
    constants: Mapping[str, Array],
    inputs: Sequence[Array],
) -> Array:
    """Two int8 arrays (the second may be the constant), flat -> int8, flat."""
    chosen = choose(*broadcast.gathered(params.loops, constants, inputs))
    return fixedpoint.saturate(chosen, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target, sign: str) -> Source:
    """One loop for each of `loops`; `sign` is the comparison by which the first input is taken."""
    clamps = (view.params.activation_min, view.params.activation_max) != (INT8_MIN, INT8_MAX)
    return broadcast.source(view, "extremum.c.j2", sign=sign, clamps=clamps)


def cases(kind: str) -> Iterable[Case]:
    """Equal and different scales, more than two values, broadcasting, constants, memory orders, a clamp behind."""
    from nnbuild.ops import singles

    a, b, out = QuantParams(0.05, -7), QuantParams(0.021, 19), QuantParams(0.055, 3)
    last, op = (0, 3, 1, 2), {"Min": "minimum", "Max": "maximum"}[kind]
    yield singles.several(f"{op}_same", kind, [(1, 5, 3, 4), (1, 5, 3, 4)], [a, a], a)
    yield singles.several(f"{op}_one_rescaled", kind, [(1, 300), (1, 300)], [a, b], a)
    yield singles.several(f"{op}_all_rescaled", kind, [(1, 300), (1, 300)], [a, b], out)
    yield singles.several(f"{op}_rescaled_behind", kind, [(1, 300), (1, 300)], [a, a], b, ("Clip", -0.5, 1.5))
    yield singles.several(f"{op}_clamped", kind, [(1, 300), (1, 300)], [a, a], a, ("Clip", -1.0, 3.0))
    yield singles.several(f"{op}_three", kind, [(1, 3, 4, 5), (1, 3, 1, 1), (5,)], [a, a, b], a, ("Relu",))
    yield singles.several(f"{op}_channels", kind, [(1, 4, 5, 3), (1, 3, 1, 1)], [a, a], a, orders=[last])
    constant = np.arange(-120, 120, 4, dtype=np.int8).reshape(1, 3, 4, 5)
    yield singles.several(f"{op}_constant", kind, [constant, (1, 3, 4, 5)], [a, a], a)
    yield singles.several(f"{op}_constant_rescaled", kind, [(1, 4, 5, 3), constant], [a, b], a, orders=[last])
