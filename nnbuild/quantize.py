"""Quantization: a simplified float model and ranges become a standard QDQ model in int8.

The rule of each operator (`nnbuild.contract.Quantization`) says what happens to it; this stage knows none by name.
Scheme (TensorFlow Lite's quantization specification): activations int8, asymmetric, per tensor; weights int8 in
[-127, 127], symmetric, per channel; bias int32 with scale input * weight. Zero is always exact. Values that are asked
for are int16, symmetric; a reader that takes no such gets an int8 copy, a second Q/DQ pair behind the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto
from onnx.helper import np_dtype_to_tensor_dtype

from nnbuild.contract import Calibrated, Fixed, Masked, Quantization, SameAsInput
from nnbuild.errors import CalibrationError, ConfigError, Finding, ModelError
from nnbuild.network import INT8_MAX, INT8_MIN, LIMITS, Array, QuantParams
from nnbuild.onnxfile import opset
from nnbuild.passes.graph import Graph
from nnbuild.passes.masks import in_front_of_softmax
from nnbuild.passes.modern_opset import declare
from nnbuild.placeholder import is_placeholder
from nnbuild.ranges import Range, Ranges

Rules = Mapping[str, Callable[[NodeProto], Quantization]]

_MAX_WEIGHT = 127
_SHARES = tuple(1.0 - step / 50 for step in range(21))  # of the largest weight that a scale may cover
_WORTH = 0.999  # of the least error so far is what another one must reach
_MAX_BIAS = 2.0**30  # leaves as much of an int32 for the sum of products
_FINE_BIAS = 2.0**20  # where all weights of a channel are 0, its bias is stored in so many steps
_WIDE_OPSET = 21  # the first in which QuantizeLinear writes int16
_WIDE_REACH = 2  # times the range: unseen samples leave it, and of 16 bits one is to spare for them
_MIN_SCALE = 1e-10  # of an activation: products of scales stay normal float32 numbers

_CLAMPS = frozenset(("Relu", "Clip"))


@dataclass(frozen=True, slots=True)
class _Step:
    """A node with its rule, and the clamp behind it that is part of it."""

    node: NodeProto
    rule: Quantization
    clamp: NodeProto | None

    @property
    def output(self) -> str:
        """The value that gets a Q/DQ pair."""
        return str((self.clamp or self.node).output[0])

    @property
    def names(self) -> set[str]:
        """By which the step is asked for: its node's and its clamp's, or where they have none their outputs'."""
        return {node.name or node.output[0] for node in (self.node, self.clamp) if node is not None}

    def takes_wide(self, graph: Graph) -> bool:
        """Whether the step reads int16. Products of two computed values do not."""
        weights = self.rule.weights
        return self.rule.wide and (weights is None or graph.constant(self.node, weights) is not None)

    def writes_wide(self, graph: Graph) -> bool:
        """Whether the step's output may be int16 where its inputs are not."""
        return self.takes_wide(graph) and self.rule.wide_output and isinstance(self.rule.output, Calibrated)


@dataclass(frozen=True, slots=True)
class _Params:
    """Parameters of each value that gets a Q/DQ pair; those that are int16 have some of an int8 copy in `narrow`."""

    own: dict[str, QuantParams]
    narrow: dict[str, QuantParams]

    def seen(self, wide: bool) -> Mapping[str, QuantParams]:
        """What a step sees that takes int16, or none."""
        return self.own if wide else {**self.own, **self.narrow}


FULLY_CONNECTED = ("per_channel", "per_tensor")


