"""How well the integer network agrees with the float model, over labelled or unlabelled samples.

The float side is the imported model in onnxruntime. The integers of all samples come from the generated C, compiled
for this machine (`nnbuild.host`), in as many processes as there are cores; without a program from `nnbuild.interpret`,
whose bytes are the same. SQNR is 10 log10(sum f^2 / sum (f - q)^2) over all outputs of all samples, in dB; agreement is
the share of samples whose arg-max (of the first output) is that of the float model; top-1 the share whose arg-max is
the label, and drop what top-1 loses by the integers.

Layers are looked at by the reference (`nnbuild.layer_accuracy`), over up to LAYER_SAMPLES samples, evenly spaced, on
which it is compared with the program's bytes as well. A layer's SQNR is that of its output, dequantized, against the
value of the float model that its quantization belongs to, clamp included.

A stream (`streams.over_time`) gets the frames of a sample one call after the other, and what it says of the last is its
answer; the reference takes samples whole, so that comparing the bytes holds the two against each other in every build.

Samples are taken in chunks: memory does not grow with their number. Where recurrent layers keep their states, the
samples are one sequence, for one process, and layers are looked at over its beginning.
"""

from __future__ import annotations

import itertools
import math
import os
import queue
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import float_model, interpret
from nnbuild.errors import CalibrationError, InternalError, ModelError
from nnbuild.host import Program, observed
from nnbuild.layer_accuracy import LayerComparison, Levels, Power, Probe, probes
from nnbuild.lower import Activation, traced
from nnbuild.network import Array, Layer, Network
from nnbuild.pipeline import input_shapes
from nnbuild.qdq import shapes
from nnbuild.report.accuracy import CEILING, REFERENCE, Accuracy, Confusion, LayerAccuracy, WorstSample
from nnbuild.samples import Sample, Samples
from nnbuild.states import keeps_states
from nnbuild.streams.over_time import by_calls, streamed
from nnbuild.streams.stream import stream_of

LAYER_SAMPLES = 50
_SHOWN = 5  # worst samples and confusion pairs that are listed
_CHUNK_SAMPLES, _CHUNK_BYTES = 32, 1 << 22
_LABELS = "array 'y' needs one for each sample"

Run = Callable[[Sequence[Array]], Mapping[str, Array]]
"""Runs the integer network: int8 inputs -> flat tensors by name, its outputs among them."""


@dataclass(frozen=True, slots=True)
class _Compared:
    """One sample: its outputs' power, and the arg-max in float and in int8."""

    power: Power
    decision: tuple[int, int]


class _Models:
    """Both models: what of the one stands for what of the other, and one sample in both.

    `network` takes a sample whole; `built` is what a build makes of it, which is another where it is a stream.
    """

    def __init__(
        self, model: onnx.ModelProto, network: Network, built: Network, values: Mapping[str, Activation]
    ) -> None:
        self.model, self.network, self.built = model, network, built
        self.keeps_states = keeps_states(model)
        floats = {name: shape for name, shape in shapes(model.graph).items() if name in _computed(model)}
        outputs = [
            Probe(port.tensor, value.name, network.tensors[port.tensor].quant, None)
            for port, value in zip(network.outputs, model.graph.output, strict=True)
        ]
        by_tensor = {probe.tensor: probe for probe in (*probes(network, values, floats), *outputs)}
        self.probes = list(by_tensor.values())
        self.first = outputs[0]
        self.outputs = [self._noisy(probe, by_tensor) for probe in outputs]
        self.output_values = [probe.value for probe in (*outputs, *self.outputs)]
        self._places = {port.name: values[port.name].index for port in network.inputs}

    def session(self, names: Iterable[str]) -> float_model.Session:
        """The float model, which can give the values `names`."""
        return float_model.session(self.model, [name for name in dict.fromkeys(names) if name not in self._places])

    def inputs(self, sample: Sample) -> list[Array]:
        """The inputs as the network takes them, which may be channels last: flat int8."""
        found = []
        for port in self.network.inputs:
            tensor = self.network.tensors[port.tensor]
            flat = np.empty(tensor.size, tensor.dtype)
            flat[self._places[port.name]] = tensor.quant.quantize(sample[port.name])
            found.append(flat)
        return found

    def real(self, session: float_model.Session, sample: Sample, index: int, where: str) -> dict[str, Array]:
        """Values of the float model, flat float64. CalibrationError where one is not finite."""
        found = session.run(sample)
        for name in session.names:
            if not np.isfinite(found[name]).all():
                raise CalibrationError(f"value '{name}' is not finite for sample {index}", where)
        return {name: np.asarray(values, np.float64).ravel() for name, values in {**sample, **found}.items()}

    def compared(self, real: Mapping[str, Array], ours: Mapping[str, Array]) -> _Compared:
        """The outputs of one sample in both."""
        power = Power()
        for probe in self.outputs:
            power.add(real[probe.value], probe.real(ours))
        return _Compared(power, self._decision(real[self.first.value], ours[self.first.tensor]))

    def _noisy(self, probe: Probe, by_tensor: Mapping[str, Probe]) -> Probe:
        """What shows the noise of an output: of indices, the values that they are of."""
        if not self.network.tensors[probe.tensor].indices:
            return probe
        layer = next(layer for layer in self.network.layers if layer.output == probe.tensor)
        return by_tensor.get(layer.inputs[0], probe)

    def _decision(self, real: Array, ours: Array) -> tuple[int, int]:
        """Arg-max in float and in int8, or the indices themselves where the network computes one."""
        if self.network.tensors[self.first.tensor].indices and ours.size == 1:
            return int(real[0]), int(ours[0])
        return int(np.argmax(real)), int(np.argmax(ours))


