"""Float .onnx and samples -> standard QDQ .onnx in int8, which onnxruntime runs and Netron shows.

Imports, calibrates and quantizes in one go. With --ranges the ranges come from `calibrate` instead of samples. A model
that already holds QuantizeLinear nodes is taken as it is and needs no samples. With --frozen nothing is computed: the
committed int8 file is copied, once its lock is found to hold for model, samples and options.

    python -m nnbuild quantize kws.onnx --calibration kws_calib.npz -o kws.int8.onnx
    python -m nnbuild quantize kws.onnx --calibration kws_calib.npz --frozen kws.int8.onnx -o build/kws.int8.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnbuild.calibrate import Ranges
from nnbuild.commands import model_arguments
from nnbuild.errors import CalibrationError, ConfigError
from nnbuild.files import write_bytes
from nnbuild.freeze import frozen
from nnbuild.pipeline import quantized


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `quantize`."""
    model_arguments.add_model(parser)
    model_arguments.add_calibration(parser)
    model_arguments.add_quantization(parser)
    model_arguments.add_int16(parser)
    parser.add_argument("--ranges", metavar="m.ranges.json", help="ranges that `calibrate` wrote, instead of samples")
    parser.add_argument("--frozen", metavar="m.int8.onnx", help="check the lock of this int8 file, and copy it")
    parser.add_argument("-o", "--output", required=True, metavar="m.int8.onnx")


def run(arguments: argparse.Namespace) -> int:
    """Quantize, or check and copy the frozen file, and write."""
    request = model_arguments.request(arguments)
    if arguments.ranges and (request.calibration or request.method or arguments.frozen):
        raise ConfigError("--ranges goes with neither --calibration, --method nor --frozen", request.model)
    if arguments.frozen:
        content = frozen(request, arguments.frozen)
    else:
        content = quantized(request, _ranges(arguments.ranges)).content
    write_bytes(arguments.output, content)
    return 0


def _ranges(path: str | None) -> Ranges | None:
    if path is None:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise CalibrationError(f"cannot read: {reason}", path) from None
    return Ranges.from_json(text, path)
