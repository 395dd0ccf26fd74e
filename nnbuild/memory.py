"""Where each tensor lives in the arena.

The model's inputs and outputs are its caller's buffers, or lie in the arena as well; everything else, and the scratch
of each kernel, gets an offset. Tensors whose lifetimes overlap never share a byte, except in place, where the operator
allows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from nnbuild.contract import LayerView
from nnbuild.errors import InternalError
from nnbuild.network import Array, Network
from nnbuild.ops import BY_NAME
from nnbuild.selection import Choice
from nnbuild.target import Target

ALIGNMENT = 4
"""Bytes; what any C type of a kernel's scratch needs."""

EXHAUSTIVE = 6
"""With so few buffers every order of placing them is tried."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes that live from layer `first` to layer `last`, both included. `tensors` share them, one after the other.

    `alignment` is what their offset is a multiple of.
    """

    tensors: tuple[str, ...]
    size: int
    first: int
    last: int
    alignment: int = ALIGNMENT


@dataclass(frozen=True, slots=True)
class Plan:
    """`offsets` of tensors that live in the arena, `scratch` offset of each layer that has some, `live` bytes by layer.

    `arena` is what the plan needs, `bound` what no plan for these lifetimes can go below. `states` are the offsets of
    what layers keep between inferences, in `state_bytes` of memory of their own, which begins with a word that says
    whose it is; 0 where nothing is kept.
    """

    arena: int
    bound: int
    offsets: Mapping[str, int]
    scratch: Mapping[str, int]
    live: tuple[int, ...]
    states: Mapping[str, int]
    state_bytes: int

    @property
    def peak(self) -> int:
        """Index of the layer at which most bytes are live."""
        return max(range(len(self.live)), key=self.live.__getitem__, default=0)


def plan(
    network: Network, choices: Sequence[Choice], target: Target, io: bool = False, alignment: int = ALIGNMENT
) -> Plan:
    """Offsets for every tensor and scratch buffer, verified.

    With `io` the model's inputs and outputs lie in the arena: inputs from before the first layer to their last reader,
    outputs up to the end. Their offsets and the arena's size are multiples of `alignment`.
    """
    buffers = _tensors(network, io, alignment) + _scratch(network, choices, target)
    places = min(
        (_place(buffers, order) for order in _orders(buffers)), key=lambda found: _extent(buffers, found), default=()
    )
    _verify(buffers, places)
    offsets = {name: place for buffer, place in zip(buffers, places, strict=True) for name in buffer.tensors}
    layers = {choice.layer.name for choice in choices}
    live = tuple(
        sum(_aligned(buffer.size) for buffer in buffers if buffer.first <= index <= buffer.last)
        for index in range(len(choices))
    )
    scratch = {name.removeprefix("scratch:"): place for name, place in offsets.items() if name.startswith("scratch:")}
    if not set(scratch) <= layers:
        raise InternalError("scratch of a layer that is not there")
    tensors = {name: place for name, place in offsets.items() if not name.startswith("scratch:")}
    arena = _aligned(_extent(buffers, places), alignment)
    return Plan(arena, max(live, default=0), tensors, scratch, live, *_states(network))


def lifetimes(network: Network) -> dict[str, tuple[int, int]]:
    """The first and the last layer at which each tensor is needed; a model's output is kept beyond the last layer.

    What is kept in a segment that goes row by row, what it reads and what it writes is needed from its first layer to
    its last one; rows that are used at once are needed like any other tensor.
    """
    lives = {port.tensor: (0, 0) for port in network.inputs}
    for index, layer in enumerate(network.layers):
        for name in map(network.home, (*layer.inputs, layer.output)):
            lives[name] = (lives.get(name, (index, index))[0], index)
    for own in network.segments:
        for name in (own.source, own.result, *(name for name, kept in own.kept.items() if kept.stays)):
            first, last = lives[name]
            lives[name] = (min(first, own.first), max(last, own.last))
    return lives | {port.tensor: (lives[port.tensor][0], len(network.layers)) for port in network.outputs}


def in_arena(network: Network, io: bool) -> list[str]:
    """The tensors that have a place in the arena: not the model's inputs and outputs, unless `io`, or rows of them."""
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    pushed = {own.source for own in network.segments if own.pushed}
    elsewhere = set() if io else ports - pushed
    return [name for name in lifetimes(network) if name not in elsewhere]


