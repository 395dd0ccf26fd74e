"""States that recurrent layers keep from one inference to the next.

A model says that they do in its metadata, since ONNX itself has no word for it; everything else about it stays
standard ONNX, and every runtime computes one inference of it from the start.
"""

from __future__ import annotations

import onnx

KEY = "nnbuild.states"
KEEP = "keep"

RECURRENT = {"LSTM": {5: 1, 6: 2}, "GRU": {5: 1}, "RNN": {5: 1}}
"""By ONNX type: which input each state starts from, and the output that it is afterwards."""


def keeps_states(model: onnx.ModelProto) -> bool:
    """Whether the recurrent layers of `model` keep their states."""
    return any(entry.key == KEY and entry.value == KEEP for entry in model.metadata_props)


def keep_states(model: onnx.ModelProto) -> None:
    """Say in `model` that its recurrent layers keep their states."""
    if not keeps_states(model):
        model.metadata_props.add(key=KEY, value=KEEP)
