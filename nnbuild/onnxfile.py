"""Reading an .onnx file that nobody vouches for: parsed, its external data loaded, every size checked, nothing run.

Sources: the ONNX IR specification (onnx/docs/IR.md, ExternalData.md).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from nnbuild.errors import Finding, ModelError

Load = Callable[[TensorProto, int, Path], Finding | None]

MAX_FILE_BYTES = 2**31 - 1
MAX_ELEMENTS = 2**26  # of one tensor, and of all constants together: far beyond any microcontroller
MAX_NODES = 50_000
OPSETS = range(7, 29)

# Bytes of one element, or of two of 4 bits, for the element types that can mean something here.
ELEMENT_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
    TensorProto.INT16: 2,
    TensorProto.UINT16: 2,
    TensorProto.INT32: 4,
    TensorProto.UINT32: 4,
    TensorProto.INT64: 8,
    TensorProto.UINT64: 8,
    TensorProto.BOOL: 1,
    TensorProto.INT4: 1,
    TensorProto.UINT4: 1,
}

# Types of which a byte holds two elements.
_HALF_BYTES = frozenset((TensorProto.INT4, TensorProto.UINT4))

# The field that holds the elements where raw_data does not.
_TYPED_FIELD: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}


def read_model(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Parse the file, load its external data, check that every tensor holds what it declares.

    Raises ModelError: missing or unreadable file, not ONNX, truncated, over 2 GB, an opset outside OPSETS, external
    data missing or outside the model's folder, a tensor whose data does not fit its shape.
    """
    file = Path(path)
    where = str(path)
    model = parse(file)
    check_size(model, where)
    check_tensors(model, file, load_external)
    return model


def check_size(model: onnx.ModelProto, where: str) -> None:
    """ModelError for an opset outside OPSETS and for more nodes than a network of this kind has."""
    _check_opset(model, where)
    if sum(len(graph.node) for graph in graphs(model)) > MAX_NODES:
        raise ModelError(f"more than {MAX_NODES} nodes", where)


def parse(file: Path) -> onnx.ModelProto:
    """The file as a protobuf, without its external data; ModelError where it is none."""
    return parse_bytes(_read_bytes(file), file)


def parse_bytes(content: bytes, file: Path) -> onnx.ModelProto:
    """What `file` holds as a protobuf; ModelError where it is none."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, EncodeError, RuntimeError, UnicodeDecodeError):
        raise ModelError("not an ONNX file, or truncated", str(file), _remedy(content)) from None
    if not _is_text(model):
        raise ModelError("holds a name that is not text", str(file), "the file is damaged; export it again")
    if not model.ir_version or not model.opset_import or not model.graph.output:
        raise ModelError("not an ONNX model: it has no version, opset or output", str(file), _remedy(content))
    return model


# What other files of networks begin with: position, bytes, and how to come to ONNX from there.
_OTHER_FILES = (
    (4, b"TFL3", "a TensorFlow Lite file: python -m tf2onnx.convert --tflite FILE --output m.onnx"),
    (4, b"ORTM", "a file of onnxruntime's own format: give the .onnx that it was made of"),
    (0, b"\x89HDF", "an HDF5 file of Keras: export the model and convert it with tf2onnx"),
    (0, b"PK\x03\x04", "a PyTorch or Keras file: export with torch.onnx.export, or convert with tf2onnx"),
    (0, b"version https://git-lfs", "a pointer of Git LFS: git lfs pull brings the file"),
)


def _remedy(content: bytes) -> str:
    """What to do about a file that is no model."""
    kinds = (hint for start, magic, hint in _OTHER_FILES if content[start : start + len(magic)] == magic)
    return next(kinds, "export or copy it again")


def opset(model: onnx.ModelProto) -> int:
    """The version of the default domain that the model imports; 0 where there is none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def is_qdq(model: onnx.ModelProto) -> bool:
    """Whether the model already holds QuantizeLinear or DequantizeLinear nodes."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)


def data_bytes(kind: int, count: int) -> int:
    """Bytes of `count` elements of a type in ELEMENT_BYTES."""
    return (count + 1) // 2 if kind in _HALF_BYTES else count * ELEMENT_BYTES[kind]


def element_type_name(kind: int) -> str:
    """ONNX's name of an element type."""
    return str(TensorProto.DataType.Name(kind)).lower() if kind in ELEMENT_BYTES else f"type {kind}"


