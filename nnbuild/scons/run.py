"""Running nnbuild's commands from SCons: `$NNPYTHON -m nnbuild ...` as an argument list, never through a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import SCons.Action
import SCons.Errors
import SCons.Node.FS
import SCons.Subst
import SCons.Util

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


def environment(env: Any) -> dict[str, str]:
    """The variables of a command: `$ENV`, and PYTHONPATH so that it finds this very package in a checkout."""
    variables = {}
    for name, value in env["ENV"].items():
        parts = value if SCons.Util.is_List(value) else [value]
        variables[str(name)] = os.pathsep.join(str(part) for part in parts)
    home = PACKAGE.parent
    # Where pip has put the package, its folder holds everybody's packages: of no use to another Python, and harmful.
    if home.name not in ("site-packages", "dist-packages"):
        path = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = f"{home}{os.pathsep}{path}" if path else str(home)
    return variables


def run(env: Any, command: Sequence[str]) -> int:
    """Run `command`; its exit status. What it prints goes where scons prints."""
    try:
        return subprocess.run(list(command), env=environment(env), check=False).returncode
    except OSError as error:
        raise SCons.Errors.BuildError(
            errstr=f"cannot run '{command[0]}': {error.strerror}; hint: set NNPYTHON", status=1, exitstatus=2
        ) from None


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
        status = 1
        try:
            status = run(env, command(target, source, env))
        finally:
            if after is not None:
                after(target, status)
        return status

    def message(target: Sequence[Any], source: Sequence[Any], env: Any, executor: Any = None) -> str:
        short: str = env.subst(f"${{{variable}STR}}", SCons.Subst.SUBST_RAW, target, source)
        return short or shlex.join(command(target, source, env))

    return SCons.Action.Action(execute, strfunction=message, varlist=[variable] if arguments is None else [])
