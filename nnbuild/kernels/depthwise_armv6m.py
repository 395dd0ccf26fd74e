"""Depthwise convolutions in assembly for ARMv6-M, in two forms.

3x3 with stride 1 and padding 1, or with stride 2, takes one channel and one column of the map at a time: each row of
three inputs is read once and added to the outputs that it belongs to, whose sums stay in registers, as do most of the
weights. There is no patch: at the left and right border the window lies inside and its weights are shifted, with a zero
in the column that is missing; missing inputs are the zero point, so they are constants in the sums. One call computes a
layer. Its sizes are arguments, so that layers of one stride and one kind of border share the function; offsets in
registers are no slower than those in the code. A single row of windows is a column that lies on its side: the function
goes along it, with the weights turned.

All other windows without dilation are computed one by one, all channels of each, where C finds or gathers them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.kernels.armv6m import channel, requantization
from nnbuild.ops.spatial import Window
from nnbuild.target import Target

COLUMNS = (
    *("const int8_t *input", "int8_t *output", "const int8_t *weights", "const int32_t *scaling", "int32_t channels"),
    *("int32_t row", "int32_t rows", "int32_t inner", "int32_t zero", "const int32_t *end"),
)
WINDOW = (
    *("const int8_t *window", "int8_t *output", "const int8_t *weights", "const int32_t *scaling"),
    *("int32_t step", "const int32_t *end"),
)
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
    place = _standing(place)
    missing = [*place.pad, *(place.beyond(axis) for axis in (0, 1))]
    if place.kernel != (3, 3) or place.input[0] < 2 or place.input[1] < 3 or max(missing) > 1:
        return False
    single = place.output[1] == 1
    return place.stride == (2, 2) or (place.stride == (1, 1) and min(missing[::2] if single else missing) == 1)


def _lies(place: Window) -> bool:
    """Whether there is one row of windows, with nothing missing above and below."""
    return place.output[0] == 1 and place.kernel == (3, 3) and place.input[0] == 3 and place.pad[0] == 0


def _standing(place: Window) -> Window:
    """The windows as one column, where they lie in one row."""
    if not _lies(place):
        return place
    pairs = ("output", "kernel", "pad", "pad_end")
    turned = {name: getattr(place, name)[::-1] for name in pairs}
    return replace(place, input=(place.input[1], 3, place.input[2]), stride=(place.stride[1],) * 2, **turned)


def scratch(view: LayerView, target: Target) -> int:
    """The patch of windows that are not computed by columns."""
    from nnbuild.ops import depthwise_conv2d

    return 0 if by_columns(view.params.window) else depthwise_conv2d.scratch(view, target)


def render(view: LayerView, target: Target) -> Source:
    """The sums in assembly, where they have a line."""
    from nnbuild.ops import depthwise_conv2d

    columns, lies = by_columns(view.params.window), _lies(view.params.window)
    source = depthwise_conv2d.render(view, target)
    if columns:
        # Without a patch in C too, so that there is none to keep memory for.
        source = replace(source, values={**source.values, "asks": True})
    line, place = source.values["line"], view.params.window
    if line is None:
        return source
    values = {"line": line, "low": view.params.activation_min}
    if columns:
        if lies:
            data = {**source.data, "weights": depthwise_conv2d.by_channel(view.constants["weights"].swapaxes(0, 1))}
            source = replace(source, values={**source.values, "turned": True}, data=data)
        sizes = _sizes(place)
        place = _standing(place)
        values |= {"stride": place.stride[0], **_borders(place)}
        own = replace(_columns(values), runs=_runs(place))
        return replace(source, values={**source.values, "by_columns": sizes}, assembly=(own,))
    values |= {"rows": place.kernel[0], "columns": place.kernel[1]}
    pixels = place.pixels
    runs = {"call": pixels, "channel": pixels * place.input[2]}
    return replace(source, assembly=(replace(_window(values), runs=runs),))


def _borders(place: Window) -> dict[str, bool]:
    """Where windows by columns reach over the map, by one pixel."""
    top, left = (pad > 0 for pad in place.pad)
    bottom, right = (place.beyond(axis) > 0 for axis in (0, 1))
    return {"top": top, "bottom": bottom, "left": left, "right": right}


def _sizes(place: Window) -> dict[str, int]:
    """Bytes from column to column and from row to row, of the rows that windows of a column lie in, and of a row of
    outputs; and how many columns lie in the map."""
    lies, channels, standing = _lies(place), place.input[2], _standing(place)
    line = place.input[1] * channels
    column, row = (line, channels) if lies else (channels, line)
    borders = _borders(standing)
    rows = (standing.output[0] - 1) * standing.stride[0] + 3 - borders["top"] - borders["bottom"]
    inner = standing.output[1] - borders["left"] - borders["right"]
    output = standing.output[1] * channels
    return {"column": column, "row": row, "rows": rows * row, "output": output, "inner": inner}


def _columns(values: dict[str, Any]) -> Assembly:
    """Each part is as long as its fixed instructions and its rows of three inputs and products."""
    line, bottom = values["line"], values["bottom"]
    border, single = values["left"] or values["right"], values["stride"] == 1
    words = 2 + 2 * line.bounded + line.two_sided
    output = requantization(line, values["low"]) + words + 2 * line.wide + (3 if single else 1)
    around = 22 + 3 * single + (12 + values["right"] + 3 * single if border else 0)
    channel = 2 + 43 * border + 2 * words + (6 if single else 8)
    group = 46 + 2 * line.bounded + 7 * border + 3 * (values["left"] and not single)
    inputs, products = 5, 9
    if single:
        column = 18 + inputs + 2 * products
        rows = 3 * (3 + inputs + 3 * products + output) + 2 + 2 + output
    else:
        column = 17 + (1 if values["top"] else 2 + inputs + products)
        rows = 6 + 2 * inputs + 3 * products + output + (5 + output if bottom else 3)
    instructions = around + channel + group + column + rows
    parameters = COLUMNS if single else (*COLUMNS, "int32_t output_row")
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
    instructions = 24 + 5 * several + inputs + channel(values["line"], values["low"])
    parameters = (*WINDOW, "int32_t channels") if several else WINDOW
    return Assembly("depthwise_window_armv6m.S.j2", "window", "void", parameters, values, instructions)


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """By columns: outputs and what is in `_runs`. By windows: what C and they do. Outputs of both signs take a step."""
    from nnbuild.ops.conv2d import place_trips

    params, outputs = view.params, view.output.size
    place: Window = params.window
    two_sided = params.activation_min < params.output_zero_point < params.activation_max
    step = {"two_sided": outputs} if two_sided else {}
    if by_columns(place):
        place = _standing(place)
        strided = "strided_" if place.stride == (2, 2) else ""
        runs = _runs(place)
        own = {f"{strided}output": outputs, f"{strided}column": runs["column"]}
        return {**own, **step, **{name: runs[name] for name in ("group", "channel")}}
    taps = place.kernel[0] * place.kernel[1]
    own = {"window_output": outputs, "tap": outputs * taps, "row": outputs * place.kernel[0]}
    return {**own, **step, **place_trips(place, place.reaching_outside)}
