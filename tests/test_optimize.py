"""Kernels for all layers at once: the curve is that of all combinations, limits hold, and the build obeys."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnbuild import cost, fixedpoint, pareto
from nnbuild.cli import main
from nnbuild.contract import Kernel, Source
from nnbuild.emit import EmitOptions, emit
from nnbuild.network import Network
from nnbuild.optimize import FIRMWARE, MARGIN_PERCENT, Aim, Memory, Selection, optimize
from nnbuild.pareto import Option, front
from nnbuild.ram.memory import needs, plan
from nnbuild.report import curve
from nnbuild.selection import Candidates, candidates
from nnbuild.target import TARGETS, Target
from tests.test_cost import MODELS, example

M0 = TARGETS["cortex-m0"]


# --- the curve -----------------------------------------------------------------------------------------------------


def every_set(layers: Sequence[Sequence[Option]]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Flash, cycles and picks of all combinations."""
    found = []
    for picks in itertools.product(*(range(len(options)) for options in layers)):
        taken = [options[pick] for options, pick in zip(layers, picks, strict=True)]
        shared = {name: size for option in taken for name, size in option.shared.items()}
        flash = sum(option.bytes for option in taken) + sum(shared.values())
        found.append((flash, sum(option.cycles for option in taken), picks))
    return found


def unbeaten(sets: Sequence[tuple[int, int, tuple[int, ...]]]) -> set[tuple[int, int]]:
    points = {(flash, cycles) for flash, cycles, _ in sets}
    return {
        (flash, cycles)
        for flash, cycles in points
        if not any(f <= flash and c <= cycles and (f, c) != (flash, cycles) for f, c in points)
    }


SIZES = {"a": 40, "b": 7, "c": 100, "d": 1}
OPTION = st.builds(
    lambda cycles, size, names: Option(cycles, size, {name: SIZES[name] for name in sorted(names)}),
    st.integers(0, 60),
    st.integers(0, 60),
    st.sets(st.sampled_from(sorted(SIZES))),
)


@given(st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=0, max_size=5))
def test_the_front_is_that_of_all_combinations(layers: list[list[Option]]) -> None:
    sets = every_set(layers)
    points = front(layers)
    assert {(point.flash, point.cycles) for point in points} == unbeaten(sets)
    assert [point.flash for point in points] == sorted({point.flash for point in points})
    by_picks = {picks: (flash, cycles) for flash, cycles, picks in sets}
    assert all(by_picks[point.picks] == (point.flash, point.cycles) for point in points)


def test_a_function_is_paid_for_once() -> None:
    """Each layer alone is smaller with its own code; two share what costs less than both."""
    own, shared = Option(10, 30, {}), Option(10, 0, {"f": 40})
    assert front([[own, shared]])[0].picks == (0,)
    assert front([[own, shared]] * 2)[0].picks == (1, 1)


def test_with_too_many_partial_sums_a_few_bytes_are_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [[Option(1 << bit, 0, {}), Option(0, 1 << bit, {})] for bit in range(8)]
    assert len(front(layers)) == 256
    monkeypatch.setattr(pareto, "MOST", 16)
    points = front(layers)
    assert 2 <= len(points) <= 16
    assert points[-1].cycles == 0
    assert all(point.flash + point.cycles == 255 for point in points)


# --- the choice ----------------------------------------------------------------------------------------------------


def chosen(network: Network, aim: Aim, target: Target = M0) -> Selection:
    with fixedpoint.rounding(network.single_rounding):
        return optimize(candidates(network, target), target, aim, memory_of(network, target))


def memory_of(network: Network, target: Target = M0) -> Memory:
    return Memory(lambda choices: plan(network, choices, target), lambda layers: needs(network, layers, target))


def names(selection: Selection) -> list[str]:
    return [choice.kernel.name for choice in selection.choices]


