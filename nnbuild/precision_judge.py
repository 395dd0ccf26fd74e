"""What a quantized form reaches on samples that nobody has seen, judged by those that there are.

Errors are taken where simulation judges, in front of a closing Softmax, and three things are made of them. Ranges fit
the samples that they come from: with a part of the samples held out in turn errors are larger, and by that factor all
errors are (`Judge.unseen`). An output is as good as the sample is easy, and of a hundred samples few are near to two
classes: so each sample meets the errors of others as well as its own, and the worse of both counts. What is left of
chance is the standard error over samples, which the aim is reached in spite of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import float_model, simulation
from nnbuild.network import Array
from nnbuild.passes.graph import Graph
from nnbuild.samples import Sample
from nnbuild.states import keeps_states

Form = Callable[[Collection[str]], onnx.ModelProto]
"""The QDQ form of the model in which the nodes and inputs of these names have 16 bits."""

FOLDS = 5
"""Parts of the samples that are held out in turn."""

SHIFTS = 12
"""So many errors, its own among them, meet each sample."""

LOWEST_DB, HIGHEST_DB, STEP_DB = -40.0, 20.0, 0.1
"""By how much noise may be changed in the search for what an aim allows."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to be reached, and what RAM it may take; None for what is not asked for.

    SQNR of the outputs in dB; the share of samples with the float model's arg-max; the share of samples that the
    integers may have right less often than the float model; bytes that may live at once.
    """

    min_sqnr: float | None = None
    min_agreement: float | None = None
    max_drop: float | None = None
    ram: int | None = None

    @property
    def given(self) -> bool:
        """Whether there is something to be reached."""
        return (self.min_sqnr, self.min_agreement, self.max_drop) != (None, None, None)

    def text(self) -> str:
        """What is to be reached."""
        parts = [
            (self.min_sqnr, "SQNR {:.4g} dB", 1),
            (self.min_agreement, "agreement {:.4g} %", 100),
            (self.max_drop, "a drop of {:.4g} points", 100),
        ]
        return ", ".join(text.format(unit * value) for value, text, unit in parts if value is not None)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of unseen samples: SQNR in dB, shares of samples, each with one standard error to spare."""

    sqnr: float
    agreement: float
    drop: float

    def meets(self, aim: Aim) -> bool:
        """Whether it is what `aim` asks for; nothing is said of bytes."""
        return (
            (aim.min_sqnr is None or self.sqnr >= aim.min_sqnr)
            and (aim.min_agreement is None or self.agreement >= aim.min_agreement)
            and (aim.max_drop is None or self.drop <= aim.max_drop)
        )

    def text(self, aim: Aim) -> str:
        """The figures that the aim is about."""
        parts = [
            (aim.min_sqnr, f"SQNR {self.sqnr:.1f} dB"),
            (aim.min_agreement, f"agreement {100 * self.agreement:.2f} %"),
            (aim.max_drop, f"a drop of {100 * self.drop:.2f} points"),
        ]
        return ", ".join(text for wanted, text in parts if wanted is not None)


