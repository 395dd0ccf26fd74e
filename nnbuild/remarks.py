"""What nnbuild notes in the metadata of a model, since ONNX itself has no word for it; importing keeps nothing else.

Everything else about a model stays standard ONNX, which every runtime computes without them.
"""

from __future__ import annotations

from enum import Enum

import onnx

Entry = tuple[str, str]
"""(key, value) in `metadata_props`."""

STREAM = "nnbuild.streams.stream"
"""The key of what `streams.stream` notes."""


class Remark(Enum):
    """(key, value) of an entry in `metadata_props`."""

    KEEPS_STATES = ("nnbuild.states", "keep")
    """Recurrent layers go on where the inference before ended."""
    SYNTHETIC = ("nnbuild.calibration", "synthetic")
    """Its ranges come from made-up samples: good for sizes, not for results."""


def remarked(model: onnx.ModelProto, remark: Remark) -> bool:
    """Whether the model has the remark."""
    return any((entry.key, entry.value) == remark.value for entry in model.metadata_props)


def remarks(model: onnx.ModelProto) -> list[Entry]:
    """All that the model has, as entries."""
    known = {remark.value for remark in Remark}
    entries = [(entry.key, entry.value) for entry in model.metadata_props]
    return [entry for entry in entries if entry in known or entry[0] == STREAM]


def note(model: onnx.ModelProto, *found: Remark | Entry) -> None:
    """Put remarks into the model, instead of others with their keys."""
    for key, value in (remark.value if isinstance(remark, Remark) else remark for remark in found):
        others = [entry for entry in model.metadata_props if entry.key != key]
        del model.metadata_props[:]
        model.metadata_props.extend(others)
        model.metadata_props.add(key=key, value=value)
