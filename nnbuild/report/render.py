"""The size report as text and as JSON.

JSON (schema 1): `files`, `regions` [{name, used, length, limit, over}], `budgets` [{what, value, limit, unit, over,
ok, hint}] (see `budget.Verdict`), `flash` and `ram` {kind: bytes, total},
`models` [{name, model_id, flash, ram, scratch_in_arena, shared_arena, layers [{index, name, op, kernel, function,
weights, code}]}].
All figures are bytes. `ram.stack_reserve` is null where the image does not say it; `ram.scratch` is scratch memory
beside the arena. Layers of one shape share a function, whose code is counted in the first of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from nnbuild import __version__
from nnbuild.report.budget import RegionUse, Verdict
from nnbuild.report.usage import SCHEMA, ModelUsage, Usage

_FLASH_LABELS = {
    "weights": "weights",
    "code": "generated code",
    "kernels": "kernels",
    "selftest": "self-test",
    "rest": "rest of firmware",
    "unattributed": "unattributed",
}
_RAM_LABELS = {"arena": "arena", "scratch": "scratch", "other": "other", "stack_reserve": "stack reserve"}


def as_json(files: Sequence[str], usage: Usage, uses: Sequence[RegionUse], verdicts: Sequence[Verdict] = ()) -> str:
    """The report for programs; `files` are the names to print, `verdicts` all budgets, held or missed."""
    ram: dict[str, int | None] = {**usage.ram}
    if not usage.reserve_known:
        ram["stack_reserve"] = None
    data = {
        "schema": SCHEMA,
        "nnbuild": __version__,
        "files": list(files),
        "regions": [{key: getattr(use, key) for key in ("name", "used", "length", "limit", "over")} for use in uses],
        "budgets": [verdict.data() for verdict in verdicts],
        "flash": {**usage.flash, "total": sum(usage.flash.values())},
        "ram": {**ram, "total": sum(usage.ram.values())},
        "models": [_model_data(model) for model in usage.models],
    }
    return json.dumps(data, indent=1) + "\n"


def _model_data(model: ModelUsage) -> dict[str, Any]:
    nothing = {"weights": 0, "code": 0}
    return {
        "name": model.report.name,
        "model_id": model.report.model_id,
        "flash": {**model.flash, "total": sum(model.flash.values())},
        "ram": {**model.ram, "total": sum(model.ram.values())},
        "scratch_in_arena": model.report.scratch,
        "shared_arena": model.report.arena if model.report.shared else 0,
        "layers": [{**layer, **model.layers.get(layer["index"], nothing)} for layer in model.report.layers],
    }


def as_text(title: str, usage: Usage, uses: Sequence[RegionUse]) -> str:
    """The report for people."""
    lines = [title, ""]
    lines += _kinds("flash", {_FLASH_LABELS[kind]: size for kind, size in usage.flash.items() if _shown(kind, size)})
    lines += ["", *_kinds("RAM", {_RAM_LABELS[kind]: size for kind, size in usage.ram.items()}, _unknown(usage))]
    lines += ["", *region_table(uses)]
    for model in usage.models:
        lines += ["", *_model_table(model)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _shown(kind: str, size: int) -> bool:
    return size > 0 or kind not in ("selftest", "unattributed")


def _unknown(usage: Usage) -> dict[str, str]:
    return {} if usage.reserve_known else {_RAM_LABELS["stack_reserve"]: "unattributed"}


def _kinds(title: str, sizes: dict[str, int], unknown: dict[str, str] | None = None) -> Iterator[str]:
    total = sum(sizes.values())
    yield f"{title:<18}{'bytes':>12}{'share':>9}"
    for label, size in sizes.items():
        if unknown and label in unknown:
            yield f"  {label:<16}{unknown[label]:>12}"
        else:
            share = f"{100 * size / total:.1f} %" if total else ""
            yield f"  {label:<16}{size:>12,}{share:>9}"
    yield f"  {'total':<16}{total:>12,}{_kib(total):>9}"


def _kib(size: int) -> str:
    return f"{size / 1024:.1f}K"


def region_table(uses: Sequence[RegionUse]) -> Iterator[str]:
    """One line for each region: what is used, what is allowed, what is over."""
    yield f"{'region':<18}{'used':>12}{'limit':>12}{'':>9}"
    for use in uses:
        limit = "" if use.limit is None else f"{use.limit:,}"
        share = f"{100 * use.used / use.limit:.1f} %" if use.limit else ""
        over = f"  {use.over:,} bytes over" if use.over else ""
        yield f"  {use.name:<16}{use.used:>12,}{limit:>12}{share:>9}{over}"


def _model_table(model: ModelUsage) -> Iterator[str]:
    name = model.report.name
    yield f"model {name}: {name.upper()}_MODEL_ID {model.report.model_id}"
    flash = {_FLASH_LABELS[kind]: size for kind, size in model.flash.items() if _shown(kind, size)}
    yield "  flash " + ", ".join(f"{label} {size:,}" for label, size in flash.items())
    shared = f" (of it up to {model.report.scratch:,} for scratch)" if model.report.scratch else ""
    ram = {_RAM_LABELS[kind] + (shared if kind == "arena" else ""): size for kind, size in model.ram.items()}
    yield "  RAM   " + ", ".join(f"{label} {size:,}" for label, size in ram.items())
    if model.report.shared:
        yield f"  RAM   of the shared arena it uses {model.report.arena:,}"
    if not model.report.layers:
        return
    width = max(24, *(len(str(layer["name"])) for layer in model.report.layers))
    yield f"  {'layer':<{width}}{'kernel':>12}{'weights':>10}{'code':>8}"
    for layer in model.report.layers:
        sizes = model.layers.get(layer["index"], {"weights": 0, "code": 0})
        shares = "" if layer["function"] == layer["name"] else f"  code of {layer['function']}"
        yield f"  {layer['name']:<{width}}{layer['kernel']:>12}{sizes['weights']:>10,}{sizes['code']:>8,}{shares}"
    whole = model.flash["code"] - sum(sizes["code"] for sizes in model.layers.values())
    yield f"  {name + '_run and others':<{width}}{'':>22}{whole:>8,}"


def summary(title: str, uses: Sequence[RegionUse], verdicts: Sequence[Verdict] = ()) -> str:
    """One line: how full every region is, or how far every budget is used where no region has one."""
    if verdicts and not any(use.limit for use in uses):
        rows = [(verdict.what, verdict.value or 0, verdict.limit) for verdict in verdicts if verdict.unit == "bytes"]
    else:
        rows = [(use.name, use.used, use.limit or 0) for use in uses]
    parts = []
    for name, used, limit in rows:
        share = f" of {limit:,} ({100 * used / limit:.1f} %)" if limit else ""
        parts.append(f"{name} {used:,}{share}")
    return f"{title}: {', '.join(parts)} bytes"
