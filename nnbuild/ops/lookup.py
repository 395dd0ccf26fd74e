"""Elementwise functions of one int8 value: a table of 256 entries, whatever the function. Also a change of scale.

One rule makes every table: entry q = round(f(scale_in * (q - zero_in)) / scale_out) + zero_out, halves away from zero,
saturated. ONNX definitions; alpha, beta, gamma are the node's attributes with the defaults of the specification.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from nnbuild import fixedpoint, layout, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, RowForm, Source, tied
from nnbuild.intervals import Interval
from nnbuild.lower import Activation, Lowering
from nnbuild.network import INT8_MAX, INT8_MIN, Array, Layer, QuantParams
from nnbuild.streams.sliding import by_element
from nnbuild.target import Target

Function = Callable[[float, onnx.NodeProto], float]


UNROLLED_FROM = 64
"""Elements from which on four are taken at a time."""

_TINY = 1e-30
"""In place of zero where a function has a pole: its value there saturates."""


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _exponential(x: float) -> float:
    return math.exp(min(x, 700.0))


def _alpha(node: onnx.NodeProto, default: float) -> float:
    return float(qdq.attribute(node, "alpha", default))


def _elu(x: float, alpha: float, gamma: float = 1.0) -> float:
    return gamma * (x if x > 0 else alpha * math.expm1(x))


def _hard_sigmoid(x: float, node: onnx.NodeProto) -> float:
    return min(max(_alpha(node, 0.2) * x + float(qdq.attribute(node, "beta", 0.5)), 0.0), 1.0)


def _gelu(x: float, node: onnx.NodeProto) -> float:
    if qdq.attribute(node, "approximate", "none") == "tanh":
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def _shrink(x: float, node: onnx.NodeProto) -> float:
    limit, bias = float(qdq.attribute(node, "lambd", 0.5)), float(qdq.attribute(node, "bias", 0.0))
    return x + bias if x < -limit else x - bias if x > limit else 0.0


def _tangent(x: float) -> float:
    return math.sin(x) / (math.cos(x) or 1e-30)


FUNCTIONS: dict[str, Function] = {
    "Abs": lambda x, node: abs(x),
    "Acos": lambda x, node: math.acos(min(max(x, -1.0), 1.0)),
    "Acosh": lambda x, node: math.acosh(max(x, 1.0)),
    "Asin": lambda x, node: math.asin(min(max(x, -1.0), 1.0)),
    "Asinh": lambda x, node: math.asinh(x),
    "Atan": lambda x, node: math.atan(x),
    "Atanh": lambda x, node: math.atanh(min(max(x, -1 + 1e-15), 1 - 1e-15)),
    "Ceil": lambda x, node: math.ceil(x),
    "Celu": lambda x, node: max(x, 0.0) + _alpha(node, 1.0) * math.expm1(min(x, 0.0) / _alpha(node, 1.0)),
    "Cos": lambda x, node: math.cos(x),
    "Cosh": lambda x, node: math.cosh(min(max(x, -700.0), 700.0)),
    "Elu": lambda x, node: _elu(x, _alpha(node, 1.0)),
    "Erf": lambda x, node: math.erf(x),
    "Exp": lambda x, node: _exponential(x),
    "Floor": lambda x, node: math.floor(x),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x, node: x * min(max(x / 6 + 0.5, 0.0), 1.0),
    "LeakyRelu": lambda x, node: x if x >= 0 else _alpha(node, 0.01) * x,
    "Log": lambda x, node: math.log(max(x, _TINY)),
    "Mish": lambda x, node: x * math.tanh(_softplus(x)),
    "Neg": lambda x, node: -x,
    "Reciprocal": lambda x, node: 1 / x if x else 1 / _TINY,
    "Round": lambda x, node: round(x),
    "Selu": lambda x, node: _elu(
        x, _alpha(node, 1.67326319217681884765625), float(qdq.attribute(node, "gamma", 1.05070102214813232421875))
    ),
    "Shrink": _shrink,
    "Sigmoid": lambda x, node: _sigmoid(x),
    "Sign": lambda x, node: (x > 0) - (x < 0),
    "Sin": lambda x, node: math.sin(x),
    "Sinh": lambda x, node: math.sinh(min(max(x, -700.0), 700.0)),
    "Softplus": lambda x, node: _softplus(x),
    "Softsign": lambda x, node: x / (1 + abs(x)),
    "Sqrt": lambda x, node: math.sqrt(max(x, 0.0)),
    "Swish": lambda x, node: x * _sigmoid(_alpha(node, 1.0) * x),
    "Tan": lambda x, node: _tangent(x),
    "Tanh": lambda x, node: math.tanh(x),
    "ThresholdedRelu": lambda x, node: x if x > _alpha(node, 1.0) else 0.0,
}

_BOUNDED = {
    "HardSigmoid": QuantParams(1 / 256, -128),
    "Sigmoid": QuantParams(1 / 256, -128),
    "Tanh": QuantParams(1 / 128, 0),
}
"""Parameters that hold every value of a function; those of LOGISTIC and TANH in TensorFlow Lite's specification."""


