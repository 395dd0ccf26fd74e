"""`fw.size.json`: what is known of an image and its models, in one document (schema 2, docs/REPORT.md).

One small function for each key; `schema.KEYS` says what they mean. All other forms of the report, as text, Markdown
and HTML, are made from this document alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnbuild import __version__
from nnbuild.errors import ConfigError
from nnbuild.report import accuracy, schema
from nnbuild.report.budget import RegionUse
from nnbuild.report.usage import ModelUsage, Usage, layer_number

Document = dict[str, Any]


def build(
    files: Sequence[str], usage: Usage, uses: Sequence[RegionUse], baseline: dict[str, Any] | None = None
) -> Document:
    """The document, without `budgets`, whose hints are made from it; `files` are the names to print."""
    return {
        "schema": schema.SCHEMA,
        "nnbuild": __version__,
        "files": list(files),
        "regions": [{key: getattr(use, key) for key in ("name", "used", "length", "limit", "over")} for use in uses],
        "flash": {**usage.flash, "total": sum(usage.flash.values())},
        "ram": _ram(usage),
        "budgets": [],
        "baseline": baseline,
        "models": [{key: value(model) for key, value in _OF_MODEL.items()} for model in usage.models],
        "shared_kernels": _shared(usage),
        "licences": _licences(usage),
    }


def as_json(document: Document) -> str:
    """The text of `fw.size.json`."""
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def read(path: str | Path) -> Document:
    """A document from a file. ConfigError where it is none of this schema."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", str(path)) from None
    except (ValueError, RecursionError):
        raise ConfigError("is no JSON", str(path), "give the fw.size.json that a build wrote") from None
    found = document.get("schema") if isinstance(document, dict) else None
    if found != schema.SCHEMA:
        message = f"is no size report of schema {schema.SCHEMA}"
        raise ConfigError(message, str(path), "build the image again with this nnbuild")
    wrong = schema.violations(document)
    if wrong:
        raise ConfigError(f"is no size report: {wrong[0]}", str(path), "build the image again with this nnbuild")
    return dict(document)


def _ram(usage: Usage) -> dict[str, int | None]:
    known: dict[str, int | None] = {**usage.ram}
    if not usage.reserve_known:
        known["stack_reserve"] = None
    return {**known, "total": sum(usage.ram.values())}


# --- a model -----------------------------------------------------------------------------------------------------


def _layers(model: ModelUsage) -> list[dict[str, Any]]:
    return [{key: value(model, layer) for key, value in _OF_LAYER.items()} for layer in model.report.layers]


def _other_code(model: ModelUsage) -> int | None:
    return model.flash["code"] - sum(sizes["code"] for sizes in model.layers.values()) or None


def _arena_bound(model: ModelUsage) -> int:
    facts = model.report.facts
    return int(model.report.arena - facts["arena_bytes"] + facts["arena_bound_bytes"])


def _total(kinds: dict[str, int]) -> dict[str, int]:
    return {**kinds, "total": sum(kinds.values())}


_OF_MODEL: dict[str, Callable[[ModelUsage], Any]] = {
    "name": lambda model: model.report.name,
    "model_id": lambda model: model.report.model_id,
    "cpu": lambda model: model.report.facts["cpu"],
    "flash": lambda model: _total(model.flash),
    "ram": lambda model: _total(model.ram),
    "other_code": _other_code,
    "scratch_in_arena": lambda model: model.report.scratch,
    "shared_arena": lambda model: model.report.arena if model.report.shared else 0,
    "arena_bytes": lambda model: model.report.arena,
    "arena_bound_bytes": _arena_bound,
    "arena_optimal": lambda model: model.report.arena == _arena_bound(model),
    "reordered": lambda model: model.report.facts["reordered"],
    "peak_layer": lambda model: model.report.facts["peak_layer"],
    "stack": lambda model: model.stack,
    "latency": lambda model: model.latency,
    "synthetic": lambda model: model.report.facts["synthetic"],
    "optimize": lambda model: model.report.facts["optimize"],
    "curve": lambda model: model.report.facts["curve"],
    "accuracy": accuracy.in_document,
    "arena": lambda model: model.report.facts["arena_map"],
    "ram_notes": lambda model: model.report.facts.get("ram", []),
    "segments": lambda model: model.report.facts.get("segments", []),
    "layers": _layers,
}


# --- a layer -----------------------------------------------------------------------------------------------------


def _code(model: ModelUsage, layer: dict[str, Any]) -> int | None:
    """Bytes of the layer's own function; None where it has one of which no symbol is left."""
    size = _measured(model, layer, "code")
    return size if size or layer["function"] != layer["name"] else None


def _weights(model: ModelUsage, layer: dict[str, Any]) -> int | None:
    size = _measured(model, layer, "weights")
    return size if size or not layer["weights_bytes"] else None


def _measured(model: ModelUsage, layer: dict[str, Any], kind: str) -> int:
    number = layer_number(model.report.name, layer["name"])
    return model.layers.get(-1 if number is None else number, {}).get(kind, 0)


def _fact(key: str) -> Callable[[ModelUsage, dict[str, Any]], Any]:
    return lambda model, layer: layer[key]


_OF_LAYER: dict[str, Callable[[ModelUsage, dict[str, Any]], Any]] = {
    **{
        key: _fact(key)
        for key in ("index", "name", "node", "op", "kernel", "reasons", "function", "inputs", "output", "macs")
    },
    "weights": _weights,
    "code": _code,
    "cycles": lambda model, layer: model.timed.layers[layer["index"]] if model.timed else None,
    "assembly": lambda model, layer: layer.get("assembly"),
    "scratch": _fact("scratch_bytes"),
    **{key: accuracy.of_layer(key) for key in ("sqnr_db", "isolated_db")},
}


# --- beside the models -------------------------------------------------------------------------------------------


def _shared(usage: Usage) -> list[dict[str, Any]]:
    """Kernels that no model owns, the largest first."""
    rows = sorted(usage.shared.items(), key=lambda row: (-row[1], row[0]))
    return [{"function": name, "bytes": size} for name, size in rows]


def _licences(usage: Usage) -> list[dict[str, Any]]:
    """What is linked, as far as symbols tell: nothing is said of bytes whose origin is not known."""
    cmsis_nn = sum(size for name, size in usage.shared.items() if not name.startswith("nn_"))
    generated = usage.flash["code"] + usage.flash["selftest"] + usage.flash["kernels"] - cmsis_nn
    rows: list[tuple[str, str | None, int]] = [("code generated by nnbuild", "0BSD", generated)]
    rows += [(f"weights of {model.report.name}", None, model.flash["weights"]) for model in usage.models]
    rows += [
        ("CMSIS-NN", "Apache-2.0", cmsis_nn),
        ("rest of the firmware and its libraries", None, usage.flash["rest"]),
        ("bytes without a symbol", None, usage.flash["unattributed"]),
    ]
    return [{"component": name, "licence": licence, "bytes": size} for name, licence, size in rows if size]