def quantize(
    model: onnx.ModelProto,
    ranges: Ranges,
    rules: Rules | None = None,
    fully_connected: str = "per_channel",
    int16: Collection[str] = (),
) -> onnx.ModelProto:
    """The QDQ form of an imported float `model`, which is left alone; `rules` by ONNX type, default `nnbuild.ops`.

    `fully_connected="per_tensor"` gives all weights of a Gemm or MatMul one scale: less accurate, but without a
    multiplier and shift for each output, and what CMSIS-NN before 7.0.0 needs. `int16` names nodes whose outputs have
    16 bits, and inputs of the model that do.
    Raises CalibrationError where `ranges` belong to another model, ModelError where an operator has no rule,
    ConfigError for names in `int16` that nothing has or that cannot be.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    steps = _steps(graph, _default_rules() if rules is None else rules)
    _refuse_infinite(graph, steps)
    wide = _asked_for(graph, steps, int16)
    params = _activations(graph, steps, ranges, wide)
    takers = {id(step.node) for step in steps if step.takes_wide(graph)}
    for step in steps:
        _quantize_constants(graph, step, params.seen(id(step.node) in takers), fully_connected == "per_tensor")
        if step.rule.cell is not None:
            _quantize_cell(graph, step, step.rule.cell, ranges)
    for value, quant in params.own.items():
        dequantized = _insert_pair(graph, value, quant)
        if quant.wide:
            _insert_copy(graph, value, dequantized, params.narrow[value], takers)
    graph.commit()
    if wide:
        declare(copy, max(_WIDE_OPSET, opset(copy)))
    return copy


def wide_values(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """(name, value) of each node of an imported float `model` whose output may be int16, as `quantize` takes the name.

    Inputs and outputs of the model are left out.
    """
    graph = Graph(model)
    steps = _steps(graph, _default_rules())
    return [
        (step.node.name or step.node.output[0], step.output)
        for step in steps
        if step.writes_wide(graph) and step.output not in graph.outputs
    ]


def _asked_for(graph: Graph, steps: Sequence[_Step], names: Iterable[str]) -> set[str]:
    """The values of these nodes and inputs; ConfigError lists what cannot be int16."""
    values: set[str] = set()
    findings = []
    for name in names:
        step = next((step for step in steps if name in step.names), None)
        if step is None and name in graph.inputs:
            values.add(name)
        elif step is None:
            hint = "layers are named in reports, nodes and inputs in the model"
            findings.append(Finding(f"int16 of '{name}': there is no such layer, node or input", hint=hint))
        elif step.writes_wide(graph):
            values.add(step.output)
        else:
            findings.append(Finding(f"int16 of '{name}': a {step.node.op_type} cannot write it", hint="leave it out"))
    if findings:
        raise ConfigError.of(findings)
    return values


def calibrated_values(model: onnx.ModelProto) -> list[str]:
    """The values of an imported float `model` that get a scale from their range, without inputs."""
    graph = Graph(model)
    return [step.output for step in _steps(graph, _default_rules()) if isinstance(step.rule.output, Calibrated)]


def parameters(span: Range) -> QuantParams:
    """int8 parameters that cover the range (low, high), widened to hold 0, which is exact."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    if low == high:
        return QuantParams(float(np.float32(1 / 255)), INT8_MIN)
    scale = float(np.float32(max((high - low) / (INT8_MAX - INT8_MIN), _MIN_SCALE)))
    zero_point = round(INT8_MIN - low / scale)
    return QuantParams(scale, min(max(zero_point, INT8_MIN), INT8_MAX))


def wide_parameters(span: Range) -> QuantParams:
    """int16 parameters that cover the range and as much beyond, symmetric."""
    most = LIMITS["int16"][1]
    largest = _WIDE_REACH * max(-span[0], span[1], 0.0)
    return QuantParams(float(np.float32(max(largest / most, _MIN_SCALE))), 0, "int16")


def weight_scales(channels: Array, bias: Array | None, input_scale: float) -> Array:
    """Scale of each channel, float32, for weights (channels, n) and a bias (channels,) in float.

    It is the one with the least squared error of the channel's weights, which may clip the largest. A scale is raised
    where the bias, whose scale is input * weight, would not fit; a channel of zeros takes one that stores its bias
    finely.
    """
    scales = _least_error(channels.astype(np.float64))
    used = scales > 0
    spare = scales.max(initial=0.0) or 1.0
    if bias is None:
        return np.maximum(np.where(used, scales, spare), _MIN_SCALE).astype(np.float32)
    size = np.abs(bias.astype(np.float64)) / input_scale
    without_weights = np.where(size > 0, size / _FINE_BIAS, spare)
    scales = np.where(used, np.maximum(scales, size / _MAX_BIAS), without_weights)
    return np.maximum(scales, _MIN_SCALE).astype(np.float32)


