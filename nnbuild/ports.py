"""Inputs and outputs of a model as it is read: each has a name of its own, and inputs get static shapes."""

from __future__ import annotations

import math

import onnx
from onnx import helper

from nnbuild.errors import ConfigError, Finding, ModelError
from nnbuild.onnxfile import MAX_ELEMENTS


def check_names(model: onnx.ModelProto, file: str) -> None:
    """Every input and output has a name of its own."""
    findings = []
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        names = [value.name for value in values]
        if "" in names:
            findings.append(Finding(f"an {kind} has no name", file))
        twice = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
        findings += [Finding(f"{kind} '{name}' is listed twice", file) for name in twice]
    inputs = {value.name for value in model.graph.input}
    direct = [value.name for value in model.graph.output if value.name and value.name in inputs]
    findings += [Finding(f"output '{name}' is an input: nothing computes it", file) for name in direct]
    if findings:
        raise ModelError.of(findings)


def fix_inputs(model: onnx.ModelProto, file: str, given: dict[str, tuple[int, ...]]) -> None:
    """Give every input its static shape; initializers listed among the inputs (IR 3) are none."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    unknown = [name for name in given if name not in {value.name for value in inputs}]
    if unknown:
        names = ", ".join(value.name for value in inputs)
        raise ConfigError(f"the model has no input '{unknown[0]}'", file, f"its inputs are {names}")
    if not inputs:
        raise ModelError("the model has no input", file)
    findings: list[Finding] = []
    fixed = []
    for value in inputs:
        shape = _input_shape(value, file, given.get(value.name), findings)
        fixed.append(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))
    if findings:
        raise ModelError.of(findings)
    del graph.input[:]
    graph.input.extend(fixed)


def _input_shape(
    value: onnx.ValueInfoProto, file: str, given: tuple[int, ...] | None, findings: list[Finding]
) -> tuple[int, ...]:
    name = value.name
    dims = list(value.type.tensor_type.shape.dim)
    declared = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    as_text = ",".join(str(dim) for dim in declared)
    ranked = value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")

    def report(message: str, hint: str = "") -> tuple[int, ...]:
        findings.append(Finding(message, f"{file}: input '{name}'", hint))
        return ()

    if given is not None:
        if ranked and (
            len(given) != len(dims)
            or any(isinstance(dim, int) and dim != wish for dim, wish in zip(declared, given, strict=True))
        ):
            return report(f"shape {','.join(map(str, given))} was given, but the model declares {as_text}")
        shape = given
    elif not ranked:
        return report("has no shape", f"give --input-shape {name}=1,...")
    else:
        resolved = [1 if index == 0 and not isinstance(dim, int) else dim for index, dim in enumerate(declared)]
        if any(not isinstance(dim, int) for dim in resolved):
            example = ",".join("N" if not isinstance(dim, int) else str(dim) for dim in resolved)
            return report(f"has the dynamic shape {as_text}", f"give --input-shape {name}={example} with numbers for N")
        shape = tuple(int(dim) for dim in resolved)
    size = math.prod(shape)
    if size < 1 or any(dim < 1 for dim in shape) or size > MAX_ELEMENTS or not 0 < len(shape) <= 8:
        return report(f"shape {as_text or 'without dimensions'} is empty or too large")
    return shape
