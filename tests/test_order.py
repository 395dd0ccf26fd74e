"""The order of layers: never a higher peak, the least that any order has, and the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, permutations
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbuild import interpret
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import InternalError
from nnbuild.network import Layer, Network, QuantParams
from nnbuild.ram import memory, order
from nnbuild.ram.elision import elide
from nnbuild.selection import select
from nnbuild.target import TARGETS

from . import parts_networks
from .test_elision import made, table

TARGET = TARGETS["generic"]


def arena(network: Network, io: bool = False) -> int:
    return memory.plan(network, select(network, TARGET), TARGET, io).arena


def orders(network: Network) -> list[Network]:
    """The network in every order in which its layers may run."""
    return [replace(network, layers=layers) for layers in permutations(network.layers) if _may_run(network, layers)]


def _may_run(network: Network, layers: Sequence[Layer]) -> bool:
    there = [port.tensor for port in network.inputs]
    for layer in layers:
        for name in layer.inputs:
            written = [other.output for other in network.layers if network.shares(name, other.output)]
            if any(other not in there for other in written):
                return False
        there.append(layer.output)
    return True


def faults(network: Network) -> list[str]:
    """What is wrong with the order that a network gets."""
    found = order.reordered(network)
    wrong = []
    if found is not network:
        found.verify()
        wrong += [f"io={io}" for io in (False, True) if memory.most_live(found, io) > memory.most_live(network, io)]
        if memory.most_live(found, False) >= memory.most_live(network, False):
            wrong.append("no better")
        for sample in parts_networks.samples(network, 2):
            expected, values = interpret.run(network, sample), interpret.run(found, sample)
            wrong += ["bytes" for a, b in zip(expected, values, strict=True) if not np.array_equal(a, b)]
    return wrong


@st.composite
def networks(draw: Any) -> Network:
    return elide(parts_networks.network(lambda count: draw(st.integers(0, count - 1))))


@given(networks())
@settings(deadline=None, max_examples=150)
def test_another_order_is_taken_only_where_it_is_better(network: Network) -> None:
    assert faults(network) == []


def test_no_order_has_a_lower_peak() -> None:
    """Beside every order there is, by what the search counts: whole tensors."""
    changed = 0
    for seed in range(150):
        network = elide(parts_networks.network(Random(seed).randrange))
        if len(network.layers) > 6:
            continue
        steps = order._steps(network)
        own = order.peak(steps, range(len(steps)))
        best = min(order.peak(order._steps(each), range(len(steps))) for each in orders(network))
        found = order._best(steps)
        assert (own if found is None else order.peak(steps, found)) == best
        assert (found is None) == (own == best)
        changed += found is not None
    assert changed > 5


def test_the_search_counts_what_lives() -> None:
    """Of tensors that are no parts of others, what the plan counts; and a layer may run where all that it reads is."""
    counted = 0
    for seed in range(150):
        network = elide(parts_networks.network(Random(seed).randrange))
        steps = order._steps(network)
        if not network.views:
            counted += 1
            assert order.peak(steps, range(len(steps))) == memory.most_live(network, False)
        for step, layer in zip(steps, network.layers, strict=True):
            for at, other in enumerate(network.layers):
                assert (at in step.after) == any(network.shares(other.output, name) for name in layer.inputs)
    assert counted > 50


def test_nothing_takes_over_the_callers_memory_or_what_is_smaller() -> None:
    """A sum over an output of the model and one value; int16 over the int8 that it is made of."""

    def total(m: Any, x: Sequence[str]) -> list[str]:
        given = table(m, x[0])
        summed = m.pair(m.node("Add", [given, table(m, x[1])]), parts_networks.UNIT)
        return [given, table(m, summed, "Neg")]

    def wider(m: Any, x: Sequence[str]) -> list[str]:
        wide = QuantParams(1 / 2**15, 0, "int16")
        return [m.pair(m.node("Relu", [m.pair(table(m, x[0]), wide)]), wide)]

    for network, expected in ((made(total, (12, 1)), 4 + 12), (made(wider, (12,)), 12 + 24)):
        steps = order._steps(network)
        assert order.peak(steps, range(len(steps))) == memory.most_live(network, False) == expected


def test_no_order_of_any_layers_has_a_lower_peak() -> None:
    rng, better = Random(1), 0
    for _ in range(200):
        after = [{at for at in range(index) if rng.randrange(3) == 0} for index in range(5)]
        readers = [frozenset(index for index in range(5) if at in after[index]) for at in range(5)]
        steps = [order._Step(frozenset(after[at]), readers[at], 4 * rng.randrange(9), ()) for at in range(5)]
        valid = [way for way in permutations(range(5)) if all(after[at] <= {*way[:n]} for n, at in enumerate(way))]
        own, best = order.peak(steps, range(5)), min(order.peak(steps, way) for way in valid)
        found = order._best(steps)
        assert best == (own if found is None else order.peak(steps, found))
        better += found is not None
    assert better > 20


def test_a_set_of_layers_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six layers in any order, and one that reads them all: 64 sets, though 1957 beginnings of an order."""
    ready, looked = order._ready, list[frozenset[int]]()

    def noted(steps: Sequence[Any], done: frozenset[int]) -> Iterator[int]:
        looked.append(done)
        return ready(steps, done)

    monkeypatch.setattr(order, "_ready", noted)
    steps = [order._Step(frozenset(), frozenset({6}), 4, ()) for _ in range(6)]
    assert order._best([*steps, order._Step(frozenset(range(6)), frozenset(), 4, ())]) is None
    assert len(looked) == len(set(looked)) <= 64


