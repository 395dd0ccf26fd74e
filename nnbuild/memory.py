"""Where each tensor lives in the arena.

The model's inputs and outputs are its caller's buffers, or lie in the arena as well; everything else, and the scratch
of each kernel, gets an offset. Tensors whose lifetimes overlap never share a byte, except in place, where the operator
allows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from nnbuild.contract import LayerView
from nnbuild.errors import InternalError
from nnbuild.network import Network
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
    whose it is; 0 where nothing is kept. `in_states` are the offsets there of tensors that live there.
    """

    arena: int
    bound: int
    offsets: Mapping[str, int]
    scratch: Mapping[str, int]
    live: tuple[int, ...]
    states: Mapping[str, int]
    state_bytes: int
    in_states: Mapping[str, int]

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
    buffers = _tensors(network, io, alignment) + _scratch(choices, target)
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
    states, state_bytes = _states(network)
    in_states = {name: states[owner] for name, owner in _in_states(network).items()}
    return Plan(arena, max(live, default=0), tensors, scratch, live, states, state_bytes, in_states)


def _tensors(network: Network, io: bool, alignment: int) -> list[Buffer]:
    """One buffer for each tensor that lives in the arena, or chain of tensors in place."""
    inputs = {port.tensor for port in network.inputs}
    outputs = {port.tensor for port in network.outputs}
    elsewhere = set(_in_states(network)) | (set() if io else inputs | outputs)
    last = {name: index for index, layer in enumerate(network.layers) for name in layer.inputs}
    # An output is kept beyond the last layer, also where a layer reads it.
    last |= {name: len(network.layers) for name in outputs}
    buffers = {
        port.tensor: Buffer((port.tensor,), network.tensors[port.tensor].bytes, 0, last.get(port.tensor, 0), alignment)
        for port in (network.inputs if io else ())
    }
    home = {name: name for name in buffers}
    for index, layer in enumerate(network.layers):
        name = layer.output
        if name in elsewhere:
            continue
        own = Buffer((name,), network.tensors[name].bytes, index, last.get(name, index))
        own = replace(own, alignment=alignment) if name in outputs else own
        shared = _dying_input(network, index, last, elsewhere)
        home[name] = home[shared] if shared is not None else name
        buffers[home[name]] = _joined(buffers[home[shared]], own) if shared is not None else own
    return list(buffers.values())


def _joined(old: Buffer, new: Buffer) -> Buffer:
    """The buffer whose bytes `new` takes over from `old`."""
    return Buffer((*old.tensors, *new.tensors), old.size, old.first, new.last, max(old.alignment, new.alignment))


def _dying_input(network: Network, index: int, last: Mapping[str, int], elsewhere: set[str]) -> str | None:
    """The input that layer `index` may overwrite with its output."""
    layer = network.layers[index]
    for position in BY_NAME[layer.op].inplace(LayerView.of(network, layer)):
        name = layer.inputs[position]
        fits = network.tensors[name].bytes == network.tensors[layer.output].bytes
        if name not in elsewhere and last[name] == index and fits:
            return name
    return None


def _scratch(choices: Sequence[Choice], target: Target) -> list[Buffer]:
    sizes = [choice.kernel.scratch(choice.view, target) for choice in choices]
    return [
        Buffer((f"scratch:{choice.layer.name}",), size, index, index)
        for index, (choice, size) in enumerate(zip(choices, sizes, strict=True))
        if size
    ]


def _in_states(network: Network) -> dict[str, str]:
    """Tensors that are a state, or may lie where one begins, with the layer whose state that is."""
    readers = Counter(name for layer in network.layers for name in layer.inputs)
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    found: dict[str, str] = {}
    for layer in network.layers:
        if BY_NAME[layer.op].in_state:
            free = [layer.inputs[position] for position in BY_NAME[layer.op].inplace(LayerView.of(network, layer))]
            inside = [name for name in free if readers[name] == 1 and name not in ports]
            found |= dict.fromkeys((layer.output, *inside), layer.name)
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
