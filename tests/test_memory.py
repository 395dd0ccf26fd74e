"""The memory plan: no two live buffers share a byte, in place only where it is allowed, and near the lower bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnbuild import memory
from nnbuild.contract import Case, Overlap
from nnbuild.errors import InternalError
from nnbuild.memory import Buffer
from nnbuild.network import QuantParams
from nnbuild.ops import ALL, singles
from nnbuild.selection import select
from nnbuild.target import TARGETS

from .test_kernels_host import mismatches

BUFFERS = st.lists(
    st.tuples(st.integers(1, 300), st.integers(0, 8), st.integers(0, 4)).map(
        lambda t: Buffer(("t",), t[0], t[1], t[1] + t[2])
    ),
    min_size=1,
    max_size=9,
)


@given(BUFFERS)
def test_live_buffers_never_overlap(buffers: list[Buffer]) -> None:
    best, distances = None, memory._distances(buffers)
    for order in memory._orders(buffers):
        places = memory._place(buffers, distances, order)
        memory._verify(buffers, distances, places)
        extent = memory._extent(buffers, places)
        best = extent if best is None else min(best, extent)
    bound = max(sum(-(-b.size // 4) * 4 for b in buffers if b.first <= t <= b.last) for t in range(13))
    assert best is not None
    assert bound <= best <= 2 * bound


SIZES = st.integers(1, 120)
OVERLAPS = st.builds(Overlap, st.integers(0, 120), st.integers(0, 120), st.sampled_from([1, 4, 6, 7]))
CHAINS = st.lists(st.tuples(SIZES, OVERLAPS, st.integers(0, 1)), min_size=2, max_size=5)
"""Sizes of tensors, how each may lie over the one before, and whether another layer reads it."""


def chain(rows: list[tuple[int, Overlap, int]]) -> list[Buffer]:
    return [
        Buffer((f"t{index}",), size, index, index + 1 + longer, over={f"t{index - 1}": own})
        for index, (size, own, longer) in enumerate(rows)
    ]


def apart(output: Buffer, start: int, other: Buffer, place: int) -> bool:
    """Whether an output at `start` leaves alone what lives at its time, or lies over it as it may."""
    sizes = (-(-buffer.size // 4) * 4 for buffer in (output, other))
    distance, (low, high) = start - place, sizes
    if distance <= -low or distance >= high:
        return True
    own = output.over.get(other.tensors[0]) if other.last == output.first else None
    return own is not None and not -own.below < distance < own.above and distance % own.step == 0


@given(CHAINS)
def test_outputs_lie_over_inputs_as_they_may(rows: list[tuple[int, Overlap, int]]) -> None:
    buffers, extents = chain(rows), []
    distances = memory._distances(buffers)
    for order in memory._orders(buffers):
        places = memory._place(buffers, distances, order)
        memory._verify(buffers, distances, places)
        extents.append(memory._extent(buffers, places))
        for index, output in enumerate(buffers):
            assert places[index] % output.alignment == 0
            for other, place in zip(buffers[:index], places, strict=False):
                assert other.last < output.first or apart(output, places[index], other, place)
    bound = max(memory._live(buffers, distances, index) for index in range(len(buffers) + 2))
    assert bound <= min(extents)
    assert len(buffers) > 2 or any(own.step % 4 for _, own, _ in rows) or bound == min(extents)


def test_the_check_finds_an_output_too_near() -> None:
    buffers = [Buffer(("a",), 40, 0, 1), Buffer(("b",), 40, 1, 2, over={"a": Overlap(8, 12, 4)})]
    distances = memory._distances(buffers)
    for places in ((8, 0), (0, 12), (12, 0)):
        memory._verify(buffers, distances, places)
    for places in ((4, 0), (0, 8), (0, 0)):
        with pytest.raises(InternalError, match="share arena bytes"):
            memory._verify(buffers, distances, places)


def test_the_check_finds_an_overlap() -> None:
    buffers = [Buffer(("a",), 8, 0, 2), Buffer(("b",), 8, 2, 3)]
    distances = memory._distances(buffers)
    with pytest.raises(InternalError, match="share arena bytes"):
        memory._verify(buffers, distances, (0, 4))


def case(operator: str, name: str) -> Case:
    return next(c for op in ALL if op.name == operator for c in op.cases() if c.name == name)


def test_inputs_and_outputs_are_the_callers() -> None:
    network = case("fully_connected", "fully_connected_16x10").network
    plan = memory.plan(network, select(network, TARGETS["generic"]), TARGETS["generic"])
    assert plan.arena == 0
    assert plan.offsets == {}


def test_scratch_is_planned_beside_what_is_live() -> None:
    network = case("conv2d", "conv2d_3x3_padded").network
    plan = memory.plan(network, select(network, TARGETS["generic"]), TARGETS["generic"])
    (name,) = plan.scratch
    layer = next(layer for layer in network.layers if layer.name == name)
    start, end = plan.scratch[name], plan.scratch[name] + 27
    for tensor in (*layer.inputs, layer.output):
        if tensor in plan.offsets:
            offset = plan.offsets[tensor]
            assert offset + network.tensors[tensor].size <= start or end <= offset


def added_to_its_transpose() -> Case:
    """tanh(x) + transpose(tanh(x)): one tensor that is read in two orders and dies there."""
    model = singles._Model("added_to_its_transpose")
    half, unit = QuantParams(1 / 64, 0), QuantParams(1 / 128, 0)
    value = model.pair(model.node("Tanh", [model.input((1, 5, 5), QuantParams(0.02, 3))]), unit)
    turned = model.node("Transpose", [value], perm=[0, 2, 1])
    total = model.pair(model.node("Add", [value, turned]), half)
    return model.case(model.pair(model.node("Neg", [total]), half))


def test_a_tensor_that_is_read_in_two_orders_is_not_overwritten(tmp_path: Path) -> None:
    found = added_to_its_transpose()
    network = found.network
    plan = memory.plan(network, select(network, TARGETS["generic"]), TARGETS["generic"])
    tanh, total, *_ = (layer.output for layer in network.layers)
    assert plan.offsets[tanh] != plan.offsets[total]
    assert mismatches(found, TARGETS["generic"], tmp_path) == 0
