"""Fixed-point arithmetic against exact rational arithmetic and the definitions it comes from."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nnbuild import fixedpoint

INT32 = st.integers(-(2**31), 2**31 - 1)


@given(st.floats(1e-8, 1e6))
def test_multiplier_is_within_one_part_in_2_to_the_31(real: float) -> None:
    multiplier, shift = fixedpoint.quantize_multiplier(real)
    assert 2**30 <= multiplier < 2**31
    assert abs(Fraction(multiplier) * Fraction(2) ** (shift - 31) / Fraction(real) - 1) <= Fraction(1, 2**31)


def test_multiplier_corners() -> None:
    assert fixedpoint.quantize_multiplier(0.0) == (0, 0)
    assert fixedpoint.quantize_multiplier(1.0) == (1 << 30, 1)
    assert fixedpoint.quantize_multiplier(2.0**-40) == (0, 0)
    # The fraction rounds up to 2^31: carried into the shift.
    assert fixedpoint.quantize_multiplier(1 - 2.0**-40) == (1 << 30, 1)


@given(INT32, st.integers(0, 2**31 - 1))
def test_multiply_high_is_the_truncated_form_of_gemmlowp(a: int, b: int) -> None:
    product = a * b
    nudge = 2**30 if product >= 0 else 1 - 2**30
    expected = abs(product + nudge) // 2**31 * (1 if product + nudge >= 0 else -1)
    assert int(fixedpoint.multiply_high(a, b)) == expected


@given(INT32, st.integers(0, 31))
def test_division_rounds_half_away_from_zero(value: int, exponent: int) -> None:
    exact = Fraction(value, 2**exponent)
    expected = math.floor(abs(exact) + Fraction(1, 2)) * (1 if value >= 0 else -1)
    assert int(fixedpoint.divide_by_power_of_two(value, exponent)) == expected


@given(INT32)
def test_wrap_is_twos_complement(value: int) -> None:
    wide = value * 5
    assert int(fixedpoint.wrap32(wide)) == int(np.array([wide & 0xFFFFFFFF], np.uint32).view(np.int32)[0])


@given(st.floats(-1e6, 1e6))
def test_round_half_away(value: float) -> None:
    exact = Fraction(value)
    expected = math.floor(abs(exact) + Fraction(1, 2)) * (1 if value >= 0 else -1)
    # value + 0.5 may itself round where value has no bits below one half.
    assert abs(fixedpoint.round_half_away(value) - expected) <= (0 if abs(value) < 2**50 else 1)
