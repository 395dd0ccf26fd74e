"""Depthwise convolutions in assembly, for cores with the DSP extension and without MVE, and for ARMv7-M without DSP.

Assembly takes four channels at a time through one or two lines of outputs: it copies the lines of inputs under them to
a patch, four bytes of each column. So neither code nor patch depends on how many channels there are, and layers of all
sizes share a function. C fills the patch with the zero point before; lines outside of the input are copied from a word
of it, so assembly sees no border. Two outputs are computed together and share each load of weights: one below the
other, or side by side where lines are an odd few. Where the number of channels is no multiple of four, the last four
overlap the ones before, so that nothing is read or written beside the tensors.

With SMLAD's core four channels of a pixel are one load; SXTB16 makes the pairs (0, 2) and (1, 3) of them, weights lie
in that order as 16-bit numbers, and SMLABB and SMLATT multiply the halves. int16 inputs (`wide_depthwise_conv2d`) are
two loads and two pairs already. With MLA's weights are bytes. Windows of
three rows that share columns are left to smlad_strips.py, with SMLAD's core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nnbuild.contract import Assembly, LayerView, Overlap, Source
from nnbuild.kernels import smlad, smlad_strips, smlad_weights, wide_requantize
from nnbuild.kernels.smlad_requantize import Requantization, outputs_length, requantization
from nnbuild.kernels.smlad_strips import Lines
from nnbuild.kernels.wide_requantize import Upper
from nnbuild.network import Array
from nnbuild.ops.spatial import Window
from nnbuild.placeholder import is_placeholder, packed, placeholder
from nnbuild.ram import overlap
from nnbuild.target import Target

TAPS = 64
"""The largest window: all its inputs are written one after the other."""
REACH, HEIGHT = 4092, 63
"""Bytes that a load reaches from its base; lines of a patch that a store goes over to the next column."""


def lying(view: LayerView) -> Window:
    """The window of a layer; a map of one column lies in memory as a row does, whose outputs share more inputs."""
    place: Window = view.params.window
    if (place.input[1], place.output[1], place.kernel[1], place.pad[1]) != (1, 1, 1, 0):
        return place
    pairs = ("output", "kernel", "stride", "dilation", "pad", "pad_end")
    turned = {name: getattr(place, name)[::-1] for name in pairs}
    return replace(place, input=(1, place.input[0], place.input[2]), **turned)


def lines(place: Window, size: int = 1) -> Lines:
    """What one call reads, of inputs of `size` bytes.

    Two outputs lie side by side where pairs of lines would compute one of few twice.
    """
    height, width = place.output
    beside = height == 1 or (height % 2 == 1 and height < width)
    count = place.extent(0) + (0 if beside else place.stride[0])
    # The last of an odd number of outputs has one beside it that is not kept.
    last = width - 1 + (1 if beside and width % 2 else 0)
    return Lines(count, last * place.stride[1] + place.extent(1), beside, size)


def _lines(place: Window, target: Target, size: int) -> Lines:
    return smlad_strips.lines(place, size) if _in_strips(place, target) else lines(place, size)


def _in_strips(place: Window, target: Target) -> bool:
    return target.dsp and smlad_strips.serves(place)


def supports(view: LayerView, target: Target) -> str | None:
    """As smlad.py; and windows that loads reach, of at least four channels."""
    return smlad.supports(view, target) or _reaches(lying(view), target, smlad.input_size(view))


def supports_mla(view: LayerView, target: Target) -> str | None:
    """The same on ARMv7-M without DSP."""
    return smlad.supports_mla(view, target) or _reaches(lying(view), target, 1)


def _reaches(place: Window, target: Target, size: int) -> str | None:
    if place.input[2] < 4:
        return "its assembly is for at least 4 channels"
    if _in_strips(place, target):
        return None
    if place.kernel[0] * place.kernel[1] > TAPS:
        return f"its assembly is for windows of at most {TAPS}"
    used = lines(place, size)
    if used.count > HEIGHT // size or _taps(place, used)[-1] + _advance(place, used) > REACH:
        return "its windows are too large for its assembly"
    return None if used.copied(place) else "its windows lie beside the input"


def scratch(view: LayerView, target: Target) -> int:
    """The patch of four channels, and zero points for lines outside; or what C needs that has no assembly."""
    from nnbuild.ops import depthwise_conv2d

    place = lying(view)
    size = smlad.input_size(view)
    if not _has_form(view):
        return depthwise_conv2d.scratch(view, target)
    return _lines(place, target, size).patch + (4 * size if place.padded else 0)


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Line by line, or two lines at a time, in either direction, and four channels of them after the other.

    Of these all inputs are read before an output is written: at a distance of whole pixels no four harms another. Where
    the last channels overlap the ones before, or outputs have another size than inputs, a line is read until it is
    written. In C it is pixel by pixel.
    """
    place, sizes = lying(view), view.sizes
    used = _lines(place, target, sizes[0])
    reads, writes = overlap.by_lines(place, used.count, 1 if used.beside else 2, sizes)
    fours = place.input[2] % 4 == 0 and sizes[0] == sizes[1]
    by_pixel = overlap.by_pixels_of_channels(place, sizes[0]) if fours else overlap.by_channels(place, sizes)
    below, turned = overlap.below(reads, writes, fours), overlap.above(reads[::-1], writes[::-1], fours)
    return {0: Overlap(max(below, by_pixel.below), max(turned, by_pixel.above), by_pixel.step)}


