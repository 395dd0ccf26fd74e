"""The mean error of each output channel is taken out of the bias, layer by layer.

What is left of it behind a layer is the error that rounded weights and the layers before it make for the samples' mean
(Nagel et al., Data-Free Quantization, arXiv:1906.04721, section 4.2, with measured means).
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from nnbuild import float_model, simulation
from nnbuild.corrections.layers import Layer, walk, with_constants
from nnbuild.samples import Sample

_MOST = 2.0**30


def correct(model: onnx.ModelProto, int8: onnx.ModelProto, samples: list[Sample]) -> onnx.ModelProto:
    """The QDQ model with other integers for biases; scales stay."""
    return walk(model, int8, samples, _shift)


def _shift(layer: Layer) -> None:
    found = layer.stored(2)
    if found is None:
        return
    stored, scales = found
    graph, node = layer.graph, layer.node
    part, _ = with_constants(graph, [node], [node.output[0]])
    session = float_model.session(part, [node.output[0]])
    outputs = simulation.each(lambda values: session.run({node.input[0]: values})[node.output[0]], layer.inputs)
    errors = [
        np.moveaxis(real.astype(np.float64) - ours, layer.output_axis, 0).reshape(len(stored), -1).mean(axis=1)
        for real, ours in zip(layer.expected, outputs, strict=True)
    ]
    mean = np.array([math.fsum(error[channel] for error in errors) for channel in range(len(stored))]) / len(errors)
    moved = np.clip(stored + np.rint(mean / scales.astype(np.float64)), -_MOST, _MOST)
    layer.store(2, moved.astype(stored.dtype))
