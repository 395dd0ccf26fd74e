"""Horner words (see horner.py) in assembly for ARMv6-M: 16 cycles for four multiplications, where a compiler takes 27.

Eight low registers hold exactly what the innermost step needs: four sums, the input, the word, its shifted copy and the
pointer to words; the rest lives in high registers. A convolution copies each window into a patch of unsigned bytes,
because ARMv6-M loads these at an offset and signed ones not; a fully connected layer is not copied and takes 17. The
functions take their sizes as arguments, so that layers of many shapes share few of them. They are for GNU assemblers;
beside them stands the same in C for other compilers, and for sums without a line in 32 bits (exact_requantize.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.kernels import horner
from nnbuild.kernels.armv6m import channel
from nnbuild.kernels.exact_requantize import Form
from nnbuild.target import Target

FLAT = 16
"""Inputs up to which all of them are written one after the other."""
UNROLLED, COPIED = 16, 8
"""The most inputs that one pass of a loop takes: in the main loop, and where a window is copied."""
GATHER = ("const int8_t *window", "int8_t *patch", "int32_t length", "int32_t skip", "int32_t rows")
ARRAYS = ("const int8_t *inputs", "int8_t *output", "const int32_t *weights", "const int32_t *scaling")
SIZES = ("int32_t length", "const int32_t *end")


def split(length: int, most: int) -> tuple[int, int, int]:
    """(passes, inputs of each, inputs left over) with few of these, and as many as possible in a pass."""
    if length <= most:
        return 1, length, 0
    unrolled = min(range(most, most // 2 - 1, -1), key=lambda count: length % count)
    return length // unrolled, unrolled, length % unrolled


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
    rows, length = view.params.window.kernel[0], view.params.window.kernel[1] * view.params.window.input[2]
    if source.values["line"] is None:
        return source
    passes, unrolled, tail = split(length, COPIED)
    values = {"unrolled": unrolled, "tail": tail}
    instructions = 17 + 4 * (unrolled + tail) + (tail > 0)
    gather = Assembly("gather_armv6m.S.j2", "gather", "int32_t", GATHER, values, instructions)
    values = {**source.values, "copied": passes * unrolled}
    return _assembled(replace(source, values=values), rows * length, view.params.channels, (gather,))


def fully_connected(view: LayerView, target: Target) -> Source:
    """A fully connected layer."""
    source = horner.fully_connected(view, target)
    if source.values["line"] is None:
        return source
    return _assembled(source, view.params.inputs, view.params.outputs, ())


def _assembled(source: Source, inputs: int, channels: int, gather: tuple[Assembly, ...]) -> Source:
    """The C of `source` with its windows computed in assembly."""
    passes, unrolled, tail = (1, inputs, 0) if inputs <= FLAT else split(inputs, UNROLLED)
    form: dict[str, Any] = {
        "line": source.values["line"],
        "low": source.values["p"].activation_min,
        "unsigned": bool(gather),
        "flat": passes == 1,
        "unrolled": unrolled,
        "tail": tail,
        "rest": channels % 4,
    }
    values = {**source.values, "length": passes * unrolled, "channels": channels}
    parameters = (*ARRAYS, *(["int32_t total"] if gather else []), *SIZES)
    dot = Assembly("horner_armv6m.S.j2", "dot", "void", parameters, form, _instructions(**form))
    return replace(source, values=values, assembly=(*gather, dot))


def _instructions(line: Form, low: int, unsigned: bool, flat: bool, unrolled: int, tail: int, rest: int) -> int:
    """Of horner_armv6m.S.j2."""
    inputs, moves = unrolled + tail, not flat or tail > 0
    summing = 1 if unsigned else 2 + 3 * inputs + moves + 2 * (not flat)
    walking = (14 if unsigned else 15) * inputs + 3 * moves + 3 * (not flat)
    return 12 + 3 * (not flat) + summing + 4 + walking + 13 + 4 * (channel(line, low) + 2) + 4 + 6 + 6


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_armv6m.S.j2 and gather_armv6m.S.j2, and those of C around them."""
    from nnbuild.ops.conv2d import gathered, place_trips

    place = view.params.window
    rows, length = place.kernel[0], place.kernel[1] * place.input[2]
    own = _trips(rows * length, place.pixels, view.params.channels)
    copied = {"copied": place.pixels * rows * length, "row": place.pixels * rows}
    return {**own, **copied, **place_trips(place, gathered(place))}


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_armv6m.S.j2, and that over rows."""
    params = view.params
    return {**_trips(params.inputs, params.rows, params.outputs), "input": params.rows * params.inputs}


def _trips(inputs: int, windows: int, channels: int) -> dict[str, int]:
    blocks = windows * -(-channels // 4)
    passes = split(inputs, UNROLLED)[0] if inputs > FLAT else 1
    return {"block": blocks, "word": blocks * inputs, "pass": blocks * passes, "output": windows * channels}
