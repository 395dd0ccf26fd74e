"""Lowering: a QDQ model, ours or anybody's, becomes an integer `Network`.

The walk visits ONNX nodes in order. DequantizeLinear only names the real value of an int8 tensor; an operator between
DequantizeLinear and QuantizeLinear becomes a layer whose parameters are integers; QuantizeLinear behind a view is
either the same scale (nothing) or a 256-entry table. Layout changes are offsets (see `nnbuild.layout`), not layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from nnbuild import layout, qdq
from nnbuild.errors import Finding, ModelError
from nnbuild.network import Array, Layer, Network, Port, QuantParams, Tensor
from nnbuild.placeholder import array_of
from nnbuild.remarks import Remark, remarked
from nnbuild.states import keeps_states
from nnbuild.streams.stream import stream_of

_STORED = frozenset((onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16))
"""Element types of quantized values."""

_STORED_TAKEN = frozenset(("MaxPool", "Pad", "ReduceMax", "ReduceMin"))
"""Operators that pick one of their values, or put a stored one around them: they may take integers as they are."""

_PASSING = frozenset(("Clip", "Concat", "MaxPool", "Pad", "Relu"))
"""Operators in front of an input's first QuantizeLinear: quantized before or behind them, values are the same."""


@dataclass(frozen=True, slots=True)
class Activation:
    """A value that is computed: the tensor it lies in, and the offset of each element (in the shape of the value)."""

    tensor: str
    index: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the ONNX value."""
        return tuple(self.index.shape)


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that is known: `values` as stored, and its quantization where it has one.

    `scale` and `zero_point` are arrays that broadcast against `values`; `scale` is None for plain float or integer.
    """

    values: Array
    scale: Array | None = None
    zero_point: Array | None = None

    def real(self) -> Array:
        """float64 values."""
        values = self.values.astype(np.float64)
        if self.scale is None or self.zero_point is None:
            return values
        return (values - self.zero_point.astype(np.float64)) * self.scale.astype(np.float64)


@dataclass(frozen=True, slots=True)
class Output:
    """Where an operator's result goes: the ONNX value, its parameters, and the clamp that is part of the operator."""

    value: str
    quant: QuantParams
    activation_min: int
    activation_max: int


