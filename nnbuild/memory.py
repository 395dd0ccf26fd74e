"""Where each tensor lives in the arena.

The model's inputs and outputs are its caller's buffers, or lie in the arena as well; everything else, and the scratch
of each kernel, gets an offset. Tensors whose lifetimes overlap never share a byte, except in place, where the operator
allows it, and an output with a dying input, as far as the kernel allows it (`contract.Overlap`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from nnbuild.contract import LayerView, Order, Overlap
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

    `alignment` is what their offset is a multiple of. `over` are the tensors that die at layer `first` over which the
    buffer may lie, and how.
    """

    tensors: tuple[str, ...]
    size: int
    first: int
    last: int
    alignment: int = ALIGNMENT
    over: Mapping[str, Overlap] = field(default_factory=dict)


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
    network: Network,
    choices: Sequence[Choice],
    target: Target,
    io: bool = False,
    alignment: int = ALIGNMENT,
    apart: bool = False,
) -> Plan:
    """Offsets for every tensor and scratch buffer, verified.

    With `io` the model's inputs and outputs lie in the arena: inputs from before the first layer to their last reader,
    outputs up to the end. Their offsets and the arena's size are multiples of `alignment`. With `apart` no output lies
    over an input but in place.
    """
    over = [{} if apart else _overlaps(network, index, choice, target) for index, choice in enumerate(choices)]
    buffers = _tensors(network, over, io, alignment) + _scratch(choices, target)
    distances = _distances(buffers)
    found = (_place(buffers, distances, order) for order in _orders(buffers))
    places = min(found, key=lambda found: _extent(buffers, found), default=())
    _verify(buffers, distances, places)
    offsets = {name: place for buffer, place in zip(buffers, places, strict=True) for name in buffer.tensors}
    layers = {choice.layer.name for choice in choices}
    live = tuple(_live(buffers, distances, index) for index in range(len(choices)))
    scratch = {name.removeprefix("scratch:"): place for name, place in offsets.items() if name.startswith("scratch:")}
    if not set(scratch) <= layers:
        raise InternalError("scratch of a layer that is not there")
    tensors = {name: place for name, place in offsets.items() if not name.startswith("scratch:")}
    arena = _aligned(_extent(buffers, places), alignment)
    return Plan(arena, max(live, default=0), tensors, scratch, live, *_states(network))


def in_order(choices: Sequence[Choice], planned: Plan, target: Target) -> tuple[Choice, ...]:
    """The choices with the order in which each kernel has to write for this plan."""
    orders = (_order(choice, planned, target) for choice in choices)
    return tuple(
        replace(choice, view=replace(choice.view, order=order)) for choice, order in zip(choices, orders, strict=True)
    )


def _order(choice: Choice, planned: Plan, target: Target) -> Order:
    view, start = choice.view, planned.offsets.get(choice.layer.output)
    for position, own in choice.kernel.overlap(view, target).items():
        place = planned.offsets.get(choice.layer.inputs[position])
        if start is None or place is None:
            continue
        if start < place + view.inputs[position].bytes and place < start + view.output.bytes:
            return Order.FORWARDS if place - start >= own.below else Order.BACKWARDS
    return Order.ANY


def _tensors(network: Network, over: Sequence[Mapping[str, Overlap]], io: bool, alignment: int) -> list[Buffer]:
    """One buffer for each tensor that lives in the arena, or chain of tensors in place."""
    inputs = {port.tensor for port in network.inputs}
    outputs = {port.tensor for port in network.outputs}
    elsewhere = set() if io else inputs | outputs
    last = _last_readers(network)
    buffers = {
        port.tensor: Buffer((port.tensor,), network.tensors[port.tensor].bytes, 0, last.get(port.tensor, 0), alignment)
        for port in (network.inputs if io else ())
    }
    home = {name: name for name in buffers}
    for index, layer in enumerate(network.layers):
        name = layer.output
        if name in elsewhere:
            continue
        own = Buffer((name,), network.tensors[name].bytes, index, last.get(name, index), over=over[index])
        own = replace(own, alignment=alignment) if name in outputs else own
        shared = _dying_input(network, index, last, elsewhere)
        home[name] = home[shared] if shared is not None else name
        buffers[home[name]] = _joined(buffers[home[shared]], own) if shared is not None else own
    return list(buffers.values())


def _joined(old: Buffer, new: Buffer) -> Buffer:
    """The buffer whose bytes `new` takes over from `old`."""
    tensors, alignment = (*old.tensors, *new.tensors), max(old.alignment, new.alignment)
    return replace(old, tensors=tensors, last=new.last, alignment=alignment)


def _last_readers(network: Network) -> dict[str, int]:
    """The last layer that reads each tensor; an output is kept beyond the last one, also where a layer reads it."""
    last = {name: index for index, layer in enumerate(network.layers) for name in layer.inputs}
    return last | {port.tensor: len(network.layers) for port in network.outputs}