@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("name", ["touch", "touch_cnn"])
def test_goals_are_points_of_the_curve(name: str, core: str) -> None:
    network, target = example(name), TARGETS[core]
    size, balanced, speed = (chosen(network, Aim(goal), target) for goal in ("size", "balanced", "speed"))
    assert size.curve == balanced.curve == speed.curve
    assert (size.chosen, speed.chosen) == (0, len(speed.curve) - 1)
    products = [(flash + FIRMWARE) * cycles for flash, cycles in balanced.curve]
    assert products[balanced.chosen] == min(products)
    for selection in (size, balanced, speed):
        flash, cycles = selection.curve[selection.chosen]
        whole = cost.network_cost(selection.choices, target, cost.Timing(core))
        sources = [choice.kernel.render(choice.view, target) for choice in selection.choices]
        constants = sum(array.nbytes for source in sources for array in source.data.values())
        assert flash == pytest.approx(whole.code_bytes + constants, abs=len(sources) + 1)
        assert cycles == pytest.approx(whole.cycles, abs=len(sources) + 1)


def test_limits_cut_the_curve() -> None:
    network = example("touch_cnn")
    whole = chosen(network, Aim("speed"))
    room = 1 - MARGIN_PERCENT / 100
    for flash, _ in whole.curve:
        found = chosen(network, Aim("speed", flash=int(flash / room) + 1))
        assert found.curve[found.chosen][0] <= flash
        assert found.curve[found.chosen] == whole.curve[found.chosen]
    middle = len(whole.curve) // 2
    needed = chosen(network, Aim("size", cycles=int(whole.curve[middle][1] / room) + 1))
    assert needed.chosen == middle
    smallest, fastest = chosen(network, Aim("speed", flash=10)), chosen(network, Aim("size", cycles=10))
    assert (smallest.chosen, fastest.chosen) == (0, len(whole.curve) - 1)


def test_slow_flash_and_a_small_multiplier_count() -> None:
    network = example("touch_cnn")
    plain, slow, small = (
        chosen(network, aim) for aim in (Aim("speed"), Aim("speed", wait_states=3), Aim("speed", mul_cycles=32))
    )
    assert plain.curve[-1][1] < slow.curve[-1][1]
    assert plain.curve[-1][1] < small.curve[-1][1]


def test_reasons_say_what_another_kernel_would_cost() -> None:
    reasons = [choice.reasons for choice in chosen(example("touch_cnn"), Aim("size")).choices]
    said = " ".join(text for row in reasons for text in row.values())
    assert "bytes of flash more" in said
    assert "cycles less" in said


def test_unknown_cores_and_new_operators_take_what_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    network = example("touch_cnn")
    generic = chosen(network, Aim("size"), TARGETS["generic"])
    assert generic.curve == ()
    assert names(generic) == [layer.kernels[0].name for layer in candidates(network, TARGETS["generic"])]
    monkeypatch.setattr(cost, "unmeasured", lambda choices, target: ("new/direct",))
    assert names(chosen(network, Aim("size"))) == [layer.kernels[0].name for layer in candidates(network, M0)]


def test_ram_leaves_out_what_needs_more_scratch() -> None:
    """The hungry kernel is faster; RAM for it is missing; where none fits, nothing is taken away in vain."""
    network = example("touch_cnn")
    layers = [hungry(layer) for layer in candidates(network, M0)]

    def taken(ram: int | None) -> tuple[list[str], int]:
        found = optimize(layers, M0, Aim("speed", ram=ram), memory_of(network))
        return [choice.kernel.name for choice in found.choices], plan(network, found.choices, M0).arena

    free, most = taken(None)
    assert free.count("hungry") == 1
    assert taken(most)[0] == free
    kernels, arena = taken(most - 1)
    assert kernels.count("hungry") == 0
    assert arena < most
    assert taken(1)[1] <= arena


def hungry(layer: Candidates) -> Candidates:
    """With a kernel of the second layer that takes no cycles, and 4,000 bytes of scratch."""
    if not layer.layer.name.startswith("l01"):
        return layer
    first = layer.kernels[0]

    def render(view: object, target: Target) -> Source:
        return first.render(layer.view, target)

    kernel = Kernel("hungry", render, scratch=lambda view, target: 4000, trips=lambda view, target: {"layer": 0})
    return replace(layer, kernels=(kernel, *layer.kernels))


