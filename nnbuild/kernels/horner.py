"""Horner words: four output channels share the load of each input and of each word of weights. Portable C.

The weights of four channels for one input lie in one word, (w3 << 24) + ((w2 + 128) << 16) + ((w1 + 128) << 8) +
(w0 + 128). With an input x, the sums of x * word, x * (word >> 8), x * (word >> 16) and x * (word >> 24) modulo 2^32
give the four channels' sums, once each is relieved of the one above it and of 128 times the sum of the inputs. No sign
is extended, and nothing can overflow. Channels are padded to a multiple of four with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnbuild.contract import LayerView, Source
from nnbuild.kernels import wide_requantize
from nnbuild.kernels.exact_requantize import requantization
from nnbuild.network import Array
from nnbuild.placeholder import is_placeholder, placeholder
from nnbuild.target import Target


def words(weights: Array) -> Array:
    """(channels, taps) int8 -> int32 words, one for each four channels and tap, taps running fastest."""
    channels, taps = weights.shape
    if is_placeholder(weights):
        return placeholder((-(-channels // 4) * taps,), np.int32)
    padded = np.zeros((-(-channels // 4) * 4, taps), np.int64)
    padded[:channels] = weights
    blocks = padded.reshape(-1, 4, taps)
    offset = blocks + np.array([128, 128, 128, 0])[:, None]
    packed = (offset << (8 * np.arange(4))[:, None]).sum(axis=1)
    return np.asarray(packed.ravel().astype(np.int32))


def _source(template: str, view: LayerView, target: Target, raised: int = 0, **values: Any) -> Source:
    """Words of weights, and how sums become outputs; kernels add `raised` to each input."""
    weights = view.constants["weights"]
    flat = weights.reshape(len(weights), -1)
    line, constants = requantization(view, flat, view.params.input_zero_point, target, raised)
    values = {"p": view.params, "line": line, "raised": 0 if line is None else raised, **values}
    return Source(template, values, {"weights": words(flat), **constants})


def supports_conv2d(view: LayerView, target: Target) -> str | None:
    """All channels must see the same inputs."""
    return None if view.params.groups == 1 else "groups share no inputs"


def conv2d(view: LayerView, target: Target, raised: int = 0) -> Source:
    """A conv2d layer without groups; see `_source`."""
    place = view.params.window
    return _source(
        "horner_conv2d.c.j2",
        view,
        target,
        raised,
        w=place,
        gathers=place.gathers,
        spare=raised > 0 and not place.gathers,
        backwards=view.backwards,
    )


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_conv2d.c.j2; `word` is one input and the weights of four channels."""
    place = view.params.window
    rows, blocks = place.kernel[0], place.pixels * -(-view.params.channels // 4)
    taps = rows * place.kernel[1] * place.input[2]
    own = {"output": view.output.size, **place.trips(place.gathered)}
    if rows == 1:
        return {**own, "input": place.pixels * taps, "block": blocks, "word": blocks * taps}
    # Loops inside of loops over rows: other code, with other registers.
    inner = {"row_input": place.pixels * taps, "row_word": blocks * taps}
    return {**own, "input_row": place.pixels * rows, "row": blocks * rows, **inner}


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_fully_connected.c.j2."""
    params = view.params
    blocks = params.rows * -(-params.outputs // 4)
    own = {"input": params.rows * params.inputs, "block": blocks, "word": blocks * params.inputs}
    return {**own, "output": view.output.size, "vector": params.rows}


def fully_connected(view: LayerView, target: Target) -> Source:
    """A fully connected layer."""
    return _source("horner_fully_connected.c.j2", view, target)


def wide(view: LayerView, target: Target, raised: int = 0) -> Source:
    """A layer with 16-bit activations (`wide_conv2d`) without groups; the kernel adds `raised` to each input."""
    from nnbuild.kernels import dual

    weights = view.constants["weights"]
    flat = weights.reshape(len(weights), -1)
    form, own = wide_requantize.requantization(view, flat, raised)
    values = {**dual.values(view), "form": form, "raised": raised, "spare": False}
    return Source("wide_horner.c.j2", values, {"weights": words(flat), "scaling": own.ravel()})
