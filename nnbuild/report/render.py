"""The size report for people, as text: from the document of `nnbuild.report.document` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nnbuild.config import MADE_UP
from nnbuild.report import curve
from nnbuild.report.budget import RegionUse, Verdict, amount
from nnbuild.report.terminal import PLAIN, Style

UNATTRIBUTED = "unattributed"
FLASH_LABELS = {
    "weights": "weights",
    "code": "generated code",
    "kernels": "kernels",
    "selftest": "self-test",
    "rest": "rest of firmware",
    "unattributed": UNATTRIBUTED,
}
RAM_LABELS = {"arena": "arena", "scratch": "scratch", "other": "other", "stack_reserve": "stack reserve"}
_OF_LAYER = ("blue", "cyan")
_ALONE = 3
_COLOURS = {"weights": "blue", "code": "cyan", "kernels": "magenta", "arena": "blue", "stack_reserve": "magenta"}


def as_text(title: str, document: dict[str, Any], style: Style = PLAIN) -> str:
    """The tables of all kinds, regions and models."""
    lines = [style.paint(title, "bold"), ""]
    lines += _kinds("flash", FLASH_LABELS, document["flash"], style)
    lines += ["", *_kinds("RAM", RAM_LABELS, document["ram"], style)]
    lines += ["", *_regions(document["regions"], style)]
    for model in document["models"]:
        lines += ["", *_model(model, style)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def title_of(document: dict[str, Any]) -> str:
    """The name of the image, or of the model whose objects were measured."""
    models, files = document["models"], document["files"]
    return f"model {models[0]['name']}" if models and files and files[0].endswith((".o", ".obj")) else ", ".join(files)


def _shown(kind: str, size: int) -> bool:
    return size > 0 or kind not in ("selftest", "unattributed")


def _kinds(title: str, labels: dict[str, str], sizes: dict[str, int | None], style: Style) -> Iterator[str]:
    total = sizes["total"] or 0
    yield f"{title:<18}{'bytes':>12}{'share':>9}"
    for kind, label in labels.items():
        size = sizes[kind]
        if size is None:
            yield f"  {label:<16}{UNATTRIBUTED:>12}"
        elif _shown(kind, size):
            share = f"{100 * size / total:.1f} %" if total else ""
            bar = style.bar(size, total, _COLOURS.get(kind, ""))
            yield f"  {label:<16}{size:>12,}{share:>9}  {bar}"
    yield f"  {'total':<16}{total:>12,}{f'{total / 1024:.1f}K':>9}"


def _regions(regions: Sequence[dict[str, Any]], style: Style) -> Iterator[str]:
    """One line for each region: what is used, what is allowed, what is over."""
    yield f"{'region':<18}{'used':>12}{'limit':>12}{'':>9}"
    for region in regions:
        used, limit, over = region["used"], region["limit"], region["over"]
        share = f"{100 * used / limit:.1f} %" if limit else ""
        bar = style.bar(used, limit, "red" if over else "yellow" if used > 0.9 * limit else "green") if limit else ""
        text = f"  {over:,} bytes over" if over else ""
        allowed = "" if limit is None else f"{limit:,}"
        yield f"  {region['name']:<16}{used:>12,}{allowed:>12}{share:>9}  {bar}{text}".rstrip()


def _model(model: dict[str, Any], style: Style) -> Iterator[str]:
    name, flash, ram = model["name"], model["flash"], model["ram"]
    yield f"model {style.paint(name, 'bold')}: {name.upper()}_MODEL_ID {model['model_id']}"
    if model["synthetic"]:
        yield f"  {style.paint(MADE_UP, 'yellow')}"
    kinds = {kind: label for kind, label in FLASH_LABELS.items() if kind in flash and _shown(kind, flash[kind])}
    yield "  flash " + ", ".join(f"{label} {flash[kind]:,}" for kind, label in kinds.items())
    scratch = f" (of it up to {model['scratch_in_arena']:,} for scratch)" if model["scratch_in_arena"] else ""
    notes = {"arena": scratch}
    labels = {kind: label + notes.get(kind, "") for kind, label in RAM_LABELS.items() if kind in ram}
    yield "  RAM   " + ", ".join(f"{label} {ram[kind]:,}" for kind, label in labels.items())
    if model["shared_arena"]:
        yield f"  RAM   of the shared arena it uses {model['shared_arena']:,}"
    if model["latency"]:
        yield f"  time  {_latency(model['latency'])}"
    if text := curve.words(model["curve"]):
        yield f"  kernels {model['optimize']}: {text}"
    if model["accuracy"]:
        yield from _accuracy(model["accuracy"])
    if model["stack"]:
        yield f"  stack {_stack(model['stack'])}"
    if model["layers"]:
        yield from _layers(model, style)


def _accuracy(found: dict[str, Any]) -> Iterator[str]:
    agreement = "" if found["agreement"] is None else f"{found['agreement']:.2f} % agree with the float model, "
    over = f"over {found['samples']:,} samples, by {found['evaluated_by']}"
    yield f"  accuracy {agreement}SQNR {found['sqnr_db']:.2f} dB, {over}"
    if found["drop"] is not None:
        top1 = f"{found['top1']:.2f} %, float {found['top1_float']:.2f} %"
        yield f"  top-1 {top1}: a drop of {found['drop']:.2f} points"
    if text := confused(found):
        yield f"  int8 says {text}"
    yield f"  worst {worst(found)}"
    if text := _alone(found):
        yield f"  layers that lose most alone: {text}"


def _alone(found: dict[str, Any]) -> str:
    """The layers with the lowest SQNR by themselves, in one line."""
    layers = [layer for layer in found["layers"] if layer["isolated_db"] is not None]
    most = sorted(layers, key=lambda layer: (layer["isolated_db"], layer["index"]))[:_ALONE]
    return ", ".join(f"{layer['name']} ({layer['isolated_db']:.1f} dB)" for layer in most)


def confused(found: dict[str, Any]) -> str:
    """The decisions of `accuracy` that differ, in one line."""
    return ", ".join(f"{pair['int8']} for {pair['float']} ({pair['count']}x)" for pair in found["confusions"])


def worst(found: dict[str, Any]) -> str:
    """The samples of `accuracy` with the lowest SQNR, in one line."""
    return ", ".join(f"sample {one['sample']} ({one['sqnr_db']:.1f} dB)" for one in found["worst"])


def _stack(stack: dict[str, Any]) -> str:
    """The worst case, and the calls that lead to it; or why it is not known."""
    if stack["bytes"] is None:
        return f"unknown: {stack['note']}"
    return f"{stack['bytes']:,} bytes at most: {' -> '.join(stack['path'])}"


def _latency(latency: dict[str, Any]) -> str:
    """One line; an estimate says how far off it may be."""
    about = "" if latency["basis"] == "measured" else "~"
    parts = [f"{about}{latency['cycles']:,} cycles"]
    if latency["us"] is not None:
        parts.append(f"{about}{latency['us']:,.10g} us at {latency['mhz']:.10g} MHz")
    if latency["basis"] == "measured":
        return ", ".join([*parts, "measured on the board"])
    waits = latency["wait_states"]
    slow = [f"{waits} wait state{'s' if waits > 1 else ''}"] if waits else []
    slow += [f"{latency['mul_cycles']} cycles a multiplication"] if latency["mul_cycles"] != 1 else []
    exact = "a guess: instructions x factor"
    if latency["basis"] == "fit":
        exact = f"fit error at most {latency['error_percent']:g} % on this core"
    return ", ".join([*parts, *slow, exact])


def _layers(model: dict[str, Any], style: Style) -> Iterator[str]:
    layers = model["layers"]
    width = max(24, *(len(layer["name"]) for layer in layers))
    most = max((layer["weights"] or 0) + (layer["code"] or 0) for layer in layers)
    timed = any(layer["cycles"] is not None for layer in layers)
    head = f"  {'layer':<{width}}{'kernel':>12}{'weights':>10}{'code':>13}" + (f"{'cycles':>12}" if timed else "")
    marks = [style.parts(part, style.width or 1, _OF_LAYER) for part in ([1, 0], [0, 1])]
    yield f"{head}  {marks[0]} weights {marks[1]} code" if style.width else head
    for layer in layers:
        shares = "" if layer["function"] == layer["name"] else f"  code of {layer['function']}"
        bar = style.parts([layer["weights"] or 0, layer["code"] or 0], most, _OF_LAYER) if style.width else ""
        cycles = f"{_number(layer['cycles']):>12}" if timed else ""
        numbers = f"{_number(layer['weights']):>10}{_number(layer['code']):>13}{cycles}"
        yield f"  {layer['name']:<{width}}{layer['kernel']:>12}{numbers}  {bar}{shares}"
    yield f"  {model['name'] + '_run and others':<{width}}{'':>22}{_number(model['other_code']):>13}"


def _number(value: int | None) -> str:
    return UNATTRIBUTED if value is None else f"{value:,}"


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
    others = [] if any(use.limit for use in uses) else [verdict for verdict in verdicts if verdict.unit != "bytes"]
    shown = [f"{verdict.what} {_of_limit(verdict)}" for verdict in others if verdict.value is not None]
    return f"{title}: " + "; ".join([f"{', '.join(parts)} bytes"] * bool(parts) + shown)


def _of_limit(verdict: Verdict) -> str:
    """`721.4 of 1,000.0 us`."""
    value = amount(verdict.value or 0, verdict.unit).removesuffix(f" {verdict.unit}")
    return f"{value} of {amount(verdict.limit, verdict.unit)}"
