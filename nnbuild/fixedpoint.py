"""Integer arithmetic of quantized networks, as TensorFlow Lite's reference kernels and CMSIS-NN define it.

Real multipliers become a 31-bit integer and a shift; products are rounded twice (gemmlowp: doubling high
multiplication, then a rounding division by a power of two). All functions take and return numpy integers or arrays of
them and compute in int64, so that no intermediate can overflow; values that C holds in 32 bits stay in 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from nnbuild.errors import InternalError
from nnbuild.network import INT8_MAX, INT8_MIN, LIMITS, Array, QuantParams

Integers = Array | int

INT32_MAX = 2**31 - 1


def round_half_away(value: float) -> int:
    """The integer nearest to `value`; halves away from zero, as C's `round`."""
    return math.floor(value + 0.5) if value >= 0 else -math.floor(-value + 0.5)


def quantize_multiplier(real: float, reach: int = 1) -> tuple[int, int]:
    """A real multiplier >= 0 as (multiplier, shift): real ~ multiplier * 2**(shift - 31), multiplier in [2^30, 2^31).

    TensorFlow Lite, `QuantizeMultiplier`: 0 where the shift would be below -31. Kernels shift left in 32 bits before
    they multiply (CMSIS-NN on MVE by one bit more), so the result is limited to what keeps values up to `reach` below
    2^30. Only scales that make no sense get there, such as that of an activation that never fired: what follows
    saturates and does not wrap.
    """
    if real < 0 or not math.isfinite(real):
        raise ValueError(f"multiplier {real}")
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = round_half_away(fraction * 2**31)
    if multiplier == 2**31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    limit = min(max((2**30 // max(reach, 1)).bit_length() - 1, 0), 30)
    if shift > limit:
        return INT32_MAX, limit
    return multiplier, shift


def wrap32(values: Integers) -> Array:
    """int64 -> the int64 that 32-bit two's complement arithmetic would hold."""
    return np.asarray((np.asarray(values, np.int64) + 2**31) % 2**32 - 2**31)


def multiply_high(a: Integers, b: Integers) -> Array:
    """floor((a * b + 2^30) / 2^31): gemmlowp's SaturatingRoundingDoublingHighMul except for both at INT32_MIN."""
    return np.asarray((np.asarray(a, np.int64) * np.asarray(b, np.int64) + 2**30) >> 31)


def divide_by_power_of_two(values: Integers, exponent: Integers) -> Array:
    """values / 2^exponent rounded to nearest, halves away from zero: gemmlowp's RoundingDivideByPOT."""
    values = np.asarray(values, np.int64)
    mask = (np.int64(1) << np.asarray(exponent, np.int64)) - 1
    remainder = values & mask
    threshold = (mask >> 1) + (values < 0)
    return np.asarray((values >> np.asarray(exponent, np.int64)) + (remainder > threshold))


_single_rounding: ContextVar[bool] = ContextVar("single_rounding", default=False)


@contextmanager
def rounding(single: bool) -> Iterator[None]:
    """Inside, `requantize` rounds once or twice: the one switch, set for a whole network."""
    token = _single_rounding.set(single)
    try:
        yield
    finally:
        _single_rounding.reset(token)


def rounds_once() -> bool:
    """Whether `requantize` rounds once."""
    return _single_rounding.get()


def requantize(accumulators: Integers, multiplier: Integers, shift: Integers) -> Array:
    """accumulators * multiplier * 2^(shift - 31). Broadcasts.

    Rounded twice, TensorFlow Lite's `MultiplyByQuantizedMultiplier`; or once, as CMSIS-NN does it where it is built
    with CMSIS_NN_USE_SINGLE_ROUNDING (see `rounding`).
    """
    shift = np.asarray(shift, np.int64)
    if _single_rounding.get():
        product = np.asarray(accumulators, np.int64) * np.asarray(multiplier, np.int64)
        return np.asarray(wrap32(wrap32(product >> (30 - shift)) + 1) >> 1)
    shifted = wrap32(np.asarray(accumulators, np.int64) << np.maximum(shift, 0))
    return divide_by_power_of_two(multiply_high(shifted, multiplier), np.maximum(-shift, 0))


def saturate(values: Array, low: int = INT8_MIN, high: int = INT8_MAX) -> Array:
    """Integers clamped to [low, high] (within int8) as int8."""
    return np.asarray(np.clip(values, low, high).astype(np.int8))


def saturate_as(dtype: str, values: Array, low: int, high: int) -> Array:
    """Integers clamped to [low, high] and to what `dtype` ("int8" or "int16") holds, of that type."""
    least, most = LIMITS[dtype]
    return np.asarray(np.clip(values, max(low, least), min(high, most)).astype(dtype))


# Layers with 16-bit activations. Nobody's firmware computes these beside us, so they round once, and halves up: that is
# one instruction on cores that multiply to 64 bits.


def upper_multiplier(real: float, left: int) -> int:
    """m with real ~ m * 2^(left - 32), at most 2^31 - 1, as `scale_upper` takes it."""
    return min(round_half_away(math.ldexp(real, 32 - left)), INT32_MAX)


def headroom(reach: int) -> int:
    """By how much sums of up to `reach` can be shifted to the left within 32 bits (at least 0)."""
    return 31 - max(reach, 1).bit_length()


@dataclass(frozen=True, slots=True)
class Plane:
    """(a * factors[0] + b * factors[1] + ... + offset) >> shift, all in 32 bits for any inputs; halves go up."""

    factors: tuple[int, ...]
    offset: int
    shift: int


def plane(terms: Sequence[tuple[QuantParams, float]], output: QuantParams) -> Plane:
    """The sum of values with these parameters, each times a real factor, in steps of `output`, not yet clamped."""
    # Of factors beyond that any step of the input saturates.
    reals = [min(max(factor * quant.scale / output.scale, -(2.0**17)), 2.0**17) for quant, factor in terms]
    for shift in range(30, 0, -1):
        factors = tuple(round_half_away(math.ldexp(real, shift)) for real in reals)
        zeros = sum(factor * quant.zero_point for factor, (quant, _) in zip(factors, terms, strict=True))
        offset = (output.zero_point << shift) + (1 << shift - 1) - zeros
        reach = sum(-quant.limits[0] * abs(factor) for factor, (quant, _) in zip(factors, terms, strict=True))
        if reach + abs(offset) < 2**31:
            return Plane(factors, offset, shift)
    raise InternalError(f"no plane for factors {reals}")


def scale_upper(sums: Integers, multiplier: Integers, left: int) -> Array:
    """(sums * 2^left) * multiplier / 2^32, halves up; sums * 2^left stay within 32 bits. Broadcasts."""
    product = (np.asarray(sums, np.int64) << left) * np.asarray(multiplier, np.int64)
    return np.asarray((product + 2**31) >> 32)
