"""Import as a whole: shapes, constants, functions, control flow, names, determinism, the reference models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnbuild.cli import main
from nnbuild.errors import ConfigError, ModelError
from nnbuild.importer import import_model, import_outline
from nnbuild.onnxfile import OPSETS
from nnbuild.passes.graph import static_shape
from nnbuild.pipeline import input_shapes, serialized
from tests.graphs import feeds_for, imported, kinds, model, node, run, save, weights

REFERENCE = [
    *(f"tf2onnx/{name}_tf" for name in ("ad01", "ic01", "kws01", "sww", "vww96")),
    *(f"torch/{n}_torch_{e}" for n in ("ad01", "ic01", "kws01", "sww", "vww96") for e in ("legacy", "dynamo")),
    *(f"public/{name}" for name in ("gesture_blake", "wuhan_mnist_sm", "onnx2c_atmega_mnist14", "kj_resnet_q")),
    *(f"int8/{name}_int8" for name in ("ic01", "kws01")),
]


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_models_compute_the_same(name: str, reference_dir: Path) -> None:
    path = reference_dir / "models" / f"{name}.onnx"
    result = import_model(path)
    assert serialized(result) == serialized(import_model(path))
    original = onnx.load(path)
    quantized = any(entry.op_type == "QuantizeLinear" for entry in original.graph.node)
    for seed in (1, 2):
        feeds = feeds_for(result, seed, spread=50.0 if "ic01" in name else 2.0)
        for before, after in zip(run(original, feeds), run(result, feeds), strict=True):
            if quantized:
                np.testing.assert_array_equal(after, before)
            else:
                np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(before).max()))


def test_reference_models_lose_what_is_not_needed(reference_dir: Path) -> None:
    folded = import_model(reference_dir / "models/torch/ad01_torch_legacy.onnx")
    assert set(kinds(folded)) == {"Gemm", "Relu"}
    padded = import_model(reference_dir / "models/torch/vww96_torch_legacy.onnx")
    assert "Pad" not in kinds(padded)
    transposed = import_model(reference_dir / "models/tf2onnx/ic01_tf.onnx")
    assert kinds(transposed).count("Transpose") == 1


def test_everything_is_static_named_and_bare(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Relu", "c", "r", doc_string="written by a tool"),
        node("Relu", "r", "s", name="Sigmoid_2"),
        node("Sigmoid", "r", "a"),
        node("Sigmoid", "a", "b"),
        node("Add", "a b", "y"),
    ]
    proto = model(nodes, {"x": ["N", 3, 4, 4]}, ["y"], {"w": weights(2, 3, 1, 1)})
    proto.producer_name, proto.doc_string = "tool 1.2", "in /home/someone"
    proto.metadata_props.add(key="path", value="/home/someone")
    result = imported(tmp_path, proto)
    names = [entry.name for entry in result.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    known = {value.name: value for value in (*result.graph.value_info, *result.graph.output)}
    assert all(static_shape(known[value].type) for entry in result.graph.node for value in entry.output)
    assert b"someone" not in serialized(result)
    assert b"tool" not in serialized(result)


def test_output_does_not_depend_on_hash_order(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", f"r{i}") for i in range(9)]
    nodes += [node("BatchNormalization", f"r{i} g b m v", f"n{i}") for i in range(9)]
    nodes.append(node("Sum", " ".join(f"n{i}" for i in range(9)), "y"))
    constants = {name: np.abs(weights(3, seed=index)) + 0.5 for index, name in enumerate("gbmv")}
    path = save(tmp_path, model(nodes, {"x": ["N", 3, 4, 4]}, ["y"], constants))
    script = (
        "import hashlib, sys; from nnbuild.importer import import_model; from nnbuild.pipeline import serialized;"
        "print(hashlib.sha256(serialized(import_model(sys.argv[1]))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(path)],
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


# Shapes of inputs.


def test_symbolic_batch_becomes_one(tmp_path: Path) -> None:
    result = imported(tmp_path, model([node("Relu", "x", "y")], {"x": ["batch", 3]}, ["y"]))
    assert input_shapes(result) == {"x": (1, 3)}


def relu(folder: Path, shape: Any) -> Path:
    return save(folder, model([node("Relu", "x", "y")], {"x": shape}, ["y"]))


def test_another_dynamic_dimension_needs_a_shape(tmp_path: Path) -> None:
    path = relu(tmp_path, ["N", 3, "H", "W"])
    with pytest.raises(ModelError, match=r"input 'x': has the dynamic shape N,3,H,W; hint: .*--input-shape x=1,3,N,N"):
        import_model(path)
    assert input_shapes(import_model(path, {"x": (1, 3, 8, 9)})) == {"x": (1, 3, 8, 9)}


@pytest.mark.parametrize(
    ("shape", "given", "error", "message"),
    [
        (None, None, ModelError, "has no shape; hint: give --input-shape x=1"),
        (["N", 3], {"x": (1, 4)}, ModelError, "shape 1,4 was given, but the model declares N,3"),
        (["N", 3], {"x": (1, 3, 1)}, ModelError, "was given, but"),
        (["N", 3], {"z": (1, 3)}, ConfigError, "no input 'z'; hint: its inputs are x"),
        (["N", 0], None, ModelError, "empty or too large"),
        ([], None, ModelError, "empty or too large"),
    ],
)
def test_wrong_shapes(shape: Any, given: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        import_model(relu(tmp_path, shape), given)


def test_all_findings_at_once(tmp_path: Path) -> None:
    proto = model([node("Add", "a b", "y")], {"a": ["N", "A"], "b": [1, "B"]}, ["y"])
    with pytest.raises(ModelError) as caught:
        import_model(save(tmp_path, proto))
    assert len(caught.value.findings) == 2


def test_initializers_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    proto = model([node("Gemm", "x w", "y")], {"x": ["N", 3]}, ["y"], {"w": weights(3, 2)})
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2]))
    assert input_shapes(imported(tmp_path, proto)) == {"x": (1, 3)}


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    proto = model([node("Add", "a b", "y"), node("Relu", "y", "z")], {"a": ["N", 3], "b": ["N", 3]}, ["y", "z"])
    result = imported(tmp_path, proto)
    assert list(input_shapes(result)) == ["a", "b"]
    assert [value.name for value in result.graph.output] == ["y", "z"]


def test_integers_are_refused(tmp_path: Path) -> None:
    proto = model([node("Relu", "x", "y")], {"x": ["N", 3]}, ["y"], element=TensorProto.INT32)
    with pytest.raises(ModelError, match="element type int32; hint: export the model in float32"):
        import_model(save(tmp_path, proto))


# Other floats.

OTHER_FLOATS = [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE]
NAMES = ["float16", "bfloat16", "double"]


def as_type(array: Any, element: int, name: str) -> TensorProto:
    return numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(element)), name)


@pytest.mark.parametrize("element", OTHER_FLOATS, ids=NAMES)
def test_weights_of_another_float_type_with_casts(element: int, tmp_path: Path) -> None:
    """What tools write that only store weights in half the bytes."""
    nodes = [node("Cast", "half", "w", to=TensorProto.FLOAT), node("Gemm", "x w", "y")]
    proto = model(nodes, {"x": ["N", 3]}, ["y"])
    proto.graph.initializer.append(as_type(weights(3, 2), element, "half"))
    result = import_model(save(tmp_path, proto))
    assert kinds(result) == ["Gemm"]
    expected = numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float32)
    np.testing.assert_array_equal(numpy_helper.to_array(result.graph.initializer[0]), expected)
    assert run(result, {"x": weights(1, 3)})[0].dtype == np.float32


@pytest.mark.parametrize("element", OTHER_FLOATS, ids=NAMES)
def test_a_model_wholly_of_another_float_type(element: int, tmp_path: Path) -> None:
    """`model.half()` of PyTorch, convert_float_to_float16 with and without float32 inputs."""
    nodes = [
        node("Cast", "x", "a", to=element),
        node("Gemm", "a w", "g"),
        node("Constant", "", "low", value=as_type(np.float32(-1), element, "low")),
        node("Clip", "g low", "c"),
        node("Cast", "c", "f", to=TensorProto.FLOAT),
        node("Relu", "f", "r"),
        node("Cast", "r", "y", to=element),
    ]
    proto = model(nodes, {"x": ["N", 3]}, ["y"], element=element)
    proto.graph.initializer.append(as_type(weights(3, 2), element, "w"))
    result = import_model(save(tmp_path, proto))
    assert set(kinds(result)) <= {"Gemm", "Clip", "Relu"}
    for value in (*result.graph.input, *result.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    sample, stored = weights(1, 3), numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float32)
    np.testing.assert_allclose(run(result, {"x": sample})[0], np.maximum(sample @ stored, 0), rtol=1e-5)


def test_a_double_beyond_float32_is_refused(tmp_path: Path) -> None:
    proto = model(
        [node("Mul", "x s", "y")], {"x": ["N", 3]}, ["y"], {"s": np.float64(-1e300)}, element=TensorProto.DOUBLE
    )
    with pytest.raises(ModelError, match=r"tensor 's' of double holds 1e\+300, beyond float32; hint: scale the model"):
        import_model(save(tmp_path, proto))


def test_infinity_in_half_precision_is_a_bound(tmp_path: Path) -> None:
    proto = model([node("Clip", "x low high", "y")], {"x": ["N", 3]}, ["y"], element=TensorProto.FLOAT16)
    for name, bound in (("low", -1.0), ("high", np.inf)):
        proto.graph.initializer.append(as_type(np.float32(bound), TensorProto.FLOAT16, name))
    assert kinds(import_model(save(tmp_path, proto))) == ["Clip"]


def test_half_precision_is_judged_by_its_shapes_too(tmp_path: Path) -> None:
    proto = model([node("Gemm", "x w", "y")], {"x": ["N", 300]}, ["y"], element=TensorProto.FLOAT16)
    proto.graph.initializer.append(as_type(weights(300, 200), TensorProto.FLOAT16, "w"))
    outline = import_outline(save(tmp_path, proto)).model
    assert (kinds(outline), outline.graph.initializer[0].data_type) == (["Gemm"], TensorProto.FLOAT)


def test_one_dimensional_convolution(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w b", "c", pads=[1, 1], strides=[2]), node("Relu", "c", "y")]
    proto = model(nodes, {"x": ["N", 3, 20]}, ["y"], {"w": weights(4, 3, 3), "b": weights(4)})
    assert kinds(imported(tmp_path, proto)) == ["Conv", "Relu"]


# Versions of the operators.


@pytest.mark.parametrize("opset", OPSETS)
def test_one_network_in_every_opset(opset: int, tmp_path: Path) -> None:
    """Clip's bounds, Squeeze's axes and Softmax's meaning moved; the imported network is the same."""

    def network(version: int) -> onnx.ModelProto:
        nodes = [
            node("Conv", "x w", "c", pads=[1] * 4),
            node("BatchNormalization", "c one zero zero one", "n"),
            node("Clip", "n", "k", min=-1.0, max=1.0) if version < 11 else node("Clip", "n low high", "k"),
            node("GlobalAveragePool", "k", "g"),
            node("Squeeze", "g", "s", axes=[2, 3]) if version < 13 else node("Squeeze", "g axes", "s"),
            node("Softmax", "s", "y", axis=1),
        ]
        one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
        constants: dict[str, Any] = {"w": weights(4, 3, 3, 3), "one": one, "zero": zero}
        constants |= {"low": np.float32(-1), "high": np.float32(1)} if version >= 11 else {}
        constants |= {"axes": np.array([2, 3])} if version >= 13 else {}
        return model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], constants, opset=version)

    results = [import_model(save(tmp_path, network(version))) for version in (opset, 13)]
    assert kinds(results[0]) == kinds(results[1]) == ["Conv", "Clip", "GlobalAveragePool", "Squeeze", "Softmax"]
    feeds = feeds_for(results[0])
    np.testing.assert_array_equal(run(results[0], feeds)[0], run(results[1], feeds)[0])


