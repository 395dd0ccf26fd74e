"""A model is untrusted: a damaged, oversized or malicious file gives one clear error, within bounds of memory."""

from __future__ import annotations

import contextlib
import random
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nnbuild.errors import ModelError
from nnbuild.importer import import_model
from tests.graphs import f32, i64, model, node, save, weights

MEGABYTE = 2**20


def small() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", "c g g g g", "n"),
        node("Clip", "n lo hi", "r"),
        node("AveragePool", "r", "p", kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        node("Shape", "p", "s"),
        node("Gather", "s zero", "d"),
        node("Concat", "d minus", "shape", axis=0),
        node("Reshape", "p shape", "f"),
        node("Gemm", "f v", "g0", transB=1),
        node("Softmax", "g0", "y"),
    ]
    constants = {
        "w": weights(2, 1, 3, 3), "b": weights(2), "g": f32(1, 2), "lo": np.float32(-1), "hi": np.float32(1),
        "zero": i64(0), "minus": i64(-1), "v": weights(3, 18),
    }  # fmt: skip
    return model(nodes, {"x": ["N", 1, 6, 6]}, ["y"], constants)


def refuses(path: Path, message: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=message) as caught:
        import_model(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 300 * MEGABYTE
    for finding in caught.value.findings:
        assert "\n" not in str(finding)
        assert str(path) in str(finding)


@pytest.mark.parametrize("content", [b"", b"\x08", b"#include <stdio.h>\n", b"PK\x03\x04" + bytes(99), bytes(4096)])
def test_not_an_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refuses(path, "not an ONNX")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refuses(tmp_path / "missing.onnx", "cannot read: No such file")
    refuses(tmp_path, "not a file")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = small().SerializeToString()
    import_model(save(tmp_path, small()))
    path = tmp_path / "cut.onnx"
    for size in range(0, len(content) - 1, 23):
        path.write_bytes(content[:size])
        with pytest.raises(ModelError):
            import_model(path)


FUZZ = """
    import random, resource, sys
    from pathlib import Path
    from nnbuild.errors import NNBuildError
    from nnbuild.importer import import_model

    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    source, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    good = source.read_bytes()
    path = source.with_name("mutant.onnx")
    for seed in range(first, first + count):
        print(seed, flush=True)
        rng = random.Random(seed)
        content = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(content))
            kind = rng.randrange(4)
            if kind == 0:
                content[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                content[at] = rng.choice((0, 1, 2, 127, 128, 255))
            elif kind == 2:
                del content[at : at + rng.randrange(1, 9)]
            else:
                content[at:at] = content[rng.randrange(len(content)) :][: rng.randrange(1, 40)]
        path.write_bytes(content)
        try:
            import_model(path)
        except NNBuildError as error:
            assert "Traceback" not in str(error)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    assert peak < 1500, f"{peak} MB"
"""


def test_mutated_files_import_or_are_refused(tmp_path: Path) -> None:
    """In a process of its own, because a fault in native code would end it."""
    path = save(tmp_path, small())
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FUZZ), str(path), "0", "400"],
        capture_output=True, text=True, check=False, timeout=300, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    last = (done.stdout.split() or ["none"])[-1]
    assert done.returncode == 0, f"seed {last}: {done.stderr[-2000:]}"


# A small file that asks for much.

BIG = 10**10