def _tensors(network: Network, io: bool, alignment: int) -> list[Buffer]:
    """One buffer for each tensor that lives in the arena, or chain of tensors in place."""
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    lives, inside = lifetimes(network), in_arena(network, io)
    buffers: dict[str, Buffer] = {}
    home: dict[str, str] = {}
    sharing = dict(_sharing(network, lives, inside))
    for name in sorted(inside, key=lambda name: lives[name][0]):
        own = Buffer((name,), network.tensors[name].bytes, *lives[name], alignment if name in ports else ALIGNMENT)
        shared = sharing.get(name)
        home[name] = home[shared] if shared is not None else name
        buffers[home[name]] = _joined(buffers[home[shared]], own) if shared is not None else own
    return list(buffers.values())


def _joined(old: Buffer, new: Buffer) -> Buffer:
    """The buffer whose bytes `new` takes over from `old`."""
    return Buffer((*old.tensors, *new.tensors), old.size, old.first, new.last, max(old.alignment, new.alignment))


def _sharing(
    network: Network, lives: Mapping[str, tuple[int, int]], inside: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """(output, input) where a layer may overwrite an input that dies there with its output."""
    for index, layer in enumerate(network.layers):
        view = LayerView.of(network, layer)
        output = network.home(layer.output)
        for position in BY_NAME[layer.op].inplace(view):
            name = network.home(layer.inputs[position])
            both = network.tensors[name].bytes == network.tensors[output].bytes == view.output.bytes
            if {name, output} <= set(inside) and both and lives[name][1] == lives[output][0] == index:
                yield output, name
                break


def _scratch(network: Network, choices: Sequence[Choice], target: Target) -> list[Buffer]:
    """Of the layers that have some; what goes on from row to row is needed in the whole segment."""
    found = []
    for index, choice in enumerate(choices):
        size = choice.kernel.scratch(choice.view, target)
        kept = [own.first for own in network.segments for step in own.steps if step.layer == choice.layer.name and step.keeps]
        if size:
            found.append(Buffer((f"scratch:{choice.layer.name}",), size, *kept or [index], index))
    return found


def _states(network: Network) -> tuple[dict[str, int], int]:
    """Offset of each layer's state, and the bytes of all of them with the word in front."""
    offsets: dict[str, int] = {}
    end = ALIGNMENT
    for layer in network.layers:
        start = BY_NAME[layer.op].state(LayerView.of(network, layer))
        if start is not None:
            offsets[layer.name] = end
            end += _aligned(start.size)
    return offsets, end if offsets else 0


def initial_state(network: Network, planned: Plan) -> Array:
    """What lies behind the first word of the states after a reset, int8 (state_bytes - 4,)."""
    found = np.zeros(planned.state_bytes - ALIGNMENT, np.int8)
    for layer in network.layers:
        start = BY_NAME[layer.op].state(LayerView.of(network, layer))
        if start is not None:
            offset = planned.states[layer.name] - ALIGNMENT
            found[offset : offset + start.size] = start
    return found


def _orders(buffers: Sequence[Buffer]) -> list[tuple[int, ...]]:
    """Orders in which to place buffers: the usual greedy ones, and all of them where they are few."""
    indices = range(len(buffers))
    if len(buffers) <= EXHAUSTIVE:
        return list(permutations(indices))
    keys = (
        lambda i: (-buffers[i].size, buffers[i].first),
        lambda i: (buffers[i].first, -buffers[i].size),
        lambda i: (-(buffers[i].last - buffers[i].first), -buffers[i].size),
        lambda i: (-buffers[i].size * (buffers[i].last - buffers[i].first + 1), buffers[i].first),
    )
    return [tuple(sorted(indices, key=key)) for key in keys]


def _place(buffers: Sequence[Buffer], order: Sequence[int]) -> tuple[int, ...]:
    """First fit: each buffer at the lowest offset that is free for its whole life."""
    places: dict[int, int] = {}
    for index in order:
        buffer = buffers[index]
        taken = sorted(
            (places[other], places[other] + _aligned(buffers[other].size))
            for other in places
            if buffers[other].first <= buffer.last and buffer.first <= buffers[other].last
        )
        offset = 0
        for start, end in taken:
            if offset + buffer.size <= start:
                break
            offset = _aligned(max(offset, end), buffer.alignment)
        places[index] = offset
    return tuple(places[index] for index in range(len(buffers)))


def _extent(buffers: Sequence[Buffer], places: Sequence[int]) -> int:
    return max((place + _aligned(buffer.size) for buffer, place in zip(buffers, places, strict=True)), default=0)


def _aligned(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment


def _verify(buffers: Sequence[Buffer], places: Sequence[int]) -> None:
    placed = list(zip(buffers, places, strict=True))
    for position, (one, start) in enumerate(placed):
        for other, begin in placed[position + 1 :]:
            together = one.first <= other.last and other.first <= one.last
            if together and start < begin + other.size and begin < start + one.size:
                raise InternalError(f"{one.tensors} and {other.tensors} share arena bytes")
