"""Where each tensor lives in the arena.

The model's inputs and outputs are its caller's buffers, or lie in the arena as well; everything else, and the scratch
of each kernel, gets an offset. Tensors whose lifetimes overlap never share a byte, except in place, where the operator
allows it, and an output with a dying input, as far as the kernel allows it (`contract.Overlap`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from nnbuild.contract import LayerView, Order, Overlap
from nnbuild.errors import InternalError
from nnbuild.network import Array, Layer, Network, Tensor
from nnbuild.ops import BY_NAME
from nnbuild.rows import PUSHED
from nnbuild.selection import Choice
from nnbuild.target import Target

ALIGNMENT = 4
"""Bytes; what any C type of a kernel's scratch needs."""

EXHAUSTIVE = 6
"""With so few buffers every order of placing them is tried."""


FAR = 2**40
"""As a distance, one at which nothing overlaps any more."""


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
    network: Network, choices: Sequence[Choice], target: Target, io: bool = False, alignment: int = ALIGNMENT
) -> Plan:
    """Offsets for every tensor and scratch buffer, verified.

    With `io` the model's inputs and outputs lie in the arena: inputs from before the first layer to their last reader,
    outputs up to the end. Their offsets and the arena's size are multiples of `alignment`.
    """
    buffers = _tensors(network, choices, target, io, alignment) + _scratch(network, choices, target)
    places = min(
        (_place(buffers, order) for order in _orders(buffers)), key=lambda found: _extent(buffers, found), default=()
    )
    _verify(buffers, places)
    offsets = {name: place for buffer, place in zip(buffers, places, strict=True) for name in buffer.tensors}
    layers = {choice.layer.name for choice in choices}
    live = tuple(_live(buffers, index) for index in range(len(choices)))
    scratch = {name.removeprefix("scratch:"): place for name, place in offsets.items() if name.startswith("scratch:")}
    if not set(scratch) <= layers:
        raise InternalError("scratch of a layer that is not there")
    tensors = {name: place for name, place in offsets.items() if not name.startswith("scratch:")}
    arena = _aligned(_extent(buffers, places), alignment)
    return Plan(arena, max(live, default=0), tensors, scratch, live, *_states(network))


def live_bytes(
    network: Network, choices: Sequence[Choice], target: Target, io: bool = False, alignment: int = ALIGNMENT
) -> tuple[int, ...]:
    """Bytes that live at each layer, below which no plan can go."""
    buffers = _tensors(network, choices, target, io, alignment) + _scratch(network, choices, target)
    return tuple(_live(buffers, index) for index in range(len(choices)))


def in_order(network: Network, choices: Sequence[Choice], planned: Plan) -> tuple[Choice, ...]:
    """The choices with the order in which each kernel has to write for this plan."""
    return tuple(
        replace(choice, view=replace(choice.view, order=_order(network, choice, planned))) for choice in choices
    )


def _order(network: Network, choice: Choice, planned: Plan) -> Order:
    def start(name: str, tensor: Tensor) -> int | None:
        """Of what is read or written as it lies in memory, and is no part of it."""
        home = network.home(name)
        return planned.offsets.get(home) if network.tensors[home].bytes == tensor.bytes else None

    view = choice.view
    first = start(choice.layer.output, view.output)
    end = 0 if first is None else first + view.output.bytes
    for name, tensor in zip(choice.layer.inputs, view.inputs, strict=True):
        place = start(name, tensor)
        if first is not None and place is not None and place < end and first < place + tensor.bytes:
            return Order.FORWARDS if first <= place else Order.BACKWARDS
    return Order.ANY


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
        for name in own.lasting:
            first, last = lives.get(name, (own.first, own.last))
            lives[name] = (min(first, own.first), max(last, own.last))
    return lives | {port.tensor: (lives[port.tensor][0], len(network.layers)) for port in network.outputs}


def in_arena(network: Network, io: bool) -> list[str]:
    """The tensors that have a place in the arena: not the model's inputs and outputs, unless `io`, or rows of them."""
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    pushed = {own.source for own in network.segments if own.pushed}
    elsewhere = set() if io else ports - pushed
    return [name for name in lifetimes(network) if name not in elsewhere]


def _tensors(network: Network, choices: Sequence[Choice], target: Target, io: bool, alignment: int) -> list[Buffer]:
    """One buffer for each tensor that lives in the arena, or chain of tensors in place."""
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    lives, inside = lifetimes(network), in_arena(network, io)
    over = {
        network.home(choice.layer.output): _overlaps(network, choice, index, lives, target)
        for index, choice in enumerate(choices)
    }
    over |= {
        own.result: {own.source: Overlap(own.lead, FAR)}
        for own in network.segments
        if lives[own.source][1] == own.last and not own.pushed
    }
    sharing = dict(_sharing(network, lives, inside))
    buffers: dict[str, Buffer] = {}
    home: dict[str, str] = {}
    for name in sorted(inside, key=lambda name: lives[name][0]):
        size, aligned = network.tensors[name].bytes, alignment if name in ports else ALIGNMENT
        own = Buffer((name,), size, *lives[name], aligned, over.get(name, {}))
        shared = sharing.get(name)
        home[name] = home[shared] if shared is not None else name
        buffers[home[name]] = _joined(buffers[home[shared]], own) if shared is not None else own
    return list(buffers.values())


def _joined(old: Buffer, new: Buffer) -> Buffer:
    """The buffer whose bytes `new` takes over from `old`."""
    tensors, alignment = (*old.tensors, *new.tensors), max(old.alignment, new.alignment)
    return replace(old, tensors=tensors, last=new.last, alignment=alignment)


