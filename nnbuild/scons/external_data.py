"""Which files an .onnx keeps its tensors in, read from the protobuf's wire format without importing onnx.

SCons asks this in every run, so it must cost next to nothing: a model without external data is one search for a word.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import SCons.Errors
import SCons.Node.FS
import SCons.Scanner

from nnbuild.scons import boundary, run

# Paths of field numbers that lead from ModelProto to tensors (onnx.proto). A message is named by what it is.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2
_DEEPEST = 64


class _MalformedError(Exception):
    """Not a protobuf; the command that reads the model says what is wrong with it."""


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise _MalformedError


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of every length-delimited field between `at` and `end`."""
    while at < end:
        key, at = _varint(data, at, end)
        wire = key & 7
        if wire == 2:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise _MalformedError
            yield key >> 3, at, at + size
            at += size
        elif wire == 0:
            _, at = _varint(data, at, end)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise _MalformedError


def _locations(data: mmap.mmap, message: str, at: int, end: int, depth: int = 0) -> Iterator[bytes]:
    if depth > _DEEPEST:
        raise _MalformedError
    if message == "entry":
        pair = {number: data[start:stop] for number, start, stop in _fields(data, at, end)}
        if pair.get(_KEY) == b"location":
            yield pair.get(_VALUE, b"")
        return
    children = _CHILDREN[message]
    for number, start, stop in _fields(data, at, end):
        if number in children:
            yield from _locations(data, children[number], start, stop, depth + 1)


def external_data(path: str) -> list[str]:
    """The names of a model's data files, relative to its folder and sorted; [] where it has none or is no model.

    Names that leave the folder are left out: the importer refuses them.
    """
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(b"location") < 0:
                return []
            found = {name.decode("utf-8") for name in _locations(data, "model", 0, len(data))}
    except (OSError, ValueError, _MalformedError):
        return []
    return sorted(name for name in found if is_inside(name))


def is_inside(name: str) -> bool:
    """Whether external data of that name lies in the model's folder, on this system and on every other."""
    parts = name.replace("\\", "/").split("/")
    return bool(name) and "\0" not in name and ".." not in parts and parts[0] != "" and name[1:2] != ":"


def _nodes(node: Any, env: Any, path: Any) -> list[Any]:
    """The data files of the model, the first source of `node`; and the place to say what is missing of its inputs."""
    model = node.sources[0]
    files = [model.dir.File(name) for name in external_data(model.rfile().get_abspath())]
    needed = [need for need in (*node.sources, *node.depends, *files) if isinstance(need, SCons.Node.FS.File)]
    missing = [file for file in needed if file.missing()]
    if missing and not env.GetOption("clean"):
        line = boundary.line_of(node)
        reasons = [f"{run.path(file)}: not found; declared in {line}" for file in missing]
        raise SCons.Errors.BuildError(node, "\n".join(reasons), status=2, exitstatus=2)
    return files


SCANNER = SCons.Scanner.Scanner(function=_nodes, name="NNExternalData")
"""A target scanner: makes the data files of an .onnx dependencies of what is made from it."""
