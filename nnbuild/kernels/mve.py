"""Helium (MVE) in assembly: VMLADAV adds up the products of sixteen inputs and weights in one instruction. M55, M85.

Four output channels share each load of inputs. Their weights lie side by side, sixteen of each in turn, and what is
left of a window at its end without padding: lanes of inputs beyond it are loaded as zeros, so it does not matter which
weights they meet, and the array ends with as many bytes as the last load reads beyond. Compilers do without assembly in
principle, but gcc 12 moves sums between vectors and registers inside of its loops.

Windows of one row lie in the input as they are needed. Others are copied to a patch, one behind the other, with the
zero point where they reach outside. Requantization is that of smlad_requantize.py without lines, on four channels at
a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnbuild.contract import Assembly, LayerView, Overlap, Source
from nnbuild.kernels import horner
from nnbuild.kernels.smlad import unrolled
from nnbuild.kernels.smlad_requantize import Requantization, requantization
from nnbuild.network import Array
from nnbuild.placeholder import is_placeholder, placeholder
from nnbuild.ram import overlap
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.ops.spatial import Window

LANES, BLOCK = 16, 4
"""Inputs in a vector, and channels that are computed together."""
UNROLLED = 4
"""The most vectors of inputs that one pass of a loop takes."""
DOT = (
    *("const int8_t *inputs", "int8_t *output", "const int8_t *weights", "const int32_t *scaling"),
    *("int32_t passes", "int32_t channels"),
)
PAIR = (*DOT, "int32_t step", "int32_t windows")
GATHER = (
    *("const int8_t *from", "int8_t *to", "int32_t lead", "int32_t length"),
    *("int32_t gap", "int32_t step", "int32_t rows", "int32_t trail"),
)


class Calls(NamedTuple):
    """How often a layer calls mve_dot.S.j2, or mve_pair.S.j2 for at most that many windows."""

    times: int
    windows: int

    @property
    def several(self) -> bool:
        """Whether there is more than one window in the layer."""
        return self.times * self.windows > 1

    @property
    def turns(self) -> int:
        """Pairs of windows."""
        return self.times * -(-self.windows // 2)


class Copied(NamedTuple):
    """What one call of mve_gather.S.j2 writes, in bytes: `rows` times `length`, `gap` between them, `lead`, `trail`."""

    lead: int
    length: int
    gap: int
    rows: int
    trail: int


def supports(view: LayerView, target: Target) -> str | None:
    """MVE, with assembly wanted."""
    if not target.mve:
        return "this core has no MVE"
    return None if target.assembly else "assembly is switched off"


def supports_conv2d(view: LayerView, target: Target) -> str | None:
    """The same, and all channels must see the same inputs."""
    return supports(view, target) or horner.supports_conv2d(view, target)


def outruns_library(target: Target) -> bool:
    """Fewer instructions than CMSIS-NN's on every layer that was measured."""
    return target.mve


