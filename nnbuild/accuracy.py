"""How well the integer network agrees with the float model, over labelled or unlabelled samples.

The integer side is `nnbuild.interpret`, whose bytes the generated C computes; the float side is the model in
onnxruntime. SQNR is 10 log10(sum f^2 / sum (f - q)^2) over all outputs of all samples, in dB; agreement is the share of
samples whose arg-max (of the first output) is that of the float model; top-1 the share whose arg-max is the label.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from nnbuild import interpret
from nnbuild.errors import CalibrationError, ModelError
from nnbuild.lower import lower
from nnbuild.network import Array, Network
from nnbuild.pipeline import input_shapes
from nnbuild.samples import Sample, Samples


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares are of 1; `sqnr` is in dB, infinite where nothing differs; top-1 is None without labels."""

    samples: int
    agreement: float
    sqnr: float
    top1: float | None
    top1_float: float | None


def measure(
    model: onnx.ModelProto, int8: onnx.ModelProto, samples: Samples, limit: int | None = None, where: str = ""
) -> Accuracy:
    """Compare an imported float `model` with the quantized `int8` over the first `limit` samples (default: all).

    `where` names the int8 file in messages.
    """
    network = lower(int8, where)
    _check_same(model, network)
    session = _session(model)
    labels = samples.labels()
    signal = noise = 0.0
    decisions: list[tuple[int, int]] = []
    for sample in itertools.islice(samples, limit):
        real = [np.asarray(output, np.float64).ravel() for output in session.run(None, sample)]
        ours = list(_outputs(network, sample))
        signal += sum(float(np.sum(np.square(f))) for f in real)
        noise += sum(float(np.sum(np.square(f - q))) for f, q in zip(real, ours, strict=True))
        decisions.append((int(np.argmax(real[0])), int(np.argmax(ours[0]))))
        _progress(len(decisions))
    _progress(0)
    if labels is not None and len(labels) < len(decisions):
        message = f"there are {len(labels)} labels for {len(decisions)} samples"
        raise CalibrationError(message, samples.spec, "array 'y' needs one for each sample")
    pairs = np.asarray(decisions)
    truth = None if labels is None else labels[: len(pairs)]
    return Accuracy(
        samples=len(pairs),
        agreement=float(np.mean(pairs[:, 0] == pairs[:, 1])),
        sqnr=_decibel(signal, noise),
        top1=None if truth is None else float(np.mean(pairs[:, 1] == truth)),
        top1_float=None if truth is None else float(np.mean(pairs[:, 0] == truth)),
    )


def _outputs(network: Network, sample: Sample) -> Iterator[Array]:
    """The integer network's outputs as real numbers, flat."""
    inputs = [network.tensors[port.tensor].quant.quantize(sample[port.name]).ravel() for port in network.inputs]
    for port, values in zip(network.outputs, interpret.run(network, inputs), strict=True):
        yield network.tensors[port.tensor].quant.dequantize(values).astype(np.float64).ravel()


def _check_same(model: onnx.ModelProto, network: Network) -> None:
    expected = {name: math.prod(shape) for name, shape in input_shapes(model).items()}
    found = {port.name: math.prod(port.shape) for port in network.inputs}
    if expected != found or len(model.graph.output) != len(network.outputs):
        raise ModelError("the int8 model has other inputs or outputs than the float model: it is of another model")


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def _progress(count: int) -> None:
    if sys.stderr.isatty():
        text = f"\rcomparing: {count} samples" if count else "\r" + " " * 40 + "\r"
        print(text, end="", file=sys.stderr, flush=True)
