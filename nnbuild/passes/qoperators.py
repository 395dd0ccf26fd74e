"""Models in the QOperator format (QLinearConv and its like) become QDQ: the same integers, said in another way.

`QLinearX(a, a_scale, a_zero_point, ..., y_scale, y_zero_point)` is `X` of dequantized inputs, quantized. ONNX has
QLinearConv and QLinearMatMul; onnxruntime's quantizer writes the others in the domain com.microsoft.
Works on the file as it was read, before anything is folded; a node that it leaves is refused later, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from nnbuild.network import Array

DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True, slots=True)
class _Form:
    """How one operator lists its inputs, as positions of a value; scale and zero point stand behind it.

    `channels` gives the axis along which the weights, the second value, may have scales. `output` is the position of
    the output's scale, `bias` that of an int32 bias.
    """

    kind: str
    values: tuple[int, ...]
    output: int
    bias: int | None = None
    channels: Callable[[NodeProto, Array], int] = lambda node, weights: weights.ndim - 1


def _gemm_channels(node: NodeProto, weights: Array) -> int:
    return 0 if any(entry.name == "transB" and entry.i for entry in node.attribute) else 1


_FORMS: Mapping[str, _Form] = {
    "QLinearConv": _Form("Conv", (0, 3), 6, 8, lambda node, weights: 0),
    "QLinearMatMul": _Form("MatMul", (0, 3), 6),
    "QGemm": _Form("Gemm", (0, 3), 7, 6, _gemm_channels),
    "QLinearAdd": _Form("Add", (0, 3), 6),
    "QLinearMul": _Form("Mul", (0, 3), 6),
    "QLinearAveragePool": _Form("AveragePool", (0,), 3),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", (0,), 3),
    "QLinearLeakyRelu": _Form("LeakyRelu", (0,), 3),
    "QLinearReduceMean": _Form("ReduceMean", (0,), 3),
    "QLinearSigmoid": _Form("Sigmoid", (0,), 3),
    "QLinearSoftmax": _Form("Softmax", (0,), 3),
}


def known(node: NodeProto) -> bool:
    """Whether `expand` knows the operator of `node`."""
    return node.domain in DOMAINS and node.op_type in _FORMS


# Attributes of the domain com.microsoft that the ONNX operator does not have, where they say nothing.
_SILENT = {"channels_last": 0}


class _Expansion:
    """The walk over one graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.names = {name for node in self.graph.node for name in (*node.input, *node.output)} | set(self.constants)
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        for node in self.graph.node:
            form = self._form(node)
            if form is None or not self._expand(node, form):
                self.nodes.append(node)
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _form(self, node: NodeProto) -> _Form | None:
        if node.domain not in DOMAINS:
            return None
        if node.op_type == "QLinearConcat":
            return _Form("Concat", tuple(range(2, len(node.input), 3)), 0)
        return _FORMS.get(node.op_type)

    def _expand(self, node: NodeProto, form: _Form) -> bool:
        """Add the float operator between Q and DQ; False, with nothing added, where it has no such form."""
        attributes = self._attributes(node)
        if attributes is None or form.output >= len(node.input) or not node.input[form.output]:
            return False
        bias = self._input(node, form.bias)
        bias_scale = self._bias_scale(node) if bias else None
        if bias and bias_scale is None:
            return False
        inputs = [self._dequantized(node, form, position) for position in form.values]
        if bias and bias_scale is not None:
            inputs.append(self._dequantized_bias(bias, bias_scale))
        output = node.output[0]
        value = self._unique(f"{output}_float")
        self.nodes.append(helper.make_node(form.kind, inputs, [value], name=node.name or output))
        self.nodes[-1].attribute.extend(attributes)
        scale = [node.input[form.output], self._input(node, form.output + 1)]
        self.nodes.append(self._node("QuantizeLinear", [value, *(name for name in scale if name)], output))
        return True

    def _attributes(self, node: NodeProto) -> list[onnx.AttributeProto] | None:
        """Those that the float operator has; None where one of the others says something that it cannot."""
        kept = []
        for entry in node.attribute:
            if entry.name in _SILENT:
                if entry.i != _SILENT[entry.name]:
                    return None
            elif node.op_type == "QLinearSoftmax" and entry.name == "opset":
                # It says whose definition of the axis holds: that of this model, or there is no such form.
                if (entry.i < 13) != (self._opset() < 13):
                    return None
            else:
                kept.append(entry)
        return kept

    def _opset(self) -> int:
        return max((entry.version for entry in self.model.opset_import if entry.domain in DOMAINS[:2]), default=0)

    def _input(self, node: NodeProto, position: int | None) -> str:
        return node.input[position] if position is not None and position < len(node.input) else ""

    def _array(self, name: str) -> Array | None:
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _dequantized(self, node: NodeProto, form: _Form, position: int) -> str:
        value, scale, zero_point = (self._input(node, position + offset) for offset in range(3))
        result = self._unique(f"{value}_dequantized")
        entry = self._node("DequantizeLinear", [name for name in (value, scale, zero_point) if name], result)
        tensor, factors = self.constants.get(value), self.constants.get(scale)
        if (position,) == form.values[1:2] and tensor is not None and factors is not None and _several(factors):
            entry.attribute.append(helper.make_attribute("axis", form.channels(node, np.empty(tuple(tensor.dims)))))
        self.nodes.append(entry)
        return result

    def _bias_scale(self, node: NodeProto) -> Array | None:
        """The scale that the format defines for an int32 bias: input * weights."""
        scales = [self._array(self._input(node, position)) for position in (1, 4)]
        if scales[0] is None or scales[1] is None or scales[0].size != 1:
            return None
        return np.asarray(np.float32(scales[0]) * np.float32(scales[1]), np.float32)

    def _dequantized_bias(self, bias: str, scale: Array) -> str:
        result = self._unique(f"{bias}_dequantized")
        name = self._unique(f"{bias}_scale")
        self.graph.initializer.append(numpy_helper.from_array(scale.reshape(-1) if scale.size > 1 else scale, name))
        entry = self._node("DequantizeLinear", [bias, name], result)
        if scale.size > 1:
            entry.attribute.append(helper.make_attribute("axis", 0))
        self.nodes.append(entry)
        return result

    def _node(self, kind: str, inputs: list[str], output: str) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=self._unique(f"{output}_{kind}"))

    def _unique(self, wish: str) -> str:
        name, count = wish, 1
        while name in self.names:
            count += 1
            name = f"{wish}_{count}"
        self.names.add(name)
        return name


def _several(scale: TensorProto) -> bool:
    return len(scale.dims) == 1 and scale.dims[0] > 1


def expand(model: onnx.ModelProto) -> None:
    """Rewrite `model` where it holds operators of the QOperator format."""
    if any(node.op_type in _FORMS or node.op_type == "QLinearConcat" for node in model.graph.node):
        _Expansion(model).run()
