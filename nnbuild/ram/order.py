"""The order of layers: where branches leave a choice, the one in which the fewest bytes live at once.

The search goes through sets of layers that may have run, from those with the lowest peak on, and ends with a best order
or after a number of sets: then, as where no order is better, layers stay in the model's order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nnbuild.contract import LayerView
from nnbuild.network import Layer, Network
from nnbuild.ops import BY_NAME
from nnbuild.ram.memory import most_live
from nnbuild.ram.offsets import aligned

SETS = 2000
"""Of layers that the search looks at."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A layer as the search sees it, by indices of layers.

    `after` are those that must have run, `readers` those that need its output, `size` the bytes of that output, 0 where
    it is the caller's; `takes` are the outputs that it may overwrite.
    """

    after: frozenset[int]
    readers: frozenset[int]
    size: int
    takes: tuple[int, ...]


def reordered(network: Network) -> Network:
    """The network in the order with the least peak; the same one where that takes no fewer bytes than its own order.

    Nor may it take more with the model's inputs and outputs in the arena.
    """
    order = _best(_steps(network))
    if order is None:
        return network
    found = replace(network, layers=tuple(network.layers[index] for index in order))
    (now, now_io), (then, then_io) = ([most_live(each, io) for io in (False, True)] for each in (network, found))
    return found if then < now and then_io <= now_io else network


def peak(steps: Sequence[_Step], order: Sequence[int]) -> int:
    """The most bytes that live at a layer."""
    done: frozenset[int] = frozenset()
    most = 0
    for index in order:
        most = max(most, _live(steps, done, index))
        done |= {index}
    return most


def _steps(network: Network) -> list[_Step]:
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    written = [layer.output for layer in network.layers]
    sharing = [{other for other in network.tensors if network.shares(tensor, other)} for tensor in written]
    found = []
    for index, layer in enumerate(network.layers):
        size = 0 if network.place(layer.output)[0] in ports else aligned(network.tensors[layer.output].bytes)
        after = {at for at, shared in enumerate(sharing) if shared & {*layer.inputs}}
        readers = {at for at, other in enumerate(network.layers) if sharing[index] & {*other.inputs}}
        found.append(_Step(frozenset(after), frozenset(readers), size, _takes(network, layer, written)))
    return found


def _takes(network: Network, layer: Layer, written: Sequence[str]) -> tuple[int, ...]:
    over = {layer.inputs[position] for position in BY_NAME[layer.op].inplace(LayerView.of(network, layer))}
    size = network.tensors[layer.output].bytes
    return tuple(at for at, name in enumerate(written) if name in over and network.tensors[name].bytes == size)


def _live(steps: Sequence[_Step], done: frozenset[int], index: int) -> int:
    """Bytes that live while `index` runs behind `done`."""
    step = steps[index]
    needed = [at for at in done if steps[at].readers - done]
    dies = any(steps[at].size and steps[at].readers <= done | {index} for at in step.takes)
    return sum(steps[at].size for at in needed) + (0 if dies else step.size)


def _best(steps: Sequence[_Step]) -> list[int] | None:
    """The order with the least peak, the model's own coming first among equals; None where that one is not beaten."""
    limit = peak(steps, range(len(steps)))
    waiting: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    seen: set[frozenset[int]] = set()
    while waiting and len(seen) < SETS:
        most, order = heapq.heappop(waiting)
        done = frozenset(order)
        if len(order) == len(steps):
            return list(order)
        if done in seen:
            continue
        seen.add(done)
        for index in _ready(steps, done):
            found = max(most, _live(steps, done, index))
            if found < limit:
                heapq.heappush(waiting, (found, (*order, index)))
    return None


def _ready(steps: Sequence[_Step], done: frozenset[int]) -> Iterator[int]:
    return (index for index, step in enumerate(steps) if index not in done and step.after <= done)
