"""Lines that replace a 64-bit requantization: equal to the reference everywhere, and a wrong one is never proved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbuild import fixedpoint
from nnbuild.kernels import exact_requantize
from nnbuild.kernels.exact_requantize import Channels, Line, proves, search
from nnbuild.network import Array
from nnbuild.ops import BY_NAME, add
from nnbuild.placeholder import is_placeholder, placeholder


def computed(line: Line, sums: Array) -> Array:
    """What a kernel computes for `sums` (channels, any) from the words of each channel, every operation in 32 bits."""
    form, words = line.form, [column[:, None] for column in line.words().reshape(-1, line.form.size).T]
    above = sums.astype(np.int32)
    if form.bounded:
        above = np.clip(above + words[0], 0, words[1])
        words = words[2:]
    a, factors = above.astype(np.uint32), words[0].astype(np.uint32)
    total = a * (factors >> np.uint32(16)) + words[1].astype(np.uint32)
    if form.wide:
        low = factors & np.uint32(0xFFFF)
        total += (above >> 16).astype(np.uint32) * low + ((a & np.uint32(0xFFFF)) * low >> np.uint32(16))
    else:
        low_product = (above >> form.dropped) * words[0].astype(np.int16).astype(np.int32)
        total += (low_product >> form.low - form.dropped).astype(np.uint32)
    shifted = total.astype(np.int32)
    if form.two_sided:
        steps = words[2].astype(np.uint32)
        shifted = np.where(shifted < 0, shifted - (steps >> np.uint32(16)).astype(np.int32), shifted)
        high = (steps >> np.uint32(8) & np.uint32(255)).astype(np.int32)
        value = (shifted + (np.int32(1) << high - 1) >> high) + (steps & np.uint32(255)).astype(np.int32)
    else:
        value = (total >> np.uint32(form.high)).astype(np.int64) if form.unsigned else shifted >> form.high
    return np.asarray(np.clip(value, 0, form.span)).astype(np.int64)


@st.composite
def layers(draw: st.DrawFn, reach: int = 2**24) -> Channels:
    """Channels of one layer: scales within a few octaves, biases and sums of any size up to `reach`."""
    count = draw(st.integers(1, 4))
    octave = draw(st.floats(-22, 6))
    real = [2.0 ** (octave + draw(st.floats(-3, 3))) for _ in range(count)]
    lowest = [-draw(st.integers(0, reach)) for _ in range(count)]
    highest = [draw(st.integers(0, reach)) for _ in range(count)]
    bias = [draw(st.integers(-reach, reach)) for _ in range(count)]
    # As lowering does it: the multiplier is such that no sum leaves 32 bits when it is shifted.
    pairs = [fixedpoint.quantize_multiplier(each, 2 * reach) for each in real]
    span = draw(st.integers(1, 255))
    zero = draw(st.one_of(st.integers(0, span), st.integers(-300, 300)))
    multiplier, shift = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    return Channels(np.array(bias), multiplier, shift, np.array(lowest), np.array(highest), zero, span)


@settings(max_examples=150, deadline=None)
@given(layers(reach=1500), st.booleans(), st.booleans())
def test_a_line_equals_the_reference_for_every_sum(channels: Channels, single: bool, long: bool) -> None:
    with fixedpoint.rounding(single):
        line = search(channels, long)
        if line is None:
            return
        sums = np.arange(channels.lowest.min(), channels.highest.max() + 1)[None, :]
        reachable = (sums >= channels.lowest[:, None]) & (sums <= channels.highest[:, None])
        wrong = computed(line, np.repeat(sums, channels.bias.size, axis=0)) != channels.values(sums)
        assert not (wrong & reachable).any()


@settings(max_examples=150, deadline=None)
@given(layers(), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_line_equals_the_reference_around_its_thresholds(
    channels: Channels, single: bool, long: bool, seed: int
) -> None:
    with fixedpoint.rounding(single):
        line = search(channels, long)
        if line is None:
            return
        thresholds = channels.thresholds()
        random = np.random.default_rng(seed)
        anywhere = random.integers(channels.lowest[:, None], channels.highest[:, None] + 1, (channels.bias.size, 500))
        around = [thresholds + offset for offset in (-2, -1, 0, 1)]
        sums = np.concatenate([*around, anywhere], axis=1)
        sums = np.clip(sums, channels.lowest[:, None], channels.highest[:, None])
        assert np.array_equal(computed(line, sums), channels.values(sums))


def usual(two_sided: bool) -> Channels:
    """64 channels of an ordinary layer."""
    random = np.random.default_rng(3)
    pairs = [fixedpoint.quantize_multiplier(float(real), 2**22) for real in random.uniform(0.002, 0.008, 64)]
    bias, reach = random.integers(-20000, 20000, 64), random.integers(100_000, 600_000, 64)
    multiplier, shift = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    return Channels(bias, multiplier, shift, -reach, reach, 117 if two_sided else 0, 255)


@pytest.mark.parametrize("two_sided", [False, True])
def test_ordinary_layers_take_two_words_a_channel(two_sided: bool) -> None:
    line = search(usual(two_sided))
    assert line is not None
    assert line.words().size == 64 * (3 if two_sided else 2)
    assert not line.form.wide
    assert not line.form.bounded


@pytest.mark.parametrize("two_sided", [False, True])
def test_long_layers_are_bounded(two_sided: bool) -> None:
    line = search(usual(two_sided), long=True)
    assert line is not None
    assert line.words().size == 64 * (5 if two_sided else 4)
    assert line.form.bounded


def test_long_sums_take_the_wide_form() -> None:
    channels = usual(False)
    flat = replace(channels, shift=channels.shift - 5, lowest=channels.lowest * 32, highest=channels.highest * 32)
    line = search(flat)
    assert line is not None
    assert line.form.wide


def test_sums_far_beyond_their_thresholds_are_bounded() -> None:
    """They would leave 32 bits at a scale that is fine enough."""
    channels = usual(False)
    far = replace(channels, lowest=channels.lowest * 400, highest=channels.highest * 400)
    line = search(far)
    assert line is not None
    assert line.form.bounded


def test_without_a_line_there_is_none() -> None:
    """Scales of one layer that are too far apart for one pair of shifts, and sums that do not fit 32 bits."""
    channels = usual(False)
    shift = np.where(np.arange(64) == 7, 8, channels.shift - 9)
    far = replace(channels, shift=shift, lowest=channels.lowest * 512, highest=channels.highest * 512)
    assert search(far) is None
    assert search(replace(channels, highest=channels.lowest + 2**31)) is None


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("name", ["bias", "limit", "slope", "offset", "steps", "high", "zero"])
def test_a_wrong_integer_is_never_proved(name: str, two_sided: bool, long: bool) -> None:
    """Every integer of every channel, changed so that some output changes, is noticed."""
    channels = usual(two_sided)
    line, thresholds = search(channels, long), channels.thresholds()
    assert line is not None
    assert proves(line, channels, thresholds)
    if (name in ("bias", "limit") and not long) or (name in ("steps", "zero") and not two_sided):
        return
    if name == "zero":
        assert not any(proves(replace(line, zero=line.zero + by), channels, thresholds) for by in (-1, 1))
        return
    large = {"slope": 1 << 17, "offset": 1 << 15, "steps": 1 << 15}.get(name, 1)
    for change in (-large, large):
        for channel in range(channels.bias.size):
            column = getattr(line, name).copy()
            column[channel] += change
            if (name, change) != ("limit", 1):  # beyond it the line may go on
                assert not proves(replace(line, **{name: column}), channels, thresholds), (channel, change)


@pytest.mark.parametrize("long", [False, True])
def test_what_is_proved_is_right_for_small_changes_too(long: bool) -> None:
    """Changes that `proves` lets pass change no output."""
    channels = usual(True)
    line, thresholds = search(channels, long), channels.thresholds()
    assert line is not None
    sums = np.concatenate([thresholds - 1, thresholds], axis=1)
    expected = channels.values(sums)
    passed = 0
    for name in ("slope", "offset", "steps"):
        for change in (-300, -40, -3, -1, 1, 3, 40, 300):
            changed = replace(line, **{name: np.maximum(getattr(line, name) + change, -1 if name == "offset" else 0)})
            if name == "offset":
                changed = replace(line, offset=line.offset + change)
            if proves(changed, channels, thresholds):
                passed += 1
                assert np.array_equal(computed(changed, sums), expected)
            else:
                assert not np.array_equal(computed(changed, sums), expected)
    assert passed > 0


@pytest.mark.parametrize("long", [False, True])
def test_a_line_that_leaves_32_bits_is_not_proved(long: bool) -> None:
    """16 times as fine a line, which is as right, but for what is lost above 32 bits."""
    channels = usual(False)
    line, thresholds = search(channels, long), channels.thresholds()
    assert line is not None
    form = replace(line.form, high=line.form.high + 6)
    scaled = replace(line, form=form, slope=line.slope * 64, offset=line.offset * 64, high=line.high + 6)
    assert np.array_equal(scaled.values(thresholds), channels.values(thresholds))
    assert not proves(scaled, channels, thresholds)


def test_a_line_that_falls_is_not_proved() -> None:
    """What a sum loses by the bits that are dropped must not outweigh its slope."""
    bias, multiplier, shift, lowest, highest = (np.array([number]) for number in (0, 0, 0, -200, 200))
    channels = Channels(bias, multiplier, shift, lowest, highest, 7, 255)
    line, thresholds = search(channels), channels.thresholds()
    assert line is not None
    form = replace(line.form, low=15, dropped=3)
    assert proves(replace(line, form=form), channels, thresholds)
    falling = replace(line, form=form, slope=np.array([(1 << 15) - (1 << 13)]), offset=np.array([7 << line.form.high]))
    assert form.factors(falling.slope)[1] < 0
    assert (np.diff(falling.totals(np.arange(-200, 201)[None, :])) < 0).any()
    assert not proves(falling, channels, thresholds)


def test_placeholders_have_a_form_of_the_same_size() -> None:
    """What `check` asks: bytes, without values."""
    for two_sided in (False, True):
        for long in (False, True):
            channels = usual(two_sided)
            line, unread = search(channels, long), replace(channels, bias=placeholder((64,), np.int64))
            judged = search(unread, long)
            assert line is not None
            assert judged is not None
            assert is_placeholder(judged.words())
            assert judged.words().nbytes == line.words().nbytes


def additions() -> list[add.AddParams]:
    return [layer.params for case in BY_NAME["add"].cases() for layer in case.network.layers if layer.op == "add"]


def added(line: add.Plane, params: add.AddParams, values: Array) -> Array:
    """What a kernel computes for all pairs of `values`, with every operation in 32 bits."""
    total = values[:, None] * line.factors[0] + values * line.factors[1] + line.offset
    assert np.abs(total).max() < 2**31
    if line.away:
        total = total + 2 ** (line.shift - 1) + (total >> 31)
        assert np.abs(total).max() < 2**31
    outputs = (total >> line.shift) + (params.output_zero_point if line.away else 0)
    return np.asarray(np.clip(outputs, params.activation_min, params.activation_max))


def test_an_addition_in_one_line_equals_the_reference_for_every_pair() -> None:
    values = np.arange(-128, 128, dtype=np.int64)
    found = {True: 0, False: 0}
    for params in additions():
        line = add.plane(params)
        if line is not None:
            loops = ((256, 1, 0), (256, 0, 1))
            both = values.astype(np.int8)
            expected = add.reference(replace(params, loops=loops), {}, [both, both])
            assert np.array_equal(added(line, params, values).ravel(), expected.ravel())
            found[line.away] += 1
    assert found[False] >= 10
    assert found[True] >= 1


def test_halves_in_an_addition_go_away_from_zero() -> None:
    """0.5 and 0.5 to a scale of 1: every odd sum is a half, rounded away from zero on both sides of it."""
    halves = [p for p in additions() if p.zero_points == (5, 5) and p.signs == (1, 1)]
    line = add.plane(halves[0])
    assert line is not None
    assert line.away
    values = np.arange(-128, 128, dtype=np.int64)
    straight = added(line, halves[0], values) != added(replace(line, offset=line.offset + 1), halves[0], values)
    assert straight.any()


def test_the_search_is_quick() -> None:
    """Of a thousand channels: a build of a large network must not be held up."""
    import time

    channels = usual(True)
    start = time.perf_counter()
    for _ in range(16):
        assert exact_requantize.search(channels) is not None
    assert time.perf_counter() - start < 10
