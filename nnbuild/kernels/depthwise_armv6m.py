"""Depthwise convolutions in assembly for ARMv6-M, in two forms.

3x3 with stride 1 and padding 1, or with stride 2, takes one channel and one column of the map at a time: each row of
three inputs is read once and added to the outputs that it belongs to, whose sums stay in registers, as do most of the
weights. There is no patch: at the left and right border the window lies inside and its weights are shifted, with a zero
in the column that is missing; missing inputs are the zero point, so they are constants in the sums.

All other windows without dilation are computed one by one, all channels of each, where C finds or gathers them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.kernels.armv6m import channel, constant, requantization
from nnbuild.ops.spatial import Window
from nnbuild.target import Target

COLUMNS = ("const int8_t *input", "int8_t *output", "const int32_t *column", "int32_t count")
WINDOW = (
    *("const int8_t *window", "int8_t *output", "const int8_t *weights", "const int32_t *scaling"),
    *("int32_t row", "const int32_t *end"),
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
    missing = [*place.pad, *(place.beyond(axis) for axis in (0, 1))]
    if place.kernel != (3, 3) or place.input[0] < 2 or place.input[1] < 3 or max(missing) > 1:
        return False
    return place.stride == (2, 2) or (place.stride == (1, 1) and min(missing) == 1)


def render(view: LayerView, target: Target) -> Source:
    """The sums in assembly, where they have a line."""
    from nnbuild.ops import depthwise_conv2d

    source = depthwise_conv2d.render(view, target)
    line, place = source.values["line"], view.params.window
    if line is None:
        return source
    _, width, channels = place.input
    values = {"line": line, "low": view.params.activation_min, "channels": channels}
    if by_columns(place):
        values |= {"height": place.output[0], "width": width, "output_width": place.output[1]}
        values |= {"stride": place.stride[0], "top": place.pad[0], "bottom": max(place.beyond(0), 0)}
        return replace(source, assembly=(replace(_columns(values), runs=_runs(place)),))
    values |= {"rows": place.kernel[0], "columns": place.kernel[1]}
    pixels = place.pixels
    return replace(source, assembly=(replace(_window(values), runs={"call": pixels, "channel": pixels * channels}),))


def _columns(values: dict[str, Any]) -> Assembly:
    line, channels, width = values["line"], values["channels"], values["width"]
    inputs, below = sum(1 + _load(column * channels) for column in range(3)), 1 + _load(width * channels)
    words = 2 * line.bounded + (4 if line.wide else 2) + line.two_sided
    output = requantization(line, values["low"]) + words + (3 if values["stride"] == 1 else 1)
    ends = 34 + _load(channels)
    if values["stride"] == 1:
        first = 3 + 2 * _load(width * channels) + _load(values["height"] - 1) + 2 + (inputs + 18) + 4
        rows = first + 3 * (1 + inputs + 27 + output + 2) + 1 + 5 + output
    else:
        bottom = values["bottom"]
        first = 1 if values["top"] else 1 + inputs + 9 + below
        rows = _load(values["height"] - bottom) + first + (inputs + 9) + below + 2 + bottom + (inputs + 18) + below
        rows += 8 + output + _load(values["output_width"] * channels) + 2 + (3 + output if bottom else 3)
    return Assembly("depthwise_armv6m.S.j2", "columns", "void", COLUMNS, values, ends + rows)


def _runs(place: Window) -> dict[str, int]:
    """Calls for each channel: the left column, the right one, and all between. A pass of stride 1 is three outputs."""
    (height, width), channels = place.output, place.input[2]
    alone = place.pad[1] + (place.beyond(1) > 0)
    runs = {"call": channels * (alone + (width > alone)), "column": channels * width}
    if place.stride == (2, 2):
        bottom = {"last": runs["column"]} if place.beyond(0) > 0 else {}
        return {**runs, "row": runs["column"] * height, **bottom}
    passes, left = divmod(height - 1, 3)
    leaves = {"first": (left == 1), "second": (left == 2), "last": 1}
    own = {"row": passes + (left > 0), **leaves}
    return {**runs, **{name: runs["column"] * times for name, times in own.items()}}


def _window(values: dict[str, Any]) -> Assembly:
    rows, columns, channels = values["rows"], values["columns"], values["channels"]
    row = 6 + sum(5 + _load(column * channels) for column in range(1, columns))
    instructions = 24 + rows * row + rows - 1 + -(-rows * columns // 32) + channel(values["line"], values["low"])
    return Assembly("depthwise_window_armv6m.S.j2", "window", "void", WINDOW, values, instructions)


def _load(value: int) -> int:
    return len(constant("r3", value))


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """By columns: outputs, columns, and channels, for which C shifts weights. By windows: what C and they do."""
    from nnbuild.ops.conv2d import place_trips

    place, outputs = view.params.window, view.output.size
    if by_columns(place):
        channels = place.input[2]
        strided = "strided_" if place.stride == (2, 2) else ""
        return {f"{strided}output": outputs, "column": place.output[1] * channels, "channel": channels}
    taps = place.kernel[0] * place.kernel[1]
    own = {"window_output": outputs, "tap": outputs * taps, "row": outputs * place.kernel[0]}
    return {**own, **place_trips(place, place.reaching_outside)}
