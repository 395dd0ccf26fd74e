"""The linker script of a budget, and the files that it INCLUDEs: an image depends on all of them."""

from __future__ import annotations

import os
from typing import Any

from nnbuild.errors import ConfigError
from nnbuild.report import linkerscript
from nnbuild.scons import run


def script(env: Any, value: Any, where: str) -> Any:
    """The node of `linker_script=`, None where there is none. ConfigError for what is no file."""
    node = run.one_file(env, value, "linker_script", where)
    if node is None:
        return None
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
