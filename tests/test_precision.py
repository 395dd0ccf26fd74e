"""The search for values of 16 bits: what it takes for which aim, what it expects of unseen samples, what it says."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import nnbuild
from nnbuild import precision_cost, simulation
from nnbuild.cli import main
from nnbuild.errors import CalibrationError, ConfigError
from nnbuild.lower import lower
from nnbuild.pipeline import Request, _Build, _judge, calibrated, quantized
from nnbuild.precision import _cheapest, search
from nnbuild.precision_cost import Cost
from nnbuild.precision_judge import Aim, Judge, Outlook, _own_and_others, _Rest
from nnbuild.precision_names import layer_names, named
from nnbuild.precision_report import KEY, Found
from nnbuild.quantize import quantize
from nnbuild.ram.memory import plan
from nnbuild.target import TARGETS
from tests.graphs import imported, model, node, save, weights

LAYERS = ("first", "second", "third", "sum", "last")


def float_model(folder: Path, closing: str = "Softmax") -> onnx.ModelProto:
    """Layers beside a skip branch, and one that squashes."""
    nodes = [
        node("Gemm", "x w0 b0", "h0", name="first"), node("Relu", "h0", "r0"),
        node("Gemm", "r0 w1", "h1", name="second"), node("Relu", "h1", "r1"),
        node("Gemm", "r1 w2", "h2", name="third"),
        node("Add", "h2 r0", "s", name="sum"), node("Relu", "s", "r2"),
        node("Gemm", "r2 w3", "z", name="last"), node(closing, "z", "y", name="closing"),
    ]  # fmt: skip
    constants = {
        "w0": weights(6, 16) / 2, "b0": weights(16, seed=1), "w1": weights(16, 32, seed=2) / 4,
        "w2": weights(32, 16, seed=3) / 6, "w3": weights(16, 4, seed=4) / 2,
    }  # fmt: skip
    return imported(folder, model(nodes, {"x": [1, 6]}, ["y"], constants))


def build(folder: Path, closing: str = "Softmax", labels: bool = False, count: int = 60, **options: Any) -> _Build:
    proto = float_model(folder, closing)
    given: dict[str, Any] = {"x": np.random.default_rng(7).normal(0, 1, (count, 6)).astype(np.float32)}
    if labels:
        given["y"] = np.zeros(count, np.int64)
    np.savez(folder / "c.npz", **given)
    path = save(folder, proto)
    request = Request(str(path), str(folder / "c.npz"), method="minmax", corrections="none", **options)
    return _Build(request, proto, calibrated(request, proto))


def found(made: _Build, **aim: Any) -> Found:
    """The input, whose ends unseen samples leave, has 16 bits in any case."""
    return search(made.model, made.form, _judge(made), Aim(**aim), ["x"], made.corrected)


def test_what_is_enough_is_left_as_it_is(tmp_path: Path) -> None:
    made = build(tmp_path)
    result = found(made, min_sqnr=5.0)
    assert (result.names, result.met) == (("x",), True)
    assert result.lines() == [f"int16: 8 bits suffice for SQNR 5 dB, {result.after.text(result.aim)} can be expected"]
    assert quantized(replace(made.request, int16=("auto",), aim=Aim(min_sqnr=5.0))).found is not None


def test_more_is_taken_for_more_and_no_more_than_it_takes(tmp_path: Path) -> None:
    made = build(tmp_path)
    least = found(made, min_sqnr=1.0).after.sqnr
    sizes = []
    for gain in (0.0, 1.0, 2.0):
        result = found(made, min_sqnr=least + gain)
        assert result.met
        assert result.after.sqnr >= least + gain
        sizes.append(len(result.values))
    assert sizes[0] == 0 < sizes[1] <= sizes[2] < len(LAYERS)
    everything = found(made, min_sqnr=90.0)
    assert not everything.met
    assert sizes[2] < len(everything.values) <= len(LAYERS)
    assert "not reached" in "".join(everything.lines())


def test_names_that_are_given_stay(tmp_path: Path) -> None:
    made = build(tmp_path)
    result = search(made.model, made.form, _judge(made), Aim(min_sqnr=1.0), ["x"])
    assert result.names == ("x",)
    with pytest.raises(ConfigError, match="needs an aim"):
        search(made.model, made.form, _judge(made), Aim(ram=1000))


def test_ram_keeps_values_in_8_bits(tmp_path: Path) -> None:
    made = build(tmp_path)
    free = found(made, min_sqnr=90.0)
    least = precision_cost.of(lower(made.form(["x"]))).ram
    assert free.ram > least
    aim = {"min_sqnr": free.after.sqnr - 1.0}
    with pytest.raises(ConfigError) as caught:
        found(made, **aim, ram=least)
    assert f"does not reach the aim within ram={least:,} bytes: SQNR" in str(caught.value)
    assert "bytes alive at once" in str(caught.value)
    assert " too many" in str(caught.value)
    assert found(made, min_sqnr=1.0, ram=1).values == ()


def test_agreement_and_drop(tmp_path: Path) -> None:
    made = build(tmp_path, labels=True)
    judge = _judge(made)
    int8 = made.form(())
    none = judge.outlook(int8, np.zeros((60, 4)))
    assert (none.agreement, none.drop) == (1.0, 0.0)
    classes = [int(np.argmax(row)) for row in judge._wanted]
    other = next(index for index in (1, 2, 3) if classes.count(index) < 40)
    errors = np.tile(100.0 * np.eye(4)[other], (60, 1))  # all samples are taken for this class
    large = judge.outlook(int8, errors)
    same, lost = classes.count(other) / 60, classes.count(0) / 60
    assert large.agreement == pytest.approx(same - math.sqrt(same * (1 - same) / 60))
    assert large.drop == pytest.approx(lost + math.sqrt(lost * (1 - lost) / 60))
    unlabelled = Judge(made.model, judge._samples).outlook(int8, errors)
    assert unlabelled.drop == pytest.approx(1 - unlabelled.agreement)
    assert found(made, max_drop=0.0).met


def test_labels_of_other_samples_are_refused(tmp_path: Path) -> None:
    made = build(tmp_path)
    np.savez(tmp_path / "c.npz", x=np.zeros((20, 6), np.float32), y=np.zeros(19, np.int64))
    with pytest.raises(CalibrationError, match="19 labels for 20 samples"):
        _judge(made)


def test_synthetic_samples_decide_nothing(tmp_path: Path) -> None:
    made = build(tmp_path)
    with pytest.raises(CalibrationError, match="needs calibration samples"):
        quantized(replace(made.request, calibration="synthetic", method=None, int16=("auto",), aim=Aim(min_sqnr=9.0)))


@pytest.mark.parametrize("closing", ["Softmax", "Relu"])
def test_errors_without_a_change_are_those_of_the_outputs(tmp_path: Path, closing: str) -> None:
    """What the rest of a form makes of its own errors, is what it computes."""
    made = build(tmp_path, closing)
    judge, int8 = _judge(made), made.form(())
    errors = judge.errors(int8)
    own = _Rest(int8, judge._shapes)
    values = np.stack([own.run(row) for row in judge._real + errors])
    ours = [onnx_run(int8, sample) for sample in judge._samples]
    np.testing.assert_allclose(values, ours, atol=1e-6)


def onnx_run(proto: onnx.ModelProto, sample: dict[str, Any]) -> Any:
    return simulation.run(proto, ["y"], [sample])[0]["y"].ravel()


def test_held_out_samples_count(tmp_path: Path) -> None:
    """Of samples that are alike ranges lose little; one that is far from the others costs where it is held out."""
    made = build(tmp_path)
    values = np.random.default_rng(7).uniform(0.9, 1, (60, 6)).astype(np.float32)
    lost = []
    for scale in (1.0, 20.0):
        values[11] *= scale
        np.savez(tmp_path / "c.npz", x=values)
        fitted = _Build(made.request, made.model, calibrated(made.request, made.model))
        lost.append(_judge(fitted).unseen(fitted.form, ()))
    assert lost[0] < 2.0
    assert lost[1] > 10.0
    few = build(tmp_path, count=9)
    assert _judge(few).unseen(few.form, ()) == 1.0


def test_noise_may_grow_until_the_aim_is_missed(tmp_path: Path) -> None:
    made = build(tmp_path, "Relu")
    judge, int8 = _judge(made), made.form(())
    errors = judge.errors(int8)
    reached = judge.outlook(int8, errors).sqnr
    for lower_by in (-3.0, 3.0, 6.0):
        factor = judge.allowed(int8, errors, Aim(min_sqnr=reached - lower_by))
        assert 10 * math.log10(factor) == pytest.approx(lower_by, abs=0.7)
    assert judge.allowed(int8, errors, Aim(min_sqnr=190.0)) == 0.0


class Costs:
    """Made-up costs: of each value its own, and 1 for all of a group together."""

    def __init__(self, own: dict[str, float], group: Collection[str] = (), limit: float = math.inf) -> None:
        self.own, self.group, self.limit = own, set(group), limit

    def growth(self, names: Collection[str]) -> float:
        return sum(self.own[name] for name in names) + bool(self.group & set(names))

    def within(self, names: Collection[str]) -> bool:
        return self.growth(names) <= self.limit


@pytest.mark.parametrize(
    ("own", "group", "limit", "allowed", "taken"),
    [
        ({"a": 1, "b": 1, "c": 1}, "", math.inf, 3.5, "a"),  # the most noise for the same cost
        ({"a": 1, "b": 1, "c": 1}, "", math.inf, 7.0, ""),
        ({"a": 9, "b": 1, "c": 1}, "", math.inf, 4.0, "bc"),  # two that cost less than the one
        ({"a": 9, "b": 1, "c": 9}, "", math.inf, 3.0, "a"),  # what is not needed beside the dear one goes again
        ({"a": 4, "b": 1, "c": 0.6}, "", math.inf, 6.0, "c"),  # the last one need not be worth most
        ({"a": 4, "b": 0, "c": 0}, "bc", math.inf, 4.0, "bc"),  # a group pays once
        ({"a": 9, "b": 1, "c": 1}, "", 2.0, 0.0, "bc"),  # as little as the limit lets
    ],
)
def test_the_cheapest_set(own: dict[str, float], group: str, limit: float, allowed: float, taken: str) -> None:
    noise = {"a": 4.0, "b": 2.0, "c": 1.0}
    costs: Any = Costs(own, group, limit)
    assert sorted(_cheapest(noise, allowed, costs)) == sorted(taken)


def test_own_errors_and_those_of_others() -> None:
    rows = np.array([[1.0, 3.0], [0.0, 0.0], [2.0, 2.0]])
    assert _own_and_others(rows) == (2.0, 1.0)
    assert _own_and_others(rows[:1]) == (2.0,)


def test_costs_are_products_and_bytes() -> None:
    base = Cost(1000, 0, 400, 2000)
    assert base.above(base) == 0.0
    assert Cost(1000, 500, 400, 2000).above(base) == pytest.approx(precision_cost.DEARER / 2)
    assert Cost(1000, 0, 600, 2000).above(base) == pytest.approx(0.5)
    assert Cost(1000, 0, 400, 3000).above(base) == pytest.approx(0.5)


def test_the_cost_of_a_network(tmp_path: Path) -> None:
    made = build(tmp_path)
    plain, wide = (precision_cost.of(lower(made.form(names))) for names in ((), ("first",)))
    assert plain.products == 6 * 16 + 16 * 32 + 32 * 16 + 16 + 16 * 4 + 4
    assert plain.wide == 0
    # The layer writes 16 values, two layers read them; the Add multiplies nothing.
    assert wide.wide == 16 + 16 * 32 + 16
    assert wide.ram == plain.ram + 16


def test_ram_is_no_more_than_a_build_needs(tmp_path: Path) -> None:
    """Where outputs lie over inputs, as kernels allow it."""
    nodes = [node("Conv", "x w", "a", name="first"), node("Conv", "a w", "b"), node("Conv", "b w", "y")]
    path = save(tmp_path, model(nodes, {"x": [1, 8, 6, 6]}, ["y"], {"w": weights(8, 8, 1, 1)}))
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(7).normal(0, 1, (9, 8, 6, 6)).astype(np.float32))
    request = Request(str(path), str(tmp_path / "c.npz"), method="minmax", corrections="none")
    for names, apart in (((), 576), (("first",), 864)):
        network = lower(onnx.load_from_string(quantized(replace(request, int16=names)).content))
        assert plan(network, (), TARGETS["generic"]).arena == apart
        ram = precision_cost.of(network).ram
        assert all(ram <= each.ram for each in precision_cost.on_cores(network).values())
        assert ram < apart


def test_what_is_found_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = build(tmp_path)
    aim = Aim(min_sqnr=found(made, min_sqnr=1.0).after.sqnr + 1.5)
    result = quantized(replace(made.request, int16=("auto", "x"), aim=aim))
    assert result.found is not None
    assert result.found.values
    assert named(made.form(()), result.found.paste) == list(result.found.names)
    pasted = quantized(replace(made.request, int16=result.found.paste))
    one, other = (onnx.load_from_string(content) for content in (result.content, pasted.content))
    noted = {entry.key: entry.value for entry in one.metadata_props}
    assert json.loads(noted[KEY])["int16"] == list(result.found.paste)
    del one.metadata_props[:]
    assert one == other
    lines = result.found.lines()
    assert lines[0] == f"int16={json.dumps(list(result.found.paste))}"
    assert lines[1].startswith("  expected SQNR ")
    assert all(
        " dB; " in line and "M0 " in line and "B flash" in line for line in lines[2 : 2 + len(result.found.values)]
    )
    words = [made.request.model, "--calibration", str(made.request.calibration), "--method", "minmax"]
    words += ["--corrections", "none", "--int16", "auto", "--int16", "x", "--min-sqnr", repr(aim.min_sqnr)]
    assert main(["quantize", *words, "-o", str(tmp_path / "q.int8.onnx")]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert (tmp_path / "q.int8.onnx").read_bytes() == result.content
    frozen = str(tmp_path / "f.int8.onnx")
    assert main(["freeze", *words, "-o", frozen]) == 0
    lock = json.loads((tmp_path / "f.int8.lock").read_text())
    assert lock["int16"]["int16"] == list(result.found.paste)
    assert lock["options"]["min_sqnr"] == aim.min_sqnr
    assert main(["quantize", *words, "--frozen", frozen, "-o", str(tmp_path / "g.int8.onnx")]) == 0
    assert main(["quantize", *words[:-1], "3", "--frozen", frozen, "-o", str(tmp_path / "g.int8.onnx")]) == 1
    assert "option min_sqnr is 3.0, frozen with" in capsys.readouterr().err


def test_names_of_layers_come_back(tmp_path: Path) -> None:
    int8 = quantize(float_model(tmp_path), build(tmp_path).ranges)
    assert named(int8, [layer_names(int8)[name] for name in LAYERS]) == list(LAYERS)


def test_an_outlook_and_its_aim() -> None:
    outlook = Outlook(30.0, 0.98, 0.01)
    good = Aim(min_sqnr=30.0, min_agreement=0.98, max_drop=0.01)
    assert outlook.meets(good)
    for worse in (replace(good, min_sqnr=30.1), replace(good, min_agreement=0.981), replace(good, max_drop=0.009)):
        assert not outlook.meets(worse)
    assert good.text() == "SQNR 30 dB, agreement 98 %, a drop of 1 points"
    assert outlook.text(good) == "SQNR 30.0 dB, agreement 98.00 %, a drop of 1.00 points"


def test_check_judges_values_of_16_bits(tmp_path: Path) -> None:
    path = build(tmp_path).request.model
    plain = nnbuild.check(path, cpu="cortex-m4")
    wide = nnbuild.check(path, cpu="cortex-m4", int16=["l00_fully_connected", "sum"])
    assert wide.ram > plain.ram
    assert any(layer.op.startswith("wide_") for layer in wide.figures.layers)
    searched = nnbuild.check(path, cpu="cortex-m4", int16=["auto"])
    assert (searched.ram, searched.flash) == (plain.ram, plain.flash)
    assert [note for note in searched.notes if "judged without the values that it would find" in note]
    for value, message in (("nothing", "no such layer"), ("closing", "cannot write it"), ([3], "list of names")):
        with pytest.raises(ConfigError, match=message):
            nnbuild.check(path, cpu="cortex-m4", int16=value)  # type: ignore[arg-type]
    quantize_to = str(tmp_path / "q.int8.onnx")
    assert main(["quantize", path, "--calibration", str(tmp_path / "c.npz"), "-o", quantize_to]) == 0
    with pytest.raises(ConfigError, match="already quantized: int16 has no meaning"):
        nnbuild.check(quantize_to, cpu="cortex-m4", int16="sum")


def test_check_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build(tmp_path).request.model
    assert main(["check", path, "--cpu", "cortex-m4", "--int16", "auto", "--int16", "sum"]) == 0
    said = capsys.readouterr().out
    assert "judged without" in said
    assert main(["check", path, "--cpu", "cortex-m4"]) == 0
    wide, plain = (
        int(re.findall(r"flash ([\d,]+) bytes", text)[0].replace(",", "")) for text in (said, capsys.readouterr().out)
    )
    assert wide != plain
