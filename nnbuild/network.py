"""The lowered network: NHWC, int8 and int16, integers only. What the C does, before any choice of kernel.

All records are frozen. Shapes leave out the batch, which is 1: a feature map is (height, width, channels), a vector
is (features,). `Network.verify` states the invariants; every stage after lowering may rely on them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnbuild.errors import InternalError

if TYPE_CHECKING:
    from nnbuild.ram.rows import Segment

Array = npt.NDArray[Any]

INT8_MIN, INT8_MAX = -128, 127

LIMITS: Mapping[str, tuple[int, int]] = {"int8": (INT8_MIN, INT8_MAX), "int16": (-(2**15), 2**15 - 1)}
"""The least and the greatest value of each type that real numbers are stored in."""


@dataclass(frozen=True, slots=True)
class QuantParams:
    """real = scale * (q - zero_point), per tensor; `scale` is a float32 value held in a Python float.

    `dtype` is "int8", or "int16" with a zero point of 0.
    """

    scale: float
    zero_point: int
    dtype: str = "int8"

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest value of the type."""
        return LIMITS[self.dtype]

    @property
    def wide(self) -> bool:
        """Whether values have 16 bits."""
        return self.dtype == "int16"

    def quantize(self, values: Array) -> Array:
        """float (any shape) -> integers of that shape, round half to even as ONNX QuantizeLinear, saturated."""
        with np.errstate(over="ignore"):
            scaled = np.rint(np.asarray(values, np.float32) / np.float32(self.scale)) + self.zero_point
        return np.asarray(np.clip(scaled, *self.limits).astype(self.dtype))

    def dequantize(self, values: Array) -> Array:
        """Integers (any shape) -> float32 of that shape."""
        return ((values.astype(np.int32) - self.zero_point) * np.float32(self.scale)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An activation, of int8 or int16 as `quant` says; or, where `dtype` says "int32", indices, with scale 1."""

    name: str
    shape: tuple[int, ...]
    quant: QuantParams
    dtype: str = "int8"

    @property
    def indices(self) -> bool:
        """Whether the values are no quantized real numbers but counts."""
        return self.dtype not in LIMITS

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        """Elements along the last axis."""
        return self.shape[-1] if self.shape else 1

    @property
    def element_bytes(self) -> int:
        """Of memory, each element."""
        return int(np.dtype(self.dtype).itemsize)

    @property
    def bytes(self) -> int:
        """Of memory."""
        return self.size * self.element_bytes


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator application.

    `op` names the record in `nnbuild.ops`; `params` is that record's dataclass of plain integers; `constants` are its
    weights, biases, multipliers and tables in the layout that the record documents; `node` is the ONNX node behind it.
    It is computed that many `times` in one inference: once, or for each row of its output (`ram.rows`).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    output: str
    params: Any
    constants: Mapping[str, Array]
    node: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the model as its user sees it: the ONNX name, the ONNX shape, and the layout in words."""

    name: str
    tensor: str
    shape: tuple[int, ...]
    layout: str


@dataclass(frozen=True, slots=True)
class View:
    """A tensor lies in tensor `home`, of the same type, from its element `start` on."""

    home: str
    start: int


@dataclass(frozen=True, slots=True)
class Network:
    """The layers in execution order, with their tensors and the model's inputs and outputs.

    `views` are the tensors that lie in others (see `ram.elision`): parts that are read as they lie, or that layers
    write to where they belong. What no layer writes is there as soon as all of its elements are.
    `single_rounding`: requantization rounds once instead of twice, for firmware whose CMSIS-NN does. `synthetic`: its
    scales come from made-up samples, so what it computes means nothing. `segments` are runs of layers that are computed
    row by row (`ram.rows`), of a network that is on its way to C; there layers read and write rows of tensors.
    """

    tensors: Mapping[str, Tensor]
    layers: tuple[Layer, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    single_rounding: bool = False
    synthetic: bool = False
    views: Mapping[str, View] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()

    def place(self, tensor: str) -> tuple[str, int]:
        """The tensor that `tensor` lies in, itself unless it is a view, and the byte there that it begins at."""
        start = 0
        while (view := self.views.get(tensor)) is not None:
            start += view.start * self.tensors[tensor].element_bytes
            tensor = view.home
        return tensor, start

    def overlap(self, one: str, other: str) -> tuple[int, int]:
        """First byte and end, within what both lie in, of what two tensors share; end <= first where nothing is."""
        (root, start), (home, begin) = self.place(one), self.place(other)
        if root != home:
            return 0, 0
        return max(start, begin), min(start + self.tensors[one].bytes, begin + self.tensors[other].bytes)

    def shares(self, one: str, other: str) -> bool:
        """Whether two tensors have bytes in common."""
        first, end = self.overlap(one, other)
        return first < end

    def home(self, name: str) -> str:
        """The tensor whose memory holds `name`: itself, or what the rows of a segment belong to."""
        return next((own.homes[name] for own in self.segments if name in own.homes), name)

    def start(self, name: str) -> int | None:
        """At which byte of its home `name` begins; None where that depends on the row."""
        own = next((own for own in self.segments if name in own.homes), None)
        if own is None or own.homes[name] == name:
            return 0
        return own.starts.get(name)

    def verify(self) -> None:
        """Raise InternalError unless every layer reads what is already written and every tensor is written once."""
        self._verify_views()
        written = {name: np.zeros(tensor.bytes, bool) for name, tensor in self.tensors.items()}

        def bytes_of(tensor: str) -> Array:
            root, start = self.place(tensor)
            return written[root][start : start + self.tensors[tensor].bytes]

        for port in self.inputs:
            bytes_of(port.tensor)[:] = True
        names: set[str] = set()
        for layer in self.layers:
            missing = [name for name in layer.inputs if name not in self.tensors or not bytes_of(name).all()]
            if missing:
                raise InternalError(f"layer {layer.name} reads {missing[0]} before it is written")
            if layer.output not in self.tensors:
                raise InternalError(f"layer {layer.name} writes an undeclared tensor {layer.output}")
            if bytes_of(layer.output).any():
                raise InternalError(f"layer {layer.name} writes {layer.output} a second time")
            if layer.name in names:
                raise InternalError(f"two layers are named {layer.name}")
            names.add(layer.name)
            bytes_of(layer.output)[:] = True
        for port in self.outputs:
            if port.tensor not in self.tensors or not bytes_of(port.tensor).all():
                raise InternalError(f"output {port.name} is never written")
            if math.prod(port.shape) != self.tensors[port.tensor].size:
                raise InternalError(f"output {port.name} has another size than its tensor")
        for tensor in self.tensors.values():
            if tensor.size <= 0 or not math.isfinite(tensor.quant.scale) or tensor.quant.scale <= 0:
                raise InternalError(f"tensor {tensor.name} has shape {tensor.shape} and scale {tensor.quant.scale}")
            if tensor.dtype != tensor.quant.dtype and not tensor.indices:
                raise InternalError(f"tensor {tensor.name} is {tensor.dtype}, its quantization {tensor.quant.dtype}")
            if tensor.quant.wide and tensor.quant.zero_point:
                raise InternalError(f"tensor {tensor.name} has 16 bits and zero point {tensor.quant.zero_point}")

    def _verify_views(self) -> None:
        ports = {port.tensor for port in (*self.inputs, *self.outputs)}
        for name, view in self.views.items():
            own, home = self.tensors[name], self.tensors[view.home]
            if name in ports or own.dtype != home.dtype or view.start < 0 or view.start + own.size > home.size:
                raise InternalError(f"tensor {name} cannot lie in {view.home} from {view.start} on")

    def to_json(self) -> str:
        """The network as readable JSON; big constants appear by their digest."""

        def constant(array: Array) -> dict[str, Any]:
            data = np.ascontiguousarray(array)
            little = data.astype(data.dtype.newbyteorder("<"))
            digest = hashlib.sha256(little.tobytes()).hexdigest()
            return {"dtype": str(data.dtype), "shape": list(data.shape), "sha256": digest}

        document = {
            "rounding": "single" if self.single_rounding else "double",
            "inputs": [asdict(port) for port in self.inputs],
            "outputs": [asdict(port) for port in self.outputs],
            "tensors": [_as_json(self.tensors[name]) for name in sorted(self.tensors)],
            "layers": [
                {
                    "name": layer.name,
                    "op": layer.op,
                    "node": layer.node,
                    "inputs": list(layer.inputs),
                    "output": layer.output,
                    "params": asdict(layer.params),
                    "constants": {key: constant(layer.constants[key]) for key in sorted(layer.constants)},
                }
                for layer in self.layers
            ],
        }
        return json.dumps(document, indent=1, ensure_ascii=True) + "\n"

    def model_id(self) -> int:
        """First 32 bits of the SHA-256 of the integer network: two builds with equal ids compute equal bytes."""
        return int.from_bytes(hashlib.sha256(self.to_json().encode()).digest()[:4], "big")


def _as_json(tensor: Tensor) -> dict[str, Any]:
    """Its fields; the type only where it is another than int8, so that ids of networks stay what they were."""
    fields = asdict(tensor)
    del fields["quant"]["dtype"]
    return fields if tensor.dtype != "int8" else {name: fields[name] for name in ("name", "shape", "quant")}
