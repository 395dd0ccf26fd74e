"""Models by their shapes alone: placeholders count like arrays, outlines lead to the nodes and layers of a build."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper

from nnbuild import outline
from nnbuild.errors import InternalError, ModelError, NNBuildError
from nnbuild.estimate.shapes import network_of
from nnbuild.importer import import_model, import_outline
from nnbuild.lower import lower
from nnbuild.network import Array, Network
from nnbuild.node_order import positions, restore_order
from nnbuild.onnxfile import parse
from nnbuild.placeholder import array_of, forget, is_placeholder, is_unread, packed, placeholder, tensor_of
from nnbuild.ram.memory import plan
from nnbuild.selection import select
from nnbuild.shrink import shrink
from nnbuild.target import TARGETS
from tests.damage import damage
from tests.graphs import i64, model, node, save, weights
from tests.random_networks import RandomNetwork, networks
from tests.test_import import REFERENCE
from tests.test_reference_networks import quantized

HUGE = (60_000, 50_000)  # 12 GB in float32


# Placeholders.


def small_and_full() -> tuple[Array, Array]:
    return placeholder((3, 4), np.float32), np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    "compute",
    [
        lambda a: a * np.arange(1, 4, dtype=np.float32)[:, None] + 2,
        lambda a: np.rint(a.astype(np.float64) / 0.3).astype(np.int64),
        lambda a: np.clip(a * 300, -127, 127).astype(np.int8),
        lambda a: np.abs(-a).max(axis=1, initial=0.0),
        lambda a: (a * np.arange(4)).sum(axis=0),
        lambda a: (a * np.arange(4)).sum(axis=1),
        lambda a: np.moveaxis(a, 1, 0).reshape(2, -1).sum(),
        lambda a: (a * np.arange(3)[:, None]).max(),
        lambda a: (a * np.arange(3)[:, None]).min(axis=(0, 1), keepdims=True),
        lambda a: np.isfinite(a).all(),
        lambda a: np.any(a > 1),
        lambda a: np.arange(3.0) @ a,
        lambda a: np.ones((2, 3)) @ (a * np.arange(4)),
        lambda a: a @ np.ones((4, 2)),
        lambda a: np.ascontiguousarray(a.T),
        lambda a: np.add.accumulate(a, axis=1),
        lambda a: a[1:, ::2] * 2,
        lambda a: np.where(a > 0, a, 3),
    ],
)
def test_placeholders_compute_what_arrays_do(compute: object) -> None:
    got, expected = (compute(array) for array in small_and_full())  # type: ignore[operator]
    assert got.dtype == expected.dtype
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_array_equal(np.asarray(got), expected)


def test_placeholders_take_no_memory() -> None:
    huge = placeholder(HUGE, np.float32)
    scaled = (huge.astype(np.float64) * np.arange(1, HUGE[0] + 1)[:, None]).astype(np.float32)
    assert is_placeholder(np.clip(np.rint(scaled.T), -127, 127).astype(np.int8))
    assert scaled.max(axis=1).shape == HUGE[:1]
    assert scaled.sum(axis=0).shape == HUGE[1:]
    assert (np.ones(HUGE[0]) @ huge).shape == HUGE[1:]
    assert packed(huge.reshape(-1)) is not None
    stored = tensor_of(huge, "w")
    assert stored.ByteSize() < 100
    assert array_of(stored).shape == HUGE


def test_real_arrays_are_stored_as_ever() -> None:
    assert array_of(tensor_of(np.float32(3), "s")).shape == ()  # type: ignore[arg-type]
    turned = weights(3, 5).T
    np.testing.assert_array_equal(array_of(tensor_of(turned, "t")), turned)


# Reading.


def network(folder: Path, inside: bool = True, constant: bool = False) -> Path:
    """Two fully connected layers, the first large; its weights in the file or beside it."""
    nodes = [node("Gemm", "x w b", "h"), node("Relu", "h", "r"), node("Gemm", "r v", "y")]
    constants = {"w": weights(300, 200), "b": weights(200), "v": weights(200, 10)}
    proto = model(nodes, {"x": ["N", 300]}, ["y"], constants)
    if constant:
        moved = proto.graph.initializer.pop(0)
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=moved))
    if not inside:
        external_data_helper.convert_model_to_external_data(proto, location="w.data", size_threshold=0)
        onnx.save(proto, folder / "m.onnx")
        return folder / "m.onnx"
    return save(folder, proto)


@pytest.mark.parametrize("length", ["200", "many"])
def test_a_file_that_says_itself_that_data_was_not_read(tmp_path: Path, length: str) -> None:
    proto = onnx.load(network(tmp_path))
    forget(proto.graph.initializer[1])
    proto.graph.initializer[1].external_data.add(key="length", value=length)
    with pytest.raises(ModelError, match=r"tensor 'b' of shape \[200\] holds \d+ bytes instead of 800"):
        outline.read_outline(save(tmp_path, proto))


@pytest.mark.parametrize("constant", [False, True])
def test_large_tensors_are_not_read(tmp_path: Path, constant: bool) -> None:
    path = network(tmp_path, constant=constant)
    found = outline.read_outline(path)
    assert found.missing == ()
    assert found.model.ByteSize() < 10_000 < path.stat().st_size - 4 * 300 * 190
    graph = import_outline(path).model.graph
    assert [is_unread(tensor) for tensor in graph.initializer] == [True, False, False]
    np.testing.assert_array_equal(array_of(graph.initializer[1]), weights(200))


def test_data_beside_the_file_is_not_opened_where_it_is_large(tmp_path: Path) -> None:
    path = network(tmp_path, inside=False)
    graph = import_outline(path).model.graph
    assert [is_unread(tensor) for tensor in graph.initializer] == [True, False, False]


def test_missing_data_is_said_and_not_needed(tmp_path: Path) -> None:
    path = network(tmp_path, inside=False)
    (tmp_path / "w.data").unlink()
    found = import_outline(path)
    assert found.missing == ("w.data",)
    assert [layer.op for layer in network_of(found.model, "m").layers] == ["fully_connected", "fully_connected"]
    with pytest.raises(ModelError, match="missing"):
        import_model(path)


def test_missing_shapes_are_refused(tmp_path: Path) -> None:
    proto = model([node("Reshape", "x s", "y")], {"x": ["N", 6]}, ["y"], {"s": i64(1, 2, 3)})
    tensor = proto.graph.initializer[0]
    external_data_helper.set_external_data(tensor, "s.data")
    tensor.ClearField("raw_data")
    with pytest.raises(ModelError, match=r"external data file 's.data' of tensor 's' is missing"):
        import_outline(save(tmp_path, proto))


def test_data_that_does_not_fit_is_found_without_reading_it(tmp_path: Path) -> None:
    path = network(tmp_path)
    proto = onnx.load(path)
    proto.graph.initializer[0].dims[0] = 299
    with pytest.raises(ModelError, match=r"tensor 'w' of shape \[299, 200\] holds 240000 bytes instead of 239200"):
        import_outline(save(tmp_path, proto))
    path = network(tmp_path, inside=False)
    data = (tmp_path / "w.data").read_bytes()
    (tmp_path / "w.data").write_bytes(data[:1000])
    with pytest.raises(ModelError, match="ends before the data of tensor 'w'"):
        import_outline(path)


def test_a_truncated_file_is_one_plain_line(tmp_path: Path) -> None:
    path = network(tmp_path)
    content = path.read_bytes()
    for length in (0, 10, 1000, len(content) // 2, len(content) - 100):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match="not an ONNX"):
            import_outline(path)


def test_nobody_can_write_a_placeholder_into_a_file(tmp_path: Path) -> None:
    proto = model([node("Gemm", "x w", "y")], {"x": ["N", 30]}, ["y"], {"w": weights(30, 20)})
    proto.graph.initializer[0].CopyFrom(tensor_of(placeholder((30, 20), np.float32), "w"))
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_model(save(tmp_path, proto))


# The same as a build.


def test_restored_order_keeps_branches_as_the_exporter_wrote_them() -> None:
    nodes = [node("Relu", "x", "a"), node("Relu", "a", "b"), node("Neg", "x", "c"), node("Add", "b c", "y")]
    graph = model(nodes, {"x": [1, 3]}, ["y"]).graph
    before = positions(graph)
    shuffled = [nodes[2], nodes[0], node("Abs", "a", "new"), node("Relu", "new", "b"), nodes[3]]
    del graph.node[:]
    graph.node.extend(shuffled)
    restore_order(graph, before)
    assert [entry.output[0] for entry in graph.node] == ["a", "new", "b", "c", "y"]


def layers(network: Network, cpu: str) -> tuple[list[tuple[object, ...]], int]:
    target = TARGETS[cpu]
    choices = select(network, target)
    rows: list[tuple[object, ...]] = []
    for choice in choices:
        sizes = {name: array.nbytes for name, array in choice.kernel.render(choice.view, target).data.items()}
        sizes.pop("exponential", None)  # of softmax: as long as the calibrated scale asks for
        node_name = choice.layer.node.removesuffix("/MatMulAddFusion")  # a name of onnxruntime's
        rows.append((choice.layer.name, node_name, choice.kernel.name, choice.view.output.shape, sizes))
    return rows, plan(network, choices, target).arena


@pytest.mark.parametrize("name", REFERENCE)
def test_layers_equal_those_of_a_build(name: str, reference_dir: Path, tmp_path: Path) -> None:
    path = reference_dir / "models" / f"{name}.onnx"
    built = lower(quantized(path, tmp_path)[0], name)
    judged = network_of(import_outline(path).model, name)
    for cpu in ("cortex-m0", "cortex-m4"):
        (expected, arena), (found, real) = layers(judged, cpu), layers(built, cpu)
        assert arena == real
        assert [row[:4] for row in expected] == [row[:4] for row in found]
        differing = [rows for rows in zip(expected, found, strict=True) if rows[0] != rows[1]]
        # How many words a channel of these kernels has follows from its numbers, which nobody knows yet,
        # and so does whether the exact requantization of a layer is found; weights of bytes never differ.
        assert all(
            row[2] in ("smlad", "mla") or (row[2] == "assembly" and weights_of(row) == weights_of(other))
            for row, other in differing
        )
        assert constants(row for row, _ in differing) == pytest.approx(
            constants(row for _, row in differing), abs=0.03 * constants(found)
        )


def weights_of(row: tuple[object, ...]) -> int:
    return cast(dict[str, int], row[4])["weights"]


def constants(rows: Iterable[tuple[object, ...]]) -> int:
    return sum(size for row in rows for size in cast(dict[str, int], row[4]).values())


@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(drawn=networks(), seed=st.integers(0, 2**32), damaged=st.booleans())
def test_random_networks_equal_those_of_a_build(drawn: RandomNetwork, seed: int, damaged: bool) -> None:
    """With every tensor of more than 16 bytes a placeholder. Of damaged models some are refused for their values."""
    if damaged:
        damage(drawn.model, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = save(Path(folder), drawn.model)
        built = attempted(lambda: lower(import_model(path), "random"))
        read = outline._size
        patch.setattr(outline, "LARGE", 16)
        patch.setattr(outline, "parse_outline", parse)
        patch.setattr(outline, "_size", lambda tensor: 0 if tensor.data_type == TensorProto.INT64 else read(tensor))
        judged = attempted(lambda: network_of(import_outline(path).model, "random"))
    if built is not None:
        assert judged is not None
        unknown = any(is_placeholder(array) for layer in judged.layers for array in layer.constants.values())
        assert_equal_layers(judged, built if unknown else shrink(built), "cortex-m0")
    assert damaged or built is not None


def assert_equal_layers(judged: Network, built: Network, cpu: str) -> None:
    """Each layer with its constants' sizes, and the arena. Sums that are scaled by a line in 32 bits with made-up
    ranges may need the general form with the calibrated ones, or the other way round: these rows alone may differ, in
    the constants of that form."""
    (ours, our_arena), (theirs, their_arena) = layers(judged, cpu), layers(built, cpu)
    assert (len(ours), our_arena) == (len(theirs), their_arena)
    for (*one, sizes), (*other, real) in zip(ours, theirs, strict=True):
        assert one == other
        assert isinstance(sizes, dict)
        assert isinstance(real, dict)
        if {"scaling" in sizes, "scaling" in real} == {True, False}:
            sizes, real = ({key: size for key, size in each.items() if key not in FORMS} for each in (sizes, real))
        assert sizes == real, one


FORMS = ("scaling", "bias", "multiplier", "shift")
"""The constants of a line, and of the general form."""


def attempted(make: Callable[[], Network]) -> Network | None:
    """The network; None where the model is refused, which is no fault of nnbuild."""
    try:
        return make()
    except InternalError:
        raise
    except NNBuildError:
        return None
