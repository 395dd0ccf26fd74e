"""The front half of the way, in order: import, calibrate, quantize. What follows starts from the .int8.onnx file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from nnbuild import calibrate, corrections, precision, samples, simulation
from nnbuild.calibrate import DEFAULT_METHOD
from nnbuild.config import SYNTHETIC
from nnbuild.errors import CalibrationError, ConfigError, ModelError
from nnbuild.explicit_states import States
from nnbuild.importer import import_model
from nnbuild.onnxfile import is_qdq
from nnbuild.precision import search
from nnbuild.precision_judge import FOLDS, Aim, Form, Judge
from nnbuild.precision_names import AUTO, named
from nnbuild.precision_report import KEY, Found
from nnbuild.quantize import quantize
from nnbuild.ranges import Ranges
from nnbuild.remarks import Remark, note
from nnbuild.states import keeps_states
from nnbuild.streams.stream import Stream, stream_of


@dataclass(frozen=True, slots=True)
class Request:
    """A model and how it is to be quantized; what was not given is None."""

    model: str
    calibration: str | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    method: str | None = None
    fully_connected: str | None = None
    states: States | None = None
    corrections: str | None = None
    ranges: str | None = None
    stream: Stream | None = None
    int16: tuple[str, ...] = ()
    aim: Aim = field(default_factory=Aim)


@dataclass(frozen=True, slots=True)
class Quantized:
    """The bytes of the .int8.onnx; the ranges that led to it, None where the model came quantized; what a search for
    values of 16 bits found, None without one."""

    content: bytes
    ranges: Ranges | None
    found: Found | None = None


def input_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Name and shape, batch included, of the inputs of an imported or quantized model."""
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in model.graph.input}


def calibrated(request: Request, model: onnx.ModelProto, method: str | None = None) -> Ranges:
    """Ranges of the imported float `model` over the samples of the request, by its method where none is given."""
    if request.calibration is None:
        hint = "calibration='samples.npz' in NNModel, --calibration samples.npz of a command"
        raise CalibrationError("a float model needs calibration samples", request.model, hint)
    found = samples.load(request.calibration, input_shapes(model))
    try:
        return calibrate.ranges(model, found, method or request.method or DEFAULT_METHOD)
    except ModelError as error:
        raise error.within(request.model) from None


def quantized(request: Request) -> Quantized:
    """Import; calibrate, unless the request names ranges; quantize; correct, where there are samples.

    A model that holds Q/DQ nodes is taken as it is.
    """
    model = import_model(request.model, request.input_shapes, states=request.states, stream=request.stream)
    if is_qdq(model):
        _refuse_options(request)
        return Quantized(serialized(model), None)
    if request.ranges is not None and request.method is not None:
        raise ConfigError("ranges were made by a method of their own: method has no meaning", request.model)
    try:
        ranges = calibrated(request, model) if request.ranges is None else Ranges.read(request.ranges)
        build = _Build(request, model, ranges)
        names, found = _int16(build)
        result = build.corrected(names)
    except ModelError as error:
        raise error.within(request.model) from None
    if ranges.method == SYNTHETIC:
        note(result, Remark.SYNTHETIC)
    if found is not None:
        result.metadata_props.add(key=KEY, value=found.metadata())
    return Quantized(serialized(result), ranges, found)


_OF_FLOAT_MODELS = ("calibration", "ranges", "method", "fully_connected", "corrections", "int16")


def _refuse_options(request: Request) -> None:
    given = [name for name in _OF_FLOAT_MODELS if getattr(request, name) not in (None, ())]
    if given:
        verb = "has" if len(given) == 1 else "have"
        message = f"the model is already quantized: {' and '.join(given)} {verb} no meaning"
        raise ConfigError(message, request.model, "leave out what is not for a quantized model")


