"""Lower a QDQ model to the integer network and write it as readable JSON (constants by their SHA-256)."""

from __future__ import annotations

import argparse
import sys

from nnbuild.commands import network_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nnbuild lower`."""
    network_arguments.add_model(parser)
    parser.add_argument("-o", "--output", help="m.network.json (default: print)")


def run(arguments: argparse.Namespace) -> int:
    """Write or print the network."""
    from nnbuild.files import write_text

    text = network_arguments.network(arguments).to_json()
    if arguments.output:
        write_text(arguments.output, text)
    else:
        sys.stdout.write(text)
    return 0
