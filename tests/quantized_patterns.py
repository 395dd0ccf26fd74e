"""Quantized models as other tools write them, node by node: what the tests of foreign models are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from nnbuild import interpret, pipeline
from nnbuild.lower import lower
from nnbuild.network import Array, Network
from tests.graphs import model, node, run, save


@dataclass
class Pattern:
    """A graph that grows: nodes with their constants. Values are named by their writers."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)

    def add(self, kind: str, inputs: str, output: str, **attributes: Any) -> str:
        """A node; returns its output."""
        self.nodes.append(node(kind, inputs, output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = value
        return name

    def parameters(self, name: str, scale: Any, zero_point: Any) -> str:
        """The inputs of a QuantizeLinear or DequantizeLinear behind the value."""
        names = self.constant(f"{name}_scale", np.float32(scale)), self.constant(f"{name}_zero", zero_point)
        return " ".join(names)

    def quantize(self, value: str, scale: float, zero_point: Any, **attributes: Any) -> str:
        """QuantizeLinear -> DequantizeLinear of an activation; returns the real value."""
        parameters = self.parameters(value, scale, zero_point)
        stored = self.add("QuantizeLinear", f"{value} {parameters}", f"{value}_q", **attributes)
        return self.add("DequantizeLinear", f"{stored} {parameters}", f"{value}_dq", **attributes)

    def clip(self, value: str, scale: float, zero_point: Any, low: int, high: int) -> str:
        """QuantizeLinear -> Clip -> DequantizeLinear, the QCDQ of Brevitas; returns the real value."""
        parameters, kind = self.parameters(value, scale, zero_point), np.asarray(zero_point).dtype
        self.add("QuantizeLinear", f"{value} {parameters}", f"{value}_q")
        bounds = self.constant(f"{value}_low", kind.type(low)), self.constant(f"{value}_high", kind.type(high))
        self.add("Clip", f"{value}_q {bounds[0]} {bounds[1]}", f"{value}_c")
        return self.add("DequantizeLinear", f"{value}_c {parameters}", f"{value}_dq")

    def weights(self, name: str, values: Array, scale: Any, axis: int | None = None) -> str:
        """DequantizeLinear of integers; `scale` is one number, or one for each channel along `axis`."""
        self.constant(name, values)
        scales = np.asarray(scale, np.float32)
        parameters = self.parameters(name, scales, np.zeros(scales.shape, values.dtype))
        attributes = {} if axis is None else {"axis": axis}
        return self.add("DequantizeLinear", f"{name} {parameters}", f"{name}_dq", **attributes)

    def model(self, shape: list[int], outputs: list[str], opset: int = 17) -> onnx.ModelProto:
        return model(self.nodes, {"x": shape}, outputs, self.constants, opset=opset)


def integers(*shape: int, seed: int = 0, bits: int = 8) -> Array:
    """Weights from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1."""
    most = 2 ** (bits - 1) - 1
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.int8)


def build(folder: Path, proto: onnx.ModelProto) -> Network:
    """The integer network that nnbuild makes of the file."""
    content = pipeline.quantized(pipeline.Request(str(save(folder, proto)))).content
    return lower(onnx.load_model_from_string(content))


def compare(folder: Path, proto: onnx.ModelProto, layers: list[str], steps: int = 1, equal: float = 0.9) -> Network:
    """Build `proto`: it has these layers, and its outputs are those of onnxruntime, at most `steps` off and mostly not.

    Copies into another order are not counted. onnxruntime rounds halves to even, TensorFlow Lite away from zero.
    """
    network = build(folder, proto)
    assert [layer.op for layer in network.layers if layer.op != "transpose"] == layers
    port, result = network.inputs[0], network.outputs[0]
    quant, scale = network.tensors[port.tensor].quant, network.tensors[result.tensor].quant
    rng = np.random.default_rng(1)
    far: list[Array] = []
    for _ in range(20):
        sample = rng.normal(0, 1.5, port.shape).astype(np.float32)
        ours = interpret.run(network, [quant.quantize(sample)])[0]
        theirs = run(_plain(proto), {port.name: sample})[0]
        difference = theirs.astype(np.float64) / scale.scale + scale.zero_point - ours.reshape(theirs.shape)
        far.append(np.abs(difference))
    assert np.max(far) < steps + 0.51, np.max(far)
    assert np.mean(np.array(far) < 0.51) >= equal
    return network


def _plain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with the domains that its nodes name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {entry.domain for entry in copy.opset_import}
    for domain in sorted({entry.domain for entry in copy.graph.node} - known):
        copy.opset_import.append(helper.make_opsetid(domain, 1))
    return copy
