"""What states hold behind a reset, in few bytes of flash: one value, or a few that come again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnbuild.contract import LayerView
from nnbuild.network import Array, Network
from nnbuild.ops import BY_NAME
from nnbuild.ram.memory import Plan


@dataclass(frozen=True, slots=True)
class Fill:
    """Bytes `first` to `end` of the states.

    All of them are `value`; where that is None, they are the `period` bytes from `source` on of a constant, repeated.
    """

    first: int
    end: int
    value: int | None
    source: int = 0
    period: int = 1


def fills(network: Network, planned: Plan) -> tuple[list[Fill], Array]:
    """How all states become what they are in the beginning, and the constant (int8) that this takes; empty for none."""
    found: list[Fill] = []
    constant: list[Array] = []
    for layer in network.layers:
        start = BY_NAME[layer.op].state(LayerView.of(network, layer))
        if start is None:
            continue
        first, pattern = planned.states[layer.name], _repeated(start)
        end = first + start.size
        if pattern.size > 1:
            found.append(Fill(first, end, None, sum(each.size for each in constant), pattern.size))
            constant.append(pattern)
        elif found and found[-1].value == pattern[0]:
            found[-1] = Fill(found[-1].first, end, int(pattern[0]))
        else:
            found.append(Fill(first, end, int(pattern[0])))
    return found, np.concatenate([np.zeros(0, np.int8), *constant])


def _repeated(values: Array) -> Array:
    """The fewest leading elements whose repetition `values` are."""
    sizes = (size for size in range(1, values.size) if values.size % size == 0)
    size = next((size for size in sizes if np.array_equal(values[size:], values[:-size])), values.size)
    return np.asarray(values[:size])
