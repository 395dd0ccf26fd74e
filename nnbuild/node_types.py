"""Types and shapes of what one node writes, by ONNX's own inference, from those of what it reads."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto, TypeProto, defs, helper, shape_inference

from nnbuild.network import Array
from nnbuild.placeholder import is_placeholder, tensor_of

_MAX_SHAPE_DATA = 1024  # elements of a constant that inference may want to see


def output_types(
    node: NodeProto, version: int, constants: Mapping[str, Array], types: Mapping[str, TypeProto]
) -> dict[str, TypeProto]:
    """The type of each output of `node` in opset `version`; what cannot be known is open, or missing.

    Each input is one of `constants`, or has one of `types`. What onnx raises where they do not fit is of many classes.
    """
    known, data = {}, {}
    for name in node.input:
        if name in constants:
            array = constants[name]
            known[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            if array.size <= _MAX_SHAPE_DATA and not is_placeholder(array):
                data[name] = tensor_of(array, name)
        elif name:
            known[name] = types[name]
    schema, opsets = defs.get_schema(node.op_type, version, ""), [helper.make_opsetid("", version)]
    return dict(shape_inference.infer_node_outputs(schema, node, known, data, opset_imports=opsets))
