"""CMSIS-NN for a firmware that does not build it itself: one static library for each core and set of flags.

It holds the sources that nnbuild's calls can need (`nnbuild.cmsis_nn.sources`), is shared by all models, and is built
when something that links it is built. The linker takes what the models call.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import SCons.Node
import SCons.Subst
import SCons.Util

from nnbuild import cmsis_nn
from nnbuild.errors import ConfigError
from nnbuild.scons import run

# Warnings are the firmware's rules for its own code; CMSIS-NN is held to these.
_KEPT = re.compile(r"-Wall$|-Wextra$|-Wno-(?!error)|-W[alp],")
_WARNING = re.compile(r"-W|-{1,2}pedantic")

_LIBRARIES: dict[str, Any] = {}


def folder(env: Any, options: Mapping[str, Any], where: str) -> Any:
    """The folder of the CMSIS-NN that a model with `options` may use, None for none.

    Without `backend=` only one that is named counts, so that a build does not depend on what lies in somebody's cache.
    ConfigError where the user names a folder without one, or asks for CMSIS-NN and there is none.
    """
    backend = options.get("backend")
    if backend == "direct":
        return None
    explicit, environ = _explicit(env), _environ(env)
    found = cmsis_nn.find(explicit, environ) if backend else cmsis_nn.named(explicit, environ)
    if found is None and backend == "cmsis_nn":
        hint = "set CMSIS_NN to its folder, or run `python -m nnbuild cmsis-nn --fetch`"
        raise ConfigError("option backend='cmsis_nn', and no CMSIS-NN was found", where, hint)
    return env.Dir(run.literal(os.path.abspath(found))) if found else None


def _explicit(env: Any) -> str | None:
    """The construction variable CMSIS_NN as a path: relative to the SConscript, or to the top folder."""
    value = env.get("CMSIS_NN")
    while SCons.Util.is_List(value) and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        return None
    if isinstance(value, SCons.Node.Node):
        return str(value.srcnode().get_abspath())
    if not SCons.Util.is_String(value) and not isinstance(value, os.PathLike):
        raise ConfigError(f"must be a folder, not {value!r}", "CMSIS_NN")
    text = env.subst(os.fspath(value))
    near = env.Dir(run.literal(text)).srcnode().get_abspath()
    there = os.path.exists(os.path.join(near, cmsis_nn.HEADER)) or text.startswith("#")
    return str(near if there else env.Dir("#").Dir(text).get_abspath())


def _environ(env: Any) -> dict[str, str]:
    """The environment variables, their paths relative to the top folder: scons stands in a SConscript's folder here."""
    top = env.Dir("#").get_abspath()
    paths = {name: os.path.join(top, text) for name, text in os.environ.items() if name.startswith("CMSIS_") and text}
    return {**os.environ, **paths}


def _flags(env: Any) -> list[str]:
    """`$CCFLAGS` without the firmware's own warnings."""
    return [word for word in run.words(env, "$CCFLAGS") if _KEPT.match(word) or not _WARNING.match(word)]


def _archiver(env: Any) -> dict[str, Any]:
    """gcc's own archiver, which is there with a cross gcc where `ar` may be not, and knows objects of -flto."""
    words = run.words(env, "$CC")
    match = re.fullmatch(r"(.*gcc)(-[\d.]+)?(\.exe)?", words[-1]) if words else None
    own = f"{match[1]}-ar{match[2] or ''}{match[3] or ''}" if match else ""
    if not own or env.WhereIs(own) is None:
        return {}
    # Some systems have a limit for a command that the names of all objects exceed; gcc-ar wants its flags in front.
    command = "$AR ${TEMPFILE('$ARFLAGS $TARGET $SOURCES', '$ARCOMSTR')}"
    return {
        "AR": run.literal(own),
        "ARFLAGS": ["rcsD"],
        "RANLIBCOM": "",
        "ARCOM": command,
        "TEMPFILEARGESCFUNC": in_file,
    }


def in_file(word: str) -> str:
    """`word` in a file of arguments, where a backslash would escape what follows."""
    return str(SCons.Subst.quote_spaces(word)).replace("\\", "/")


def library(env: Any, root: Any) -> Any:
    """The node of the library of the CMSIS-NN in folder `root`, for the compiler and flags of `env`."""
    flags = _flags(env)
    # Clang does not know an attribute of gcc's that CMSIS-NN uses.
    relaxed = ["-Wno-unknown-attributes"] if any("clang" in word for word in run.words(env, "$CC")) else []
    behind = [*relaxed, "$NN_KERNEL_CCFLAGS", "$NN_SECTION_CCFLAGS"]
    compiler = [*run.words(env, "$CC $CFLAGS $_CPPDEFFLAGS $NN_KERNEL_CCFLAGS $NN_SECTION_CCFLAGS"), *flags]
    key = hashlib.sha256(repr((run.path(root), compiler)).encode()).hexdigest()[:8]
    place = env.Dir("$NN_DIR").Dir(f"cmsis-nn-{key}")
    known = _LIBRARIES.get(place.get_abspath())
    if known is not None:
        return known
    objects = [
        env.StaticObject(
            place.File(f"{path.stem}{env.subst('$OBJSUFFIX')}"),
            env.File(run.literal(path)),
            CCFLAGS=[*(run.literal(flag) for flag in flags), *behind],
            CPPPATH=[root.Dir("Include")],
        )
        for path in cmsis_nn.sources(Path(root.get_abspath()))
    ]
    (made,) = env.StaticLibrary(place.File("libcmsis_nn.a"), objects, **_archiver(env))
    _LIBRARIES[place.get_abspath()] = made
    return made


def add(env: Any, made: Any) -> None:
    """Let what `env` links find the library, also where a Program brings its own LIBS (see `last`)."""
    env.AppendUnique(LIBS=[made], NN_LIBS=[made])


def last(env: Any, more: list[Any]) -> None:
    """Put the libraries of `env`, and `more`, behind all others: what calls them may be in those."""
    mine = list(dict.fromkeys([*SCons.Util.flatten(env.get("NN_LIBS", [])), *more]))
    if not mine:
        return
    libs = env.get("LIBS", [])
    others = [lib for lib in (SCons.Util.flatten(libs) if SCons.Util.is_List(libs) else [libs]) if lib not in mine]
    env["LIBS"] = [*(lib for lib in others if lib), *mine]
