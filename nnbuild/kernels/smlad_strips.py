"""Depthwise convolutions with windows of three rows and stride 1, two lines of outputs at a time, with SMLAD.

Inputs that lie one below the other are factors of one SMLAD: of four lines the first two are added up with the weights
(0, 1) for the upper output, of the last two with (1, 2) for the lower one; the second line times weight 0 and the third
times weight 2 are what is left. Assembly takes four channels at a time through all columns: it interleaves the bytes of
two lines, so that SXTB16 finds those of one channel, in a patch that each of the windows over a column reads. So
neither code nor patch depends on how many channels there are. int16 inputs are halves of words already: of two lines
PKHBT and PKHTB make the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnbuild.contract import Assembly
from nnbuild.kernels.smlad_requantize import Requantization, outputs_length
from nnbuild.kernels.wide_requantize import Upper
from nnbuild.network import Array
from nnbuild.ops.spatial import Window
from nnbuild.placeholder import is_placeholder, placeholder

REACH = 64
"""Columns under a window that loads and their instructions reach."""


def strip(source: str, result: str) -> tuple[str, ...]:
    """Parameters of the function, for inputs and outputs of these types."""
    return (
        *(f"const {source} *const *lines", f"{result} *output", "const int32_t *weights", "int8_t *patch"),
        *("int32_t channels", "int32_t columns", "int32_t pixels", "int32_t step", f"const {source} *outside"),
        "int8_t *inner",
    )


@dataclass(frozen=True, slots=True)
class Lines:
    """What one call of assembly reads: `count` lines of inputs, and `width` columns of them in the patch.

    Inputs are of `size` bytes. It computes two lines of outputs, or one whose outputs are taken two at a time where
    these are `beside` each other.
    """

    count: int
    width: int
    beside: bool
    size: int = 1

    @property
    def patch(self) -> int:
        """Bytes of the patch, of four channels."""
        return 4 * self.size * self.count * self.width

    def calls(self, place: Window) -> int:
        """In one inference."""
        return place.output[0] if self.beside else -(-place.output[0] // 2)

    def copied(self, place: Window) -> int:
        """Columns of the patch that are inputs; zero points are around them."""
        return max(min(place.input[1], self.width - place.pad[1]), 0)


def serves(place: Window) -> bool:
    """Windows whose columns others read too; of maps with at least two lines."""
    rows = place.kernel[0] == 3 and place.stride == (1, 1) and place.dilation[0] == 1 and place.output[0] > 1
    return rows and 1 < place.kernel[1] <= TAPS and place.extent(1) <= REACH


TAPS = 9
"""Columns of a window, all of which are written one after the other."""


def lines(place: Window, size: int = 1) -> Lines:
    """What one call reads, of inputs of `size` bytes."""
    return Lines(4, place.output[1] - 1 + place.extent(1), False, size)


def words(weights: Array) -> Array:
    """(3, columns, channels) int8 -> (fours of channels, words): for each column words of rows (0, 1), then (1, 2)."""
    columns, channels = weights.shape[1:]
    if is_placeholder(weights):
        return placeholder((channels // 4, 8 * columns), np.int32)
    fours = weights.astype(np.int64).reshape(3, columns, channels // 4, 4)
    word = np.stack([(fours[row] & 0xFFFF) | fours[row + 1] << 16 for row in (0, 1)], axis=1)
    return np.asarray(word.transpose(2, 0, 1, 3).reshape(channels // 4, -1).astype(np.int32))


def assembly(place: Window, form: Requantization | Upper, types: Mapping[str, str]) -> Assembly:
    """The function for all layers with such windows; `types` are those of `source` and `result`."""
    wide = types["source"] == "int16_t"
    columns = tuple(16 * column * place.dilation[1] for column in range(place.kernel[1]))
    length = 163 + 64 * len(columns) if wide else 137 + 72 * len(columns)
    length += outputs_length(form) + (7 if form.bits == 16 else 0)
    values = {"form": form, "columns": columns, **types}
    return Assembly("smlad_strips.S.j2", "strip", "void", strip(**types), values, length, _runs(place))


def _runs(place: Window) -> dict[str, int]:
    """How often labels are passed in one inference."""
    strips = lines(place).calls(place)
    groups = strips * -(-place.input[2] // 4)
    columns = {f"column{pair}": groups * lines(place).copied(place) for pair in (0, 1)}
    return {"call": strips, "group": groups, **columns, "pixel": groups * place.output[1]}


def trips(place: Window, size: int = 1) -> dict[str, int]:
    """The loops of smlad_strips.S.j2, and that over pairs of lines; inputs are of `size` bytes."""
    own, wide = _runs(place), "wide_" if size == 2 else ""
    loops = {"strip": own["call"], "group": own["group"], f"{wide}column": own["column0"] + own["column1"]}
    blocks = {"strip_block": own["pixel"], f"{wide}strip_tap": own["pixel"] * place.kernel[1]}
    return {**loops, "filled": lines(place, size).patch if place.padded else 0, **blocks}
