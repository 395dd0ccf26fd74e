"""Arguments that several commands take: the model, its open shapes, the samples."""

from __future__ import annotations

import argparse
import re

from nnbuild import option_values
from nnbuild.calibrate import DEFAULT_METHOD, METHODS
from nnbuild.commands import stream_arguments
from nnbuild.corrections import NAMES
from nnbuild.errors import ConfigError
from nnbuild.option_values import own_size, parse_decibel, parse_loss, parse_share
from nnbuild.pipeline import Request
from nnbuild.precision_judge import Aim
from nnbuild.precision_report import Found
from nnbuild.quantize import FULLY_CONNECTED
from nnbuild.states import KEEP
from nnbuild.streams.stream import Stream, stream_options


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, --input-shape, --states and --stream-axis."""
    parser.add_argument("model", metavar="MODEL.onnx")
    add_shapes(parser)


def add_shapes(parser: argparse.ArgumentParser) -> None:
    """--input-shape, --states, --stream-axis and --stream-frames."""
    parser.add_argument(
        "--states",
        action="append",
        default=[],
        metavar="keep|INPUT=OUTPUT",
        help="recurrent layers go on where the inference before ended: all, or by their inputs and outputs; repeatable",
    )
    parser.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="NAME=1,3,32,32",
        help="shape of an input that the model leaves open, batch (1) included; repeatable",
    )
    stream_arguments.add(parser)


def stream(arguments: argparse.Namespace) -> Stream | None:
    """What `stream_arguments.add` asks for."""
    return stream_options(arguments.stream_axis, arguments.stream_frames)


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """--calibration and --method."""
    parser.add_argument(
        "--calibration",
        metavar="SAMPLES",
        help=".npz, .npy, a folder of those, or 'calib.py:function'; numbers as the model takes them; 'synthetic': "
        "noise, for a first estimate of sizes",
    )
    parser.add_argument(
        "--method",
        metavar="|".join(METHODS),
        help=f"how a tensor's range follows from the samples (default: {DEFAULT_METHOD})",
    )


def add_quantization(parser: argparse.ArgumentParser) -> None:
    """--ranges, --corrections and --fully-connected."""
    parser.add_argument(
        "--ranges", metavar="m.ranges.json", help="ranges that `calibrate` wrote; samples are for corrections then"
    )
    parser.add_argument(
        "--corrections",
        metavar="none|NAME,...",
        help=f"what may be corrected by the samples (default: {','.join(NAMES)})",
    )
    parser.add_argument(
        "--fully-connected",
        choices=FULLY_CONNECTED,
        help="scales of the weights of Gemm and MatMul (default: per_channel; per_tensor is smaller, less accurate)",
    )


def add_int16(parser: argparse.ArgumentParser) -> None:
    """--int16, and what its search aims at."""
    parser.add_argument(
        "--int16",
        action="append",
        default=[],
        metavar="LAYER|auto",
        help="a layer, node or input whose values have 16 bits, or those that reach the aim below; repeatable",
    )
    parser.add_argument("--min-sqnr", metavar="DB", help="aim of --int16 auto")
    parser.add_argument("--min-agreement", metavar="SHARE", help="aim of --int16 auto")
    parser.add_argument(
        "--max-drop", metavar="SHARE", help="aim of --int16 auto, by labels in array 'y' of the samples"
    )
    parser.add_argument("--ram", metavar="16K", help="the most that may live at once, of what --int16 auto takes")


def _aim(arguments: argparse.Namespace) -> Aim:
    return Aim(
        min_sqnr=None if arguments.min_sqnr is None else parse_decibel(arguments.min_sqnr),
        min_agreement=None if arguments.min_agreement is None else parse_share(arguments.min_agreement),
        max_drop=None if arguments.max_drop is None else parse_loss(arguments.max_drop),
        ram=None if arguments.ram is None else own_size(arguments.ram),
    )


def tell(found: Found | None) -> None:
    """Print what a search for 16 bits found."""
    if found is not None:
        print("\n".join(found.lines()), flush=True)


def shapes(words: list[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1,3,32,32` words as a mapping; a name may hold '='."""
    found: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, equals, text = word.rpartition("=")
        if not equals or not name or not re.fullmatch(r"[1-9]\d{0,8}(,[1-9]\d{0,8})*", text, re.ASCII):
            raise ConfigError(f"--input-shape takes NAME=1,3,32,32, not '{word}'")
        found[name] = tuple(int(dim) for dim in text.split(","))
    return found


def states(words: list[str]) -> str | dict[str, str] | None:
    """`keep` or `INPUT=OUTPUT` words; None for no words. Of several '=' the last one divides."""
    if not words:
        return None
    if words == [KEEP]:
        return KEEP
    pairs = [word.rpartition("=") for word in words]
    wrong = [word for word, (name, _, output) in zip(words, pairs, strict=True) if not name or not output]
    if wrong:
        raise ConfigError(f"--states takes keep or INPUT=OUTPUT, not '{wrong[0]}'")
    return {name: output for name, _, output in pairs}


def request(arguments: argparse.Namespace) -> Request:
    """What the arguments of the functions above ask for."""
    method = arguments.method
    if method is not None and method not in METHODS:
        raise ConfigError(f"unknown method '{method}'", hint=f"one of {', '.join(METHODS)}")
    corrections = getattr(arguments, "corrections", None)
    return Request(
        arguments.model,
        arguments.calibration,
        shapes(arguments.input_shape),
        method,
        getattr(arguments, "fully_connected", None),
        states(arguments.states),
        None if corrections is None else option_values.subset(*NAMES)(corrections),
        getattr(arguments, "ranges", None),
        stream(arguments),
        int16=tuple(getattr(arguments, "int16", ())),
        aim=_aim(arguments) if hasattr(arguments, "int16") else Aim(),
    )