def _least_error(channels: Array) -> Array:
    """Scale of each channel (channels, n) of int8 weights."""
    widest = np.abs(channels).max(axis=1, initial=0.0) / _MAX_WEIGHT
    if is_placeholder(channels):
        return np.asarray(widest)
    best, least = widest, np.full(len(channels), np.inf)
    for share in _SHARES:
        scales = (widest * share)[:, None]
        steps = np.rint(np.divide(channels, scales, out=np.zeros_like(channels), where=scales > 0))
        errors = np.square(np.clip(steps, -_MAX_WEIGHT, _MAX_WEIGHT) * scales - channels).sum(axis=1)
        better = errors < least * _WORTH
        best, least = np.where(better, scales[:, 0], best), np.where(better, errors, least)
    return np.asarray(best)


def _default_rules() -> Rules:
    from nnbuild.ops import BY_ONNX

    return {kind: operator.quantization for kind, operator in BY_ONNX.items()}


def _steps(graph: Graph, rules: Rules) -> list[_Step]:
    unknown = [node for node in graph.nodes if node.op_type not in rules]
    if unknown:
        raise ModelError.of(
            Finding(f"operator '{node.op_type}' is not supported", graph.where(node)) for node in unknown
        )
    steps: list[_Step] = []
    fused: set[str] = set()
    for node in graph.nodes:
        if node.output[0] in fused:
            continue
        rule = rules[node.op_type](node)
        reader = graph.sole_reader(node.output[0]) if rule.fuses_clamp else None
        clamp = reader if reader is not None and reader.op_type in _CLAMPS else None
        if clamp is not None:
            fused.add(clamp.output[0])
        steps.append(_Step(node, rule, clamp))
    return steps


def _activations(graph: Graph, steps: list[_Step], ranges: Ranges, wide: Collection[str]) -> _Params:
    """Parameters of each value that gets a Q/DQ pair, inputs first, in the order of the graph."""
    missing = [name for name in (*graph.inputs, *(step.output for step in steps)) if name not in ranges.tensors]
    if missing:
        message = f"the ranges hold nothing for '{missing[0]}': they belong to another model"
        raise CalibrationError(message, hint="calibrate this model")
    params = {name: parameters(ranges.tensors[name]) for name in graph.inputs}
    found = _Params(params, {name: params[name] for name in graph.inputs if name in wide})
    params.update({name: wide_parameters(ranges.tensors[name]) for name in found.narrow})
    for step in steps:
        output = step.rule.output
        if graph.types.get(step.output, TensorProto.FLOAT) != TensorProto.FLOAT:
            continue  # indices
        if isinstance(output, Fixed):
            params[step.output] = output.quant
        elif isinstance(output, SameAsInput) and (source := step.node.input[output.index]) in params:
            params[step.output] = found.seen(step.takes_wide(graph))[source]
            if params[step.output].wide:
                found.narrow[step.output] = found.narrow[source]
        elif isinstance(output, Masked):
            params[step.output] = parameters(_masked(graph, step, ranges))
        else:
            params[step.output] = parameters(ranges.tensors[step.output])
            if step.output in wide:
                found.narrow[step.output] = params[step.output]
                params[step.output] = wide_parameters(ranges.tensors[step.output])
    _share_scales(graph, steps, found)
    return found


