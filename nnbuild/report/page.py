"""The report as one HTML page that needs nothing else: no network, no other file, and no script to be read.

The page's content security policy allows its own style and script by their hashes and nothing more, so whatever a
model puts into its names stays text. Jinja2 escapes them; nothing in the page is marked as safe but those two files.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2

from nnbuild.config import MADE_UP
from nnbuild.report import curve, difference, flashmap, timeline
from nnbuild.report.render import FLASH_LABELS, RAM_LABELS, UNATTRIBUTED, title_of

_KIND_LABELS = {**FLASH_LABELS, "rest": "rest of firmware"}
_SQNR_FULL = 60.0
"""dB at which a bar of the signal-to-noise ratio is full."""
_SQNR = {"sqnr": "sqnr_db", "alone": "isolated_db"}


def as_html(document: dict[str, Any], old: difference.Earlier | None = None) -> str:
    """The page; `old` is the build that it is compared with."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'"
    changes = difference.changes(old.figures, difference.figures(document)) if old else []
    layers = difference.changes(old.layers, difference.layers(document)) if old else []
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document=document,
            title=title_of(document),
            missed=[budget for budget in document["budgets"] if not budget["ok"]],
            flash_groups=flashmap.layout(document),
            flash_size=(flashmap.WIDTH, flashmap.HEIGHT),
            flash_labels=_KIND_LABELS,
            ram_labels=RAM_LABELS,
            models=[_model(index, model) for index, model in enumerate(document["models"])],
            changes={change.what: change for change in changes},
            compared=old is not None,
            changed=[change for change in (*changes, *layers) if change.old != change.new],
            policy=policy,
            style=style,
            script=script,
            unattributed=UNATTRIBUTED,
            synthetic=MADE_UP,
            curve_size=(curve.WIDTH, curve.HEIGHT),
        )
    )


def _asset(name: str) -> str:
    return (resources.files("nnbuild.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(resources.files("nnbuild.report"))),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters |= {
        "number": number,
        "kib": _kib,
        "at": _at,
        "shape": _shape,
        "signed": difference.signed,
        "grown": _grown,
        "amount": difference.amount,
        "limit_of": difference.limit_of,
    }
    return environment


def number(value: float | None, digits: int = 0) -> str:
    """`17,652`; `unattributed` for None."""
    return UNATTRIBUTED if value is None else f"{value:,.{digits}f}"


def _kib(size: int) -> str:
    return f"{size / 1024:.1f}K"


def _at(value: float) -> str:
    """A coordinate, as short as a tenth of a unit allows."""
    return f"{value:.1f}".removesuffix(".0")


def _shape(shape: Sequence[int]) -> str:
    return "×".join(str(size) for size in shape)


def _grown(change: difference.Change) -> bool:
    """Whether a figure became worse: of what is measured in percent and dB, more is better."""
    by = (change.new or 0) - (change.old or 0)
    return by < 0 if change.unit in ("percent", "dB") else by > 0


def _model(index: int, model: dict[str, Any]) -> dict[str, Any]:
    layers = model["layers"]
    measure = "cycles" if any(layer["cycles"] is not None for layer in layers) else "macs"
    total = sum(layer[measure] or 0 for layer in layers)
    longest = max(range(len(layers)), key=lambda i: layers[i][measure] or 0, default=-1)
    return {
        "facts": model,
        "id": f"m{index}",
        "timeline": timeline.layout(model),
        "curve": curve.picture(model["curve"]),
        "buys": curve.words(model["curve"]),
        "live": timeline.live_bytes(model),
        "measure": "cycles" if measure == "cycles" else "MACs",
        "longest": longest if total else -1,
        "total": {"cycles": sum(layer["cycles"] or 0 for layer in layers), "macs": sum(x["macs"] for x in layers)},
        "feet": _feet(model),
        "columns": {
            "cycles": measure == "cycles",
            "sqnr": any(layer["sqnr_db"] is not None for layer in layers),
            "alone": any(layer["isolated_db"] is not None for layer in layers),
            "scratch": any(layer["scratch"] for layer in layers),
        },
        "layers": [_layer(layer, layers, total, measure) for layer in layers],
    }


def _feet(model: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The rows below the layers: what belongs to none of them, and the sums."""
    layers, flash = model["layers"], model["flash"]
    cycles = model["latency"]["cycles"] if model["latency"] else None
    others = {
        "macs": None,
        "cycles": None if cycles is None else max(0, cycles - sum(layer["cycles"] or 0 for layer in layers)),
        "weights": flash["weights"] - sum(layer["weights"] or 0 for layer in layers),
        "code": model["other_code"],
    }
    sums = {"macs": sum(layer["macs"] for layer in layers), "cycles": cycles}
    sums |= {kind: flash[kind] for kind in ("weights", "code")}
    return [(f"{model['name']}_run and others", others), ("total", sums)]


def _layer(layer: dict[str, Any], layers: Sequence[dict[str, Any]], total: float, measure: str) -> dict[str, Any]:
    flash = [(each["weights"] or 0) + (each["code"] or 0) for each in layers]
    return {
        "facts": layer,
        "macs": _percent(layer["macs"], max(each["macs"] for each in layers)),
        "cycles": _percent(layer["cycles"] or 0, max(each["cycles"] or 0 for each in layers)),
        "share": _percent(layer[measure] or 0, total),
        "weights": _percent(layer["weights"] or 0, max(flash)),
        "code": _percent(layer["code"] or 0, max(flash)),
        **{key: min(100.0, max(0.0, _percent(layer[of] or 0.0, _SQNR_FULL))) for key, of in _SQNR.items()},
        "flash": (layer["weights"] or 0) + (layer["code"] or 0),
    }


def _percent(value: float, most: float) -> float:
    return 100 * value / most if most else 0.0
