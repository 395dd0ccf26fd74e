"""Arguments that several commands take: the model, its open shapes, the samples."""

from __future__ import annotations

import argparse
import re

from nnbuild import option_values
from nnbuild.calibrate import DEFAULT_METHOD, METHODS
from nnbuild.corrections import NAMES
from nnbuild.errors import ConfigError
from nnbuild.option_values import parse_decibel, parse_share
from nnbuild.pipeline import Request
from nnbuild.precision import Aim
from nnbuild.quantize import FULLY_CONNECTED
from nnbuild.states import KEEP


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, --input-shape and --states."""
    parser.add_argument("model", metavar="MODEL.onnx")
    add_shapes(parser)


def add_shapes(parser: argparse.ArgumentParser) -> None:
    """--input-shape and --states."""
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


def _aim(arguments: argparse.Namespace) -> Aim:
    given = {name: getattr(arguments, name, None) for name in ("min_sqnr", "min_agreement")}
    parsers = {"min_sqnr": parse_decibel, "min_agreement": parse_share}
    return Aim(**{name: None if text is None else parsers[name](text) for name, text in given.items()})


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
        int16=tuple(getattr(arguments, "int16", ())),
        aim=_aim(arguments) if hasattr(arguments, "int16") else Aim(),
    )