def _masked(graph: Graph, step: _Step, ranges: Ranges) -> Range:
    """What was seen of a choice, without constants that are as good as infinite (see `Masked`)."""
    seen, inputs = ranges.tensors[step.output], step.node.input
    computed = [ranges.tensors[value] for value in inputs if value in ranges.tensors]
    low, high = min(span[0] for span in computed), max(span[1] for span in computed)
    far = Masked.FAR * max(-low, high) or math.inf
    floor = low - Masked.BELOW if in_front_of_softmax(graph, step.output) else -math.inf
    for index in range(len(inputs)):
        known = graph.constant(step.node, index)
        if known is not None and known.dtype == np.float32:
            counted = np.maximum(known.astype(np.float64), floor)
            near = counted[np.abs(counted) < far]
            low, high = min(low, near.min(initial=low)), max(high, near.max(initial=high))
    return max(low, seen[0]), min(high, seen[1])


def _share_scales(graph: Graph, steps: list[_Step], params: _Params) -> None:
    """Hand the parameters of an output that has one scale with its inputs to those that are free to take them.

    Backwards, so that a Concat of Concats has one scale. Inputs of the model keep theirs.
    """
    calibrated = {step.output for step in steps if isinstance(step.rule.output, Calibrated | Masked)}
    for step in reversed(steps):
        if step.rule.inputs_like_output:
            free = [value for value in step.node.input if value in calibrated and graph.sole_reader(value) is step.node]
            shared = params.own[step.output]
            params.own.update(dict.fromkeys((value for value in free if value not in params.narrow), shared))
            params.narrow.update(dict.fromkeys((value for value in free if value in params.narrow), shared))


def _refuse_infinite(graph: Graph, steps: Sequence[_Step]) -> None:
    """ModelError for each node with weights, a bias or operands that no scale can serve."""
    findings = []
    for node, rule in ((step.node, step.rule) for step in steps):
        for index in sorted(set(range(len(node.input))) - rule.parameters):
            array = graph.constant(node, index)
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                findings.append(Finding(f"its constant '{node.input[index]}' is not finite", graph.where(node)))
    if findings:
        raise ModelError.of(findings)


def _quantize_constants(graph: Graph, step: _Step, params: Mapping[str, QuantParams], per_tensor: bool) -> None:
    """Weights, bias, and constants where data could be (such as an operand of Add)."""
    node, rule = step.node, step.rule
    done = rule.parameters
    weights = None if rule.weights is None else graph.constant(node, rule.weights)
    source = params.get(node.input[0])
    if rule.recurrent is not None and weights is not None and source is not None:
        _quantize_recurrent(graph, step, weights, (source, params[step.output]), per_tensor)
        done |= {rule.weights or 0, rule.recurrent}
    elif rule.weights is not None and weights is not None and source is not None:
        _quantize_weights(graph, step, weights, source, per_tensor and weights.ndim == 2)
        done |= {rule.weights} if rule.bias is None else {rule.weights, rule.bias}
    for index in range(len(node.input)):
        array = graph.constant(node, index)
        if index not in done and array is not None and array.dtype == np.float32:
            own = parameters((float(array.min()), float(array.max())))
            quant = params[step.output] if rule.inputs_like_output else own
            value = _dequantized(graph, node, f"{node.output[0]}_input{index}", quant.quantize(array), quant)
            graph.set_input(node, index, value)


def _quantize_weights(graph: Graph, step: _Step, weights: Array, source: QuantParams, per_tensor: bool) -> None:
    node, rule = step.node, step.rule
    axis = rule.weight_axis(node, weights.shape)
    channels = _by_channel(weights, axis)
    bias = None if rule.bias is None else graph.constant(node, rule.bias)
    groups, largest = 1, None
    if bias is not None:
        bias = _spread(graph, node, bias, len(channels))
        groups = len(bias) // len(channels)
        largest = np.abs(bias).reshape(groups, -1).max(axis=0)
    scales = weight_scales(channels, largest, source.scale)
    if per_tensor:
        scales = np.full_like(scales, scales.max())
    assert rule.weights is not None
    _store_weights(graph, node, rule.weights, "weights", weights, scales, axis)
    if bias is not None and rule.bias is not None:
        bias_scales = np.tile(np.float32(source.scale) * scales, groups)
        limits = np.iinfo(np.int32)
        whole = np.rint(bias.astype(np.float64) / bias_scales.astype(np.float64))
        stored = np.clip(whole, limits.min, limits.max).astype(np.int32)
        name = f"{node.output[0]}_bias"
        graph.set_input(node, rule.bias, _dequantize(graph, node, name, stored, bias_scales, 0))


