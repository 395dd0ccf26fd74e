"""One edit of an ONNX model that leaves a file which can be read, and mostly a network that makes no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Random = np.random.Generator

NUMBERS = (-(2**31), -3, -1, 0, 1, 2, 3, 5, 64, 1000, 2**31 - 1, 2**40)
REALS = (0.0, -1.0, 1e-38, 1e-9, 3e38, np.nan, np.inf, -np.inf)
_KIND_NAMES = (
    "Add Conv MatMul Gemm MaxPool AveragePool GlobalAveragePool ReduceMean Pad Clip Relu Min Max Tanh Softmax "
    "LayerNormalization Transpose Reshape Flatten Squeeze Unsqueeze QuantizeLinear DequantizeLinear Identity Cast "
    "Dropout Concat Mul Nonsense"
)
KINDS = tuple(_KIND_NAMES.split())
TYPES = (np.int8, np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64, np.float16, np.bool_)


def damage(model: onnx.ModelProto, rng: Random) -> None:
    """Edit `model` in place in one of the ways below."""
    WAYS[int(rng.integers(len(WAYS)))](model, rng)


def _some(items: Any, rng: Random) -> Any:
    return items[int(rng.integers(len(items)))]


def _node(model: onnx.ModelProto, rng: Random) -> Any:
    return _some(model.graph.node, rng) if model.graph.node else onnx.NodeProto()


def _drop_node(model: onnx.ModelProto, rng: Random) -> None:
    if model.graph.node:
        del model.graph.node[int(rng.integers(len(model.graph.node)))]


def _drop_initializer(model: onnx.ModelProto, rng: Random) -> None:
    if model.graph.initializer:
        del model.graph.initializer[int(rng.integers(len(model.graph.initializer)))]


def _values(model: onnx.ModelProto, rng: Random) -> None:
    """Other values in an initializer: corners of floats, or of integers."""
    if not model.graph.initializer:
        return
    tensor = _some(model.graph.initializer, rng)
    array = np.array(numpy_helper.to_array(tensor))
    with np.errstate(all="ignore"):
        corner = np.array(_some(REALS if array.dtype.kind == "f" else NUMBERS, rng)).astype(array.dtype)
    if array.size and rng.integers(2):
        array.reshape(-1)[int(rng.integers(array.size))] = corner
    else:
        array[...] = corner
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _shape(model: onnx.ModelProto, rng: Random) -> None:
    """Another shape of an initializer: flat, doubled, scalar or empty."""
    if not model.graph.initializer:
        return
    tensor = _some(model.graph.initializer, rng)
    array = numpy_helper.to_array(tensor)
    flat = array.reshape(-1)
    other = (
        _some((flat, np.concatenate([flat, flat]), array[None], flat[:0], flat[:1].reshape(())), rng)
        if flat.size
        else flat
    )
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(other).reshape(other.shape), tensor.name))


def _type(model: onnx.ModelProto, rng: Random) -> None:
    if not model.graph.initializer:
        return
    tensor = _some(model.graph.initializer, rng)
    with np.errstate(all="ignore"):
        array = numpy_helper.to_array(tensor).astype(_some(TYPES, rng))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _attribute(model: onnx.ModelProto, rng: Random) -> None:
    """Another number in an attribute, one more or fewer, or none."""
    holders = [node for node in model.graph.node if node.attribute]
    if not holders:
        return
    node = _some(holders, rng)
    entry = _some(node.attribute, rng)
    value: Any = helper.get_attribute_value(entry)
    if isinstance(value, int):
        value = _some(NUMBERS, rng)
    elif isinstance(value, float):
        value = float(_some(REALS, rng))
    elif isinstance(value, bytes):
        value = _some(("NOTSET", "VALID", "SAME_UPPER", "", "x\n*/"), rng)
    elif not isinstance(value, (list, tuple)):
        node.attribute.remove(entry)
        return
    else:
        numbers = list(value)
        position = int(rng.integers(len(numbers) + 1))
        numbers[position : position + int(rng.integers(3))] = [_some(NUMBERS, rng)] * int(rng.integers(3))
        value = numbers or [1]
    name = entry.name
    node.attribute.remove(entry)
    if rng.integers(4):
        node.attribute.append(helper.make_attribute(name, value))


def _wire(model: onnx.ModelProto, rng: Random) -> None:
    """Another value, or none, in place of an input."""
    node = _node(model, rng)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    if node.input:
        position = int(rng.integers(len(node.input)))
        node.input[position] = _some(("", *names), rng)
        if not rng.integers(3):
            del node.input[position]


def _kind(model: onnx.ModelProto, rng: Random) -> None:
    _node(model, rng).op_type = _some(KINDS, rng)


def _opset(model: onnx.ModelProto, rng: Random) -> None:
    model.opset_import[0].version = int(rng.integers(1, 27))


def _port(model: onnx.ModelProto, rng: Random) -> None:
    """Another declared shape or type of an input or output."""
    port = _some([*model.graph.input, *model.graph.output], rng)
    kind = port.type.tensor_type
    dims = kind.shape.dim
    if rng.integers(3) == 0:
        kind.elem_type = int(_some((TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT64), rng))
    elif rng.integers(3) == 0:
        kind.ClearField("shape")
    elif len(dims) and rng.integers(2):
        dim = _some(dims, rng)
        if rng.integers(2):
            dim.dim_value = int(_some(NUMBERS, rng))
        else:
            dim.dim_param = "N"
    else:
        dims.add().dim_value = int(_some(NUMBERS, rng))


WAYS = (
    _drop_node,
    _drop_initializer,
    _values,
    _values,
    _shape,
    _type,
    _attribute,
    _attribute,
    _wire,
    _kind,
    _opset,
    _port,
)
