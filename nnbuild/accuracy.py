"""How well the integer network agrees with the float model, over labelled or unlabelled samples.

The integer side is `nnbuild.interpret`, whose bytes the generated C computes; the float side is the imported model in
onnxruntime. SQNR is 10 log10(sum f^2 / sum (f - q)^2) over all outputs of all samples, in dB; agreement is the share
of samples whose arg-max (of the first output) is that of the float model; top-1 the share whose arg-max is the label.

A layer's SQNR is that of its output, dequantized, against the value of the float model that its quantization belongs
to, clamp included. It holds the errors of all layers before it. Samples are taken one by one: memory does not grow.
Where recurrent layers keep their states, the samples are one sequence.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import float_model, interpret
from nnbuild.errors import CalibrationError, ModelError
from nnbuild.layout import is_contiguous
from nnbuild.lower import Activation, traced
from nnbuild.network import Array, Layer, Network, Port, QuantParams
from nnbuild.passes.masks import INFINITE
from nnbuild.pipeline import input_shapes
from nnbuild.qdq import shapes
from nnbuild.report.accuracy import CEILING, Accuracy, Confusion, LayerAccuracy, WorstSample
from nnbuild.samples import Sample, Samples

_SHOWN = 5  # worst samples and confusion pairs that are listed


@dataclass(frozen=True, slots=True)
class _Probe:
    """A tensor and the float value that it stands for: `value` is flat, its elements at `index` (None: as they lie)."""

    tensor: str
    value: str
    quant: QuantParams
    index: Array | None

    def real(self, values: Mapping[str, Array]) -> Array:
        """The tensor as float64, flat, in the order of the float value."""
        flat = values[self.tensor]
        return self.quant.dequantize(flat if self.index is None else flat[self.index]).astype(np.float64)


@dataclass(slots=True)
class _Power:
    """Sums of squares of a float value and of its error."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, real: Array, ours: Array) -> None:
        """Count float64 arrays of one shape; the fill of a mask, which may saturate, is no signal and no noise."""
        finite = np.abs(real) < INFINITE
        real, ours = real[finite], ours[finite]
        self.signal += float(np.sum(np.square(real)))
        self.noise += float(np.sum(np.square(real - ours)))

    @property
    def decibel(self) -> float:
        """SQNR, limited to +-CEILING, in hundredths: the last bits of a float kernel do not change a report."""
        if self.noise == 0.0:
            return CEILING
        level = 10 * math.log10(self.signal / self.noise) if self.signal > 0.0 else -CEILING
        return round(min(max(level, -CEILING), CEILING), 2)


class _Comparison:
    """Both models, and what is counted over the samples; `decisions` are pairs of arg-max, in float and in int8."""

    def __init__(self, model: onnx.ModelProto, network: Network, values: Mapping[str, Activation]) -> None:
        self.network = network
        floats = {name: shape for name, shape in shapes(model.graph).items() if name in _computed(model)}
        outputs = [
            _Probe(port.tensor, value.name, network.tensors[port.tensor].quant, None)
            for port, value in zip(network.outputs, model.graph.output, strict=True)
        ]
        probes = (*_probes(network, values, floats), *outputs)
        self.first = outputs[0]
        self.by_tensor = {probe.tensor: probe for probe in probes}
        self.outputs = [self._noisy(probe) for probe in outputs]
        self.places = {port.name: values[port.name].index for port in network.inputs}
        self.names = [name for name in dict.fromkeys(probe.value for probe in probes) if name not in self.places]
        self.session = float_model.session(model, self.names)
        self.states: interpret.States = {}
        self.count = 0
        self.all_outputs = _Power()
        self.tensors = {tensor: _Power() for tensor in self.by_tensor}
        self.decisions: Counter[tuple[int, int]] = Counter()
        self.worst: list[WorstSample] = []

    def add(self, sample: Sample, where: str) -> tuple[int, int]:
        """Count one sample; its arg-max in float and in int8."""
        found = self.session.run(sample)
        for name in self.names:
            if not np.isfinite(found[name]).all():
                raise CalibrationError(f"value '{name}' is not finite for sample {self.count}", where)
        floats = {**sample, **found}
        real = {name: np.asarray(values, np.float64).ravel() for name, values in floats.items()}
        inputs = [self._quantized(port, sample) for port in self.network.inputs]
        ours = interpret.run_all(self.network, inputs, self.states)
        for probe in self.by_tensor.values():
            self.tensors[probe.tensor].add(real[probe.value], probe.real(ours))
        mine = _Power()
        for probe in self.outputs:
            mine.add(real[probe.value], probe.real(ours))
        self.all_outputs.signal += mine.signal
        self.all_outputs.noise += mine.noise
        decision = self._decision(real[self.first.value], ours[self.first.tensor])
        self._note(WorstSample(self.count, mine.decibel, *decision))
        self.decisions[decision] += 1
        self.count += 1
        return decision

    def _noisy(self, probe: _Probe) -> _Probe:
        """What shows the noise of an output: of indices, the values that they are of."""
        if not self.network.tensors[probe.tensor].indices:
            return probe
        layer = next(layer for layer in self.network.layers if layer.output == probe.tensor)
        return self.by_tensor.get(layer.inputs[0], probe)

    def _decision(self, real: Array, ours: Array) -> tuple[int, int]:
        """Arg-max in float and in int8, or the indices themselves where the network computes one."""
        if self.network.tensors[self.first.tensor].indices and ours.size == 1:
            return int(real[0]), int(ours[0])
        return int(np.argmax(real)), int(np.argmax(ours))

    def _quantized(self, port: Port, sample: Sample) -> Array:
        """An input as the network takes it, which may be channels last."""
        tensor = self.network.tensors[port.tensor]
        flat = np.empty(tensor.size, tensor.dtype)
        flat[self.places[port.name]] = tensor.quant.quantize(sample[port.name])
        return flat

    def _note(self, sample: WorstSample) -> None:
        """Keep the samples with the lowest SQNR, the first of equals."""
        self.worst = sorted([*self.worst, sample], key=lambda entry: (entry.sqnr_db, entry.sample))[:_SHOWN]