def constant_of_shape() -> onnx.ModelProto:
    nodes = [node("ConstantOfShape", "n", "z"), node("Add", "x z", "y")]
    return model(nodes, {"x": ["N", 3]}, ["y"], {"n": i64(BIG // 10, 10)})


def expand() -> onnx.ModelProto:
    nodes = [node("Expand", "one n", "z"), node("Add", "x z", "y")]
    return model(nodes, {"x": ["N", 3]}, ["y"], {"one": np.float32(1), "n": i64(BIG)})


def expanded_activation() -> onnx.ModelProto:
    return model([node("Expand", "x n", "y")], {"x": ["N", 3]}, ["y"], {"n": i64(BIG, 1, 1)})


def tile() -> onnx.ModelProto:
    nodes = [node("Tile", "one n", "z"), node("ReduceSum", "z", "s"), node("Add", "x s", "y")]
    return model(nodes, {"x": ["N", 3]}, ["y"], {"one": f32(1, 2), "n": i64(BIG)})


def count_range() -> onnx.ModelProto:
    nodes = [node("Range", "zero n one", "z"), node("ReduceSum", "z", "s"), node("Cast", "s", "f", to=1)]
    constants = {"zero": np.int64(0), "n": np.int64(BIG), "one": np.int64(1)}
    return model([*nodes, node("Add", "x f", "y")], {"x": ["N", 3]}, ["y"], constants)


def pad() -> onnx.ModelProto:
    return model([node("Pad", "x n", "y")], {"x": ["N", 3]}, ["y"], {"n": i64(0, BIG, 0, 0)})


def padded_constant() -> onnx.ModelProto:
    nodes = [node("Pad", "one n", "z"), node("ReduceSum", "z", "s"), node("Add", "x s", "y")]
    return model(nodes, {"x": ["N", 3]}, ["y"], {"one": f32(1), "n": i64(0, BIG)})


def conv_pads() -> onnx.ModelProto:
    return model([node("Conv", "x w", "y", pads=[0, BIG])], {"x": ["N", 1, 3]}, ["y"], {"w": weights(1, 1, 1)})


def conv_pads_below_the_attribute_limit() -> onnx.ModelProto:
    conv = node("Conv", "x w", "y", pads=[2**19] * 4)
    return model([conv], {"x": ["N", 1, 3, 3]}, ["y"], {"w": weights(1, 1, 1, 1)})


def huge_input() -> onnx.ModelProto:
    return model([node("Relu", "x", "y")], {"x": [1, BIG]}, ["y"])


def matrix_product() -> onnx.ModelProto:
    nodes = [
        node("ConstantOfShape", "n", "row"),
        node("ConstantOfShape", "m", "column"),
        node("MatMul", "column row", "z"),
        node("ReduceSum", "z", "s"),
        node("Add", "x s", "y"),
    ]
    return model(nodes, {"x": ["N", 3]}, ["y"], {"n": i64(1, 10**5), "m": i64(10**5, 1)})


def doubling() -> onnx.ModelProto:
    nodes = [node("Concat", f"a{i} a{i}", f"a{i + 1}", axis=0) for i in range(40)]
    nodes += [node("ReduceSum", "a40", "s"), node("Add", "x s", "y")]
    return model(nodes, {"x": ["N", 3]}, ["y"], {"a0": f32(1)})


def doubling_activation() -> onnx.ModelProto:
    nodes = [node("Concat", f"a{i} a{i}", f"a{i + 1}", axis=0) for i in range(40)]
    return model(nodes, {"a0": ["N", 3]}, ["a40"])


def many_constants() -> onnx.ModelProto:
    nodes = [node("ConstantOfShape", "n", f"z{i}") for i in range(200)]
    nodes += [node("Sum", " ".join(["x", *(f"z{i}" for i in range(200))]), "y")]
    return model(nodes, {"x": ["N", 1]}, ["y"], {"n": i64(1, 2**20)})


def resize() -> onnx.ModelProto:
    proto = model([node("Resize", "x - k", "y")], {"x": ["N", 1, 3, 3]}, ["y"], {"k": f32(1, 1, 1e5, 1e5)})
    return proto


def one_hot() -> onnx.ModelProto:
    nodes = [node("OneHot", "i n v", "z"), node("ReduceSum", "z", "s"), node("Add", "x s", "y")]
    return model(nodes, {"x": ["N", 3]}, ["y"], {"i": i64(1), "n": np.int64(BIG), "v": f32(0, 1)})


HUNGRY = [
    constant_of_shape, expand, expanded_activation, tile, count_range, pad, padded_constant, conv_pads,
    conv_pads_below_the_attribute_limit, huge_input, matrix_product, doubling, doubling_activation, many_constants,
    resize, one_hot,
]  # fmt: skip


@pytest.mark.parametrize("build", HUNGRY, ids=lambda build: build.__name__)
def test_small_files_that_ask_for_much(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    refuses(save(tmp_path, build()), "too large|elements|not supported|depends on data|fit")


def test_initializer_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    proto = small()
    proto.graph.initializer[0].dims[0] = 7
    refuses(save(tmp_path, proto), r"tensor 'w' of shape \[7, 1, 3, 3\] holds 72 bytes instead of 252")
    proto.graph.initializer[0].dims[0] = 10**12
    refuses(save(tmp_path, proto), "which is too large")
    proto.graph.initializer[0].dims[0] = -1
    refuses(save(tmp_path, proto), "which is too large")


@pytest.mark.parametrize(("name", "value"), [("strides", [0, 1]), ("dilations", [1, -1]), ("group", 0)])
def test_attributes_that_would_divide_by_zero(name: str, value: object, tmp_path: Path) -> None:
    conv = node("Conv", "x w", "y", **{name: value})
    path = save(tmp_path, model([conv], {"x": ["N", 1, 3, 3]}, ["y"], {"w": weights(1, 1, 1, 1)}))
    refuses(path, f"attribute '{name}' must be positive")


def test_functions_that_call_each_other(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]

    def function(name: str, calls: str) -> onnx.FunctionProto:
        return helper.make_function(
            "f", name, ["a"], ["c"], [helper.make_node(calls, ["a"], ["c"], domain="f")], opsets
        )

    proto = model([helper.make_node("A", ["x"], ["y"], domain="f")], {"x": ["N", 3]}, ["y"])
    proto.functions.extend([function("A", "B"), function("B", "A")])
    refuses(save(tmp_path, proto), "calls itself")


def test_functions_that_double_each_time(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    proto = model([helper.make_node("F40", ["x"], ["y"], domain="f")], {"x": ["N", 3]}, ["y"])
    proto.functions.append(helper.make_function("f", "F0", ["a"], ["c"], [node("Relu", "a", "c")], opsets))
    for level in range(1, 41):
        calls = [helper.make_node(f"F{level - 1}", [a], [b], domain="f") for a, b in (("a", "b"), ("b", "c"))]
        proto.functions.append(helper.make_function("f", f"F{level}", ["a"], ["c"], calls, opsets))
    refuses(save(tmp_path, proto), "make more than")


def test_nodes_that_wait_for_each_other(tmp_path: Path) -> None:
    nodes = [node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]
    refuses(save(tmp_path, model(nodes, {"x": ["N", 3]}, ["y"])), "before any node writes it")


def test_a_value_written_twice(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "a"), node("Sigmoid", "x", "a"), node("Relu", "a", "y")]
    refuses(save(tmp_path, model(nodes, {"x": ["N", 3]}, ["y"])), "a second time")


def test_names_cannot_break_a_line(tmp_path: Path) -> None:
    bad = helper.make_node("Det", ["x"], ["y"], name="a\nerror: b\x1b[2J")
    with pytest.raises(ModelError) as caught:
        import_model(save(tmp_path, model([bad], {"x": ["N", 3]}, ["y"])))
    assert len(str(caught.value).splitlines()) == 1


def test_strings_are_refused(tmp_path: Path) -> None:
    proto = small()
    proto.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], [b"a"]))  # type: ignore[list-item]
    refuses(save(tmp_path, proto), "tensor 't' has the unsupported element type STRING")


def test_a_shape_of_two_dimensions(tmp_path: Path) -> None:
    proto = model([node("Reshape", "x s", "y")], {"x": ["N", 4]}, ["y"], {"s": np.array([[1, 2], [2, 1]], np.int64)})
    with contextlib.suppress(ModelError):
        import_model(save(tmp_path, proto))


@pytest.mark.parametrize(("kind", "alpha"), [("LeakyRelu", float("nan")), ("Elu", float("inf"))])
def test_an_attribute_that_is_no_number(kind: str, alpha: float, tmp_path: Path) -> None:
    proto = model([node(kind, "x", "y", alpha=alpha)], {"x": ["N", 3]}, ["y"])
    refuses(save(tmp_path, proto), f"its attribute 'alpha' is {alpha}")


@pytest.mark.parametrize(
    ("start", "hint"),
    [
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite file: python -m tf2onnx.convert --tflite"),
        (b"\x1c\0\0\0ORTM", "a file of onnxruntime's own format"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file of Keras"),
        (b"PK\x03\x04", "a PyTorch or Keras file: export with torch.onnx.export"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"hello", "export or copy it again"),
    ],
)
def test_another_kind_of_file_says_how_to_come_to_onnx(start: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(start + b"\xff" * 40)
    refuses(path, f"not an ONNX.*; hint: {hint}")


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["x", "x"], ["y"], "input 'x' is listed twice"),
        (["x"], ["y", "y"], "output 'y' is listed twice"),
        (["x", ""], ["y"], "an input has no name"),
        (["x"], ["y", ""], "an output has no name"),
        (["x"], ["y", "x"], "output 'x' is an input: nothing computes it"),
    ],
)
def test_inputs_and_outputs_without_a_name_of_their_own(
    inputs: list[str], outputs: list[str], message: str, tmp_path: Path
) -> None:
    proto = model([node("Relu", "x", "y")], {"x": ["N", 3]}, ["y"])
    for values, names in ((proto.graph.input, inputs), (proto.graph.output, outputs)):
        del values[:]
        values.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in names)
    refuses(save(tmp_path, proto), message)


