"""Float .onnx and samples -> standard QDQ .onnx in int8, which onnxruntime runs and Netron shows.

Imports, calibrates, quantizes and corrects in one go. With --ranges the ranges are those that `calibrate` wrote, and
samples are only for corrections. A model that already holds QuantizeLinear nodes is taken as it is and needs no
samples. With --frozen nothing is computed: the committed int8 file is copied, once its lock is found to hold for model,
samples and options.

    python -m nnbuild quantize kws.onnx --calibration kws_calib.npz -o kws.int8.onnx
    python -m nnbuild quantize kws.onnx --calibration kws_calib.npz --frozen kws.int8.onnx -o build/kws.int8.onnx
"""

from __future__ import annotations

import argparse

from nnbuild.commands import model_arguments
from nnbuild.files import write_bytes
from nnbuild.freeze import frozen
from nnbuild.pipeline import quantized


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `quantize`."""
    model_arguments.add_model(parser)
    model_arguments.add_calibration(parser)
    model_arguments.add_quantization(parser)
    model_arguments.add_int16(parser)
    parser.add_argument("--frozen", metavar="m.int8.onnx", help="check the lock of this int8 file, and copy it")
    parser.add_argument("-o", "--output", required=True, metavar="m.int8.onnx")


def run(arguments: argparse.Namespace) -> int:
    """Quantize, or check and copy the frozen file, and write."""
    request = model_arguments.request(arguments)
    if arguments.frozen:
        write_bytes(arguments.output, frozen(request, arguments.frozen))
        return 0
    result = quantized(request)
    write_bytes(arguments.output, result.content)
    model_arguments.tell(result.found)
    return 0
