"""Dual multiplications (SMLAD) in assembly for cores with the DSP extension and without MVE: Cortex-M4, M7, M33.

A halfword h = 256 * b + a + 128 holds the weights of two output channels for one input, a word those for two inputs.
SMLAD of two inputs and the word adds x * h for both; SXTB16 of the word turned by eight bits leaves the two b, and
SMLAD with these gives the upper channel. The lower one is the first sum less 256 times the second and 128 times the
sum of the inputs. All of it is modulo 2^32, so nothing can overflow; the sticky Q flag may be set and nobody reads it.

Inputs are taken four at a time: SXTB16 makes pairs (0, 2) and (1, 3) of them, and weights lie in that order, each row
of a window padded to a multiple of four. A convolution unpacks the windows of two pixels into a patch and shares each
word of weights between them, four channels at a time; a fully connected layer unpacks as it goes, for eight channels.

Sums become outputs by one product of which SMMLAR keeps the upper half; see `Requantization`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnbuild import fixedpoint
from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.kernels import horner
from nnbuild.network import INT8_MAX, INT8_MIN, Array
from nnbuild.placeholder import is_placeholder, placeholder
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.ops.spatial import Window

PAIRED, FOURS, COPIED = 16, 8, 4
"""The most fours of inputs that one pass of a loop takes: convolutions, products, and where windows are unpacked."""
OUTPUTS = 8
"""Channels that a fully connected layer computes together."""
GATHER = ("const int8_t *window", "int8_t *patch", "int32_t length", "int32_t skip", "int32_t rows")
ARRAYS = ("const int8_t *inputs", "int8_t *output", "const int32_t *weights", "const int32_t *scaling")
PAIR = ("int32_t length", "int32_t step", "const int32_t *end", "int32_t start", "int32_t second_start")
ROW = ("int32_t length", "const int32_t *end")


@dataclass(frozen=True, slots=True)
class Requantization:
    """How sums become outputs; each channel has four integers, kernels read them side by side.

    With a = sum + bias, s >= 1 and c = 2^(s - 1) + zero point * 2^s, an output is (top(2 * a * multiplier) + c) >> s,
    clamped to [low, high]; top is the upper half of 64 bits, rounded to nearest (`nearest`), or down where the network
    rounds once. Rounding twice takes halves away from zero, so negative tops are lowered by one (`lowered`), which a
    layer without outputs below its zero point can leave out: there all negative tops end at the clamp.
    """

    nearest: bool
    lowered: bool
    low: int
    high: int


def requantization(view: LayerView, weights: Array, padded: int) -> tuple[Requantization, Array] | None:
    """The form of a layer, and 2 * bias, multiplier, c and s of `padded` channels, flat int32.

    `weights` is (channels, taps), and sums are of raw inputs: the zero point is folded into the bias. None where a
    channel's scale is a half or more, or where its numbers do not fit; a placeholder's have no values.
    """
    params, constants = view.params, view.constants
    twice = not fixedpoint.rounds_once()
    lowered = twice and params.activation_min < params.output_zero_point
    form = Requantization(twice, lowered, params.activation_min, params.activation_max)
    arrays = [weights, constants["bias"], constants["multiplier"], constants["shift"]]
    if any(is_placeholder(array) for array in arrays):
        return form, placeholder((4 * padded,), np.int32)
    taps, bias, multiplier, shift = (array.astype(np.int64) for array in arrays)
    bias = bias - params.input_zero_point * taps.sum(axis=1)
    lowest, highest = (pick(taps * INT8_MIN, taps * INT8_MAX).sum(axis=1) for pick in (np.minimum, np.maximum))
    reach = np.maximum(np.abs(bias + lowest), np.abs(bias + highest))
    # Channels that never change, such as those without weights, may have any scale: no sum counts in them.
    ends = [fixedpoint.requantize(bias + end, multiplier, shift) for end in (lowest, highest)]
    first, last = (np.clip(end + params.output_zero_point, form.low, form.high) for end in ends)
    changes = first != last
    bias, multiplier, reach = (np.where(changes, array, 0) for array in (bias, multiplier, reach))
    right = np.where(changes, -shift, 1)
    at_rest, up = np.where(changes, params.output_zero_point, first), np.maximum(right, 1)
    added = (np.int64(1) << up - 1) + (at_rest << up)
    if (right < 1).any() or (reach >= 2**30).any() or ((reach * multiplier >> 31) + 1 + np.abs(added) >= 2**31).any():
        return None
    own = np.stack([2 * bias, multiplier, added, right], axis=1)
    return form, np.pad(own, ((0, padded - len(own)), (0, 0))).astype(np.int32).ravel()


def words(weights: Array, block: int) -> Array:
    """(channels, rows, inputs) int8 -> int32 words, as the module's text has them, by blocks of `block` channels."""
    channels, rows, inputs = weights.shape
    blocks, fours = -(-channels // block), -(-inputs // 4)
    if is_placeholder(weights):
        return placeholder((blocks * rows * fours * block,), np.int32)
    padded = np.pad(weights.astype(np.int64), ((0, blocks * block - channels), (0, 0), (0, 4 * fours - inputs)))
    # Axes: block, pair of channels, channel of it, row, four inputs, which half of the word, which word.
    channel = padded.reshape(blocks, block // 2, 2, rows, fours, 2, 2)
    half = (256 * channel[:, :, 1] + channel[:, :, 0] + 128) & 0xFFFF
    word = half[..., 0, :] | half[..., 1, :] << 16
    return np.asarray(fixedpoint.wrap32(word.transpose(0, 2, 3, 4, 1)).astype(np.int32).ravel())


def unrolled(count: int, most: int) -> int:
    """The largest divisor of `count` that is at most `most`."""
    return max(number for number in range(1, most + 1) if count % number == 0) if count else 0


def supports(view: LayerView, target: Target) -> str | None:
    """The DSP extension without MVE, with assembly wanted."""
    if not target.dsp:
        return "this core has no DSP instructions"
    if target.mve:
        return "its assembly is for cores without MVE"
    return None if target.assembly else "assembly is switched off"


def outruns_library(target: Target) -> bool:
    """On cores with DSP and without MVE our kernels take half of the cycles of CMSIS-NN's, or less."""
    return not target.mve


def supports_conv2d(view: LayerView, target: Target) -> str | None:
    """The same, and all channels must see the same inputs."""
    return supports(view, target) or horner.supports_conv2d(view, target)


def _segmented(place: Window) -> bool:
    """Whether windows that need it are unpacked pixel by pixel; where pixels are no words, C gathers them first."""
    from nnbuild.ops.conv2d import gathers

    return gathers(place) and place.input[2] % 4 == 0


def _patch(view: LayerView) -> tuple[int, int]:
    """Bytes of the pixel, or the window in whole words, that C prepares for borders, and of two unpacked windows."""
    from nnbuild.ops.conv2d import gathers

    place = view.params.window
    rows, length = place.kernel[0], place.kernel[1] * place.input[2]
    prepared = place.input[2] if _segmented(place) else -(-rows * length // 4) * 4 if gathers(place) else 0
    return prepared, rows * -(-length // 4) * 16


def scratch(view: LayerView, target: Target) -> int:
    """Both patches."""
    return sum(_patch(view))


def conv2d(view: LayerView, target: Target) -> Source:
    """A conv2d layer without groups, two pixels at a time."""
    from nnbuild.ops.conv2d import gathers

    place, weights = view.params.window, view.constants["weights"]
    channels = -(-len(weights) // 4) * 4
    found = requantization(view, weights.reshape(len(weights), -1), channels)
    if found is None:
        source = horner.conv2d(view, target)
        return replace(source, values={**source.values, "spare": not gathers(place)})
    form, scaling = found
    rows, length = place.kernel[0], place.kernel[1] * place.input[2]
    fours, tail = divmod(place.input[2] if _segmented(place) else length, 4)
    gather = {"unrolled": unrolled(fours, COPIED), "tail": tail}
    patch, pairs = _patch(view)
    passes = rows * -(-length // 4)
    dot = {"form": form, "unrolled": unrolled(passes, PAIRED), "flat": passes <= PAIRED, "rest": len(weights) % 4}
    values = {
        **{"p": view.params, "w": place, "gathers": gathers(place), "form": form, "length": length},
        "segmented": _segmented(place),
        **{"patch": patch, "pairs": pairs, "padded": channels},
    }
    return Source(
        "smlad_conv2d.c.j2",
        values,
        {"weights": words(weights.reshape(len(weights), rows, length), 4), "scaling": scaling},
        assembly=(
            Assembly("smlad_gather.S.j2", "gather", "int32_t", GATHER, gather, _gather_length(**gather)),
            Assembly("smlad_pair.S.j2", "dot", "void", (*ARRAYS, *PAIR), dot, _pair_length(form, dot)),
        ),
    )


def fully_connected(view: LayerView, target: Target) -> Source:
    """A fully connected layer, eight channels at a time."""
    params, weights = view.params, view.constants["weights"]
    channels = -(-params.outputs // OUTPUTS) * OUTPUTS
    found = requantization(view, weights, channels)
    if found is None:
        return horner.fully_connected(view, target)
    form, scaling = found
    fours, tail = divmod(params.inputs, 4)
    dot = {"form": form, "unrolled": unrolled(fours, FOURS), "tail": tail, "rest": params.outputs % OUTPUTS}
    return Source(
        "smlad_fully_connected.c.j2",
        {"p": params, "form": form, "padded": channels, "block": OUTPUTS},
        {"weights": words(weights.reshape(params.outputs, 1, params.inputs), OUTPUTS), "scaling": scaling},
        assembly=(Assembly("smlad_row.S.j2", "dot", "void", (*ARRAYS, *ROW), dot, _row_length(form, dot)),),
    )


# How long the functions are, in halfwords; a test compares with what assemblers make of them.


def output_length(form: Requantization) -> int:
    """The macro `output` of smlad_requantize.S.j2."""
    clamp = 2 + sum(2 if limit >= 0 else 4 for limit in (form.low, form.high))
    return (9 if form.lowered else 6) + (2 if (form.low, form.high) == (INT8_MIN, INT8_MAX) else clamp)


def _gather_length(unrolled: int, tail: int) -> int:
    loop = 5 + 11 * unrolled if unrolled else 0
    return 12 + loop + ((13 if tail < 3 else 16) if tail else 0)


def _pair_length(form: Requantization, dot: Mapping[str, Any]) -> int:
    return 70 + 56 * int(dot["unrolled"]) + (0 if dot["flat"] else 10) + 8 * output_length(form)


def _row_length(form: Requantization, dot: Mapping[str, Any]) -> int:
    loop = 24 + 70 * int(dot["unrolled"]) if dot["unrolled"] else 0
    tail = (81 if dot["tail"] < 3 else 89) if dot["tail"] else 0
    return 79 + loop + tail + 8 * output_length(form)


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of smlad_pair.S.j2 and smlad_gather.S.j2, and those of C around them."""
    from nnbuild.ops.conv2d import gathered, place_trips

    place = view.params.window
    rows, length = place.kernel[0], place.kernel[1] * place.input[2]
    pairs, passes = -(-place.pixels // 2), rows * -(-length // 4)
    blocks = pairs * -(-view.params.channels // 4)
    own = _trips(blocks, passes, unrolled(passes, PAIRED), 8 * blocks)
    copied = {"copied": 2 * pairs * passes, "row": 2 * pairs * rows}
    windows = place_trips(place, gathered(place))
    if _segmented(place):
        windows = {"pixel": place.pixels, "segment": windows["gathered_tap"]}
    return {**own, **copied, **windows}


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of smlad_row.S.j2, and that over rows."""
    params = view.params
    blocks, fours = params.rows * -(-params.outputs // OUTPUTS), -(-params.inputs // 4)
    own = _trips(blocks, fours, unrolled(params.inputs // 4, FOURS), OUTPUTS * blocks)
    return {**own, "input": params.rows * fours, "vector": params.rows}


def _trips(blocks: int, fours: int, unrolled: int, outputs: int) -> dict[str, int]:
    """`four` is four inputs for eight sums; `pass` is what a loop takes in one go."""
    return {"block": blocks, "four": blocks * fours, "pass": blocks * fours // max(unrolled, 1), "output": outputs}
