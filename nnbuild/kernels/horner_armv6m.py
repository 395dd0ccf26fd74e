"""Horner words (see horner.py) in assembly for ARMv6-M: 16 cycles for four multiplications, where a compiler takes 27.

Eight low registers hold exactly what the innermost step needs: four sums, the input, the word, its shifted copy and the
pointer to words; the rest lives in high registers. A convolution copies each window into a patch of unsigned bytes,
because ARMv6-M loads these at an offset and signed ones not; a fully connected layer is not copied and takes 17. The
functions take their sizes as arguments, so that layers of many shapes share few of them. They are for GNU assemblers;
beside them stands the same in C for other compilers, and for sums without a line in 32 bits (exact_requantize.py).

Layers with 16-bit activations (`wide`) take the same code: halfwords without a sign load as bytes do, and modulo 2^32
the sums of a word are as exact. Their outputs are made by a product of 64 bits from halves (wide_requantize.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.kernels import horner
from nnbuild.kernels.armv6m import by_product, channel, limits
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
    return int(rows * columns * view.params.window.input[2]) * _size(view)


def _size(view: LayerView) -> int:
    """Bytes of an input."""
    return 2 if view.inputs[0].quant.wide else 1


def conv2d(view: LayerView, target: Target) -> Source:
    """A conv2d layer without groups."""
    source = horner.conv2d(view, target, 128)
    return source if source.values["line"] is None else _over_windows(source, view)


def wide(view: LayerView, target: Target) -> Source:
    """A layer with 16-bit activations (`wide_conv2d`) without groups."""
    source = horner.wide(view, target, 1 << 8 * _size(view) - 1)
    return _over_windows(replace(source, values={**source.values, "channels": view.params.channels}), view)


def _over_windows(source: Source, view: LayerView) -> Source:
    """The C of `source` with a call for each window that it gathers, or for the rest of a row of windows."""
    place, size = _flattened(view.params.window), _size(view)
    rows, length = place.kernel[0], place.kernel[1] * place.input[2]
    words = _by_words(place, size)
    copied = min(COPIED, size * length) if words else split(length, COPIED)[1]
    tail = size * length % copied if words else length % copied
    copying = {"windows": True, "copied": copied, "copied_tail": tail, "words": words}
    values = {**source.values, "w": place, "copied": size * (length - (0 if words else tail))}
    once = place.pixels * rows
    runs = {"call": _calls(place, view.backwards), "window": place.pixels}
    byte = {"row": once, "byte_pass": once * (length if words else length // copied)}
    unused = {"row": 0, "byte_pass": 0}
    word = {"word_row": once, "word_pass": once * (size * length // copied)}
    whole = replace(source, values=values)
    own = _assembled(whole, rows * length, view.params.channels, copying, runs | byte, view)
    if not words:
        return own
    (dot,) = own.assembly
    aligned, unaligned = {**dot.runs, **word, **unused}, {**dot.runs, **dict.fromkeys(word, 0)}
    return replace(own, assembly=(replace(dot, runs=aligned, unaligned=unaligned),))


def _calls(place: Window, backwards: bool) -> int:
    """Of the function in one inference: for each patch that C makes, and for each row of windows in the input.

    Where they are taken from the end, for each window.
    """
    if backwards:
        return place.pixels
    if not place.gathers:
        return place.output[0]
    if not place.fits or place.dilation != (1, 1):
        return place.pixels
    inside = place.last_inside(1) - -(-place.pad[1] // place.stride[1]) + 1
    outside = place.gathered
    return outside + ((place.pixels - outside) // inside if inside > 0 else 0)


def _by_words(place: Window, size: int) -> bool:
    """Whether windows are copied by words, where the input lies at a multiple of 4."""
    summed = size == 2 or place.kernel[1] * place.input[2] <= PAIRED
    return place.input[2] * size % 4 == 0 and summed


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
    return _assembled(source, view.params.inputs, view.params.outputs, copying, runs, view)


def _assembled(
    source: Source,
    inputs: int,
    channels: int,
    copying: Mapping[str, Any],
    runs: Mapping[str, int],
    view: LayerView,
) -> Source:
    """The C of `source` with its outputs computed in assembly; `runs` but those of the loops over channels."""
    passes, unrolled, tail = passes_of(inputs)
    upper, size = source.values.get("form"), _size(view)
    types = {"source": f"{view.inputs[0].dtype}_t", "result": f"{view.output.dtype}_t"}
    form: dict[str, Any] = {
        "line": source.values.get("line"),
        "low": source.values["p"].activation_min,
        "upper": upper,
        "limits": limits(upper) if upper else (),
        "size": size,
        **types,
        "flat": unrolled > UNROLLED or inputs < UNROLLED,
        "unrolled": unrolled,
        "tail": tail,
        "rest": channels % 4,
        **copying,
    }
    values = {**source.values, "length": size * passes * unrolled, "channels": channels}
    arrays = (f"const {types['source']} *inputs", f"{types['result']} *output")
    parameters = (*arrays, *ARRAYS[2:], *(WINDOWS if copying["windows"] else ()), *SIZES)
    blocks = runs.get("window", runs["call"]) * -(-channels // 4)
    runs = {**runs, "block": blocks, "pass": blocks * passes}
    dot = Assembly("horner_armv6m.S.j2", "dot", "void", parameters, form, _instructions(form), runs)
    return replace(source, values=values, assembly=(dot,))


def _instructions(form: Mapping[str, Any]) -> int:
    """Of horner_armv6m.S.j2."""
    inputs, loops, moves = form["unrolled"] + form["tail"], not form["flat"], not form["flat"] or form["tail"] > 0
    start = 12 + _gathering(form) if form["windows"] else 6 + 3 * inputs + moves + 2 * loops
    upper = form["upper"]
    output = by_product(upper) if upper else channel(form["line"], form["low"])
    again = 1 if upper else 0
    if upper and moves:
        again = 0
    walking = (14 if form["windows"] else 15) * inputs + 3 * moves + 3 * loops
    storing = 14 if form["rest"] else 10
    ending = 4 + 6 * form["windows"] + 6
    return int(24 + start + 3 * loops + walking + 4 * output + storing + ending + again)


def _gathering(form: Mapping[str, Any]) -> int:
    """Of gather_armv6m.S.j2."""
    copied, tail = form["copied"], form["copied_tail"]
    if form["size"] == 2:
        words = {2: 0, 4: 7, 6: 0, 8: 12}
        if form["words"]:
            return 40 + words[copied] + (1 + words[tail] if tail else 0)
        return int(17 + 4 * (copied + tail) + (tail > 0))
    if form["words"]:
        words = {4: 8, 8: 14}
        return 50 + words[copied] + (1 + words[tail] if tail else 0)
    return int(16 + 4 * (copied + tail) + (tail > 0))


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_armv6m.S.j2 and gather_armv6m.S.j2, and those of C around them."""
    place, size = _flattened(view.params.window), _size(view)
    rows, length = place.kernel[0], place.kernel[1] * place.input[2]
    own = _trips(rows * length, place.pixels, view.params.channels)
    copied = ("wide_" if size == 2 else "") + ("paired" if _by_words(place, size) else "copied")
    loops = {copied: place.pixels * rows * length, "row": place.pixels * rows, "call": _calls(place, view.backwards)}
    return {**own, **loops, **place.trips(place.gathered)}


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_armv6m.S.j2, and that over rows."""
    params = view.params
    return {**_trips(params.inputs, params.rows, params.outputs), "input": params.rows * params.inputs}


def _trips(inputs: int, windows: int, channels: int) -> dict[str, int]:
    blocks = windows * -(-channels // 4)
    loops = {"block": blocks, "word": blocks * inputs, "pass": blocks * passes_of(inputs)[0]}
    return {**loops, "output": windows * channels}
