"""Dual multiplications (SMLAD) in assembly for cores with the DSP extension and without MVE: Cortex-M4, M7, M33.

A halfword h = 256 * b + a holds the weights of two output channels for one input, a word those for two inputs. SMLAD
of two inputs and the word adds x * h for both; SXTB16 of the word leaves the two a, and SMLAD with these gives the
lower channel. The first sum less the second is 256 times the upper channel's, and requantization takes it so. Where a
pair has b = -128 and a negative a, and in products, the lower weight is raised by 128, and 128 times the sum of the
inputs is taken off. All of it is modulo 2^32, so nothing can overflow; the sticky Q flag may be set, nobody reads it.

int16 inputs (`wide_conv2d`) leave no room for that: a word holds the bytes of two channels for two inputs, SXTB16 makes
a pair of each channel, and SMLAD multiplies it with the inputs as they are. All else is the same.

Inputs are taken four at a time: SXTB16 makes pairs (0, 2) and (1, 3) of them, and weights lie in that order. A
convolution unpacks the windows of two pixels into a patch and shares each word of weights between them, four channels
at a time; one function does so for all windows of a row that lie in the input, whatever their size. A row of a window
that is no multiple of four bytes has a first four that overlaps the next, with weights of zero there, so that nothing
is read beside it. A fully connected layer unpacks as it goes, for eight channels.

Sums become outputs by one product of which SMMUL keeps the upper half; see smlad_requantize.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnbuild.contract import Assembly, LayerView, Order, Overlap, Source
from nnbuild.kernels import horner, wide_requantize
from nnbuild.kernels.smlad_requantize import (
    Requantization,
    output_length,
    outputs_length,
    requantization,
)
from nnbuild.kernels.smlad_weights import (
    bytes_of_four,
    of_windows,
    packed,
    padded,
    two_by_two,
    with_constants,
    words,
    wraps,
)
from nnbuild.kernels.wide_requantize import Upper
from nnbuild.network import INT8_MIN, Array
from nnbuild.placeholder import is_placeholder
from nnbuild.ram import overlap
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.ops.spatial import Window

PAIRED, FOURS, MLA = 16, 8, 4
"""The most fours of inputs that one pass of a loop takes: convolutions, products, and convolutions without SMLAD."""
FLAT = 4
"""Fours of inputs up to which a convolution has code of its own, without a loop."""
OUTPUTS = 8
"""Channels that a fully connected layer computes together."""
GATHER = ("int8_t *patch", "int32_t length", "int32_t skip", "int32_t rows")
ARRAYS = ("const int8_t *inputs", "int8_t *output", "const int32_t *weights", "const int32_t *scaling")
PIXELS = (
    *("const int32_t *weights", "int8_t *patch", "int32_t count"),
    *("int32_t advance", "int32_t rows", "int32_t length", "int32_t skip", "int32_t channels", "int32_t step"),
    "int32_t fours",
)
TOTALS = ("int32_t total", "int32_t second")
ROW = ("int32_t length", "const int32_t *end")


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


def supports_mla(view: LayerView, target: Target) -> str | None:
    """ARMv7-M without DSP, with assembly wanted."""
    if target.cpu != "cortex-m3":
        return "its assembly is for ARMv7-M without DSP instructions"
    return None if target.assembly else "assembly is switched off"


def supports_mla_conv2d(view: LayerView, target: Target) -> str | None:
    """The same, and all channels must see the same inputs."""
    return supports_mla(view, target) or horner.supports_conv2d(view, target)


def outruns_library(target: Target) -> bool:
    """On cores with DSP and without MVE our kernels take half of the cycles of CMSIS-NN's, or less."""
    return not target.mve


def supports_conv2d(view: LayerView, target: Target) -> str | None:
    """The same, and all channels must see the same inputs."""
    return supports(view, target) or horner.supports_conv2d(view, target)


def input_size(view: LayerView) -> int:
    """Bytes of an input."""
    return 2 if view.inputs[0].quant.wide else 1


def _segmented(place: Window) -> bool:
    """Whether windows that need it are unpacked pixel by pixel; where pixels are no words, C gathers them first."""
    return place.gathers and place.input[2] % 4 == 0


def _unrolled(dsp: bool) -> int:
    """Fours that one pass of the loop of a convolution takes."""
    return PAIRED if dsp else MLA


