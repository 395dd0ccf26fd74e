"""Each row less its mean, divided by its deviation, times a gain, plus an offset. ONNX LayerNormalization.

With n values q in a row: S = sum of q, V = n * sum of q^2 - S^2, which is n^2 times the variance and exact, and
E = n^2 * epsilon in squares of input steps. Then out = (n * q - S) / sqrt(V + E) * gain + offset; the input's zero
point cancels. The root is taken once a row, from a mantissa of 31 bits and by Newton steps; with it n * q - S becomes
q * step + start. Before the result is rounded it is off by less than a quarter of an output step (see `MAX_REACH`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, layout, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.fixedpoint import multiply_high
from nnbuild.lower import Activation, Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.placeholder import is_placeholder
from nnbuild.streams.sliding import by_depth
from nnbuild.target import Target

MAX_DEPTH = 4096
"""So a sum of squares is at most 2^26, V below 2^38, and no shift of a row below 0."""

MAX_REACH = 2.0**19
"""Output steps that a row may reach before it saturates; up to 2^-22 of them a result is off, and somewhat more."""

_DEPTH_32 = 512  # up to here V fits 32 bits
_ROOT_BITS = 30  # bits behind the point of a mantissa in [0.5, 2), and of its reciprocal root
_START = round(1.519 * 2**_ROOT_BITS)  # less 7/16 of the mantissa, the reciprocal root within 9 %
_NEWTON_STEPS = 3  # to 2^-23 of the root
_NORMAL_BITS = 28  # normalized values are below 2^28
_HALF = 2**30  # is added to them, so that one factor of the next product is positive
_MAX_FRACTION = 20


@dataclass(frozen=True, slots=True)
class LayerNormalizationParams:
    """`rows` of `depth` values. V + E is V * 2^`variance_shift` + `epsilon`, below 2^64; the shift is odd.

    A row's differences n * q - S are shifted left by `shift`, and by a place more for each two that its V + E lacks to
    63 bits. Constants, int32, one for each value of a row or a single one: `gain`; `offset`, in 2^-`fraction` output
    steps, with the output's zero point and the half that rounds.
    """

    rows: int
    depth: int
    variance_shift: int
    epsilon: int
    shift: int
    fraction: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """LayerNormalization(x, scale, bias) over all axes from `axis` on, with known scale and bias; one output."""
    activation = ctx.activation(node)
    axis = int(qdq.attribute(node, "axis", -1)) % activation.index.ndim
    normalized = activation.shape[axis:]
    depth = math.prod(normalized)
    if depth > MAX_DEPTH:
        raise ctx.refuse(node, f"a mean over {depth} values is not supported", f"at most {MAX_DEPTH}")
    for name in node.output[1:]:
        if name and (name in ctx.readers or name in ctx.graph_outputs):
            raise ctx.refuse(node, f"its output '{name}' is used", "only the normalized values are supported")
    epsilon = float(qdq.attribute(node, "epsilon", 1e-5))
    if not 0 <= epsilon < math.inf:
        raise ctx.refuse(node, f"epsilon {epsilon} is not a number from 0 on")
    gain, offset = (_factors(ctx, node, position, normalized) for position in (1, 2))
    output = ctx.output(node)
    scaling = _scaling(depth, epsilon / ctx.quant(activation).scale ** 2)
    reach = float(scaling.largest * np.abs(gain).max() + np.abs(offset).max())
    if not reach / output.quant.scale <= MAX_REACH:
        message = f"its output's scale {output.quant.scale:.3g} is too fine for values up to {reach:.3g}"
        raise ctx.refuse(node, message, "calibrate with samples whose values differ from each other")
    fraction = min(26 - math.ceil(math.log2(max(reach / output.quant.scale, 1.0))), _MAX_FRACTION)
    tensor, index, order = _rows(ctx, node, activation, depth)
    params = LayerNormalizationParams(
        rows=activation.index.size // depth,
        depth=depth,
        variance_shift=scaling.variance_shift,
        epsilon=scaling.epsilon,
        shift=scaling.shift,
        fraction=fraction,
        activation_min=output.activation_min,
        activation_max=output.activation_max,
    )
    constants = _integers(gain[order], offset[order], output.quant, fraction, scaling.bits)
    shape = ctx.tensors[tensor].shape
    name = ctx.layer("layer_normalization", (tensor,), shape, output.quant, params, constants, node)
    ctx.define(output.value, name, index)


def _factors(ctx: Lowering, node: onnx.NodeProto, position: int, normalized: tuple[int, ...]) -> Array:
    """Scale or bias as float64, one for each value of a row; 0 for a bias that is left out."""
    constant = ctx.constant(node, position)
    if constant is None:
        if position < len(node.input) and node.input[position]:
            raise ctx.refuse(node, f"its {('scale', 'bias')[position - 1]} is not constant")
        return np.zeros(math.prod(normalized))
    values = constant.real()
    if not np.isfinite(values).all():
        raise ctx.refuse(node, f"its constant '{node.input[position]}' is not finite")
    try:
        return np.broadcast_to(values, normalized, subok=True).ravel()
    except ValueError:
        shapes = f"{list(values.shape)} does not fit {list(normalized)}"
        raise ctx.refuse(node, f"its constant '{node.input[position]}' of shape {shapes}") from None


@dataclass(frozen=True, slots=True)
class _Scaling:
    """Of the root and what it divides: three parameters; the `largest` normalized value, in 2^-`bits`."""

    variance_shift: int
    epsilon: int
    shift: int
    largest: float
    bits: int


def _scaling(depth: int, epsilon: float) -> _Scaling:
    """`epsilon` is in squares of input steps.

    A difference t has a variance of at least t^2 / (n - 1) with it, so the largest normalized value is that of one
    value at the other end of int8.
    """
    power = depth**2 * epsilon
    variance_shift = math.floor(64 - 1e-6 - math.log2((depth * 255) ** 2 / 4 + power))
    variance_shift -= (variance_shift + 1) % 2
    others = max(depth - 1, 0.5)
    largest = 255 * others / math.sqrt(255**2 * others + power)
    bits = _NORMAL_BITS - math.ceil(math.log2(largest))
    shift = bits + (variance_shift - 63) // 2 + 1
    # Where E needs a shift to the right, all of V * 2 is less than 2^-23 of it.
    return _Scaling(max(variance_shift, 1), round(power * 2.0**variance_shift), shift, largest, bits)


def _rows(ctx: Lowering, node: onnx.NodeProto, activation: Activation, depth: int) -> tuple[str, Array, Array]:
    """The tensor that holds the rows; where its values lie in memory; the order of a row's values there.

    Rows may stand in any order, and values in any that all rows share: those of a convolution's output need no copy.
    """
    matrix = activation.index.reshape(-1, depth)
    lines, order = np.argsort(matrix[:, 0]), np.argsort(matrix[0])
    if not layout.is_contiguous(matrix[np.ix_(lines, order)]):
        lines, order = np.arange(len(matrix)), np.arange(depth)
    wanted = matrix[np.ix_(lines, order)]
    index = np.empty_like(matrix)
    index[np.ix_(lines, order)] = layout.contiguous(matrix.shape)
    tensor = ctx.arrange(activation, wanted, node, layout.memory_shape(activation.shape))
    return tensor, index.reshape(activation.shape), order


def _integers(gain: Array, offset: Array, output: QuantParams, fraction: int, bits: int) -> dict[str, Array]:
    """The layer's constants; a single value where all are known to be equal. Gains stay below 2^30 by `fraction`."""
    unit = 2.0**fraction / output.scale
    gains = np.rint(gain * unit * 2.0 ** (31 - bits)).astype(np.int64)
    zero = (output.zero_point << fraction) + (1 << (fraction - 1))
    offsets = np.rint(offset * unit).astype(np.int64) + zero - multiply_high(gains, _HALF)  # which _HALF adds
    known = not (is_placeholder(gain) or is_placeholder(offset))
    stored = {"gain": np.asarray(gains, np.int32), "offset": np.asarray(offsets, np.int32)}
    return {name: array[:1] if known and (array == array[0]).all() else array for name, array in stored.items()}


