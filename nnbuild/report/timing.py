"""Cycles of a model: the estimate that `emit` left in its report, weighed for the chip, or figures of the board.

The facts of a layer (nnbuild/model_report.py) are cycles with memory that never waits, accesses to flash, and
multiplications; so wait states and the multiplier of the chip need no new code. `NN_CYCLES` names a file of figures
that were measured on the board, by model:

    {"kws": {"model_id": "0x8c5e13a7", "cycles": 1210533, "layers": [310200, 900333]}}

`layers` may be left out. Figures of another `model_id` are of another network, and are not used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnbuild.errors import ConfigError
from nnbuild.latency import Latency
from nnbuild.report.budget import Verdict

SHOWN = 5
"""Layers that a missed budget names."""


@dataclass(frozen=True, slots=True)
class Chip:
    """Wait states of the flash, cycles of a multiplication (ARMv6-M), and what was measured, by model."""

    wait_states: int = 0
    mul_cycles: int = 1
    measured: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timed:
    """One inference: cycles in all and by layer (None where only the whole was measured), and what they rest on.

    `basis` is "fit", "measured" or "instructions x factor"; `waits` and `multiplications` are the cycles in it that
    wait for flash, or that a one-cycle multiplier would save.
    """

    cycles: int
    layers: tuple[int | None, ...]
    basis: str
    error_percent: float | None = None
    waits: int = 0
    multiplications: int = 0


def read_measured(path: str) -> dict[str, Any]:
    """The figures in `path`, by model. ConfigError where it is no such file."""
    hint = 'it holds {"kws": {"model_id": "0x...", "cycles": 1234, "layers": [...]}}'
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path) from None
    except (ValueError, RecursionError):
        raise ConfigError("is no JSON", path, hint) from None
    if not isinstance(data, dict) or not all(_is_measured(entry) for entry in data.values()):
        raise ConfigError("does not hold measured cycles", path, hint)
    return data


def _is_measured(entry: Any) -> bool:
    def count(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    if not isinstance(entry, dict) or not isinstance(entry.get("model_id"), str) or not count(entry.get("cycles")):
        return False
    layers = entry.get("layers", [])
    return isinstance(layers, list) and all(count(value) for value in layers)


def timed(facts: Mapping[str, Any], chip: Chip, limit: Latency | None) -> tuple[Timed | None, list[str]]:
    """The cycles of the model of `facts`, and warnings; None for a core of which nothing is known.

    The wait states that `limit` names win over the chip's.
    """
    entry, notes = _measured(facts, chip, limit)
    if entry is not None:
        layers = tuple(entry.get("layers") or [None] * len(facts["layers"]))
        return Timed(entry["cycles"], layers, "measured"), notes
    if facts["cost"] is None:
        return None, notes
    wait_states = wait_states_of(chip, limit)
    waits, multiplications = wait_states, chip.mul_cycles - 1
    layers = tuple(_weighed(layer["cost"], waits, multiplications) for layer in facts["layers"])
    parts = [facts["cost"]["run"], *(layer["cost"] for layer in facts["layers"])]
    return (
        Timed(
            sum(_weighed(part, waits, multiplications) for part in parts),
            layers,
            facts["cost"]["basis"],
            facts["cost"]["error_percent"],
            sum(part["waits"] for part in parts) * waits,
            sum(part["multiplications"] for part in parts) * multiplications,
        ),
        notes,
    )


def wait_states_of(chip: Chip, limit: Latency | None) -> int:
    """Those that the limit names, else the chip's."""
    return chip.wait_states if limit is None or limit.wait_states is None else limit.wait_states


def _weighed(part: Mapping[str, int], waits: int, multiplications: int) -> int:
    return part["cycles"] + part["waits"] * waits + part["multiplications"] * multiplications


def _measured(
    facts: Mapping[str, Any], chip: Chip, limit: Latency | None
) -> tuple[Mapping[str, Any] | None, list[str]]:
    entry = chip.measured.get(facts["name"])
    if entry is None:
        if not chip.measured or limit is None:
            return None, []
        known = ", ".join(sorted(chip.measured))
        return None, [f"{facts['name']}: NN_CYCLES has no cycles of it, only of {known}; estimated instead"]
    if entry["model_id"].lower() != facts["model_id"]:
        old = f"measured on {entry['model_id']}, and this model is {facts['model_id']}"
        return None, [f"{facts['name']}: the cycles in NN_CYCLES were {old}; estimated instead"]
    if entry.get("layers") and len(entry["layers"]) != len(facts["layers"]):
        have = f"{len(entry['layers'])} layers, and the model has {len(facts['layers'])}"
        return None, [f"{facts['name']}: the cycles in NN_CYCLES are of {have}; estimated instead"]
    return entry, []


