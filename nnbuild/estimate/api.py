"""`nnbuild.check` and `nnbuild.run`: what they do, apart from the package that must import nothing heavy."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnbuild import cmsis_nn as library
from nnbuild import interpret
from nnbuild.cost import Timing
from nnbuild.errors import ConfigError, Finding, ModelError
from nnbuild.estimate.figures import Setup
from nnbuild.estimate.verdict import Check, Limits, judge
from nnbuild.importer import import_model
from nnbuild.latency import MUL_CYCLES, parse_latency
from nnbuild.lower import lower
from nnbuild.network import Array, Network
from nnbuild.onnxfile import is_qdq
from nnbuild.optimize import Aim
from nnbuild.option_values import GOALS, layers, parse_size
from nnbuild.precision_names import AUTO
from nnbuild.quantize import FULLY_CONNECTED
from nnbuild.streams.stream import stream_options
from nnbuild.target import named


def check(
    path: str | os.PathLike[str],
    *,
    cpu: str,
    flash: int | str | None,
    ram: int | str | None,
    latency: str | None,
    latency_strict: bool,
    mul_cycles: int,
    input_shape: Mapping[str, Sequence[int]] | None,
    states: str | Mapping[str, str] | None,
    stream: tuple[int | None, int | None],
    input_layout: str,
    fully_connected: str,
    int16: str | Sequence[str] | None,
    cmsis_nn: str | os.PathLike[str] | None,
    backend: str,
    optimize: str,
    io: str,
    stream_rows: str,
    push_rows: bool,
    advise: bool,
) -> Check:
    """See `nnbuild.check`."""
    limits = replace(_limits(flash, ram, latency), latency_strict=latency_strict)
    for name, value, allowed in (
        ("fully_connected", fully_connected, FULLY_CONNECTED),
        ("input_layout", input_layout, ("", "NHWC")),
        ("mul_cycles", mul_cycles, MUL_CYCLES),
        ("optimize", optimize, GOALS),
        ("io", io, ("caller", "arena")),
    ):
        if value not in allowed:
            raise ConfigError(f"must be one of {', '.join(repr(each) for each in allowed)}, not {value!r}", name)
    target = named(cpu)
    if cmsis_nn is not None:
        target = replace(target, cmsis_nn=library.read(Path(cmsis_nn)))
    waits = limits.latency.wait_states if limits.latency else None
    timing = Timing(cpu, wait_states=waits or 0, mul_cycles=mul_cycles)
    cycles = int(limits.latency.us * limits.latency.mhz) if limits.latency else None
    aim = Aim(optimize, limits.flash, limits.ram, cycles, timing.wait_states, mul_cycles)
    wide = _wide(int16)
    named_values = tuple(name for name in wide if name != AUTO)
    setup = Setup(target, timing, backend, input_layout, fully_connected == "per_tensor", named_values, aim)
    setup = replace(setup, io=io == "arena", rows=stream_rows, pushed=push_rows)
    shapes = {name: tuple(shape) for name, shape in (input_shape or {}).items()}
    return judge(Path(path), setup, limits, shapes, advise, states, stream_options(*stream), AUTO in wide)


def _wide(int16: str | Sequence[str] | None) -> tuple[str, ...]:
    try:
        return layers(int16) if int16 else ()
    except ConfigError as error:
        raise ConfigError(f"{error.findings[0].message}, not {int16!r}", "int16") from None


def _limits(flash: int | str | None, ram: int | str | None, latency: str | None) -> Limits:
    findings: list[Finding] = []
    parsed: dict[str, Any] = {}
    given = {"flash": (parse_size, flash), "ram": (parse_size, ram), "latency": (parse_latency, latency)}
    for name, (parse, value) in given.items():
        try:
            parsed[name] = None if value is None else parse(value)
        except ConfigError as error:
            findings.append(Finding(f"{error.findings[0].message}, not {value!r}", name))
    if findings:
        raise ConfigError.of(findings)
    return Limits(**parsed)


def run(
    int8_path: str | os.PathLike[str], x: Array | Mapping[str, Array], *, single_rounding: bool
) -> Array | dict[str, Array]:
    """See `nnbuild.run`."""
    file = os.path.abspath(int8_path)
    network = _network(file, _stamp(file), single_rounding)
    inputs, one, integers = _inputs(network, x, str(int8_path))
    kept: interpret.States = {}
    samples = [interpret.run(network, [values[index] for values in inputs], kept) for index in range(len(inputs[0]))]
    outputs = {}
    for position, port in enumerate(network.outputs):
        values = np.concatenate([sample[position] for sample in samples]) if samples else np.zeros((0, *port.shape[1:]))
        tensor = network.tensors[port.tensor]
        values = values.astype(tensor.dtype) if integers else tensor.quant.dequantize(values)
        outputs[port.name] = values[0] if one else values
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def _stamp(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError as error:
        raise ModelError(f"cannot read: {error.strerror or error}", file) from None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _network(file: str, stamp: tuple[int, int], single_rounding: bool) -> Network:
    """The network in `file`, lowered again when the file is another."""
    model = import_model(file)
    if not is_qdq(model):
        raise ModelError("is no int8 model", file, "quantize it: python -m nnbuild quantize")
    return lower(model, file, single_rounding=single_rounding)


def _inputs(network: Network, x: Array | Mapping[str, Array], where: str) -> tuple[list[Array], bool, bool]:
    """(N, ...) integers for each input; whether `x` was one sample; whether it held integers."""
    given: Mapping[str, Any] = x if isinstance(x, Mapping) else {network.inputs[0].name: x}
    names = [port.name for port in network.inputs]
    if sorted(given) != sorted(names):
        raise ConfigError(f"needs a value for each of {', '.join(names)}", where)
    arrays, ones, kinds = [], set(), set()
    for port in network.inputs:
        values = np.asarray(given[port.name])
        sample = port.shape[1:] if len(port.shape) > 1 else port.shape
        one = values.shape == sample
        if not one and values.shape[1:] != sample:
            shape = "x".join(str(size) for size in ("N", *sample))
            raise ConfigError(f"input '{port.name}' takes {shape} numbers, not {values.shape}", where)
        if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise ConfigError(f"input '{port.name}' takes finite numbers", where)
        values = values.reshape(-1, *sample)
        dtype = network.tensors[port.tensor].dtype
        if values.dtype != dtype:
            values = network.tensors[port.tensor].quant.quantize(values)
        arrays.append(values)
        ones.add(one)
        kinds.add(np.asarray(given[port.name]).dtype == dtype)
    if len(ones) > 1 or len(kinds) > 1 or len({len(values) for values in arrays}) > 1:
        raise ConfigError("its inputs differ in their number of samples, or are integers and float", where)
    return arrays, ones == {True}, kinds == {True}
