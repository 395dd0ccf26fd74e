"""Quantize into a file to be committed, with its lock.

Writes m.int8.onnx and m.int8.lock. A build with --frozen then needs neither onnxruntime nor the samples, gives the same
bytes on every machine, and fails when model, samples or options no longer are what was frozen.

    python -m nnbuild freeze kws.onnx --calibration kws_calib.npz -o kws.int8.onnx
"""

from __future__ import annotations

import argparse

from nnbuild.commands import model_arguments
from nnbuild.freeze import freeze


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `freeze`."""
    model_arguments.add_model(parser)
    model_arguments.add_calibration(parser)
    model_arguments.add_quantization(parser)
    model_arguments.add_int16(parser)
    parser.add_argument("-o", "--output", required=True, metavar="m.int8.onnx")


def run(arguments: argparse.Namespace) -> int:
    """Quantize, write both files, and say what a search found."""
    found = freeze(model_arguments.request(arguments), arguments.output).found
    model_arguments.tell(found)
    return 0