class Lowering:
    """The state of one walk. Operators read their inputs from it and add their layers to it."""

    def __init__(self, model: onnx.ModelProto, where: str, input_layout: str) -> None:
        self.graph = model.graph
        self.where = where
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.values: dict[str, Activation | Constant] = {}
        self.tensors: dict[str, Tensor] = {}
        self.layers: list[Layer] = []
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.input_layout = input_layout
        self.keeps_states = keeps_states(model)
        self.synthetic = remarked(model, Remark.SYNTHETIC)
        self.shapes = qdq.shapes(self.graph)
        self.types = qdq.types(self.graph)
        self.readers = qdq.readers(self.graph)
        self.graph_outputs = {output.name for output in self.graph.output}
        self.absorbed: set[str] = set()
        for initializer in self.graph.initializer:
            self.values[initializer.name] = Constant(array_of(initializer))

    # What operators read.

    def activation(
        self, node: onnx.NodeProto, position: int = 0, indices: bool = False, wide: bool = False
    ) -> Activation:
        """Input `position` of `node`, which must be a quantized activation of 8 bits.

        With `indices` it may be integers or have 16 bits, with `wide` it may have 16 bits.
        """
        value = self.values.get(node.input[position])
        if not isinstance(value, Activation):
            raise self.refuse(node, f"input {position} is not a quantized activation", "quantize the whole model")
        tensor = self.tensors[value.tensor]
        if tensor.indices and not indices:
            raise self.refuse(node, f"input {position} are indices, which only views may read", "do it in C")
        if tensor.quant.wide and not (indices or wide):
            hint = "quantize it to int8 in front of this node"
            raise self.refuse(node, f"input {position} is int16, which this operator does not take", hint)
        return value

    def constant(self, node: onnx.NodeProto, position: int) -> Constant | None:
        """Input `position` of `node` where it is known, else None (also where the input is left out)."""
        if position >= len(node.input) or not node.input[position]:
            return None
        value = self.values.get(node.input[position])
        return value if isinstance(value, Constant) else None

    def quant(self, activation: Activation) -> QuantParams:
        """Parameters of the tensor that holds `activation`."""
        return self.tensors[activation.tensor].quant

    def output(self, node: onnx.NodeProto, default: QuantParams | None = None, wide: bool = False) -> Output:
        """Follow the only reader of `node`'s output through clamps to its QuantizeLinear and absorb those nodes.

        Views in front of a QuantizeLinear stay, and it finds its parameters there already. `default` serves an output
        that nobody quantizes, for operators whose output scale is fixed or that of their input. Only with `wide` it may
        have 16 bits.
        """
        value, low, high = node.output[0], -math.inf, math.inf
        while True:
            reader = self._only_reader(value)
            bounds = qdq.clamp_bounds(reader, self.known) if reader is not None else None
            if reader is None or bounds is None:
                break
            low, high = min(max(low, bounds[0]), bounds[1]), max(min(high, bounds[1]), bounds[0])
            self.absorbed.add(reader.output[0])
            value = reader.output[0]
        if reader is not None and reader.op_type == "QuantizeLinear":
            quant = self.parameters(reader)
            self.absorbed.add(reader.output[0])
            value = reader.output[0]
        elif (ahead := self._quantizer_ahead(value)) is not None:
            quant = self.parameters(ahead)
        elif default is not None:
            quant = default
        else:
            raise self._unquantized(node, value)
        if quant.wide and not wide:
            hint = "quantize it to int8, or have it rescaled behind that"
            raise self.refuse(node, "its output is int16, which this operator does not write", hint)
        return Output(value, quant, qdq.quantized_bound(low, quant), qdq.quantized_bound(high, quant))

    def _unquantized(self, node: onnx.NodeProto, value: str) -> ModelError:
        """The refusal of `node`, whose result is `value` behind its clamps and has no scale."""
        found = self.readers.get(value, ())
        if value in self.graph_outputs and not found:
            hint = "let the tool that quantized the model quantize its output too"
            return self.refuse(node, f"the model's output '{value}' is left in float", hint)
        others = [reader for reader in found if reader.op_type != "QuantizeLinear"]
        if others:
            spot = f"'{qdq.name(others[0])}' ({others[0].op_type})"
            hint = "quantize the whole model, or give the float model and calibration samples"
            return self.refuse(node, f"its output is not quantized: node {spot} reads it in float", hint)
        message = "its output is quantized in several ways" if found else "its output is not quantized"
        return self.refuse(node, message, "every layer needs one QuantizeLinear behind it; quantize the whole model")

    def _quantizer_ahead(self, value: str) -> onnx.NodeProto | None:
        """The QuantizeLinear that alone reads `value` behind views: those move values and leave the scale to it."""
        reader = self._only_reader(value)
        while reader is not None and reader.op_type in qdq.VIEWS:
            reader = self._only_reader(reader.output[0])
        return reader if reader is not None and reader.op_type == "QuantizeLinear" else None

    def parameters(self, node: onnx.NodeProto) -> QuantParams:
        """Scale and zero point of a QuantizeLinear or DequantizeLinear of an activation; uint8 becomes int8."""
        scale, zero_point = self.constant(node, 1), self.constant(node, 2)
        if scale is None or scale.values.size != 1:
            raise self.refuse(node, "activations need one constant scale", "quantize activations per tensor")
        zero = np.zeros(1, np.uint8) if zero_point is None else zero_point.values.ravel()
        if zero.size != 1:
            raise self.refuse(node, f"{zero.size} zero points for one scale", "quantize activations per tensor")
        if zero.dtype not in (np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int16)):
            raise self.refuse(node, f"activations of {zero.dtype} are not supported", "use int8, uint8 or int16")
        if zero.dtype == np.int16 and zero[0]:
            raise self.refuse(node, f"int16 with zero point {int(zero[0])} is not supported", "quantize symmetrically")
        offset = 128 if zero.dtype == np.uint8 else 0
        dtype = "int16" if zero.dtype == np.int16 else "int8"
        quant = QuantParams(float(np.float32(scale.values.ravel()[0])), int(zero[0]) - offset, dtype)
        if not (math.isfinite(quant.scale) and quant.scale > 0):
            raise self.refuse(node, f"scale {quant.scale} is not a positive number")
        return quant

    def refuse(self, node: onnx.NodeProto, message: str, hint: str = "") -> ModelError:
        """The error that says why this model's `node` cannot be served."""
        return ModelError(message, qdq.place(self.where, node), hint)

    # What operators write.

    def arrange(self, activation: Activation, wanted: Array, node: onnx.NodeProto, shape: Sequence[int]) -> str:
        """The name of a tensor of `shape` that holds the elements at offsets `wanted` in order; copies if it must."""
        tensor = self.tensors[activation.tensor]
        flat = wanted.ravel()
        if flat.size == tensor.size and layout.is_contiguous(flat):
            return activation.tensor
        if tensor.indices:
            raise self.refuse(node, "indices cannot be moved about", "do it in C")
        from nnbuild.ops.transpose import copy

        params, constants = copy(flat)
        return self.layer("transpose", (activation.tensor,), tuple(shape), tensor.quant, params, constants, node)

    def channels_last(self, activation: Activation, node: onnx.NodeProto) -> tuple[str, tuple[int, int, int]]:
        """The tensor that holds a value (1, C, H, W) or (1, C, L) as (height, width, channels), and those three.

        Height is 1 for a value of one spatial axis.
        """
        index = activation.index
        if index.ndim == 3:
            index = index[:, :, None, :]
        if index.ndim != 4 or index.shape[0] != 1:
            shape = "x".join(str(n) for n in activation.shape)
            raise self.refuse(node, f"input of shape {shape} is not supported", "batch 1 and one or two spatial axes")
        last = layout.channels_last(index)
        _, height, width, channels = last.shape
        return self.arrange(activation, last, node, last.shape[1:]), (height, width, channels)

    def layer(
        self,
        op: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        quant: QuantParams,
        params: Any,
        constants: Mapping[str, Array],
        node: onnx.NodeProto,
        dtype: str = "",
    ) -> str:
        """Add a layer; returns the name of its output tensor, which has the type of `quant` unless `dtype` says so."""
        name = f"l{len(self.layers):02d}_{op}"
        self.tensors[name] = Tensor(name, shape, quant, dtype or quant.dtype)
        self.layers.append(Layer(name, op, inputs, name, params, dict(constants), qdq.name(node)))
        return name

    def define(self, value: str, tensor: str, index: Array) -> None:
        """The ONNX value `value` is `tensor`, its elements at `index`."""
        self.values[value] = Activation(tensor, index)

    def define_spatial(self, value: str, tensor: str, rank: int) -> None:
        """The ONNX value (1, C, H, W), or (1, C, L) for rank 3, is the tensor (height, width, channels)."""
        self.define(value, tensor, self.spatial_index(tensor, rank))

    def spatial_index(self, tensor: str, rank: int) -> Array:
        """Where the elements of (1, C, H, W), or (1, C, L) for rank 3, lie in `tensor` (height, width, channels)."""
        height, width, channels = self.tensors[tensor].shape
        index = layout.contiguous((1, height, width, channels)).transpose(0, 3, 1, 2)
        return index[:, :, 0, :] if rank == 3 else index

    # The walk.

    def run(self) -> Network:
        """Lower the whole graph; ModelError lists every node that cannot be."""
        from nnbuild.ops import BY_ONNX

        for graph_input in self.graph.input:
            if graph_input.name not in self.values:
                self._input(graph_input)
        findings: list[Finding] = []
        for node in self.graph.node:
            try:
                self._visit(node, BY_ONNX)
            except ModelError as error:
                findings.extend(error.findings)
        if findings:
            raise ModelError.of(findings)
        for output in self.graph.output:
            self._output(output)
        network = Network(
            self.tensors, tuple(self.layers), tuple(self.inputs), tuple(self.outputs), synthetic=self.synthetic
        )
        network.verify()
        return network

    def _visit(self, node: onnx.NodeProto, operators: Mapping[str, Any]) -> None:
        refused_before = any(name and name not in self.values for name in node.input)
        if node.output[0] in self.absorbed or refused_before:
            return
        if node.op_type == "QuantizeLinear":
            self._quantize(node)
        elif node.op_type == "DequantizeLinear":
            self._dequantize(node)
        elif node.op_type in operators:
            self._check_integers(node)
            operators[node.op_type].lower(self, node)
        else:
            raise self.refuse(node, "this operator is not supported", "`python -m nnbuild ops` lists what is")

    def _check_integers(self, node: onnx.NodeProto) -> None:
        """Refuse arithmetic on integers as they are stored: its meaning is not that of the real values."""
        if node.op_type in qdq.VIEWS or node.op_type in _STORED_TAKEN:
            return
        for name in node.input:
            if self.types.get(name) in _STORED and isinstance(self.values.get(name), Activation):
                hint = "put a DequantizeLinear in front of it and a QuantizeLinear behind it"
                raise self.refuse(node, f"it computes with the integers of '{name}' as they are stored", hint)

    def _input(self, value: onnx.ValueInfoProto) -> None:
        """An input of integers is an activation at once; a float one at its QuantizeLinear."""
        name = value.name
        kind = value.type.tensor_type.elem_type
        first = self._first_quantization(name)
        if kind != onnx.TensorProto.FLOAT and kind not in _STORED:
            kind_name = onnx.TensorProto.DataType.Name(kind)
            raise ModelError(f"input '{name}' is {kind_name}", self.where, "inputs are float, int8, uint8 or int16")
        if first is None and name in self.readers:
            hint = "calibrate and quantize it first, or feed it through QuantizeLinear"
            raise ModelError(f"input '{name}' is never quantized", self.where, hint)
        # What nobody reads has no scale, and stays an argument: the model's interface is not ours to change.
        quant = QuantParams(1.0, 0) if first is None else self.parameters(first)
        shape = self.shapes[name]
        tensor = f"input{len(self.inputs)}"
        index = layout.contiguous(shape)
        words = "x".join(str(n) for n in shape)
        if self.input_layout == "NHWC" and len(shape) in (3, 4):
            last = (shape[0], *shape[2:], shape[1])
            index = np.moveaxis(layout.contiguous(last), -1, 1)
            words = "x".join(str(n) for n in last)
            shape = last
        self.tensors[tensor] = Tensor(tensor, layout.memory_shape(shape), quant, quant.dtype)
        self.inputs.append(Port(name, tensor, tuple(shape), words))
        self.values[name] = Activation(tensor, index)

    def _first_quantization(self, value: str) -> onnx.NodeProto | None:
        """The node that gives the input its scale: its first Q or DQ, through views.

        Also through one reader that lets values be or limits them, so that quantizing first gives the same.
        """
        found = self.readers.get(value, ())
        direct = [reader for reader in found if reader.op_type in ("QuantizeLinear", "DequantizeLinear")]
        if direct:
            return direct[0]
        for reader in found:
            if reader.op_type in qdq.VIEWS or (len(found) == 1 and reader.op_type in _PASSING):
                first = self._first_quantization(reader.output[0])
                if first is not None:
                    return first
        return None

    def _only_reader(self, value: str) -> onnx.NodeProto | None:
        found = self.readers.get(value, ())
        return found[0] if len(found) == 1 and value not in self.graph_outputs else None

    def known(self, name: str) -> Array | None:
        """Real values of the ONNX value `name` where they are known."""
        value = self.values.get(name)
        return value.real() if isinstance(value, Constant) else None

    def stored(self, name: str) -> Array | None:
        """The ONNX value `name` as it is stored, where it is known."""
        value = self.values.get(name)
        return value.values if isinstance(value, Constant) else None

    def _quantize(self, node: onnx.NodeProto) -> None:
        value = self.values[node.input[0]]
        if isinstance(value, Constant):
            self.values[node.output[0]] = self._quantized_constant(node, value)
            return
        quant = self.parameters(node)
        if quant == self.quant(value):
            self.values[node.output[0]] = value
            return
        from nnbuild.ops import lookup, rescale

        requantize = rescale.requantize if quant.wide or self.quant(value).wide else lookup.requantize
        requantize(self, node, value, quant)

    def _quantized_constant(self, node: onnx.NodeProto, value: Constant) -> Constant:
        """QuantizeLinear of a known float value, such as the float weights that some exporters keep."""
        scale, zero_point, _ = self._scales(node, value.values)
        low, high = np.iinfo(zero_point.dtype).min, np.iinfo(zero_point.dtype).max
        scaled = np.rint(value.values.astype(np.float32) / scale.astype(np.float32)) + zero_point.astype(np.float32)
        return Constant(np.clip(scaled, low, high).astype(zero_point.dtype))

    def _dequantize(self, node: onnx.NodeProto) -> None:
        value = self.values[node.input[0]]
        if isinstance(value, Activation):
            if self.parameters(node) != self.quant(value):
                raise self.refuse(node, "dequantizes with another scale than its input was quantized with")
            self.values[node.output[0]] = value
            return
        scale, zero_point, offset = self._scales(node, value.values)
        values = value.values.astype(np.int64) - offset
        self.values[node.output[0]] = Constant(values, scale, zero_point.astype(np.int64) - offset)

    def _scales(self, node: onnx.NodeProto, values: Array) -> tuple[Array, Array, int]:
        """Scale and zero point of a constant, shaped to broadcast against it; and 128 for uint8, which becomes int8."""
        scale, zero_point = self.constant(node, 1), self.constant(node, 2)
        if scale is None:
            raise self.refuse(node, "its scale is not constant")
        zeros = np.zeros(scale.values.shape, np.uint8) if zero_point is None else zero_point.values
        if zeros.size != scale.values.size or scale.values.size == 0:
            raise self.refuse(node, f"{zeros.size} zero points for {scale.values.size} scales")
        if not (np.isfinite(scale.values).all() and (scale.values > 0).all()):
            raise self.refuse(node, "a scale is not a positive number")
        shape = [1] * values.ndim
        if scale.values.size > 1:
            axis = qdq.attribute(node, "axis", 1)
            known_axis = -values.ndim <= axis < values.ndim
            if scale.values.ndim != 1 or not known_axis or values.shape[axis] != scale.values.size:
                raise self.refuse(node, "blocked quantization is not supported", "quantize per tensor or per channel")
            shape[axis] = scale.values.size
        offset = 128 if zeros.dtype == np.uint8 and values.dtype == np.uint8 else 0
        return scale.values.reshape(shape), zeros.reshape(shape), offset

    def _output(self, value: onnx.ValueInfoProto) -> Port:
        """An output is a tensor of its own in the order of its ONNX shape."""
        produced = self.values.get(value.name)
        if not isinstance(produced, Activation):
            raise ModelError(f"output '{value.name}' does not depend on an input", self.where)
        node = onnx.helper.make_node("Identity", [value.name], [value.name], name=value.name)
        tensor = self.arrange(produced, produced.index, node, produced.shape)
        taken = {port.tensor for port in (*self.inputs, *self.outputs)}
        if tensor in taken and self.tensors[tensor].indices:
            raise self.refuse(node, "indices are an output already", "take it once")
        if tensor in taken:
            from nnbuild.ops.transpose import copy

            source = self.tensors[tensor]
            params, constants = copy(layout.contiguous((source.size,)))
            tensor = self.layer("transpose", (tensor,), produced.shape, source.quant, params, constants, node)
        port = Port(value.name, tensor, produced.shape, "x".join(str(n) for n in produced.shape))
        self.outputs.append(port)
        return port


