"""Import: any .onnx of a supported kind becomes one simple form, float32 or QDQ, with static shapes and batch 1.

The file is untrusted. First it is read and measured (`nnbuild.onnxfile`), then folded under bounds
(`nnbuild.folding`); only a bounded graph of known operators reaches onnxruntime, whose basic optimizations cancel
transposes and fold what is common; the rules of `nnbuild.passes` do the rest. A model that already holds
QuantizeLinear or DequantizeLinear skips onnxruntime, which would merge neighbouring pairs and change the numbers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto, inliner, shape_inference

from nnbuild import explicit_states, ports
from nnbuild.errors import ConfigError, Finding, InternalError, ModelError, NNBuildError, first_line
from nnbuild.explicit_states import States
from nnbuild.folding import fold
from nnbuild.moving import MOVING
from nnbuild.node_order import positions, restore_order
from nnbuild.onnxfile import (
    MAX_NODES,
    Load,
    check_size,
    check_tensors,
    element_type_name,
    is_qdq,
    load_external,
    opset,
    parse,
    read_model,
)
from nnbuild.outline import Outline, parse_outline, read_outline
from nnbuild.passes import (
    EARLY_RULES,
    FLOAT_RULES,
    QDQ_RULES,
    REWRITTEN,
    default_domain,
    element_types,
    name_nodes,
    qoperators,
    simplify,
)
from nnbuild.passes.graph import Graph, static_shape
from nnbuild.passes.modern_opset import declare, raise_opset
from nnbuild.passes.unary_forms import SWISH_OPSET
from nnbuild.remarks import note, remarks
from nnbuild.streams import stream as stream_of_model
from nnbuild.streams.stream import Stream
from nnbuild.unsupported import check_operators

Shapes = Mapping[str, tuple[int, ...]]

_INDEX_TYPES = frozenset((TensorProto.INT64, TensorProto.INT32))

_QDQ_TYPES = frozenset(
    (TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32)
)


def import_model(
    path: str | os.PathLike[str],
    input_shapes: Shapes | None = None,
    operators: Collection[str] | None = None,
    states: States | None = None,
    stream: Stream | None = None,
) -> onnx.ModelProto:
    """The simplified model of the .onnx file at `path`; equal files give equal bytes.

    `input_shapes` gives inputs their shapes, batch included, where the file leaves dimensions open; a symbolic first
    dimension is the batch and becomes 1 by itself. `operators` are the ONNX operators that lowering knows (default:
    those of `nnbuild.ops`); `states` are what its recurrent layers keep, `stream` is noted in the model. Raises
    ModelError with everything that stands against the model, ConfigError for an input that does not exist, states that
    are none, or an axis that is none.
    """
    operators = _known_operators() if operators is None else operators
    file = str(path)
    try:
        model, quantized = _folded(read_model(path), file, input_shapes, operators, states)
        stream_of_model.apply(model, stream, file)
    except ModelError as error:
        raise _with_all_others(error, Path(path), parse, load_external, input_shapes, operators) from None
    if not quantized:
        found = remarks(model)
        model = _runtime_optimized(model, file)
        note(model, *found)
    model = _simplified(model, file, quantized)
    _check_operators(model, file, operators)
    return _finished(model, file)


def import_outline(
    path: str | os.PathLike[str],
    input_shapes: Shapes | None = None,
    states: States | None = None,
    stream: Stream | None = None,
) -> Outline:
    """What `import_model` makes of the shapes alone, for judging a model: large tensors are placeholders, not read.

    onnxruntime is not asked; on the reference models the rules of `nnbuild.passes` come to the same nodes. Raises as
    `import_model` does, but for data that is missing where shapes do not need it: `Outline.missing` names the files.
    """
    operators, file = _known_operators(), str(path)
    try:
        outline = read_outline(Path(path))
        model, quantized = _folded(outline.model, file, input_shapes, operators, states)
        stream_of_model.apply(model, stream, file)
    except ModelError as error:
        raise _with_all_others(error, Path(path), parse_outline, _unread, input_shapes, operators) from None
    model = _simplified(model, file, quantized)
    _check_operators(model, file, operators)
    return replace(outline, model=_inferred(model, file))


def _with_all_others(
    error: ModelError,
    path: Path,
    read: Callable[[Path], onnx.ModelProto],
    load: Load,
    input_shapes: Shapes | None,
    operators: Collection[str],
) -> NNBuildError:
    """`error`, which stopped the import, with what the steps behind it would have found.

    Each step lists all of its own findings; opset, data, inputs and operators can be looked at without the others.
    """
    file, findings = str(path), list(error.findings)
    try:
        model = read(path)
    except ModelError:
        return error
    steps: tuple[Callable[[], None], ...] = (
        lambda: check_size(model, file),
        lambda: check_tensors(model, path, load),
        lambda: _inline_functions(model, file),
        lambda: default_domain.rename(model),
        lambda: ports.fix_inputs(model, file, dict(input_shapes or {})),
        lambda: check_operators(model, file, _supported(operators)),
    )
    for step in steps:
        try:
            step()
        except (ModelError, ConfigError) as other:
            findings += [finding for finding in other.findings if finding not in findings]
    return ModelError.of(findings)


def _unread(tensor: TensorProto, size: int, file: Path) -> None:
    """Data that no judgement by shapes needs."""


def _supported(operators: Collection[str]) -> set[str]:
    """The operators that may stand in a model as it is read."""
    return set(operators) | REWRITTEN | {"QuantizeLinear", "DequantizeLinear"}


def _known_operators() -> Collection[str]:
    from nnbuild.ops import BY_ONNX

    return BY_ONNX.keys()


def _folded(
    model: onnx.ModelProto,
    file: str,
    input_shapes: Shapes | None,
    operators: Collection[str],
    states: States | None,
) -> tuple[onnx.ModelProto, bool]:
    """The model before any runtime sees it: one graph of known operators with static shapes; and whether it is QDQ."""
    _inline_functions(model, file)
    ports.check_names(model, file)
    element_types.convert(model, file)
    default_domain.rename(model)
    qoperators.expand(model)
    _drop_remarks(model)
    ports.fix_inputs(model, file, dict(input_shapes or {}))
    quantized = is_qdq(model)
    fold(model, file, _supported(operators))
    _check_types(model, file, quantized)
    graph = Graph(model)
    raise_opset(graph)
    simplify(graph, EARLY_RULES)
    graph.commit()
    explicit_states.apply(model, states, file)
    return model, quantized


def _inline_functions(model: onnx.ModelProto, file: str) -> None:
    """Replace calls of the model's own functions by their bodies, once it is known how many nodes that makes."""
    if not model.functions:
        return
    bodies = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], inside: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in inside:
                raise ModelError(f"function '{key[1]}' calls itself", file)
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key].node, (*inside, key))
            total = min(total + sizes.get(key, 1), 2 * MAX_NODES)
            for entry in node.attribute:
                for graph in (entry.g, *entry.graphs):
                    total = min(total + size(graph.node, inside), 2 * MAX_NODES)
        return total

    if size(model.graph.node, ()) > MAX_NODES:
        raise ModelError(f"its functions make more than {MAX_NODES} nodes", file)
    try:
        inlined = inliner.inline_local_functions(model)
    except Exception as error:  # the C++ side raises its own classes
        raise ModelError(f"its functions cannot be inlined: {first_line(error)}", file) from None
    model.CopyFrom(inlined)
    del model.functions[:]


