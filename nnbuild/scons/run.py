"""Running nnbuild's commands from SCons: `$NNPYTHON -m nnbuild ...` as an argument list, never through a shell."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import SCons.Action
import SCons.Errors
import SCons.Node.FS
import SCons.Subst
import SCons.Util

from nnbuild.errors import ConfigError
from nnbuild.scons import boundary

PACKAGE = Path(__file__).resolve().parent.parent

Targets = Sequence[Any]
Arguments = Callable[[Targets, Targets, Any], Sequence[Any]]
After = Callable[[Targets, int], None]


def words(env: Any, text: str, target: Sequence[Any] = (), source: Sequence[Any] = ()) -> list[str]:
    """`text` with its variables substituted, as the argument list of one command; an element of a list stays whole."""
    lines = env.subst_list(text, SCons.Subst.SUBST_CMD, list(target), list(source))
    return [str(word) for line in lines for word in line]


def literal(word: Any) -> str:
    """`word` as an argument that substitution leaves alone."""
    return str(word).replace("$", "$$")


def path(node: Any) -> str:
    """The path of `node` as a command sees it, which runs in the top folder; of the original of a copy in a variant.

    `str(node)` is relative to the SConscript while that is being read.
    """
    real = node if node.is_derived() else node.srcnode()
    return str(real.get_path(SCons.Node.FS.get_default_fs().Top))


def is_path(value: Any) -> bool:
    """Whether `value` is the text of a path; every node of SCons says that it is PathLike, an Alias and a Value too."""
    return SCons.Util.is_String(value) or (isinstance(value, os.PathLike) and not isinstance(value, SCons.Node.Node))


def one_file(env: Any, value: Any, name: str, where: str) -> Any:
    """The node of the file that a variable or argument `name` names, None for none. ConfigError for anything else."""
    while SCons.Util.is_List(value) and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        return None
    if isinstance(value, SCons.Node.FS.Base) and not isinstance(value, SCons.Node.FS.Dir):
        return value
    if not is_path(value):
        raise ConfigError(f"{name} must be one file, not {value!r}", where)
    entry = env.Entry(os.fspath(value))
    if isinstance(entry, SCons.Node.FS.Dir) or os.path.isdir(entry.srcnode().get_abspath()):
        raise ConfigError(f"{name} must be a file, and this is a folder", path(entry))
    return env.File(os.fspath(value))


def environment(env: Any) -> dict[str, str]:
    """The variables of a command: `$ENV`, and PYTHONPATH so that it finds this very package in a checkout."""
    variables = {}
    for name, value in env["ENV"].items():
        parts = value if SCons.Util.is_List(value) else [value]
        variables[str(name)] = os.pathsep.join(str(part) for part in parts)
    variables["PYTHONSAFEPATH"] = "1"  # a module in the firmware's folder is not ours
    home = PACKAGE.parent
    # Where pip has put the package, its folder holds everybody's packages: of no use to another Python, and harmful.
    if home.name not in ("site-packages", "dist-packages"):
        path = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = f"{home}{os.pathsep}{path}" if path else str(home)
    return variables


def run(env: Any, command: Sequence[str]) -> int:
    """Run `command`; its exit status. What it prints goes where scons prints. ConfigError where it cannot be run."""
    if not command:
        raise ConfigError("there is no command to run", hint="set NNPYTHON")
    words, arguments = _within_limit(env, list(command))
    try:
        return subprocess.run(words, env=environment(env), check=False).returncode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot run '{command[0]}': {reason}", hint="set NNPYTHON") from None
    finally:
        if arguments:
            os.unlink(arguments)


def _within_limit(env: Any, command: list[str]) -> tuple[list[str], str]:
    """`command`, and "" or the file that its arguments are in because they are longer than `$MAXLINELENGTH`.

    SCons' own TEMPFILE puts all words but the first into a file, which Python does not read.
    """
    limit = env.subst("$MAXLINELENGTH")
    too_long = limit.isdecimal() and len(subprocess.list2cmdline(command)) > int(limit)
    if not too_long or "nnbuild" not in command:
        return command, ""
    behind = command.index("nnbuild") + 1
    folder = env.subst("$TEMPFILEDIR") or None
    if folder:
        os.makedirs(folder, exist_ok=True)
    handle, path = tempfile.mkstemp(prefix="nnbuild-", suffix=".json", dir=folder)
    with os.fdopen(handle, "wb") as stream:
        stream.write(json.dumps(command[behind:]).encode())
    return [*command[:behind], f"@{path}"], path


def failure(status: int, reason: str, line: str) -> SCons.Errors.BuildError:
    """What SCons prints behind `scons: *** [target]`, with the user's line of this target.

    Without a reason the command has printed what is wrong, one line for each finding.
    """
    text = reason or f"Error {status}, see above"
    declared = f"; declared in {line}" if line else ""
    return SCons.Errors.BuildError(errstr=text + declared, status=status, exitstatus=2)


def action(variable: str, arguments: Arguments | None = None, after: After | None = None) -> Any:
    """An action that runs the command of construction variable `variable` and prints `<variable>STR`.

    `arguments` computes `$NN_ARGUMENTS` when the command runs; without it they come from the environment, and the
    command is part of the target's signature. `after` is called with the targets and the exit status, whatever happens.
    """

    def command(target: Sequence[Any], source: Sequence[Any], env: Any) -> list[str]:
        if arguments is not None:
            env = env.Override({"NN_ARGUMENTS": [literal(word) for word in arguments(target, source, env)]})
        return words(env, f"${variable}", target, source)

    def execute(target: Sequence[Any], source: Sequence[Any], env: Any) -> int:
        status, reason = 1, ""
        try:
            status = run(env, command(target, source, env))
        except ConfigError as error:
            reason = str(error)
        except Exception as error:
            if os.environ.get("NNBUILD_DEBUG"):
                raise
            reason = boundary.unforeseen(error)
        finally:
            if after is not None:
                after(target, status)
        if status:
            raise failure(status, reason, boundary.line_of(target[0]))
        return 0

    def message(target: Sequence[Any], source: Sequence[Any], env: Any, executor: Any = None) -> str:
        short: str = env.subst(f"${{{variable}STR}}", SCons.Subst.SUBST_RAW, target, source)
        return short or shlex.join(command(target, source, env))

    return SCons.Action.Action(execute, strfunction=message, varlist=[variable] if arguments is None else [])