@dataclass(frozen=True, slots=True)
class LookupParams:
    """Elements. Constants: `table`, int8[256], indexed by input + 128."""

    size: int


def table(function: Callable[[float], float], source: QuantParams, output: QuantParams, low: int, high: int) -> Array:
    """The 256 outputs of `function` between `low` and `high`, for inputs -128 to 127."""
    entries = []
    for q in range(INT8_MIN, INT8_MAX + 1):
        real = function(source.scale * (q - source.zero_point)) / output.scale
        rounded = math.floor(abs(min(max(real, -1e6), 1e6)) + 0.5)
        entries.append((rounded if real >= 0 else -rounded) + output.zero_point)
    return fixedpoint.saturate(np.array(entries), max(low, INT8_MIN), min(high, INT8_MAX))


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Any node of FUNCTIONS, and Pow with a constant exponent.

    An output of the model that was left in float gets a scale where the function has a bounded range.
    """
    activation = ctx.activation(node)
    last = node.output[0] in ctx.graph_outputs
    output = ctx.output(node, default=_BOUNDED.get(node.op_type) if last else None)
    function = _power(ctx, node) if node.op_type == "Pow" else FUNCTIONS[node.op_type]
    values = table(
        lambda x: function(x, node), ctx.quant(activation), output.quant, output.activation_min, output.activation_max
    )
    add(ctx, node, activation, output.quant, values, output.value)


_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "Add": lambda a, b: a + b,
    "Mul": lambda a, b: a * b,
    "Sub": lambda a, b: a - b,
}


def arithmetic(ctx: Lowering, node: onnx.NodeProto) -> bool:
    """Lower Add, Sub or Mul of a value and one real number that is not quantized; False, and nothing, for others."""
    numbers = [ctx.constant(node, position) for position in (0, 1)]
    position = 0 if numbers[0] is not None else 1
    number = numbers[position]
    if number is None or number.scale is not None or number.values.size != 1 or numbers[1 - position] is not None:
        return False
    activation, real = ctx.activation(node, 1 - position), float(number.values.ravel()[0])
    if number.values.ndim > len(activation.shape):
        return False
    if not math.isfinite(real):
        raise ctx.refuse(node, f"its constant is {real}")
    function, output = _ARITHMETIC[node.op_type], ctx.output(node)
    values = table(
        lambda x: function(x, real) if position else function(real, x),
        ctx.quant(activation),
        output.quant,
        output.activation_min,
        output.activation_max,
    )
    add(ctx, node, activation, output.quant, values, output.value)
    return True


def _power(ctx: Lowering, node: onnx.NodeProto) -> Function:
    """x to a constant exponent; what is no real number becomes 0."""
    constant = ctx.constant(node, 1)
    if constant is None or constant.values.size != 1:
        raise ctx.refuse(node, "its exponent is not one constant number")
    exponent = float(constant.real().ravel()[0])

    def power(x: float, node: onnx.NodeProto) -> float:
        try:
            value = (x or (_TINY if exponent < 0 else 0.0)) ** exponent
        except OverflowError:
            return math.inf if x > 0 or exponent % 2 == 0 else -math.inf
        return value if isinstance(value, float) else 0.0

    return power


def add(
    ctx: Lowering, node: onnx.NodeProto, activation: Activation, quant: QuantParams, values: Array, value: str
) -> None:
    """A layer that maps `activation` through `values` (int8[256]) and defines the ONNX value `value`."""
    result = apply(ctx, node, activation, quant, values)
    ctx.define(value, result.tensor, result.index)


def apply(ctx: Lowering, node: onnx.NodeProto, activation: Activation, quant: QuantParams, values: Array) -> Activation:
    """A layer that maps `activation` through `values` (int8[256]); what comes out has the parameters `quant`."""
    tensor = ctx.tensors[activation.tensor]
    if activation.index.size != tensor.size:
        name = ctx.arrange(activation, activation.index, node, activation.shape)
        activation = Activation(name, layout.contiguous(activation.shape))
        tensor = ctx.tensors[name]
    params = LookupParams(tensor.size)
    result = ctx.layer("lookup", (activation.tensor,), tensor.shape, quant, params, {"table": values}, node)
    return Activation(result, activation.index)


def rescaling(source: QuantParams, output: QuantParams, low: int, high: int) -> Array:
    """The table that changes the scale, its outputs between `low` and `high`."""
    return table(lambda x: x, source, output, low, high)


def requantize(ctx: Lowering, node: onnx.NodeProto, activation: Activation, quant: QuantParams) -> None:
    """QuantizeLinear `node` of a value that has another scale already."""
    values = rescaling(ctx.quant(activation), quant, INT8_MIN, INT8_MAX)
    add(ctx, node, activation, quant, values, node.output[0])


def reference(params: LookupParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """int8 -> int8, any shape."""
    return np.asarray(constants["table"][inputs[0].astype(np.int64).ravel() + 128], np.int8)


def render(view: LayerView, target: Target) -> Source:
    """One load for each element; the table as a byte indexes it: from 0 to 127, then from -128 to -1."""
    table = np.roll(view.constants["table"], 128)
    return Source("lookup.c.j2", {"p": view.params, "quads": quads(view)}, {"table": table})


def quads(view: LayerView) -> int:
    """How often four elements are taken at a time: where that is worth the code."""
    return int(view.params.size) // 4 if view.params.size >= UNROLLED_FROM else 0


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The two loops."""
    return {"quad": quads(view), "output": view.output.size - 4 * quads(view)}


