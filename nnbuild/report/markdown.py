"""The report as Markdown (GitHub's and GitLab's) for a comment on a pull request: what it is, and what changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from nnbuild.config import MADE_UP
from nnbuild.report import difference
from nnbuild.report.difference import Change
from nnbuild.report.render import UNATTRIBUTED, title_of

_UNITS = {"bytes": "bytes", "us": "µs", "cycles": "cycles", "percent": "%", "dB": "dB"}


def as_markdown(document: dict[str, Any], old: difference.Earlier | None = None) -> str:
    """The text; `old` is the build that it is compared with."""
    lines = [f"### {escape(title_of(document))}", "", _verdict(document["budgets"]), ""]
    figures = difference.figures(document)
    changes = difference.changes(old.figures if old else figures, figures)
    lines += _figures(changes, {budget["what"]: budget for budget in document["budgets"]}, old is not None)
    lines += _made_up(document["models"])
    lines += _estimates(document["models"])
    lines += _missed(document["budgets"])
    if old is not None:
        lines += _changed_layers(difference.changes(old.layers, difference.layers(document)))
    for model in document["models"]:
        lines += [*_accuracy(model), *_layers(model)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """`text` that Markdown and HTML show as it is, in a table too: no markup, no link, nobody is mentioned."""
    one_line = " ".join(text.split())
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])|[^\w \-.,:%()+/]", lambda found: f"&#{ord(found[0])};", one_line)


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]], texts: int = 1) -> Iterator[str]:
    """A table whose first `texts` columns are text and whose others are numbers."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * texts}{'---:|' * (len(heads) - texts)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _verdict(budgets: Sequence[dict[str, Any]]) -> str:
    missed = [budget["what"] for budget in budgets if not budget["ok"]]
    if missed:
        return f"❌ Over budget: {', '.join(escape(what) for what in missed)}"
    return f"✅ Within budget ({len(budgets)})" if budgets else "No budgets"


def _figures(changes: Sequence[Change], budgets: dict[str, dict[str, Any]], compared: bool) -> Iterator[str]:
    """The figures of the image and its models, then budgets of other things, such as growth."""
    known = {change.what for change in changes}

    def rows() -> Iterator[list[str]]:
        for change in [*changes, *_others(budgets, known)]:
            budget = budgets.get(change.what)
            mark = "" if budget is None or budget["ok"] else "❌ "
            row = [f"{mark}{escape(change.what)}", _with_unit(change), difference.limit_of(budget) if budget else ""]
            alone = change.what not in known
            old = ["", ""] if alone else [difference.amount(change.old, change.unit), difference.signed(change)]
            yield [*row, *old] if compared else row

    yield from _table(["", "now", "limit", *(("before", "change") if compared else ())], rows())


def _estimates(models: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Cycles are called an estimate wherever they are shown, unless they were measured; one line for each basis."""
    names: dict[str, list[str]] = {}
    for model in models:
        latency = model["latency"]
        if latency and latency["basis"] != "measured":
            off = latency["error_percent"]
            error = f", error at most {off:.0f} %" if off is not None else ""
            names.setdefault(f"{escape(latency['basis'])}{error}", []).append(escape(model["name"]))
    for basis, found in names.items():
        yield from (f"Cycles and times of {', '.join(found)} are estimates: {basis}.", "")


def _made_up(models: Sequence[dict[str, Any]]) -> Iterator[str]:
    for model in models:
        if model["synthetic"]:
            yield from (f"⚠️ {escape(model['name'])}: {escape(MADE_UP)}.", "")


def _others(budgets: dict[str, dict[str, Any]], known: set[str]) -> list[Change]:
    return [Change(what, row["unit"], None, row["value"]) for what, row in budgets.items() if what not in known]


def _with_unit(change: Change) -> str:
    if change.new is None:
        return "unknown" if change.old is None else "gone"
    return f"{difference.amount(change.new, change.unit)} {_UNITS.get(change.unit, change.unit)}"


def _missed(budgets: Sequence[dict[str, Any]]) -> Iterator[str]:
    missed = [budget for budget in budgets if not budget["ok"]]
    for budget in missed:
        over = (
            f"over by {difference.amount(budget['over'], budget['unit'])} {_UNITS.get(budget['unit'], budget['unit'])}"
        )
        yield f"* {escape(budget['what'])}: {over if budget['over'] is not None else 'not known'}"
        yield from (f"  * {escape(part)}" for part in budget["hint"].split("; ") if part)
    if missed:
        yield ""


def _changed_layers(changes: Sequence[Change]) -> Iterator[str]:
    changed = [change for change in changes if change.old != change.new]
    if not changed:
        yield from ("No layer changed its size.", "")
        return

    def rows() -> Iterator[list[str]]:
        for change in changed:
            old, new = (difference.amount(value, change.unit) for value in (change.old, change.new))
            yield [escape(change.what), old, new, difference.signed(change)]

    yield from (f"<details><summary>{len(changed)} layers changed</summary>", "")
    yield from _table(["layer", "before", "now", "change"], rows())
    yield from ("</details>", "")


def _accuracy(model: dict[str, Any]) -> Iterator[str]:
    """Decisions that differ, the worst samples, and where it is lost."""
    found = model["accuracy"]
    if found is None:
        return
    head = f"{escape(model['name'])}: accuracy on {found['samples']:,} samples, by {escape(found['evaluated_by'])}"
    yield from (f"<details><summary>{head}</summary>", "")
    if found["drop"] is not None:
        top1 = f"top-1 {found['top1']:.2f} %, float {found['top1_float']:.2f} %"
        yield from (f"{top1}: a drop of {found['drop']:.2f} points.", "")
    if found["confusions"]:
        pairs = ([str(pair[key]) for key in ("float", "int8", "count")] for pair in found["confusions"])
        yield from _table(["float says", "int8 says", "samples"], pairs, texts=0)
    worst = (
        [str(one["sample"]), f"{one['sqnr_db']:.1f}", str(one["float"]), str(one["int8"])] for one in found["worst"]
    )
    yield from _table(["worst samples", "SQNR dB", "float says", "int8 says"], worst, texts=0)
    rows = (
        [escape(layer["name"]), *map(_figure, (layer["sqnr_db"], layer["isolated_db"], layer["saturation"]))]
        for layer in found["layers"]
    )
    yield from _table(
        [f"layer, on {found['layer_samples']} samples", "SQNR dB", "alone dB", "of it saturation %"], rows
    )
    yield from ("</details>", "")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _layers(model: dict[str, Any]) -> Iterator[str]:
    timed = any(layer["cycles"] is not None for layer in model["layers"])

    def rows() -> Iterator[list[str]]:
        for layer in model["layers"]:
            sizes = [_size(layer["weights"]), _size(layer["code"])]
            cycles = [_size(layer["cycles"])] if timed else []
            yield [escape(layer["name"]), escape(layer["kernel"]), f"{layer['macs']:,}", *cycles, *sizes]

    heads = ["layer", "kernel", "MACs", *(("cycles",) if timed else ()), "weights", "code"]
    by_rows = sum(own["last"] - own["first"] + 1 for own in model["segments"])
    layers = f"{len(model['layers'])} layers{f', {by_rows} of them row by row' if by_rows else ''}"
    summary = f"{escape(model['name'])}: {layers}, arena {model['arena_bytes']:,} bytes"
    yield from (f"<details><summary>{summary}</summary>", "")
    yield from _table(heads, rows(), texts=2)
    yield from ("</details>", "")


def _size(value: int | None) -> str:
    return UNATTRIBUTED if value is None else f"{value:,}"
