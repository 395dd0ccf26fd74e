"""Calibration and validation samples: arrays of numbers for the model's inputs.

A specification is a `.npz` or `.npy` file, a folder of those (taken in the order of their names), or
`"calib.py:samples"`: a function without arguments that returns or yields arrays, or dicts from input name to array.
In a `.npz` the array of an input is the one of its name; a model with one input also takes `x`, or the only array.

Shapes. The first axis counts samples. Axes of length 1 are not compared, because leaving them out or moving them does
not change the order of the elements: (N, 49, 10) serves an input (1, 1, 49, 10). A flat (N, elements) serves any input.
A single sample may leave the first axis out. Numbers of any integer or float type are taken as they are, in float32:
nothing is scaled.

`"synthetic"` are made-up samples, for a first estimate of sizes where there are none: noise, which no model is for.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnbuild.config import SYNTHETIC
from nnbuild.errors import CalibrationError
from nnbuild.network import Array

Shapes = Mapping[str, tuple[int, ...]]
Sample = dict[str, Array]

_SUFFIXES = (".npy", ".npz")
_DEFAULT_KEY = "x"
_MADE_UP = 16  # samples
_MAX_MEMBER = 2**32  # bytes that one array of an .npz may unpack to


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a model with `inputs` (name to shape, batch included); reading them again reads the files again."""

    spec: str
    inputs: Shapes

    def __iter__(self) -> Iterator[Sample]:
        """Each sample as float32 arrays in the inputs' shapes; CalibrationError says what is wrong with one."""
        count = 0
        for where, batch in self._batches():
            arrays = {name: _in_batch(batch[name], name, shape, where) for name, shape in self.inputs.items()}
            sizes = {len(array) for array in arrays.values()}
            if len(sizes) != 1:
                raise CalibrationError(f"the inputs have {sorted(sizes)} samples each", where, "give each as many")
            for index in range(sizes.pop()):
                count += 1
                yield {
                    name: _number(array[index], name, self.inputs[name], f"{where}: sample {index}")
                    for name, array in arrays.items()
                }
        if not count:
            raise CalibrationError("there are no samples", self.spec)

    def labels(self) -> Array | None:
        """The labels: array `y` of an .npz, int64, one for each sample; None where there are none."""
        path = Path(self.spec)
        if path.suffix != ".npz" or not path.is_file():
            return None
        archive = _open_npz(path)
        if "y" not in archive:
            return None
        labels = _member(archive, "y", path)
        return labels.reshape(-1).astype(np.int64) if labels.dtype.kind in "iub" else None

    def _batches(self) -> Iterator[tuple[str, Mapping[str, Array]]]:
        """(where, arrays by input name) for each file, or for each thing that a function yields."""
        if self.spec == SYNTHETIC:
            yield self.spec, _made_up(self.inputs)
            return
        function = _function_of(self.spec)
        if function is not None:
            for index, produced in enumerate(_produced(*function)):
                where = f"{self.spec}: item {index}"
                yield where, _by_name(produced, self.inputs, where)
            return
        path = Path(self.spec)
        files = _files(path)
        for file in files:
            yield str(file), _from_file(file, self.inputs)


@dataclass(frozen=True, slots=True)
class Listed(Samples):
    """Samples that are at hand; `spec` only says where they are from."""

    given: Sequence[Sample] = ()

    def __iter__(self) -> Iterator[Sample]:
        """Each of them."""
        return iter(self.given)


def load(spec: str, inputs: Shapes) -> Samples:
    """Samples for a model with `inputs` (name to shape, batch 1 included).

    Raises CalibrationError at once where there is nothing to read; what is wrong inside shows while iterating.
    """
    function = _function_of(spec)
    if spec == SYNTHETIC:
        return Samples(spec, inputs)
    if function is not None:
        if not function[0].is_file():
            raise CalibrationError("there is no such file", str(function[0]))
    else:
        _files(Path(spec))
    return Samples(spec, inputs)


def source_files(spec: str) -> list[Path]:
    """The files that a specification names, for dependencies: not what a function reads on its own."""
    function = _function_of(spec)
    if spec == SYNTHETIC:
        return []
    return [function[0]] if function is not None else _files(Path(spec))


def _made_up(inputs: Shapes) -> Mapping[str, Array]:
    """Normal noise, the same on every machine."""
    source = np.random.default_rng(0)
    return {name: source.standard_normal((_MADE_UP, *shape), np.float32) for name, shape in inputs.items()}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted((entry for entry in path.iterdir() if entry.suffix in _SUFFIXES), key=lambda entry: entry.name)
        if not files:
            raise CalibrationError("the folder holds no .npy and no .npz file", str(path))
        return files
    if not path.is_file():
        raise CalibrationError("there is no such file or folder", str(path))
    if path.suffix not in _SUFFIXES:
        hint = "give a .npz or .npy file, a folder of those, or 'file.py:function'"
        raise CalibrationError(f"'{path.suffix}' files are not read", str(path), hint)
    return [path]


def _from_file(path: Path, inputs: Shapes) -> Mapping[str, Array]:
    if path.suffix == ".npy":
        if len(inputs) != 1:
            hint = "save a .npz with one array for each input"
            raise CalibrationError(f"the model has {len(inputs)} inputs, a .npy holds one array", str(path), hint)
        return {next(iter(inputs)): _open_npy(path)}
    archive = _open_npz(path)
    return {name: _member(archive, key, path) for name, key in _keys(archive.files, inputs, str(path)).items()}


