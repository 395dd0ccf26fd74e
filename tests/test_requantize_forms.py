"""Forms in place of 64-bit products and divisions: equal to the reference for every sum, and no other integers are."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nnbuild import fixedpoint, interpret
from nnbuild.emit import EmitOptions, emit
from nnbuild.kernels.upper_half import Upper, upper
from nnbuild.network import Array
from nnbuild.ops import BY_NAME
from nnbuild.ops.average_pool import reciprocals
from nnbuild.ops.pooling import walk
from nnbuild.ops.spatial import Window
from nnbuild.target import TARGETS

from . import host


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a layer's parameters say of its output."""

    output_zero_point: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True, slots=True)
class Scaled:
    """A layer with one multiplier."""

    outputs: Outputs
    multiplier: int
    shift: int
    reach: tuple[int, int]

    def expected(self, sums: Array) -> Array:
        scaled = fixedpoint.requantize(sums, self.multiplier, self.shift) + self.outputs.output_zero_point
        return np.asarray(np.clip(scaled, self.outputs.activation_min, self.outputs.activation_max))

    def found(self, form: Upper, sums: Array) -> Array:
        raised = (sums << form.left) * form.factor
        assert np.abs(sums << form.left).max() < 2**31
        assert np.abs((raised >> 32) + form.offset).max() + form.step < 2**31
        return np.asarray(np.clip(form.values(sums), self.outputs.activation_min, self.outputs.activation_max))

    def form(self) -> Upper | None:
        return upper(self.outputs, self.multiplier, self.shift, self.reach)


@st.composite
def layers(draw: st.DrawFn) -> Scaled:
    low, high = sorted(draw(st.tuples(st.integers(-128, 127), st.integers(-128, 127))))
    reach = -draw(st.integers(0, 70000)), draw(st.integers(0, 70000))
    real = draw(st.one_of(st.floats(2.0**-20, 2.0**10), st.integers(-12, 6).map(lambda n: 2.0**n)))
    multiplier, shift = fixedpoint.quantize_multiplier(real, 70000)
    return Scaled(Outputs(draw(st.integers(-128, 127)), low, high), multiplier, shift, reach)


@settings(max_examples=200, deadline=None)
@given(layers(), st.booleans())
def test_an_upper_half_equals_the_reference_for_every_sum(layer: Scaled, single: bool) -> None:
    with fixedpoint.rounding(single):
        form = layer.form()
        if form is not None:
            sums = np.arange(layer.reach[0], layer.reach[1] + 1)
            assert np.array_equal(layer.found(form, sums), layer.expected(sums))


def usual(real: float) -> Scaled:
    """Outputs of both signs, as of a Mul."""
    return Scaled(Outputs(3, -128, 127), *fixedpoint.quantize_multiplier(real), (-65025, 65025))


def test_usual_layers_have_one() -> None:
    rng = np.random.default_rng(0)
    scaled = [usual(float(real)) for real in 2.0 ** rng.uniform(-11, -4, 200)]
    assert sum(layer.form() is not None for layer in scaled) >= 190


@pytest.mark.parametrize("real", [2.0**-7, 0.011])
def test_other_integers_differ(real: float) -> None:
    """Halves need the step; an offset that is further off than it may be gives another output somewhere."""
    layer = usual(real)
    form, sums = layer.form(), np.arange(-65025, 65026)
    assert form is not None
    for other in (
        replace(form, step=0),
        replace(form, offset=form.offset + (1 << form.right - 4)),
        replace(form, offset=form.offset - (1 << form.right - 4)),
        replace(form, factor=form.factor - (form.factor >> 9)),
    ):
        assert not np.array_equal(layer.found(other, sums), layer.expected(sums))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.data())
