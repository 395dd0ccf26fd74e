"""What the build says of the chip's timing: construction variables, as arguments of the commands `emit` and `size`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnbuild.errors import ConfigError
from nnbuild.latency import MAX_WAIT_STATES, MUL_CYCLES
from nnbuild.scons import run


def settle(env: Any, where: str) -> None:
    """Check the variables, and take NN_CYCLES as a path from this SConscript on. ConfigError, at `where`."""
    _number(env, "NN_FLASH_WAIT_STATES", range(MAX_WAIT_STATES + 1), f"0 to {MAX_WAIT_STATES}", where)
    _number(env, "NN_MUL_CYCLES", MUL_CYCLES, "1 or 32", where)
    node = run.one_file(env, env.get("NN_CYCLES"), "NN_CYCLES", where)
    env["NN_CYCLES"] = node or ""
    if node is not None and not node.is_derived() and not node.rexists() and not env.GetOption("clean"):
        hint = "cycles that were measured on the board; leave NN_CYCLES out until there are some"
        raise ConfigError("no such file, and nothing builds it", run.path(node), hint)


def _number(env: Any, name: str, allowed: Any, text: str, where: str) -> int:
    value = str(env.subst(f"${name}")).strip()
    if not value.isdecimal() or int(value) not in allowed:
        raise ConfigError(f"{name} must be {text}, not {env.get(name)!r}", where)
    return int(value)


def chip(env: Any) -> list[str]:
    """The variables, as arguments of `size` and `emit`."""
    return ["--wait-states", env.subst("$NN_FLASH_WAIT_STATES"), "--mul-cycles", env.subst("$NN_MUL_CYCLES")]


def arguments(env: Any, limits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those for the models whose options `limits` holds by name."""
    words = chip(env)
    if env.get("NN_CYCLES"):
        words += ["--cycles", run.path(env["NN_CYCLES"])]
    for name, options in sorted(limits.items()):
        if "latency" in options:
            words += ["--latency", f"{name}={options['latency']}"]
            words += ["--latency-strict", name] if options.get("latency_strict") else []
    return words


def dependencies(env: Any) -> list[Any]:
    """What makes a check run again: the variables, and the contents of NN_CYCLES."""
    measured = [env["NN_CYCLES"]] if env.get("NN_CYCLES") else []
    return [env.Value(f"chip {env.subst('$NN_FLASH_WAIT_STATES $NN_MUL_CYCLES')}"), *measured]