def measure(
    model: onnx.ModelProto,
    int8: onnx.ModelProto,
    samples: Samples,
    limit: int | None = None,
    where: str = "",
    name: str = "model",
    input_layout: str = "",
    single_rounding: bool = False,
) -> Accuracy:
    """Compare an imported float `model` with the quantized `int8` over the first `limit` samples (default: all).

    `where` names the int8 file in messages, `name` stands in front of the layers' names; `input_layout` and
    `single_rounding` are as in `lower`. CalibrationError for samples that do not fit or that drive a value to infinity.
    """
    network, values = traced(int8, where, input_layout, single_rounding)
    _check_same(model, network)
    comparison = _Comparison(model, network, values)
    labels = samples.labels()
    right = [0, 0]
    for index, sample in enumerate(itertools.islice(samples, limit)):
        if labels is not None and index == len(labels):
            message = f"there are {len(labels)} labels for more samples"
            raise CalibrationError(message, samples.spec, "array 'y' needs one for each sample")
        decision = comparison.add(sample, samples.spec)
        if labels is not None:
            right = [count + (choice == int(labels[index])) for count, choice in zip(right, decision, strict=True)]
        _progress(index + 1)
    _progress(0)
    return _result(name, comparison, None if labels is None else right)


def _result(name: str, found: _Comparison, right: list[int] | None) -> Accuracy:
    """`right`: how many labels the float model and the integer network have met; None without labels."""
    network = found.network
    first = network.tensors[found.first.tensor]
    decides = first.size > 1 or first.indices
    agreeing = sum(count for (real, ours), count in found.decisions.items() if real == ours)
    rights = [None, None] if right is None or not decides else [_percent(count, found.count) for count in right]
    confused = [Confusion(*pair, count) for pair, count in found.decisions.items() if pair[0] != pair[1]]
    return Accuracy(
        name=name,
        model_id=f"0x{network.model_id():08x}",
        samples=found.count,
        agreement=_percent(agreeing, found.count) if decides else None,
        sqnr_db=found.all_outputs.decibel,
        top1=rights[1],
        top1_float=rights[0],
        layers=tuple(_layers(name, network, {tensor: power.decibel for tensor, power in found.tensors.items()})),
        worst=tuple(found.worst),
        confusions=tuple(sorted(confused, key=lambda pair: (-pair.count, pair.float, pair.int8))[:_SHOWN]),
    )


def _layers(name: str, network: Network, levels: Mapping[str, float]) -> Iterator[LayerAccuracy]:
    """What each layer reaches, and adds; behind a layer without a figure those of its inputs count on."""
    reached = {port.tensor: levels.get(port.tensor, CEILING) for port in network.inputs}
    for index, layer in enumerate(network.layers):
        before = min(reached[tensor] for tensor in layer.inputs)
        level = levels.get(layer.output)
        reached[layer.output] = before if level is None else level
        yield LayerAccuracy(
            index=index,
            name=f"{name}_{layer.name}",
            node=layer.node,
            op=layer.op,
            sqnr_db=level,
            added_db=None if level is None else _added(before, level),
            weight_scales=_weight_scales(layer),
        )


def _added(before: float, level: float) -> float | None:
    """The SQNR of noise that makes `level` of `before`, both in dB; None where there is none."""
    noise = 10 ** (-level / 10) - 10 ** (-before / 10)
    return round(-10 * math.log10(noise), 2) if noise > 0 else None


def _weight_scales(layer: Layer) -> int | None:
    """How many different multipliers the outputs of a layer with weights have."""
    if "weights" not in layer.constants or "multiplier" not in layer.constants:
        return None
    scales = [layer.constants[name].ravel().tolist() for name in ("multiplier", "shift") if name in layer.constants]
    return len(set(zip(*scales, strict=True)))


def _computed(model: onnx.ModelProto) -> set[str]:
    """The values that depend on samples: inputs, and outputs of nodes."""
    return {name for node in model.graph.node for name in node.output if name} | set(input_shapes(model))


def _probes(network: Network, values: Mapping[str, Activation], floats: Mapping[str, tuple[int, ...]]) -> list[_Probe]:
    """The first value of the float model that lies in each tensor."""
    found: dict[str, _Probe] = {}
    for value, place in values.items():
        if place.tensor not in found and floats.get(value) == place.shape:
            index = place.index.ravel()
            if index.size > network.tensors[place.tensor].size:
                continue  # of some values, such as the steps before the last, the network keeps nothing
            whole = index.size == network.tensors[place.tensor].size and is_contiguous(index)
            quant = network.tensors[place.tensor].quant
            found[place.tensor] = _Probe(place.tensor, value, quant, None if whole else index)
    return list(found.values())


def _check_same(model: onnx.ModelProto, network: Network) -> None:
    expected = {name: math.prod(shape) for name, shape in input_shapes(model).items()}
    found = {port.name: math.prod(port.shape) for port in network.inputs}
    sizes = [math.prod(shapes(model.graph)[value.name]) for value in model.graph.output]
    if expected != found or sizes != [math.prod(port.shape) for port in network.outputs]:
        raise ModelError("the int8 model has other inputs or outputs than the float model: it is of another model")


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 4)


def _progress(count: int) -> None:
    if sys.stderr.isatty():
        text = f"\rcomparing: {count} samples" if count else "\r" + " " * 40 + "\r"
        print(text, end="", file=sys.stderr, flush=True)
