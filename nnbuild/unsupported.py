"""Operators that stand against a model wherever they are in it, and what to do about them."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import NodeProto, defs

from nnbuild.errors import Finding, ModelError
from nnbuild.node_order import remove_dead_nodes
from nnbuild.passes import qoperators

# Data movement and arithmetic that exporters use to compute shapes, bounds and indexes. All of them allocate no more
# than a few times their output, whose size is bounded before they run.
_FOLDABLE_NAMES = (
    "Abs Add And Cast CastLike Ceil Clip Concat ConstantOfShape CumSum Div Dropout Equal Exp Expand Flatten Floor "
    "Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual Log MatMul Max Mean Min Mod Mul "
    "Neg NonZero Not OneHot Or Pad Pow QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum Relu Reshape Round ScatterElements ScatterND Shape Sign Size Slice Split Sqrt Squeeze Sub Sum Tile "
    "Transpose Trilu Unsqueeze Where Xor"
)
FOLDABLE = frozenset(_FOLDABLE_NAMES.split())

_CONTROL_FLOW = frozenset(("If", "Loop", "Scan"))
_QOPERATORS = frozenset(
    (
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearMatMul",
        "QLinearSoftmax",
    )
)
_DYNAMIC = frozenset(("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"))
_DYNAMIC_HINT = "scales must be constants: quantize statically, or give the float model"
_OPTIMIZED_HINT = "onnxruntime's optimizations write it: give the model as it was exported"
_QOPERATOR_HINT = "quantize in the QDQ format (QuantFormat.QDQ), or give the float model"


def unsupported(node: NodeProto, supported: Collection[str]) -> str | None:
    """What stands against the node wherever it is; None for an operator that is `supported` or can be folded."""
    if node.domain not in ("", "ai.onnx"):
        return f"operator '{node.domain}.{node.op_type}' is not an ONNX operator"
    if node.op_type in supported or node.op_type in FOLDABLE or node.op_type == "Constant":
        return None
    if node.op_type in _CONTROL_FLOW:
        return f"control flow ({node.op_type}) that depends on data is not supported"
    kind = "is not supported" if defs.has(node.op_type, "") else "is not an ONNX operator"
    return f"operator '{node.op_type}' {kind}"


def check_operators(model: onnx.ModelProto, file: str, supported: Collection[str]) -> None:
    """ModelError with each live node that no folding can help: what `fold` says, also where shapes are unknown."""
    live = onnx.GraphProto()
    live.CopyFrom(model.graph)
    remove_dead_nodes(live)
    inputs = {value.name for value in live.input}
    findings = []
    for node in live.node:
        reason = None if qoperators.known(node) else unsupported(node, supported)
        if reason is not None and (node.op_type != "If" or node.input[0] in inputs):
            findings.append(finding(node, file, reason, hint_for(node)))
    if findings:
        raise ModelError.of(findings)


def finding(node: NodeProto, file: str, message: str, hint: str = "") -> Finding:
    """`message` of a node, named as ONNX files name it or by what it writes."""
    name = node.name or (node.output[0] if node.output else "")
    return Finding(message, f"{file}: node '{name}' ({node.op_type})", hint)


def hint_for(node: NodeProto) -> str:
    """What to do about an operator that a tool has written in place of the exporter's."""
    if node.op_type in _DYNAMIC:
        return _DYNAMIC_HINT
    if node.op_type in _QOPERATORS:
        return _QOPERATOR_HINT
    return _OPTIMIZED_HINT if node.domain == "com.microsoft" else ""