def _by_channel(weights: Array, axis: int) -> Array:
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)


def _store_weights(
    graph: Graph, node: NodeProto, position: int, name: str, weights: Array, scales: Array, axis: int
) -> None:
    """Input `position` as int8 with a scale for each channel along `axis`."""
    shape = [1] * weights.ndim
    shape[axis] = -1
    steps = np.rint(weights.astype(np.float64) / scales.astype(np.float64).reshape(shape))
    stored = np.clip(steps, -_MAX_WEIGHT, _MAX_WEIGHT).astype(np.int8)
    value = _dequantize(graph, node, f"{node.output[0]}_{name}", stored, scales, axis)
    graph.set_input(node, position, value)


def _quantize_recurrent(
    graph: Graph, step: _Step, weights: Array, sources: tuple[QuantParams, QuantParams], per_tensor: bool
) -> None:
    """Weights of the input and of the state, (directions, rows, n); the bias, input 3, stays as it is.

    Either product may hold all of the bias, which is (directions, 2 * rows). With `per_tensor` each gate has one scale.
    """
    node, rule = step.node, step.rule
    assert rule.weights is not None
    assert rule.recurrent is not None
    states = graph.constant(node, rule.recurrent)
    if states is None:
        raise ModelError(f"its weights (input {rule.recurrent}) are not constant", graph.where(node))
    rows, hidden = states.shape[1:]
    given = graph.constant(node, 3)
    bias = None if given is None else np.abs(given).reshape(-1, 2, rows).sum(axis=1).max(axis=0)
    pairs = ((rule.weights, "weights", weights), (rule.recurrent, "recurrent", states))
    for (position, name, matrix), source in zip(pairs, sources, strict=True):
        scales = weight_scales(_by_channel(matrix, 1), bias, source.scale)
        if per_tensor:
            scales = np.repeat(scales.reshape(-1, hidden).max(axis=1), hidden)
        _store_weights(graph, node, position, name, matrix, scales, 1)


def _quantize_cell(graph: Graph, step: _Step, position: int, ranges: Ranges) -> None:
    """Input `position`, zeros where it is left out, as an int32 whose scale is that of 16-bit cells: a power of two."""
    node = step.node
    low, high = ranges.tensors.get(f"{node.output[0]}_cell", (-1.0, 1.0))
    start = graph.constant(node, position)
    if start is None:
        start = np.zeros(graph.shape(step.output)[1:])
    largest = max(abs(low), abs(high), float(np.abs(start).max(initial=0.0)), 2.0**-20)
    power = min(max(math.ceil(math.log2(largest)) - 15, -15), -9)
    stored = np.rint(np.asarray(start, np.float64) * 2.0**-power).astype(np.int32)
    name = f"{node.output[0]}_cell"
    inputs = [
        graph.add_constant(f"{name}_quantized", stored),
        graph.add_constant(f"{name}_scale", np.float32(2.0**power)),
    ]
    value = graph.unique(f"{name}_dequantized")
    graph.add_node("DequantizeLinear", inputs, value, stored.shape, name=value, before=node)
    graph.set_input(node, position, value)


def _spread(graph: Graph, node: NodeProto, bias: Array, channels: int) -> Array:
    """A bias for each output: as many as channels of the weights, or where groups share those a multiple of that."""
    if bias.ndim == 1 and bias.size and bias.size % channels == 0:
        return bias
    if bias.size not in (1, channels):
        message = f"its bias of shape {list(bias.shape)} does not fit {channels} outputs"
        raise ModelError(message, graph.where(node))
    return np.broadcast_to(bias.reshape(-1), (channels,))