def two_means(quick: bool) -> Network:
    """Two large values and the mean of each: with `quick` a mean is taken as soon as it can be."""

    def build(m: Any, x: Sequence[str]) -> list[str]:
        means = []
        if quick:
            means = [_mean(m, table(m, x[0], kind)) for kind in ("Tanh", "Neg")]
        else:
            wide = [table(m, x[0], kind) for kind in ("Tanh", "Neg")]
            means = [_mean(m, value) for value in wide]
        return [m.pair(m.node("Add", means), parts_networks.UNIT)]

    return elide(made(build, (60,)))


def _mean(m: Any, value: str) -> str:
    axes = m.constant(np.array([1], np.int64))
    return str(m.pair(m.node("ReduceMean", [value, axes], keepdims=1), parts_networks.UNIT))


def test_branches_run_one_after_the_other() -> None:
    network = two_means(quick=False)
    found = order.reordered(network)
    assert (arena(network), arena(found), arena(two_means(quick=True))) == (120, 64, 64)
    report = json.loads(emit(network, EmitOptions("m", TARGET))["m.report.json"])
    assert report["reordered"]
    assert [layer["name"] for layer in report["layers"]] == [f"m_{layer.name}" for layer in found.layers]


def test_an_order_that_is_as_good_as_any_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    network = two_means(quick=True)
    assert order.reordered(network) is network
    monkeypatch.setattr(order, "_best", lambda steps: [2, 3, 0, 1, 4])
    assert arena(replace(network, layers=tuple(network.layers[at] for at in (2, 3, 0, 1, 4)))) == arena(network)
    assert order.reordered(network) is network
    assert not json.loads(emit(network, EmitOptions("m", TARGET))["m.report.json"])["reordered"]


def test_the_search_gives_up_after_so_many_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "SETS", 2)
    network = two_means(quick=False)
    assert order.reordered(network) is network


FALLING = count(-1, -1)
MUTANTS: dict[str, tuple[str, Any]] = {
    "anything is ready": ("_ready", lambda steps, done: (i for i in range(len(steps)) if i not in done)),
    "nothing is compared": ("most_live", lambda network, io: next(FALLING)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_faults_are_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [elide(parts_networks.network(Random(seed).randrange)) for seed in range(200)]
    monkeypatch.setattr(order, *MUTANTS[mutant])
    assert any(_raises(network) for network in found)


def _raises(network: Network) -> bool:
    try:
        return bool(faults(network))
    except (InternalError, KeyError):
        return True
