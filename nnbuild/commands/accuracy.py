"""Compare the integer network with the float model.

Prints agreement (the share of samples with the float model's arg-max), SQNR in dB, and top-1 where the .npz has labels
`y`. The integer side is the reference that the generated C equals bit for bit.

    python -m nnbuild accuracy kws.onnx kws.int8.onnx --samples kws_val.npz --min-agreement 0.97
"""

from __future__ import annotations

import argparse

from nnbuild import samples
from nnbuild.accuracy import Accuracy, measure
from nnbuild.commands import model_arguments
from nnbuild.errors import BudgetError, ConfigError
from nnbuild.folding import is_qdq
from nnbuild.importer import import_model
from nnbuild.pipeline import input_shapes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `accuracy`."""
    model_arguments.add_model(parser)
    parser.add_argument("int8", metavar="m.int8.onnx")
    parser.add_argument("--samples", required=True, help="as --calibration of `quantize`; labels are array 'y'")
    parser.add_argument("--limit", type=_positive, metavar="N", help="the first N samples only")
    parser.add_argument("--min-agreement", type=float, metavar="SHARE", help="exit with 1 below this share")
    parser.add_argument("--min-sqnr", type=float, metavar="DB", help="exit with 1 below this SQNR")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, hold against the limits."""
    model = import_model(arguments.model, model_arguments.shapes(arguments.input_shape))
    if is_qdq(model):
        raise ConfigError("this model is quantized: there is no float model to compare with", arguments.model)
    int8 = import_model(arguments.int8)
    if not is_qdq(int8):
        raise ConfigError("this model is not quantized", arguments.int8)
    result = measure(model, int8, samples.load(arguments.samples, input_shapes(model)), arguments.limit, arguments.int8)
    print(_report(result))
    _check(result, arguments)
    return 0


def _report(result: Accuracy) -> str:
    lines = [
        f"samples    {result.samples}",
        f"agreement  {100 * result.agreement:.2f} %",
        f"SQNR       {result.sqnr:.2f} dB",
    ]
    if result.top1 is not None and result.top1_float is not None:
        lines.append(f"top-1      {100 * result.top1:.2f} % (float {100 * result.top1_float:.2f} %)")
    return "\n".join(lines)


def _check(result: Accuracy, arguments: argparse.Namespace) -> None:
    if arguments.min_agreement is not None and result.agreement < arguments.min_agreement:
        message = f"agreement is {result.agreement:.4f}, less than {arguments.min_agreement}"
        raise BudgetError(message, arguments.int8, "calibrate with more, or more typical, samples")
    if arguments.min_sqnr is not None and result.sqnr < arguments.min_sqnr:
        message = f"SQNR is {result.sqnr:.2f} dB, less than {arguments.min_sqnr}"
        raise BudgetError(message, arguments.int8, "calibrate with more, or more typical, samples")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value
