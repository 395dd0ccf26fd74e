"""Inputs and expected outputs of a network's self-test: made up, the same on every machine, and varied enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnbuild import interpret
from nnbuild.network import Array, Network, Tensor


@dataclass(frozen=True, slots=True)
class SelftestSample:
    """Pseudo-random inputs by their `seed`, divided by 2^damping, and the outputs expected, flat."""

    seed: int
    damping: int
    outputs: tuple[Array, ...]


def selftest_samples(network: Network, count: int) -> list[SelftestSample]:
    """`count` samples; of a few candidates each, the one whose outputs are most varied, so that a fault shows."""
    samples = []
    kept: interpret.States = {}
    for index in range(count):
        candidates = []
        for seed in range(8 * index + 1, 8 * index + 9):
            states = dict(kept)
            candidates.append((_selftest_sample(network, seed, seed % 4, states), states))
        sample, kept = max(candidates, key=lambda pair: sum(len(set(out.tolist())) for out in pair[0].outputs))
        samples.append(sample)
    return samples


def _selftest_sample(network: Network, seed: int, damping: int, states: interpret.States) -> SelftestSample:
    state = seed
    inputs = []
    for port in network.inputs:
        values, state = _pseudorandom(network.tensors[port.tensor], state, damping)
        inputs.append(values)
    outputs = tuple(output.ravel() for output in interpret.run(network, inputs, states))
    return SelftestSample(seed, damping, outputs)


def _pseudorandom(tensor: Tensor, state: int, damping: int) -> tuple[Array, int]:
    """The self-test's input: a linear congruential generator (Numerical Recipes), its top bits around zero."""
    values = np.empty(tensor.size, np.int64)
    bits = 8 * np.dtype(tensor.dtype).itemsize
    for index in range(tensor.size):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[index] = (state >> (32 - bits + damping)) - (1 << bits - 1 >> damping)
    return values.astype(tensor.dtype), state