@dataclass(frozen=True, slots=True)
class _Build:
    """Quantizes a float model with any set of values in 16 bits; of what all sets share nothing is computed twice."""

    request: Request
    model: onnx.ModelProto
    ranges: Ranges
    _ranges: dict[bytes, Ranges] = field(default_factory=dict)
    _corrected: dict[frozenset[str], onnx.ModelProto] = field(default_factory=dict)

    def form(self, names: Collection[str], ranges: Ranges | None = None) -> onnx.ModelProto:
        """The QDQ form in which these nodes and inputs have 16 bits."""
        return self._quantize(self.model, self.ranges if ranges is None else ranges, names)

    def corrected(self, names: Collection[str]) -> onnx.ModelProto:
        """The same, corrected.

        Noise is nothing to correct by; of samples that are one sequence, where states are kept, none can be held out.
        """
        key = frozenset(names)
        if key not in self._corrected:
            request = self.request
            chosen = request.corrections.split(",") if request.corrections else corrections.NAMES
            allowed = () if request.corrections == "none" else chosen
            made_up = SYNTHETIC in (self.ranges.method, request.calibration)
            bare = not allowed or keeps_states(self.model) or made_up or request.calibration is None
            self._corrected[key] = self.form(names) if bare else self._correct(names, allowed)
        return self._corrected[key]

    def _correct(self, names: Collection[str], allowed: Collection[str]) -> onnx.ModelProto:
        assert self.request.calibration is not None
        kept: simulation.Spread[samples.Sample] = simulation.Spread(corrections.SAMPLES)
        for sample in samples.load(self.request.calibration, input_shapes(self.model)):
            kept.add(sample)
        return corrections.corrected(
            self.model,
            lambda float_form: self._quantize(float_form, self._of(float_form), names),
            kept.samples,
            allowed,
        )

    def _of(self, float_form: onnx.ModelProto) -> Ranges:
        if float_form is self.model:
            return self.ranges
        key = serialized(float_form)
        if key not in self._ranges:
            self._ranges[key] = calibrated(self.request, float_form, self.ranges.method)
        return self._ranges[key]

    def _quantize(self, float_form: onnx.ModelProto, ranges: Ranges, names: Collection[str]) -> onnx.ModelProto:
        scales = self.request.fully_connected or "per_channel"
        return quantize(float_form, ranges, fully_connected=scales, int16=names)


def _int16(build: _Build) -> tuple[Sequence[str], Found | None]:
    """The nodes and inputs whose values get 16 bits: those that the request names, or what the search found of them."""
    request = build.request
    if not request.int16:
        return [], None
    wanted = named(build.form(()), [name for name in request.int16 if name != AUTO])
    if AUTO not in request.int16:
        return wanted, None
    if request.calibration in (None, SYNTHETIC):
        raise CalibrationError("int16='auto' needs calibration samples", request.model)
    if stream_of(build.model) is not None:
        hint = "name values behind the layers that run along time"
        raise ConfigError("options 'stream_axis' and int16='auto' exclude each other", request.model, hint)
    found = search(build.model, build.form, _judge(build), request.aim, wanted, build.corrected)
    return found.names, found


def _judge(build: _Build) -> Judge:
    """Samples of the request, with their labels; parts of them are held out, unless they are one sequence."""
    model, spec = build.model, build.request.calibration
    assert spec is not None
    given = samples.load(spec, input_shapes(model))
    spread: simulation.Spread[tuple[int, samples.Sample]] = simulation.Spread(precision.SAMPLES)
    count = 0
    for count, sample in enumerate(given, 1):
        spread.add((count - 1, sample))
    labels = given.labels()
    if labels is not None and len(labels) != count:
        raise CalibrationError(f"there are {len(labels)} labels for {count} samples", spec)
    kept = [sample for _, sample in spread.samples]
    own = None if labels is None else labels[[index for index, _ in spread.samples]]
    if len(kept) < 2 * FOLDS or keeps_states(model):
        return Judge(model, kept, own)

    def fold(part: Collection[int]) -> Form:
        rest = [sample for index, sample in enumerate(kept) if index not in part]
        ranges = calibrate.ranges(model, samples.Listed(spec, given.inputs, rest), build.ranges.method)
        return lambda names: build.form(names, ranges)

    parts = [range(start, len(kept), FOLDS) for start in range(FOLDS)]
    return Judge(model, kept, own, [(fold(part), part) for part in parts])


def serialized(model: onnx.ModelProto) -> bytes:
    """Equal models give equal bytes."""
    return bytes(model.SerializeToString(deterministic=True))
