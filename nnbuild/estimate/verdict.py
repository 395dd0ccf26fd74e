"""Does a model fit: its estimate held against limits, with what is largest, and the smallest change that would fit."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from nnbuild import __version__, cost
from nnbuild.errors import ConfigError, ModelError
from nnbuild.estimate.advice import Advice, advice
from nnbuild.estimate.figures import MARGIN_PERCENT, Figures, LayerFigures, Setup, figures
from nnbuild.estimate.schema import SCHEMA
from nnbuild.estimate.shapes import network_of, unquantized
from nnbuild.explicit_states import States
from nnbuild.importer import import_outline
from nnbuild.latency import Latency
from nnbuild.onnxfile import is_qdq
from nnbuild.report.budget import Verdict
from nnbuild.report.timing import microseconds
from nnbuild.streams.stream import Stream

_HOPELESS = 100
"""So many times over a limit, halved inputs and layers of an eighth of their outputs do not help."""


_SEARCHED = "int16='auto' is judged without the values that it would find: that takes samples; name them"


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that the model may take; None where there is no limit. Bytes; microseconds at a clock, or cycles.

    Without `latency_strict` a core without documented timings is not judged by its cycles, as in a build.
    """

    flash: int | None = None
    ram: int | None = None
    latency: Latency | None = None
    latency_strict: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """What was found about one model on one core.

    `budgets` holds one verdict for each limit; `advice` the changes that would meet all of them, the smallest first,
    empty where everything fits or nothing was found; `notes` what limits the answer, a sentence each. `str()` is the
    answer in words, `data()` as JSON has it.
    """

    file: str
    setup: Setup
    limits: Limits
    figures: Figures
    budgets: tuple[Verdict, ...]
    advice: tuple[Advice, ...]
    notes: tuple[str, ...]
    advised: bool = True

    @property
    def fits(self) -> bool:
        """Whether no budget is missed."""
        return all(verdict.ok for verdict in self.budgets)

    @property
    def hopeless(self) -> bool:
        """Whether a limit is missed by so much that no changes were tried."""
        return any((verdict.value or 0) > _HOPELESS * verdict.limit for verdict in self.budgets)

    @property
    def flash(self) -> int:
        """Estimated bytes of flash: weights, tables and code of the model, functions of CMSIS-NN that it calls."""
        return self.figures.flash

    @property
    def ram(self) -> int:
        """Estimated bytes of RAM: the arena."""
        return self.figures.ram

    @property
    def cycles(self) -> int | None:
        """Estimated cycles of one inference; None for a core without timings."""
        return self.figures.cycles if cost.basis(self.setup.timing.core) else None

    @property
    def unjudged(self) -> bool:
        """Whether there is a limit on latency that nothing is held against: the core has no documented timings."""
        return self.limits.latency is not None and all(verdict.what != "latency" for verdict in self.budgets)

    @property
    def us(self) -> float | None:
        """Estimated microseconds of one inference at the clock of the latency limit, None without one."""
        limit = self.limits.latency
        return microseconds(self.figures.cycles, limit.mhz) if limit and limit.cycles is None else None

    def __str__(self) -> str:
        from nnbuild.estimate.text import as_text

        return as_text(self)

    def data(self) -> dict[str, Any]:
        """The answer as a document of plain values."""
        timing = self.setup.timing
        return {
            "schema": SCHEMA,
            "nnbuild": __version__,
            "file": self.file,
            "cpu": self.setup.target.cpu,
            "fits": self.fits,
            "margin_percent": MARGIN_PERCENT,
            **_amounts(self.figures),
            "cycles": self.cycles,
            "us": self.us,
            "wait_states": timing.wait_states,
            "mul_cycles": timing.mul_cycles,
            "basis": cost.basis(timing.core),
            "error_percent": self.figures.error_percent,
            "budgets": [verdict.data() for verdict in self.budgets],
            "layers": [_layer(layer) for layer in self.figures.layers],
            "advice": [self._option(option) for option in self.advice],
            "notes": list(self.notes),
        }

    def _option(self, option: Advice) -> dict[str, Any]:
        before, after = self.figures, option.figures
        return {
            "kind": option.kind,
            "change": option.change,
            "widths": dict(option.edit.widths),
            "inputs": {name: list(shape) for name, shape in option.edit.inputs.items()},
            "operators": dict(option.edit.operators),
            "removed_percent": round(100 * option.removed, 1),
            **_amounts(after),
            "cycles": after.cycles,
            "saved": {
                "flash": before.flash - after.flash,
                "ram": before.ram - after.ram,
                "cycles": before.cycles - after.cycles,
            },
        }


