"""Arguments for what is computed row by row; of the standard library only, as commands are that load numpy late."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """--stream-rows, --push-rows and --io."""
    parser.add_argument(
        "--stream-rows",
        default="auto",
        metavar="LAYERS",
        help="layers that are computed row by row: auto (as few as --ram asks for), never, or such as l00-l08,l09-l12",
    )
    parser.add_argument("--push-rows", action="store_true", help="the caller pushes the input row by row")
    parser.add_argument(
        "--io", choices=("caller", "arena"), default="caller", help="whether input and output lie in the arena"
    )
