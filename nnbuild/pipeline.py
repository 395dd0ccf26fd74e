"""The front half of the way, in order: import, calibrate, quantize. What follows starts from the .int8.onnx file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx

from nnbuild import calibrate, samples
from nnbuild.calibrate import DEFAULT_METHOD, Ranges
from nnbuild.errors import CalibrationError, ConfigError, ModelError
from nnbuild.explicit_states import States
from nnbuild.importer import import_model
from nnbuild.onnxfile import is_qdq
from nnbuild.precision import AUTO, Aim, named, search
from nnbuild.quantize import quantize


@dataclass(frozen=True, slots=True)
class Request:
    """A model and how it is to be quantized; what was not given is None."""

    model: str
    calibration: str | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    method: str | None = None
    fully_connected: str | None = None
    states: States | None = None
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
    """Import, calibrate unless `ranges` are given, quantize. A model that holds Q/DQ nodes is taken as it is."""
    model = import_model(request.model, request.input_shapes, states=request.states)
    if is_qdq(model):
        given = (request.calibration, request.method, request.fully_connected)
        if ranges is not None or request.int16 or any(option is not None for option in given):
            message = (
                "the model is already quantized: calibration, ranges, method, fully_connected and int16 have no meaning"
            )
            raise ConfigError(message, request.model, "leave them out")
        return Quantized(serialized(model), None)
    if ranges is None:
        ranges = calibrated(request, model)
    try:
        result = _formed(request, model, ranges)
    except ModelError as error:
        raise error.within(request.model) from None
    return Quantized(serialized(result), ranges)


def _formed(request: Request, model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """The QDQ form, with the values in 16 bits that the request names or the search finds."""

    def form(names: Collection[str]) -> onnx.ModelProto:
        return quantize(model, ranges, fully_connected=request.fully_connected or "per_channel", int16=names)

    if not request.int16:
        return form(())
    wanted = named(form(()), [name for name in request.int16 if name != AUTO])
    if AUTO not in request.int16:
        return form(wanted)
    if request.calibration is None:
        raise CalibrationError("int16='auto' needs calibration samples", request.model)
    found = samples.load(request.calibration, input_shapes(model))
    return form(search(model, form, found, request.aim, wanted))


def serialized(model: onnx.ModelProto) -> bytes:
    """Equal models give equal bytes."""
    return bytes(model.SerializeToString(deterministic=True))
