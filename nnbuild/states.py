"""States that recurrent layers keep from one inference to the next."""

from __future__ import annotations

import onnx

from nnbuild.remarks import Remark, note, remarked

KEEP = "keep"

RECURRENT = {"LSTM": {5: 1, 6: 2}, "GRU": {5: 1}, "RNN": {5: 1}}
"""By ONNX type: which input each state starts from, and the output that it is afterwards."""


def keeps_states(model: onnx.ModelProto) -> bool:
    """Whether the recurrent layers of `model` keep their states."""
    return remarked(model, Remark.KEEPS_STATES)


def keep_states(model: onnx.ModelProto) -> None:
    """Say in `model` that its recurrent layers keep their states."""
    note(model, Remark.KEEPS_STATES)
