"""Logarithms of probabilities along one axis. ONNX LogSoftmax, and the forms that exporters write (see
`nnbuild.passes.softmax_forms`).

With d the difference to the largest value: out = -(d * s + ln(sum of exp(-d * s))). Exponentials are a table in Q12.19;
the logarithm is the position of the highest bit and a table of log2(1 + i / 64), between whose entries the value lies
on a line (error below 5e-5). Both parts are added in 2^-`fraction` output steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, layout, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.lower import Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.streams.sliding import by_depth
from nnbuild.target import Target

MAX_DEPTH = 4096
"""Q12.19 holds the sum of so many exponentials."""

OUTPUT = QuantParams(16 / 256, 127)
"""Parameters of an output of the model that was left in float: LOG_SOFTMAX in TensorFlow Lite's specification."""

_UNIT = 19  # bits behind the point of exponentials
_LOG_BITS = 15  # bits behind the point of a binary logarithm
_SEGMENTS = 6  # bits of a mantissa that choose the entry of the table
_REST = 10  # bits of it that say where between two entries


@dataclass(frozen=True, slots=True)
class LogSoftmaxParams:
    """`rows` of `depth` values. `factor` is an input step, in 2^-`fraction` output steps.

    Constants: `exponential`, uint32 in Q12.19 by difference, as far as it is not 0; `logarithm`, uint16 in Q0.15,
    log2(1 + i / 64). `multiplier` and `shift` take a binary logarithm in Q15 to 2^-`fraction` output steps.
    """

    rows: int
    depth: int
    factor: int
    fraction: int
    multiplier: int
    shift: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """LogSoftmax along any axis, of opset 13 or later (older ones were put into that form)."""
    activation = ctx.activation(node)
    axis = int(qdq.attribute(node, "axis", -1)) % activation.index.ndim
    last = np.moveaxis(activation.index, axis, -1)
    depth = int(last.shape[-1])
    if depth > MAX_DEPTH:
        raise ctx.refuse(node, f"a sum over {depth} values is not supported", f"at most {MAX_DEPTH}")
    output = ctx.output(node, default=OUTPUT if node.output[0] in ctx.graph_outputs else None)
    shape = layout.memory_shape(last.shape)
    tensor = ctx.arrange(activation, last, node, shape)
    scale = ctx.quant(activation).scale
    params = LogSoftmaxParams(
        last.size // depth,
        depth,
        *_scaling(scale, output.quant.scale),
        output.quant.zero_point,
        output.activation_min,
        output.activation_max,
    )
    constants = {"exponential": exponentials(scale), "logarithm": logarithms()}
    name = ctx.layer("log_softmax", (tensor,), shape, output.quant, params, constants, node)
    ctx.define(output.value, name, np.moveaxis(layout.contiguous(last.shape), -1, axis))


def _scaling(scale: float, output: float) -> tuple[int, int, int, int]:
    """(factor, fraction, multiplier, shift); what is beyond them saturates an int8 anyway."""
    steps = min(scale / output, 2.0**13)
    fraction = max(1, min(16, 22 - math.ceil(math.log2(steps))))
    factor = fixedpoint.round_half_away(steps * 2**fraction)
    largest = (math.log2(MAX_DEPTH) + 1) * 2**_LOG_BITS
    real = min(math.log(2) / 2**_LOG_BITS / output * 2**fraction, 2.0**29 / largest)
    multiplier, shift = fixedpoint.quantize_multiplier(real)
    return factor, fraction, multiplier, shift


def exponentials(scale: float) -> Array:
    """exp(-i * scale) in Q12.19 for i = 0, 1, ... as far as it is not 0 (at most 256 entries)."""
    values = np.rint(np.exp(-np.arange(256) * float(scale)) * 2**_UNIT)
    return np.asarray(values[values > 0], np.uint32)


def logarithms() -> Array:
    """log2(1 + i / 64) in Q0.15 for i = 0 to 64; the last, which is 1, is 2^15."""
    entries = np.log2(1 + np.arange(2**_SEGMENTS + 1) / 2**_SEGMENTS)
    return np.asarray(np.rint(entries * 2**_LOG_BITS), np.uint16)


def _log2(sums: Array, table: Array) -> Array:
    """Binary logarithm in Q15 of sums in Q12.19."""
    bits = np.array([int(total).bit_length() - 1 for total in sums])
    mantissa = (sums << (31 - bits)) - 2**31
    entry, rest = mantissa >> (31 - _SEGMENTS), (mantissa >> (31 - _SEGMENTS - _REST)) & (2**_REST - 1)
    low, high = table[entry].astype(np.int64), table[entry + 1].astype(np.int64)
    return np.asarray(((bits - _UNIT) << _LOG_BITS) + low + ((high - low) * rest >> _REST))


def reference(params: LogSoftmaxParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(rows * depth) int8 -> (rows, depth) int8."""
    values = inputs[0].reshape(params.rows, params.depth).astype(np.int64)
    table = constants["exponential"].astype(np.int64)
    differences = values.max(axis=1, keepdims=True) - values
    sums = np.where(differences < table.size, table[np.minimum(differences, table.size - 1)], 0).sum(axis=1)
    logs = fixedpoint.requantize(_log2(sums, constants["logarithm"]), params.multiplier, params.shift)
    total = differences * params.factor + logs[:, None] + (1 << (params.fraction - 1))
    result = params.output_zero_point - (total >> params.fraction)
    return fixedpoint.saturate(result, params.activation_min, params.activation_max)


def render(view: LayerView, target: Target) -> Source:
    """Two passes over a row; no division, no exponential, no logarithm."""
    values = {"p": view.params, "entries": int(view.constants["exponential"].size)}
    return Source(template="log_softmax.c.j2", values=values, data=dict(view.constants))


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Rows, and values in them."""
    return {"vector": view.params.rows, "output": view.output.size}


def cases() -> Iterable[Case]:
    """Few and many values, steep and flat scales, several rows, another axis, a clamp, saturation."""
    from nnbuild.ops import singles

    quant, out = QuantParams(0.11, 14), QuantParams(0.05, 127)
    yield singles.unary("log_softmax_12", "LogSoftmax", (1, 12), quant, out, {"axis": -1})
    yield singles.unary("log_softmax_1", "LogSoftmax", (1, 1), quant, out, {"axis": -1})
    yield singles.unary("log_softmax_steep", "LogSoftmax", (1, 10), QuantParams(3.7, 0), QuantParams(3.9, 120))
    yield singles.unary("log_softmax_flat", "LogSoftmax", (1, 700), QuantParams(0.0004, 0), QuantParams(0.03, 127))
    yield singles.unary("log_softmax_axis", "LogSoftmax", (1, 5, 3, 2), quant, out, {"axis": 1})
    yield singles.unary("log_softmax_fine", "LogSoftmax", (1, 9), quant, QuantParams(1e-6, 0))
    yield singles.unary("log_softmax_coarse", "LogSoftmax", (1, 9), QuantParams(1e-6, 0), QuantParams(2.0, 3))
    yield singles.unary("log_softmax_clip", "LogSoftmax", (1, 17), quant, out, {}, ("Clip", -3.0, -0.5))


OPERATOR = Operator(
    name="log_softmax",
    summary="logarithms of probabilities along one axis",
    onnx=("LogSoftmax",),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True),
    params=LogSoftmaxParams,
    reference=reference,
    error=lambda params: 2,
    slides=by_depth,
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