def _drop_remarks(model: onnx.ModelProto) -> None:
    """Everything that does not change what the model computes: producer, paths, doc strings, metadata of others."""
    found = remarks(model)
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        model.ClearField(name)
    del model.metadata_props[:], model.training_info[:]
    note(model, *found)
    graph = model.graph
    graph.name = "model"
    graph.ClearField("doc_string")
    del graph.value_info[:], graph.quantization_annotation[:]
    if "metadata_props" in graph.DESCRIPTOR.fields_by_name:
        del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        if "metadata_props" in part.DESCRIPTOR.fields_by_name:
            del part.metadata_props[:]


def _check_types(model: onnx.ModelProto, file: str, quantized: bool) -> None:
    """Activations are float32; in a QDQ model also integers. What a comparison writes is for a rule to remove."""
    allowed = _QDQ_TYPES if quantized else frozenset((TensorProto.FLOAT,))
    compared = {value for node in model.graph.node if node.op_type in _COMPARISONS for value in node.output}
    indices = _indices(model.graph)
    findings = []
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        known = value.name in compared or (value.name in indices and kind in _INDEX_TYPES)
        if kind not in allowed and not known:
            message = f"value '{value.name}' has the element type {element_type_name(kind)}"
            findings.append(Finding(message, file, "export the model in float32"))
    if findings:
        raise ModelError.of(findings)


