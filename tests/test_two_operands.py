"""Operators of several computed values: their memory, their scales, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from nnbuild import interpret
from nnbuild.contract import LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ModelError
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import Network, QuantParams
from nnbuild.ops import BY_NAME, singles
from nnbuild.pipeline import Request, input_shapes, quantized
from tests import host
from tests.graphs import Shape, i64, model, node, save, weights


def network_of(folder: Path, proto: onnx.ModelProto) -> Network:
    """Imported, calibrated on noise, quantized, lowered."""
    path = save(folder, proto)
    rng = np.random.default_rng(3)
    arrays = {
        name: rng.normal(0, 1, (20, *shape[1:])).astype(np.float32)
        for name, shape in input_shapes(import_model(path)).items()
    }
    np.savez(folder / "c.npz", **arrays)  # type: ignore[arg-type]
    return lower(onnx.load_model_from_string(quantized(Request(str(path), str(folder / "c.npz"))).content))


def operators(network: Network) -> list[str]:
    return [layer.op for layer in network.layers]


def check_c(network: Network, folder: Path) -> None:
    """The generated C, its arena planned, equals the reference."""
    library = host.shared_library(folder / "library", emit(network, EmitOptions("m")))
    rng = np.random.default_rng(4)
    for _ in range(10):
        sample = [rng.integers(-128, 128, network.tensors[p.tensor].size).astype(np.int8) for p in network.inputs]
        expected = interpret.run(network, sample)
        found = host.call(library, "m_run", sample, [array.size for array in expected])
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one.ravel(), other)


@pytest.mark.parametrize("kind", ["Add", "Mul", "Min", "Max"])
def test_a_value_and_its_own_transpose_do_not_share_the_outputs_bytes(kind: str, tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Transpose", "c", "t", perm=[0, 1, 3, 2]),
        node(kind, "c t", "s"),
        node("Conv", "s w", "y"),
    ]
    network = network_of(tmp_path, model(nodes, {"x": [1, 3, 5, 5]}, ["y"], {"w": weights(3, 3, 1, 1)}))
    layer = next(layer for layer in network.layers if layer.op in ("add", "mul", "minimum", "maximum"))
    assert len(layer.inputs) == 2
    assert layer.inputs[0] == layer.inputs[1]
    assert BY_NAME[layer.op].inplace(LayerView.of(network, layer)) == ()
    check_c(network, tmp_path)


@pytest.mark.parametrize("kind", ["Add", "Mul", "Min", "Max"])
def test_equal_shapes_run_in_place(kind: str, tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a"),
        node("Conv", "x v", "b"),
        node(kind, "a b", "s"),
        node("Conv", "s w", "y"),
    ]
    constants = {"w": weights(3, 3, 1, 1), "v": weights(3, 3, 1, 1, seed=9)}
    network = network_of(tmp_path, model(nodes, {"x": [1, 3, 5, 5]}, ["y"], constants))
    layer = next(layer for layer in network.layers if layer.op in ("add", "mul", "minimum", "maximum"))
    assert BY_NAME[layer.op].inplace(LayerView.of(network, layer)) == (0, 1)
    check_c(network, tmp_path)


def test_orders_that_no_loops_reach_are_copied_first(tmp_path: Path) -> None:
    """Channels last, two values of one row side by side, transposed: as crooked as offsets become."""
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 1]),
        node("Reshape", "t s", "u"),
        node("Transpose", "u", "v", perm=[0, 2, 1]),
        node("Reshape", "x r", "z"),
        node("Add", "z v", "a"),
        node("Concat", "a v", "y", axis=2),
    ]
    constants = {"s": i64(1, 4, 3), "r": i64(1, 3, 4)}
    network = network_of(tmp_path, model(nodes, {"x": [1, 2, 6]}, ["y"], constants))
    assert operators(network) == ["transpose", "add", "transpose", "concat"]
    check_c(network, tmp_path)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_pads_of_other_modes_copy_forwards_and_backwards(mode: str, tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "c"), node("Pad", "c p", "d", mode=mode), node("Conv", "d v", "y")]
    constants = {"w": weights(4, 3, 1, 1), "v": weights(4, 5, 3, 3), "p": i64(0, 1, 2, 1, 0, 0, 3, 1)}
    network = network_of(tmp_path, model(nodes, {"x": [1, 3, 5, 4]}, ["y"], constants, 19))
    assert operators(network) == ["transpose", "conv2d", "concat", "concat", "concat", "conv2d", "transpose"]
    check_c(network, tmp_path)


TABLES: dict[str, tuple[list[onnx.NodeProto], Shape, list[str], int]] = {
    # What only the Concat reads has its scale at once; the model's input keeps its own.
    "inputs": ([node("Conv", "x w", "a"), node("Concat", "x a", "y", axis=1)], [1, 3, 4, 4], ["concat"], 1),
    "nested": (
        [
            node("Conv", "x w", "a"),
            node("Sigmoid", "x", "b"),
            node("Concat", "a b", "c", axis=1),
            node("Exp", "x", "d"),
            node("Concat", "c d", "y", axis=1),
        ],
        [1, 3, 4, 4],
        ["concat", "concat"],
        0,
    ),
    # `a` has another reader, for which it keeps its range.
    "shared": (
        [node("Conv", "x w", "a"), node("Exp", "a", "e"), node("Concat", "a e", "y", axis=1)],
        [1, 3, 4, 4],
        ["concat"],
        1,
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_inputs_of_concat_take_its_scale_where_they_can(name: str, tmp_path: Path) -> None:
    nodes, shape, wanted, tables = TABLES[name]
    network = network_of(tmp_path, model(nodes, {"x": shape}, ["y"], {"w": weights(3, 3, 1, 1)}))
    concats = [layer for layer in network.layers if layer.op == "concat"]
    assert [layer.op for layer in concats] == wanted
    assert sum(len(layer.constants) for layer in concats) == tables


@pytest.mark.parametrize(("kind", "op"), [("Min", "minimum"), ("Max", "maximum")])
def test_the_place_of_the_tables_of_min_and_max(kind: str, op: str) -> None:
    a, b, c = QuantParams(0.05, -7), QuantParams(0.021, 19), QuantParams(0.03, 0)
    shapes = [(1, 20), (1, 20)]

    def layers(*quants: QuantParams) -> list[str]:
        return operators(singles.several("t", kind, shapes, quants[:2], quants[2]).network)

    assert layers(a, a, a) == [op]
    assert layers(a, a, b) == [op, "lookup"]
    assert layers(a, b, b) == ["lookup", op]
    assert layers(a, b, c) == ["lookup", "lookup", op]


@pytest.mark.parametrize("kind", ["Min", "Max"])
def test_min_and_max_mean_the_rounded_choice_whatever_the_scales(kind: str) -> None:
    a, b, c = QuantParams(0.05, -7), QuantParams(0.021, 19), QuantParams(0.03, 0)
    choose = {"Min": np.minimum, "Max": np.maximum}[kind]
    for quants in ([a, a, b], [a, b, b], [a, b, c]):
        case = singles.several("t", kind, [(1, 256), (1, 256)], quants[:2], quants[2])
        for first, second in zip(*case.inputs, strict=True):
            found = interpret.run(case.network, [first, second])[0].ravel().astype(int)
            real = choose(quants[0].dequantize(first), quants[1].dequantize(second))
            assert np.abs(found - quants[2].quantize(real).astype(int)).max() <= 1  # halves


def test_mul_is_the_rounded_product() -> None:
    """Within half a step, and 2^-7 that rounding twice adds with this shift."""
    a, b, out = QuantParams(0.05, -7), QuantParams(0.021, 19), QuantParams(0.09, 3)
    case = singles.several("t", "Mul", [(1, 256), (1, 256)], [a, b], out)
    for first, second in zip(*case.inputs, strict=True):
        found = interpret.run(case.network, [first, second])[0].ravel()
        real = (first.astype(float) - -7) * (second.astype(float) - 19) * 0.05 * 0.021 / 0.09 + 3
        assert np.abs(found - np.clip(real, -128, 127)).max() < 0.5 + 2**-7 + 1e-6


@pytest.mark.parametrize("out", [QuantParams(0.09, 3), QuantParams(0.7, -20), QuantParams(0.004, 0)])
@pytest.mark.parametrize("zero_point", [-128, -7, 127])
def test_div_is_the_rounded_quotient(zero_point: int, out: QuantParams) -> None:
    """For all pairs of values within half a step and 2^-10, or at the end of the range; 0 / 0 is 0."""
    a, b = QuantParams(0.05, 19), QuantParams(0.021, zero_point)
    case = singles.several("t", "Div", [(256, 1), (1, 256)], [a, b], out)
    every = np.arange(-128, 128, dtype=np.int8)
    found = interpret.run(case.network, [every, every])[0].ravel()
    first, second = every[:, None].astype(float) - 19, every[None, :].astype(float) - zero_point
    with np.errstate(all="ignore"):
        real = np.nan_to_num(first * 0.05 / (second * 0.021) / out.scale, nan=0.0, posinf=1e6, neginf=-1e6)
    wrong = np.abs(found - np.clip(real + out.zero_point, -128, 127).ravel())
    assert wrong.max() < 0.5 + 2**-10


def test_a_number_divided_by_a_value_is_a_table() -> None:
    a, out = QuantParams(0.05, -100), QuantParams(0.1, 0)
    case = singles.several("t", "Div", [np.array(40, np.int8), (1, 256)], [QuantParams(0.1, 0), a], out)
    assert operators(case.network) == ["lookup"]
    every = np.arange(-128, 128, dtype=np.int8)
    with np.errstate(all="ignore"):
        real = 4 / (a.dequantize(every).astype(float)) / 0.1
    found = interpret.run(case.network, [every])[0].ravel()
    assert np.abs(found - np.clip(real, -128, 127)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("kind", ["Mul", "Min", "Max", "Add", "Div"])
def test_what_is_not_quantized_is_refused(kind: str) -> None:
    constant = np.arange(4, dtype=np.int16).reshape(1, 4) + 127
    with pytest.raises(ModelError, match="wider than 8 bits"):
        singles.several("t", kind, [(1, 4), constant], [QuantParams(0.1, 0)] * 2, QuantParams(0.1, 0))
    known = np.arange(4, dtype=np.int8).reshape(1, 4)
    with pytest.raises(ModelError, match="both inputs are constants"):
        singles.several("t", kind, [known, known], [QuantParams(0.1, 0)] * 2, QuantParams(0.1, 0))


def test_concat_of_constants_only_is_refused() -> None:
    known = np.arange(4, dtype=np.int8).reshape(1, 4)
    with pytest.raises(ModelError, match="all inputs are constants"):
        singles.several(
            "t", "Concat", [known, known], [QuantParams(0.1, 0)] * 2, QuantParams(0.1, 0), attributes={"axis": 1}
        )