def _overlaps(
    network: Network, choice: Choice, index: int, lives: Mapping[str, tuple[int, int]], target: Target
) -> dict[str, Overlap]:
    """The inputs that die at layer `index`, and how its kernel may overwrite them while it reads them."""
    names = [network.home(name) for name in choice.layer.inputs]
    if _lasting(network, choice.layer):
        return {}
    return {
        names[position]: own
        for position, own in choice.kernel.overlap(choice.view, target).items()
        if lives[names[position]][1] == index and names.count(names[position]) == 1
    }


def _sharing(
    network: Network, lives: Mapping[str, tuple[int, int]], inside: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """(output, input) where a layer may overwrite an input that dies there with its output."""
    for index, layer in enumerate(network.layers):
        view = LayerView.of(network, layer)
        output = network.home(layer.output)
        if _lasting(network, layer):
            continue
        for position in BY_NAME[layer.op].inplace(view):
            name = network.home(layer.inputs[position])
            both = network.tensors[name].bytes == network.tensors[output].bytes == view.output.bytes
            if {name, output} <= set(inside) and both and lives[name][1] == lives[output][0] == index:
                yield output, name
                break


def _lasting(network: Network, layer: Layer) -> bool:
    """Whether what a layer writes is needed in all of a segment, so that a step of it cannot begin in other memory."""
    return any(network.home(layer.output) in own.lasting for own in network.segments if layer.name in own.names)


def _scratch(network: Network, choices: Sequence[Choice], target: Target) -> list[Buffer]:
    """Of the layers that have some; what goes on from row to row is needed in the whole segment, as pushed rows are."""
    counters = [Buffer((PUSHED,), ALIGNMENT, 0, own.last) for own in network.segments if own.pushed]
    starts = {step.layer: own.first for own in network.segments for step in own.steps if step.keeps}
    sizes = [choice.kernel.scratch(choice.view, target) for choice in choices]
    return counters + [
        Buffer((f"scratch:{choice.layer.name}",), size, starts.get(choice.layer.name, index), index)
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


def _place(buffers: Sequence[Buffer], order: Sequence[int]) -> tuple[int, ...]:
    """First fit: each buffer at the lowest offset that the buffers which live at its time leave to it."""
    places: dict[int, int] = {}
    for index in order:
        others = [(buffers[other], place) for other, place in places.items() if _meet(buffers[other], buffers[index])]
        offset, tried = 0, -1
        while tried != offset:
            tried = offset
            for other, place in others:
                offset = _beyond(buffers[index], offset, other, place)
        places[index] = offset
    return tuple(places[index] for index in range(len(buffers)))


def _meet(one: Buffer, other: Buffer) -> bool:
    """Whether both live at some layer."""
    return one.first <= other.last and other.first <= one.last


def _over(output: Buffer, other: Buffer) -> Overlap | None:
    """How `output` may lie over `other`, which it replaces; None for any other two."""
    return next((output.over[name] for name in other.tensors if name in output.over), None)


def _beside(one: Buffer, other: Buffer) -> Overlap:
    """How `one` lies beside `other`."""
    return Overlap(_aligned(one.size), _aligned(other.size))


def _distance(one: Buffer, other: Buffer) -> Overlap:
    """How far `one` has to begin below or above `other`."""
    found, turned = _over(one, other), _over(other, one)
    if turned is not None:
        found = Overlap(turned.above, turned.below, turned.step)
    beside = _beside(one, other)
    if found is None:
        return beside
    below, above = _aligned(found.below, found.step), _aligned(found.above, found.step)
    return Overlap(min(below, beside.below), min(above, beside.above), found.step)


def _beyond(buffer: Buffer, offset: int, other: Buffer, place: int) -> int:
    """The lowest offset from `offset` on at which `buffer` harms no byte of `other` at `place`."""
    beside, own, distance = _beside(buffer, other), _distance(buffer, other), offset - place
    if distance <= -beside.below or distance >= beside.above:
        return offset
    stepped = _aligned(distance, own.step)
    if stepped > -own.below:
        stepped = min(max(stepped, own.above), beside.above)
    return _aligned(place + stepped, buffer.alignment)


def _extent(buffers: Sequence[Buffer], places: Sequence[int]) -> int:
    return max((place + _aligned(buffer.size) for buffer, place in zip(buffers, places, strict=True)), default=0)


def _aligned(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment


def _live(buffers: Sequence[Buffer], index: int) -> int:
    """Bytes that no plan for layer `index` can go below."""
    living = [buffer for buffer in buffers if buffer.first <= index <= buffer.last]
    total = sum(_aligned(buffer.size) for buffer in living)
    for output in living:
        over = [other for other in living if _over(output, other) is not None]
        total -= min(sum(_shared(output, other) for other in over), _aligned(output.size))
    return total


def _shared(output: Buffer, other: Buffer) -> int:
    """The most bytes that an output and what it replaces have in common."""
    own, sizes = _distance(output, other), (_aligned(output.size), _aligned(other.size))
    return sum(sizes) - min(max(sizes[0], own.below + sizes[1]), max(sizes[1], own.above + sizes[0]))


def _verify(buffers: Sequence[Buffer], places: Sequence[int]) -> None:
    placed = list(zip(buffers, places, strict=True))
    for position, (one, start) in enumerate(placed):
        for other, begin in placed[position + 1 :]:
            if _meet(one, other) and _beyond(one, start, other, begin) != start:
                raise InternalError(f"{one.tensors} and {other.tensors} share arena bytes")
