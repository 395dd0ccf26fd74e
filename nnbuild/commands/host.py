"""Compile the network as a program of this machine, which reads int8 inputs and writes outputs.

`accuracy` makes one for itself; a build keeps it, so that other samples compile nothing. It holds portable C, whatever
the firmware's core is: all kernels compute the same bytes.

    python -m nnbuild host kws.int8.onnx -o kws.host
    ./kws.host < inputs.bin > outputs.bin
"""

from __future__ import annotations

import argparse

from nnbuild import config
from nnbuild.commands import network_arguments
from nnbuild.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `host`."""
    network_arguments.add_model(parser)
    parser.add_argument("--name", help="prefix of its symbols (default: from the file's name)")
    parser.add_argument("--host-cc", metavar="'CC FLAGS'", help="the compiler of this machine (default: cc)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """Compile it."""
    from nnbuild import host

    words = host.compiler(arguments.host_cc)
    if words is None:
        raise ConfigError("there is no compiler for this machine", hint="name one with --host-cc")
    name = arguments.name or config.default_name(arguments.model)
    host.build(network_arguments.network(arguments), name, words, arguments.output)
    return 0
