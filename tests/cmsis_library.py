"""CMSIS-NN for tests: found as a user's build finds it, and compiled once in a session for each core that asks.

Its own code must be silent under `-Wall -Wextra`; where there is no CMSIS-NN, a test is skipped in one line.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nnbuild import cmsis_nn
from nnbuild.target import TARGETS, Target

from . import qemu

FLAGS = ["-O2", "-Wall", "-Wextra"]
SINGLE_ROUNDING = "-DCMSIS_NN_USE_SINGLE_ROUNDING"
HOST = "host"
"""The name of this machine where a core is asked for; its compiler makes CMSIS-NN's plain C."""


@dataclass(frozen=True, slots=True)
class Library:
    """What a command line needs: the include folder for sources, and the library behind them."""

    compile_arguments: tuple[str, ...]
    link_arguments: tuple[str, ...]


@functools.cache
def root() -> Path:
    """The folder of CMSIS-NN; skips the test where there is none."""
    found = cmsis_nn.find(None, os.environ)
    if found is None:
        pytest.skip("CMSIS-NN is not here: `python -m nnbuild cmsis-nn --fetch` gets it, CMSIS_NN names it")
    return found


def target(core: str) -> Target:
    """The target of `core`, with what this version of CMSIS-NN offers."""
    known = TARGETS["generic"] if core == HOST else qemu.CORES[core].target
    return replace(known, cmsis_nn=cmsis_nn.read(root()))


@functools.cache
def library(core: str, *flags: str) -> Library:
    """CMSIS-NN as a static library for `core`; `flags` are for it and for the code that calls it."""
    folder = _folder()
    include = f"-I{root() / 'Include'}"
    archiver = "ar" if core == HOST else "arm-none-eabi-ar"
    built = qemu.objects([*_compiler(core), *FLAGS, include, *flags], folder, cmsis_nn.sources(root()))
    output = folder / "libcmsis_nn.a"
    subprocess.run([archiver, "rcs", str(output), *map(str, built)], check=True)
    # As a system folder: the strict warnings are for the generated code, not for the library's inline functions.
    return Library(("-isystem", str(root() / "Include"), *flags), (str(output),))


@functools.cache
def functions() -> ctypes.CDLL:
    """CMSIS-NN as a shared library of this machine, for its `*_get_buffer_size` functions."""
    folder = _folder()
    command = [*_compiler(HOST), *FLAGS, "-fPIC", f"-I{root() / 'Include'}"]
    built = qemu.objects(command, folder, cmsis_nn.sources(root()))
    output = folder / "libcmsis_nn.so"
    subprocess.run(["gcc", "-shared", "-o", str(output), *map(str, built)], check=True)
    return ctypes.CDLL(str(output))


def _compiler(core: str) -> Sequence[str]:
    return ["gcc"] if core == HOST else qemu.flags(qemu.CORES[core])


def _folder() -> Path:
    """A folder until the end of the session."""
    temporary = tempfile.TemporaryDirectory(prefix="cmsis_nn_")
    atexit.register(temporary.cleanup)
    return Path(temporary.name)
