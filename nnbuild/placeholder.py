"""Constants of which only the shape is known: arrays that take no memory, for judging a model by its shapes.

A `Placeholder` is a numpy array whose elements are one element in memory along every axis of stride 0. Arithmetic,
comparisons, reductions and casts work on one element for each such axis and give placeholders again, so a layer with
37 million weights costs as much as one with 37. What numpy does in other ways (a copy, a product of matrices along an
axis that is not uniform) is right too, but takes the memory.

In a protobuf a placeholder is a tensor with shape and type, and data "elsewhere" at a location that no file can have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from nnbuild.network import Array

LOCATION = "\0unread"
"""Where the data of a placeholder lies: no path holds a NUL."""

_REDUCTIONS: dict[Any, Any] = {
    np.add: lambda values, count: values * count,
    np.maximum: lambda values, count: values,
    np.minimum: lambda values, count: values,
    np.logical_and: lambda values, count: values,
    np.logical_or: lambda values, count: values,
}
"""What is left to do once one element has stood for `count` equal ones."""


class Placeholder(np.ndarray[Any, Any]):
    """An array that is uniform along its axes of stride 0; see the module."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Compute on one element for each uniform axis."""
        plain = [np.asarray(value) if isinstance(value, np.ndarray) else value for value in inputs]
        if method == "reduce" and ufunc in _REDUCTIONS and "out" not in options:
            return _reduced(ufunc, plain[0], **options)
        if ufunc is np.matmul and np.ndim(plain[1]) == 2 and plain[1].strides[0] == 0:
            return _spread(plain[0].sum(axis=-1, keepdims=True) * plain[1][0], (*plain[0].shape[:-1], len(plain[1].T)))
        if method != "__call__" or ufunc.signature is not None or "out" in options:
            return getattr(ufunc, method)(*plain, **options)
        shape = np.broadcast_shapes(*(np.shape(value) for value in plain))
        small = [_collapsed(value) if isinstance(value, np.ndarray) else value for value in plain]
        return _spread(ufunc(*small, **options), shape)

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Any:
        """Cast one element for each uniform axis."""
        return _spread(_collapsed(np.asarray(self)).astype(dtype), self.shape)


def placeholder(shape: tuple[int, ...], dtype: Any) -> Array:
    """Ones of `shape`, in the memory of a single element."""
    return _spread(np.ones((), dtype), shape)


def is_placeholder(array: Array) -> bool:
    """Whether only the shape of `array` is known."""
    return isinstance(array, Placeholder)


def packed(array: Array) -> Array:
    """`array`, C-contiguous; a placeholder as it is."""
    return array if is_placeholder(array) else np.ascontiguousarray(array)


def array_of(tensor: TensorProto) -> Array:
    """The elements of a tensor; a Placeholder where they were not read."""
    if is_unread(tensor):
        return placeholder(tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return np.asarray(numpy_helper.to_array(tensor))


def tensor_of(array: Array, name: str) -> TensorProto:
    """The inverse of `array_of`: C-contiguous, of rank 0 where it was (np.ascontiguousarray makes a vector of that)."""
    if not is_placeholder(array):
        return numpy_helper.from_array(np.asarray(array, order="C"), name)
    tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    forget(tensor)
    return tensor


def is_unread(tensor: TensorProto) -> bool:
    """Whether `tensor` is a placeholder."""
    return any(entry.key == "location" and entry.value == LOCATION for entry in tensor.external_data)


def forget(tensor: TensorProto) -> None:
    """Make `tensor` a placeholder: shape and type stay."""
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=LOCATION)


def _collapsed(array: Array) -> Array:
    """`array` with each uniform axis cut down to one element."""
    return array[tuple(slice(0, 1) if not stride else slice(None) for stride in array.strides)]


def _spread(array: Any, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(array, shape).view(Placeholder)


def _reduced(ufunc: Any, array: Array, axis: Any = 0, dtype: Any = None, keepdims: bool = False, **rest: Any) -> Any:
    axes = range(array.ndim) if axis is None else [each % array.ndim for each in np.atleast_1d(axis)]
    count = int(np.prod([array.shape[each] for each in axes if not array.strides[each]], dtype=np.int64))
    small = ufunc.reduce(_collapsed(array), axis=axis, dtype=dtype, keepdims=True, **_without_noise(rest))
    shape = tuple(1 if each in axes else size for each, size in enumerate(array.shape))
    full = np.broadcast_to(_REDUCTIONS[ufunc](small, count), shape)
    if not keepdims:
        full = full[tuple(0 if each in axes else slice(None) for each in range(array.ndim))]
    return full.view(Placeholder) if full.ndim else full[()]


def _without_noise(options: dict[str, Any]) -> dict[str, Any]:
    """Reductions' options that say nothing: numpy's methods pass them on whatever the caller gave."""
    return {
        name: value for name, value in options.items() if name == "initial" or (name == "where" and value is not True)
    }