# What folds.


def test_shape_arithmetic_folds(tmp_path: Path) -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Constant", "", "zero", value_ints=[0]),
        node("Gather", "s zero", "n"),
        node("Constant", "", "minus", value_ints=[-1]),
        node("Concat", "n minus", "shape", axis=0),
        node("Reshape", "x shape", "y"),
    ]
    assert kinds(imported(tmp_path, model(nodes, {"x": ["N", 3, 4, 5]}, ["y"]))) == ["Reshape"]


def test_constant_subgraph_in_front_of_pad(tmp_path: Path) -> None:
    """What the TorchScript exporter writes for F.pad."""
    nodes = [
        node("Constant", "", "pads", value_ints=[0, 1, 0, 1]),
        node("Constant", "", "four", value_ints=[4]),
        node("ConstantOfShape", "four", "zeros", value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
        node("Concat", "pads zeros", "all", axis=0),
        node("Constant", "", "two", value_ints=[-1, 2]),
        node("Reshape", "all two", "pairs"),
        node("Constant", "", "begin", value_ints=[-1]),
        node("Constant", "", "end", value_ints=[-(2**63) + 1]),
        node("Constant", "", "axis", value_ints=[0]),
        node("Slice", "pairs begin end axis begin", "reversed"),
        node("Transpose", "reversed", "turned", perm=[1, 0]),
        node("Reshape", "turned begin", "flat"),
        node("Cast", "flat", "amounts", to=TensorProto.INT64),
        node("Constant", "", "fill", value_float=0.0),
        node("Pad", "x amounts fill", "p"),
        node("Conv", "p w", "y"),
    ]
    proto = model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], {"w": weights(4, 3, 3, 3)})
    assert kinds(imported(tmp_path, proto)) == ["Conv"]


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    proto = model([node("Sigmoid", "t", "y"), node("Relu", "x", "t")], {"x": ["N", 3]}, ["y"])
    path = save(tmp_path, proto)
    assert kinds(import_model(path)) == ["Relu", "Sigmoid"]


