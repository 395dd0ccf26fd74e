"""Layouts as offsets: loops visit what they say, for any chain of transposes, reshapes and broadcasts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nnbuild import layout

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(SHAPES, st.randoms())
def test_a_transposed_layout_is_loops(shape: list[int], random: object) -> None:
    order = list(range(len(shape)))
    random.shuffle(order)  # type: ignore[attr-defined]
    offsets = layout.contiguous(shape).transpose(order).ravel()
    loops = layout.loops(offsets)
    assert loops is not None
    assert np.array_equal(layout.visit(loops, 0), offsets)


@given(SHAPES, st.data())
def test_broadcast_layouts_are_common_loops(shape: list[int], data: st.DataObject) -> None:
    kept = [n if data.draw(st.booleans()) else 1 for n in shape]
    full = layout.contiguous(shape).ravel()
    other = np.broadcast_to(layout.contiguous(kept), shape).ravel()
    loops = layout.loops(full, other)
    assert loops is not None
    assert np.array_equal(layout.visit(loops, 0), full)
    assert np.array_equal(layout.visit(loops, 1), other)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=24))
def test_whatever_the_offsets_loops_are_right_or_none(values: list[int]) -> None:
    offsets = np.array(values)
    loops = layout.loops(offsets)
    assert loops is None or np.array_equal(layout.visit(loops, 0) + offsets[0], offsets)


def test_irregular_offsets_have_no_loops() -> None:
    assert layout.loops(np.array([0, 1, 3, 2, 4, 5])) is None


def test_expression_reads_like_c() -> None:
    assert layout.expression(((3, 20), (5, 0), (4, 1)), 0) == "i1 * 20 + i3"
    assert layout.expression(((3, 0),), 0) == "0"
    assert layout.expression(((3, 2),), 0, start=7) == "7 + i1 * 2"
