"""The float model in onnxruntime: what calibration takes ranges from, and what accuracy is judged against.

One thread and no graph optimization: a value is what the imported graph says, and the same in every run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper

from nnbuild.errors import ModelError
from nnbuild.network import Array
from nnbuild.samples import Sample


def session(model: onnx.ModelProto, names: Sequence[str]) -> Any:
    """An onnxruntime session that can give the values `names` of an imported float `model`, outputs of nodes."""
    import onnxruntime

    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    types = {value.name: value.type for value in (*model.graph.value_info, *model.graph.output)}
    del opened.graph.output[:]
    opened.graph.output.extend(helper.make_value_info(name, types[name]) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class for each status
        raise _refused(error) from None


def run(opened: Any, names: Sequence[str], sample: Sample) -> list[Array]:
    """The values of `names` for one sample; ModelError where shapes turn out not to fit only now."""
    try:
        return list(opened.run(list(names), sample))
    except Exception as error:  # onnxruntime raises a class for each status
        raise _refused(error) from None


def _refused(error: Exception) -> ModelError:
    """What onnxruntime says, without its own files, and with the node where it names one."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    text = re.sub(r"\S+\.(?:h|cc|cpp):\d+ ", "", re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text))
    at = re.match(r"Non-zero status code returned while running (\w+) node\. Name:'(.*?)' Status Message: (.*)", text)
    where = f"node '{at[2]}' ({at[1]})" if at else ""
    return ModelError(f"onnxruntime cannot run it: {at[3] if at else text}"[:400], where)