def branch(name: str, kind: str, value: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    return helper.make_graph([node(kind, value, "t")], name, [], [output])


def test_if_with_a_constant_condition_takes_its_branch(tmp_path: Path) -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Size", "s", "rank"),
        node("Equal", "rank two", "is_two"),
        node("If", "is_two", "i", then_branch=branch("a", "Relu", "x"), else_branch=branch("b", "Sigmoid", "x")),
        node("If", "is_two", "y", then_branch=branch("a", "Tanh", "i"), else_branch=branch("b", "Sigmoid", "i")),
    ]
    proto = model(nodes, {"x": ["N", 3]}, ["y"], {"two": np.int64(2)})
    assert kinds(imported(tmp_path, proto)) == ["Relu", "Tanh"]


def test_if_that_depends_on_data_is_refused(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMax", "x", "m", keepdims=0),
        node("Greater", "m zero", "c"),
        node("If", "c", "y", then_branch=branch("a", "Relu", "x"), else_branch=branch("b", "Sigmoid", "x")),
    ]
    with pytest.raises(ModelError, match=r"control flow \(If\) that depends on data"):
        import_model(save(tmp_path, model(nodes, {"x": ["N", 3]}, ["y"], {"zero": np.float32(0)})))


def test_functions_are_inlined(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18)]
    inner = helper.make_function("mine", "Twice", ["a"], ["c"], [node("Add", "a a", "c")], opsets)
    proto = model(
        [helper.make_node("Twice", ["x"], ["t"], domain="mine"), node("Relu", "t", "y")], {"x": ["N", 3]}, ["y"]
    )
    proto.functions.append(inner)
    del proto.opset_import[:]
    proto.opset_import.extend([helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)])
    assert kinds(imported(tmp_path, proto)) == ["Add", "Relu"]


