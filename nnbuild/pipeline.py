"""The front half of the way, in order: import, calibrate, quantize. What follows starts from the .int8.onnx file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from nnbuild import calibrate, corrections, samples, simulation
from nnbuild.calibrate import DEFAULT_METHOD
from nnbuild.errors import CalibrationError, ConfigError, ModelError
from nnbuild.explicit_states import States
from nnbuild.importer import import_model
from nnbuild.onnxfile import is_qdq
from nnbuild.quantize import quantize
from nnbuild.ranges import Ranges
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


@dataclass(frozen=True, slots=True)
class Quantized:
    """The bytes of the .int8.onnx, and the ranges that led to it; None where the model came quantized."""

    content: bytes
    ranges: Ranges | None


def input_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Name and shape, batch included, of the inputs of an imported or quantized model."""
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in model.graph.input}


def calibrated(request: Request, model: onnx.ModelProto) -> Ranges:
    """Ranges of the imported float `model` over the samples that the request names."""
    if request.calibration is None:
        hint = "calibration='samples.npz' in NNModel, --calibration samples.npz of a command"
        raise CalibrationError("a float model needs calibration samples", request.model, hint)
    found = samples.load(request.calibration, input_shapes(model))
    try:
        return calibrate.ranges(model, found, request.method or DEFAULT_METHOD)
    except ModelError as error:
        raise error.within(request.model) from None


def quantized(request: Request, ranges: Ranges | None = None) -> Quantized:
    """Import, calibrate and correct unless `ranges` are given, quantize.

    A model that holds Q/DQ nodes is taken as it is. Ranges come without samples, so there is nothing to correct by.
    """
    model = import_model(request.model, request.input_shapes, states=request.states)
    if is_qdq(model):
        given = (request.calibration, request.method, request.fully_connected, request.corrections)
        if ranges is not None or any(option is not None for option in given):
            message = (
                "the model is already quantized: calibration, ranges, method, fully_connected and corrections have no "
                "meaning"
            )
            raise ConfigError(message, request.model, "leave them out")
        return Quantized(serialized(model), None)
    scales = request.fully_connected or "per_channel"
    try:
        if ranges is not None:
            return Quantized(serialized(quantize(model, ranges, fully_connected=scales)), ranges)
        ranges = calibrated(request, model)
        result = _corrected(request, model, ranges, scales)
    except ModelError as error:
        raise error.within(request.model) from None
    return Quantized(serialized(result), ranges)


def _corrected(request: Request, model: onnx.ModelProto, ranges: Ranges, scales: str) -> onnx.ModelProto:
    """Of samples that are one sequence none can be held out: no corrections where states are kept."""
    allowed = () if request.corrections == "none" else (request.corrections or ",".join(corrections.NAMES)).split(",")
    if not allowed or keeps_states(model) or request.calibration is None:
        return quantize(model, ranges, fully_connected=scales)
    kept = simulation.Spread(corrections.SAMPLES)
    for sample in samples.load(request.calibration, input_shapes(model)):
        kept.add(sample)

    def form(float_form: onnx.ModelProto) -> onnx.ModelProto:
        own = ranges if float_form is model else calibrated(request, float_form)
        return quantize(float_form, own, fully_connected=scales)

    return corrections.corrected(model, form, kept.samples, allowed)


def serialized(model: onnx.ModelProto) -> bytes:
    """Equal models give equal bytes."""
    return bytes(model.SerializeToString(deterministic=True))
