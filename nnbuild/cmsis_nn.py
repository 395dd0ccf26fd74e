"""CMSIS-NN on this machine: where it is, which version, what it offers, which of its sources nnbuild needs.

Standard library only: the SCons side imports this module.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnbuild.errors import ConfigError

HEADER = Path("Include") / "arm_nnfunctions.h"

CALLS: dict[str, tuple[str, ...]] = {
    "conv2d": (
        "arm_convolve_s8",
        "arm_convolve_s8_get_buffer_size",
        "arm_convolve_1_x_n_s8",
        "arm_convolve_1_x_n_s8_get_buffer_size",
        "arm_convolve_1x1_s8",
        "arm_convolve_1x1_s8_fast",
        "arm_convolve_1x1_s8_fast_get_buffer_size",
    ),
    "depthwise_conv2d": (
        "arm_depthwise_conv_s8",
        "arm_depthwise_conv_3x3_s8",
        "arm_depthwise_conv_s8_opt",
        "arm_depthwise_conv_s8_opt_get_buffer_size",
    ),
    "fully_connected": (
        "arm_fully_connected_s8",
        "arm_fully_connected_per_channel_s8",
        "arm_fully_connected_s8_get_buffer_size",
    ),
    "add": ("arm_elementwise_add_s8",),
    "mul": ("arm_elementwise_mul_s8",),
    "minimum": ("arm_minimum_s8",),
    "maximum": ("arm_maximum_s8",),
    "average_pool": ("arm_avgpool_s8", "arm_avgpool_s8_get_buffer_size"),
    "max_pool": ("arm_max_pool_s8",),
    "pad": ("arm_pad_s8",),
    "lstm": ("arm_lstm_unidirectional_s8",),
    "softmax": ("arm_softmax_s8",),
    "transpose": ("arm_transpose_s8",),
    "concat": ("arm_concatenation_s8_w", "arm_concatenation_s8_x", "arm_concatenation_s8_y", "arm_concatenation_s8_z"),
}
"""By operator: every function of CMSIS-NN that generated code may call; a size function only in a debug build."""

# The releases by the revision of their arm_nnfunctions.h: a checkout's .pdsc says 0.0.0.
_RELEASES: dict[tuple[int, ...], str] = {(16, 0, 0): "6.0.0", (18, 0, 0): "7.0.0"}
_OLDEST = (6, 0, 0)

RELEASE_URL = "https://github.com/ARM-software/CMSIS-NN"
RELEASE_TAG = "v7.0.0"
RELEASE_COMMIT = "22080c68d040c98139e6cb1549473e3149735f4d"
_FETCH_SECONDS = 600


@dataclass(frozen=True, slots=True)
class CmsisNN:
    """What kernels may rely on: `functions` that the header declares, and `version` in words.

    `convolve_upscales`: arm_convolve_s8 takes an `upscale_dims` (7.0.0 and newer).
    """

    version: str
    functions: frozenset[str]
    convolve_upscales: bool


def read(root: Path) -> CmsisNN:
    """The CMSIS-NN in folder `root`, a checkout or an unpacked pack; ConfigError where there is none, or an old one."""
    try:
        text = (root / HEADER).read_text(encoding="utf-8", errors="replace")
    except OSError:
        hint = "name the folder that holds Include and Source"
        raise ConfigError(f"no CMSIS-NN here: {HEADER.as_posix()} is missing", str(root), hint) from None
    # Comments name functions, too.
    code = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    declared = dict(re.findall(r"\b(arm_\w+)\(([^;{}]*)\)\s*;", code))
    return CmsisNN(
        version=_version(root, text),
        functions=frozenset(declared),
        convolve_upscales="upscale_dims" in declared.get("arm_convolve_s8", ""),
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0].partition("+")[0]))


def _version(root: Path, header: str) -> str:
    """The pack's release, else what the header's revision tells. ConfigError where it is older than 6.0.0."""
    released = _pack_release(root)
    if released:
        _refuse_older(_numbers(released) < _OLDEST, released, root)
        return released
    found = re.search(r"\$Revision:\s*V\.(\d+(?:\.\d+)*)", header)
    if found is None:
        return "of unknown version"
    revision = _numbers(found[1])
    _refuse_older(revision < min(_RELEASES), f"with arm_nnfunctions.h V.{found[1]}", root)
    release = _RELEASES[max(known for known in _RELEASES if known <= revision)]
    return release if revision in _RELEASES else f"{release} or newer (V.{found[1]})"


def _pack_release(root: Path) -> str:
    """The newest release that the pack's description names, "" where there is no pack or it names none."""
    for path in sorted(root.glob("*.pdsc")):
        found = re.search(r"<release\s+version=\"([^\"]+)\"", path.read_text(encoding="utf-8", errors="replace"))
        if found and _numbers(found[1]) > (0, 0, 0):
            return found[1]
    return ""


