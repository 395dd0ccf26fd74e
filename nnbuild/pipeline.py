"""The front half of the way, in order: import, calibrate, quantize. What follows starts from the .int8.onnx file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx

from nnbuild import calibrate, corrections, samples, simulation
from nnbuild.calibrate import DEFAULT_METHOD
from nnbuild.config import SYNTHETIC
from nnbuild.errors import CalibrationError, ConfigError, ModelError
from nnbuild.explicit_states import States
from nnbuild.importer import import_model
from nnbuild.onnxfile import is_qdq
from nnbuild.precision import AUTO, Aim, named, search
from nnbuild.quantize import quantize
from nnbuild.ranges import Ranges
from nnbuild.remarks import Remark, note
from nnbuild.states import keeps_states


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
    int16: tuple[str, ...] = ()
    aim: Aim = field(default_factory=Aim)


@dataclass(frozen=True, slots=True)
class Quantized:
    """The bytes of the .int8.onnx, and the ranges that led to it; None where the model came quantized."""

    content: bytes
    ranges: Ranges | None


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
    model = import_model(request.model, request.input_shapes, states=request.states)
    if is_qdq(model):
        _refuse_options(request)
        return Quantized(serialized(model), None)
    if request.ranges is not None and request.method is not None:
        raise ConfigError("ranges were made by a method of their own: method has no meaning", request.model)
    try:
        ranges = calibrated(request, model) if request.ranges is None else Ranges.read(request.ranges)
        result = _corrected(request, model, ranges, _int16(request, model, ranges))
    except ModelError as error:
        raise error.within(request.model) from None
    if ranges.method == SYNTHETIC:
        note(result, Remark.SYNTHETIC)
    return Quantized(serialized(result), ranges)


_OF_FLOAT_MODELS = ("calibration", "ranges", "method", "fully_connected", "corrections", "int16")


def _refuse_options(request: Request) -> None:
    given = [name for name in _OF_FLOAT_MODELS if getattr(request, name) not in (None, ())]
    if given:
        verb = "has" if len(given) == 1 else "have"
        message = f"the model is already quantized: {' and '.join(given)} {verb} no meaning"
        raise ConfigError(message, request.model, "leave out what is not for a quantized model")


def _int16(request: Request, model: onnx.ModelProto, ranges: Ranges) -> list[str]:
    """The nodes and inputs whose values get 16 bits: those that the request names, and those that the search finds."""

    def form(names: Collection[str]) -> onnx.ModelProto:
        return quantize(model, ranges, fully_connected=request.fully_connected or "per_channel", int16=names)

    if not request.int16:
        return []
    wanted = named(form(()), [name for name in request.int16 if name != AUTO])
    if AUTO not in request.int16:
        return wanted
    if request.calibration is None:
        raise CalibrationError("int16='auto' needs calibration samples", request.model)
    found = samples.load(request.calibration, input_shapes(model))
    return search(model, form, found, request.aim, wanted, lambda names: _corrected(request, model, ranges, names))


def _corrected(request: Request, model: onnx.ModelProto, ranges: Ranges, int16: Collection[str]) -> onnx.ModelProto:
    """Noise is nothing to correct by; of samples that are one sequence, where states are kept, none can be held out."""
    scales = request.fully_connected or "per_channel"
    allowed = () if request.corrections == "none" else (request.corrections or ",".join(corrections.NAMES)).split(",")
    made_up = SYNTHETIC in (ranges.method, request.calibration)
    if not allowed or keeps_states(model) or made_up or request.calibration is None:
        return quantize(model, ranges, fully_connected=scales, int16=int16)
    kept = simulation.Spread(corrections.SAMPLES)
    for sample in samples.load(request.calibration, input_shapes(model)):
        kept.add(sample)

    def form(float_form: onnx.ModelProto) -> onnx.ModelProto:
        own = ranges if float_form is model else calibrated(request, float_form, ranges.method)
        return quantize(float_form, own, fully_connected=scales, int16=int16)

    return corrections.corrected(model, form, kept.samples, allowed)


def serialized(model: onnx.ModelProto) -> bytes:
    """Equal models give equal bytes."""
    return bytes(model.SerializeToString(deterministic=True))
