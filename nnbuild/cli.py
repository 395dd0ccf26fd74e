"""`python -m nnbuild <command>`: one module of `nnbuild.commands` for each, imported only when it is asked for.

A command module has a docstring (its help), `add_arguments(parser)` and `run(arguments) -> int` (the exit status).
`python -m nnbuild @arguments.json` reads all arguments from a file, a JSON list of texts: for systems where a command
must be short.
"""

from __future__ import annotations

import argparse
import importlib
import json
import keyword
import os
import sys

from nnbuild import __version__
from nnbuild.errors import ConfigError, Finding, NNBuildError

COMMANDS: dict[str, str] = {
    "check": "does a model fit a microcontroller, judged by its shapes; what would make it fit",
    "import": "read an .onnx, simplify it, fix its shapes",
    "calibrate": "run samples through the float model and record the range of every tensor",
    "quantize": "float .onnx + samples -> standard QDQ .onnx in int8",
    "freeze": "quantize into a file to be committed, with its lock",
    "lower": "QDQ .onnx -> integer network",
    "select": "which kernel each layer gets, and why",
    "plan": "where each tensor lives in the arena",
    "emit": "QDQ .onnx -> C source, header, report",
    "export": "models -> a folder of C for builds without SCons and Python",
    "host": "QDQ .onnx -> a program of this machine that runs the network over samples",
    "accuracy": "compare the integer network with the float model",
    "size": "bytes of a linked ELF by region, model and layer; budgets",
    "report": "a size report as page, Markdown or tables, and what changed",
    "baseline": "accept a build: what the growth of later ones is held against",
    "ops": "the operators that nnbuild knows",
    "cmsis-nn": "which CMSIS-NN there is, and what it serves; --fetch gets one",
}


PACKAGES = frozenset(("numpy", "onnx", "onnxruntime", "jinja2", "elftools"))
"""What commands import; SCons may run in a Python that lacks them."""


def _module(command: str) -> str:
    return f"{command}_" if keyword.iskeyword(command) else command.replace("-", "_")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    What a user caused prints one line for each finding and returns 1. Anything else is a fault of nnbuild: one line
    that says so and returns 3, or the traceback where NNBUILD_DEBUG is set.
    """
    try:
        return _run(_from_file(sys.argv[1:] if argv is None else argv))
    except NNBuildError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        print(Finding("there is not enough memory for this"), file=sys.stderr)
        return 1
    except Exception as error:
        if os.environ.get("NNBUILD_DEBUG"):
            raise
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in PACKAGES:
            hint = "`pip install .` in nnbuild's checkout installs it; NNPYTHON names another Python to SCons"
            print(Finding(f"this Python has no package '{error.name}'", sys.executable, hint), file=sys.stderr)
            return 1
        hint = "this is a fault of nnbuild; NNBUILD_DEBUG=1 shows where, please report it"
        print(Finding(f"internal error: {type(error).__name__}: {error}", hint=hint), file=sys.stderr)
        return 3


def _from_file(arguments: list[str]) -> list[str]:
    """What `@file` alone stands for; any other arguments as they are."""
    if len(arguments) != 1 or not arguments[0].startswith("@"):
        return arguments
    path = arguments[0][1:]
    try:
        with open(path, encoding="utf-8") as stream:
            words = json.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}", path) from None
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ConfigError("must be a JSON list of texts", path)
    return words


def _run(arguments: list[str]) -> int:
    parser = _parser(arguments)
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help(sys.stderr)
        return 2
    return int(parsed.run(parsed))


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """All commands by name; the arguments of the one that is asked for."""
    parser = argparse.ArgumentParser(prog="nnbuild", description="Neural networks as source files of firmware.")
    parser.add_argument("--version", action="version", version=f"nnbuild {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
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
    return parser
