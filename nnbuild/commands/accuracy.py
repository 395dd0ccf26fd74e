"""Compare the integer network with the float model.

Prints agreement (the share of samples with the float model's arg-max), SQNR in dB, top-1 and its drop where the .npz
has labels `y`, what is taken for what, the worst samples, and what each layer loses, with all before it and alone. The
integers are those of the generated C, compiled for this machine; without a compiler the integer reference computes
the same bytes. The exit status is 1 where a bound is missed. --json keeps the result; --report holds a kept one against
bounds and computes nothing.

    python -m nnbuild accuracy kws.onnx kws.int8.onnx --samples kws_val.npz --min-agreement 97% --max-drop 1%
    python -m nnbuild accuracy --report kws.accuracy.json --min-sqnr 25
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nnbuild import config, option_values
from nnbuild.errors import ConfigError
from nnbuild.files import write_text
from nnbuild.report import budget, hints, render
from nnbuild.report.accuracy import Accuracy, verdicts

if TYPE_CHECKING:
    from nnbuild.host import Program
    from nnbuild.network import Network


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `accuracy`."""
    parser.add_argument("model", nargs="?", metavar="MODEL.onnx", help="the float model")
    parser.add_argument("int8", nargs="?", metavar="m.int8.onnx", help="the same model, quantized")
    parser.add_argument("--samples", help="as --calibration of `quantize`; labels are array 'y'")
    parser.add_argument("--limit", type=_count, metavar="N", help="the first N samples only")
    parser.add_argument("--report", metavar="JSON", help="what --json wrote, instead of models and samples")
    parser.add_argument(
        "--min-agreement",
        type=_parsed(option_values.parse_share),
        metavar="SHARE",
        help="exit with 1 below: 0.97 or 97%%",
    )
    parser.add_argument(
        "--min-sqnr", type=_parsed(option_values.parse_decibel), metavar="DB", help="exit with 1 below this SQNR"
    )
    parser.add_argument(
        "--max-drop",
        type=_parsed(option_values.parse_loss),
        metavar="SHARE",
        help="exit with 1 where top-1 loses more: 0.01 or 1%%",
    )
    integers = parser.add_mutually_exclusive_group()
    integers.add_argument("--host-cc", metavar="'CC FLAGS'", help="the compiler of this machine (default: cc)")
    integers.add_argument("--program", metavar="FILE", help="what `host` made of the int8 model, instead of compiling")
    integers.add_argument("--reference", action="store_true", help="nothing is compiled: the integers of the reference")
    parser.add_argument("--json", metavar="FILE", help="write the result, with every layer, as JSON")
    parser.add_argument("--summary", action="store_true", help="print one line")
    parser.add_argument("--name", help="what the layers' names begin with (default: from the file's name)")
    parser.add_argument("--input-layout", choices=["NHWC"], default="", help="as in `emit`")
    parser.add_argument("--rounding", choices=["double", "single"], default="double", help="as in `emit`")
    parser.add_argument(
        "--input-shape", action="append", default=[], metavar="NAME=1,3,32,32", help="as in `quantize`; repeatable"
    )
    parser.add_argument(
        "--states", action="append", default=[], metavar="keep|INPUT=OUTPUT", help="as in `quantize`; repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure or read, write, print, hold against the bounds."""
    if arguments.report is not None:
        if arguments.model is not None or arguments.samples is not None or arguments.json is not None:
            raise ConfigError("--report goes with neither models, --samples nor --json", arguments.report)
        result = Accuracy.read(arguments.report)
    elif arguments.int8 is None or arguments.samples is None:
        raise ConfigError("accuracy takes MODEL.onnx m.int8.onnx --samples, or --report")
    else:
        result = _measured(arguments)
    if arguments.json is not None:
        write_text(arguments.json, result.to_json())
    if arguments.report is None:
        print(_line(result) if arguments.summary else _table(result), flush=True)
    bounds = {kind: getattr(arguments, option) for kind, option in config.BOUNDS.items()}
    held = verdicts(result, {kind: bound for kind, bound in bounds.items() if bound is not None})
    print("".join(f"{line}\n" for line in budget.failure_table(held)), end="", flush=True)
    budget.check(held, arguments.report or arguments.int8)
    return 0


def _measured(arguments: argparse.Namespace) -> Accuracy:
    # Products of small matrices gain nothing by more threads, which take the time of other commands of a build. Once
    # numpy is loaded it is too late.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from nnbuild import samples
    from nnbuild.accuracy import measure
    from nnbuild.commands import model_arguments
    from nnbuild.importer import import_model
    from nnbuild.onnxfile import is_qdq
    from nnbuild.pipeline import input_shapes

    states = model_arguments.states(arguments.states)
    model = import_model(arguments.model, model_arguments.shapes(arguments.input_shape), states=states)
    if is_qdq(model):
        hint = "leave validation out; `python -m nnbuild accuracy` compares with the float model that it was made from"
        raise ConfigError("this model is quantized: there is no float model to compare with", arguments.model, hint)
    int8 = import_model(arguments.int8)
    if not is_qdq(int8):
        raise ConfigError("this model is not quantized", arguments.int8)
    name = arguments.name or config.default_name(arguments.int8)
    with tempfile.TemporaryDirectory(prefix="nnbuild-") as folder:
        return measure(
            model,
            int8,
            samples.load(arguments.samples, input_shapes(model)),
            arguments.limit,
            arguments.int8,
            name,
            arguments.input_layout,
            arguments.rounding == "single",
            _program(arguments, name, folder),
        )


def _program(arguments: argparse.Namespace, name: str, folder: str) -> Callable[[Network], Program] | None:
    """What gives the network as a program, compiled in `folder` unless there is one; None for the reference."""
    from nnbuild import host

    if arguments.program is not None:
        return lambda network: host.Program.of(arguments.program, network)
    words = None if arguments.reference else host.compiler(arguments.host_cc)
    if words is None:
        return None

    def compiled(network: Network) -> Program:
        path = Path(folder) / name
        host.build(network, name, words, path)
        return host.Program.of(path, network)

    return compiled


def _line(result: Accuracy) -> str:
    agreement = "" if result.agreement is None else f"agreement {result.agreement:.2f} %, "
    return f"{result.name}: {agreement}SQNR {result.sqnr_db:.2f} dB over {result.samples} samples"


def _table(result: Accuracy) -> str:
    lines = [f"samples    {result.samples}, by {result.evaluated_by}"]
    if result.agreement is not None:
        lines.append(f"agreement  {result.agreement:.2f} %")
    lines.append(f"SQNR       {result.sqnr_db:.2f} dB")
    if result.top1 is not None and result.top1_float is not None:
        lines.append(
            f"top-1      {result.top1:.2f} % (float {result.top1_float:.2f} %), a drop of {result.drop:.2f} points"
        )
    found = asdict(result)
    lines += [
        f"{head:<10} {text}"
        for head, text in (("int8 says", render.confused(found)), ("worst", render.worst(found)))
        if text
    ]
    lines += [*_layers(result), hints.noise_line(result.layers), hints.alone_line(result.layers)]
    return "\n".join(filter(None, lines))


def _layers(result: Accuracy) -> Iterator[str]:
    """What each layer reaches, in dB."""
    width = max((len(layer.name) for layer in result.layers), default=0)
    head = f"layers of {result.layer_samples} samples"
    yield f"{head:<{width}}   SQNR dB   alone dB  saturation"
    for layer in result.layers:
        if layer.sqnr_db is not None:
            yield f"{layer.name:<{width}}{layer.sqnr_db:>10.2f}{layer.isolated_db:>11.2f}{layer.saturation:>10.1f} %"


def _parsed(parse: Callable[[str], float]) -> Callable[[str], float]:
    """An argument's type; what it takes is said as an option says it."""

    def value(text: str) -> float:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value
