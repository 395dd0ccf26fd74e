"""The memory plan of networks: what lies where, in place only where it is allowed and of use; see also test_offsets."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnbuild.contract import Case
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import Network, QuantParams
from nnbuild.ops import ALL, BY_NAME, singles
from nnbuild.ram import memory
from nnbuild.ram.elision import elide
from nnbuild.selection import select
from nnbuild.shrink import shrink
from nnbuild.target import TARGETS

from .test_elision import made, part, table, together
from .test_kernels_host import mismatches


def planned(network: Network, apart: bool = False) -> memory.Plan:
    return memory.plan(network, select(network, TARGETS["generic"]), TARGETS["generic"], apart=apart)


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


def test_what_takes_over_memory_has_its_place() -> None:
    """Three tables in a row: the first writes to the arena, where the second stays."""
    network = made(lambda m, x: [table(m, table(m, table(m, x[0]), "Neg"), "Abs")])
    found = planned(network)
    first, second, _ = (layer.output for layer in network.layers)
    assert found.offsets == {first: 0, second: 0}
    assert (found.arena, found.bound, found.live) == (12, 12, (12, 12, 12))
    assert found.lives == {"input0": (0, 0), first: (0, 1), second: (1, 2), network.layers[2].output: (2, 3)}


def overwriting_hurts() -> Network:
    """A value that is computed in place stays in a corner where two large ones have to be around it."""

    def build(m: singles._Model, x: list[str]) -> list[str]:
        first = table(m, x[0])
        before = together(m, [x[0], x[1], first])
        behind = together(m, [x[1], table(m, first, "Neg"), x[0]])
        return [table(m, part(m, behind, 30, 33), "Abs"), table(m, part(m, before, 23, 32), "Abs")]

    return elide(made(build, (15, 14)))


def test_what_runs_in_place_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned(overwriting_hurts(), apart=True)
    assert (found.arena, found.optimal) == (72, True)
    monkeypatch.setattr(memory, "_fewer", lambda options: iter([options]))
    assert planned(overwriting_hurts(), apart=True).arena > 72


def test_of_many_that_run_in_place_each_is_left_out_once() -> None:
    few, many = ([memory._Takeover(n, f"{n}", f"{n + 1}") for n in range(count)] for count in (3, 9))
    assert sorted(len(taken) for taken in memory._fewer(few)) == [0, 1, 1, 1, 2, 2, 2]
    assert [len(taken) for taken in memory._fewer(many)] == [8] * 9


@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m4"])
def test_plans_of_the_reference_networks_are_proved_to_be_the_best(reference_dir: Path, cpu: str) -> None:
    for name in ("kws01", "ic01"):
        network = shrink(lower(import_model(reference_dir / "models" / "int8" / f"{name}_int8.onnx"), name))
        choices = select(network, TARGETS[cpu])
        for io in (False, True):
            assert memory.plan(network, choices, TARGETS[cpu], io).optimal


def test_inputs_of_the_first_layer_lie_apart_though_its_output_may_lie_over_both() -> None:
    """int16: the output takes the place of one, and may lie over the other; the inputs were laid over each other."""
    case = next(case for case in BY_NAME["wide_add"].cases() if case.name == "wide_add_16_16_16")
    target = TARGETS["generic"]
    found = memory.plan(case.network, select(case.network, target), target, True)
    one, other = (found.offsets[port.tensor] for port in case.network.inputs)
    assert abs(one - other) >= 120
