"""`python -m nnbuild <command>`: one module of `nnbuild.commands` for each, imported only when it is asked for.

A command module has a docstring (its help), `add_arguments(parser)` and `run(arguments) -> int` (the exit status).
"""

from __future__ import annotations

import argparse
import importlib
import keyword
import sys

from nnbuild import __version__
from nnbuild.errors import NNBuildError

COMMANDS: dict[str, str] = {
    "import": "read an .onnx, simplify it, fix its shapes",
    "calibrate": "run samples through the float model and record the range of every tensor",
    "quantize": "float .onnx + samples -> standard QDQ .onnx in int8",
    "freeze": "quantize into a file to be committed, with its lock",
    "lower": "QDQ .onnx -> integer network",
    "select": "which kernel each layer gets, and why",
    "plan": "where each tensor lives in the arena",
    "emit": "QDQ .onnx -> C source, header, report",
    "accuracy": "compare the integer network with the float model",
    "size": "bytes of a linked ELF by region, model and layer; budgets",
    "ops": "the operators that nnbuild knows",
}


def _module(command: str) -> str:
    return f"{command}_" if keyword.iskeyword(command) else command


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of the user print one line each and return 1."""
    parser = argparse.ArgumentParser(prog="nnbuild", description="Neural networks as source files of firmware.")
    parser.add_argument("--version", action="version", version=f"nnbuild {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    arguments = sys.argv[1:] if argv is None else argv
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == chosen:
            module = importlib.import_module(f"nnbuild.commands.{_module(name)}")
            sub = commands.add_parser(
                name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
            )
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
        else:
            commands.add_parser(name, help=summary)
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except NNBuildError as error:
        print(error, file=sys.stderr)
        return 1
