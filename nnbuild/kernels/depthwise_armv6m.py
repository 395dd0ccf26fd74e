"""Depthwise convolutions in assembly for ARMv6-M, in two forms.

3x3 with stride 1 and padding 1, or with stride 2, takes one channel and one column of the map at a time: each row of
three inputs is read once and added to the outputs that it belongs to, whose sums stay in registers, as do most of the
weights. There is no patch: at the left and right border the window lies inside and its weights are shifted, with a zero
in the column that is missing; missing inputs are the zero point, so they are constants in the sums. One call computes a
layer. Its sizes are arguments, so that layers of one stride and one kind of border share the function; offsets in
registers are no slower than those in the code. A single row of windows is a column that lies: the function goes along
it.

Where the output lies over the input, the same function takes the map turned, one row after the other: so what it writes
into a row above (or below, where it goes from the end) nobody reads any more. Of each channel, that is, for channels
come one after the other; so the distance is one of whole pixels.

int16 inputs (`wide_depthwise_conv2d`) take the same code with halfwords, and another requantization. Where the output
lies over an input of another size, windows are computed one by one.

All other windows without dilation are computed one by one, all channels of each, where C finds or gathers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nnbuild.contract import Assembly, LayerView, Order, Overlap, Source
from nnbuild.kernels.armv6m import by_product, channel, limits, requantization
from nnbuild.network import Array
from nnbuild.ops.spatial import Window
from nnbuild.placeholder import packed
from nnbuild.ram import overlap
from nnbuild.target import Target

COLUMNS = (
    *("const int8_t *weights", "const int32_t *scaling", "int32_t step"),
    *("int32_t row", "int32_t rows", "int32_t inner", "int32_t zero", "const int32_t *end"),
)
WINDOW = ("const int8_t *weights", "const int32_t *scaling", "int32_t step", "const int32_t *end")
TAPS = 64
"""The largest window: all its inputs are written one after the other."""


def supports(view: LayerView, target: Target) -> str | None:
    """ARMv6-M with its assembly wanted, and small windows without dilation."""
    if not target.armv6m:
        return "its assembly is for ARMv6-M"
    if not target.assembly:
        return "assembly is switched off"
    place = view.params.window
    if place.dilation != (1, 1):
        return "its assembly is for windows without dilation"
    return None if place.kernel[0] * place.kernel[1] <= TAPS else f"its assembly is for windows of at most {TAPS}"


def by_columns(place: Window) -> bool:
    """Whether the first form serves."""
    if _lies(place):
        place = turned(place)
        ends = place.pad[0], place.beyond(0)
        return place.input[0] > 1 and (place.stride[0] == 2 or place.stride[0] == min(ends) == 1) and max(ends) < 2
    missing = [*place.pad, *(place.beyond(axis) for axis in (0, 1))]
    if place.kernel != (3, 3) or place.input[0] < 2 or place.input[1] < 3 or max(missing) > 1:
        return False
    return place.stride == (2, 2) or (place.stride == (1, 1) and min(missing) == 1)


def _in_columns(view: LayerView) -> bool:
    """Whether a layer takes the first form; one of 16 bits that lies keeps its weights as they are, and does not.

    Nor one whose output lies over its input and has another size: a channel of the one lies on others of the other.
    """
    place, wide = view.params.window, view.inputs[0].quant.wide or view.output.quant.wide
    over_others = view.order is not Order.ANY and view.sizes[0] != view.sizes[1]
    return by_columns(place) and not over_others and not (wide and _lies(place))


def _lies(place: Window) -> bool:
    """Whether there is one row of windows of three rows."""
    return place.kernel == (3, 3) and place.output[0] == 1 and place.input[0] == 3 and place.pad[0] == 0


def scratch(view: LayerView, target: Target) -> int:
    """One patch for single windows, where they reach over a border."""
    from nnbuild.ops import depthwise_conv2d

    return 0 if by_columns(view.params.window) else depthwise_conv2d.scratch(view, target)


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """By columns, which are rows then: whole pixels, of which those in front of a window are done with."""
    place: Window = view.params.window
    if not _in_columns(view) or view.sizes[0] != view.sizes[1]:
        return {0: overlap.by_channels(place, view.sizes)}
    if _lies(place) or not by_columns(turned(place)):
        return {}
    own = overlap.by_pixels_of_channels(place, view.sizes[0])
    return {0: own if place.stride == (1, 1) else overlap.upwards(own, view.inputs[0].bytes)}


def render(view: LayerView, target: Target) -> Source:
    """The sums in assembly, where they have a line."""
    from nnbuild.ops import depthwise_conv2d

    source = depthwise_conv2d.render(view, target)
    if by_columns(view.params.window):
        source = _for_columns(view, source)
    line = source.values["line"]
    return source if line is None else _assembled(source, view, {"line": line, "upper": None, "limits": ()})


def wide(view: LayerView, target: Target) -> Source:
    """A layer with 16-bit activations (`wide_depthwise_conv2d`)."""
    from nnbuild.ops import wide_depthwise_conv2d

    source = wide_depthwise_conv2d.render(view, target)
    if _in_columns(view):
        source = _for_columns(view, source)
    form = source.values["form"]
    return _assembled(source, view, {"line": None, "upper": form, "limits": limits(form)})


def _assembled(source: Source, view: LayerView, form: Mapping[str, Any]) -> Source:
    """The C of `source` with its outputs computed in assembly."""
    place, size = view.params.window, 2 if view.inputs[0].quant.wide else 1
    types = {"source": f"{view.inputs[0].dtype}_t", "result": f"{view.output.dtype}_t"}
    values = {**form, "low": view.params.activation_min, "size": size, **types}
    if _in_columns(view):
        walked, sizes = _walked(view), _sizes(view)
        values |= {"stride": walked.stride[0], **_borders(walked), "turned": sizes["stepped"]}
        own = replace(_columns(values), runs=_runs(walked))
        return replace(source, values={**source.values, "by_columns": sizes}, assembly=(own,))
    values |= {"rows": place.kernel[0], "columns": place.kernel[1]}
    pixels = place.pixels
    runs = {"call": pixels, "channel": pixels * place.input[2]}
    return replace(source, assembly=(replace(_window(values), runs=runs),))


def turned(place: Window) -> Window:
    """The window over the map whose rows are columns."""
    pairs = ("output", "kernel", "stride", "dilation", "pad", "pad_end")
    swapped = {name: getattr(place, name)[::-1] for name in pairs}
    if _lies(place):
        swapped["stride"] = (place.stride[1], place.stride[1])
    return replace(place, input=(place.input[1], place.input[0], place.input[2]), **swapped)


def _walked(view: LayerView) -> Window:
    """The map as assembly takes it."""
    place: Window = view.params.window
    return place if view.order is Order.ANY and not _lies(place) else turned(place)


def _for_columns(view: LayerView, source: Source) -> Source:
    """The C of the first form for the layer that `source` computes window by window."""
    order = Order.FORWARDS if _lies(view.params.window) else view.order
    weights, tap = _weights(source.data["weights"], order)
    values = {**source.values, "by_columns": _sizes(view), "tap": tap}
    return replace(source, values=values, data={**source.data, "weights": weights})


def _weights(by_channel: Array, order: Order) -> tuple[Array, str]:
    """The weights (channels, 3, 3) as assembly takes them, and where that of row `v` and column `u` is then."""
    if order is Order.ANY:
        return by_channel, "v * 3 + u"
    own = by_channel.transpose(0, 2, 1)
    return (packed(own[:, ::-1, ::-1]), "8 - u * 3 - v") if order is Order.BACKWARDS else (packed(own), "u * 3 + v")


def _borders(place: Window) -> dict[str, bool]:
    """Where windows by columns reach over the map, by one pixel."""
    top, left = (pad > 0 for pad in place.pad)
    bottom, right = (place.beyond(axis) > 0 for axis in (0, 1))
    return {"top": top, "bottom": bottom, "left": left, "right": right}


def _sizes(view: LayerView) -> dict[str, Any]:
    """What the function is told: bytes from column to column, from row to row, and of the rows of a column.

    Also how many columns lie in the map, bytes from row to row and from column to column of the output (if `stepped`),
    and the last pixel where it goes from there.
    """
    place, walked = view.params.window, _walked(view)
    borders, channels = _borders(walked), place.input[2]
    pixel, output_pixel = channels * view.inputs[0].element_bytes, channels * view.output.element_bytes
    sign = -1 if view.backwards else 1
    steps, output = (pixel, place.input[1] * pixel), (output_pixel, place.output[1] * output_pixel)
    if walked is not place:
        steps, output = steps[::-1], output[::-1]
    rows = (walked.output[0] - 1) * walked.stride[0] + 3 - borders["top"] - borders["bottom"]
    # A row that lies is one column, so the output has no distance to the next.
    stepped = walked.stride[0] == 2 and walked is not place and not _lies(place)
    return {
        **{"step": sign * steps[0], "row": sign * steps[1], "rows": sign * rows * steps[1]},
        "inner": walked.output[1] - borders["left"] - borders["right"],
        **{"output_step": output[0], "output_row": output[1]},
        "last": (place.pixels - 1) * channels if view.backwards else 0,
        **{"turned": walked is not place, "stepped": stepped, "lies": _lies(place)},
    }


def _columns(values: dict[str, Any]) -> Assembly:
    """Each part is as long as its fixed instructions and its rows of three inputs and products."""
    line, upper, bottom = values["line"], values["upper"], values["bottom"]
    border, single = values["left"] or values["right"], values["stride"] == 1
    resized = upper is not None and upper.bits // 8 != values["size"]
    bounded = line is not None and line.bounded
    if upper:
        words, output = 2, by_product(upper) + 2
    else:
        words = 2 + 2 * line.bounded + line.two_sided
        output = requantization(line, values["low"]) + words + 2 * line.wide
    output += (3 + resized) if single else 1
    around = 22 + 3 * single + (12 + values["right"] + 3 * single if border else 0)
    channel = 2 + 43 * border + 2 * words + (6 if single else 8)
    group = 46 + 2 * bounded + 7 * border + 3 * (values["left"] and not single)
    inputs, products = 5, 9
    if single:
        column = 18 + inputs + 2 * products
        rows = 3 * (3 + inputs + 3 * products + output) + 2 + 2 + output
    else:
        column = 17 + values["turned"] + (1 if values["top"] else 2 + inputs + products)
        rows = 6 + 2 * inputs + 3 * products + output + (5 + output if bottom else 3)
    instructions = around + channel + group + column + rows
    instructions += resized * (2 + border if single else 1)
    data = (f"const {values['source']} *input", f"{values['result']} *output")
    parameters = (*data, *COLUMNS) if single else (*data, *COLUMNS, "int32_t output_row")
    parameters = parameters if not values["turned"] else (*parameters, "int32_t output_step")
    return Assembly("depthwise_armv6m.S.j2", "columns", "void", parameters, values, instructions)


def _runs(place: Window) -> dict[str, int]:
    """Groups of columns have the same window. A pass of stride 1 makes three outputs of a column."""
    (height, width), channels, borders = place.output, place.input[2], _borders(place)
    groups = channels * (1 + borders["left"] + borders["right"])
    runs = {"call": 1, "channel": channels, "group": groups, "column": channels * width}
    if place.stride == (2, 2):
        bottom = {"last": runs["column"]} if borders["bottom"] else {}
        return {**runs, "row": runs["column"] * height, **bottom}
    passes, left = divmod(height - 1, 3)
    own = {"row": passes + (left > 0), "first": left == 1, "second": left == 2, "last": 1}
    return {**runs, **{name: runs["column"] * times for name, times in own.items()}}


def _window(values: dict[str, Any]) -> Assembly:
    rows, columns = values["rows"], values["columns"]
    several = columns > 1
    inputs = rows * (6 * columns - several) + rows - 1 + -(-rows * columns // 32)
    upper = values["upper"]
    output = by_product(upper) if upper else channel(values["line"], values["low"])
    instructions = 24 + 5 * several + inputs + output
    data = (f"const {values['source']} *window", f"{values['result']} *output")
    parameters = (*data, *WINDOW, "int32_t channels") if several else (*data, *WINDOW)
    return Assembly("depthwise_window_armv6m.S.j2", "window", "void", parameters, values, instructions)


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """By columns: outputs and what is in `_runs`. By windows: what C and they do. Outputs of both signs take a step."""
    params, outputs = view.params, view.output.size
    place: Window = params.window
    narrow = not view.inputs[0].quant.wide and not view.output.quant.wide
    two_sided = narrow and params.activation_min < params.output_zero_point < params.activation_max
    step = {"two_sided": outputs} if two_sided else {}
    if _in_columns(view):
        walked = _walked(view)
        strided = "strided_" if walked.stride == (2, 2) else ""
        runs = _runs(walked)
        own = {f"{strided}output": outputs, f"{strided}column": runs["column"]}
        borders = _borders(walked)
        # Without borders at the sides weights need not be shifted.
        starts = ("group", "channel") if borders["left"] or borders["right"] else ("bare_channel",)
        return {**own, **step, **{name: runs[name.removeprefix("bare_")] for name in starts}}
    taps = place.kernel[0] * place.kernel[1]
    own = {"window_output": outputs, "tap": outputs * taps, "row": outputs * place.kernel[0]}
    return {**own, **step, **place.trips(place.reaching_outside)}
