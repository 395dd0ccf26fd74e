"""Bytes of flash and RAM of a linked ELF, by region, by what they are for, by model and by layer.

Reads sections and symbols. Given object files instead of an image, it measures one model before it is linked. With
--budget, or a linker script, whose regions have a length, the exit status is 1 where something is over, and all that
is over is in one table.

    python -m nnbuild size fw.elf --model-report kws.report.json --linker-script stm32.ld --budget FLASH=240K
    python -m nnbuild size kws.o kws_weights.o --model-report kws.report.json --model-budget kws.flash=64K
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nnbuild import config, option_values
from nnbuild.commands import timing_arguments
from nnbuild.errors import ConfigError
from nnbuild.files import write_text
from nnbuild.report import (
    accuracy,
    baseline,
    budget,
    document,
    elf,
    forms,
    hints,
    linkerscript,
    regional,
    render,
    stack,
    terminal,
    usage,
)

_Limit = TypeVar("_Limit")
_KINDS: dict[str, Callable[[str], float]] = {
    "flash": option_values.parse_size,
    "ram": option_values.parse_size,
    "stack": option_values.parse_size,
    "agreement": option_values.parse_share,
    "sqnr": option_values.parse_decibel,
    "drop": option_values.parse_loss,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `size`."""
    parser.add_argument(
        "files", nargs="*", metavar="ELF", help="a linked image, or the objects of one model; none for its time alone"
    )
    parser.add_argument(
        "--model-report", action="append", default=[], metavar="JSON", help="report that emit wrote; repeatable"
    )
    parser.add_argument(
        "--accuracy-report", action="append", default=[], metavar="JSON", help="report of `accuracy --json`; repeatable"
    )
    parser.add_argument("--linker-script", metavar="LD", help="take the regions from its MEMORY block")
    parser.add_argument(
        "--budget", action="append", default=[], metavar="REGION=LIMIT", help="FLASH=240K, RAM=85%%; repeatable"
    )
    parser.add_argument(
        "--model-budget",
        action="append",
        default=[],
        metavar="MODEL.KIND=LIMIT",
        help=f"KIND: {', '.join(_KINDS)}; repeatable",
    )
    parser.add_argument("--baseline", metavar="FILE", help="the figures of the last accepted build")
    parser.add_argument(
        "--image", metavar="NAME", help="what the image is called in the baseline; its path if not given"
    )
    parser.add_argument(
        "--growth",
        action="append",
        default=[],
        metavar="[REGION=]LIMIT",
        help="what may join since: +1K, 2%%; repeatable",
    )
    timing_arguments.add(parser)
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--text", metavar="FILE", help="write the report as text")
    forms.add_arguments(parser)
    parser.add_argument("--style", choices=terminal.STYLES, help="of the tables; what suits the terminal if not given")
    parser.add_argument("--summary", action="store_true", help="print one line instead of the tables")


def _parsed(option: str, words: list[str], parse: Callable[[Any], _Limit], named: bool) -> dict[str, _Limit]:
    """`NAME=LIMIT` words of an option; unless `named`, the name may be left out and is "" then."""
    limits = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and not named:
            name, value = "", word
        elif not equals or not name:
            raise ConfigError(f"{option} takes REGION=LIMIT, not '{word}'")
        try:
            limits[name] = parse(value)
        except ConfigError as error:
            raise ConfigError(f"{f'{option} {name}'.strip()} {error.findings[0].message}, not '{value}'") from None
    return limits


def _model_limits(words: list[str], models: list[usage.ModelUsage]) -> list[tuple[usage.ModelUsage, str, float]]:
    by_name = {model.report.name: model for model in models}
    limits = []
    for word in words:
        name, _, value = word.partition("=")
        model, _, kind = name.partition(".")
        if kind not in _KINDS:
            hint = f"KIND is one of {', '.join(_KINDS)}"
            raise ConfigError(f"--model-budget takes MODEL.KIND=LIMIT, not '{word}'", hint=hint)
        if model not in by_name:
            hint = "add --model-report"
            raise ConfigError(f"--model-budget is for model '{model}', whose report is not given", hint=hint)
        try:
            limits.append((by_name[model], kind, _KINDS[kind](value)))
        except ConfigError as error:
            raise ConfigError(f"--model-budget {name} {error.findings[0].message}, not '{value}'") from None
    return limits


def _of_model(
    measured: usage.Usage, model: usage.ModelUsage, kind: str, limit: float, found: document.Document
) -> budget.Verdict:
    """One budget of one model."""
    name = model.report.name
    if kind == "stack":
        value, hint = (model.stack or {}).get("bytes"), hints.stack(model.stack, model.report.layers)
    else:
        value = usage.model_bytes(measured, model, kind, linked=model.stack is not None)
        hint = (hints.flash if kind == "flash" else hints.ram)(found, value, name)
    return budget.Verdict(f"{name} {kind}", value, limit, hint=hint)


def _holds_code(use: budget.RegionUse) -> bool:
    """Whether a region is one of code and constants rather than of variables."""
    return 2 * use.constant >= use.used