def scaling(view: LayerView, weights: Array, order: Sequence[int]) -> tuple[Requantization, Array] | None:
    """Requantization of vectors, without lines: bias, multiplier, c and -s of `len(order)` channels side by side.

    `order` is that of the lanes within a block; channels are padded to whole blocks. None where that has no form.
    """
    block = len(order)
    padded = -(-len(weights) // block) * block
    found = requantization(view, weights, lines=False)
    if found is None:
        return None
    form, words = found
    if is_placeholder(words):
        return form, placeholder((4 * padded,), np.int32)
    own = words * np.array([1, 1, 1, -1], np.int32)
    own[:, 0] //= 2
    blocks = np.pad(own, ((0, padded - len(own)), (0, 0))).reshape(-1, block, 4)[:, list(order)]
    return form, np.ascontiguousarray(blocks.transpose(0, 2, 1)).ravel()


def interleaved(weights: Array) -> Array:
    """(channels, taps) int8 -> the weights in the order of the module's text, flat int8."""
    channels, taps = weights.shape
    full, tail = divmod(taps, LANES)
    blocks, spare = -(-channels // BLOCK), LANES - tail if tail else 0
    if is_placeholder(weights):
        return placeholder((blocks * BLOCK * taps + spare,), np.int8)
    padded = np.pad(weights, ((0, blocks * BLOCK - channels), (0, 0))).reshape(blocks, BLOCK, taps)
    vectors = padded[:, :, : full * LANES].reshape(blocks, BLOCK, full, LANES).transpose(0, 2, 1, 3)
    parts = [vectors.reshape(blocks, -1), padded[:, :, full * LANES :].reshape(blocks, -1)]
    return np.pad(np.concatenate(parts, axis=1).ravel(), (0, spare))


def _source(
    template: str, view: LayerView, calls: Calls, values: dict[str, Any], more: tuple[Assembly, ...]
) -> Source | None:
    """The kernel around the products of all windows; None where requantization has no form."""
    weights = view.constants["weights"]
    flat = weights.reshape(len(weights), -1)
    found = scaling(view, flat, range(BLOCK))
    if found is None:
        return None
    form, numbers = found
    full, tail = divmod(flat.shape[1], LANES)
    dot: dict[str, Any] = {"form": form, "unrolled": unrolled(full, UNROLLED), "flat": full <= UNROLLED, "tail": tail}
    dot["rest"] = len(flat) % BLOCK > 0
    values = {
        "p": view.params,
        "form": form,
        "passes": full // max(dot["unrolled"], 1),
        "taps": flat.shape[1],
        **values,
    }
    data = {"weights": interleaved(flat), "scaling": numbers}
    blocks = calls.turns * -(-len(flat) // BLOCK)
    runs = {"call": calls.times, "block": blocks, **({} if dot["flat"] else {"pass": blocks * values["passes"]})}
    own = Assembly("mve_dot.S.j2", "dot", "void", DOT, dot, _dot_length(dot), runs)
    if calls.several:
        own = Assembly("mve_pair.S.j2", "dot", "void", PAIR, dot, _pair_length(dot), {**runs, "pair": calls.turns})
    return Source(template, values, data, assembly=(*more, own))


def fully_connected(view: LayerView, target: Target) -> Source:
    """A fully connected layer: its rows are windows, one behind the other."""
    calls = Calls(1, view.params.rows)
    return _source("mve_fully_connected.c.j2", view, calls, {}, ()) or horner.fully_connected(view, target)


def in_place(place: Window) -> bool:
    """Whether each window lies in the input as it is needed."""
    return not place.padded and place.kernel[0] == 1 and 1 in (place.kernel[1], place.dilation[1])


def whole(place: Window) -> bool:
    """Whether all of the input is one row of windows."""
    return in_place(place) and place.stride == (1, 1) and place.output[1] == place.input[1]


def _calls(place: Window) -> Calls:
    """Of a convolution: for each row of windows, or for each two patches."""
    if whole(place):
        return Calls(1, place.pixels)
    return Calls(*place.output) if in_place(place) else Calls(-(-place.pixels // 2), min(place.pixels, 2))


def scratch(view: LayerView, target: Target) -> int:
    """Patches for two windows, or for one where there are no more."""
    place = view.params.window
    patch = place.kernel[0] * place.kernel[1] * place.input[2]
    return 0 if in_place(place) else int(min(place.pixels, 2) * patch)


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Two windows at a time, upwards: copied, or read again for each four channels. In C it is pixel by pixel."""
    place, outputs = view.params.window, view.params.channels
    pixels = np.arange(place.pixels).reshape(place.output)
    rows = list(pixels) if in_place(place) and not whole(place) else [pixels.ravel()]
    below = overlap.by_pairs(place, outputs, rows, whole=not in_place(place))
    return {0: Overlap(max(below, overlap.by_pixels(place, outputs).below), view.inputs[0].bytes)}


def over_rows(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Of a fully connected layer: two rows at a time."""
    params = view.params
    return {0: overlap.by_rows(params.rows, params.inputs, params.outputs, together=2)} if params.rows > 1 else {}


def conv2d(view: LayerView, target: Target) -> Source:
    """A conv2d layer without groups."""
    place = view.params.window
    zero = view.params.input_zero_point
    own = {"w": place, "gathers": place.gathers, "length": place.kernel[1] * place.input[2]}
    own |= {"in_place": in_place(place), "whole": whole(place)}
    more = () if own["in_place"] else (gather(zero, _copied(place)),)
    found = _source("mve_conv2d.c.j2", view, _calls(place), own, more)
    if found is not None:
        return found
    source = horner.conv2d(view, target)
    values = {**source.values, "spare": scratch(view, target) > 0 and not source.values["gathers"]}
    return Source(source.template, values, source.data)


def _copied(place: Window) -> Counter[Copied]:
    """How often mve_conv2d.c.j2 calls mve_gather.S.j2 for what."""
    channels, length = place.input[2], place.kernel[1] * place.input[2]
    found: Counter[Copied] = Counter()
    for (above, rows), down in place.reached(0).items():
        for (before, columns), across in place.reached(1).items():
            times, lead, copied = down * across, before * channels, columns * channels
            inside = rows if columns else 0
            if place.dilation[1] == 1:
                gap = length - copied
                ahead = above * length + lead if inside else 0
                trail = place.kernel[0] * length - ahead - (inside * length - gap if inside else 0)
                found[Copied(ahead, copied, gap, inside, trail)] += times
            else:
                found[Copied(lead, channels, 0, columns, length - lead - copied)] += times * inside
                found[Copied(0, channels, 0, 0, length)] += times * (place.kernel[0] - inside)
    return found


def gather(zero_point: int, copied: Mapping[Copied, int]) -> Assembly:
    """mve_gather.S.j2, called for each of `copied` that many times."""
    runs: Counter[str] = Counter()
    for (lead, length, gap, rows, trail), times in copied.items():
        more = max(rows - 1, 0)
        own = {"call": 1, "lead": _vectors(lead), "row": rows, "copy": rows * _vectors(length), "next": more}
        own |= {"between": more if gap else 0, "gap": more * _vectors(gap), "trail": _vectors(trail)}
        runs.update({name: times * count for name, count in own.items()})
    values = {"zero_point": zero_point}
    return Assembly("mve_gather.S.j2", "gather", "void", GATHER, values, GATHER_LENGTH, dict(runs))


def _vectors(count: int) -> int:
    return -(-count // LANES)


# How long the functions are, in halfwords; a test compares with what the assembler makes of them.
GATHER_LENGTH = 54


def _dot_length(dot: Mapping[str, Any]) -> int:
    """Of mve_dot.S.j2."""
    loop = 18 * int(dot["unrolled"]) + (0 if dot["flat"] else 4)
    return 45 + loop + (24 if dot["tail"] else 0) + (6 if dot["rest"] else 2) + (4 if dot["form"].lowered else 0)


def _pair_length(dot: Mapping[str, Any]) -> int:
    """Of mve_pair.S.j2."""
    loop = 28 * int(dot["unrolled"]) + (0 if dot["flat"] else 6)
    return 100 + loop + (34 if dot["tail"] else 0) + (10 if dot["rest"] else 5) + (8 if dot["form"].lowered else 0)


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of mve_dot.S.j2."""
    params = view.params
    return _trips(Calls(1, params.rows), params.inputs, params.outputs)


def _trips(calls: Calls, taps: int, channels: int) -> dict[str, int]:
    """Of mve_dot.S.j2, or with `pair` in front of mve_pair.S.j2, which computes two windows at a time."""
    blocks, full = calls.turns * -(-channels // BLOCK), taps // LANES
    passes = full // unrolled(full, UNROLLED) if full > UNROLLED else 0
    own = {"block": blocks, "vector": blocks * _vectors(taps), "pass": blocks * passes}
    if not calls.several:
        return own
    return {"pair": calls.turns, **{f"pair_{name}": count for name, count in own.items()}}


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The same, and those of mve_gather.S.j2 and of C around it."""
    place = view.params.window
    rows, length = place.kernel[0], place.kernel[1] * place.input[2]
    own = _trips(_calls(place), rows * length, view.params.channels)
    if in_place(place):
        return {**own, "line": place.output[0]}
    # A dilated row is copied tap by tap.
    dilated = place.dilation[1] != 1
    calls, pieces, length = (rows, rows * place.kernel[1], place.input[2]) if dilated else (1, rows, length)
    copied = {"gather": calls, "piece": pieces, "copied": pieces * _vectors(length)}
    return {**own, "pixel": place.pixels, **{name: place.pixels * count for name, count in copied.items()}}