def _indices(graph: onnx.GraphProto) -> set[str]:
    """The values that ArgMax and ArgMin write, and what only moves them."""
    found: set[str] = set()
    for node in graph.node:
        moves = node.op_type in MOVING or node.op_type == "Cast"
        if node.op_type in ("ArgMax", "ArgMin") or (moves and any(value in found for value in node.input)):
            found.update(node.output)
    return found


def _runtime_optimized(model: onnx.ModelProto, file: str) -> onnx.ModelProto:
    """What onnxruntime's basic graph optimizations make of the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="nnbuild-") as folder:
        target = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(deterministic=True), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a class for each status
            raise ModelError(f"onnxruntime refuses the model: {first_line(error)}", file) from None
        optimized = onnx.load_model(target, load_external_data=False)
    _drop_remarks(optimized)
    default = [entry for entry in optimized.opset_import if entry.domain in ("", "ai.onnx")]
    foreign = [node for node in optimized.graph.node if node.domain not in ("", "ai.onnx")]
    if foreign or len(default) != 1:
        raise InternalError(f"onnxruntime wrote nodes that are not ONNX: {foreign[:1]}")
    declare(optimized, default[0].version)
    restore_order(optimized.graph, positions(model.graph))
    return optimized


def _simplified(model: onnx.ModelProto, file: str, quantized: bool) -> onnx.ModelProto:
    graph = Graph(_inferred(model, file))
    try:
        simplify(graph, QDQ_RULES if quantized else FLOAT_RULES)
    except ModelError as error:
        raise error.within(file) from None
    name_nodes(graph)
    graph.commit()
    if any(node.op_type == "Swish" for node in graph.nodes):
        declare(graph.model, max(opset(graph.model), SWISH_OPSET))
    return graph.model


def _inferred(model: onnx.ModelProto, file: str) -> onnx.ModelProto:
    """`model` with the type of every value; the declared outputs are replaced by what is computed."""
    outputs = [value.name for value in model.graph.output]
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.Clear()
    try:
        model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # the C++ side raises its own classes
        raise ModelError(f"its shapes do not fit: {first_line(error)}", file) from None
    known = {
        value.name for value in (*model.graph.value_info, *model.graph.output) if static_shape(value.type) is not None
    }
    wanted = [value for node in model.graph.node for value in node.output if value]
    open_ended = [name for name in (*wanted, *outputs) if name not in known]
    if open_ended:
        raise ModelError(f"the shape of '{open_ended[0]}' is not known", file)
    return model


def _check_operators(model: onnx.ModelProto, file: str, operators: Collection[str]) -> None:
    """Operators that only a rule could have taken, and none did."""
    allowed = set(operators) | {"QuantizeLinear", "DequantizeLinear", "Identity"}
    findings = [
        Finding(
            f"operator '{node.op_type}' is not supported in this form",
            f"{file}: node '{node.name}' ({node.op_type})",
            _HINTS.get(node.op_type, ""),
        )
        for node in model.graph.node
        if node.op_type not in allowed
    ]
    if findings:
        raise ModelError.of(findings)


_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_COMPARED = "only where a Where behind it makes a known function of one value of it"
_HINTS = {
    **dict.fromkeys(_COMPARISONS, _COMPARED),
    "BatchNormalization": "its statistics must be constants, its input quantized if the model is",
    "Cast": "only a cast that changes nothing is",
}


def _finished(model: onnx.ModelProto, file: str) -> onnx.ModelProto:
    model = _inferred(model, file)
    model.producer_name = "nnbuild"
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"not a valid model: {first_line(error)}", file) from None
    return model