def _verdicts(
    arguments: argparse.Namespace,
    uses: list[budget.RegionUse],
    measured: usage.Usage,
    limits: list[tuple[usage.ModelUsage, str, float]],
    found: document.Document,
    values: dict[str, int],
) -> list[budget.Verdict]:
    """All budgets that were given, each held against what it limits, with what would help; `values` of all symbols."""
    regions = {region.name: region for region in _regions(arguments.linker_script)}

    def region_hint(use: budget.RegionUse) -> str:
        region = regions.get(use.name)
        there = regional.part(found, region, values, use.home) if region else found
        return (hints.flash if _holds_code(use) else hints.ram)(there, use.used)

    verdicts = budget.region_verdicts(uses, region_hint)
    for model in measured.models:
        if model.accuracy is not None:
            verdicts += accuracy.verdicts(model.accuracy, model.bounds)
    for model, kind, limit in limits:
        if kind not in config.BOUNDS:
            verdicts.append(_of_model(measured, model, kind, limit, found))
    if found["baseline"]:
        growth = _parsed("--growth", arguments.growth, budget.parse_growth, named=False)
        code = {use.name for use in uses if _holds_code(use)}
        verdicts += baseline.verdicts(found, found["baseline"], growth, code)
    return verdicts


def _kept(arguments: argparse.Namespace) -> baseline.Snapshot | None:
    """What the baseline has of this image; it must have it where growth is limited."""
    if arguments.growth and not arguments.baseline:
        raise ConfigError("--growth needs --baseline")
    if not arguments.baseline:
        return None
    return baseline.of_image(arguments.baseline, arguments.image or arguments.files[0], bool(arguments.growth))


def _regions(script: str | None) -> tuple[linkerscript.Region, ...]:
    return linkerscript.regions(script) if script else ()


def _measured(arguments: argparse.Namespace, elves: list[elf.Elf]) -> usage.Usage:
    reports = sorted((usage.read_report(path) for path in arguments.model_report), key=lambda report: report.name)
    measured = usage.measure(elves, reports)
    if elves[0].linked:
        for model in measured.models:
            pushed = any(own["pushed"] for own in model.report.facts.get("segments", []))
            names = [f"{model.report.name}_{function}" for function in ("run", *(["push_row"] if pushed else []))]
            # Where one is not known, nor is the worst of them.
            use = max(stack.inference(arguments.files[0], names), key=lambda use: (use.bytes is None, use.bytes or 0))
            model.stack = {"bytes": use.bytes, "path": list(use.path), "note": use.note}
    return measured


def _time_alone(arguments: argparse.Namespace) -> int:
    """Hold the time of models against `--latency`, from the reports of `emit`: there is no machine code to measure."""
    if not arguments.latency or arguments.budget or arguments.model_budget:
        raise ConfigError("size takes an ELF", hint="without one, --model-report and --latency")
    models = [usage.ModelUsage(usage.read_report(path)) for path in arguments.model_report]
    verdicts = timing_arguments.apply(arguments, models)
    missed = budget.failure_table(verdicts)
    if missed:
        print("\n".join(missed), flush=True)
    elif verdicts:
        print(render.summary(f"model {', '.join(model.report.name for model in models)}", [], verdicts))
    budget.check(verdicts, arguments.model_report[0])
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Measure, write, print, and hold against the budgets."""
    if not arguments.files:
        return _time_alone(arguments)
    limits = _parsed("--budget", arguments.budget, budget.parse_limit, named=True)
    elves = [elf.read(path) for path in arguments.files]
    measured = _measured(arguments, elves)
    script = arguments.linker_script
    reserve = sum(usage.reserved(image)[0] for image in elves)
    uses = budget.region_uses(elves, reserve + usage.unplaced(measured, elves), _regions(script), limits, script or "")
    latencies = timing_arguments.apply(arguments, measured.models)
    names = [Path(path).name for path in arguments.files]
    title = names[0] if elves[0].linked or not measured.models else f"model {measured.models[0].report.name}"
    # A build may have several images of one name; files of reports do not say where they were made.
    shown = arguments.files[0] if elves[0].linked else title
    model_limits = _model_limits(arguments.model_budget, measured.models)
    accuracy.join(measured.models, arguments.accuracy_report, model_limits)
    found = document.build(names, measured, uses, _kept(arguments))
    values = {name: value for image in elves if image.linked for name, value in image.values.items()}
    verdicts = _verdicts(arguments, uses, measured, model_limits, found, values) + latencies
    found["budgets"] = [verdict.data() for verdict in verdicts]
    if arguments.json:
        write_text(arguments.json, document.as_json(found))
    if arguments.text:
        write_text(arguments.text, render.as_text(title, found))
    forms.write(arguments, found)
    missed = budget.failure_table(verdicts)
    if missed or not arguments.summary:
        style = terminal.STYLES[arguments.style or terminal.style_for(sys.stdout, os.environ)]
        print(render.as_text(shown, found, style), end="")
    else:
        print(render.summary(shown, uses, verdicts))
    print("".join(f"{line}\n" for line in ["", *missed] if missed), end="", flush=True)
    budget.check(verdicts, arguments.files[0])
    return 0