def judge(
    path: Path,
    setup: Setup,
    limits: Limits,
    input_shapes: Mapping[str, tuple[int, ...]],
    advise: bool = True,
    states: States | None = None,
    stream: Stream | None = None,
    searched: bool = False,
) -> Check:
    """Judge the .onnx file at `path`, float or int8 QDQ, by its shapes; nothing is run and no large weights are read.

    `searched` says that a build will look for further values of 16 bits, which is noted.

    ModelError with all that stands against the model, as in a build; ConfigError for a limit on latency on a core
    whose cycles nobody knows.
    """
    if limits.latency is not None and cost.basis(setup.timing.core) is None:
        raise ConfigError(f"no cycles are known for '{setup.target.cpu}'", "latency", "name a Cortex-M")
    outline = import_outline(path, input_shapes, states, stream)
    if setup.int16 and is_qdq(outline.model):
        raise ConfigError("the model is already quantized: int16 has no meaning", str(path))
    network = network_of(outline.model, str(path), setup.input_layout, setup.per_tensor, setup.int16)
    found = figures(network, setup)
    notes = [f"external data '{name}' is missing; shapes suffice here, a build needs it" for name in outline.missing]
    notes += [_SEARCHED] if searched else []
    notes += [*_timing_notes(setup, limits), *found.notes]
    check = Check(path.name, setup, limits, found, budgets(found, limits, setup), (), tuple(notes), advise)
    return check if check.fits or check.hopeless or not advise else _advised(check, outline.model)


def _advised(check: Check, imported: onnx.ModelProto) -> Check:
    """`check` with the changes that would fit."""
    model = unquantized(imported) if is_qdq(imported) else imported

    limits = check.limits
    none = Limits(latency_strict=limits.latency_strict)
    each = [replace(none, **{name: getattr(limits, name)}) for name in ("flash", "ram", "latency")]
    fits = [functools.partial(_meets, limit, check.setup) for limit in each if limit != none]
    try:
        return replace(check, advice=tuple(advice(model, check.setup, check.figures, fits)))
    except ModelError as error:
        return replace(check, notes=(*check.notes, f"no changes were tried: {error.findings[0].message}"))


def _meets(limits: Limits, setup: Setup, found: Figures) -> bool:
    return all(verdict.ok for verdict in budgets(found, limits, setup))


def budgets(found: Figures, limits: Limits, setup: Setup) -> tuple[Verdict, ...]:
    """One verdict for each limit that is judged."""
    verdicts = []
    if limits.flash is not None:
        verdicts.append(Verdict("flash", found.flash, limits.flash))
    if limits.ram is not None:
        verdicts.append(Verdict("ram", found.ram, limits.ram))
    if limits.latency is not None and (limits.latency_strict or cost.basis(setup.timing.core) == "fit"):
        unit = "us" if limits.latency.cycles is None else "cycles"
        verdicts.append(Verdict("latency", microseconds(found.cycles, limits.latency.mhz), limits.latency.us, unit))
    return tuple(verdicts)


def _timing_notes(setup: Setup, limits: Limits) -> list[str]:
    core = setup.timing.core
    if cost.basis(core) != "instructions x factor":
        return []
    note = f"{core} has no documented timings: its cycles are instructions times a factor"
    judged = limits.latency is None or limits.latency_strict
    return [note if judged else f"{note}, and its latency is not judged without latency_strict"]


def _amounts(found: Figures) -> dict[str, int]:
    return {
        "flash": found.flash,
        "weights": found.weights,
        "code": found.code,
        "library": found.library,
        "ram": found.ram,
        "macs": found.macs,
    }


def _layer(layer: LayerFigures) -> dict[str, Any]:
    fields = ("name", "node", "op", "kernel", "weights", "code", "live", "cycles", "macs")
    return {"output": list(layer.output), **{name: getattr(layer, name) for name in fields}}
