"""What the back-end commands share: reading an int8 model, and naming the core."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from nnbuild import cmsis_nn
from nnbuild.errors import ConfigError
from nnbuild.latency import MAX_WAIT_STATES, MUL_CYCLES, parse_latency
from nnbuild.network import Network
from nnbuild.optimize import Aim
from nnbuild.option_values import GOALS, parse_size
from nnbuild.ram import streaming, wall
from nnbuild.ram.rows import Segment
from nnbuild.ram.streaming import Made, Setup
from nnbuild.selection import BACKENDS
from nnbuild.target import TARGETS, Target, named, of_compiler

T = TypeVar("T")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model and how its input lies in memory."""
    parser.add_argument("model", metavar="MODEL.int8.onnx", help="a QDQ model, as `nnbuild quantize` writes it")
    add_lowering(parser)


def add_lowering(parser: argparse.ArgumentParser) -> None:
    """How an int8 model becomes a network."""
    parser.add_argument("--input-layout", choices=["NHWC"], default="", help="take NCHW inputs channels last")
    parser.add_argument(
        "--rounding",
        choices=["double", "single"],
        default="double",
        help="how requantization rounds; single goes with CMSIS_NN_USE_SINGLE_ROUNDING",
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """The core, where its kernels may come from, and pinned kernels."""
    core = parser.add_mutually_exclusive_group()
    core.add_argument("--cpu", help=f"core to generate for (default generic): {', '.join(TARGETS)}")
    core.add_argument("--compiler", metavar="'CC FLAGS'", help="ask this compiler for its core")
    parser.add_argument(
        "--pin", action="append", default=[], metavar="LAYER=KERNEL", help="kernel of one layer, by layer or node name"
    )
    parser.add_argument("--no-assembly", action="store_true", help="all kernels in C, also where there is assembly")
    parser.add_argument("--cmsis-nn", metavar="DIR", help="the firmware's CMSIS-NN: a checkout or an unpacked pack")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="whose kernels: our own (direct), CMSIS-NN's wherever they serve, or what suits the core (auto)",
    )


def add_aim(parser: argparse.ArgumentParser) -> None:
    """What kernels are chosen for."""
    parser.add_argument(
        "--optimize",
        choices=GOALS,
        default="balanced",
        help="the fastest kernels within the limits, the smallest, or both in balance",
    )
    parser.add_argument("--flash", metavar="SIZE", help="the most that the model may take, where kernels allow it: 64K")
    parser.add_argument("--ram", metavar="SIZE", help="the same for its arena: 16K")
    parser.add_argument("--latency", metavar="LIMIT", help="the same for one inference: '2ms @ 48MHz, 1ws'")
    parser.add_argument(
        "--wait-states", type=int, default=0, metavar="N", help="of the flash, where the limit has none"
    )
    parser.add_argument("--mul-cycles", type=int, default=1, choices=MUL_CYCLES, help="of a multiplication on M0, M0+")


def aim(arguments: argparse.Namespace) -> Aim:
    """What `add_aim` asks for."""
    limit = _parsed(parse_latency, arguments.latency, "--latency")
    waits = arguments.wait_states if limit is None or limit.wait_states is None else limit.wait_states
    if not 0 <= waits <= MAX_WAIT_STATES:
        raise ConfigError(f"--wait-states takes 0 to {MAX_WAIT_STATES}, not {waits}")
    flash, ram = (_parsed(parse_size, getattr(arguments, name), f"--{name}") for name in ("flash", "ram"))
    cycles = int(limit.us * limit.mhz) if limit else None
    return Aim(arguments.optimize, flash, ram, cycles, waits, arguments.mul_cycles)


def made(arguments: argparse.Namespace, network: Network, target: Target) -> tuple[Made, list[str]]:
    """A (shrunk) network as it is generated, with its kernels and its memory; what is to be said of its RAM."""
    setup = Setup(target, aim(arguments), pins(arguments), arguments.backend)
    rows = {"rows": arguments.stream_rows, "pushed": arguments.push_rows, "io": arguments.io == "arena"}
    setup = replace(setup, **rows)
    found = streaming.made(network, setup)
    return found, wall.lines(network, setup, found)


def _parsed(parse: Callable[[Any], T], text: str | None, where: str) -> T | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{error.findings[0].message}, not {text!r}", where) from None


def network(arguments: argparse.Namespace, where: str = "") -> Network:
    """The lowered network of `arguments.model`, which messages about its nodes call `where`."""
    from nnbuild.importer import import_model
    from nnbuild.lower import lower

    single = arguments.rounding == "single"
    return lower(import_model(arguments.model, {}), where or arguments.model, arguments.input_layout, single)


def target(arguments: argparse.Namespace) -> Target:
    """The core that `--cpu` names or `--compiler` has, with what `--cmsis-nn` offers."""
    core = of_compiler(shlex.split(arguments.compiler)) if arguments.compiler else named(arguments.cpu or "generic")
    core = replace(core, assembly=not arguments.no_assembly)
    return replace(core, cmsis_nn=cmsis_nn.read(Path(arguments.cmsis_nn))) if arguments.cmsis_nn else core


def pins(arguments: argparse.Namespace) -> dict[str, str]:
    """`--pin` as layer -> kernel."""
    pairs = [pin.rpartition("=") for pin in arguments.pin]
    wrong = [f"{kernel}" for layer, _, kernel in pairs if not layer]
    if wrong:
        raise ConfigError(f"pin '{wrong[0]}' is not LAYER=KERNEL")
    return {layer: kernel for layer, _, kernel in pairs}


def segments(network: Network) -> list[str]:
    """What is said of each segment that goes row by row."""
    return [
        f"{network.layers[own.first].name} to {network.layers[own.last].name} go {_together(own)} "
        f"in {own.length:,} steps: {own.held:,} bytes of rows, "
        f"{own.moved:,} moved{'; the input is pushed' if own.pushed else ''}"
        for own in network.segments
    ]


def _together(own: Segment) -> str:
    return "row by row" if own.way.together == 1 else f"{own.way.together} rows at a time"