def _overlaps(network: Network, index: int, choice: Choice, target: Target) -> dict[str, Overlap]:
    """The inputs that die at layer `index`, and how its kernel may overwrite them while it reads them."""
    names, last = choice.layer.inputs, _last_readers(network)
    return {
        names[position]: own
        for position, own in choice.kernel.overlap(choice.view, target).items()
        if last[names[position]] == index and names.count(names[position]) == 1
    }


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
        lambda i: (-buffers[i].size, -buffers[i].first),
        lambda i: (buffers[i].first, -buffers[i].size),
        lambda i: (-(buffers[i].last - buffers[i].first), -buffers[i].size),
        lambda i: (-buffers[i].size * (buffers[i].last - buffers[i].first + 1), buffers[i].first),
    )
    return [tuple(sorted(indices, key=key)) for key in keys]


def _place(buffers: Sequence[Buffer], distances: Distances, order: Sequence[int]) -> tuple[int, ...]:
    """First fit: each buffer at the lowest offset that the buffers which live at its time leave to it."""
    places: dict[int, int] = {}
    for index in order:
        others = [(distances[index, other], place) for other, place in places.items() if (index, other) in distances]
        offset, tried = 0, -1
        while tried != offset:
            tried = offset
            for distance, place in others:
                offset = distance.beyond(offset, place, buffers[index].alignment)
        places[index] = offset
    return tuple(places[index] for index in range(len(buffers)))


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a buffer begins from another one that lives at its time.

    At least `lower` bytes below it or `upper` bytes above it; or nearer, from `over.below` and `over.above` on, as long
    as the distance is a multiple of `over.step`. Offsets up to there share bytes.
    """

    lower: int
    upper: int
    over: Overlap

    @classmethod
    def between(cls, one: Buffer, other: Buffer) -> Distance:
        """Of `one` from `other`."""
        lower, upper = _aligned(one.size), _aligned(other.size)
        own, turned = _over(one, other), _over(other, one)
        if turned is not None:
            own = Overlap(turned.above, turned.below, turned.step)
        if own is None:
            return cls(lower, upper, Overlap(lower, upper))
        below, above = _aligned(own.below, own.step), _aligned(own.above, own.step)
        return cls(lower, upper, Overlap(min(below, lower), min(above, upper), own.step))

    def beyond(self, offset: int, place: int, alignment: int) -> int:
        """The lowest offset from `offset` on that leaves the other one at `place` alone, a multiple of `alignment`."""
        distance = offset - place
        if distance <= -self.lower or distance >= self.upper:
            return offset
        stepped = _aligned(distance, self.over.step)
        if stepped > -self.over.below:
            stepped = min(max(stepped, self.over.above), self.upper)
        return _aligned(place + stepped, alignment)

    @property
    def shared(self) -> int:
        """The most bytes that the two have in common."""
        below, above = max(self.lower, self.over.below + self.upper), max(self.upper, self.over.above + self.lower)
        return self.lower + self.upper - min(below, above)


Distances = Mapping[tuple[int, int], Distance]
"""Of each buffer from each other one that lives at its time."""


def _distances(buffers: Sequence[Buffer]) -> dict[tuple[int, int], Distance]:
    return {
        (index, number): Distance.between(one, other)
        for index, one in enumerate(buffers)
        for number, other in enumerate(buffers)
        if index != number and one.first <= other.last and other.first <= one.last
    }


def _over(output: Buffer, other: Buffer) -> Overlap | None:
    """How `output` may lie over `other`, which it replaces; None for any other two."""
    if other.last != output.first:
        return None
    return next((output.over[name] for name in other.tensors if name in output.over), None)


def _extent(buffers: Sequence[Buffer], places: Sequence[int]) -> int:
    return max((place + _aligned(buffer.size) for buffer, place in zip(buffers, places, strict=True)), default=0)


def _aligned(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment


def _live(buffers: Sequence[Buffer], distances: Distances, index: int) -> int:
    """Bytes that no plan for layer `index` can go below."""
    living = [number for number, buffer in enumerate(buffers) if buffer.first <= index <= buffer.last]
    total = sum(_aligned(buffers[number].size) for number in living)
    for output in (number for number in living if buffers[number].first == index):
        over = [other for other in living if other != output and _over(buffers[output], buffers[other]) is not None]
        total -= min(sum(distances[output, other].shared for other in over), _aligned(buffers[output].size))
    return total


def _verify(buffers: Sequence[Buffer], distances: Distances, places: Sequence[int]) -> None:
    for (one, other), distance in distances.items():
        if distance.beyond(places[one], places[other], buffers[one].alignment) != places[one]:
            raise InternalError(f"{buffers[one].tensors} and {buffers[other].tensors} share arena bytes")
