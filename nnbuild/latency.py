"""The limit on the time of one inference, as `latency=` and `--latency` take it. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from nnbuild.errors import ConfigError

MAX_WAIT_STATES = 15
MUL_CYCLES = (1, 32)

_US = {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}
_MHZ = {"hz": 1e-6, "khz": 1e-3, "mhz": 1.0, "ghz": 1e3}
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_TIME = re.compile(rf"\s*{_NUMBER}\s*([a-zµ]+)\s*(?:@\s*{_NUMBER}\s*([a-zA-Z]+)\s*)?")
_CYCLES = re.compile(r"\s*(\d+|\d{1,3}(?:,\d{3})+)\s*cycles?\s*")
_WAIT_STATES = re.compile(r",\s*(\d+)\s*(?:ws|wait states?)\s*$")
_EXAMPLES = "such as '2ms @ 48MHz', '100us @ 48MHz, 1ws' or '120000 cycles'"


@dataclass(frozen=True, slots=True)
class Latency:
    """A limit: `us` microseconds at a clock of `mhz`. A limit in `cycles`, else None, is as many microseconds at 1 MHz.

    `wait_states` of the flash hold for this limit alone; None where the limit names none.
    """

    us: float
    mhz: float
    wait_states: int | None = None
    cycles: int | None = None

    def __str__(self) -> str:
        """The limit in its one canonical form, which `parse_latency` reads."""
        head = f"{self.cycles} cycles" if self.cycles is not None else f"{self.us:.10g}us @ {self.mhz:.10g}MHz"
        return head if self.wait_states is None else f"{head}, {self.wait_states}ws"


def parse_latency(value: Any) -> Latency:
    """The limit in `"2ms @ 48MHz, 1ws"`, `"100us @ 48MHz"` or `"120000 cycles"`. ConfigError for anything else."""
    if not isinstance(value, str):
        raise ConfigError(f"must be text {_EXAMPLES}")
    head, wait_states = value, None
    if (found := _WAIT_STATES.search(value)) is not None:
        head, wait_states = value[: found.start()], int(found[1])
        if wait_states > MAX_WAIT_STATES:
            raise ConfigError(f"must have at most {MAX_WAIT_STATES} wait states")
    if (match := _CYCLES.fullmatch(head)) is not None:
        cycles = int(match[1].replace(",", ""))
        limit = Latency(cycles, 1, wait_states, cycles)
    else:
        limit = _time(head, wait_states)
    if not limit.us * limit.mhz:
        raise ConfigError("must be above 0")
    return limit


def _time(head: str, wait_states: int | None) -> Latency:
    match = _TIME.fullmatch(head)
    if match is None or match[2] not in _US:
        raise ConfigError(f"must be a time at a clock, or cycles, {_EXAMPLES}")
    if match[3] is None:
        raise ConfigError(f"must name the clock, as in '{head.strip()} @ 48MHz'")
    if match[4].lower() not in _MHZ:
        raise ConfigError("must have its clock in Hz, kHz, MHz or GHz")
    return Latency(float(match[1]) * _US[match[2]], float(match[3]) * _MHZ[match[4].lower()], wait_states)