def lower(model: onnx.ModelProto, where: str = "", input_layout: str = "", single_rounding: bool = False) -> Network:
    """QDQ model with static shapes -> verified Network.

    `where` names the file in messages; `input_layout="NHWC"` makes the model take (N, C, H, W) inputs channels last;
    `single_rounding` is for firmware whose CMSIS-NN is built with CMSIS_NN_USE_SINGLE_ROUNDING.
    A model that is a stream becomes one. ModelError lists every node that cannot be lowered, or cannot be streamed.
    """
    network, stream = traced(model, where, input_layout, single_rounding)[0], stream_of(model)
    if stream is None:
        return network
    from nnbuild.streams.over_time import streamed

    return streamed(network, stream, where, input_layout)


def traced(
    model: onnx.ModelProto, where: str = "", input_layout: str = "", single_rounding: bool = False
) -> tuple[Network, Mapping[str, Activation]]:
    """The network over its whole window, and where in it each ONNX value lies, in the order of the graph.

    A value that a QuantizeLinear reads is there too: `v` in front of `v_quantized` lies where that does.
    """
    lowering = Lowering(model, where, input_layout)
    network = replace(lowering.run(), single_rounding=single_rounding)
    found: dict[str, Activation] = {}
    for name, value in lowering.values.items():
        if isinstance(value, Activation):
            found[name] = value
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and (result := found.get(node.output[0])) is not None:
            found.setdefault(node.input[0], result)
    return network, found
