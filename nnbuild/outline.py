"""Reading an .onnx file for its shapes: what is large becomes a placeholder, and its bytes are never read.

Large tensors inside the file are skipped while it is read, those in files beside it are not opened. What shapes,
axes and clamps are computed from is small and is there. Wire format: protobuf's encoding guide; fields: onnx.proto.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from nnbuild.errors import Finding, ModelError
from nnbuild.onnxfile import (
    check_length,
    check_size,
    check_tensors,
    data_bytes,
    external,
    load_external,
    parse,
    parse_bytes,
    tensors,
)
from nnbuild.placeholder import LOCATION, forget, is_unread

LARGE = 16 * 1024
"""Bytes of a tensor beyond which its values decide nothing about shapes."""

# Where tensors lie, by field number, and the fields that hold their elements.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
_ELEMENTS = frozenset((4, 5, 7, 9, 10, 11))
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_FIXED = {1: 8, 5: 4}


@dataclass(frozen=True, slots=True)
class Outline:
    """A model whose large tensors are placeholders, and the external data files that are missing."""

    model: onnx.ModelProto
    missing: tuple[str, ...]


def read_outline(path: Path) -> Outline:
    """The model in the file at `path` without its large tensors.

    Raises ModelError as `onnxfile.read_model` does, but for external data that is missing where shapes do not need it.
    """
    model = parse_outline(path)
    check_size(model, str(path))
    missing: dict[str, None] = {}

    def load(tensor: TensorProto, size: int, file: Path) -> Finding | None:
        if is_unread(tensor):
            return check_length(tensor, _held(tensor, size), size, str(file))
        place = external(tensor, size, file)
        if isinstance(place, Finding):
            return place
        if not place.file.is_file():
            if tensor.data_type == TensorProto.INT64:
                return load_external(tensor, size, file)
            missing[place.location] = None
        elif size <= LARGE:
            return load_external(tensor, size, file)
        elif place.file.stat().st_size < place.offset + size:
            return place.too_short(tensor, str(file))
        forget(tensor)
        return None

    check_tensors(model, path, load)
    for tensor in tensors(model):
        if not is_unread(tensor) and _size(tensor) > LARGE:
            forget(tensor)
    return Outline(model, tuple(missing))


def _size(tensor: TensorProto) -> int:
    return data_bytes(tensor.data_type, math.prod(tensor.dims))


def _held(tensor: TensorProto, size: int) -> int:
    """The bytes that data which was skipped had; 0 where a file says so itself, and no number."""
    try:
        return next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), size)
    except ValueError:
        return 0


def parse_outline(path: Path) -> onnx.ModelProto:
    """The file without large tensors; as a whole where it is small, and where it is damaged: that has its own words."""
    try:
        if path.stat().st_size > 8 * LARGE:
            with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return parse_bytes(bytes(_slimmed(content, "model", 0, len(content))), path)
    except (OSError, ValueError, ModelError):
        pass
    return parse(path)


def _slimmed(content: mmap.mmap, kind: str, start: int, end: int) -> bytearray:
    """The message of `kind` between two offsets without the elements of large tensors; ValueError for no protobuf."""
    kept = bytearray()
    position, skipped, raw = start, 0, False
    while position < end:
        field_start = position
        key, position = _varint(content, position, end)
        field, wire = key >> 3, key & 7
        length = _FIXED.get(wire, 0)
        if wire in (0, 2):
            number, position = _varint(content, position, end)
            length = number if wire == 2 else 0
        elif wire not in _FIXED:
            raise ValueError(f"wire type {wire}")
        if position + length > end:
            raise ValueError("truncated")
        inner = _INSIDE[kind].get(field)
        if wire != 2 or length <= LARGE or not (inner or (kind == "tensor" and field in _ELEMENTS)):
            kept += content[field_start : position + length]
        elif inner:
            body = _slimmed(content, inner, position, position + length)
            kept += _number(key) + _number(len(body)) + body
        else:
            skipped, raw = skipped + length, raw or field == 9
        position += length
    return kept + _unread(skipped if raw else 0) if skipped else kept


def _unread(length: int) -> bytes:
    """The fields of a tensor that make it a placeholder, with the bytes that its raw data had where that is known."""
    entries = {"location": LOCATION, **({"length": str(length)} if length else {})}
    fields = bytearray()
    for key, value in entries.items():
        entry = onnx.StringStringEntryProto(key=key, value=value).SerializeToString()
        fields += _number(_EXTERNAL_DATA << 3 | 2) + _number(len(entry)) + entry
    return bytes(fields + _number(_DATA_LOCATION << 3) + _number(TensorProto.EXTERNAL))


def _varint(content: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("truncated")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
