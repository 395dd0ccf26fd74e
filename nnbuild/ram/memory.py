"""Where each tensor lives in the arena.

The model's inputs and outputs are its caller's buffers, or lie in the arena as well; everything else, and the scratch
of each kernel, gets an offset. What goes row by row (`ram.rows`) lies where its whole tensor, or the rows that are
kept of that, do. Tensors whose lifetimes overlap never share a byte, except in place, where the operator
allows it, an output with a dying input, as far as the kernel allows it (`contract.Overlap`), and views, which lie in
another tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise

from nnbuild.contract import LayerView, Order, Overlap
from nnbuild.network import Layer, Network
from nnbuild.ops import BY_NAME
from nnbuild.ram.offsets import ALIGNMENT as ALIGNMENT
from nnbuild.ram.offsets import STEPS, Buffer, Placement, Span, aligned, live_bytes, place
from nnbuild.ram.rows import PUSHED
from nnbuild.selection import Candidates, Choice
from nnbuild.target import Target

EXHAUSTIVE = 5
"""Of so few layers that can run in place every choice is tried, where the first is not known to be the best."""

FAR = 2**40
"""As a distance, one at which nothing overlaps any more."""


Lives = Mapping[str, tuple[int, int]]
"""First and last layer at which each tensor is needed."""

Over = Mapping[str, Mapping[str, Overlap]]
"""Over which tensors an output may lie, and how."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`offsets` of tensors that live in the arena, `scratch` offset of each layer that has some, `live` bytes by layer.

    `arena` is what the plan needs, `bound` what no plan for this order of layers and these kernels can go below.
    `states` are the offsets of what layers keep between inferences, in `state_bytes` of memory of their own, which
    begins with a word that says whose it is; 0 where nothing is kept. `in_states` are the offsets there of tensors that
    live there. `lives` are the first and the last layer at which
    each tensor is needed, wherever it lies; the model's outputs are needed beyond the last layer.
    """

    arena: int
    bound: int
    offsets: Mapping[str, int]
    scratch: Mapping[str, int]
    live: tuple[int, ...]
    states: Mapping[str, int]
    state_bytes: int
    in_states: Mapping[str, int]
    lives: Lives = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """Index of the layer at which most bytes are live."""
        return max(range(len(self.live)), key=self.live.__getitem__, default=0)

    @property
    def optimal(self) -> bool:
        """Whether it is proved that no plan needs less."""
        return self.arena == self.bound


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
    lives = lifetimes(network)
    sizes = [choice.kernel.scratch(choice.view, target) for choice in choices]
    scratch = _counters(network) + _scratch(choices, sizes, _starts(network))
    over = {} if apart else _all_overlaps(network, choices, lives, target)
    memory, buffers, placed = _best(network, lives, scratch, over, io, alignment)
    starts = dict(zip((buffer.tensors[0] for buffer in buffers), placed.offsets, strict=True))
    offsets = {name: starts[root] + start for name, (root, start) in memory.places.items() if root in starts}
    offsets |= {name: start for name, start in starts.items() if name == PUSHED}
    states, state_bytes = _states(network)
    return Plan(
        aligned(placed.extent, alignment),
        aligned(placed.bound, alignment),
        offsets,
        {name.removeprefix(_SCRATCH): start for name, start in starts.items() if name.startswith(_SCRATCH)},
        tuple(live_bytes(buffers, index) for index in range(len(choices))),
        states,
        state_bytes,
        {name: states[owner] + start for name, (owner, start) in _in_states(network).items()},
        lives,
    )


def needs(
    network: Network,
    layers: Sequence[Candidates],
    target: Target,
    io: bool = False,
    alignment: int = ALIGNMENT,
    apart: bool = False,
    outside: Collection[str] | None = None,
) -> tuple[tuple[int, ...], ...]:
    """The bytes that live at each layer with each of its kernels: below them no plan goes, whatever runs in place.

    They hardly depend on other layers: what is needed in a whole segment is counted with the kernel that needs least.
    `outside` are the tensors that do not lie in the arena, where the network is a part of one and does not know it.
    """
    lives = lifetimes(network)
    memory = _apart(network, lives, elsewhere(network, io) if outside is None else outside, alignment)
    memory = _in_place(network, memory, list(_takeovers(network, lives, memory)))
    starts = _starts(network)
    sizes = [[aligned(kernel.scratch(layer.view, target)) for kernel in layer.kernels] for layer in layers]
    found: list[list[int]] = [[] for _ in layers]
    for number in range(max((len(layer.kernels) for layer in layers), default=0)):
        places = [min(number, len(layer.kernels) - 1) for layer in layers]
        choices = [layer.choose(layer.kernels[kernel], {}) for layer, kernel in zip(layers, places, strict=True)]
        buffers = memory.buffers(network, lives, {} if apart else _all_overlaps(network, choices, lives, target))
        lasting = [min(own) if layer.layer.name in starts else 0 for layer, own in zip(layers, sizes, strict=True)]
        buffers += _counters(network) + _scratch(choices, lasting, starts)
        for index, (own, kernel) in enumerate(zip(sizes, places, strict=True)):
            if len(found[index]) < len(own):
                found[index].append(live_bytes(buffers, index) + own[kernel] - lasting[index])
    return tuple(map(tuple, found))


def storages(network: Network, io: bool, alignment: int = ALIGNMENT) -> Mapping[str, tuple[Span, ...]]:
    """The bytes of the arena that live when, were nothing written over anything; each after a tensor in them."""
    memory = _apart(network, lifetimes(network), elsewhere(network, io), alignment)
    return {root: _words(spans) for root, spans in memory.storages.items()}


def lifetimes(network: Network) -> Lives:
    """First and last layer at which each tensor is needed; the model's outputs live beyond the last layer.

    A tensor that others lie in lives from the first of them on, one that lies in another as soon as that does. What is
    kept in a segment that goes row by row, what it reads and what it writes is needed from its first layer to its last
    one; rows that are used at once are needed like any other tensor, and rows have no lives besides their tensor's.
    """
    first = {port.tensor: 0 for port in network.inputs}
    first |= {network.home(layer.output): index for index, layer in enumerate(network.layers)}
    first |= _of_segments(network)
    written = tuple(first)
    for name in _unwritten(network, written):
        first[name] = min(first[other] for other in written if network.shares(name, other))
    last = {network.home(name): index for index, layer in enumerate(network.layers) for name in layer.inputs}
    lives = {name: (start, last.get(name, start)) for name, start in first.items()}
    for own in network.segments:
        for name in own.lasting:
            start, end = lives[name]
            lives[name] = (min(start, own.first), max(end, own.last))
    return lives | {port.tensor: (lives[port.tensor][0], len(network.layers)) for port in network.outputs}


def _of_segments(network: Network) -> dict[str, int]:
    """What segments gather rows of a whole tensor in, or keep rows in apart, and the layer from which on they do."""
    reads = {name: index for index, layer in enumerate(network.layers) for name in layer.inputs}
    gathered = {name: reads[name] for own in network.segments for name, home in own.homes.items() if name == home}
    return gathered | {name: own.first for own in network.segments for name in own.apart}


def _unwritten(network: Network, written: Collection[str]) -> list[str]:
    """Tensors that others lie in, or that lie in others, and that no layer writes."""
    involved = {*network.views, *(view.home for view in network.views.values())}.difference(written)
    return [name for name in network.tensors if name in involved]


def in_order(network: Network, choices: Sequence[Choice], planned: Plan, target: Target) -> tuple[Choice, ...]:
    """The choices with the order in which each kernel has to write for this plan."""
    orders = (_order(network, choice, planned, target) for choice in choices)
    return tuple(
        replace(choice, view=replace(choice.view, order=order)) for choice, order in zip(choices, orders, strict=True)
    )


def _order(network: Network, choice: Choice, planned: Plan, target: Target) -> Order:
    def offset(name: str) -> int | None:
        """Of what lies in the arena, at a place that does not depend on the row."""
        home, begin = planned.offsets.get(network.home(name)), network.start(name)
        return None if home is None or begin is None else home + begin

    view, start = choice.view, offset(choice.layer.output)
    for position, own in choice.kernel.overlap(view, target).items():
        place = offset(choice.layer.inputs[position])
        if start is None or place is None:
            continue
        if start < place + view.inputs[position].bytes and place < start + view.output.bytes:
            return Order.FORWARDS if place - start >= own.below else Order.BACKWARDS
    return Order.ANY


_SCRATCH = "scratch:"


def _starts(network: Network) -> dict[str, int]:
    """The layers that go on from row to row: where the segment begins, which needs their scratch."""
    return {step.layer: own.first for own in network.segments for step in own.steps if step.keeps}


def _counters(network: Network) -> list[Buffer]:
    """What counts pushed rows, in the whole segment."""
    return [Buffer((PUSHED,), ALIGNMENT, 0, own.last) for own in network.segments if own.pushed]


def _scratch(choices: Sequence[Choice], sizes: Sequence[int], starts: Mapping[str, int]) -> list[Buffer]:
    """Of the layers that have some."""
    return [
        Buffer((_SCRATCH + choice.layer.name,), size, starts.get(choice.layer.name, index), index)
        for index, (choice, size) in enumerate(zip(choices, sizes, strict=True))
        if size
    ]


# --- what lies in what -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Takeover:
    """Layer `layer` may write its output over the input that dies there."""

    layer: int
    input: str
    output: str


@dataclass(slots=True)
class _Memory:
    """Storages, each named after a tensor: the bytes of them that live, and the storage and first byte of each tensor.

    Two spans of a storage may be the same bytes. `alignments` are those of storages.
    """

    storages: dict[str, list[Span]]
    places: dict[str, tuple[str, int]]
    alignments: dict[str, int]

    def buffers(self, network: Network, lives: Lives, over: Over) -> list[Buffer]:
        """The storages as what is to be placed."""
        found = []
        for root, spans in self.storages.items():
            words = _words(spans)
            first, last = min(span.first for span in words), max(span.last for span in words)
            tensors = (root, *(name for name, (home, _) in self.places.items() if home == root and name != root))
            size = max(span.end for span in spans)
            own = () if words == (Span(0, aligned(size), first, last),) else words
            # What takes over memory joins the storage of what was there before it, whose name is the storage's.
            below = over.get(root, {}) if not own and self._fills(network, root) else {}
            free = {
                name: how
                for name, how in below.items()
                if self._fills(network, name) and self._last(name) == lives[name][1] and self.places[name][0] != root
            }
            found.append(Buffer(tensors, size, first, last, self.alignments[root], own, free))
        return found

    def _fills(self, network: Network, name: str) -> bool:
        """Whether a tensor is all that its storage is."""
        root, start = self.places.get(name, ("", 0))
        return root != "" and start == 0 and network.tensors[name].bytes == max(s.end for s in self.storages[root])

    def _last(self, name: str) -> int:
        """The last layer that needs anything of the storage of a tensor."""
        return max(span.last for span in self.storages[self.places[name][0]])

    def join(self, network: Network, step: _Takeover) -> bool:
        """Let the output lie where the input does, with all that shares its storage; whether that can be."""
        root, start = self.places[step.input]
        other, begin = self.places[step.output]
        shift = start - begin
        if root == other or shift < 0 or shift % max(ALIGNMENT, self.alignments[other]):
            return False
        moved = [Span(span.start + shift, span.size, span.first, span.last) for span in self.storages[other]]
        inputs = map(network.home, network.layers[step.layer].inputs)
        if any(name != step.input and network.shares(name, step.input) for name in inputs):
            return False
        if not all(_follow(old, new, step.layer) for old in self.storages[root] for new in moved):
            return False
        self.storages[root] += moved
        self.alignments[root] = max(self.alignments[root], self.alignments.pop(other))
        del self.storages[other]
        for name, (home, offset) in self.places.items():
            if home == other:
                self.places[name] = (root, offset + shift)
        return True


def _follow(old: Span, new: Span, layer: int) -> bool:
    """Whether `new` and `old` lie apart, or live at other times, or `layer` writes the one where the other dies."""
    apart = old.end <= new.start or new.end <= old.start
    return apart or not old.meets(new) or old.last == layer == new.first


def elsewhere(network: Network, io: bool) -> frozenset[str]:
    """The tensors that do not lie in the arena, but in states or with the caller."""
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    # Of an input that is pushed some rows are kept.
    pushed = {own.source for own in network.segments if own.pushed}
    return frozenset({*_in_states(network), *(() if io else ports - pushed)})


def _apart(network: Network, lives: Lives, outside: Collection[str], alignment: int) -> _Memory:
    """Each tensor in a storage of its own, but for views; without those `outside`."""
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    written = [port.tensor for port in network.inputs]
    written += [*(network.home(layer.output) for layer in network.layers), *_of_segments(network)]
    unwritten = _unwritten(network, written)
    storages: dict[str, list[Span]] = {}
    for name in written:
        root, start = network.place(name)
        if root not in outside:
            own = [Span(start, network.tensors[name].bytes, *lives[name])]
            storages.setdefault(root, []).extend(own + _seen_by(network, lives, name, unwritten))
    places = {name: network.place(name) for name in network.tensors}
    return _Memory(
        storages,
        {name: place for name, place in places.items() if place[0] in storages},
        {root: alignment if root in ports else ALIGNMENT for root in storages},
    )


def _seen_by(network: Network, lives: Lives, tensor: str, unwritten: Sequence[str]) -> list[Span]:
    """The bytes of `tensor`, which a layer writes, that tensors need which none writes."""
    found = []
    for other in unwritten:
        start, end = network.overlap(tensor, other)
        if start < end:
            found.append(Span(start, end - start, lives[tensor][0], lives[other][1]))
    return found


def _words(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The same bytes in whole words, those of one life together; bytes that live at two times are two spans."""
    cuts = sorted({cut for span in spans for cut in (span.start - span.start % ALIGNMENT, aligned(span.end))})
    found: list[Span] = []
    for start, end in pairwise(cuts):
        lives = _joined((span.first, span.last) for span in spans if span.start < end and start < span.end)
        for life in lives:
            before = next((old for old in found if old.end == start and (old.first, old.last) == life), None)
            if before is not None:
                found.remove(before)
            begin = start if before is None else before.start
            found.append(Span(begin, end - begin, *life))
    return tuple(found)