def _open_npy(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise CalibrationError(f"not a readable .npy file: {_reason(error)}", str(path)) from None
    if not isinstance(array, np.ndarray):
        raise CalibrationError("not a .npy file", str(path))
    return array


def _open_npz(path: Path) -> np.lib.npyio.NpzFile:
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise CalibrationError(f"not a readable .npz file: {_reason(error)}", str(path)) from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise CalibrationError("not an .npz file", str(path))
    return archive


def _member(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> Array:
    try:
        entry = archive.zip.getinfo(key if key.endswith(".npy") else f"{key}.npy") if archive.zip else None
        if entry is not None and entry.file_size > _MAX_MEMBER:
            raise CalibrationError(
                f"array '{key}' is larger than 4 GB", str(path), "save a .npy, which is not unpacked"
            )
        return np.asarray(archive[key])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise CalibrationError(f"array '{key}' cannot be read: {_reason(error)}", str(path)) from None


def _keys(present: Iterable[str], inputs: Shapes, where: str) -> dict[str, str]:
    """Which array serves which input."""
    names = list(present)
    missing = [name for name in inputs if name not in names]
    if not missing:
        return {name: name for name in inputs}
    if len(inputs) == 1:
        if _DEFAULT_KEY in names:
            return {next(iter(inputs)): _DEFAULT_KEY}
        if len(names) == 1:
            return {next(iter(inputs)): names[0]}
    held = ", ".join(f"'{name}'" for name in names) or "no arrays"
    raise CalibrationError(f"there is no array for input '{missing[0]}'", where, f"it holds {held}; rename one")


def _by_name(produced: Any, inputs: Shapes, where: str) -> Mapping[str, Array]:
    if isinstance(produced, Mapping):
        return {name: np.asarray(produced[key]) for name, key in _keys(map(str, produced), inputs, where).items()}
    if len(inputs) != 1:
        raise CalibrationError(f"the model has {len(inputs)} inputs", where, "yield a dict from input name to array")
    try:
        return {next(iter(inputs)): np.asarray(produced)}
    except (ValueError, TypeError) as error:
        raise CalibrationError(f"not an array: {_reason(error)}", where) from None


def _in_batch(array: Array, name: str, shape: tuple[int, ...], where: str) -> Array:
    """`array` with a first axis that counts samples, each of as many elements as the input has."""
    if array.dtype.kind not in "biuf":
        raise CalibrationError(f"the array for '{name}' has dtype {array.dtype}, which holds no numbers", where)
    size, bare = math.prod(shape), _without_ones(shape)
    if array.size == size and _without_ones(array.shape) == bare:
        return array.reshape(1, *shape)
    if array.ndim and array.size == 0:
        raise CalibrationError(f"the array for '{name}' is empty: shape {array.shape}", where)
    each = array.shape[1:]
    if array.ndim > 1 and math.prod(each) == size and (_without_ones(each) == bare or each == (size,)):
        return array
    wanted = "(N, " + ", ".join(map(str, shape[1:])) + ")"
    raise CalibrationError(
        f"samples of shape {tuple(array.shape)} do not fit input '{name}', which wants {wanted}",
        where,
        _layout_hint(each, shape),
    )


def _layout_hint(each: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The transpose that turns NHWC samples into NCHW or back, where that is all that is wrong."""
    wanted = shape[1:]
    if len(each) == 3 and len(wanted) == 3:
        if (each[2], each[0], each[1]) == wanted:
            return "these are NHWC, the model takes NCHW: save x.transpose(0, 3, 1, 2)"
        if (each[1], each[2], each[0]) == wanted:
            return "these are NCHW, the model takes NHWC: save x.transpose(0, 2, 3, 1)"
    if len(each) == 2 and each[::-1] == wanted:
        return "save x.transpose(0, 2, 1)"
    return ""


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dim for dim in shape if dim != 1)


def _number(values: Array, name: str, shape: tuple[int, ...], where: str) -> Array:
    """One sample in float32, finite."""
    with np.errstate(over="ignore"):
        sample = np.ascontiguousarray(values, dtype=np.float32).reshape(shape)
    if not np.isfinite(sample).all():
        kind = "NaN" if np.isnan(sample).any() else "an infinite number"
        raise CalibrationError(f"input '{name}' holds {kind}", where)
    return sample


def _function_of(spec: str) -> tuple[Path, str] | None:
    """(file, function) of "file.py:function"; None for any other specification."""
    file, colon, name = spec.rpartition(":")
    return (Path(file), name) if colon and file.endswith(".py") and name.isidentifier() else None


def _produced(file: Path, name: str) -> Iterator[Any]:
    """What the user's function yields; an exception in it is theirs, and is told as one line."""
    writes_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec = importlib.util.spec_from_file_location("nnbuild_samples", file)
        if spec is None or spec.loader is None:
            raise CalibrationError("not a Python file", str(file))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if not callable(function):
            raise CalibrationError(f"there is no function '{name}'", str(file))
        produced = function()
        if isinstance(produced, np.ndarray | Mapping):
            produced = [produced]
        iterator = iter(produced)
    except CalibrationError:
        raise
    except (Exception, SystemExit) as error:
        raise _in_user_code(error, file) from None
    finally:
        sys.dont_write_bytecode = writes_bytecode
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except (Exception, SystemExit) as error:
            raise _in_user_code(error, file) from None
        yield item


def _in_user_code(error: BaseException, file: Path) -> CalibrationError:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    where = f"{file}:{lines[-1]}" if lines else str(file)
    return CalibrationError(f"{type(error).__name__}: {_reason(error)}", where)


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
