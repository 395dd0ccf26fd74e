"""What convolutions have in common, whatever the bits of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnbuild.contract import LayerView
from nnbuild.network import Array
from nnbuild.target import Target


def sums(params: Any, constants: Mapping[str, Array], values: Array) -> Array:
    """Of each window of a map with its weights (OHWI int8, by groups) and biases: (height, width, channels) int64.

    Below 2^31, which is proved in lowering: so float64 holds them exactly and uses the fast matrix product.
    """
    place = params.window
    taps = place.taps(values.reshape(place.input).astype(np.float64), params.input_zero_point)
    taps = taps - params.input_zero_point
    pixels = taps.reshape(*place.output, -1, params.groups, place.input[2] // params.groups)
    filters = constants["weights"].astype(np.float64)
    filters = filters.reshape(params.groups, params.channels // params.groups, -1, filters.shape[-1])
    found = np.einsum("yxtgi,goti->yxgo", pixels, filters, optimize=True).reshape(*place.output, -1)
    return np.asarray(np.rint(found).astype(np.int64) + constants["bias"])


def macs(view: LayerView) -> int:
    """Multiplications, padding included."""
    place = view.params.window
    return view.output.size * int(place.kernel[0] * place.kernel[1] * place.input[2] // view.params.groups)


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of conv2d.c.j2 and wide_conv2d.c.j2."""
    place = view.params.window
    rows, columns = place.kernel
    size = view.output.size
    loops = {"output": size, "row": size * rows, "column": size * rows * columns, "mac": macs(view)}
    return {**place.trips(place.gathered), **loops}


def depthwise_sums(params: Any, constants: Mapping[str, Array], values: Array) -> Array:
    """Of each window of a map with the weights (height, width, channels) and biases of its channels, int64."""
    place = params.window
    taps = place.taps(values.reshape(place.input).astype(np.int64), params.input_zero_point)
    found = np.einsum("yxvuc,vuc->yxc", taps - params.input_zero_point, constants["weights"].astype(np.int64))
    return np.asarray(found + constants["bias"])


def depthwise_macs(view: LayerView) -> int:
    """Multiplications, padding included."""
    return view.output.size * int(np.prod(view.params.window.kernel))
