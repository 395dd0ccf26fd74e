"""Integer firmware has no floats: ADC counts or pixels become the model's int8 input in integers only.

real = raw * scale + offset and q = round(real / input scale) + zero point come to one line, q = (raw * factor + add)
>> shift, clamped. The line is searched so that it equals the rounded real formula for every raw value, halves up;
where no 32-bit line does, unsigned bytes take a table, and 16-bit counts the line that is nearest (one step off at
most, and the line is then the definition: reference and C share it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnbuild.errors import ConfigError
from nnbuild.fixedpoint import saturate
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams

RANGES = {"u8": (0, 255), "i16": (-32768, 32767)}


@dataclass(frozen=True, slots=True)
class RawInput:
    """`kind` is u8 or i16. A table (int8[256]) where one is needed, else the line."""

    kind: str
    factor: int
    add: int
    shift: int
    table: Array | None = None

    def quantize(self, raw: Array) -> Array:
        """Raw integers (any shape) -> int8 of that shape: what `<model>_set_input_<kind>` computes."""
        values = np.asarray(raw, np.int64)
        if self.table is not None:
            return np.asarray(self.table[values], np.int8)
        line = (values * self.factor + self.add) >> self.shift
        return saturate(line)


def raw_input(kind: str, scale: float, offset: float, quant: QuantParams) -> RawInput:
    """The conversion for raw values of `kind` with real = raw * scale + offset. ConfigError for what makes no sense."""
    if kind not in RANGES:
        raise ConfigError(f"raw_input '{kind}' is unknown", hint=f"one of {', '.join(RANGES)}")
    if not (np.isfinite(scale) and np.isfinite(offset)) or scale == 0:
        raise ConfigError(f"raw_input_scale {scale} and raw_input_offset {offset} must be finite, the scale not 0")
    low, high = RANGES[kind]
    raw = np.arange(low, high + 1, dtype=np.int64)
    slope, start = scale / quant.scale, offset / quant.scale + quant.zero_point
    wanted = np.clip(np.floor(raw * slope + start + 0.5), INT8_MIN, INT8_MAX).astype(np.int8)
    best: tuple[int, RawInput] | None = None
    for shift in range(25):
        factor, add = round(slope * 2**shift), round((start + 0.5) * 2**shift)
        if max(abs(int(raw[0]) * factor), abs(int(raw[-1]) * factor)) + abs(add) >= 2**31:
            break
        found = RawInput(kind, factor, add, shift)
        wrong = int(np.count_nonzero(found.quantize(raw) != wanted))
        if best is None or wrong < best[0]:
            best = (wrong, found)
        if wrong == 0:
            return found
    if kind == "u8":
        return RawInput(kind, 0, 0, 0, wanted)
    if best is None or int(np.abs(best[1].quantize(raw).astype(np.int64) - wanted).max()) > 1:
        raise ConfigError(
            f"raw_input_scale {scale} does not fit the model's input (scale {quant.scale})",
            hint="raw 16-bit values then leave the int8 range at once",
        )
    return best[1]
