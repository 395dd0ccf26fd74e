"""A part of a value. ONNX Slice; Split arrives as Slices (see `nnbuild.passes.split_to_slices`)."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from nnbuild.contract import Case, Operator
from nnbuild.lower import Lowering
from nnbuild.network import Array
from nnbuild.ops import views


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Slice(x, starts, ends, axes, steps) with known bounds: fewer offsets, and no layer."""
    starts, ends = views.numbers(ctx, node, 1), views.numbers(ctx, node, 2)
    axes = views.numbers(ctx, node, 3, list(range(len(starts))))
    steps = views.numbers(ctx, node, 4, [1] * len(starts))
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ctx.refuse(node, f"starts {starts}, ends {ends}, axes {axes} and steps {steps} do not fit")

    def move(index: Array) -> Array:
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if not -index.ndim <= axis < index.ndim:
                raise ctx.refuse(node, f"axis {axis} of {index.ndim} dimensions")
            index = index.take(_picked(start, end, step, index.shape[axis]), axis)
        return index

    views.define(ctx, node, move)


def _picked(start: int, end: int, step: int, size: int) -> range:
    """The positions that ONNX takes of an axis of `size`: negative bounds count from its end, all are clamped."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    first, last = (min(max(bound + size if bound < 0 else bound, low), high) for bound in (start, end))
    return range(min(first, size - 1) if step < 0 else first, last, step)


def cases() -> Iterable[Case]:
    """Each end of an axis, steps, backwards, several axes, channels."""
    from nnbuild.ops import singles

    yield singles.moved("slice_rows", "Slice", (1, 3, 6, 5), ([2], [5], [2]))
    yield singles.moved("slice_channels", "Slice", (1, 5, 3, 4), ([-4], [-1], [1]))
    yield singles.moved("slice_steps", "Slice", (1, 2, 7, 9), ([1, 8], [7, -100], [2, 3], [2, -3]))
    yield singles.moved("slice_vector", "Slice", (1, 17), ([3], [1000], [1]))


OPERATOR = Operator(
    name="slice",
    summary="a part of a value",
    onnx=("Slice",),
    lower=lower,
    quantization=lambda node: views.QUANTIZATION,
    cases=cases,
)
