"""The ONNX project's own tests of operators, as a conformance suite for int8.

Every test of one node with float32 inputs and outputs becomes a model file: inputs that are parameters by the
operator's definition (weights, shapes, axes, indices) are constants with the test's values, the others stay inputs.
The model is calibrated with the test's own inputs, quantized, lowered, and run by the integer reference. Right is what
differs by at most `bound` output steps from the float operator on the dequantized inputs, rounded to the output's
scale, and by no more than quantizing explains from what the test expects.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from nnbuild import interpret, pipeline
from nnbuild.errors import InternalError, NNBuildError
from nnbuild.lower import lower
from nnbuild.network import Array
from nnbuild.ops import BY_NAME, BY_ONNX
from nnbuild.passes import REWRITTEN

# Inputs that are parameters by the definition of the operator; the others are data. Integer inputs always are.
PARAMETERS: Mapping[str, frozenset[int]] = {
    "BatchNormalization": frozenset((1, 2, 3, 4)),
    "Clip": frozenset((1, 2)),
    "Conv": frozenset((1, 2)),
    "ConvTranspose": frozenset((1, 2)),
    "Dropout": frozenset((1, 2)),
    "GRU": frozenset((1, 2, 3)),
    "Gemm": frozenset((1, 2)),
    "GroupNormalization": frozenset((1, 2)),
    "InstanceNormalization": frozenset((1, 2)),
    "LSTM": frozenset((1, 2, 3, 7)),
    "LayerNormalization": frozenset((1, 2)),
    "PRelu": frozenset((1,)),
    "Pad": frozenset((1, 2, 3)),
    "RMSNormalization": frozenset((1,)),
    "RNN": frozenset((1, 2, 3)),
    "Resize": frozenset((1, 2, 3)),
    "Upsample": frozenset((1,)),
}


@dataclass(frozen=True, slots=True)
class NodeTest:
    """One test: the model with its parameters bound, the inputs by name, the expected outputs."""

    name: str
    model: onnx.ModelProto
    inputs: Mapping[str, Array]
    expected: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """`outcome` is passed, refused, wrong or crashed; `detail` the reason, or by how much."""

    name: str
    outcome: str
    detail: str


def node_tests() -> Iterator[NodeTest]:
    """All float32 tests of nodes whose operators nnbuild lists."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # tests of infinities overflow on purpose
        tests = load_model_tests(kind="node")
    listed = BY_ONNX.keys() | REWRITTEN | {"Constant"}
    for test in sorted(tests, key=lambda test: str(test.name)):
        assert test.model is not None
        if {node.op_type for node in test.model.graph.node} <= listed:
            bound = _bound(test)
            if bound is not None:
                yield bound


def _bound(test: Any) -> NodeTest | None:
    """`test` with its parameters as constants; None where its data are not float32."""
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    graph = model.graph
    arrays, expected = test.data_sets[0]
    kept: dict[str, Array] = {}
    declared = list(graph.input)
    del graph.input[:]
    for value, array in zip(declared, arrays, strict=True):
        if not isinstance(array, np.ndarray):
            return None
        if array.dtype != np.float32 or _is_parameter(test.model.graph, value.name):
            graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            kept[value.name] = array
            graph.input.append(value)
    floats = all(value.type.tensor_type.elem_type == TensorProto.FLOAT for value in graph.output)
    return NodeTest(test.name, model, kept, tuple(expected)) if kept and floats else None


def _is_parameter(graph: onnx.GraphProto, name: str) -> bool:
    """Whether all nodes that read the input take it for a parameter."""
    uses = [(node.op_type, index) for node in graph.node for index, read in enumerate(node.input) if read == name]
    return bool(uses) and all(index in PARAMETERS.get(kind, ()) for kind, index in uses)


def judge(test: NodeTest, folder: Path) -> Result:
    """Run one test in `folder`."""
    path, samples = folder / "model.onnx", folder / "samples.npz"
    onnx.save(test.model, path)
    # A function in a file is the one form of samples that has no batch axis of its own.
    np.savez(samples, **{name: array[None] for name, array in test.inputs.items()})  # type: ignore[arg-type]
    try:
        content = pipeline.quantized(pipeline.Request(str(path), str(samples))).content
        int8 = onnx.load_model_from_string(content)
        return _compared(test, int8)
    except InternalError as error:
        return Result(test.name, "crashed", str(error))
    except NNBuildError as error:
        return Result(test.name, "refused", error.findings[0].message)
    except Exception as error:
        return Result(test.name, "crashed", f"{type(error).__name__}: {error}")


def _compared(test: NodeTest, int8: onnx.ModelProto) -> Result:
    network = lower(int8, "model.onnx")
    ports = {port.name: network.tensors[port.tensor].quant for port in network.inputs}
    inputs = [quant.quantize(test.inputs[name]) for name, quant in ports.items()]
    seen = {name: quant.dequantize(q) for (name, quant), q in zip(ports.items(), inputs, strict=True)}
    ours = interpret.run(network, inputs)
    evaluated = _evaluator(test)
    theirs, exact = evaluated(int8, seen), evaluated(test.model, seen)
    bound = max(1, sum(BY_NAME[layer.op].error(layer.params) for layer in network.layers))
    for port, q, real, wanted in zip(network.outputs, ours, theirs, exact, strict=False):
        quant = network.tensors[port.tensor].quant
        if q.shape != np.shape(wanted):
            return Result(test.name, "wrong", f"shape {q.shape}, expected {np.shape(wanted)}")
        rounded = quant.quantize(np.asarray(real, np.float32))
        steps = np.abs(q.astype(np.int64) - rounded.astype(np.int64)).max(initial=0)
        if steps > bound:
            return Result(test.name, "wrong", f"{steps} steps, allowed are {bound}")
        span = float(np.ptp(wanted)) or float(np.abs(wanted).max(initial=0.0)) or 1.0
        error = float(np.abs(quant.dequantize(q) - wanted).max(initial=0.0))
        if error > _WEIGHTS * span + bound * quant.scale:
            return Result(test.name, "wrong", f"differs by {error:.3g} of a span of {span:.3g}")
    return Result(test.name, "passed", "")


# What int8 weights and intermediate values may move a result by, as a share of its span: a guard against a model that
# is computed faithfully and is another one.
_WEIGHTS = 0.08


Evaluator = Callable[[onnx.ModelProto, Mapping[str, Array]], list[Any]]


def _evaluator(test: NodeTest) -> Evaluator:
    """onnxruntime where it computes what the test expects, else ONNX's own evaluator: each has its errors."""
    try:
        found = _by_onnxruntime(test.model, test.inputs)
    except Exception:  # an opset or operator that it does not have
        return _by_onnx
    same = all(np.allclose(one, other, 1e-3, 1e-5) for one, other in zip(found, test.expected, strict=False))
    return _by_either if same else _by_onnx


def _by_either(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Any]:
    try:
        return _by_onnxruntime(model, inputs)
    except Exception:  # it has the float operator in this opset, and not QuantizeLinear
        return _by_onnx(model, inputs)


def _by_onnxruntime(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def _by_onnx(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(model).run(None, dict(inputs)))
