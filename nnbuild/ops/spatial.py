"""The geometry that convolutions and pools share: window, stride, dilation and padding of an ONNX node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from nnbuild import qdq
from nnbuild.contract import LayerView, RowForm
from nnbuild.network import Array

if TYPE_CHECKING:
    from nnbuild.lower import Lowering

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """A window over (height, width, channels); all pairs are (vertical, horizontal), pads count elements.

    `pad` is in front (top, left), `pad_end` behind (bottom, right).
    """

    input: tuple[int, int, int]
    output: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    pad: Pair
    pad_end: Pair

    @property
    def padded(self) -> bool:
        """Whether any window reaches outside of the input."""
        return any(self.pad[axis] > 0 or self.beyond(axis) > 0 for axis in (0, 1))

    @property
    def fits(self) -> bool:
        """Whether the input is as large as a window, so that some windows can lie in it wholly."""
        return all(self.input[axis] >= self.extent(axis) for axis in (0, 1))

    @property
    def pixels(self) -> int:
        """Windows, one for each position of the output."""
        return self.output[0] * self.output[1]

    @property
    def reaching_outside(self) -> int:
        """Windows that are not wholly inside of the input."""
        first = [-(-self.pad[axis] // self.stride[axis]) for axis in (0, 1)]
        inside = [max(0, self.last_inside(axis) - first[axis] + 1) for axis in (0, 1)]
        return self.pixels - inside[0] * inside[1]

    @property
    def gathers(self) -> bool:
        """Whether some windows must be copied into a patch: at padded borders, and all of them when dilated."""
        return self.padded or self.dilation != (1, 1)

    @property
    def gathered(self) -> int:
        """Windows that are copied into a patch."""
        return self.pixels if self.dilation != (1, 1) else self.reaching_outside

    @property
    def patch(self) -> int:
        """Elements of a patch; none where no window is copied."""
        return self.kernel[0] * self.kernel[1] * self.input[2] if self.gathers else 0

    def trips(self, gathered: int) -> dict[str, int]:
        """Trips of window.c.j2: windows, and what is copied of `gathered` of them."""
        positions = gathered * self.kernel[0] * self.kernel[1]
        return {"pixel": self.pixels, "gathered_tap": positions, "gathered": positions * self.input[2]}

    def beyond(self, axis: int) -> int:
        """By how many elements the last window reaches beyond the input's end; negative where it ends before it."""
        return (self.output[axis] - 1) * self.stride[axis] + self.extent(axis) - self.pad[axis] - self.input[axis]

    def last_inside(self, axis: int) -> int:
        """The last position whose windows do not reach beyond the input's end."""
        return min(self.output[axis] - 1, (self.input[axis] - self.extent(axis) + self.pad[axis]) // self.stride[axis])

    def with_channels(self, count: int) -> Window:
        """The same window over `count` channels."""
        return replace(self, input=(*self.input[:2], count))

    def of_rows(self, count: int) -> Window:
        """That of some rows of the output, over the rows that they cover: padding above and below is among them."""
        return replace(
            self,
            input=((count - 1) * self.stride[0] + self.extent(0), *self.input[1:]),
            output=(count, self.output[1]),
            pad=(0, self.pad[1]),
            pad_end=(0, self.pad_end[1]),
        )

    def extent(self, axis: int) -> int:
        """Elements from the first to the last one that a window covers."""
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def taps(self, feature_map: Array, fill: int) -> Array:
        """(height, width, channels) -> (out height, out width, kernel height, kernel width, channels).

        Padding is `fill`.
        """
        rows, columns = (self._positions(axis) for axis in (0, 1))
        inside_y = (rows >= 0) & (rows < self.input[0])
        inside_x = (columns >= 0) & (columns < self.input[1])
        y, x = np.clip(rows, 0, self.input[0] - 1), np.clip(columns, 0, self.input[1] - 1)
        gathered = feature_map[y[:, None, :, None], x[None, :, None, :]]
        inside = inside_y[:, None, :, None] & inside_x[None, :, None, :]
        return np.where(inside[..., None], gathered, fill)

    def inside(self, pads_count: bool) -> Array:
        """How many taps of each window are not padding, or with `pads_count` not beyond it: (out height, out width)."""
        counts = []
        for axis in (0, 1):
            positions = self._positions(axis)
            low, high = (
                (-self.pad[axis], self.input[axis] + self.pad_end[axis]) if pads_count else (0, self.input[axis])
            )
            counts.append(((positions >= low) & (positions < high)).sum(axis=1))
        return np.asarray(counts[0][:, None] * counts[1][None, :])

    def clipped(self) -> tuple[int, int]:
        """Rows inside of the input, summed over the rows of the output, and the same for columns."""
        rows, columns = (self._positions(axis) for axis in (0, 1))
        inside = ((rows >= 0) & (rows < self.input[0])).sum(), ((columns >= 0) & (columns < self.input[1])).sum()
        return int(inside[0]), int(inside[1])

    def reached(self, axis: int) -> Counter[tuple[int, int]]:
        """How many taps lie before the input, and how many in it -> positions of the output for which it is so."""
        positions = self._positions(axis)
        before, inside = positions < 0, (positions >= 0) & (positions < self.input[axis])
        return Counter(zip(before.sum(axis=1).tolist(), inside.sum(axis=1).tolist(), strict=True))

    def _positions(self, axis: int) -> Array:
        starts = np.arange(self.output[axis]) * self.stride[axis] - self.pad[axis]
        return np.asarray(starts[:, None] + np.arange(self.kernel[axis]) * self.dilation[axis])


def window(ctx: Lowering, node: onnx.NodeProto, shape: tuple[int, int, int], kernel: Sequence[int]) -> Window:
    """The Window of a Conv or pool `node` over an input of `shape` (height, width, channels).

    `kernel` has one or two elements; one means a value with one spatial axis, which is the width.
    """
    axes = len(kernel)
    strides = list(qdq.attribute(node, "strides", [1] * axes))
    dilations = list(qdq.attribute(node, "dilations", [1] * axes))
    pads = list(qdq.attribute(node, "pads", [0] * 2 * axes))
    out = ctx.shapes.get(node.output[0])
    if out is None or len(out) != axes + 2:
        raise ctx.refuse(node, "the shape of its output is not known")
    output = list(out[2:])
    spatial = list(shape[2 - axes : 2])
    auto = qdq.attribute(node, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(axes):
            extent = (kernel[axis] - 1) * dilations[axis] + 1
            total = max((output[axis] - 1) * strides[axis] + extent - spatial[axis], 0)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads[axis], pads[axes + axis] = begin, total - begin
    elif auto == "VALID":
        pads = [0] * 2 * axes
    if any(pad < 0 for pad in pads):
        raise ctx.refuse(node, "negative pads are not supported", "slice the input instead")

    def pair(values: Sequence[int], missing: int) -> Pair:
        return (int(values[0]), int(values[1])) if axes == 2 else (missing, int(values[0]))

    return Window(
        input=shape,
        output=pair(output, 1),
        kernel=pair(kernel, 1),
        stride=pair(strides, 1),
        dilation=pair(dilations, 1),
        pad=pair(pads[:axes], 0),
        pad_end=pair(pads[axes:], 0),
    )


def divides_window(view: LayerView) -> bool:
    """Whether a layer with one filter or pool for each channel has the channels of its tensors; for `tied`."""
    channels: int = view.params.window.input[2]
    return view.inputs[0].channels == view.output.channels == channels


def without_in_window(view: LayerView, kept: Array) -> tuple[Any, Mapping[str, Array]]:
    """A pool over the channels `kept`; its constants, if any, are not by channel."""
    return replace(view.params, window=view.params.window.with_channels(int(kept.sum()))), view.constants


def by_rows(view: LayerView, count: int | None, together: int, fill: int) -> RowForm | None:
    """Of a layer with a window, where padding is `fill`."""
    place: Window = view.params.window
    # A window never lies in padding alone above the map.
    if count not in (None, place.input[0]) or place.output[0] < together or place.pad[0] >= place.extent(0):
        return None
    own = place.of_rows(together)
    params, stride = replace(view.params, window=own), together * place.stride[0]
    return RowForm(place.input[0], place.output[0], params, own.input[0], stride, place.pad[0], fill, rows=together)
