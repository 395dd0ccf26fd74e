"""The float model in onnxruntime: what calibration takes ranges from, and what accuracy is judged against.

One thread and no graph optimization: a value is what the imported graph says, and the same in every run. Where
recurrent layers keep their states, samples are one sequence: what a run leaves is where the next one starts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nnbuild.errors import ModelError
from nnbuild.network import Array
from nnbuild.samples import Sample
from nnbuild.states import RECURRENT, keeps_states


@dataclass(slots=True)
class Session:
    """An onnxruntime session over `model`, in which kept states are inputs and outputs.

    `states` are their values by the name of the input, `after` the output that each is after a run.
    """

    model: onnx.ModelProto
    inference: Any
    names: Sequence[str]
    states: dict[str, Array] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)

    def run(self, sample: Sample) -> dict[str, Array]:
        """Values by name for one sample, states at its start among them; ModelError where shapes turn out not to fit
        only now."""
        fed = dict(self.states)
        wanted = [*self.names, *self.after.values()]
        try:
            found = dict(zip(wanted, self.inference.run(wanted, {**sample, **fed}), strict=True))
        except Exception as error:  # onnxruntime raises a class for each status
            raise _refused(error) from None
        self.states = {name: found.pop(output) for name, output in self.after.items()}
        return {**fed, **found}


def session(model: onnx.ModelProto, names: Sequence[str]) -> Session:
    """A session that can give the values `names` of an imported float `model`, outputs of nodes."""
    import onnxruntime

    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    types = {value.name: value.type for value in (*model.graph.value_info, *model.graph.output)}
    del opened.graph.output[:]
    opened.graph.output.extend(helper.make_value_info(name, types[name]) for name in names)
    states: dict[str, Array] = {}
    after: dict[str, str] = {}
    if keeps_states(model):
        states, after = _open_states(opened.graph, {**types, **{value.name: value.type for value in model.graph.input}})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        inference = onnxruntime.InferenceSession(
            opened.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a class for each status
        raise _refused(error) from None
    return Session(opened, inference, names, states, after)


def _open_states(graph: onnx.GraphProto, types: dict[str, onnx.TypeProto]) -> tuple[dict[str, Array], dict[str, str]]:
    """Let each state of a recurrent layer be an input and an output; their start, and the outputs by the inputs."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    states: dict[str, Array] = {}
    after: dict[str, str] = {}
    for node in [node for node in graph.node if node.op_type in RECURRENT]:
        dims = types[node.output[0]].tensor_type.shape.dim
        shape = tuple(dim.dim_value for dim in dims)[1:]
        for position, output in RECURRENT[node.op_type].items():
            name, result = (f"{node.output[0]}_{when}{position}" for when in ("before", "after"))
            node.input.extend([""] * (position + 1 - len(node.input)))
            node.output.extend([""] * (output + 1 - len(node.output)))
            states[name] = constants.get(node.input[position], np.zeros(shape, np.float32))
            after[name] = result
            node.input[position], node.output[output] = name, result
            graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
            graph.output.append(helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, shape))
    return states, after


def _refused(error: Exception) -> ModelError:
    """What onnxruntime says, without its own files, and with the node where it names one."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    text = re.sub(r"\S+\.(?:h|cc|cpp):\d+ ", "", re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text))
    at = re.match(r"Non-zero status code returned while running (\w+) node\. Name:'(.*?)' Status Message: (.*)", text)
    where = f"node '{at[2]}' ({at[1]})" if at else ""
    return ModelError(f"onnxruntime cannot run it: {at[3] if at else text}"[:400], where)
