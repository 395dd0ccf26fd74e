"""`scons nn-size` and its like, where no model gives them anything to do: a reason instead of "Do not know how"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import SCons.Action
import SCons.Errors
import SCons.Script

from nnbuild.errors import ConfigError

_IDLE = {
    "nn-size": ("no program has a model", "list what env.NNModel returned in env.Program, or call env.NNBudget"),
    "nn-report": ("no program has a model", "list what env.NNModel returned in env.Program, or call env.NNBudget"),
    "nn-baseline": (
        "no image has a baseline",
        "set NN_BASELINE='size-baseline.json' and call env.NNBudget on the program",
    ),
    "nn-freeze": ("no model is frozen", "give env.NNModel frozen='models/kws.int8.onnx'"),
}
_EXPLAINED: set[str] = set()


def explain(env: Any) -> None:
    """Let those that scons was asked for say why there is nothing to do, if nothing joins them."""
    for name in _IDLE:
        if name in SCons.Script.COMMAND_LINE_TARGETS and name not in _EXPLAINED:
            _EXPLAINED.add(name)
            reason = env.Alias(f"{name}:", [], SCons.Action.Action(_say, strfunction=None))
            env.AlwaysBuild(reason)
            env.Alias(name, reason)


def _say(target: Sequence[Any], source: Sequence[Any], env: Any) -> int:
    name = target[0].name.removesuffix(":")
    (alias,) = env.Alias(name)
    if len(alias.children()) > 1:
        return 0
    problem, hint = _IDLE[name]
    raise SCons.Errors.BuildError(errstr=str(ConfigError(problem, "", hint)), exitstatus=2)
