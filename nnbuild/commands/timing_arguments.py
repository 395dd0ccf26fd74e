"""The arguments of `size` for the time of an inference, and what they come to for each model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from nnbuild.errors import ConfigError
from nnbuild.latency import MAX_WAIT_STATES, MUL_CYCLES, Latency, parse_latency
from nnbuild.report import timing
from nnbuild.report.budget import Verdict
from nnbuild.report.usage import ModelUsage


def add(parser: argparse.ArgumentParser) -> None:
    """Limits on latency, and what the chip is like."""
    parser.add_argument(
        "--latency", action="append", default=[], metavar="MODEL=LIMIT", help="kws=2ms @ 48MHz, 1ws; repeatable"
    )
    parser.add_argument(
        "--latency-strict", action="append", default=[], metavar="MODEL", help="judge cores without timings too"
    )
    parser.add_argument("--wait-states", type=int, default=0, metavar="N", help="of the flash, where a limit has none")
    parser.add_argument("--mul-cycles", type=int, default=1, choices=MUL_CYCLES, help="of a multiplication on M0, M0+")
    parser.add_argument("--cycles", metavar="JSON", help="cycles measured on the board, instead of estimates")
    parser.add_argument(
        "--checked", action="store_true", help="limits of latency were judged before: do not warn of them again"
    )


def apply(arguments: argparse.Namespace, models: Iterable[ModelUsage]) -> list[Verdict]:
    """Puts the cycles into each model; a verdict for each limit that can be judged, and a line to stderr for others."""
    if not 0 <= arguments.wait_states <= MAX_WAIT_STATES:
        raise ConfigError(f"--wait-states takes 0 to {MAX_WAIT_STATES}, not {arguments.wait_states}")
    measured = timing.read_measured(arguments.cycles) if arguments.cycles else {}
    chip = timing.Chip(arguments.wait_states, arguments.mul_cycles, measured)
    found = list(models)
    limits = _limits(arguments.latency, {model.report.name for model in found})
    verdicts = []
    for model in found:
        facts, limit = model.report.facts, limits.get(model.report.name)
        model.timed, notes = timing.timed(facts, chip, limit)
        model.latency = timing.record(model.timed, chip, limit)
        if limit is not None:
            strict = facts["name"] in arguments.latency_strict
            verdict, more = timing.judged(facts, model.timed, limit, chip, strict)
            verdicts += [verdict] if verdict else []
            notes += more
        for note in notes if limit is None or not arguments.checked else []:
            print(f"nnbuild: warning: {note}", file=sys.stderr)
    return verdicts


def _limits(words: list[str], names: set[str]) -> dict[str, Latency]:
    limits = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in names:
            raise ConfigError(f"--latency is for model '{name}', whose report is not given", hint="add --model-report")
        try:
            limits[name] = parse_latency(text)
        except ConfigError as error:
            raise ConfigError(f"--latency {name} {error.findings[0].message}, not '{text}'") from None
    return limits