@example([2**22], None)
@example([1], None)
@example([490], None)
def test_reciprocals_divide_every_sum_of_int8_values(counts: list[int], data: st.DataObject | None) -> None:
    """Exactly, or from below, so that counting up ends at the quotient; no product leaves 32 bits."""
    factors, shift, exact = reciprocals(counts)
    for count, factor in zip(counts, factors, strict=True):
        largest = 128 * count + count // 2
        sums = np.unique(
            np.r_[np.arange(min(largest, 200000)), np.linspace(0, largest, 50000).astype(np.int64), largest]
        )
        quotient = sums * factor >> shift
        assert int(largest) * factor < 2**32
        assert (quotient <= sums // count).all()
        assert (sums // count - quotient).max() <= (0 if exact else 1 + count // 2**16)


def test_a_count_has_a_factor_or_is_counted_up() -> None:
    assert [reciprocals([count])[2] for count in (1, 2, 9, 64, 125, 361, 490, 2304)] == [True] * 6 + [False] * 2
    assert reciprocals([2, 3, 4, 6, 9])[2]


def test_a_mean_is_counted_up_where_its_factor_is_too_small(tmp_path: Path) -> None:
    """245 values of 99 and 245 of 100: half away from zero, and the product alone says 99."""
    (case,) = (case for case in BY_NAME["average_pool"].cases() if case.name == "average_pool_many")
    values = np.repeat(np.array([99, 100], np.int8), 245)
    sample = np.tile(values, (5, 1)).ravel()
    assert (interpret.run(case.network, [sample])[0] == 100).all()
    files = emit(case.network, EmitOptions("m", TARGETS["generic"]))
    (found,) = host.call(host.shared_library(tmp_path / "true", files), "m_run", [sample], [5])
    assert (found == 100).all()
    files["m.c"] = files["m.c"].replace("490u >= 490u", "490u >= 1000u")
    (found,) = host.call(host.shared_library(tmp_path / "false", files), "m_run", [sample], [5])
    assert (found == 99).all()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_walk_takes_each_value_of_a_window_once(data: st.DataObject) -> None:
    number: Callable[[int, int], int] = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    kernel = number(1, 13), number(1, 13)
    dilation = number(1, 3), number(1, 3)
    size = tuple((k - 1) * d + 1 + number(0, 3) for k, d in zip(kernel, dilation, strict=True))
    place = Window((size[0], size[1], number(1, 5)), (1, 1), kernel, (1, 1), dilation, (0, 0), (0, 0))
    own, at, visited = walk(place), 0, []
    for _ in range(own.rows):
        for _ in range(own.passes):
            visited += [at + offset for offset in own.offsets]
            at += own.step if own.passes > 1 else 0
        visited += [at + offset for offset in own.rest]
        at += own.skip
    row, column = dilation[0] * size[1] * place.input[2], dilation[1] * place.input[2]
    assert visited == [v * row + u * column for v in range(kernel[0]) for u in range(kernel[1])]
    assert len(visited) == own.taps


# --- the functions in C for ARMv6-M, which this machine can compute too ----------------------------------------------


def compiled(folder: Path, name: str, signature: str) -> ctypes.CDLL:
    """`name` of nnbuild/csrc with `signature`, callable as `f`."""
    own = resources.files("nnbuild") / "csrc"
    texts = [(own / f"{part}.h").read_text() for part in ("nn_shift_right", name)]
    arguments = ", ".join(re.findall(r"(\w+)(?:,|\))", signature))
    function = re.sub(r"\bnn_\w+\(", "f(", signature)
    called = re.search(r"nn_\w+", signature)
    assert called is not None
    text = "\n".join(
        ["#include <stdint.h>", *texts, f"{function};", f"{function} {{ return {called[0]}({arguments}); }}"]
    )
    return host.shared_library(folder, {"f.c": text})


INT32 = st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from([-(2**31), -1, 0, 1, 0x7FFF8000, 2**31 - 1]))
POSITIVE = st.one_of(st.integers(0, 2**31 - 1), st.sampled_from([0, 1, 0xFFFF, 0x10000, 2**31 - 1]))


def test_products_from_halves(tmp_path: Path) -> None:
    upper_half = compiled(
        tmp_path / "u", "nn_upper_half_armv6m", "int32_t nn_upper_half(int32_t a, int32_t b, uint32_t added)"
    )
    high = compiled(tmp_path / "h", "nn_multiply_high_armv6m", "int32_t nn_multiply_high(int32_t a, int32_t b)")
    product = compiled(tmp_path / "p", "nn_product_armv6m", "uint64_t nn_product(uint32_t a, uint32_t b)")
    product.f.restype = ctypes.c_uint64

    @settings(max_examples=500, deadline=None)
    @given(INT32, POSITIVE, st.integers(0, 2**16 - 1))
    def check(a: int, b: int, added: int) -> None:
        assert upper_half.f(a, b, ctypes.c_uint32(added << 16)) == a * b + (added << 16) >> 32
        assert high.f(a, b) == int(fixedpoint.multiply_high(a, b))
        assert product.f(ctypes.c_uint32(a), ctypes.c_uint32(2 * b)) == a % 2**32 * (2 * b)

    check()
