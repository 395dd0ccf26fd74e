"""Depthwise 3x3 convolutions with stride 1 and padding 1 in assembly for ARMv6-M.

One channel and one column of the map at a time: each row of three inputs is read once and added to the three outputs
that it belongs to, whose sums stay in registers, as do most of the weights. There is no patch: at the left and right
border the window lies inside and its weights are shifted, with a zero in the column that is missing; missing inputs are
the zero point, so they are constants in the sums.
"""

from __future__ import annotations

from dataclasses import replace

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.target import Target

PARAMETERS = ("const int8_t *input", "int8_t *output", "const int32_t *column", "int32_t count")


def supports(view: LayerView, target: Target) -> str | None:
    """ARMv6-M with its assembly wanted, and the one geometry."""
    if not target.armv6m:
        return "its assembly is for ARMv6-M"
    if not target.assembly:
        return "assembly is switched off"
    place = view.params.window
    geometry = (place.kernel, place.stride, place.dilation, place.pad)
    if geometry != ((3, 3), (1, 1), (1, 1), (1, 1)) or place.output != place.input[:2]:
        return "its assembly is for 3x3 with stride 1 and padding 1"
    return None if place.input[0] >= 2 and place.input[1] >= 3 else "the map is smaller than 2x3"


def render(view: LayerView, target: Target) -> Source:
    """The columns in assembly, where the sums have a line."""
    from nnbuild.ops import depthwise_conv2d

    source = depthwise_conv2d.render(view, target)
    if source.values["line"] is None:
        return source
    height, width, channels = view.params.window.input
    shape = {"height": height, "width": width, "channels": channels}
    values = {**shape, "line": source.values["line"], "low": view.params.activation_min}
    columns = Assembly("depthwise_armv6m.S.j2", "columns", "void", PARAMETERS, values)
    return replace(source, assembly=(columns,))


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Outputs, columns, and channels, for which C shifts weights."""
    height, width, channels = view.params.window.input
    return {"output": view.output.size, "column": width * channels, "channel": channels, "row": height}
