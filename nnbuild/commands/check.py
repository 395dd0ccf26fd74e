"""Does a model fit a microcontroller, and what would make it fit: judged by its shapes, in seconds.

Float models and int8 QDQ models; no SCons, compiler, calibration data or weights are needed. Exit status: 0 where
every model fits, 1 where one misses a limit, 2 where one cannot be judged.

    python -m nnbuild check models/*.onnx --cpu cortex-m0 --flash 100K --ram 12K --latency "100ms @ 48MHz, 1ws"
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from nnbuild.commands import rows_arguments, stream_arguments
from nnbuild.latency import MUL_CYCLES
from nnbuild.option_values import GOALS
from nnbuild.target import TARGETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `check`."""
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--cpu", required=True, help=f"core to judge for: {', '.join(TARGETS)}")
    parser.add_argument("--flash", metavar="64K", help="the most that weights and code may take; K is 1024")
    parser.add_argument("--ram", metavar="16K", help="the most that the arena may take")
    parser.add_argument("--latency", metavar="'2ms @ 48MHz, 1ws'", help="the most that one inference may last")
    parser.add_argument("--latency-strict", action="store_true", help="judge cores without documented timings too")
    parser.add_argument("--mul-cycles", type=int, choices=MUL_CYCLES, default=1, help="cycles of MULS on ARMv6-M")
    parser.add_argument(
        "--input-shape", action="append", default=[], metavar="NAME=1,3,32,32",
        help="shape of an input that a model leaves open, batch (1) included; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--states", action="append", default=[], metavar="keep|INPUT=OUTPUT", help="as in `quantize`; repeatable"
    )
    stream_arguments.add(parser)
    parser.add_argument("--input-layout", choices=["NHWC"], default="", help="take NCHW inputs channels last")
    parser.add_argument("--fully-connected", choices=("per_channel", "per_tensor"), default="per_channel")
    parser.add_argument(
        "--int16", action="append", default=[], metavar="LAYER|auto", help="values of 16 bits as in a build; repeatable"
    )
    parser.add_argument("--cmsis-nn", metavar="DIR", help="the firmware's CMSIS-NN: a checkout or an unpacked pack")
    parser.add_argument("--backend", choices=("auto", "direct", "cmsis_nn"), default="auto", help="whose kernels")
    parser.add_argument("--optimize", choices=GOALS, default="balanced", help="as in a build")
    rows_arguments.add(parser)
    parser.add_argument("--no-advice", action="store_true", help="do not look for changes that would fit")
    parser.add_argument("--json", action="store_true", help="print the answers as a JSON list")


def run(arguments: argparse.Namespace) -> int:
    """Judge each model, print, and say by the exit status how it went."""
    import json

    import nnbuild
    from nnbuild.commands.model_arguments import shapes, states
    from nnbuild.errors import NNBuildError

    found: list[Any] = []
    said: list[str] = []  # what is wrong with an argument is so for every model
    for path in arguments.models:
        try:
            found.append(
                nnbuild.check(
                    path,
                    cpu=arguments.cpu,
                    flash=arguments.flash,
                    ram=arguments.ram,
                    latency=arguments.latency,
                    latency_strict=arguments.latency_strict,
                    mul_cycles=arguments.mul_cycles,
                    input_shape=shapes(arguments.input_shape),
                    states=states(arguments.states),
                    stream_axis=arguments.stream_axis,
                    stream_frames=arguments.stream_frames,
                    input_layout=arguments.input_layout,
                    fully_connected=arguments.fully_connected,
                    int16=arguments.int16,
                    cmsis_nn=arguments.cmsis_nn,
                    backend=arguments.backend,
                    optimize=arguments.optimize,
                    io=arguments.io,
                    stream_rows=arguments.stream_rows,
                    push_rows=arguments.push_rows,
                    advise=not arguments.no_advice,
                )
            )
        except NNBuildError as error:
            if str(error) not in said:
                print(error, file=sys.stderr)
            said.append(str(error))
            continue
        if not arguments.json:
            print(found[-1], flush=True)
    if arguments.json:
        print(json.dumps([each.data() for each in found], indent=1))
    return 2 if said else 0 if all(each.fits for each in found) else 1