# External data.


def external(location: str, **entries: str) -> onnx.ModelProto:
    proto = model([node("Gemm", "x w", "y")], {"x": ["N", 4]}, ["y"], {"w": weights(4, 2)})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return proto


@pytest.mark.parametrize("location", ["../w.bin", "a/../../w.bin", "/etc/passwd", "", "..\\w.bin", "C:\\w.bin", "a\0b"])
def test_external_data_outside_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(32))
    (tmp_path / "model").mkdir()
    refuses(save(tmp_path / "model", external(location)), "outside the model's folder")


def test_external_data_through_a_link_that_leaves(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(32))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/w.bin").symlink_to(tmp_path / "w.bin")
    refuses(save(tmp_path / "model", external("w.bin")), "outside the model's folder")


def test_external_data_through_a_link_inside(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(weights(8).tobytes())
    (tmp_path / "w.bin").symlink_to("data.bin")
    assert import_model(save(tmp_path, external("w.bin"))).graph.node


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "1"}, "ends before the data of tensor 'w'"),
        ({"length": "31"}, "needs 32 bytes, its external data entry says 31"),
        ({"length": "999999999999"}, "needs 32 bytes"),
        ({"offset": "-1"}, "needs 32 bytes"),
        ({"offset": "four"}, "damaged external data entry"),
    ],
)
def test_damaged_external_data(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(32))
    refuses(save(tmp_path, external("w.bin", **entries)), message)


def test_missing_external_data(tmp_path: Path) -> None:
    refuses(save(tmp_path, external("w.bin")), "external data file 'w.bin' of tensor 'w' is missing; hint: copy it")
    (tmp_path / "w.bin").mkdir()
    refuses(save(tmp_path, external("w.bin")), "is missing")


def test_mutations_of_the_structure(tmp_path: Path) -> None:
    """Nodes with inputs, outputs, attributes exchanged between them: valid protobufs that mean nothing."""
    for seed in range(60):
        rng = random.Random(seed)
        proto = small()
        one, other = rng.choice(proto.graph.node), rng.choice(proto.graph.node)
        change = rng.randrange(5)
        if change == 0:
            one.op_type = other.op_type
        elif change == 1:
            one.input[0] = other.input[-1]
        elif change == 2:
            one.attribute.extend(other.attribute)
        elif change == 3:
            del one.input[rng.randrange(len(one.input)) :]
        else:
            tensor = rng.choice(proto.graph.initializer)
            tensor.data_type = rng.choice((1, 6, 7, 11))
        with contextlib.suppress(ModelError):
            import_model(save(tmp_path, proto))
