"""What nnbuild notes in the metadata of a model, since ONNX itself has no word for it; importing keeps nothing else.

Everything else about a model stays standard ONNX, which every runtime computes without them.
"""

from __future__ import annotations

from enum import Enum

import onnx


class Remark(Enum):
    """(key, value) of an entry in `metadata_props`."""

    KEEPS_STATES = ("nnbuild.states", "keep")
    """Recurrent layers go on where the inference before ended."""
    SYNTHETIC = ("nnbuild.calibration", "synthetic")
    """Its ranges come from made-up samples: good for sizes, not for results."""


def remarked(model: onnx.ModelProto, remark: Remark) -> bool:
    """Whether the model has the remark."""
    return any((entry.key, entry.value) == remark.value for entry in model.metadata_props)


def remarks(model: onnx.ModelProto) -> list[Remark]:
    """All that the model has."""
    return [remark for remark in Remark if remarked(model, remark)]


def note(model: onnx.ModelProto, *found: Remark) -> None:
    """Put remarks into the model."""
    for remark in found:
        if not remarked(model, remark):
            key, value = remark.value
            model.metadata_props.add(key=key, value=value)