def test_the_default_domain_has_a_long_name(tmp_path: Path) -> None:
    proto = model([node("Relu", "x", "y", domain="ai.onnx")], {"x": ["N", 3]}, ["y"])
    assert kinds(import_model(save(tmp_path, proto))) == ["Relu"]


def test_cast_like_is_a_cast(tmp_path: Path) -> None:
    """What PyTorch's exporter leaves where it does not optimize: bounds in the type of the value that they limit."""
    nodes = [node("CastLike", "low x", "l"), node("CastLike", "x low_f", "v"), node("Clip", "v l", "y")]
    proto = model(nodes, {"x": ["N", 3]}, ["y"], {"low": np.int64(-1), "low_f": np.float32(0)})
    assert kinds(imported(tmp_path, proto)) == ["Clip"]


# What is refused.


def test_nodes_of_onnxruntimes_optimizer_say_where_they_come_from(tmp_path: Path) -> None:
    proto = model(
        [node("FusedMatMul", "x w", "y", domain="com.microsoft")], {"x": ["N", 3]}, ["y"], {"w": weights(3, 2)}
    )
    with pytest.raises(
        ModelError, match=r"'com.microsoft.FusedMatMul' is .*hint: .* give the model as it was exported"
    ):
        import_model(save(tmp_path, proto))


