"""What makes a model a stream: the axis of its input that is time, and the frames of a call.

It is metadata of the file, which stays standard ONNX over the whole window; `streams.over_time` does it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

from nnbuild.config import parse_options
from nnbuild.errors import ConfigError
from nnbuild.remarks import STREAM, note
from nnbuild.states import keeps_states


@dataclass(frozen=True, slots=True)
class Stream:
    """Axis `axis` of the model's input, batch included, is time; a call brings `frames`.

    None is as few as the strides along time allow.
    """

    axis: int
    frames: int | None = None


def stream_options(axis: int | None, frames: int | None) -> Stream | None:
    """The stream of the options `stream_axis` and `stream_frames`; ConfigError for one that is wrong."""
    given = {"stream_axis": axis, "stream_frames": frames}
    found = parse_options(given, "") if any(value is not None for value in given.values()) else {}
    return Stream(found["stream_axis"], found.get("stream_frames")) if found else None


def stream_of(model: onnx.ModelProto) -> Stream | None:
    """What was noted in `model`; None where it takes its window whole."""
    values = [entry.value for entry in model.metadata_props if entry.key == STREAM]
    match = re.fullmatch(r"(\d{1,2}) (\d{1,9})", values[0], re.ASCII) if values else None
    return Stream(int(match[1]), int(match[2]) or None) if match else None


def apply(model: onnx.ModelProto, stream: Stream | None, file: str) -> None:
    """Note `stream` in `model`, whose shapes are known; a None leaves what the file says.

    ConfigError for a model with several inputs or states, and an axis that its input has not.
    """
    if stream is None:
        return
    inputs = model.graph.input
    if len(inputs) != 1:
        raise ConfigError(f"option 'stream_axis': the model has {len(inputs)} inputs, and frames come by one", file)
    if keeps_states(model):
        hint = "recurrent layers take frames as they come: export the model for one"
        raise ConfigError("options 'stream_axis' and 'states' exclude each other", file, hint)
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
    if not 1 <= stream.axis < len(shape):
        hint = f"its axes are 1 to {len(shape) - 1}, behind the batch"
        raise ConfigError(
            f"option 'stream_axis': input '{inputs[0].name}' of shape {shape} has no such axis", file, hint
        )
    note(model, (STREAM, f"{stream.axis} {stream.frames or 0}"))