def _joined(lives: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Lives as few as they come to: those that touch are one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(lives):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


# --- what runs in place ------------------------------------------------------------------------------------------


def _best(
    network: Network, lives: Lives, scratch: Sequence[Buffer], over: Over, io: bool, alignment: int
) -> tuple[_Memory, list[Buffer], Placement]:
    """The smallest placement, whatever runs in place for it; its bound is that of all choices.

    What takes over memory never adds to what lives at a layer. So where the placement with all that can run in place
    is as small as what lives there, no other choice is better; otherwise leaving out some may make it fit better.
    """

    beyond = elsewhere(network, io)

    def tried(taken: Collection[_Takeover], steps: int) -> tuple[_Memory, list[Buffer], Placement]:
        memory = _in_place(network, _apart(network, lives, beyond, alignment), taken)
        buffers = [*memory.buffers(network, lives, over), *scratch]
        return memory, buffers, place(buffers, steps)

    options = list(_takeovers(network, lives, _apart(network, lives, beyond, alignment)))
    found = tried(options, STEPS)
    floor = max((live_bytes(found[1], index) for index in range(len(network.layers) + 1)), default=0)
    if found[2].extent == floor or not options:
        return found
    others = list(_fewer(options))
    rest = [tried(taken, STEPS // len(others)) for taken in others]
    memory, buffers, placed = min((found, *rest), key=lambda one: one[2].extent)
    bound = min(one[2].bound for one in (found, *rest)) if len(options) <= EXHAUSTIVE else floor
    return memory, buffers, replace(placed, bound=bound)


def _in_place(network: Network, memory: _Memory, taken: Iterable[_Takeover]) -> _Memory:
    """`memory` with those of `taken` that can be, the first for each layer."""
    done: set[int] = set()
    for step in taken:
        if step.layer not in done and memory.join(network, step):
            done.add(step.layer)
    return memory


def most_live(network: Network, io: bool) -> int:
    """The most bytes that live at a layer, scratch left out: below them no plan of these layers in this order goes."""
    lives = lifetimes(network)
    memory = _apart(network, lives, elsewhere(network, io), ALIGNMENT)
    buffers = _in_place(network, memory, list(_takeovers(network, lives, memory))).buffers(network, lives, {})
    return max((live_bytes(buffers, index) for index in range(len(network.layers) + 1)), default=0)


def _fewer(options: Sequence[_Takeover]) -> Iterator[Sequence[_Takeover]]:
    """Choices without some: all of them where they are few, otherwise each without one."""
    sizes = range(len(options)) if len(options) <= EXHAUSTIVE else (len(options) - 1,)
    for size in sizes:
        yield from combinations(options, size)


def _takeovers(network: Network, lives: Lives, memory: _Memory) -> Iterator[_Takeover]:
    """What operators allow, in the order of layers."""
    for index, layer in enumerate(network.layers):
        view, output = LayerView.of(network, layer), network.home(layer.output)
        for position in () if _lasting(network, layer) else BY_NAME[layer.op].inplace(view):
            name = network.home(layer.inputs[position])
            fits = network.tensors[name].bytes == network.tensors[output].bytes == view.output.bytes
            if fits and lives[name][1] == index and {name, output} <= memory.places.keys():
                yield _Takeover(index, name, output)


def _all_overlaps(network: Network, choices: Sequence[Choice], lives: Lives, target: Target) -> Over:
    """Over which tensors each output may lie; the result of a segment over the source that dies there."""
    over = {
        network.home(choice.layer.output): _overlaps(network, choice, index, lives, target)
        for index, choice in enumerate(choices)
    }
    return over | {
        own.result: {own.source: Overlap(own.lead, FAR)}
        for own in network.segments
        if lives[own.source][1] == own.last and not own.pushed
    }


def _overlaps(network: Network, choice: Choice, index: int, lives: Lives, target: Target) -> dict[str, Overlap]:
    """The inputs that die at layer `index`, and how its kernel may overwrite them while it reads them."""
    inputs = choice.layer.inputs
    names = [network.home(name) for name in inputs]
    if _lasting(network, choice.layer):
        return {}
    found = {
        names[position]: _of_homes(network, choice.layer.output, inputs[position], own)
        for position, own in choice.kernel.overlap(choice.view, target).items()
        if lives[names[position]][1] == index and sum(network.shares(names[position], name) for name in names) == 1
    }
    return {name: own for name, own in found.items() if own is not None}


def _of_homes(network: Network, output: str, name: str, own: Overlap) -> Overlap | None:
    """The distances of what an output and an input lie in, where these begin at bytes of them that are known."""
    begin, place = network.start(output), network.start(name)
    if begin is None or place is None or (begin - place) % own.step:
        return None
    return Overlap(max(own.below + begin - place, 0), max(own.above - begin + place, 0), own.step)


def _in_states(network: Network) -> dict[str, tuple[str, int]]:
    """Tensors that lie in a state: the layer whose state that is, and the byte there.

    These are outputs that are states, what may lie where one begins since nobody else reads it, and parts of these.
    What is made of pushed rows lies elsewhere: states are not at hand then.
    """
    readers = Counter(name for layer in network.layers for name in layer.inputs)
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    ports |= {own.result for own in network.segments if own.pushed}
    owners: dict[str, str] = {}
    for layer in network.layers:
        if BY_NAME[layer.op].in_state:
            free = [layer.inputs[position] for position in BY_NAME[layer.op].inplace(LayerView.of(network, layer))]
            owners[layer.output] = layer.name
            owners |= {name: layer.name for name in free if name not in ports and _is_alone(network, name, readers)}
    places = {name: network.place(name) for name in network.tensors}
    return {name: (owners[root], start) for name, (root, start) in places.items() if root in owners}


def _is_alone(network: Network, tensor: str, readers: Mapping[str, int]) -> bool:
    """Whether a tensor has one reader and is no part of another, and nobody reads parts of it."""
    parts = [name for name in network.tensors if name != tensor and network.shares(name, tensor)]
    return tensor not in network.views and readers[tensor] == 1 and not any(readers.get(name) for name in parts)


def _lasting(network: Network, layer: Layer) -> bool:
    """Whether what a layer writes is needed in all of a segment, so that a step of it cannot begin in other memory."""
    return any(network.home(layer.output) in own.lasting for own in network.segments if layer.name in own.names)


def _states(network: Network) -> tuple[dict[str, int], int]:
    """Offset of each layer's state, and the bytes of all of them with the word in front."""
    offsets: dict[str, int] = {}
    end = ALIGNMENT
    for layer in network.layers:
        start = BY_NAME[layer.op].state(LayerView.of(network, layer))
        if start is not None:
            offsets[layer.name] = end
            end += aligned(start.size)
    return offsets, end if offsets else 0
