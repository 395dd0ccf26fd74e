"""Where the elements of a value lie in memory, as an array of offsets; and copies between two such layouts.

While a model is lowered, a value of ONNX shape S is a tensor and an integer array of shape S: the offset of each
element in the tensor's memory. Transpose, Reshape, Squeeze, Slice and their like then are operations of numpy on that
array; chains of them cancel by themselves, and a copy is made only where an operator asks for another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnbuild.network import Array

Dim = tuple[int, ...]
"""(count, stride of the first array, stride of the second, ...)"""


def contiguous(shape: Sequence[int]) -> Array:
    """Offsets of a value that lies in memory in its own order."""
    return np.arange(math.prod(shape), dtype=np.int64).reshape(tuple(shape))


def memory_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` of an ONNX value without its batch of 1."""
    return tuple(shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)


def is_contiguous(offsets: Array) -> bool:
    """Whether `offsets`, read in order, are 0, 1, 2, ..."""
    flat = offsets.ravel()
    return bool(np.array_equal(flat, np.arange(flat.size)))


def channels_last(index: Array) -> Array:
    """Offsets of a value of ONNX shape (N, C, H, W), (N, C, L) or (N, C) in the order N, H, W, C."""
    return np.moveaxis(index, 1, -1)


def loops(*offsets: Array) -> tuple[Dim, ...] | None:
    """The nested loops, outermost first, that visit all `offsets` (one-dimensional, equal length) in order.

    Each starts at its own first element. None where no loops with constant counts and strides do.
    """
    arrays = [array - array[0] for array in offsets]
    dims: list[Dim] = []
    while arrays[0].size > 1:
        strides = [int(array[1]) for array in arrays]
        count = min(_run(array, stride) for array, stride in zip(arrays, strides, strict=True))
        if arrays[0].size % count:
            return None
        dims.insert(0, (count, *strides))
        arrays = [array[::count] for array in arrays]
    dims = dims or [(1, *(0 for _ in offsets))]
    for position, array in enumerate(offsets):
        if not np.array_equal(visit(dims, position) + array[0], array):
            return None
    return tuple(dims)


def visit(dims: Sequence[Dim], position: int) -> Array:
    """The offsets that nested `dims` produce for array number `position`, one-dimensional."""
    result = np.zeros(1, np.int64)
    for dim in dims:
        result = (result[:, None] + np.arange(dim[0]) * dim[1 + position]).ravel()
    return result


def expression(dims: Sequence[Dim], position: int, start: int = 0) -> str:
    """The C expression of array `position`'s offset inside nested loops over i1, i2, ... (outermost first)."""
    terms = [str(start)] if start else []
    for number, dim in enumerate(dims, 1):
        stride = dim[1 + position]
        if stride and dim[0] > 1:
            terms.append(f"i{number}" if stride == 1 else f"i{number} * {stride}")
    return " + ".join(terms) or "0"


def _run(array: Array, stride: int) -> int:
    """How many leading elements of `array` are 0, stride, 2 * stride, ..."""
    breaks = np.flatnonzero(np.diff(array) != stride)
    return int(breaks[0]) + 1 if breaks.size else int(array.size)