def test_all_unknown_operators_are_listed_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Magic", ["x"], ["a"], name="first", domain="com.example"),
        helper.make_node("Nonsense", ["a"], ["b"], name="second"),
        helper.make_node("Conv", ["b", "w"], ["c"], name="fine"),
        helper.make_node("Det", ["c"], ["y"], name="third"),
    ]
    proto = model(nodes, {"x": ["N", 3]}, ["y"], {"w": weights(3, 3, 1)})
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelError) as caught:
        import_model(save(tmp_path, proto))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "node 'first' (Magic): operator 'com.example.Magic' is not an ONNX operator" in lines[0]
    assert "node 'second' (Nonsense): operator 'Nonsense' is not an ONNX operator" in lines[1]
    assert "node 'third' (Det): operator 'Det' is not supported" in lines[2]


@pytest.mark.parametrize("opset", [6, 17])
@pytest.mark.parametrize("judged", [import_model, import_outline])
def test_findings_of_all_kinds_are_listed_at_once(opset: int, judged: Callable[..., Any], tmp_path: Path) -> None:
    """Opset, missing data, open shapes, foreign operators, control flow: each stopped the import before the next."""
    body = helper.make_graph([], "body", [], [])
    nodes = [
        helper.make_node("Magic", ["x"], ["a"], name="first", domain="com.example"),
        helper.make_node("Loop", ["", "", "x"], ["b"], name="second", body=body),
        helper.make_node("Hardmax", ["x"], ["c"], name="third"),
        helper.make_node("Gemm", ["x", "w"], ["d"], name="fine"),
        helper.make_node("LRN", ["x"], ["dead"], name="dead", size=1),
    ]
    proto = model(nodes, {"x": ["N", "T"]}, ["a", "b", "c", "d"], {"w": weights(3, 3)}, opset)
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.external_data_helper.convert_model_to_external_data(proto, location="w.bin", size_threshold=0)
    onnx.save_model(proto, tmp_path / "m.onnx")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError) as caught:
        judged(tmp_path / "m.onnx")
    found = str(caught.value)
    assert ("opset 6 is not supported" in found) == (opset == 6)
    assert ("external data file 'w.bin' of tensor 'w' is missing" in found) == (judged is import_model)
    assert "input 'x': has the dynamic shape N,T" in found
    assert "operator 'com.example.Magic' is not an ONNX operator" in found
    assert "control flow (Loop) that depends on data is not supported" in found
    assert "operator 'Hardmax' is not supported" in found
    assert "dead" not in found
    assert "fine" not in found
    assert len(set(found.splitlines())) == len(found.splitlines())


def test_dead_nodes_are_no_trouble(tmp_path: Path) -> None:
    proto = model([node("Relu", "x", "y"), node("Det", "x", "z")], {"x": ["N", 3]}, ["y"])
    assert kinds(import_model(save(tmp_path, proto))) == ["Relu"]


@pytest.mark.parametrize("version", [6, 99])
def test_opset_out_of_range(version: int, tmp_path: Path) -> None:
    proto = model([node("Relu", "x", "y")], {"x": ["N", 3]}, ["y"], opset=13)
    proto.opset_import[0].version = version
    with pytest.raises(ModelError, match=f"opset {version} is not supported; hint: export with an opset from 7 to 28"):
        import_model(save(tmp_path, proto))


