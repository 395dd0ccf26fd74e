"""What the search for 16 bits found, in words for who builds, and in the metadata of the int8 file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from nnbuild.precision_judge import Aim, Outlook

KEY = "nnbuild.int16"
"""Of the entry in `metadata_props`, which holds JSON."""

FURTHER = 3
"""So many values that were not taken are named, those first that would gain most."""


@dataclass(frozen=True, slots=True)
class Value:
    """A layer whose output has 16 bits, and what these bring and cost beside those of the other layers.

    dB; the share of all products that read 16 bits by it; bytes that live at once, bytes of constants; estimated cycles
    and bytes of flash by core.
    """

    layer: str
    gain_db: float
    products: float
    ram: int
    constants: int
    cycles: Mapping[str, int]
    flash: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Found:
    """`names` as `quantize` takes them, `paste` as `int16=` does; what is expected without and with 16 bits.

    `further` are layers that were not taken, with the dB that they would bring; `cycles` are those of the whole set.
    """

    names: tuple[str, ...]
    paste: tuple[str, ...]
    aim: Aim
    before: Outlook
    after: Outlook
    met: bool
    values: tuple[Value, ...]
    further: Mapping[str, float]
    cycles: Mapping[str, int]
    ram: int

    def lines(self) -> list[str]:
        """A short text: the option to paste, then a line for each value."""
        aim = self.aim
        if not self.values:
            return [f"int16: 8 bits suffice for {aim.text()}, {self.after.text(aim)} can be expected"]
        head = f"int16=[{', '.join(json.dumps(name) for name in self.paste)}]"
        expected = f"  expected {self.after.text(aim)} in place of {self.before.text(aim)}; wanted {aim.text()}"
        missed = [] if self.met else ["  not reached: what is lost is lost by weights of 8 bits, or in unnamed inputs"]
        return [head, expected, *missed, *map(self._line, self.values), *self._rest()]

    def _line(self, value: Value) -> str:
        cycles = ", ".join(
            f"{_core(cpu)} {100 * count / (self.cycles[cpu] - count):+.1f} % cycles {value.flash[cpu]:+,} B flash"
            for cpu, count in value.cycles.items()
        )
        return f"  {value.layer}: {value.gain_db:+.1f} dB; {value.ram:+,} B RAM; {cycles}"

    def _rest(self) -> list[str]:
        rest = [f"{layer} {gain:+.1f} dB" for layer, gain in list(self.further.items())[:FURTHER]]
        return [f"  not taken: {', '.join(rest)}"] if rest else []

    def metadata(self) -> str:
        """JSON, with sorted keys and figures in the digits that mean something."""
        document = {
            "int16": list(self.paste),
            "met": self.met,
            "wanted": {name: value for name, value in asdict(self.aim).items() if value is not None},
            "before": self.before.text(self.aim),
            "after": self.after.text(self.aim),
            "values": [
                {"layer": v.layer, "db": round(v.gain_db, 1), "products": round(v.products, 3), "ram": v.ram}
                for v in self.values
            ],
        }
        return json.dumps(document, sort_keys=True)


def _core(cpu: str) -> str:
    return cpu.removeprefix("cortex-").upper()