def bounds(view: LayerView, inputs: Sequence[Interval]) -> Interval:
    """The least and the greatest entry between the ends of each channel's interval."""
    found, values = inputs[0].spread(view.output.channels), view.constants["table"].astype(np.int64)
    spans = [
        values[low - INT8_MIN : high - INT8_MIN + 1]
        for low, high in zip(found.low.tolist(), found.high.tolist(), strict=True)
    ]
    return Interval(np.array([span.min() for span in spans]), np.array([span.max() for span in spans]))


def copies(view: LayerView, inputs: Sequence[Interval]) -> bool:
    """Whether each entry that can be asked for is its own index."""
    reached = np.arange(inputs[0].low.min(), inputs[0].high.max() + 1)
    return bool(np.array_equal(view.constants["table"][reached - INT8_MIN], reached))


def behind(first: Layer, second: Layer) -> Mapping[str, Array] | None:
    """One table for two."""
    if first.op != second.op:
        return None
    return {"table": second.constants["table"][first.constants["table"].astype(np.int64) - INT8_MIN]}


def divides(view: LayerView) -> bool:
    """Whether input and output have one shape; also for `clamp`."""
    return view.inputs[0].shape == view.output.shape


def without(view: LayerView, kept: Array) -> tuple[Any, Mapping[str, Array]]:
    """As many elements as are left; also for `clamp`."""
    size = view.output.size // kept.size * int(kept.sum())
    return replace(view.params, size=size), view.constants


def by_rows(view: LayerView, count: int | None, together: int) -> RowForm | None:
    """Of layers over each element of a value; also for `clamp`."""
    if count is None or view.output.size % count or count < together:
        return None
    return RowForm.of_elements(count, together, replace(view.params, size=view.output.size // count * together))


def cases() -> Iterable[Case]:
    """Every function once, over all 256 inputs; saturation; a change of scale."""
    from nnbuild.ops import singles

    for name in sorted(FUNCTIONS):
        attributes = {"approximate": "tanh"} if name == "Gelu" else {}
        yield singles.unary(
            f"lookup_{name.lower()}", name, (1, 256), QuantParams(0.04, 5), QuantParams(0.03, -9), attributes
        )
    yield singles.unary("lookup_saturates", "Exp", (1, 256), QuantParams(0.3, 0), QuantParams(0.01, -128))
    yield singles.unary("lookup_poles", "Reciprocal", (1, 256), QuantParams(0.01, 3), QuantParams(0.1, 0))
    yield singles.unary("lookup_logarithm", "Log", (1, 256), QuantParams(0.01, -128), QuantParams(0.05, 100))
    yield singles.requantization("lookup_requantize", (1, 3, 5, 7), QuantParams(0.1, 12), QuantParams(0.03, -100))


OPERATOR = Operator(
    name="lookup",
    summary="elementwise function of one value, as a table",
    onnx=tuple(sorted((*FUNCTIONS, "Pow"))),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True, parameters=frozenset((1,))),
    params=LookupParams,
    reference=reference,
    bounds=bounds,
    channels=tied(divides, without),
    rows=by_rows,
    copies=copies,
    behind=behind,
    inplace=lambda view: (0,),
    slides=by_element,
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