def external_files(model: onnx.ModelProto) -> list[str]:
    """The files, relative to the model's folder, that its tensors keep their data in; sorted."""
    entries = (entry for tensor in tensors(model) for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


def inside(folder: Path, location: str) -> Path | None:
    """The file that external data at `location` means; None where that leaves the resolved `folder`, by a link too."""
    portable = location.replace("\\", "/")
    parts = Path(portable).parts
    if not parts or portable.startswith("/") or ".." in parts or "\0" in location or location[1:2] == ":":
        return None
    data = folder / location
    try:
        return data if data.resolve().is_relative_to(folder) else None
    except (OSError, RuntimeError):  # a circle of links
        return None


def graphs(model: onnx.ModelProto) -> Iterator[GraphProto | onnx.FunctionProto]:
    """The main graph, the functions, and every graph inside their nodes' attributes."""
    pending: list[GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            pending.extend(subgraphs(node))


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _is_text(message: Message) -> bool:
    """Whether every string is UTF-8; the parser hands others on as bytes."""
    for field, value in message.ListFields():
        values = [value] if isinstance(value, Message | str | bytes) else value
        if field.type == FieldDescriptor.TYPE_MESSAGE and not all(_is_text(part) for part in values):
            return False
        if field.type == FieldDescriptor.TYPE_STRING and not all(isinstance(text, str) for text in values):
            return False
    return True


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Initializers and tensors in attributes, in every graph."""
    for graph in graphs(model):
        if isinstance(graph, GraphProto):
            yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _read_bytes(file: Path) -> bytes:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError("not a file", str(file))
        if status.st_size > MAX_FILE_BYTES:
            raise ModelError("larger than 2 GB, which no ONNX file can be", str(file))
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read: {error.strerror or error}", str(file)) from None


def _check_opset(model: onnx.ModelProto, where: str) -> None:
    version = opset(model)
    if version not in OPSETS:
        wanted = f"{OPSETS.start} to {OPSETS.stop - 1}"
        raise ModelError(f"opset {version} is not supported", where, f"export with an opset from {wanted}")


def check_tensors(model: onnx.ModelProto, file: Path, load: Load) -> None:
    """ModelError with every tensor whose size, type or data is not sound; `load` takes those with external data."""
    findings = [finding for finding in _checked(model, file, load) if finding]
    if findings:
        raise ModelError.of(findings)


def _checked(model: onnx.ModelProto, file: Path, load: Load) -> Iterator[Finding | None]:
    where = str(file)
    if any(isinstance(graph, GraphProto) and graph.sparse_initializer for graph in graphs(model)):
        yield Finding("sparse initializers are not supported", where, "export with dense weights")
    total = 0
    unknown: dict[int, list[str]] = {}
    for tensor in tensors(model):
        count = _elements(tensor)
        total += max(count, 0)
        if count < 0 or count > MAX_ELEMENTS or total > MAX_ELEMENTS:
            yield Finding(f"tensor '{tensor.name}' declares shape {list(tensor.dims)}, which is too large", where)
            return
        if tensor.data_type not in ELEMENT_BYTES:
            unknown.setdefault(tensor.data_type, []).append(tensor.name)
        elif tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            yield load(tensor, data_bytes(tensor.data_type, count), file)
        else:
            yield _check_data(tensor, count, where)
    for kind, names in unknown.items():
        name = TensorProto.DataType.Name(kind) if kind in _KINDS else kind
        others = f" and {len(names) - 1} more have" if len(names) > 1 else " has"
        yield Finding(f"tensor '{names[0]}'{others} the unsupported element type {name}", where)


_KINDS = frozenset(TensorProto.DataType.values())


def _elements(tensor: TensorProto) -> int:
    """The declared number of elements; -1 for a negative dimension."""
    return -1 if any(dim < 0 for dim in tensor.dims) or len(tensor.dims) > 16 else math.prod(tensor.dims)


def _check_data(tensor: TensorProto, count: int, where: str) -> Finding | None:
    size = ELEMENT_BYTES[tensor.data_type]
    field = _TYPED_FIELD.get(tensor.data_type, "int32_data")
    held = len(tensor.raw_data) if tensor.HasField("raw_data") else len(getattr(tensor, field)) * size
    return check_length(tensor, held, data_bytes(tensor.data_type, count), where)


def check_length(tensor: TensorProto, held: int, size: int, where: str) -> Finding | None:
    """What is wrong with `held` bytes of data for a tensor of `size` bytes."""
    if held == size:
        return None
    message = f"tensor '{tensor.name}' of shape {list(tensor.dims)} holds {held} bytes instead of {size}"
    return Finding(message, where, "the file is damaged; export it again")


@dataclass(frozen=True, slots=True)
class External:
    """Where in the model's folder the elements of a tensor lie; the file may be missing."""

    location: str
    file: Path
    offset: int

    def too_short(self, tensor: TensorProto, where: str) -> Finding:
        """The finding that the file ends before the data of `tensor`."""
        return Finding(f"external data file '{self.location}' ends before the data of tensor '{tensor.name}'", where)


def external(tensor: TensorProto, size: int, file: Path) -> External | Finding:
    """Where the `size` bytes of `tensor` in the model `file` lie, or what is wrong with what it says about that."""
    where, name = str(file), tensor.name
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    data = inside(file.resolve().parent, location)
    if data is None:
        message = f"tensor '{name}' wants its data from '{location}', outside the model's folder"
        return Finding(message, where, "only files in the model's folder are read")
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or size)
    except ValueError:
        return Finding(f"tensor '{name}' has a damaged external data entry", where)
    if length != size or not 0 <= offset <= MAX_FILE_BYTES:
        return Finding(f"tensor '{name}' needs {size} bytes, its external data entry says {length}", where)
    return External(location, data, offset)


def load_external(tensor: TensorProto, size: int, file: Path) -> Finding | None:
    """Read the tensor's elements from its file, which must lie in the model's folder, into `raw_data`."""
    where, name = str(file), tensor.name
    place = external(tensor, size, file)
    if isinstance(place, Finding):
        return place
    if not place.file.is_file():
        message = f"external data file '{place.location}' of tensor '{name}' is missing"
        return Finding(message, where, "copy it beside the model")
    try:
        with place.file.open("rb") as stream:
            stream.seek(place.offset)
            content = stream.read(size)
    except OSError as error:
        reason = error.strerror or error
        return Finding(f"cannot read external data file '{place.location}': {reason}", where)
    if len(content) != size:
        return place.too_short(tensor, where)
    tensor.raw_data = content
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT
    return None
