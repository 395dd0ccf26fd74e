"""The part of a report that lies in one region of memory, so that hints name nothing that is elsewhere."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from nnbuild.report.linkerscript import Region
from nnbuild.report.usage import SHARED_ARENA

Model = Mapping[str, Any]


def part(document: Mapping[str, Any], region: Region, values: Mapping[str, int], home: bool) -> dict[str, Any]:
    """`document` without the weights, code and arenas that are not in `region`, as far as symbols show it.

    `values` are the symbols of the image; `home` says that the region holds the variables of the firmware, and with
    them the stack and what has no symbol of its own, such as an arena of the caller's.
    """
    names = sorted(values)
    models = [_model(model, region, values, names, home) for model in document["models"]]
    flash = {**document["flash"], "selftest": sum(model["flash"]["selftest"] for model in models)}
    ram = {**document["ram"], "stack_reserve": document["ram"]["stack_reserve"] if home else None}
    return {**document, "models": models, "flash": flash, "ram": ram}


def _model(model: Model, region: Region, values: Mapping[str, int], names: Sequence[str], home: bool) -> dict[str, Any]:
    name = model["name"]
    arena = values.get(SHARED_ARENA if model["shared_arena"] else f"{name}_arena")
    code = values.get(f"{name}_run", region.origin) in region
    layers = []
    for layer in model["layers"]:
        weights = _constants(layer["name"], values, names, region.origin) in region
        kept = {"weights": layer["weights"] if weights else None, "code": layer["code"] if code else None}
        layers.append({**layer, **kept})
    found = {**model, "layers": layers}
    if not code:
        found["flash"] = {**model["flash"], "selftest": 0}
    if not (home if arena is None else arena in region):
        found |= {"arena": [], "arena_bytes": 0, "ram": {**model["ram"], "arena": 0}}
    return found


def _constants(layer: str, values: Mapping[str, int], names: Sequence[str], unknown: int) -> int:
    """Where the constants of a layer are; `names` are sorted."""
    at = bisect_left(names, f"{layer}_")
    return values[names[at]] if at < len(names) and names[at].startswith(f"{layer}_") else unknown
