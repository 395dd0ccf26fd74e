"""Which values of a model get 16 bits: those that are named, or the few that an aim takes.

The search measures on calibration samples alone. How much noise the 8 bits of a value make at the outputs is measured
with all others in 16 bits, so that errors which cancel on some samples are not taken for good; what 16 bits cost is
estimated on a small and on a larger core, with the kernels and the memory plan of a build. By both the values are put
in an order, the most noise for its cost first, and as few of them are taken as reach the aim.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import float_model
from nnbuild.cost import Timing
from nnbuild.errors import ConfigError, ModelError
from nnbuild.estimate.figures import Setup, figures
from nnbuild.lower import lower
from nnbuild.network import Array
from nnbuild.quantize import wide_values
from nnbuild.samples import Sample
from nnbuild.target import TARGETS

AUTO = "auto"

SAMPLES = 128
"""The first so many decide."""

MARGIN_DB = 3.0
"""By how much the SQNR of calibration samples is to be better than the aim: half of the noise is left to samples that
ranges and corrections were not fitted to."""

CORES = ("cortex-m0", "cortex-m4")
"""On these costs are estimated: quantizing does not know the core, and the two classes differ most."""

COUNTS = 0.01
"""The share of all noise below which 16 bits would change nothing."""

_CHEAP = 1e-3  # growth that counts for nothing

Form = Callable[[Collection[str]], onnx.ModelProto]
"""The QDQ form of the model in which the nodes and inputs of these names have 16 bits."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to be reached: SQNR of the outputs in dB, a share of samples with the float model's arg-max; or both."""

    min_sqnr: float | None = None
    min_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class _Measure:
    """What a QDQ model computes for the samples, held against the float model's outputs `real`."""

    samples: Sequence[Sample]
    names: Sequence[str]
    real: Sequence[Array]

    @classmethod
    def of(cls, model: onnx.ModelProto, samples: Sequence[Sample]) -> _Measure:
        names = [output.name for output in model.graph.output]
        return cls(samples, names, _outputs(model, names, samples))

    def outputs(self, int8: onnx.ModelProto) -> Sequence[Array]:
        """All outputs of each sample, float64, flat."""
        return _outputs(int8, self.names, self.samples)

    def met(self, aim: Aim, found: Sequence[Array]) -> bool:
        """Whether outputs reach the aim, with its margin."""
        noise, signal = _power(self.real, found), math.fsum(float(np.sum(np.square(real))) for real in self.real)
        if aim.min_sqnr is not None and noise * 10 ** ((aim.min_sqnr + MARGIN_DB) / 10) > signal:
            return False
        same = sum(int(np.argmax(a)) == int(np.argmax(b)) for a, b in zip(self.real, found, strict=True))
        return aim.min_agreement is None or same >= aim.min_agreement * len(self.real)


def _outputs(model: onnx.ModelProto, names: Sequence[str], samples: Sequence[Sample]) -> Sequence[Array]:
    session = float_model.session(model, names)
    runs = (session.run(sample) for sample in samples)
    return [np.concatenate([np.asarray(run[name], np.float64).ravel() for name in names]) for run in runs]


def _power(one: Sequence[Array], other: Sequence[Array]) -> float:
    return math.fsum(float(np.sum(np.square(a - b))) for a, b in zip(one, other, strict=True))


def named(int8: onnx.ModelProto, names: Iterable[str]) -> list[str]:
    """Layers of the lowered model, with or without the model's prefix, as `quantize` names them; others stay."""
    nodes: dict[str, str] = {}
    found = []
    for name in names:
        layer = re.fullmatch(r"(?:\w*_)?(l\d\d+_\w+)", name)
        if layer is not None and not nodes:
            nodes = {layer.name: layer.node for layer in lower(int8).layers}
        found.append(nodes.get(layer[1], name) if layer is not None else name)
    return found


def search(
    model: onnx.ModelProto,
    form: Form,
    samples: Iterable[Sample],
    aim: Aim,
    start: Sequence[str] = (),
    finished: Form | None = None,
) -> list[str]:
    """`start` and the names of nodes whose outputs it takes in 16 bits to reach `aim`; all that count, where none do.

    `model` is the imported float model, `form` its QDQ form; `finished` is what the build makes of that form, which may
    take long and judges, where it is another. ConfigError without an aim.
    """
    if aim.min_sqnr is None and aim.min_agreement is None:
        raise ConfigError("int16 'auto' needs an aim", hint="min_sqnr=36 or min_agreement='99%'")
    measure = _Measure.of(model, list(itertools.islice(samples, SAMPLES)))
    order = _order(form, _noise(measure, form, start, _possible(model, form, start)), start)

    def enough(count: int) -> bool:
        return measure.met(aim, measure.outputs((finished or form)([*start, *order[:count]])))

    return [*start, *order[: bisect.bisect_left(range(len(order)), True, key=enough)]]


def _noise(measure: _Measure, form: Form, start: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """What the 8 bits of each of `names` do to the outputs where all others have 16, as power."""
    whole = measure.outputs(form([*start, *names]))
    noise = {}
    for name in names:
        without = form([*start, *(other for other in names if other != name)])
        noise[name] = _power(whole, measure.outputs(without))
        _progress(len(noise), len(names))
    _progress(0, 0)
    return noise


def _order(form: Form, noise: Mapping[str, float], start: Sequence[str]) -> list[str]:
    """Those that count, each the one with the most noise for what it costs beside those in front of it."""
    least = COUNTS * sum(noise.values())
    rest = [name for name in noise if noise[name] > least]
    taken: list[str] = []
    now = _cost(form(start))
    while rest:
        costs = {name: _cost(form([*start, *taken, name])) for name in rest}
        best = max(rest, key=lambda name: noise[name] / max(costs[name] - now, _CHEAP))
        now = costs[best]
        taken.append(best)
        rest.remove(best)
    return taken


def _possible(model: onnx.ModelProto, form: Form, start: Sequence[str]) -> list[str]:
    """Names of further nodes whose 16 bits every reader can take: of some the sums would leave 32 bits."""
    found = []
    for name in (name for name, _ in wide_values(model) if name not in start):
        try:
            lower(form([name]))
        except ModelError:
            continue
        found.append(name)
    return found


def _cost(int8: onnx.ModelProto) -> float:
    """Cycles, RAM and flash of a form, each as a logarithm, so that differences are relative growth; over all cores."""
    network = lower(int8)
    total = 0.0
    for cpu in CORES:
        found = figures(network, Setup(TARGETS[cpu], Timing(cpu), backend="direct"))
        total += math.log(found.cycles) + math.log(max(found.ram, 1)) + math.log(found.flash)
    return total / len(CORES)


def _progress(count: int, of: int) -> None:
    if sys.stderr.isatty():
        text = f"\rmeasuring 16 bits: {count} of {of}" if count else "\r" + " " * 40 + "\r"
        print(text, end="", file=sys.stderr, flush=True)
