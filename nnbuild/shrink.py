"""Exact shrinking: the lowered network becomes a smaller one with the same output bytes for every input.

One rule a function, in `RULES`; they take turns until none does anything. A rule knows no operator by name: it asks
the record (`bounds`, `channels`, `copies`, `behind` of `nnbuild.contract.Operator`), and an operator that does not
answer is left as it is. Layers that remain keep their names and nodes; inputs and outputs of the model keep all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnbuild import fixedpoint
from nnbuild.contract import LayerView
from nnbuild.intervals import Interval, anything
from nnbuild.network import Array, Layer, Network, Tensor
from nnbuild.ops import BY_NAME
from nnbuild.placeholder import is_placeholder
from nnbuild.ram.elision import elide
from nnbuild.ram.order import reordered


def shrink(network: Network) -> Network:
    """The smaller network, verified; the same one where nothing goes.

    Where constants are not known, only copies go that memory makes unnecessary. Layers are in the order that takes
    least memory.
    """
    if network.views:
        return network
    unknown = any(is_placeholder(array) for layer in network.layers for array in layer.constants.values())
    with fixedpoint.rounding(network.single_rounding):
        while not unknown and (smaller := _round(network)) is not network:
            network = smaller
    network = reordered(elide(network))
    network.verify()
    return network


@dataclass(frozen=True, slots=True)
class Removed:
    """How much smaller a network became: layers, multiplications, bytes of weights and other constants."""

    layers: int
    macs: int
    constant_bytes: int

    @classmethod
    def between(cls, before: Network, after: Network) -> Removed:
        """What `after` has less than `before`."""
        layers, macs, size = (a - b for a, b in zip(_measures(before), _measures(after), strict=True))
        return cls(layers, macs, size)


def _measures(network: Network) -> tuple[int, int, int]:
    macs = sum(BY_NAME[layer.op].macs(LayerView.of(network, layer)) for layer in network.layers)
    size = sum(array.nbytes for layer in network.layers for array in layer.constants.values())
    return len(network.layers), macs, size


def known_intervals(network: Network) -> dict[str, Interval]:
    """What each tensor can hold, by its name."""
    found = {port.tensor: anything(network.tensors[port.tensor]) for port in network.inputs}
    for layer in network.layers:
        inputs = [found[name] for name in layer.inputs]
        found[layer.output] = BY_NAME[layer.op].bounds(LayerView.of(network, layer), inputs)
    return found


# --- rules: a smaller network, or the same object ----------------------------------------------------------------


def without_unread(network: Network) -> Network:
    """Layers whose output nobody reads go."""
    read = {port.tensor for port in network.outputs}
    layers: list[Layer] = []
    for layer in reversed(network.layers):
        if layer.output in read:
            layers.insert(0, layer)
            read.update(layer.inputs)
    return network if len(layers) == len(network.layers) else _of(network, layers)


def without_duplicates(network: Network) -> Network:
    """A layer that computes what one before it has computed goes; one of the model's outputs stays.

    One with a state, too: it begins and goes on like the other.
    """
    ports = {port.tensor for port in network.outputs}
    first: dict[object, str] = {}
    names: dict[str, str] = {}
    layers: list[Layer] = []
    for layer in network.layers:
        own = _reading(layer, names)
        other = first.setdefault(_meaning(network, own), own.output)
        if other == own.output or own.output in ports:
            layers.append(own)
        else:
            names[own.output] = other
    return _of(network, layers) if names else network


def without_copies(network: Network) -> Network:
    """A layer whose output always is its input goes: an identity table, a clamp that cannot act. One at a time."""
    known = known_intervals(network)
    for layer in network.layers:
        alike = _alike(network, layer)
        if alike and BY_NAME[layer.op].copies(LayerView.of(network, layer), [known[name] for name in layer.inputs]):
            smaller = _bypassed(network, layer)
            if smaller is not None:
                return smaller
    return network


def merged(network: Network) -> Network:
    """Two layers behind each other become one that does both, where nobody else sees what is between. One at a time."""
    writers = {layer.output: layer for layer in network.layers}
    for second in network.layers:
        first = writers.get(second.inputs[0]) if len(second.inputs) == 1 else None
        if first is None or not _only_read_by(network, first.output, second) or len(first.inputs) != 1:
            continue
        constants = BY_NAME[second.op].behind(first, second)
        if constants is not None:
            both = replace(second, inputs=first.inputs, constants=constants)
            layers = [both if layer is second else layer for layer in network.layers if layer is not first]
            return _of(network, layers)
    return network


def narrowed(network: Network) -> Network:
    """Channels that are constant, and whose part joins the bias of all readers, and channels that nobody reads go."""
    known = known_intervals(network)
    kept = _kept(network, known)
    if all(mask.all() for mask in kept.values()):
        return network
    tensors = {name: _tensor(network.tensors[name], mask) for name, mask in kept.items()}
    layers = [_narrow(network, layer, known, kept) for layer in network.layers]
    return replace(network, tensors=tensors, layers=tuple(layers))


RULES: tuple[Callable[[Network], Network], ...] = (
    without_unread,
    without_duplicates,
    without_copies,
    merged,
    narrowed,
)


def _round(network: Network) -> Network:
    """After the first rule that does something."""
    for rule in RULES:
        smaller = rule(network)
        if smaller is not network:
            return smaller
    return network


# --- channels ----------------------------------------------------------------------------------------------------


def _kept(network: Network, known: Mapping[str, Interval]) -> dict[str, Array]:
    """The channels that must stay, bool, of every tensor; each tensor keeps one at least."""
    ports = {port.tensor for port in (*network.inputs, *network.outputs)}
    names = [*(port.tensor for port in network.inputs), *(layer.output for layer in network.layers)]
    kept = {name: np.full(network.tensors[name].channels, name in ports) for name in names}
    while True:
        count = _count(kept)
        for layer in reversed(network.layers):
            _need(network, layer, known, kept)
        if _count(kept) > count:
            continue
        empty = [name for name, mask in kept.items() if not mask.any()]
        if not empty:
            return kept
        kept[empty[-1]][0] = True


def _need(network: Network, layer: Layer, known: Mapping[str, Interval], kept: dict[str, Array]) -> None:
    """Mark what `layer` needs of its inputs, and where it cannot lose a channel of its output, that too."""
    view, channels = LayerView.of(network, layer), BY_NAME[layer.op].channels
    if channels is None or not channels.divides(view):
        for name in (*layer.inputs, layer.output):
            kept[name][:] = True
        return
    if channels.tied:
        for name in layer.inputs:
            kept[layer.output] |= kept[name]
    reads = channels.reads(view, kept[layer.output], [known[name] for name in layer.inputs])
    for name, mask in zip(layer.inputs, reads, strict=True):
        kept[name] |= mask


def _narrow(network: Network, layer: Layer, known: Mapping[str, Interval], kept: Mapping[str, Array]) -> Layer:
    """`layer` without the channels that go."""
    if all(kept[name].all() for name in (*layer.inputs, layer.output)):
        return layer
    channels = BY_NAME[layer.op].channels
    assert channels is not None  # or else everything were kept
    inputs, sources = [known[name] for name in layer.inputs], [kept[name] for name in layer.inputs]
    params, constants = channels.without(LayerView.of(network, layer), inputs, sources, kept[layer.output])
    return replace(layer, params=params, constants=constants)


def _tensor(tensor: Tensor, mask: Array) -> Tensor:
    return tensor if mask.all() else replace(tensor, shape=(*tensor.shape[:-1], int(mask.sum())))


def _count(kept: Mapping[str, Array]) -> int:
    return sum(int(mask.sum()) for mask in kept.values())


# --- layers ------------------------------------------------------------------------------------------------------


def _of(network: Network, layers: Sequence[Layer]) -> Network:
    """The network with `layers`, and no tensor that none of them writes."""
    names = {*(port.tensor for port in network.inputs), *(layer.output for layer in layers)}
    tensors = {name: tensor for name, tensor in network.tensors.items() if name in names}
    return replace(network, tensors=tensors, layers=tuple(layers))


def _reading(layer: Layer, names: Mapping[str, str]) -> Layer:
    """`layer`, its inputs called by their new names."""
    return replace(layer, inputs=tuple(names.get(name, name) for name in layer.inputs))


def _meaning(network: Network, layer: Layer) -> object:
    """Equal for layers that write equal bytes to equal tensors."""
    constants = tuple((name, array.dtype.str, array.shape, array.tobytes()) for name, array in _sorted(layer.constants))
    tensor = replace(network.tensors[layer.output], name="")
    return layer.op, layer.inputs, layer.params, constants, tensor


def _sorted(constants: Mapping[str, Array]) -> Iterable[tuple[str, Array]]:
    return sorted(constants.items(), key=lambda item: item[0])


def _alike(network: Network, layer: Layer) -> bool:
    """Whether its output tensor is, but for the name, its only input tensor."""
    if len(layer.inputs) != 1:
        return False
    source, result = network.tensors[layer.inputs[0]], network.tensors[layer.output]
    return replace(source, name="") == replace(result, name="")


def _bypassed(network: Network, layer: Layer) -> Network | None:
    """Without `layer`, a copy; None where both its tensors are the model's, or another reader wants its input."""
    (source,) = layer.inputs
    rest = [other for other in network.layers if other is not layer]
    if all(port.tensor != layer.output for port in network.outputs):
        return _of(network, [_reading(other, {layer.output: source}) for other in rest])
    if any(port.tensor == source for port in network.inputs) or not _only_read_by(network, source, layer):
        return None
    return _of(network, [replace(other, output=layer.output) if other.output == source else other for other in rest])


def _only_read_by(network: Network, tensor: str, layer: Layer) -> bool:
    """Whether nobody else, nor the model's user, sees `tensor`."""
    readers = Counter(name for other in network.layers for name in other.inputs)
    return tensor in layer.inputs and readers[tensor] == 1 and all(port.tensor != tensor for port in network.outputs)