@pytest.fixture(autouse=True)
def _hungry_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cost._weighed
    nothing = cost.Work()
    monkeypatch.setattr(cost, "_weighed", lambda name, *rest: nothing if "/hungry" in name else real(name, *rest))
    known = cost.unmeasured
    monkeypatch.setattr(
        cost,
        "unmeasured",
        lambda choices, target: () if choices[0].kernel.name == "hungry" else known(choices, target),
    )


# --- what the build says -------------------------------------------------------------------------------------------


def test_the_c_obeys_and_the_report_has_the_curve() -> None:
    network = example("touch_cnn")
    reports = {
        goal: json.loads(emit(network, EmitOptions("m", M0, aim=Aim(goal)))["m.report.json"])
        for goal in ("size", "speed")
    }
    for goal, report in reports.items():
        selection = chosen(network, Aim(goal))
        assert report["optimize"] == goal
        assert [layer["kernel"] for layer in report["layers"]] == names(selection)
        assert [point["chosen"] for point in report["curve"]].count(True) == 1
    assert reports["size"]["curve"][0]["chosen"]
    assert reports["speed"]["curve"][-1]["chosen"]


def points(*pairs: tuple[int, int], chosen: int) -> list[curve.Point]:
    return [{"flash": f, "cycles": c, "chosen": n == chosen} for n, (f, c) in enumerate(pairs)]


def test_words_and_picture_of_a_curve() -> None:
    steps = points((10_000, 4_000), (12_000, 1_000), (15_000, 900), (27_000, 700), chosen=1)
    assert curve.words(steps) == (
        "4K more flash would save 10 % of the cycles, 16K more flash would save 30 % of the cycles; "
        "the smallest kernels take 2,000 bytes less, 4.00 times the cycles"
    )
    assert curve.smallest(steps) == "optimize='size' would save 2,000 bytes and take 4.00 times the cycles"
    only = points((10_000, 4_000), chosen=0)
    assert (curve.words(only), curve.smallest(only), curve.picture(only)) == ("", "", None)
    fastest = points((10_000, 4_000), (12_000, 1_000), chosen=1)
    assert curve.words(fastest).startswith("no larger kernels are faster; ")
    drawn = curve.picture(steps)
    assert drawn is not None
    assert drawn.line.startswith(f"{curve.EDGE:.1f},{curve.EDGE:.1f} ")
    assert f"{drawn.x:.1f},{drawn.y:.1f}" in drawn.line.split()


def test_a_long_curve_is_thinned() -> None:
    thin = curve.thinned([(flash, 10_000 - flash) for flash in range(500)], 123)
    assert len(thin) <= curve.SHOWN + 1
    assert (thin[0]["flash"], thin[-1]["flash"]) == (0, 499)
    assert [point["flash"] for point in thin if point["chosen"]] == [123]


def test_the_commands_take_the_aim(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("aim")
    int8 = folder / "m.int8.onnx"
    calibration = f"--calibration={MODELS / 'touch_calib.npz'}"
    assert main(["quantize", str(MODELS / "touch_cnn.onnx"), calibration, "-o", str(int8)]) == 0
    words = ["select", str(int8), "--cpu", "cortex-m0"]
    shown = {}
    for goal in ("size", "speed"):
        capsys.readouterr()
        assert main([*words, "--optimize", goal]) == 0
        shown[goal] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("->")]
    assert len(shown["size"]) == len(shown["speed"]) == 1
    assert shown["size"] != shown["speed"]
    for wrong, message in (
        (["--flash", "64Q"], "--flash: must be a number of bytes"),
        (["--latency", "soon"], "--latency: must be a time"),
        (["--wait-states", "16"], "--wait-states takes 0 to 15"),
    ):
        assert main([*words, *wrong]) == 1
        assert message in capsys.readouterr().err