def _fours(place: Window, size: int) -> int:
    """Fours of inputs of an unpacked window."""
    parts = packed(place, size)
    return parts[0] * parts[1] + 1 if parts else place.kernel[0] * -(-place.kernel[1] * place.input[2] // 4)


def _patch(place: Window, dsp: bool, size: int) -> tuple[int, int]:
    """Bytes of the pixel, or the window in whole words, that C prepares for borders, and of two unpacked windows."""
    whole = -(-place.kernel[0] * place.kernel[1] * place.input[2] // 4) * 4 if place.gathers else 0
    own = place.input[2] if _segmented(place) else whole
    return size * own, _fours(place, size) * (16 if dsp else 8)


def scratch(view: LayerView, target: Target) -> int:
    """Both patches."""
    return sum(_patch(view.params.window, target.dsp, input_size(view)))


def inside(place: Window) -> tuple[range, range]:
    """Rows and columns of the output whose windows lie in the input and need no dilation."""
    if place.dilation != (1, 1) or not place.fits:
        return range(0), range(0)
    ranges = []
    for axis in (0, 1):
        last = (place.input[axis] - place.extent(axis) + place.pad[axis]) // place.stride[axis]
        ranges.append(range(-(-place.pad[axis] // place.stride[axis]), min(place.output[axis] - 1, last) + 1))
    return ranges[0], ranges[1]


def _runs(place: Window) -> tuple[int, int]:
    """How many runs of pixels inside there are, and pixels of each; windows in one line are one run."""
    rows, columns = inside(place)
    whole = len(rows) * len(columns) == place.pixels
    if whole and (len(rows) == 1 or place.stride[0] * place.input[1] == place.output[1] * place.stride[1]):
        return 1, place.pixels
    return len(rows), len(columns)


def _together(view: LayerView) -> int:
    """Rows whose windows at borders are taken before those inside: where the output lies over the input, else 0.

    One, or two where that makes pairs of them.
    """
    place: Window = view.params.window
    count, run = _runs(place)
    if view.order is Order.ANY or place.pixels == count * run:
        return 0
    return 1 + (place.output[1] - run) % 2


def _at_borders(view: LayerView) -> list[Array]:
    """The pixels at borders that are computed as one sequence of pairs."""
    place, together = view.params.window, _together(view)
    rows, columns = inside(place)
    pixels = np.arange(place.pixels).reshape(place.output)
    border = np.ones(place.output, bool)
    border[rows.start : rows.stop, columns.start : columns.stop] = False
    if not together:
        return [pixels[border]]
    rows_together = [slice(row, row + together) for row in range(0, place.output[0], together)]
    return [pixels[own][border[own]] for own in rows_together]


def _pairs_at_borders(view: LayerView) -> tuple[int, int]:
    """How many pairs they are, and how many of these are single pixels."""
    sizes = [group.size for group in _at_borders(view)]
    return sum(-(-size // 2) for size in sizes), sum(size % 2 for size in sizes)


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Two pixels at a time, upwards; windows at borders come before those of their rows. In C it is pixel by pixel."""
    place, outputs = view.params.window, view.params.channels
    rows = _sequences(replace(view, order=Order.FORWARDS))
    below = max(
        overlap.by_pairs(place, outputs, rows, whole=True, sizes=view.sizes),
        overlap.by_pixels(place, outputs, view.sizes).below,
    )
    return {0: Overlap(below, view.inputs[0].bytes)}


def _sequences(view: LayerView) -> list[Array]:
    """The pixels in the order in which they are computed, two at a time of each sequence."""
    place, together = view.params.window, _together(view)
    pixels, (rows, columns) = np.arange(place.pixels).reshape(place.output), inside(place)
    if _runs(place) == (1, place.pixels):
        return [pixels.ravel()]
    inner = {row: pixels[row, columns.start : columns.stop] for row in rows}
    if not together:
        return list(inner.values())
    found = []
    for row, border in zip(range(0, place.output[0], together), _at_borders(view), strict=True):
        found += [border, *(inner[each] for each in range(row, row + together) if each in inner)]
    return found


def conv2d(view: LayerView, target: Target) -> Source:
    """A conv2d layer without groups, two pixels at a time."""
    weights = view.constants["weights"]
    found = requantization(view, weights.reshape(len(weights), -1), scaled=8 if target.dsp else 0)
    return _spared(horner.conv2d(view, target), view) if found is None else _conv2d(view, target, *found)


def wide(view: LayerView, target: Target) -> Source:
    """A layer with 16-bit activations (`wide_conv2d`) without groups."""
    weights = view.constants["weights"]
    flat = weights.reshape(len(weights), -1)
    if not view.inputs[0].quant.wide and not is_placeholder(flat):
        # The sums of upper channels are 256 times as large.
        reach = -INT8_MIN * int(np.abs(flat.astype(np.int64)).sum(axis=1).max(initial=0))
        if reach >= 1 << 31 - 8:
            return _spared(horner.wide(view, target), view)
    return _conv2d(view, target, *wide_requantize.requantization(view, flat))


def _spared(source: Source, view: LayerView) -> Source:
    """Another kernel's form, for which there is scratch memory that it may not need."""
    return replace(source, values={**source.values, "spare": not view.params.window.gathers})


def _conv2d(view: LayerView, target: Target, form: Requantization | Upper, own: Array) -> Source:
    place, weights, size = view.params.window, view.constants["weights"], input_size(view)
    length = place.kernel[1] * place.input[2]
    by_row, parts = of_windows(place, weights, size), packed(place, size)
    offset = 128 if size == 1 and target.dsp and wraps(by_row) else 0
    patch, fours = _patch(place, target.dsp, size)[0], _fours(place, size)
    flat, short = fours if fours <= FLAT or parts else 0, length if length < 4 else 0
    types = {"source": f"{view.inputs[0].dtype}_t", "result": f"{view.output.dtype}_t"}
    core = {"dsp": target.dsp, "offset": offset, "source": types["source"]}
    pixels = {"form": form, **core, "flat": flat, "short": short, "packed": parts}
    count, run = _runs(place)
    values = {
        **{"p": view.params, "w": place, "gathers": place.gathers, "form": form, "length": length, **core, **types},
        **{"segmented": _segmented(place), "patch": patch, "fours": fours, "runs": count, "run": run},
        "packed": parts,
        **{"inside": inside(place), "border": place.pixels > count * run, "together": _together(view)},
    }
    window = f"const {types['source']} *window"
    parameters = (window, f"{types['result']} *output", *PIXELS, *(TOTALS if offset else ()))
    halfwords = _pixels_length(form, core, flat, short, parts)
    runs = _pixels_runs(view, 0 if flat else _unrolled(target.dsp))
    assembly = [Assembly("smlad_pixels.S.j2", "pixels", "void", parameters, pixels, halfwords, runs)]
    if values["border"]:
        halfwords = _gather_length(core, short)
        runs = _gather_runs(place, size)
        gather = {**core, "short": short}
        assembly.append(Assembly("smlad_gather.S.j2", "gather", "int32_t", (window, *GATHER), gather, halfwords, runs))
    arranged = two_by_two(by_row) if size == 2 else words(by_row, 4, offset) if target.dsp else bytes_of_four(by_row)
    return Source("smlad_conv2d.c.j2", values, {"weights": with_constants(arranged, own)}, assembly=tuple(assembly))


def fully_connected(view: LayerView, target: Target) -> Source:
    """A fully connected layer, eight channels at a time."""
    params, weights = view.params, view.constants["weights"]
    channels = -(-params.outputs // OUTPUTS) * OUTPUTS
    found = requantization(view, weights, lines=False)
    if found is None:
        return horner.fully_connected(view, target)
    form, own = found
    scaling = padded(own, channels)
    fours, tail = divmod(params.inputs, 4)
    dot = {"form": form, "unrolled": unrolled(fours, FOURS), "tail": tail, "rest": params.outputs % OUTPUTS}
    runs = _row_runs(view, dot["unrolled"])
    return Source(
        "smlad_fully_connected.c.j2",
        {"p": params, "form": form, "padded": channels, "block": OUTPUTS},
        {"weights": words(weights.reshape(params.outputs, 1, params.inputs), OUTPUTS), "scaling": scaling},
        assembly=(Assembly("smlad_row.S.j2", "dot", "void", (*ARRAYS, *ROW), dot, _row_length(form, dot), runs),),
    )


# How often their labels are passed in one inference.


def _pixels_runs(view: LayerView, unrolled: int) -> dict[str, int]:
    """Of smlad_pixels.S.j2; `unrolled` fours are in one pass of its loop, 0 where it has none."""
    place, size = view.params.window, input_size(view)
    (count, run), fours, length = _runs(place), _fours(place, size), place.kernel[1] * place.input[2]
    patched, single = _pairs_at_borders(view)
    windows = count * -(-run // 2)
    pairs = windows + patched
    whole, left = divmod(view.params.channels, 4)
    blocks = pairs * (whole + (left > 0))
    runs = {"call": (count if run else 0) + patched, "pair": pairs, "alone": count * (run % 2) + single}
    runs |= {"window": windows, "block": blocks, "whole": pairs * whole, "byte": pairs * left}
    if not packed(place, size):
        runs |= _rows_runs(windows * place.kernel[0], length, "unpack")
    if unrolled:
        # The first pass of a block begins in the middle.
        passes, entry = -(-(fours - 1) // unrolled), (1 - fours) % unrolled
        runs |= {str(index): blocks * (passes - (index < entry)) for index in range(unrolled)}
    return runs


def _gather_runs(place: Window, size: int) -> dict[str, int]:
    """Of smlad_gather.S.j2: C calls it for a pixel, for a window as one row, or for its rows."""
    count, run = _runs(place)
    calls, rows, length = place.pixels - count * run, place.kernel[0], place.kernel[1] * place.input[2]
    if _segmented(place):
        calls, rows, length = calls * rows * place.kernel[1], 1, place.input[2]
    elif packed(place, size):
        rows, length = 1, 4 * _fours(place, size)
    return {"call": calls, **_rows_runs(calls * rows, length, "four")}


def _rows_runs(rows: int, length: int, rest: str) -> dict[str, int]:
    """Of rows of `length` bytes; `rest` is the label of the loop over fours but the first, where there is one."""
    return {"row": rows} if length < 4 else {"row": rows, rest: rows * ((length - 1) // 4)}


def _row_runs(view: LayerView, unrolled: int) -> dict[str, int]:
    """Of smlad_row.S.j2; `unrolled` fours are in one pass of its loop, 0 where it has none."""
    calls, fours = view.params.rows, view.params.inputs // 4
    blocks = calls * -(-view.params.outputs // OUTPUTS)
    runs = {"call": calls, "block": blocks}
    return {**runs, "sum": calls * fours, "pass": blocks * fours // unrolled} if unrolled else runs


# How long the functions are, in halfwords; a test compares with what assemblers make of them.


def _gather_length(core: Mapping[str, Any], short: int) -> int:
    if core["source"] == "int16_t":
        return 18 if short else 35
    dsp, offset = core["dsp"], core["offset"]
    unpack = (11 if offset else 7) if dsp else 2
    return 14 + (2 if offset else 0) + (unpack + (3 if short == 3 else 0) if short else 12 + 2 * unpack)


def _pixels_length(
    form: Requantization | Upper, core: Mapping[str, Any], flat: int, short: int, parts: tuple[int, ...]
) -> int:
    dsp, offset, wide = core["dsp"], core["offset"], core["source"] == "int16_t"
    unpack = (21 if offset else 13) if dsp else 3
    windows = (14 if short == 3 else 8) + unpack if short else 26 + 2 * unpack
    if wide:
        windows = (7 if short else 30) + 8 * (flat or 17)
    if parts:
        rows, whole, tail = parts
        windows = 2 * rows - 2 + rows * whole * (unpack + 2) + 6 * rows * tail + unpack + (0 if dsp else 1)
    flat_length, loop = (76 + 56 * flat, 1070) if dsp else (72 + 120 * flat, 702)
    storing = 8 if form.bits == 16 else 0
    return (flat_length if flat else loop) + (26 if offset else 0) + windows + storing + outputs_length(form, dsp)


def _row_length(form: Requantization, dot: Mapping[str, Any]) -> int:
    loop = 24 + 70 * int(dot["unrolled"]) if dot["unrolled"] else 0
    tail = (81 if dot["tail"] < 3 else 89) if dot["tail"] else 0
    return 79 + loop + tail + 8 * output_length(form)


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of smlad_pixels.S.j2 and smlad_gather.S.j2, and those of C around them."""
    place, size = view.params.window, input_size(view)
    rows, fours = place.kernel[0], _fours(place, size)
    runs, run = _runs(place)
    border = place.pixels - runs * run
    inner = runs * -(-run // 2)
    pairs = inner + _pairs_at_borders(view)[0]
    blocks = pairs * -(-view.params.channels // 4)
    wide = "wide_" if size == 2 else ""
    own = {"pair": pairs, "block": blocks, f"{wide}four": blocks * fours, "run": runs}
    loops = fours > FLAT and not packed(place, size)
    own |= {"pass": blocks * -(-(fours - 1) // _unrolled(target.dsp)) if loops else 0}
    own |= {"row": inner * rows, f"{wide}unpacked": inner * fours}
    if not border:
        return own
    taps = border * rows * place.kernel[1]
    own |= {"border": border, f"{wide}copied": border * fours, "position": place.pixels}
    return {**own, "segment" if _segmented(place) else "gathered": taps * (1 if _segmented(place) else place.input[2])}


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of smlad_row.S.j2: `four` is four inputs for eight sums, `pass` what a loop takes in one go."""
    params = view.params
    blocks, fours = params.rows * -(-params.outputs // OUTPUTS), -(-params.inputs // 4)
    passes = blocks * fours // max(unrolled(params.inputs // 4, FOURS), 1)
    own = {"block": blocks, "four": blocks * fours, "pass": passes, "output": OUTPUTS * blocks}
    return {**own, "input": params.rows * fours, "vector": params.rows}
