"""What changed between two builds: the same figures of two documents, by the names that budgets use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: `what` as budgets name it, and its unit: bytes, us, cycles, percent, points or dB."""

    what: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Change:
    """A figure now and before; `old` or `new` is None where it has no such figure."""

    what: str
    unit: str
    old: float | None
    new: float | None


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is known of another build: the figures of its image and models, and those of its layers."""

    figures: tuple[Figure, ...]
    layers: tuple[Figure, ...]


def of_document(document: Mapping[str, Any]) -> Earlier:
    """Another build by its own `fw.size.json`."""
    return Earlier(tuple(figures(document)), tuple(layers(document)))


_DIGITS = {"bytes": 0, "cycles": 0, "us": 1, "percent": 2, "points": 2, "dB": 1}


def amount(value: float | None, unit: str) -> str:
    """`1,024`, `97.25`, or nothing for None: in `unit`, which is not printed."""
    return "" if value is None else f"{value:,.{_DIGITS.get(unit, 2)}f}"


def limit_of(budget: Mapping[str, Any]) -> str:
    """A budget's limit; of what is measured in percent and dB it is the least."""
    least = "≥ " if budget["unit"] in ("percent", "dB") else ""
    return f"{least}{amount(budget['limit'], budget['unit'])}"


def signed(change: Change) -> str:
    """`+1,024`, `−12`, `±0`, `new` or `gone`."""
    if change.old is None or change.new is None:
        return "new" if change.old is None else "gone"
    by = change.new - change.old
    return f"{'+' if by > 0 else '−' if by < 0 else '±'}{amount(abs(by), change.unit)}"


def figures(document: Mapping[str, Any]) -> list[Figure]:
    """The figures of an image and its models that are worth comparing, in the order of the report."""
    found = [Figure(region["name"], region["used"], "bytes") for region in document["regions"]]
    for model in document["models"]:
        found += [Figure(f"{model['name']} {what}", value, unit) for what, value, unit in _of_model(model)]
    return found


def _of_model(model: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """As budgets count: without the self-test, with the arena wherever it is."""
    yield "flash", model["flash"]["total"] - model["flash"]["selftest"], "bytes"
    yield "ram", model["ram"]["total"] + (0 if model["ram"]["arena"] else model["arena_bytes"]), "bytes"
    optional = (
        ("stack", "stack", "bytes", "bytes"),
        ("latency", "latency", "us", "us"),
        ("latency", "cycles", "cycles", "cycles"),
        ("accuracy", "agreement", "agreement", "percent"),
        ("accuracy", "sqnr", "sqnr_db", "dB"),
        ("accuracy", "drop", "drop", "points"),
    )
    for part, what, key, unit in optional:
        value = (model[part] or {}).get(key)
        if value is not None:
            yield what, value, unit


def layers(document: Mapping[str, Any]) -> list[Figure]:
    """Bytes of flash and cycles of every layer that has them."""
    found = []
    for layer in (layer for model in document["models"] for layer in model["layers"]):
        if layer["weights"] is not None and layer["code"] is not None:
            found.append(Figure(f"{layer['name']} flash", layer["weights"] + layer["code"], "bytes"))
        elif layer["weights"] is not None:
            found.append(Figure(f"{layer['name']} weights", layer["weights"], "bytes"))
        if layer["cycles"] is not None:
            found.append(Figure(f"{layer['name']} cycles", layer["cycles"], "cycles"))
    return found


def changes(old: Sequence[Figure], new: Sequence[Figure]) -> list[Change]:
    """All figures of both, those of `new` in their order first; equal ones included."""
    before = {figure.what: figure for figure in old}
    now = {figure.what: figure for figure in new}
    units = {what: figure.unit for what, figure in (before | now).items()}
    order = [*now, *(what for what in before if what not in now)]
    return [Change(what, units[what], _value(before, what), _value(now, what)) for what in order]


def _value(found: Mapping[str, Figure], what: str) -> float | None:
    return found[what].value if what in found else None