def test_shape_that_depends_on_data(tmp_path: Path) -> None:
    nodes = [node("Cast", "x", "i", to=TensorProto.INT64), node("Reshape", "x i", "y")]
    with pytest.raises(ModelError, match="depends on data"):
        import_model(save(tmp_path, model(nodes, {"x": [1]}, ["y"])))


def test_dimensions_that_do_not_fit(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "r"), helper.make_node("MatMul", ["r", "w"], ["y"], name="dense")]
    with pytest.raises(ModelError, match=r"node 'dense' \(MatMul\): its shapes do not fit"):
        import_model(save(tmp_path, model(nodes, {"x": ["N", 3]}, ["y"], {"w": weights(4, 2)})))


def test_second_output_that_is_read_is_refused(tmp_path: Path) -> None:
    nodes = [node("MaxPool", "x", "m i", kernel_shape=[2]), node("Cast", "i", "f", to=1), node("Add", "m f", "y")]
    with pytest.raises(ModelError, match="second output 'i' is not supported"):
        import_model(save(tmp_path, model(nodes, {"x": ["N", 3, 8]}, ["y"])))


def test_constant_output_is_refused(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "y"), node("Add", "a a", "z")]
    with pytest.raises(ModelError, match="output 'z' is a constant"):
        import_model(save(tmp_path, model(nodes, {"x": ["N", 3]}, ["y", "z"], {"a": weights(3)})))


# The command.


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = relu(tmp_path, ["N", 3, "L"])
    assert main(["import", str(path), "--input-shape", "x=1,3,8", "-o", str(tmp_path / "m.float.onnx")]) == 0
    assert input_shapes(onnx.load(tmp_path / "m.float.onnx")) == {"x": (1, 3, 8)}
    assert main(["import", str(path), "-o", str(tmp_path / "n.onnx")]) == 1
    assert main(["import", str(path), "--input-shape", "x=1,-3", "-o", str(tmp_path / "n.onnx")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{path}: input 'x': ")
    assert not (tmp_path / "n.onnx").exists()


def test_external_data(tmp_path: Path) -> None:
    proto = model([node("Gemm", "x w b", "y")], {"x": ["N", 30]}, ["y"], {"w": weights(30, 20), "b": weights(20)})
    plain = serialized(import_model(save(tmp_path, proto, "plain.onnx")))
    (tmp_path / "sub").mkdir()
    onnx.save_model(proto, tmp_path / "sub/m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert numpy_helper.to_array(onnx.load(tmp_path / "sub/m.onnx").graph.initializer[0]).shape == (30, 20)
    assert serialized(import_model(tmp_path / "sub/m.onnx")) == plain
    # A build folder may hold hard links to the sources.
    (tmp_path / "build").mkdir()
    for name in ("m.onnx", "m.bin"):
        (tmp_path / "build" / name).hardlink_to(tmp_path / "sub" / name)
    assert serialized(import_model(tmp_path / "build/m.onnx")) == plain


def test_a_batch_is_for_operators_to_refuse(tmp_path: Path) -> None:
    rows = imported(tmp_path, model([node("Relu", "x", "y")], {"x": [4, 3]}, ["y"]))
    assert input_shapes(rows) == {"x": (4, 3)}


def test_split_becomes_slices(tmp_path: Path) -> None:
    nodes = [node("Split", "x n", "a b", axis=2), node("Add", "a b", "y")]
    proto = model(nodes, {"x": ["N", 3, 4]}, ["y"], {"n": np.array([2, 2], np.int64)})
    assert kinds(imported(tmp_path, proto)) == ["Slice", "Slice", "Add"]


def test_upsample_of_old_opsets_becomes_resize(tmp_path: Path) -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    for opset, entry in ((7, node("Upsample", "x", "y", scales=scales.tolist())), (9, node("Upsample", "x s", "y"))):
        proto = model([entry], {"x": ["N", 2, 3, 4]}, ["y"], {"s": scales} if opset == 9 else None, opset=opset)
        assert kinds(imported(tmp_path, proto)) == ["Resize"]
