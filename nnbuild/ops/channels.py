"""What every operator with weights does to them: multipliers per output channel, int32 biases, accumulator bounds.

Also how they shrink: which input channels they read, and what is left of weights and biases without the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from nnbuild.fixedpoint import INT32_MAX, headroom, quantize_multiplier, requantize, saturate, upper_multiplier
from nnbuild.intervals import Interval
from nnbuild.lower import Constant
from nnbuild.network import Array, QuantParams

if TYPE_CHECKING:
    from nnbuild.lower import Lowering


def weights(ctx: Lowering, node: onnx.NodeProto, position: int, channels_axis: int) -> tuple[Array, Array]:
    """Input `position` as (int8 weights, float64 scale of each channel along `channels_axis`)."""
    constant = ctx.constant(node, position)
    if constant is None or constant.scale is None or constant.zero_point is None:
        raise ctx.refuse(
            node, f"its weights (input {position}) are not quantized constants", "quantize the whole model"
        )
    values = constant.values.astype(np.int64) - constant.zero_point
    if np.abs(values).max(initial=0) > 128 or values.max(initial=0) > 127:
        raise ctx.refuse(node, "weights with a zero point do not fit int8", "quantize weights symmetrically")
    count = values.shape[channels_axis]
    scale = constant.scale.astype(np.float64)
    if scale.size != 1 and scale.shape[channels_axis] != count:
        hint = "quantize them along their output channels, or per tensor"
        raise ctx.refuse(node, "its weights are quantized along another axis than its output channels", hint)
    return values.astype(np.int8), np.broadcast_to(scale.ravel(), (count,)).astype(np.float64)


def bias(ctx: Lowering, node: onnx.NodeProto, position: int, scales: Array, factor: float = 1.0) -> Array:
    """Input `position` times `factor` as int32 of scale `scales` (one for each channel); zeros where there is none.

    An int32 bias that was quantized with that scale is used as stored.
    """
    constant = ctx.constant(node, position)
    if constant is None:
        if position < len(node.input) and node.input[position]:
            raise ctx.refuse(node, f"its bias (input {position}) is not constant")
        return np.zeros(scales.size, np.int32)
    shape = constant.values.shape
    if constant.values.size not in (1, scales.size) or constant.values.size != (shape[-1] if shape else 1):
        raise ctx.refuse(node, f"its bias of shape {list(shape)} does not fit {scales.size} channels")
    if factor == 1.0 and _stored(constant, scales):
        raw = constant.values.astype(np.int64)
    else:
        real = constant.real() * factor / scales
        if not np.isfinite(real).all():
            raise ctx.refuse(node, "its bias is not finite")
        raw = np.rint(np.clip(real, -(2.0**40), 2.0**40)).astype(np.int64)
    raw = np.broadcast_to(raw.ravel(), (scales.size,))
    if np.abs(raw).max(initial=0) > INT32_MAX:
        raise ctx.refuse(node, "its bias does not fit int32", "the weight scale of a channel is too small")
    return raw.astype(np.int32)


def _stored(constant: Constant, scales: Array) -> bool:
    """Whether an integer bias has the scale input * weight, but for the last bits of a float32."""
    if constant.scale is None or constant.zero_point is None or constant.zero_point.any():
        return False
    return bool(np.allclose(np.broadcast_to(constant.scale.ravel(), scales.shape), scales, rtol=1e-5, atol=0))


def multipliers(scales: Array, output: QuantParams, reach: Array) -> dict[str, Array]:
    """`multiplier` (int32) and `shift` (int8) of each channel for sums of real scale `scales`, up to `reach`."""
    real = [float(scale) / float(np.float64(output.scale)) for scale in scales]
    pairs = [quantize_multiplier(each, int(most)) for each, most in zip(real, reach, strict=True)]
    return {
        "multiplier": np.array([multiplier for multiplier, _ in pairs], np.int32),
        "shift": np.array([shift for _, shift in pairs], np.int8),
    }


def upper_multipliers(scales: Array, output: QuantParams, reach: Array) -> tuple[int, dict[str, Array]]:
    """`left` of a layer and `multiplier` (int32) of each channel for `fixedpoint.scale_upper`.

    Sums have the real scales `scales`, and magnitudes up to `reach`. They are shifted as far as the largest multiplier
    needs to fit, in steps of four, so that layers share code; less where sums would leave 32 bits.
    """
    real = [float(scale) / float(np.float64(output.scale)) for scale in scales]
    needed = max(math.frexp(max(real, default=0.0))[1] + 1, 0)
    left = min(-(-needed // 4) * 4, headroom(int(reach.max(initial=1))))
    return left, {"multiplier": np.array([upper_multiplier(each, left) for each in real], np.int32)}


def upper_constants(params: Any, weights: Array, constants: Mapping[str, Array]) -> dict[str, Array]:
    """What kernels of 16-bit layers read of each channel: `bias`, times 2^left and for raw inputs, and `multiplier`.

    `weights` is (channels, taps).
    """
    folded = constants["bias"].astype(np.int64) - params.input_zero_point * weights.astype(np.int64).sum(axis=1)
    return {"bias": (folded << params.left).astype(np.int32), "multiplier": constants["multiplier"]}


def accumulators(ctx: Lowering, node: onnx.NodeProto, flat: Array, offsets: Array, quant: QuantParams) -> Array:
    """The largest magnitude of each channel's sum with weights (channels, taps) and biases, in any order of adding.

    `quant` is that of the inputs. ModelError where a sum could leave int32 for some input.
    """
    zero_point = quant.zero_point
    total = np.abs(flat.astype(np.int64)).sum(axis=1)
    folded = offsets.astype(np.int64) - zero_point * flat.astype(np.int64).sum(axis=1)
    reach = -quant.limits[0] * total + np.maximum(np.abs(folded), np.abs(offsets.astype(np.int64)))
    if reach.max(initial=0) > INT32_MAX - 255:
        channel = int(reach.argmax())
        hint = "its weight scale is too small for its bias; quantize this channel with a larger one"
        if quant.wide:
            hint = "keep its input in 8 bits"
        raise ctx.refuse(node, f"the 32-bit sum of channel {channel} can overflow", hint)
    return np.asarray(reach)


def reachable(params: Any, constants: Mapping[str, Array], weights: Array, inputs: Interval) -> Interval:
    """What a layer's output can be whose sums are weights (channels, n) times n inputs of these intervals.

    Weights may be sums of positive and of negative ones: (2, channels, n), those two. Requantization rises with its
    sum, so both ends of the sum give both ends of the output.
    """
    positive, negative = weights
    low, high = (np.asarray(end) - params.input_zero_point for end in (inputs.low, inputs.high))
    sums = [(positive * a + negative * b).sum(axis=1) + constants["bias"] for a, b in ((low, high), (high, low))]
    ends = [requantize(each, constants["multiplier"], constants["shift"]) + params.output_zero_point for each in sums]
    found = [saturate(each, params.activation_min, params.activation_max).astype(np.int64) for each in ends]
    return Interval(found[0], found[1])


def signed_sums(weights: Array, axes: tuple[int, ...]) -> Array:
    """(2, ...): the sums over `axes` of positive and of negative weights."""
    wide = weights.astype(np.int64)
    return np.stack([np.maximum(wide, 0).sum(axis=axes), np.minimum(wide, 0).sum(axis=axes)])


def padded(interval: Interval, zero_point: int) -> Interval:
    """The interval with padding, which is the zero point, among its values."""
    return Interval(np.minimum(interval.low, zero_point), np.maximum(interval.high, zero_point))


def foldable(interval: Interval, zero_point: int, pads: bool) -> Array:
    """Input channels whose part of every sum is one number: constant, and where there is padding equal to it."""
    return np.asarray(interval.constant & ((interval.low == zero_point) if pads else True))


def read(weights: Array, kept: Array, folded: Array) -> Array:
    """Input channels that outputs `kept` need, of weights (outputs, taps, inputs)."""
    return np.asarray((weights[kept] != 0).any(axis=(0, 1)) & ~folded)


def shrunk(
    constants: Mapping[str, Array], weights: Array, interval: Interval, zero_point: int, source: Array, kept: Array
) -> tuple[dict[str, Array], Array]:
    """Constants of the output channels `kept`, and weights (outputs, taps, inputs) of `kept` and `source`.

    The input channels that go are constant, and their part of the sum joins the bias, or their weights of `kept` are 0.
    The bias stays within the proof of `accumulators`: it is the sum of some of the terms.
    """
    gone = np.where(source, 0, interval.low - zero_point)
    bias = constants["bias"].astype(np.int64) + weights.astype(np.int64).sum(axis=1) @ gone
    kept_constants = {name: constants[name][kept] for name in ("multiplier", "shift")}
    return {"bias": bias[kept].astype(np.int32), **kept_constants}, weights[kept][:, :, source]
