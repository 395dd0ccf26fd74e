"""Arguments that make a model a stream; of the standard library only, as commands are that load numpy late."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """--stream-axis and --stream-frames."""
    parser.add_argument(
        "--stream-axis", type=int, metavar="AXIS", help="of the input, which is time: a call takes only new frames"
    )
    parser.add_argument(
        "--stream-frames", type=int, metavar="N", help="new frames of a call (default: as few as strides allow)"
    )
