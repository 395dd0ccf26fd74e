"""Which calibration method serves each tensor best: the one whose quantization costs the model's outputs least.

Each candidate is measured: the tensor alone is quantized with its range, the rest of the model stays in float, and the
error shows at the outputs. So a range may clip what nobody needs, such as the low values in front of a Softmax, and
keeps rare large values where they decide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import float_model, simulation
from nnbuild.histogram import CHOICES, Histogram
from nnbuild.passes.graph import Graph
from nnbuild.quantize import calibrated_values, parameters
from nnbuild.ranges import Range, outward
from nnbuild.samples import Sample

SAMPLES = 128
"""So many samples, spread over all, decide."""

WIDE = "percentile"
"""The method where nothing can be measured, and which another must beat."""

_WORTH = 0.1  # of its error is what another method must gain: unseen samples reach further than those measured
_SURE = 1.0  # standard errors of the mean gain
_SAME = 1e-3  # ranges that differ by less are one


@dataclass(frozen=True, slots=True)
class _Trial:
    """A value with its candidates, and the part of the model behind it."""

    value: str
    candidates: Sequence[Range]
    rest: float_model.Session
    also: Sequence[str]

    def errors(self, known: simulation.Values, ends: Mapping[str, float]) -> list[float]:
        """Squared error at the outputs of one sample for each candidate, in units of each output's power `ends`."""
        found: list[float] = []
        for span in self.candidates:
            quant = parameters(span)
            rounded = quant.dequantize(quant.quantize(known[self.value])).astype(np.float32)
            given = {self.value: rounded, **{name: known[name] for name in self.also}}
            results = self.rest.run(given)
            found.append(sum(
                float(np.sum(np.square(known[name].astype(np.float64) - results[name]))) / ends[name]
                for name in self.rest.names
            ))  # fmt: skip
        return found


def choose(model: onnx.ModelProto, histograms: Mapping[str, Histogram], samples: Sequence[Sample]) -> dict[str, Range]:
    """The range of each value that is quantized with a scale of its own; those that nothing is measured of are absent.

    Of errors that are nearly equal the first method of the table wins.
    """
    graph = Graph(model)
    ends = simulation.judged(graph)
    trials = list(filter(None, (_trial(graph, value, histograms[value], ends) for value in calibrated_values(model))))
    if not trials or not ends:
        return {}
    names = dict.fromkeys(name for trial in trials for name in (trial.value, *trial.also) if graph.producer(name))
    session = float_model.session(model, list(dict.fromkeys((*names, *ends))))
    power = {name: _power(float_model.session(model, ends), samples, name) or 1.0 for name in ends}

    def measured(sample: Sample) -> list[list[float]]:
        known = {**sample, **session.run(sample)}
        return [trial.errors(known, power) for trial in trials]

    sums = zip(trials, zip(*simulation.each(measured, samples), strict=True), strict=True)
    return {trial.value: trial.candidates[_best(list(zip(*rows, strict=True)))] for trial, rows in sums}


def _trial(graph: Graph, value: str, found: Histogram, ends: Sequence[str]) -> _Trial | None:
    rest = simulation.behind(graph, value, ends)
    if rest is None:
        return None
    spans: list[Range] = []
    for method in (WIDE, *CHOICES):
        span = outward(*CHOICES[method](found))
        reach = _SAME * (found.high - found.low)
        if not any(abs(span[0] - old[0]) <= reach and abs(span[1] - old[1]) <= reach for old in spans):
            spans.append(span)
    if len(spans) == 1:
        return None
    part, also = rest
    return _Trial(value, spans, float_model.session(part, [entry.name for entry in part.graph.output]), also)


def _power(session: float_model.Session, samples: Sequence[Sample], name: str) -> float:
    return math.fsum(float(np.sum(np.square(session.run(sample)[name].astype(np.float64)))) for sample in samples)


def _best(errors: Sequence[Sequence[float]]) -> int:
    """Of candidates with an error by sample the first, or the best of those that surely beat it."""
    wide = np.array(errors[0])
    sums = {0: math.fsum(wide)}
    for index, row in enumerate(errors[1:], 1):
        gain = wide - np.array(row)
        doubt = _SURE * float(gain.std()) / math.sqrt(len(gain))
        if float(gain.mean()) > max(doubt, _WORTH * float(wide.mean())):
            sums[index] = math.fsum(row)
    return min(sums, key=lambda index: sums[index])
