"""Kernels for int16 inputs: two products at a time by SMLAD where the core has it, and the same bits elsewhere.

`dual` is for convolutions without groups and for matrix products, in C; see smlad.py for assembly. It takes two pixels
and two channels together: of a word with the weights of four inputs SXTB16 makes two pairs, which meet the inputs of
both pixels. `pairs` is for depthwise windows and takes two
channels of a pixel with each load, on every core. The zero point of int16 is 0, so what lies outside of the input adds
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnbuild.contract import LayerView, Overlap, Source
from nnbuild.network import Array
from nnbuild.placeholder import is_placeholder, placeholder
from nnbuild.ram import overlap
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.ops.spatial import Window

FOURS = 4
"""The most fours of inputs of one pass of a loop of `dual`."""
UNROLLED = 9
"""Values of a depthwise window up to which they stand one behind the other."""
SPANS = 3
"""Of different widths of windows that are cut at the sides, each has code of its own up to so many."""


def values(view: LayerView) -> dict[str, Any]:
    """What templates of layers with 16-bit activations print, whatever the kernel."""
    place = view.params.window
    types = {"source": f"{view.inputs[0].dtype}_t", "result": f"{view.output.dtype}_t"}
    return {"p": view.params, "w": place, "gathers": place.gathers, "backwards": view.backwards, **types}


def supports_conv2d(view: LayerView, target: Target) -> str | None:
    """int16 inputs that all channels share, and a core with SMLAD."""
    if not view.inputs[0].quant.wide:
        return "its input is int8"
    if view.params.groups != 1:
        return "groups share no inputs"
    return None if target.dsp else "this core has no DSP instructions"


def conv2d(view: LayerView, target: Target) -> Source:
    """Two pixels and two channels at a time."""
    from nnbuild.ops import channels

    params, weights = view.params, view.constants["weights"]
    by_row = weights.reshape(params.channels, params.window.kernel[0], -1)
    own = channels.upper_constants(params, weights.reshape(params.channels, -1), view.constants)
    length = by_row.shape[2]
    unrolled = max(count for count in range(1, FOURS + 1) if length // 4 % count == 0)
    more = {"fours": length // 4, "unrolled": unrolled, "tail": length % 4, "length": length}
    return Source("dual_conv2d.c.j2", {**values(view), **more}, {"weights": arranged(by_row), **own})


def arranged(weights: Array) -> Array:
    """(channels, rows, inputs) int8 -> by two channels: of each row the fours of both, then what is left over of both.

    A four has its second and third weight exchanged, so that bytes 0 and 2 are the first pair. Channels are padded to
    an even number with zeros.
    """
    channels, rows, inputs = weights.shape
    even = channels + channels % 2
    if is_placeholder(weights):
        return placeholder((even * rows * inputs,), np.int8)
    padded = np.pad(weights, ((0, even - channels), (0, 0), (0, 0))).reshape(even // 2, 2, rows, inputs)
    whole = inputs // 4 * 4
    fours = padded[..., :whole].reshape(even // 2, 2, rows, whole // 4, 4)[..., [0, 2, 1, 3]]
    left = padded[..., whole:].transpose(0, 2, 3, 1)
    parts = [fours.transpose(0, 2, 3, 1, 4).reshape(even // 2, rows, -1), left.reshape(even // 2, rows, -1)]
    return np.ascontiguousarray(np.concatenate(parts, axis=2)).ravel()


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of dual_conv2d.c.j2; `four` is four inputs of two pixels for two channels."""
    place = view.params.window
    length = place.kernel[1] * place.input[2]
    blocks = -(-place.pixels // 2) * -(-view.params.channels // 2)
    rows = blocks * place.kernel[0]
    loops = {"block": blocks, "row": rows, "four": rows * (length // 4), "single": rows * (length % 4)}
    return {**place.trips(place.gathered), **loops, "output": view.output.size}


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Two pixels at a time, upwards, whose windows are read as long as their outputs are written."""
    place = view.params.window
    pixels = [np.arange(place.pixels)]
    below = overlap.by_pairs(place, view.params.channels, pixels, whole=False, sizes=view.sizes)
    return {0: Overlap(below, view.inputs[0].bytes)}


def conv2d_scratch(view: LayerView, target: Target) -> int:
    """Two patches."""
    from nnbuild.ops import wide_conv2d

    return 2 * wide_conv2d.scratch(view, target)


def supports_depthwise(view: LayerView, target: Target) -> str | None:
    """int16 inputs, an even number of channels, and no dilation."""
    if not view.inputs[0].quant.wide:
        return "its input is int8"
    if view.params.window.dilation != (1, 1):
        return "its windows are dilated"
    return "its channels are odd" if view.params.window.input[2] % 2 else None


def depthwise(view: LayerView, target: Target) -> Source:
    """Two channels at a time; windows are cut to the input."""
    from nnbuild.ops import channels

    weights = view.constants["weights"]
    flat = weights.reshape(-1, weights.shape[2])
    own = channels.upper_constants(view.params, flat.T, view.constants)
    shown = {**values(view), "spans": _spans(view.params.window)}
    return Source("dual_depthwise_conv2d.c.j2", shown, {"weights": flat.astype(np.int16), **own})


def depthwise_over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Pixel by pixel, and two channels at a time, upwards."""
    own = overlap.by_channels(view.params.window, view.sizes)
    return {0: overlap.upwards(own, view.inputs[0].bytes)}


def depthwise_scratch(view: LayerView, target: Target) -> int:
    """A row of zeros, for windows that reach outside."""
    place = view.params.window
    return 2 * place.kernel[1] * place.input[2] if place.gathers and _spans(place) else 0


def _spans(place: Window) -> list[tuple[int, int]]:
    """The columns, from and to, that windows have inside of the input; none where windows are large or widths many."""
    lefts = [x * place.stride[1] - place.pad[1] for x in range(place.output[1])]
    found = {(max(0, -left), min(place.kernel[1], place.input[1] - left)) for left in lefts}
    small = place.kernel[0] * place.kernel[1] <= UNROLLED and len(found) <= SPANS
    return sorted(found) if small and all(first < end for first, end in found) else []


def depthwise_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of dual_depthwise_conv2d.c.j2; `tap` is one pixel of a window for two channels."""
    place = view.params.window
    rows, columns = place.clipped()
    pairs = place.input[2] // 2
    own = {"pixel": place.pixels, "pair": place.pixels * pairs}
    if _spans(place):
        return {**own, "tap": columns * place.output[0] * place.kernel[0] * pairs, "zero": place.kernel[1] * 2 * pairs}
    return {**own, "cut_row": rows * place.output[1] * pairs, "cut_tap": rows * columns * pairs}
