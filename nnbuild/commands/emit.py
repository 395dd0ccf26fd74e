"""Generate C from a QDQ model: <name>.c .h _weights.c _kernels.S .report.json, and _selftest.c with --selftest.

The set of files depends on the options only, never on the model, so a build system knows it before the model is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnbuild.commands import network_arguments, rows_arguments

if TYPE_CHECKING:
    from nnbuild.emit import EmitOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nnbuild emit`."""
    network_arguments.add_model(parser)
    parser.add_argument("--name", required=True, help="the model's name in C")
    parser.add_argument("--output-dir", required=True, metavar="DIR")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the C is generated for, all of it with a default: also for `nnbuild export`."""
    network_arguments.add_target(parser)
    network_arguments.add_aim(parser)
    rows_arguments.add(parser)
    parser.add_argument("--selftest", type=int, default=0, metavar="N", help="samples in <name>_selftest.c")
    parser.add_argument(
        "--arena", choices=["static", "caller", "shared"], default="static", help="who owns the working memory"
    )
    parser.add_argument("--arena-section", default="", metavar="SECTION", help="of the model's own arena")
    parser.add_argument(
        "--arena-align", type=int, default=4, metavar="BYTES", help="multiple of the arena's address and size"
    )
    parser.add_argument("--section", default="", help="of weights and tables")
    parser.add_argument("--raw-input", choices=["u8", "i16"], help="generate <name>_set_input_u8 / _i16")
    parser.add_argument("--raw-input-scale", type=float, default=1.0, help="real = raw * scale + offset")
    parser.add_argument("--raw-input-offset", type=float, default=0.0)


def options(arguments: argparse.Namespace, name: str) -> EmitOptions:
    """What `add_options` asks for, for the model that is called `name` in C."""
    from nnbuild.emit import EmitOptions
    from nnbuild.placement import Placement

    raw = None
    if arguments.raw_input:
        raw = (arguments.raw_input, arguments.raw_input_scale, arguments.raw_input_offset)
    return EmitOptions(
        name=name,
        target=network_arguments.target(arguments),
        selftest=arguments.selftest,
        raw=raw,
        arena=arguments.arena,
        pins=network_arguments.pins(arguments),
        backend=arguments.backend,
        aim=network_arguments.aim(arguments),
        placement=Placement(arguments.section, arguments.arena_section, arguments.arena_align, arguments.io),
        stream_rows=arguments.stream_rows,
        push_rows=arguments.push_rows,
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files."""
    from nnbuild.emit import emit
    from nnbuild.files import write_text

    wanted = options(arguments, arguments.name)
    for name, text in emit(network_arguments.network(arguments), wanted).items():
        write_text(Path(arguments.output_dir) / name, text)
    return 0
