"""Run samples through the float model and record the range of every tensor.

The result is JSON that can be read, kept, edited, and given to `quantize --ranges`.

    python -m nnbuild calibrate kws.onnx --calibration kws_calib.npz -o kws.ranges.json
"""

from __future__ import annotations

import argparse

from nnbuild.commands import model_arguments
from nnbuild.errors import ConfigError
from nnbuild.files import write_text
from nnbuild.importer import import_model
from nnbuild.onnxfile import is_qdq
from nnbuild.pipeline import calibrated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `calibrate`."""
    model_arguments.add_model(parser)
    model_arguments.add_calibration(parser)
    parser.add_argument("-o", "--output", required=True, metavar="m.ranges.json")


def run(arguments: argparse.Namespace) -> int:
    """Import, calibrate and write."""
    request = model_arguments.request(arguments)
    model = import_model(request.model, request.input_shapes, states=request.states, stream=request.stream)
    if is_qdq(model):
        raise ConfigError("the model is already quantized: there is nothing to calibrate", request.model)
    write_text(arguments.output, calibrated(request, model).to_json())
    return 0