def _refuse_older(older: bool, what: str, root: Path) -> None:
    if older:
        hint = "take release 6.0.0 or newer, or backend='direct'"
        raise ConfigError(f"CMSIS-NN {what} is older than 6.0.0", str(root), hint)


# Where it is.


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where `nnbuild cmsis-nn --fetch` puts CMSIS-NN for this user."""
    base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    return Path(base) / "nnbuild" / "CMSIS-NN"


def named(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """The folder that the user names: `explicit`, else the environment variable CMSIS_NN. ConfigError if it is none."""
    for name in (explicit, environ.get("CMSIS_NN")):
        if name:
            read(Path(name))
            return Path(name)
    return None


def find(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """The CMSIS-NN to use: named by the user, else the newest pack in CMSIS_PACK_ROOT, else the user's cache folder.

    None where there is none; ConfigError where the user names a folder without one.
    """
    given = named(explicit, environ)
    if given is not None:
        return given
    packs = Path(environ["CMSIS_PACK_ROOT"]) / "ARM" / "CMSIS-NN" if environ.get("CMSIS_PACK_ROOT") else None
    versions = sorted(packs.iterdir(), key=_order) if packs is not None and packs.is_dir() else []
    for root in (*reversed(versions), cache_folder(environ)):
        if (root / HEADER).is_file():
            return root
    return None


def _order(folder: Path) -> tuple[tuple[int, ...], bool, str]:
    """Semantic versions: 6.0.0 < 7.0.0-rc1 < 7.0.0 < 10.0.0."""
    name = folder.name
    return _numbers(name), "-" not in name, name


# Its sources.


def sources(root: Path, functions: Iterable[str] | None = None) -> list[Path]:
    """The C files that `functions`, or all of CALLS, need on any core, by what they name; in the order of their paths.

    A function is in the file of its name, or among the functions that tell buffer sizes; tables are in
    `arm_nntables.c`. Those that this version does not have are left out.
    """
    files = {path.stem: path for path in sorted((root / "Source").glob("*/*.c"))}
    for path in [path for stem, path in files.items() if "_get_buffer_sizes_" in stem]:
        files |= dict.fromkeys(re.findall(r"^\w[\w *]*\b(arm_\w+)\(", _text(path), re.MULTILINE), path)
    for path in [path for stem, path in files.items() if stem == "arm_nntables"]:
        files |= dict.fromkeys(re.findall(r"^const \w+ (\w+)\[", _text(path), re.MULTILINE), path)
    needed: set[Path] = set()
    names = set(functions) if functions is not None else {name for called in CALLS.values() for name in called}
    while names:
        found = {files[name] for name in names if name in files} - needed
        needed |= found
        names = {name for path in found for name in _named_in(path)}
    return sorted(needed)


def _named_in(path: Path) -> Iterable[str]:
    return re.findall(r"\b(?:arm_|\w+_table_)\w+", re.sub(r"/\*.*?\*/|//[^\n]*", " ", _text(path), flags=re.DOTALL))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


# Getting it.


def fetch(folder: Path, url: str = RELEASE_URL, tag: str = RELEASE_TAG, commit: str = RELEASE_COMMIT) -> None:
    """Clone release `tag` of `url` into `folder`, whole or not at all. ConfigError where it cannot be had.

    The clone must be exactly `commit`: a tag can be moved.
    """
    if folder.exists():
        raise ConfigError("is there already", str(folder), "move it away to fetch it again")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            clone = Path(temporary) / folder.name
            _git("clone", "--quiet", "--depth", "1", "--branch", tag, url, str(clone))
            got = _git("-C", str(clone), "rev-parse", "HEAD").strip()
            if got != commit:
                raise ConfigError(f"tag {tag} is commit {got}, not {commit}", url, "do not use it; report this")
            read(clone)
            clone.rename(folder)
    except OSError as error:
        raise ConfigError(f"cannot write: {error.strerror or error}", str(folder)) from None


def _git(*arguments: str) -> str:
    """What git prints. ConfigError where git is missing, fails or hangs; it never asks for a password."""
    git = shutil.which("git")
    if git is None:
        raise ConfigError("git is not installed", hint="install git, or set CMSIS_NN to a CMSIS-NN of yours")
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [git, *arguments], capture_output=True, text=True, check=False, timeout=_FETCH_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"git {arguments[0]} took more than {_FETCH_SECONDS} s", hint="try again later") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith(("fatal:", "error:"))]
        reason = (said or done.stderr.splitlines() or ["it failed"])[0]
        hint = "this needs the network; or set CMSIS_NN to a CMSIS-NN of yours"
        raise ConfigError(f"git {arguments[0]}: {reason}", hint=hint)
    return done.stdout
