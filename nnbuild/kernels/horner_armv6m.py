"""Horner words (see horner.py) in assembly for ARMv6-M: 16 cycles for four multiplications, where a compiler takes 27.

Eight low registers hold exactly what the innermost step needs: four sums, the input, the word, its shifted copy and the
pointer to words; the rest lives in high registers. A convolution copies each window into a patch of unsigned bytes,
because ARMv6-M loads these at an offset and signed ones not; a fully connected layer is not copied and takes 17. The
functions take their sizes as arguments, so that layers of many shapes share few of them. They are for GNU assemblers;
beside them stands the same in C for other compilers, and for sums without a line in 32 bits (exact_requantize.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.kernels import horner
from nnbuild.kernels.armv6m import channel
from nnbuild.ops.spatial import Window
from nnbuild.target import Target

FLAT = 31
"""Inputs up to which all of them are written one after the other, as far as offsets of LDRB reach; 16 share a loop with
their multiples."""
UNROLLED, COPIED = 16, 8
"""The most inputs that one pass of a loop takes: in the main loop, and where a window is copied."""
PAIRED = 512
"""Bytes of a row whose sums by pairs stay within 16 bits."""
ARRAYS = ("const int8_t *inputs", "int8_t *output", "const int32_t *weights", "const int32_t *scaling")
WINDOWS = ("int8_t *patch", "int32_t count", "int32_t stride", "int32_t rows", "int32_t copied", "int32_t skip")
SIZES = ("int32_t length", "const int32_t *end")


def split(length: int, most: int) -> tuple[int, int, int]:
    """(passes, inputs of each, inputs left over) with few of these, and as many as possible in a pass."""
    if length <= most:
        return 1, length, 0
    unrolled = min(range(most, most // 2 - 1, -1), key=lambda count: length % count)
    return length // unrolled, unrolled, length % unrolled


def passes_of(inputs: int) -> tuple[int, int, int]:
    """`split` of the main loop."""
    return (1, inputs, 0) if inputs <= FLAT else split(inputs, UNROLLED)


def supports(view: LayerView, target: Target) -> str | None:
    """ARMv6-M, with its assembly wanted."""
    if not target.armv6m:
        return "its assembly is for ARMv6-M"
    return None if target.assembly else "assembly is switched off"


def supports_conv2d(view: LayerView, target: Target) -> str | None:
    """The same, and all channels must see the same inputs."""
    return supports(view, target) or horner.supports_conv2d(view, target)


def scratch(view: LayerView, target: Target) -> int:
    """The patch."""
    rows, columns = view.params.window.kernel
    return int(rows * columns * view.params.window.input[2])


def conv2d(view: LayerView, target: Target) -> Source:
    """A conv2d layer without groups."""
    source = horner.conv2d(view, target, 128)
    if source.values["line"] is None:
        return source
    place = _flattened(view.params.window)
    rows, length = place.kernel[0], place.kernel[1] * place.input[2]
    words = _by_words(place)
    copied = min(COPIED, length) if words else split(length, COPIED)[1]
    copying = {"windows": True, "copied": copied, "copied_tail": length % copied, "words": words}
    values = {**source.values, "w": place, "copied": length - (0 if words else length % copied)}
    once = place.pixels * rows
    runs = {"call": _calls(place, view.backwards), "window": place.pixels}
    byte = {"row": once, "byte_pass": once * (length if words else length // copied)}
    unused = {"row": 0, "byte_pass": 0}
    word = {"word_row": once, "word_pass": once * (length // copied)}
    own = _assembled(replace(source, values=values), rows * length, view.params.channels, copying, runs | byte)
    if not words:
        return own
    (dot,) = own.assembly
    aligned, unaligned = {**dot.runs, **word, **unused}, {**dot.runs, **dict.fromkeys(word, 0)}
    return replace(own, assembly=(replace(dot, runs=aligned, unaligned=unaligned),))


def _calls(place: Window, backwards: bool) -> int:
    """Of the function in one inference: for each patch that C makes, and for each row of windows in the input.

    Where they are taken from the end, for each window.
    """
    from nnbuild.ops.conv2d import gathered, gathers

    if backwards:
        return place.pixels
    if not gathers(place):
        return place.output[0]
    if not place.fits or place.dilation != (1, 1):
        return place.pixels
    inside = place.last_inside(1) - -(-place.pad[1] // place.stride[1]) + 1
    outside = gathered(place)
    return outside + ((place.pixels - outside) // inside if inside > 0 else 0)


def _by_words(place: Window) -> bool:
    """Whether windows are copied by words, where the input lies at a multiple of 4."""
    return place.input[2] % 4 == 0 and place.kernel[1] * place.input[2] <= PAIRED


def _flattened(place: Window) -> Window:
    """Where a window is one pixel and the output has all of them, the map is one row."""
    if place.kernel != (1, 1) or place.stride != (1, 1) or place.padded:
        return place
    return replace(place, input=(1, place.pixels, place.input[2]), output=(1, place.pixels))


def fully_connected(view: LayerView, target: Target) -> Source:
    """A fully connected layer."""
    source = horner.fully_connected(view, target)
    if source.values["line"] is None:
        return source
    copying = {"windows": False, "copied": 0, "copied_tail": 0, "words": False}
    rows = view.params.rows
    runs = {"call": rows, "sum": rows * passes_of(view.params.inputs)[0]}
    return _assembled(source, view.params.inputs, view.params.outputs, copying, runs)


def _assembled(
    source: Source, inputs: int, channels: int, copying: Mapping[str, Any], runs: Mapping[str, int]
) -> Source:
    """The C of `source` with its outputs computed in assembly; `runs` but those of the loops over channels."""
    passes, unrolled, tail = passes_of(inputs)
    form: dict[str, Any] = {
        "line": source.values["line"],
        "low": source.values["p"].activation_min,
        "flat": unrolled > UNROLLED or inputs < UNROLLED,
        "unrolled": unrolled,
        "tail": tail,
        "rest": channels % 4,
        **copying,
    }
    values = {**source.values, "length": passes * unrolled, "channels": channels}
    parameters = (*ARRAYS, *(WINDOWS if copying["windows"] else ()), *SIZES)
    blocks = runs.get("window", runs["call"]) * -(-channels // 4)
    runs = {**runs, "block": blocks, "pass": blocks * passes}
    dot = Assembly("horner_armv6m.S.j2", "dot", "void", parameters, form, _instructions(form), runs)
    return replace(source, values=values, assembly=(dot,))


def _instructions(form: Mapping[str, Any]) -> int:
    """Of horner_armv6m.S.j2."""
    inputs, loops, moves = form["unrolled"] + form["tail"], not form["flat"], not form["flat"] or form["tail"] > 0
    start = 12 + _gathering(form) if form["windows"] else 6 + 3 * inputs + moves + 2 * loops
    walking = (14 if form["windows"] else 15) * inputs + 3 * moves + 3 * loops
    storing = 14 if form["rest"] else 10
    ending = 4 + 6 * form["windows"] + 6
    return int(24 + start + 3 * loops + walking + 4 * channel(form["line"], form["low"]) + storing + ending)


def _gathering(form: Mapping[str, Any]) -> int:
    """Of gather_armv6m.S.j2."""
    copied, tail = form["copied"], form["copied_tail"]
    if form["words"]:
        words = {4: 8, 8: 14}
        return 50 + words[copied] + (1 + words[tail] if tail else 0)
    return int(16 + 4 * (copied + tail) + (tail > 0))


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_armv6m.S.j2 and gather_armv6m.S.j2, and those of C around them."""
    from nnbuild.ops.conv2d import gathered, place_trips

    place = _flattened(view.params.window)
    rows, length = place.kernel[0], place.kernel[1] * place.input[2]
    own = _trips(rows * length, place.pixels, view.params.channels)
    copied = "paired" if _by_words(place) else "copied"
    loops = {copied: place.pixels * rows * length, "row": place.pixels * rows, "call": _calls(place, view.backwards)}
    return {**own, **loops, **place_trips(place, gathered(place))}


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_armv6m.S.j2, and that over rows."""
    params = view.params
    return {**_trips(params.inputs, params.rows, params.outputs), "input": params.rows * params.inputs}


def _trips(inputs: int, windows: int, channels: int) -> dict[str, int]:
    blocks = windows * -(-channels // 4)
    loops = {"block": blocks, "word": blocks * inputs, "pass": blocks * passes_of(inputs)[0]}
    return {**loops, "output": windows * channels}