def _dequantized(graph: Graph, node: NodeProto, name: str, stored: Array, quant: QuantParams) -> str:
    """A per-tensor int8 constant behind its DequantizeLinear."""
    inputs = [
        graph.add_constant(f"{name}_quantized", stored),
        graph.add_constant(f"{name}_scale", np.float32(quant.scale)),
        graph.add_constant(f"{name}_zero_point", np.int8(quant.zero_point)),
    ]
    value = graph.unique(f"{name}_dequantized")
    graph.add_node("DequantizeLinear", inputs, value, stored.shape, name=value, before=node)
    return value


def _dequantize(graph: Graph, node: NodeProto, name: str, stored: Array, scales: Array, axis: int) -> str:
    """A per-channel symmetric constant behind its DequantizeLinear."""
    inputs = [
        graph.add_constant(f"{name}_quantized", stored),
        graph.add_constant(f"{name}_scale", scales),
        graph.add_constant(f"{name}_zero_point", np.zeros(len(scales), stored.dtype)),
    ]
    value = graph.unique(f"{name}_dequantized")
    graph.add_node("DequantizeLinear", inputs, value, stored.shape, name=value, before=node, axis=axis)
    return value


def _insert_copy(graph: Graph, value: str, dequantized: str, quant: QuantParams, takers: Collection[int]) -> None:
    """An int8 pair behind `dequantized`, the int16 form of `value`, for readers whose id is not in `takers`."""
    nodes = [node for node in graph.readers(dequantized) if id(node) not in takers]
    if not nodes:
        return
    copy = graph.unique(f"{value}_int8")
    producer = graph.producer(dequantized)
    assert producer is not None
    constants = _constants(graph, f"{value}_int8", quant)
    shape = graph.shape(value)
    quantized = graph.add_node(
        "QuantizeLinear", [dequantized, *constants], f"{copy}_quantized", shape,
        name=f"{copy}_quantized", element=TensorProto.INT8, after=producer,
    )  # fmt: skip
    graph.add_node(
        "DequantizeLinear", [quantized.output[0], *constants], copy, shape, name=f"{copy}_dequantized", after=quantized
    )
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == dequantized:
                graph.set_input(node, index, copy)


def _constants(graph: Graph, name: str, quant: QuantParams) -> list[str]:
    """Scale and zero point of a Q/DQ pair."""
    return [
        graph.add_constant(f"{name}_scale", np.float32(quant.scale)),
        graph.add_constant(f"{name}_zero_point", np.dtype(quant.dtype).type(quant.zero_point)),
    ]


def _insert_pair(graph: Graph, value: str, quant: QuantParams) -> str:
    """QuantizeLinear and DequantizeLinear behind `value`; the name of a graph output stays with the last.

    Returns the value behind them.
    """
    producer = graph.producer(value)
    shape = graph.shape(value)
    constants = _constants(graph, value, quant)
    source, result = value, graph.unique(f"{value}_dequantized")
    readers = graph.readers(value)
    if value in graph.outputs and producer is not None:
        source, result = graph.unique(f"{value}_float"), value
        graph.set_output(producer, source)
    quantized = graph.unique(f"{value}_quantized")
    first = readers[0] if readers else None
    place = {"after": producer} if producer is not None else {"before": graph.nodes[0] if graph.nodes else first}
    quantize_node = graph.add_node(
        "QuantizeLinear", [source, *constants], quantized, shape,
        name=quantized, element=np_dtype_to_tensor_dtype(np.dtype(quant.dtype)), **place,
    )  # fmt: skip
    if result != value:
        for node in readers:
            for index, name in enumerate(node.input):
                if name == value:
                    graph.set_input(node, index, result)
    graph.add_node(
        "DequantizeLinear", [quantized, *constants], result, shape, name=f"{value}_dequantized", after=quantize_node
    )
    return result
