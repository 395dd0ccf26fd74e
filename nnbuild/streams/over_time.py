"""Streaming over time: a network over a window of frames becomes one that takes the newest frames and keeps the rest.

A layer that computes the same at every point in time needs to compute only its newest rows. What it reads of older
ones is kept by a layer `history` in front of it, whose output is its state; behind that the layer is an ordinary one of
the same operator over fewer rows, so no kernel knows of streams. Where a layer makes one of all points in time, its
whole window is kept, and what comes behind stays as it was. The bits are those of the whole window at any time: all
tensors hold the newest rows of what they hold there, so branches of different delays meet as they do there.

States begin as if all frames before the first had been zeros, the model's zero point: what the network computes of
those is one row for each window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nnbuild import interpret
from nnbuild.contract import LayerView
from nnbuild.errors import Finding, ModelError
from nnbuild.network import Array, Layer, Network, Port, Tensor
from nnbuild.ops import BY_NAME
from nnbuild.ops.history import HistoryParams
from nnbuild.ops.transpose import copy
from nnbuild.placeholder import is_placeholder
from nnbuild.streams.sliding import Reach, Sliding, Time, whole
from nnbuild.streams.stream import Stream


@dataclass(frozen=True, slots=True)
class _Flow:
    """A tensor that is computed as time goes on: a row of `time` for each `stride` frames."""

    time: Time
    stride: int


@dataclass(slots=True)
class _Analysis:
    """Tensors with time by name, and how layers that read them run along it; what stands against streaming."""

    flows: dict[str, _Flow]
    slidings: dict[str, Sliding] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def streamed(network: Network, stream: Stream, where: str = "", input_layout: str = "") -> Network:
    """The network that takes `stream.frames` new frames at a time, verified; `input_layout` is that of lowering.

    ModelError says of each layer that cannot run along time why; `where` names the file.
    """
    found = _analysed(network, _input(network, stream, where, input_layout), where)
    frames = stream.frames or math.lcm(*(flow.stride for flow in found.flows.values()))
    findings = found.findings or list(_against(network, found, frames, where))
    if findings:
        raise ModelError.of(findings)
    return _Build(network, found, frames).network()


def _against(network: Network, found: _Analysis, frames: int, where: str) -> Iterator[Finding]:
    """What stands against so many frames a call."""
    length = found.flows[network.inputs[0].tensor].time.length
    if frames >= length:
        message = f"a call brings {frames} frames of a window of {length}: nothing is left to keep"
        yield Finding(f"option 'stream_axis': {message}", where)
    for layer in network.layers:
        flow = found.flows.get(layer.output)
        if flow is not None and frames % flow.stride:
            message = f"a row of it takes {flow.stride} frames, and {frames} come in a call"
            yield Finding(f"cannot stream: {message}", _place(layer, where), "stream_frames= is to be a multiple")


def _input(network: Network, stream: Stream, where: str, input_layout: str) -> _Flow:
    """The only input with its time."""
    if len(network.inputs) != 1:
        message = f"option 'stream_axis': the model has {len(network.inputs)} inputs, and frames come by one"
        raise ModelError(message, where)
    shape = network.inputs[0].shape
    if not 1 <= stream.axis < len(shape):
        message = f"the file says that axis {stream.axis} of its input is time, which has {len(shape)} axes"
        raise ModelError(message, where, "give stream_axis, and quantize again")
    last = input_layout == "NHWC" and len(shape) in (3, 4)
    axis = (len(shape) - 1 if stream.axis == 1 else stream.axis - 1) if last else stream.axis
    return _Flow(Time(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])), 1)


def _analysed(network: Network, start: _Flow, where: str) -> _Analysis:
    """The way of time through the layers."""
    found = _Analysis({network.inputs[0].tensor: start})
    ports = {port.tensor: port for port in network.outputs}
    unknown: set[str] = set()
    for layer in network.layers:
        flows = [found.flows.get(name) for name in layer.inputs]
        if unknown.intersection(layer.inputs):
            unknown.add(layer.output)
        elif any(flows):
            result = _advanced(LayerView.of(network, layer), ports.get(layer.output), flows)
            if isinstance(result, str):
                unknown.add(layer.output)
                found.findings.append(Finding(f"cannot stream: {result}", _place(layer, where)))
                continue
            found.slidings[layer.name], flow = result
            found.flows |= {layer.output: flow} if flow is not None else {}
    return found


def _place(layer: Layer, where: str) -> str:
    return ": ".join(filter(None, (where, f"node '{layer.node}' ({layer.op})")))


def _advanced(view: LayerView, port: Port | None, flows: Sequence[_Flow | None]) -> tuple[Sliding, _Flow | None] | str:
    """How the layer runs, and its output's time unless that is one row; or why it cannot.

    An output of the model, `port`, in whose shape time is no axis is made of all rows as well.
    """
    if any(tensor.quant.wide for tensor in (*view.inputs, view.output)):
        return "it has int16 values, and a stream keeps int8"
    times = [flow.time if flow else None for flow in flows]
    sliding = BY_NAME[view.layer.op].slides(view, times)
    if isinstance(sliding, str):
        return sliding
    if port is not None and sliding.output is not None and _axis(port.shape, sliding.output) is None:
        return whole(view, times), None
    if sliding.output is None or sliding.output.length == 1:
        return sliding, None
    strides = {flow.stride * reach.stride for flow, reach in zip(flows, sliding.reaches, strict=True) if flow and reach}
    if len(strides) > 1:
        return "its inputs run at different rates"
    return sliding, _Flow(sliding.output, strides.pop())


class _Build:
    """The network with windows, of what was found and the frames of a call."""

    def __init__(self, network: Network, found: _Analysis, frames: int) -> None:
        self.old, self.found, self.frames = network, found, frames
        self.tensors: dict[str, Tensor] = {}
        self.layers: list[Layer] = []
        self.wanted: dict[str, dict[int, Layer]] = {}

    def network(self) -> Network:
        """The new network, verified."""
        lengths = self._lengths()
        zeros = self._zeros()
        (port,) = self.old.inputs
        self._add(port.tensor, zeros)
        for layer in self.old.layers:
            self.layers.append(self._cut(layer, lengths.get(layer.name, ())))
            self._add(layer.output, zeros)
        network = replace(
            self.old,
            tensors=self.tensors,
            layers=tuple(self.layers),
            inputs=(self._port(port),),
            outputs=tuple(self._port(each) for each in self.old.outputs),
        )
        network.verify()
        return network

    def _rows(self, name: str) -> int:
        """New rows of a tensor with time, at most all."""
        flow = self.found.flows[name]
        return min(self.frames // flow.stride, flow.time.length)

    def _lengths(self) -> dict[str, list[int]]:
        """How many rows each input of each layer along time holds, 0 of those without; notes what is kept for that."""
        lengths = {name: [0] * len(sliding.reaches) for name, sliding in self.found.slidings.items()}
        needs = [
            (reach.elastic, -self._needed(layer, name, sliding, reach), layer, position)
            for layer in self.old.layers
            if (sliding := self.found.slidings.get(layer.name)) is not None
            for position, (name, reach) in enumerate(zip(layer.inputs, sliding.reaches, strict=True))
            if reach is not None
        ]
        # Those that take what is there come last, the longest of them first.
        for elastic, less, layer, position in sorted(needs, key=lambda need: need[:2]):
            name, length = layer.inputs[position], -less
            there = [self._rows(name), *self.wanted.get(name, ())]
            if elastic:
                length = min((each for each in there if each >= length), default=length)
            if length not in there:
                self.wanted.setdefault(name, {})[length] = layer
            lengths[layer.name][position] = length
        return lengths

    def _needed(self, layer: Layer, name: str, sliding: Sliding, reach: Reach) -> int:
        """Of the input `name`, the rows from the first one on that the new rows of the output are made of."""
        length = self.found.flows[name].time.length
        if sliding.output is None:
            return length
        return length - (sliding.output.length - self._new(layer, sliding.output)) * reach.stride - reach.first

    def _new(self, layer: Layer, time: Time) -> int:
        """Rows that the layer computes in a call."""
        return self._rows(layer.output) if layer.output in self.found.flows else time.length

    def _cut(self, layer: Layer, lengths: Sequence[int]) -> Layer:
        """The layer over inputs of `lengths` rows."""
        sliding = self.found.slidings.get(layer.name)
        if sliding is None:
            return layer
        rows = 0 if sliding.output is None else self._new(layer, sliding.output)
        params, constants = sliding.cut(lengths, rows)
        inputs = tuple(
            self._history(name, length) if length and length != self._rows(name) else name
            for name, length in zip(layer.inputs, lengths, strict=True)
        )
        return replace(layer, inputs=inputs, params=params, constants=constants)

    def _add(self, name: str, zeros: Mapping[str, Array]) -> None:
        """The tensor as it is now, and behind its layer the windows that are kept of it."""
        tensor, flow = self.old.tensors[name], self.found.flows.get(name)
        self.tensors[name] = tensor if flow is None else _shortened(tensor, flow.time, self._rows(name))
        for length, reader in self.wanted.get(name, {}).items():
            assert flow is not None
            output = self._history(name, length)
            self.tensors[output] = replace(_shortened(tensor, flow.time, length), name=output)
            row = zeros[name].reshape(flow.time.outer, flow.time.length, flow.time.inner)[:, -1]
            self.layers.append(self._kept(reader, name, output, length, flow.time, row.ravel()))

    def _kept(self, reader: Layer, name: str, output: str, length: int, time: Time, row: Array) -> Layer:
        """What makes the newest `length` rows of the new ones: a window, or a part where fewer are needed."""
        rows = self._rows(name)
        if length < rows:
            index = np.arange(time.outer * rows * time.inner).reshape(time.outer, rows, time.inner)
            params, constants = copy(index[:, rows - length :].ravel())
            return Layer(output, "transpose", (name,), output, params, constants, reader.node)
        kept = HistoryParams(time.outer, length, rows, time.inner)
        return Layer(output, "history", (name,), output, kept, {"start": row}, reader.node)

    def _history(self, name: str, length: int) -> str:
        """The tensor with the newest `length` rows of `name`, and the layer that makes it."""
        return f"{name}_history" if len(self.wanted[name]) == 1 else f"{name}_history{length}"

    def _zeros(self) -> dict[str, Array]:
        """All tensors of the whole network where all frames are zeros; zero points where constants are not known."""
        if any(is_placeholder(array) for layer in self.old.layers for array in layer.constants.values()):
            return {name: _zero(tensor) for name, tensor in self.old.tensors.items()}
        return interpret.run_all(self.old, [_zero(self.old.tensors[self.old.inputs[0].tensor])])

    def _port(self, port: Port) -> Port:
        flow = self.found.flows.get(port.tensor)
        if flow is None:
            return port
        shape = _shape(port.shape, flow.time, self._rows(port.tensor))
        return Port(port.name, port.tensor, shape, "x".join(str(size) for size in shape))


def _zero(tensor: Tensor) -> Array:
    return np.full(tensor.size, tensor.quant.zero_point, np.int8)


def _shortened(tensor: Tensor, time: Time, rows: int) -> Tensor:
    return replace(tensor, shape=_shape(tensor.shape, time, rows))


def _shape(shape: tuple[int, ...], time: Time, rows: int) -> tuple[int, ...]:
    """`shape` with `rows` along time; of a tensor whose shape lacks that axis, all that is known of its memory."""
    axis = _axis(shape, time)
    return (time.outer, rows, time.inner) if axis is None else (*shape[:axis], rows, *shape[axis + 1 :])


def _axis(shape: tuple[int, ...], time: Time) -> int | None:
    """The axis of `shape` that is time."""
    axes = (axis for axis, size in enumerate(shape) if size == time.length and math.prod(shape[:axis]) == time.outer)
    return next(axes, None)


Run = Callable[[Sequence[Array]], Mapping[str, Array]]
"""Runs a network: int8 inputs, flat -> flat tensors by name, its outputs among them."""


def by_calls(window: Network, stream: Network, run: Run) -> Run:
    """Runs `window`, a network over its whole window, by calls of its `stream`, which `run` does, whatever ran before.

    Frames go in call by call, zeros in front of them where they are no whole number of calls.
    """
    port = window.inputs[0]
    time, new = _times(window.tensors[port.tensor], stream.tensors[port.tensor])
    calls = -(-time.length // new)
    zeros = np.full((time.outer, calls * new - time.length, time.inner), window.tensors[port.tensor].quant.zero_point)

    def all_calls(inputs: Sequence[Array]) -> Mapping[str, Array]:
        frames = np.concatenate([zeros.astype(np.int8), inputs[0].reshape(time.outer, time.length, time.inner)], axis=1)
        found = [run([part.ravel()]) for part in np.split(frames, calls, axis=1)]
        return {
            name: _joined(window.tensors[name], stream.tensors[name], [each[name] for each in found])
            for name in found[-1]
        }

    return all_calls


def _joined(window: Tensor, stream: Tensor, parts: Sequence[Array]) -> Array:
    """A tensor of the whole window, of what calls gave of it."""
    if window.size == stream.size:
        return parts[-1]
    time, new = _times(window, stream)
    rows = np.concatenate([part.reshape(time.outer, new, time.inner) for part in parts], axis=1)
    return np.asarray(rows[:, -time.length :].ravel())


def _times(window: Tensor, stream: Tensor) -> tuple[Time, int]:
    """Where time lies in a tensor, and how many rows of it a call brings, from its shapes in both networks."""
    changed = [n for n, sizes in enumerate(zip(window.shape, stream.shape, strict=False)) if sizes[0] != sizes[1]]
    axis = changed[0] if len(changed) == 1 and len(window.shape) == len(stream.shape) else 1  # as `_shape` has it
    outer, inner = math.prod(stream.shape[:axis]), math.prod(stream.shape[axis + 1 :])
    return Time(outer, window.size // (outer * inner), inner), stream.shape[axis]