class _Counts:
    """What is counted over all samples; `decisions` are pairs of arg-max, `right` those that meet their label."""

    def __init__(self, labels: Array | None) -> None:
        self.labels = labels
        self.samples = 0
        self.power = Power()
        self.decisions: Counter[tuple[int, int]] = Counter()
        self.right = [0, 0]
        self.worst: list[WorstSample] = []

    def add(self, found: _Compared, where: str) -> None:
        """Count one sample."""
        if self.labels is not None:
            if self.samples == len(self.labels):
                message = f"there are {len(self.labels)} labels for more samples"
                raise CalibrationError(message, where, _LABELS)
            label = int(self.labels[self.samples])
            self.right = [count + (choice == label) for count, choice in zip(self.right, found.decision, strict=True)]
        self.power.join(found.power)
        self.decisions[found.decision] += 1
        # The samples with the lowest SQNR, the first of equals.
        mine = WorstSample(self.samples, found.power.decibel, *found.decision)
        self.worst = sorted([*self.worst, mine], key=lambda entry: (entry.sqnr_db, entry.sample))[:_SHOWN]
        self.samples += 1

    def check_labels(self, where: str) -> None:
        """CalibrationError where there are labels for more samples than there were: they are of other ones."""
        if self.labels is not None and len(self.labels) > self.samples:
            raise CalibrationError(f"there are {len(self.labels)} labels for {self.samples} samples", where, _LABELS)


def measure(
    model: onnx.ModelProto,
    int8: onnx.ModelProto,
    samples: Samples,
    limit: int | None = None,
    where: str = "",
    name: str = "model",
    input_layout: str = "",
    single_rounding: bool = False,
    program: Callable[[Network], Program] | None = None,
) -> Accuracy:
    """Compare an imported float `model` with the quantized `int8` over the first `limit` samples (default: all).

    `where` names the int8 file in messages, `name` stands in front of the layers' names; `input_layout` and
    `single_rounding` are as in `lower`; `program` gives that of the lowered network, None leaves all to the reference.
    CalibrationError for samples that do not fit or that drive a value to infinity.
    """
    network, values = traced(int8, where, input_layout, single_rounding)
    _check_same(model, network)
    stream = stream_of(int8)
    built = network if stream is None else streamed(network, stream, where, input_layout)
    models = _Models(model, network, built, values)
    made = program(built) if program else None
    counts = _Counts(samples.labels())
    with closing(_all_outputs(models, itertools.islice(samples, limit), made, samples.spec)) as outputs:
        for found in outputs:
            counts.add(found, samples.spec)
            _progress("outputs", counts.samples)
    if limit is None:
        counts.check_labels(samples.spec)
    levels, looked_at = _levels(models, samples, counts.samples, made)
    _progress("", 0)
    return _result(name, models, counts, levels, looked_at, made.by if made else REFERENCE)


