"""Corrections of a quantized model that need no training, each kept only where it is measured to help.

Every fifth sample is held out: corrections are fitted to the others, and judged by the error of the outputs on those
(in front of a closing Softmax, see `simulation.judged`). So what only fits the samples at hand is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import onnx

from nnbuild import simulation
from nnbuild.corrections import bias, equalize, rounding
from nnbuild.network import Array
from nnbuild.passes.graph import Graph
from nnbuild.samples import Sample

SAMPLES = 128
"""So many, spread over all, are fitted to and judged by."""

NAMES = ("equalize", "rounding", "bias")
_STRENGTHS = (0.5, 1.0)  # of equalization that are tried beside none
_AFTER = {"rounding": rounding.correct, "bias": bias.correct}
_HELD = 5  # one sample in so many
_SURE = 1.0  # standard errors of the mean gain that a correction must gain,
_WORTH = 0.02  # and of the error before
_WORTH_EQUALIZING = 0.1  # the ranges of single channels reach further in other samples,
_EQUALIZED_BY = 50  # and fewer say too little of them

_Measured = tuple[Array, onnx.ModelProto]
"""Errors by sample, and the QDQ model that makes them."""

Quantizer = Callable[[onnx.ModelProto], onnx.ModelProto]


def corrected(
    model: onnx.ModelProto, quantize: Quantizer, samples: Sequence[Sample], allowed: Collection[str]
) -> onnx.ModelProto:
    """The best QDQ form of the float `model` that is found with the corrections `allowed`; `quantize` calibrates too.

    With fewer than five samples nothing is held out, and nothing corrected.
    """
    plain = quantize(model)
    ends = simulation.judged(Graph(model))
    held = list(samples[_HELD - 1 :: _HELD])
    fitted = [sample for index, sample in enumerate(samples) if index % _HELD != _HELD - 1]
    if not held or not ends or not allowed:
        return plain
    real = simulation.run(model, ends, held)

    def measured(int8: onnx.ModelProto) -> _Measured:
        return simulation.noise(real, simulation.run(int8, ends, held)), int8

    form, best = model, measured(plain)
    for strength in _STRENGTHS if "equalize" in allowed and len(samples) >= _EQUALIZED_BY else ():
        equalized = equalize.correct(model, fitted, strength)
        if equalized is not None:
            found = measured(quantize(equalized))
            form, best = (equalized, found) if _better(best[0], found[0], _WORTH_EQUALIZING) else (form, best)
    for name in (name for name in _AFTER if name in allowed and best[0].any()):
        found = measured(_AFTER[name](form, best[1], fitted))
        best = found if _better(best[0], found[0], _WORTH) else best
    return best[1]


def _better(before: Array, after: Array, worth: float) -> bool:
    """Whether errors by sample are surely less, and by a share `worth`."""
    gain = before - after
    doubt = _SURE * float(gain.std()) / math.sqrt(len(gain))
    return float(gain.mean()) > max(doubt, worth * float(before.mean()))