def microseconds(cycles: int, mhz: float) -> float:
    """Rounded up to a tenth, so that what is over a limit shows it."""
    return math.ceil(round(cycles * 10 / mhz, 6)) / 10


def record(found: Timed | None, chip: Chip, limit: Latency | None) -> dict[str, Any] | None:
    """`latency` of a model in fw.size.json; `us` and `mhz` are null where no limit names a clock."""
    if found is None:
        return None
    mhz = limit.mhz if limit and limit.cycles is None else None
    return {
        "cycles": found.cycles,
        "us": microseconds(found.cycles, mhz) if mhz else None,
        "mhz": mhz,
        "wait_states": wait_states_of(chip, limit),
        "mul_cycles": chip.mul_cycles,
        "basis": found.basis,
        "error_percent": found.error_percent,
    }


def judged(
    facts: Mapping[str, Any], found: Timed | None, limit: Latency, chip: Chip, strict: bool
) -> tuple[Verdict | None, list[str]]:
    """The limit held against the cycles, and warnings; without `strict` only where the core's timings are known."""
    name, cpu = facts["name"], facts["cpu"]
    unit, most = ("us" if limit.cycles is None else "cycles"), limit.us
    if found is None:
        core = "this compiler's core" if cpu == "generic" else cpu
        note = f"nothing is known of the timings of {core}, or of one of the kernels"
        if strict:
            hint = f"{note}; NN_CYCLES= takes figures measured on the board"
            return Verdict(f"{name} latency", None, most, unit, hint), []
        return None, [f"{name}: latency is not judged: {note}; NN_CYCLES= takes figures measured on the board"]
    value = microseconds(found.cycles, limit.mhz)
    verdict = Verdict(f"{name} latency", value, most, unit, "; ".join(_advice(facts, found, limit, chip)))
    if found.basis != "instructions x factor" or strict:
        return verdict, []
    text = f"about {value:,.0f} of {most:,.0f} {unit}, {found.basis}, as {cpu} has no table of timings"
    return None, [f"{name}: latency is not judged without latency_strict=True: {text}"]


def describe(found: Timed) -> str:
    """What the figure rests on, in words."""
    if found.basis == "fit":
        return f"estimated, fit error at most {found.error_percent:g} % on this core"
    return "measured on the board" if found.basis == "measured" else f"{found.basis}, a guess"


def _advice(facts: Mapping[str, Any], found: Timed, limit: Latency, chip: Chip) -> list[str]:
    """What the time goes to and what would save some, without `;`."""
    lines = [f"{found.cycles:,} cycles, {describe(found)}"]
    if slowest := _slowest(facts["layers"], found.layers):
        total = max(1, found.cycles)
        share = [f"{name} {cycles:,} ({100 * cycles / total:.0f} %)" for name, cycles in slowest]
        lines.append(f"slowest layers, cycles: {', '.join(share)}")
    lines += _faster_kernels(facts["layers"], found, wait_states_of(chip, limit), chip.mul_cycles - 1)
    if found.multiplications:
        lines.append(f"{found.multiplications:,} cycles are those of a multiplier that takes {chip.mul_cycles}")
    if found.waits:
        lines.append(f"{found.waits:,} cycles wait for the flash, if it has neither prefetch nor cache")
    if limit.cycles is None:
        mhz = math.ceil(round(found.cycles / limit.us * 10, 6)) / 10
        lines.append(f"it would hold at {mhz:,.1f} MHz with as many wait states")
    return lines


def _slowest(layers: Sequence[Mapping[str, Any]], cycles: Sequence[int | None]) -> list[tuple[str, int]]:
    known = [(layer["name"], count) for layer, count in zip(layers, cycles, strict=True) if count is not None]
    return sorted(known, key=lambda row: (-row[1], row[0]))[:SHOWN]


def _faster_kernels(layers: Sequence[Mapping[str, Any]], found: Timed, waits: int, multiplications: int) -> list[str]:
    """Kernels that serve, were not taken, and take fewer cycles: as pins."""
    if found.basis == "measured":
        return []
    better = []
    for layer, now in zip(layers, found.layers, strict=True):
        for kernel, part in layer["alternatives"].items():
            saved = (now or 0) - _weighed(part, waits, multiplications)
            if saved > 0:
                better.append((saved, f"{layer['name']}={kernel}"))
    better.sort(key=lambda row: (-row[0], row[1]))
    if not better:
        return []
    named = ", ".join(f"{pin} {saved:,}" for saved, pin in better[:3])
    return [f"larger kernels would save cycles, with a larger flash= or as pins: {named}"]