def reference(params: LayerNormalizationParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """int8 -> int8, (rows, depth)."""
    values = inputs[0].reshape(params.rows, params.depth).astype(np.int64)
    sums = values.sum(axis=1)
    variances = params.depth * np.square(values).sum(axis=1) - np.square(sums)
    mantissas, shifts = np.array([_normalized(params, int(variance)) for variance in variances], np.int64).T
    roots = _reciprocal_root(mantissas)
    steps, starts = multiply_high(params.depth << shifts, roots), _HALF - (sums * roots >> (31 - shifts))
    normal = fixedpoint.wrap32(values * steps[:, None] + starts[:, None])
    total = multiply_high(constants["gain"].astype(np.int64), normal) + constants["offset"]
    return fixedpoint.saturate(total >> params.fraction, params.activation_min, params.activation_max)


def _normalized(params: LayerNormalizationParams, variance: int) -> tuple[int, int]:
    """(mantissa in Q30 of V + E, at least 0.5 and below 2; left shift of differences). 0.5 where all are equal."""
    power = ((variance << params.variance_shift) + params.epsilon) % 2**64 if variance else 1 << 62
    places = (64 - power.bit_length()) // 2
    return power << 2 * places >> 33, params.shift + places


def _reciprocal_root(mantissas: Array) -> Array:
    """1 / sqrt(m) in Q30 for mantissas in Q30."""
    root = _START - (mantissas >> 1) + (mantissas >> 4)
    for _ in range(_NEWTON_STEPS):
        error = 2**28 - multiply_high(multiply_high(root, root), mantissas)
        root = root + multiply_high(4 * error, root)
    return np.asarray(root)


def render(view: LayerView, target: Target) -> Source:
    """Two passes over a row, and a root between them; no division. Layers of one shape share the function."""
    params = view.params
    values = {
        "rows": params.rows,
        "depth": params.depth,
        "low": params.activation_min,
        "high": params.activation_max,
        "wide": params.depth > _DEPTH_32,
        "start": _START,
        "steps": _NEWTON_STEPS,
        "single": [name for name, array in view.constants.items() if array.size == 1],
    }
    words = (params.epsilon % 2**32, params.epsilon >> 32, params.variance_shift, params.shift, params.fraction)
    scaling = np.array(words, np.uint32).astype(np.int32)
    return Source("layer_normalization.c.j2", values, {**view.constants, "scaling": scaling})


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Rows, and values in them."""
    return {"vector": view.params.rows, "output": view.output.size}


def cases() -> Iterable[Case]:
    """Rows of one value and of many, one and several axes, extreme scales, no bias, another memory order, a clamp."""
    from nnbuild.ops import singles

    fine, coarse, out = QuantParams(0.002, -128), QuantParams(0.3, 17), QuantParams(0.02, -9)
    yield singles.normalized("layer_norm_13", (1, 5, 13), -1, coarse, out)
    yield singles.normalized("layer_norm_1", (1, 3, 1), -1, coarse, out)
    yield singles.normalized("layer_norm_2", (1, 7, 2), 2, fine, QuantParams(0.011, 127))
    yield singles.normalized("layer_norm_512", (1, 512), -1, coarse, out)
    yield singles.normalized("layer_norm_513", (1, 2, 513), -1, fine, out)
    yield singles.normalized("layer_norm_axes", (1, 3, 4, 5), 1, coarse, out)
    yield singles.normalized("layer_norm_batch", (2, 3, 5), 0, coarse, out)
    yield singles.normalized("layer_norm_plain", (1, 4, 9), -1, coarse, out, affine=False)
    yield singles.normalized("layer_norm_without_bias", (1, 4, 9), -1, coarse, out, bias=False)
    yield singles.normalized("layer_norm_channels", (1, 6, 3, 2), -1, coarse, out, order=(0, 2, 3, 1))
    yield singles.normalized("layer_norm_order", (1, 6, 3, 2), 1, coarse, out, order=(0, 2, 3, 1))
    yield singles.normalized("layer_norm_swapped", (1, 6, 5), -1, coarse, out, order=(0, 2, 1))
    yield singles.normalized("layer_norm_exact", (1, 4, 8), -1, coarse, QuantParams(2.0**-6, 0), epsilon=0.0)
    yield singles.normalized("layer_norm_small_input", (1, 4, 8), -1, QuantParams(1e-10, -1), QuantParams(1e-5, 127))
    tiny = QuantParams(1e-16, -1), QuantParams(5e-14, 3)
    yield singles.normalized("layer_norm_tiny_input", (1, 4, 8), -1, *tiny, affine=False)
    yield singles.normalized("layer_norm_fine_output", (1, 4, 8), -1, coarse, QuantParams(2e-5, -128))
    yield singles.normalized("layer_norm_coarse_output", (1, 4, 8), -1, coarse, QuantParams(50.0, 1))
    yield singles.normalized("layer_norm_clip", (1, 4, 33), -1, fine, out, clamp=("Clip", -0.5, 1.0))
    yield singles.normalized("layer_norm_relu", (1, 4, 33), -1, fine, QuantParams(0.01, -128), clamp=("Relu",))


OPERATOR = Operator(
    name="layer_normalization",
    summary="rows less their mean, by their deviation, scaled and shifted",
    onnx=("LayerNormalization",),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True, parameters=frozenset((1, 2))),
    params=LayerNormalizationParams,
    reference=reference,
    inplace=lambda view: (0,),
    slides=by_depth,
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
