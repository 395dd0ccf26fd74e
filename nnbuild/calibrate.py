"""Calibration: the range of every activation over the samples.

One pass of the float model over the samples in onnxruntime, on one thread, with every activation as an output. Of each
tensor it keeps a histogram in bounded memory (`nnbuild.histogram`, which has the methods too). `auto` chooses between
the methods for each tensor, by what its quantization alone does to the model's outputs (`nnbuild.range_choice`).
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from nnbuild import float_model, range_choice, simulation
from nnbuild.config import SYNTHETIC
from nnbuild.errors import CalibrationError
from nnbuild.histogram import CHOICES, Histogram
from nnbuild.network import Array
from nnbuild.ranges import Ranges, outward
from nnbuild.samples import Sample, Samples

AUTO = "auto"
METHODS = (AUTO, *CHOICES)
DEFAULT_METHOD = AUTO


def ranges(model: onnx.ModelProto, samples: Samples, method: str = DEFAULT_METHOD) -> Ranges:
    """Ranges of every activation of an imported float model (inputs and outputs included) over `samples`.

    Raises CalibrationError for samples that do not fit or that drive a value to infinity.
    """
    names = [name for node in model.graph.node for name in node.output if name]
    session = float_model.session(model, names)
    inputs = [value.name for value in model.graph.input]
    statistics = {name: Histogram() for name in (*inputs, *names)}
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    constant = functools.cache(lambda name: numpy_helper.to_array(initializers[name]))
    digest = hashlib.sha256()
    count = 0
    kept: simulation.Spread[Sample] = simulation.Spread(range_choice.SAMPLES)
    for sample in samples:
        kept.add(sample)
        for name in inputs:
            digest.update(sample[name].astype("<f4").tobytes())
            statistics[name].add(sample[name])
        found = session.run(sample)
        for name in names:
            if not np.isfinite(found[name]).all():
                raise CalibrationError(f"value '{name}' is not finite for sample {count}", samples.spec)
            statistics[name].add(found[name])
        for name, values in _internals(session.model, {**sample, **found}, constant).items():
            statistics.setdefault(name, Histogram()).add(values)
        count += 1
        _progress(count)
    _progress(0)
    single = range_choice.WIDE if method == AUTO else method
    # Of an input every value counts: what a sensor delivers is not ours to clip.
    tensors = {
        name: outward(*CHOICES["minmax" if name in inputs else single](seen)) for name, seen in statistics.items()
    }
    if method == AUTO:
        tensors |= range_choice.choose(model, statistics, kept.samples)
    return Ranges(tensors, SYNTHETIC if samples.spec == SYNTHETIC else method, count, digest.hexdigest())


def _internals(model: onnx.ModelProto, seen: Mapping[str, Array], constant: Callable[[str], Array]) -> dict[str, Array]:
    """What operators compute inside of a node and have to know the range of; constants are read where one asks."""
    from nnbuild.ops import BY_ONNX

    found: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type in BY_ONNX:
            found |= BY_ONNX[node.op_type].internals(node, lambda name: seen[name] if name in seen else constant(name))
    return found


def digest_of(samples: Samples) -> str:
    """SHA-256 of the samples as a model with these inputs sees them; equal to that of `ranges` over them."""
    digest = hashlib.sha256()
    for sample in samples:
        for name in samples.inputs:
            digest.update(sample[name].astype("<f4").tobytes())
    return digest.hexdigest()


def _progress(count: int) -> None:
    if sys.stderr.isatty():
        text = f"\rcalibrating: {count} samples" if count else "\r" + " " * 40 + "\r"
        print(text, end="", file=sys.stderr, flush=True)
