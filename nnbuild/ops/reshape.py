"""Views: operators that change the shape of a value, or nothing. They are no layers.

ONNX Reshape, Flatten, Squeeze, Unsqueeze, Identity, Dropout (in inference), Cast between types that stay int8.
"""

from __future__ import annotations

import math
from dataclasses import replace

import onnx

from nnbuild import qdq
from nnbuild.contract import Operator, Quantization, SameAsInput
from nnbuild.lower import Lowering


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """The same elements in the shape that shape inference found."""
    shape = ctx.shapes.get(node.output[0])
    if shape is None:
        raise ctx.refuse(node, "the shape of its output is not known", "export with constant shapes")
    constant = ctx.constant(node, 0)
    size = constant.values.size if constant is not None else ctx.activation(node, indices=True).index.size
    if size != math.prod(shape):
        raise ctx.refuse(node, f"{size} elements do not fit shape {list(shape)}")
    if constant is not None:
        if constant.scale is not None and constant.scale.size > 1 and shape != constant.values.shape:
            raise ctx.refuse(node, "reshapes a constant that is quantized per channel", "reshape it when exporting")
        ctx.values[node.output[0]] = replace(constant, values=constant.values.reshape(shape))
        return
    activation = ctx.activation(node, indices=True)
    if node.op_type == "Cast" and ctx.tensors[activation.tensor].indices and _to_float(node):
        raise ctx.refuse(node, "indices become no float numbers", "leave the Cast out: they are int32 in C")
    ctx.define(node.output[0], activation.tensor, activation.index.reshape(shape))


def _to_float(node: onnx.NodeProto) -> bool:
    kind = onnx.helper.tensor_dtype_to_np_dtype(int(qdq.attribute(node, "to", onnx.TensorProto.FLOAT)))
    return bool(kind.kind not in "iu")


OPERATOR = Operator(
    name="reshape",
    summary="another shape of the same elements",
    onnx=("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast"),
    lower=lower,
    quantization=lambda node: Quantization(output=SameAsInput(), wide=True),
)
