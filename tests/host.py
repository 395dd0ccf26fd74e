"""Compiles generated C for this machine and runs it through ctypes, or under sanitizers as a program of its own."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror", "-pedantic"]
STD = "-std=c99"


def write(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """The files in `folder`; returns the C sources among them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return [folder / name for name in files if name.endswith(".c")]


def compile_c(command: Sequence[str], output: Path, sources: Sequence[Path]) -> None:
    done = subprocess.run(
        [*command, STD, *WARNINGS, "-o", str(output), *map(str, sources)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr


def shared_library(folder: Path, files: Mapping[str, str], compiler: Sequence[str] = ("gcc", "-O1")) -> ctypes.CDLL:
    sources = write(folder, files)
    output = folder / "model.so"
    compile_c([*compiler, "-shared", "-fPIC"], output, sources)
    return ctypes.CDLL(str(output))


def call(
    library: ctypes.CDLL, function: str, inputs: Sequence[Array], sizes: Sequence[int], even: bool = False
) -> list[Array]:
    """`function(inputs..., outputs...)` with deliberately odd addresses; checks the bytes around each output.

    16-bit inputs lie at even addresses, and with `even` the outputs do.
    """
    outputs = [np.full(size + 34, 77, np.int8) for size in sizes]
    shifted = [np.concatenate([np.zeros(1, array.dtype), np.ascontiguousarray(array).ravel()]) for array in inputs]
    pointers = [ctypes.c_void_p(array.ctypes.data + array.itemsize) for array in shifted]
    start = 18 if even else 17
    pointers += [ctypes.c_void_p(array.ctypes.data + start) for array in outputs]
    assert getattr(library, function)(*pointers) == 0
    for array, size in zip(outputs, sizes, strict=True):
        assert (array[:start] == 77).all(), "wrote in front of its output"
        assert (array[start + size :] == 77).all(), "wrote behind its output"
    return [array[start : start + size].copy() for array, size in zip(outputs, sizes, strict=True)]
