"""Read an .onnx, simplify it, fix its shapes.

Folds constants and BatchNormalization, merges padding and clamps, drops what does nothing, sets the batch to 1, and
brings every supported operator into the one form that the later stages know. The result computes what the model
computed. A model that holds QuantizeLinear nodes keeps every number.

    python -m nnbuild import kws.onnx -o kws.float.onnx
"""

from __future__ import annotations

import argparse

from nnbuild.commands import model_arguments
from nnbuild.files import write_bytes
from nnbuild.importer import import_model
from nnbuild.pipeline import serialized


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `import`."""
    model_arguments.add_model(parser)
    parser.add_argument("-o", "--output", required=True, metavar="m.float.onnx")


def run(arguments: argparse.Namespace) -> int:
    """Import and write."""
    model = import_model(
        arguments.model,
        model_arguments.shapes(arguments.input_shape),
        states=model_arguments.states(arguments.states),
        stream=model_arguments.stream(arguments),
    )
    write_bytes(arguments.output, serialized(model))
    return 0
