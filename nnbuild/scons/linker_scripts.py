"""The linker script of a budget, and the files that it INCLUDEs: an image depends on all of them."""

from __future__ import annotations

import os
from typing import Any

import SCons.Node.FS
import SCons.Util

from nnbuild.errors import ConfigError
from nnbuild.report import linkerscript
from nnbuild.scons import run


def script(env: Any, value: Any, where: str) -> Any:
    """The node of `linker_script=`, None where there is none. ConfigError for what is no file."""
    while SCons.Util.is_List(value) and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        return None
    if isinstance(value, SCons.Node.FS.Base) and not isinstance(value, SCons.Node.FS.Dir):
        return _present(env, value)
    if not run.is_path(value):
        raise ConfigError(f"linker_script must be one file, not {value!r}", where)
    text = os.fspath(value)
    if isinstance(entry := env.Entry(text), SCons.Node.FS.Dir) or os.path.isdir(entry.srcnode().get_abspath()):
        raise ConfigError("is a folder, not a linker script", run.path(entry))
    return _present(env, env.File(text))


def _present(env: Any, node: Any) -> Any:
    """`node`, unless it is missing and nothing builds it."""
    if not node.is_derived() and not node.rexists() and not env.GetOption("clean"):
        hint = "declare what builds it before env.NNBudget"
        raise ConfigError("no such linker script, and nothing builds it", run.path(node), hint)
    return node


def dependencies(env: Any, node: Any) -> list[Any]:
    """Script `node` and what it INCLUDEs, as far as it is there already; a script that is built stands for itself."""
    path = node.srcnode().get_abspath()
    if node.is_derived() or not os.path.isfile(path):
        return [node]
    return [node, *(env.File(run.literal(file)) for file in linkerscript.included(path))]
