"""Corrections of a quantized model that need no training, each kept only where it is measured to help.

Every fifth sample is held out: corrections are fitted to the others, and judged by the error of the outputs on those
(in front of a closing Softmax, see `simulation.judged`). So what only fits the samples at hand is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import onnx

from nnbuild import simulation
from nnbuild.corrections import bias, equalize, rounding
from nnbuild.passes.graph import Graph
from nnbuild.samples import Sample

SAMPLES = 128
"""So many, spread over all, are fitted to and judged by."""

NAMES = ("equalize", "rounding", "bias")
_STRENGTHS = (0.5, 1.0)  # of equalization that are tried beside none
_AFTER = {"rounding": rounding.correct, "bias": bias.correct}
_HELD = 5  # one sample in so many
_WORTH = 0.98  # of the error before: less is not worth a change

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

    def error(int8: onnx.ModelProto) -> float:
        return simulation.noise(real, simulation.run(int8, ends, held))

    def improved(form: onnx.ModelProto, int8: onnx.ModelProto) -> tuple[float, onnx.ModelProto]:
        best = error(int8), int8
        for name, correct in _AFTER.items():
            if name in allowed and best[0]:
                changed = correct(form, best[1], fitted)
                reached = error(changed)
                best = (reached, changed) if reached < best[0] * _WORTH else best
        return best

    best = improved(model, plain)
    for strength in _STRENGTHS if "equalize" in allowed else ():
        form = equalize.correct(model, fitted, strength)
        if form is not None:
            found = improved(form, quantize(form))
            best = found if found[0] < best[0] * _WORTH else best
    return best[1]
