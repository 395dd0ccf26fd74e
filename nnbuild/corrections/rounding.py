"""Weights are rounded so that a layer's output, and not each weight, is nearest to what it would be in float.

With the weights' error d of an output channel and the inputs' Gram matrix G, the channel's squared error is d G d. One
weight after the other takes the integer that is best while all others stay (coordinate descent; COMQ, Zhang et al.,
arXiv:2403.07134; the problem is that of AdaRound, Nagel et al., arXiv:2004.10568).
"""

from __future__ import annotations

import numpy as np
import onnx

from nnbuild.corrections.layers import Layer, matrix, walk
from nnbuild.network import Array
from nnbuild.passes.graph import attribute
from nnbuild.samples import Sample

_SWEEPS = 4
_PATCHES = 8192  # of a layer that count, spread over all samples
_DAMPING = 0.01  # of the mean input power: what few samples say nothing about is rounded to nearest
_MOST_WORK = 2_000_000_000  # multiplications of a sweep; a layer beyond stays as it is
_LARGEST = 127


def correct(model: onnx.ModelProto, int8: onnx.ModelProto, samples: list[Sample]) -> onnx.ModelProto:
    """The QDQ model with other integers for weights; scales stay."""
    return walk(model, int8, samples, _round)


def _round(layer: Layer) -> None:
    found = layer.stored(1)
    if found is None:
        return
    stored, scales = found
    axis = layer.channel_axis
    wanted = matrix(layer.real, axis) / scales.astype(np.float64).reshape(-1, 1)
    steps = matrix(stored, axis)
    groups = int(attribute(layer.node, "group", 1))
    if steps.size * steps.shape[1] > _MOST_WORK:
        return
    patches = _patches(layer, groups)
    rows = len(steps) // groups
    for group in range(groups):
        own = slice(group * rows, (group + 1) * rows)
        steps[own] = _descend(wanted[own], steps[own], patches[group].T @ patches[group])
    shape = np.moveaxis(stored, axis, 0).shape
    layer.store(1, np.ascontiguousarray(np.moveaxis(steps.reshape(shape), 0, axis).astype(stored.dtype)))


def _descend(wanted: Array, steps: Array, gram: Array) -> Array:
    """`steps` (channels, n), each weight moved to where the error of `wanted` is least, a few times over."""
    power = float(np.trace(gram)) / len(gram)
    if not power:
        return steps
    gram = gram / power + _DAMPING * np.eye(len(gram))
    steps = steps.copy()
    slope = (steps - wanted) @ gram
    for _ in range(_SWEEPS):
        before = steps.copy()
        for index, own in enumerate(np.diagonal(gram)):
            best = np.clip(np.rint(steps[:, index] - slope[:, index] / own), -_LARGEST, _LARGEST)
            change = best - steps[:, index]
            moved = np.flatnonzero(change)
            slope[moved] += change[moved, None] * gram[index]
            steps[:, index] = best
        if np.array_equal(before, steps):
            break
    return steps


def _patches(layer: Layer, groups: int) -> Array:
    """(groups, patches, n): what the weights of a group are multiplied with, in their order, in float64."""
    if layer.node.op_type != "Conv":
        rows = np.concatenate([values.reshape(-1, values.shape[-1]) for values in layer.inputs]).astype(np.float64)
        return _some(rows, 0)[None]
    per_sample = -(-_PATCHES // len(layer.inputs))
    found = np.concatenate([_windows(layer, values, groups, per_sample) for values in layer.inputs], axis=1)
    return found.astype(np.float64)


def _some(rows: Array, axis: int, most: int = _PATCHES) -> Array:
    count = rows.shape[axis]
    return rows if count <= most else np.take(rows, np.arange(most) * count // most, axis=axis)


def _windows(layer: Layer, values: Array, groups: int, most: int) -> Array:
    """Of one input (1, C, ...): (groups, windows, n), at most so many windows."""
    spatial = values.ndim - 2
    kernel = layer.real.shape[2:]
    pads = attribute(layer.node, "pads", [0] * 2 * spatial)
    strides, dilations = (attribute(layer.node, name, [1] * spatial) for name in ("strides", "dilations"))
    padded = np.pad(values[0], [(0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    reach = tuple(dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(1, spatial + 1)))
    places = tuple(slice(None, None, stride) for stride in strides)
    taps = tuple(slice(None, None, dilation) for dilation in dilations)
    views = views[(slice(None), *places, *taps)]
    channels = len(views)
    # (C, positions, taps), then the channels of a group behind the positions.
    flat = views.reshape(channels, -1, int(np.prod(kernel)))
    flat = _some(flat, 1, most)
    grouped = flat.reshape(groups, channels // groups, flat.shape[1], flat.shape[2]).swapaxes(1, 2)
    return np.asarray(grouped.reshape(groups, flat.shape[1], -1))