def _order(channels: int) -> Array:
    """The channels as assembly takes them: fours, of which the last may overlap the one before."""
    starts = [*range(0, channels - 3, 4), *([channels - 4] if channels % 4 else [])]
    return (np.array(starts)[:, None] + np.arange(4)).ravel()


def words(weights: Array, size: int = 1) -> Array:
    """(taps, channels) int8 -> (fours of channels, words) int32: for each tap a word of (0, 2) and one of (1, 3).

    For inputs of two bytes a word of (0, 1) and one of (2, 3).
    """
    taps, channels = weights.shape
    if is_placeholder(weights):
        return placeholder((channels // 4, 2 * taps), np.int32)
    fours = weights.astype(np.int64).reshape(taps, -1, 4)
    fours = fours[..., [0, 2, 1, 3]] if size == 2 else fours
    word = (fours[..., :2] & 0xFFFF) | fours[..., 2:] << 16
    return np.asarray(word.transpose(1, 0, 2).astype(np.int32).reshape(channels // 4, -1))


def bytes_of_four(weights: Array) -> Array:
    """(taps, channels) int8 -> (fours of channels, taps) int32 for cores without SMLAD: the bytes of four channels."""
    taps, channels = weights.shape
    if is_placeholder(weights):
        return placeholder((channels // 4, taps), np.int32)
    by_four = weights.reshape(taps, -1, 4).transpose(1, 0, 2)
    return np.ascontiguousarray(by_four).view("<i4").astype(np.int32).reshape(channels // 4, -1)


def render(view: LayerView, target: Target) -> Source:
    """Lines of outputs, four channels at a time."""
    from nnbuild.ops import depthwise_conv2d

    found = requantization(view, _by_channel(view))
    return depthwise_conv2d.render(view, target) if found is None else _render(view, target, *found)


def _has_form(view: LayerView) -> bool:
    """Whether there is a requantization; the search for a line comes last, since it takes longest."""
    weights = _by_channel(view)
    wide = view.inputs[0].quant.wide or view.output.quant.wide
    return wide or any(requantization(view, weights, lines) is not None for lines in (False, True))


def wide(view: LayerView, target: Target) -> Source:
    """A layer with 16-bit activations (`wide_depthwise_conv2d`)."""
    return _render(view, target, *wide_requantize.requantization(view, _by_channel(view)))


def _by_channel(view: LayerView) -> Array:
    """The weights (channels, taps)."""
    weights = packed(view.constants["weights"].transpose(2, 0, 1))
    return weights.reshape(len(weights), -1)


def _render(view: LayerView, target: Target, form: Requantization | Upper, own: Array) -> Source:
    place, weights, size = lying(view), view.constants["weights"], smlad.input_size(view)
    channels, taps = place.input[2], place.kernel[0] * place.kernel[1]
    order, used = _order(channels), _lines(place, target, size)
    known = not is_placeholder(weights)
    ordered = weights[..., order] if known else placeholder((*weights.shape[:2], order.size), np.int8)
    own = own[order] if known and not is_placeholder(own) else placeholder((order.size, form.size), np.int32)
    types = {"source": f"{view.inputs[0].dtype}_t", "result": f"{view.output.dtype}_t"}
    if _in_strips(place, target):
        layout, fours, strip = "rows", smlad_strips.words(ordered), smlad_strips.assembly(place, form, types)
    else:
        by_tap = packed(ordered).reshape(taps, order.size)
        layout, fours = ("pairs", words(by_tap, size)) if target.dsp else ("bytes", bytes_of_four(by_tap))
        layout = "twos" if size == 2 else layout
        strip = _assembly(place, form, target, types, size)
    values = {"p": view.params, "w": place, "form": form, "lines": used, "patch": used.patch, "layout": layout, **types}
    values |= {"copied": used.copied(place), "words": fours.shape[1], "backwards": view.backwards}
    return Source(
        "smlad_depthwise.c.j2", values, {"weights": smlad_weights.with_constants(fours, own)}, assembly=(strip,)
    )


def _assembly(
    place: Window, form: Requantization | Upper, target: Target, types: Mapping[str, str], size: int
) -> Assembly:
    """The function for all layers with such windows and strides."""
    used = lines(place, size)
    single = used.copied(place) == 1 and size == 1
    column = 4 * size * used.count
    values = {
        **{"form": form, "dsp": target.dsp, "taps": _taps(place, used), "advance": _advance(place, used)},
        **{"second": column * place.stride[1] if used.beside else 4 * size * place.stride[0], **types},
        **{"height": used.count, "beside": used.beside, "single": single},
    }
    length = (82 if single else 104) + (6 if used.beside else 0) + outputs_length(form, target.dsp)
    length += (6 if used.beside else 7) if form.bits == 16 else 0
    length -= 10 if size == 2 else 0
    tap = 28 if size == 2 else 32
    length += (tap if target.dsp else 40) * place.kernel[0] * place.kernel[1]
    parameters = smlad_strips.strip(**types)
    return Assembly("smlad_depthwise.S.j2", "strip", "void", parameters, values, length, _runs(place, used))


def _taps(place: Window, used: Lines) -> tuple[int, ...]:
    """Where inputs of a window lie in the patch."""
    down, across = place.dilation[0], place.dilation[1] * used.count
    four = 4 * used.size
    return tuple(four * (v * down + u * across) for v in range(place.kernel[0]) for u in range(place.kernel[1]))


def _advance(place: Window, used: Lines) -> int:
    """Bytes of the patch from a pair of outputs to the next one."""
    return 4 * used.size * used.count * place.stride[1] * (2 if used.beside else 1)


def _runs(place: Window, used: Lines) -> dict[str, int]:
    """How often labels are passed in one inference."""
    calls = used.calls(place)
    groups = calls * -(-place.input[2] // 4)
    copied, line = used.copied(place), groups * used.count
    pixels = groups * (-(-place.output[1] // 2) if used.beside else place.output[1])
    columns = {"columns": line * (copied // 2)} if copied > 1 else {}
    columns = {"columns": line * copied} if used.size == 2 else columns
    return {"call": calls, "group": groups, "line": line, **columns, "pixel": pixels}


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of smlad_depthwise.S.j2, and those of C around it."""
    place, size = lying(view), smlad.input_size(view)
    if _in_strips(place, target):
        return smlad_strips.trips(place, size)
    used, wide = lines(place, size), "wide_" if size == 2 else ""
    own = _runs(place, used)
    copied = own["line"] * used.copied(place)
    loops = {"call": own["call"], "four": own["group"], "line": own["line"], f"{wide}copied": copied}
    taps = own["pixel"] * place.kernel[0] * place.kernel[1]
    return {**loops, "cleared": used.patch if place.padded else 0, "block": own["pixel"], f"{wide}tap": taps}
