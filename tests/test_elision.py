"""Parts and concatenations cost nothing: the same bytes in numpy, in a simulated arena and in C, without copies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from nnbuild import interpret
from nnbuild.contract import Case
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import InternalError, NNBuildError
from nnbuild.lower import lower
from nnbuild.network import Network, QuantParams, View
from nnbuild.ops import singles
from nnbuild.placement import Placement
from nnbuild.ram import elision, memory
from nnbuild.selection import select
from nnbuild.shrink import shrink
from nnbuild.target import TARGETS

from . import host, parts_networks, programs, qemu, reports
from .test_fuzz_networks import compiled, poisoned

TARGET = TARGETS["generic"]
UNIT, OTHER = parts_networks.UNIT, parts_networks.OTHER


@st.composite
def networks(draw: Any) -> Network:
    return parts_networks.network(lambda count: draw(st.integers(0, count - 1)))


def differences(network: Network) -> list[str]:
    """Where the shrunk network, or its plans in a simulated arena, compute something else."""
    smaller = shrink(network)
    choices = select(smaller, TARGET)
    found = []
    plans = {io: memory.plan(smaller, choices, TARGET, io, 16 if io else 4) for io in (False, True)}
    for sample in parts_networks.samples(network, 2):
        expected = [values.ravel() for values in interpret.run(network, sample)]
        results = {"numpy": [values.ravel() for values in interpret.run(smaller, sample)]}
        for io, planned in plans.items():
            assert planned.bound <= planned.arena
            results[f"io={io}"] = parts_networks.simulated(smaller, planned, choices, TARGET, sample)
        found += [how for how, values in results.items() if any(map(lambda a, b: (a != b).any(), expected, values))]
    return found


@given(networks())
@settings(deadline=None, max_examples=150)
def test_copies_that_go_leave_all_bytes_as_they_were(network: Network) -> None:
    assert differences(network) == []


@given(networks())
@settings(deadline=None, max_examples=60)
def test_a_report_of_parts_has_no_byte_twice(network: Network) -> None:
    for placement in (Placement(), Placement(io="arena")):
        report = json.loads(emit(network, EmitOptions("m", TARGET, placement=placement))["m.report.json"])
        assert reports.arena_faults({**report, "arena": report["arena_map"]}) == []
        assert report["arena_bound_bytes"] <= report["arena_bytes"]


def test_c_computes_the_same_in_an_arena_of_noise(tmp_path: Path) -> None:
    found = [parts_networks.network(Random(seed).randrange) for seed in range(24)]
    assert sum(len(shrink(network).views) for network in found) > 12
    library, arenas = compiled(tmp_path, found, TARGET)
    for number, network in enumerate(found):
        for fill, sample in zip((0x55, -1), parts_networks.samples(network, 2), strict=True):
            outputs = poisoned(library, f"m{number}", network, arenas[number], sample, fill)
            for a, b in zip(outputs, interpret.run(network, sample), strict=True):
                assert np.array_equal(a, b.ravel())


def maps_of_rows(channels: int) -> Case:
    """A map is cut into rows, which go through a convolution each and into one map again; then a pool."""
    model = singles._Model(f"rows_{channels}")
    rng = np.random.default_rng(channels)

    def conv(value: str, outputs: int) -> str:
        weights = rng.integers(-127, 128, (outputs, channels, 3, 3)).astype(np.int8)
        scales = rng.uniform(0.001, 0.003, outputs)
        node = model.node("Conv", [value, model.quantized(weights, scales)], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
        return model.pair(node, UNIT)

    def rows(value: str, start: int, end: int) -> str:
        bounds = [model.constant(np.array([bound], np.int64)) for bound in (start, end, 2)]
        return model.node("Slice", [value, *bounds])

    first = conv(model.input((1, channels, 7, 5), UNIT), channels)
    halves = [conv(rows(first, 0, 3), 5), conv(rows(first, 3, 7), 5)]
    whole = model.pair(model.node("Concat", halves, axis=2), UNIT)
    return model.case(model.pair(model.node("Relu", [whole]), UNIT))


@pytest.mark.parametrize("core", ["m0", "m4", "m55"])
def test_parts_on_a_core(core: str, tmp_path: Path) -> None:
    """In assembly too: where parts begin, nothing is aligned."""
    qemu.need()
    cases = [maps_of_rows(channels) for channels in (3, 4, 8)]
    for case in cases:
        assert {"transpose", "concat"}.isdisjoint(layer.op for layer in shrink(case.network).layers[1:-1])
    for seed in range(60):
        network = parts_networks.network(Random(seed).randrange)
        if len(network.outputs) == 1 and shrink(network).views:
            inputs = zip(*parts_networks.samples(network, 3), strict=True)
            cases.append(Case(f"parts_{seed}", network, tuple(np.array(values) for values in inputs)))
    machine = qemu.CORES[core]
    sources = programs.units(tmp_path, programs.write(tmp_path, cases[:24], machine.target))
    assert qemu.run(qemu.link(tmp_path, sources, machine), machine) == (0, "")


# --- which copies go ---------------------------------------------------------------------------------------------


def made(build: Any, sizes: Sequence[int] = (12,), quant: QuantParams | None = None) -> Network:
    """The network of the outputs that `build(model, inputs)` returns; inputs have the parameters `quant`."""
    model = singles._Model("made")
    outputs = build(model, [model.input((1, size), quant or UNIT) for size in sizes])
    ports = [helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in outputs]
    graph = helper.make_graph(model.nodes, "made", model.inputs, ports, model.initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return lower(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True), "made")


def table(model: singles._Model, value: str, kind: str = "Tanh", quant: QuantParams = UNIT) -> str:
    return model.pair(model.node(kind, [value]), quant)


def part(model: singles._Model, value: str, start: int, end: int) -> str:
    bounds = [model.constant(np.array([bound], np.int64)) for bound in (start, end, 1)]
    return model.node("Slice", [value, *bounds])


def together(model: singles._Model, values: Sequence[str]) -> str:
    return model.pair(model.node("Concat", list(values), axis=1), UNIT)


def ops(network: Network) -> list[str]:
    return [layer.op for layer in shrink(network).layers]


def run_call(network: Network, **options: Any) -> str:
    text = emit(network, EmitOptions("m", TARGET, **options))["m.c"]
    return text[text.index("int m_run(") :]


def test_parts_of_an_input_are_offsets_into_it() -> None:
    network = made(lambda m, x: [table(m, part(m, x[0], 0, 5)), table(m, part(m, x[0], 5, 12), "Neg")])
    assert ops(network) == ["lookup", "lookup"]
    call = run_call(network)
    assert "(input, output_" in call
    assert "(&input[5], output_" in call
    assert "arena" not in call
    assert "no layer reads" not in call


def test_parts_of_values_of_two_bytes(tmp_path: Path) -> None:
    wide = QuantParams(1e-4, 0, "int16")

    def build(m: Any, x: Sequence[str]) -> list[str]:
        inner = m.pair(m.node("Relu", [x[0]]), wide)
        return [m.pair(part(m, value, *ends), UNIT) for value in (x[0], inner) for ends in ((0, 5), (5, 12))]

    network = made(build, quant=wide)
    assert ops(network) == ["clamp", *["rescale"] * 4]
    assert "(&input[5], output_" in run_call(network)
    assert sorted(memory.plan(shrink(network), select(shrink(network), TARGET), TARGET).offsets.values()) == [0, 0, 10]
    sample = np.random.default_rng(0).integers(-(2**15), 2**15, 12).astype(np.int16)
    library = host.shared_library(tmp_path, emit(network, EmitOptions("m", TARGET)))
    expected = interpret.run(network, [sample])
    outputs = host.call(library, "m_run", [sample], [values.size for values in expected])
    assert all(np.array_equal(a, b.ravel()) for a, b in zip(outputs, expected, strict=True))


def test_parts_are_written_where_they_belong() -> None:
    network = made(lambda m, x: [table(m, together(m, [table(m, x[0]), table(m, x[0], "Neg")]), "Sigmoid")])
    assert ops(network) == ["lookup", "lookup", "lookup"]
    planned = memory.plan(shrink(network), select(shrink(network), TARGET), TARGET)
    assert planned.arena == planned.bound == 24


def test_parts_of_an_output_are_written_to_the_caller() -> None:
    network = made(lambda m, x: [together(m, [table(m, x[0]), table(m, x[1], "Neg")])], (12, 7))
    call = run_call(network)
    assert "(input_x0, output, " in call
    assert "(input_x1, &output[12], " in call
    rows = json.loads(emit(network, EmitOptions("m", TARGET))["m.report.json"])["arena_map"]
    assert [(row["kind"], row["bytes"]) for row in rows] == [("input", 12), ("input", 7), ("output", 12), ("output", 7)]
    assert len({row["name"] for row in rows if row["kind"] == "output"}) == 1


def test_chains_of_parts_lie_in_one_tensor() -> None:
    def build(m: singles._Model, x: Sequence[str]) -> list[str]:
        first = together(m, [table(m, x[0]), table(m, x[0], "Neg")])
        second = together(m, [first, table(m, x[0], "Abs")])
        return [table(m, part(m, second, 3, 30), "Sigmoid")]

    network = made(build)
    assert ops(network) == ["lookup"] * 4
    assert {shrink(network).place(name)[0] for name in shrink(network).views} == {"l04_concat"}


COPIED = {
    "an input beside something": lambda m, x: [together(m, [x[0], table(m, x[0])])],
    "one value twice": lambda m, x: [table(m, together(m, [v := table(m, x[0]), v]), "Neg")],
    "another scale": lambda m, x: [table(m, together(m, [table(m, x[0], quant=OTHER), table(m, x[0], "Neg")]), "Abs")],
    "an output beside something": lambda m, x: [v := table(m, x[0]), table(m, together(m, [v, table(m, v)]), "Neg")],
    "a value beside two others": lambda m, x: [
        table(m, together(m, [v := table(m, x[0]), table(m, x[0], "Neg")]), "Abs"),
        table(m, together(m, [v, table(m, x[0], "Sigmoid")]), "Neg"),
    ],
    "a part as an output": lambda m, x: [part(m, table(m, x[0]), 2, 9)],
    "a part beside something": lambda m, x: [
        table(m, together(m, [part(m, table(m, x[0]), 2, 9), table(m, x[0], "Neg")]), "Abs")
    ],
}


@pytest.mark.parametrize("what", COPIED)
def test_what_has_to_be_copied(what: str) -> None:
    network = made(COPIED[what])
    assert {"concat", "transpose"} & set(ops(network))
    assert differences(network) == []


def test_elements_in_another_order_are_copied() -> None:
    model = singles._Model("columns")
    value = model.pair(model.node("Tanh", [model.input((1, 2, 6), UNIT)]), UNIT)
    bounds = [model.constant(np.array([bound], np.int64)) for bound in (1, 4, 2)]
    network = model.case(model.pair(model.node("Neg", [model.node("Slice", [value, *bounds])]), UNIT)).network
    assert ops(network) == ["lookup", "transpose", "lookup"]


def test_a_pin_of_a_copy_that_went_has_no_effect() -> None:
    network = made(lambda m, x: [table(m, part(m, x[0], 3, 9))])
    assert network.layers[0].op == "transpose"
    assert "m_l00" not in emit(network, EmitOptions("m", TARGET, pins={"m_l00_transpose": "direct"}))["m.c"]
    with pytest.raises(NNBuildError, match="there is no such layer"):
        emit(network, EmitOptions("m", TARGET, pins={"m_l09_transpose": "direct"}))


def test_views_are_verified() -> None:
    network = shrink(made(lambda m, x: [table(m, part(m, x[0], 3, 9))]))
    network.verify()
    for start in (-1, 7):
        with pytest.raises(InternalError, match="cannot lie in"):
            replace(network, views={"l00_transpose": View("input0", start)}).verify()
    parts = shrink(made(lambda m, x: [table(m, together(m, [table(m, x[0]), table(m, x[0], "Neg")]), "Abs")]))
    with pytest.raises(InternalError, match="before it is written"):
        replace(parts, layers=(parts.layers[0], parts.layers[2])).verify()
    (one, two) = parts.views
    with pytest.raises(InternalError, match="a second time"):
        replace(parts, views={**parts.views, two: parts.views[one]}).verify()


# --- the tests can fail ------------------------------------------------------------------------------------------

MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "anything may follow": (memory, "_follow", lambda old, new, layer: True),
    "parts are not seen": (memory, "_seen_by", lambda network, lives, tensor, written: []),
    "ports are moved": (elision, "_settled", lambda network: set(network.views)),
    "views are moved": (
        elision,
        "_settled",
        lambda network: {port.tensor for port in (*network.inputs, *network.outputs)},
    ),
    "parts at the start": (elision, "View", lambda home, start: View(home, 0)),
    "words": (memory, "_words", lambda spans: tuple(spans[:1])),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_faults_of_the_plan_are_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [made(build) for build in COPIED.values()]
    found += [parts_networks.network(Random(seed).randrange) for seed in range(150)]
    monkeypatch.setattr(*MUTANTS[mutant])
    for network in found:
        try:
            if differences(network):
                return
        except (InternalError, ValueError, IndexError, KeyError):
            return
    pytest.fail("not noticed")