def _all_outputs(
    models: _Models, samples: Iterator[Sample], program: Program | None, where: str
) -> Generator[_Compared]:
    """The samples in both models, in their order; by a thread and a process for each core where order is all."""
    workers = 1 if program is None or models.keeps_states else _cores()
    session = models.session(models.output_values)
    with ExitStack() as stack:
        runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        for _ in range(workers):
            runs.put(stack.enter_context(_started(models, program)))

        def compare(start: int, chunk: Sequence[Sample]) -> list[_Compared]:
            run = runs.get()
            try:
                return [
                    models.compared(models.real(session, sample, start + index, where), run(models.inputs(sample)))
                    for index, sample in enumerate(chunk)
                ]
            finally:
                runs.put(run)

        pool = ThreadPoolExecutor(workers)
        stack.callback(pool.shutdown, cancel_futures=True)
        waiting: deque[Future[list[_Compared]]] = deque()
        for start, chunk in _chunks(models.model, samples):
            waiting.append(pool.submit(compare, start, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        for future in waiting:
            yield from future.result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(model: onnx.ModelProto, samples: Iterator[Sample]) -> Iterator[tuple[int, list[Sample]]]:
    """Copies of the samples, so that what they are read from can go, with the number of the first of each chunk."""
    size = 4 * sum(math.prod(shape) for shape in input_shapes(model).values())
    count = max(1, min(_CHUNK_SAMPLES, _CHUNK_BYTES // size))
    start = 0
    while chunk := [
        {name: array.copy() for name, array in sample.items()} for sample in itertools.islice(samples, count)
    ]:
        yield start, chunk
        start += len(chunk)


def _started(models: _Models, program: Program | None) -> AbstractContextManager[Run]:
    """The integer network, at the beginning of a sequence."""
    return _process(models, program) if program else _reference(models.network)


@contextmanager
def _process(models: _Models, program: Program) -> Iterator[Run]:
    with program.start(models.built) as process:
        yield process.run if models.built is models.network else by_calls(models.network, models.built, process.run)


@contextmanager
def _reference(network: Network) -> Iterator[Run]:
    states: interpret.States = {}
    yield lambda inputs: interpret.run_all(network, inputs, states)


def _levels(models: _Models, samples: Samples, count: int, program: Program | None) -> tuple[dict[str, Levels], int]:
    """What layers reach over some of the first `count` samples, and how many those were."""
    step = 1 if models.keeps_states else -(-count // LAYER_SAMPLES)
    chosen = itertools.islice(enumerate(samples), 0, min(count, step * LAYER_SAMPLES), step)
    session = models.session([probe.value for probe in models.probes])
    layers = LayerComparison(models.network, models.probes)
    looked_at = 0
    with _started(models, program) as run:
        for index, sample in chosen:
            inputs = models.inputs(sample)
            ours = layers.add(models.real(session, sample, index, samples.spec), inputs)
            if program is not None:
                _check_bytes(models.network, ours, run(inputs), index)
            looked_at += 1
            _progress("layers", looked_at)
    return layers.levels(), looked_at


def _check_bytes(network: Network, ours: Mapping[str, Array], theirs: Mapping[str, Array], index: int) -> None:
    for port in observed(network).outputs:
        if not np.array_equal(ours[port.tensor], theirs[port.tensor]):
            raise InternalError(f"output '{port.name}' of the generated C is not the reference's for sample {index}")


def _result(
    name: str, models: _Models, counts: _Counts, levels: Mapping[str, Levels], looked_at: int, by: str
) -> Accuracy:
    network = models.network
    first = network.tensors[models.first.tensor]
    decides = first.size > 1 or first.indices
    agreeing = sum(count for (real, ours), count in counts.decisions.items() if real == ours)
    labelled = decides and counts.labels is not None
    real, ours = counts.right
    confused = [Confusion(*pair, count) for pair, count in counts.decisions.items() if pair[0] != pair[1]]
    return Accuracy(
        name=name,
        model_id=f"0x{models.built.model_id():08x}",
        evaluated_by=by,
        samples=counts.samples,
        agreement=_percent(agreeing, counts.samples) if decides else None,
        sqnr_db=counts.power.decibel,
        top1=_percent(ours, counts.samples) if labelled else None,
        top1_float=_percent(real, counts.samples) if labelled else None,
        drop=_percent(real - ours, counts.samples) if labelled else None,
        layer_samples=looked_at,
        layers=tuple(_layers(name, network, levels)),
        worst=tuple(counts.worst),
        confusions=tuple(sorted(confused, key=lambda pair: (-pair.count, pair.float, pair.int8))[:_SHOWN]),
    )


def _layers(name: str, network: Network, levels: Mapping[str, Levels]) -> Iterator[LayerAccuracy]:
    """What each layer reaches, and adds; behind a layer without a figure those of its inputs count on."""
    reached = {
        port.tensor: levels[port.tensor].sqnr_db if port.tensor in levels else CEILING for port in network.inputs
    }
    for index, layer in enumerate(network.layers):
        before = min(reached[tensor] for tensor in layer.inputs)
        found = levels.get(layer.output)
        reached[layer.output] = before if found is None else found.sqnr_db
        yield LayerAccuracy(
            index=index,
            name=f"{name}_{layer.name}",
            node=layer.node,
            op=layer.op,
            sqnr_db=found.sqnr_db if found else None,
            added_db=_added(before, found.sqnr_db) if found else None,
            isolated_db=found.isolated_db if found else None,
            saturation=found.saturation if found else None,
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


def _check_same(model: onnx.ModelProto, network: Network) -> None:
    expected = {name: math.prod(shape) for name, shape in input_shapes(model).items()}
    found = {port.name: math.prod(port.shape) for port in network.inputs}
    sizes = [math.prod(shapes(model.graph)[value.name]) for value in model.graph.output]
    if expected != found or sizes != [math.prod(port.shape) for port in network.outputs]:
        raise ModelError("the int8 model has other inputs or outputs than the float model: it is of another model")


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 4)


def _progress(what: str, count: int) -> None:
    if sys.stderr.isatty():
        text = f"\rcomparing {what}: {count} samples" if count else "\r" + " " * 40 + "\r"
        print(text, end="", file=sys.stderr, flush=True)