class Judge:
    """The float model over `samples`; `labels` are theirs, where there are some.

    `folds` are forms by ranges without a part of the samples, and the indices of that part; none where nothing can be
    held out.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        samples: Sequence[Sample],
        labels: Array | None = None,
        folds: Sequence[tuple[Form, Sequence[int]]] = (),
    ) -> None:
        self._samples, self._labels, self._folds = samples, labels, folds
        self._in_order = keeps_states(model)
        self._outputs = [output.name for output in model.graph.output]
        self._ends = simulation.judged(Graph(model))
        found = self._run(model, [*self._ends, *self._outputs], samples)
        self._shapes = [found[0][name].shape for name in self._ends]
        self._real = _flat(found, self._ends)
        self._wanted = _flat(found, self._outputs)
        self._first = found[0][self._outputs[0]].size
        power = [math.fsum(np.square(values.astype(np.float64)).sum() for values in column) for column in zip(
            *([entry[name] for name in self._ends] for entry in found), strict=True
        )]  # fmt: skip
        self._units = np.concatenate([
            np.full(math.prod(shape), math.sqrt(own) or 1.0) for shape, own in zip(self._shapes, power, strict=True)
        ])  # fmt: skip

    def errors(self, int8: onnx.ModelProto, chosen: Sequence[int] | None = None) -> Array:
        """(samples, values) of the errors of a form, those of all judged values one behind the other."""
        indices = range(len(self._samples)) if chosen is None else chosen
        found = self._run(int8, simulation.judged(Graph(int8)), [self._samples[index] for index in indices])
        return _flat(found, list(found[0]))[:, : self._real.shape[1]] - self._real[list(indices)]

    def noise(self, errors: Array) -> float:
        """Power of errors over that of the signal."""
        return math.fsum(np.square(errors / self._units).sum(axis=1))

    def held(self, form: Form, names: Collection[str]) -> Array:
        """Errors of samples that ranges were not fitted to; of those of `form` where nothing can be held out.

        Without corrections, which are judged by samples that they have not seen anyway.
        """
        if not self._folds:
            return self.errors(form(names))
        found = np.empty_like(self._real)
        for fold, part in self._folds:
            found[list(part)] = self.errors(fold(names), part)
        return found

    def unseen(self, form: Form, names: Collection[str]) -> float:
        """By what factor noise is larger on samples that are held out than on those that are fitted to; at least 1."""
        fitted = self.noise(self.errors(form(names)))
        return max(self.noise(self.held(form, names)) / fitted, 1.0) if fitted else 1.0

    def outlook(self, int8: onnx.ModelProto, errors: Array) -> Outlook:
        """What outputs would be with these errors in front of what the form does behind its judged values."""
        rest, results = _Rest(int8, self._shapes), []
        for shift in self._shifts():
            moved = self._real + np.roll(errors, shift, axis=0)
            results.append(np.stack([rest.run(values) for values in moved]))
        found = np.stack(results)  # (shifts, samples, outputs)
        noise = np.square(found - self._wanted).sum(axis=2)
        decided, real = self._decisions(found), self._decisions(self._wanted)
        same = decided == real
        # Without labels every other decision counts as lost: the drop is no more than that.
        lost = ~same if self._labels is None else 1.0 * (real == self._labels) - (decided == self._labels)
        return Outlook(
            self._sqnr(noise),
            min(_own_and_others(same)) - _doubt(same),
            max(_own_and_others(lost)) + _doubt(lost),
        )

    def allowed(self, int8: onnx.ModelProto, errors: Array, aim: Aim) -> float:
        """The factor by which the noise of these errors may be larger for `aim` to be met; below 1 where it is not.

        0 where no errors were small enough.
        """
        low, high = round(LOWEST_DB / STEP_DB), round(HIGHEST_DB / STEP_DB)

        def met(step: int) -> bool:
            return self.outlook(int8, errors * 10 ** (step * STEP_DB / 20)).meets(aim)

        if not met(low):
            return 0.0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if met(middle) else (low, middle)
        return float(10 ** (low * STEP_DB / 10))

    def _shifts(self) -> list[int]:
        """By how many samples errors move: 0, and others evenly spread."""
        count = min(SHIFTS, len(self._samples))
        return [index * len(self._samples) // count for index in range(count)]

    def _decisions(self, outputs: Array) -> Array:
        """Arg-max of the first output, or the number itself where it is one."""
        first = outputs[..., : self._first]
        return np.rint(first[..., 0]) if self._first == 1 else first.argmax(axis=-1)

    def _sqnr(self, noise: Array) -> float:
        """dB of noise (shifts, samples), less the standard error that leaving each sample out in turn shows."""
        signal, mean = np.square(self._wanted).sum(axis=1), noise.mean(axis=0)
        worse = max(_own_and_others(noise)) * len(mean)
        if not worse or not signal.sum():
            return -math.inf if worse else math.inf
        rest = mean.sum() - mean
        levels = 10 * np.log10((signal.sum() - signal) / np.where(rest > 0, rest, mean.sum()))
        doubt = math.sqrt((len(mean) - 1) * float(levels.var()))
        return float(10 * math.log10(signal.sum() / worse)) - doubt

    def _run(
        self, model: onnx.ModelProto, names: Sequence[str], samples: Sequence[Sample]
    ) -> Sequence[simulation.Values]:
        """Values of each sample, one after the other where they are one sequence."""
        wanted = list(dict.fromkeys(names))
        if self._in_order:
            session = float_model.session(model, wanted)
            return [{name: found[name] for name in wanted} for found in map(session.run, samples)]
        return simulation.run(model, wanted, samples)


class _Rest:
    """What a form computes from its judged values, which lie flat in a row, to its outputs."""

    def __init__(self, int8: onnx.ModelProto, shapes: Sequence[tuple[int, ...]]) -> None:
        graph = Graph(int8)
        ends = [math.prod(shape) for shape in shapes]
        starts = np.cumsum([0, *ends])
        place = {
            name: (slice(starts[index], starts[index + 1]), shape)
            for index, (name, shape) in enumerate(zip(simulation.judged(graph), shapes, strict=True))
        }
        self._parts: list[tuple[float_model.Session | None, str, slice, tuple[int, ...]]] = []
        for output in graph.outputs:
            name, nodes = simulation.squashed(graph, output)
            part = simulation.part(graph, nodes, [name], [output]) if nodes else None
            self._parts.append((float_model.session(part, [output]) if part else None, name, *place[name]))

    def run(self, values: Array) -> Array:
        """All outputs, flat."""
        found = []
        for session, name, own, shape in self._parts:
            given = values[own].astype(np.float32).reshape(shape)
            result = given if session is None else session.run({name: given})[session.names[0]]
            found.append(np.asarray(result, np.float64).ravel())
        return np.concatenate(found)


def _flat(found: Sequence[simulation.Values], names: Sequence[str]) -> Array:
    """(samples, values) in float64."""
    return np.stack([np.concatenate([np.asarray(row[name], np.float64).ravel() for name in names]) for row in found])


def _own_and_others(rows: Array) -> tuple[float, ...]:
    """Of (shifts, samples): the mean of samples with their own errors, and with those of others."""
    return tuple(float(np.mean(part)) for part in (rows[:1], rows[1:]) if part.size)


def _doubt(rows: Array) -> float:
    """Standard error of the mean over samples, of (shifts, samples)."""
    return float(np.std(rows.mean(axis=0))) / math.sqrt(rows.shape[1])
