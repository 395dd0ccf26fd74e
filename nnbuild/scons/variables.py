"""Construction variables of the tool: what begins with NN_ is nnbuild's, and a misspelled name must not be ignored."""

from __future__ import annotations

import os
import re
from typing import Any

import SCons.Node.FS
import SCons.Util

from nnbuild import config
from nnbuild.errors import ConfigError


def check(env: Any, where: str) -> None:
    """ConfigError where a variable of `env` is unknown, misspelled, or not what it must be; `where` is the model."""
    for name in (key for key in env.Dictionary() if key.startswith("NN_")):
        if (reason := config.unknown_variable(name)) is not None:
            raise ConfigError(f"unknown construction variable {name}", where, reason)
    if env.subst("$NN_ASSEMBLY") not in ("True", "False"):
        raise ConfigError(f"NN_ASSEMBLY must be True or False, not {env['NN_ASSEMBLY']!r}", where)
    for name in ("NN_VARIANT", "NN_CPU"):
        if not SCons.Util.is_String(env.get(name, "")):
            raise ConfigError(f"{name} must be text, not {env[name]!r}", where)
    place = env["NN_DIR"]
    folder = isinstance(place, (SCons.Node.FS.Dir, os.PathLike)) or (SCons.Util.is_String(place) and env.subst(place))
    if not folder:
        raise ConfigError(f"NN_DIR must be a folder, not {place!r}", where, "such as NN_DIR='build/nn'")
    variant = env.subst("$NN_VARIANT")
    if variant and not all(re.fullmatch(r"(?!\.+$)[\w.+-]+", part) for part in variant.split("/")):
        raise ConfigError(f"NN_VARIANT must be the name of a folder in NN_DIR, not '{variant}'", where)
