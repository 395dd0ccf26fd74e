"""A size report in other forms: tables on the terminal, a page, Markdown for a pull request.

Reads the fw.size.json that a build writes beside its image, also that of a build which failed its budgets. With
--against it names what changed since another one.

    python -m nnbuild report fw.size.json --html fw.size.html
    python -m nnbuild report fw.size.json --markdown comment.md --against main/fw.size.json
"""

from __future__ import annotations

import argparse
import os
import sys

from nnbuild.report import document, forms, render, terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `report`."""
    parser.add_argument("file", metavar="fw.size.json")
    parser.add_argument("--style", choices=terminal.STYLES, help="of the tables; what suits the terminal if not given")
    forms.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write what is asked for, or print the tables."""
    found = document.read(arguments.file)
    if not forms.write(arguments, found):
        style = terminal.STYLES[arguments.style or terminal.style_for(sys.stdout, os.environ)]
        print(render.as_text(render.title_of(found), found, style), end="")
    return 0
