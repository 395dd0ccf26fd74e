"""Each rule of `nnbuild.passes`: what it makes of a graph, and that the graph still computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nnbuild.errors import ModelError
from nnbuild.importer import import_model, import_outline
from nnbuild.passes import FLOAT_RULES, QDQ_RULES, Rule, simplify
from nnbuild.passes.graph import Graph, attribute
from tests.graphs import constant, f32, feeds_for, i64, imported, kinds, model, node, run, save, weights


def simplified(proto: onnx.ModelProto, rules: tuple[Rule, ...] = FLOAT_RULES) -> onnx.ModelProto:
    """Our rules alone, without onnxruntime's; the result must compute the same."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    graph = Graph(inferred)
    simplify(graph, rules)
    graph.commit()
    onnx.checker.check_model(graph.model)
    feeds = feeds_for(proto)
    for before, after in zip(run(proto, feeds), run(graph.model, feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    return graph.model


def batchnorm(channels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    gamma, beta, mean, variance = rng.normal(1, 0.5, (4, channels)).astype(np.float32)
    return {"g": gamma, "b": beta, "m": mean, "v": np.abs(variance) + 0.1}


# Clamps.

HARDTANH: dict[str, tuple[int, list[onnx.NodeProto], dict[str, Any]]] = {
    "attributes": (6, [node("Clip", "x", "y", min=-1.0, max=1.0)], {}),
    "initializers": (13, [node("Clip", "x lo hi", "y")], {"lo": np.float32(-1), "hi": np.float32(1)}),
    "min_max": (13, [node("Max", "x lo", "t"), node("Min", "t hi", "y")], {"lo": np.float32(-1), "hi": np.float32(1)}),
    "max_min": (
        13,
        [node("Min", "hi x", "t"), node("Max", "lo t", "y")],
        {"lo": f32(-1), "hi": np.float32(1)},
    ),
    "two_clips": (
        13,
        [node("Clip", "x lo", "t"), node("Clip", "t - hi", "y")],
        {"lo": np.float32(-1), "hi": np.float32(1)},
    ),
    "constants": (
        13,
        [
            node("Constant", "", "lo", value_float=-1.0),
            node("Constant", "", "hi", value=onnx.numpy_helper.from_array(np.array(1, np.float32))),
            node("Clip", "x lo hi", "y"),
        ],
        {},
    ),
    "folded": (
        13,
        [
            node("Constant", "", "two", value_float=2.0),
            node("Div", "two two", "hi"),
            node("Neg", "hi", "lo0"),
            node("Identity", "lo0", "lo"),
            node("Clip", "x lo hi", "y"),
        ],
        {},
    ),
    "integers_cast": (
        13,
        [
            node("Cast", "lo_i", "lo", to=onnx.TensorProto.FLOAT),
            node("Cast", "hi_i", "hi", to=onnx.TensorProto.FLOAT),
            node("Clip", "x lo hi", "y"),
        ],
        {"lo_i": np.int64(-1), "hi_i": np.int64(1)},
    ),
}


@pytest.mark.parametrize("form", HARDTANH)
def test_hardtanh_in_every_form_is_one_clip(form: str, tmp_path: Path) -> None:
    opset, nodes, constants = HARDTANH[form]
    opset = max(opset, 7)
    if form == "attributes":
        opset = 10
    result = imported(tmp_path, model(nodes, {"x": ["N", 9]}, ["y"], constants, opset))
    assert kinds(result) == ["Clip"]
    clip = result.graph.node[0]
    assert constant(result, clip.input[1]).shape == ()
    assert [float(constant(result, name)) for name in clip.input[1:]] == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((0.0, None), ["Relu"]),
        ((None, 6.0), ["Clip"]),
        ((-3.4028234663852886e38, 3.4028234663852886e38), []),
        ((2.0, -2.0), ["Clip"]),
    ],
)
def test_clip_bounds(bounds: tuple[float | None, float | None], expected: list[str], tmp_path: Path) -> None:
    names = ["x", "lo" if bounds[0] is not None else "-", "hi" if bounds[1] is not None else "-"]
    constants = {name: np.float32(value) for name, value in zip(("lo", "hi"), bounds, strict=True) if value is not None}
    nodes = [node("Sin", "x", "s"), node("Clip", " ".join(names).replace("x", "s"), "y")]
    assert kinds(imported(tmp_path, model(nodes, {"x": [1, 9]}, ["y"], constants))) == ["Sin", *expected]


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [((-1.0, 1.0), (0.0, 6.0), 0.0, 1.0), ((2.0, 5.0), (-1.0, 1.0), 1.0, 1.0), ((-8.0, -4.0), (-2.0, 3.0), -2.0, -2.0)],
)
def test_consecutive_clamps_merge(
    first: tuple[float, float], second: tuple[float, float], low: float, high: float
) -> None:
    constants = {name: np.float32(value) for name, value in zip("abcd", (*first, *second), strict=True)}
    nodes = [node("Clip", "x a b", "t"), node("Clip", "t c d", "y")]
    result = simplified(model(nodes, {"x": [1, 99]}, ["y"], constants))
    assert kinds(result) == ["Clip"]
    assert [float(constant(result, name)) for name in result.graph.node[0].input[1:]] == [low, high]


def test_relu_then_clip_is_one_clip() -> None:
    nodes = [node("Relu", "x", "t"), node("Clip", "t - hi", "y")]
    result = simplified(model(nodes, {"x": [1, 9]}, ["y"], {"hi": np.float32(6)}))
    assert kinds(result) == ["Clip"]
    assert [float(constant(result, name)) for name in result.graph.node[0].input[1:]] == [0.0, 6.0]


def test_a_clamp_that_others_read_stays() -> None:
    nodes = [node("Relu", "x", "t"), node("Clip", "t - hi", "u"), node("Add", "t u", "y")]
    assert kinds(simplified(model(nodes, {"x": [1, 9]}, ["y"], {"hi": np.float32(6)}))) == ["Relu", "Clip", "Add"]


def test_a_clamp_moves_in_front_of_the_pool_behind_a_convolution() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0]),
        node("Flatten", "p", "f"),
        node("Relu", "f", "y"),
    ]
    result = simplified(model(nodes, {"x": [1, 2, 7, 7]}, ["y"], {"w": weights(3, 2, 1, 1)}))
    assert kinds(result) == ["Conv", "Relu", "MaxPool", "Flatten"]


# BatchNormalization.


@pytest.mark.parametrize("bias", [True, False])
def test_batchnorm_behind_gemm(bias: bool) -> None:
    nodes = [node("Gemm", "x w c" if bias else "x w", "t", transB=1), node("BatchNormalization", "t g b m v", "y")]
    constants = {"w": weights(5, 7), **batchnorm(5), **({"c": weights(5)} if bias else {})}
    assert kinds(simplified(model(nodes, {"x": [1, 7]}, ["y"], constants))) == ["Gemm"]


def test_batchnorm_with_shared_statistics_through_identity(tmp_path: Path) -> None:
    nodes = [
        node("Identity", "g", "g1"),
        node("Gemm", "x w c", "t"),
        node("BatchNormalization", "t g1 b m v", "u"),
        node("Relu", "u", "r"),
        node("Gemm", "r w2 c", "s"),
        node("BatchNormalization", "s g b m v", "y"),
    ]
    constants = {"w": weights(7, 5), "w2": weights(5, 5), "c": weights(5), **batchnorm(5)}
    assert kinds(imported(tmp_path, model(nodes, {"x": [1, 7]}, ["y"], constants))) == ["Gemm", "Relu", "Gemm"]


def test_batchnorm_behind_matmul() -> None:
    nodes = [node("MatMul", "x w", "t"), node("BatchNormalization", "t g b m v", "y")]
    result = simplified(model(nodes, {"x": [1, 7]}, ["y"], {"w": weights(7, 5), **batchnorm(5)}))
    assert kinds(result) == ["Gemm"]


@pytest.mark.parametrize("spatial", [1, 2])
def test_batchnorm_behind_conv(spatial: int) -> None:
    nodes = [node("Conv", "x w", "t"), node("BatchNormalization", "t g b m v", "y", epsilon=1e-3)]
    constants = {"w": weights(4, 3, *[3] * spatial), **batchnorm(4)}
    assert kinds(simplified(model(nodes, {"x": [1, 3, *[8] * spatial]}, ["y"], constants))) == ["Conv"]


@pytest.mark.parametrize(("shape", "expected"), [((1, 3, 5, 5), 1), ((1, 3, 5), 1), ((1, 3), 3)])
def test_batchnorm_alone_is_a_depthwise_convolution(shape: tuple[int, ...], expected: int) -> None:
    proto = model([node("BatchNormalization", "x g b m v", "y")], {"x": shape}, ["y"], batchnorm(3))
    result = simplified(proto)
    assert len(result.graph.node) == expected
    conv = next(entry for entry in result.graph.node if entry.op_type == "Conv")
    assert attribute(conv, "group", 1) == 3


def test_batchnorm_in_front_of_gemm() -> None:
    nodes = [node("BatchNormalization", "x g b m v", "t"), node("Gemm", "t w c", "y", transB=1)]
    constants = {**batchnorm(3), "w": weights(4, 3), "c": weights(4)}
    assert kinds(simplified(model(nodes, {"x": [1, 3]}, ["y"], constants))) == ["Gemm"]


def test_batchnorm_whose_input_others_read_is_not_folded() -> None:
    nodes = [node("Conv", "x w", "t"), node("BatchNormalization", "t g b m v", "u"), node("Add", "t u", "y")]
    result = simplified(model(nodes, {"x": [1, 3, 4, 4]}, ["y"], {"w": weights(3, 3, 1, 1), **batchnorm(3)}))
    assert kinds(result) == ["Conv", "Conv", "Add"]


# Affine constants.


@pytest.mark.parametrize("form", ["t + k", "k + t", "t - k", "k - t", "t * k", "k * t", "t / k"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (), (1,)])
def test_affine_constant_behind_conv(form: str, shape: tuple[int, ...]) -> None:
    left, sign, right = form.split()
    kind = {"+": "Add", "-": "Sub", "*": "Mul", "/": "Div"}[sign]
    nodes = [node("Conv", "x w b", "t"), node(kind, f"{left} {right}", "y")]
    constants = {"w": weights(4, 3, 3, 3), "b": weights(4), "k": np.abs(weights(*shape, seed=2)) + 0.5}
    assert kinds(simplified(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants))) == ["Conv"]


def test_affine_constant_over_space_is_not_folded() -> None:
    nodes = [node("Conv", "x w", "t"), node("Add", "t k", "y")]
    constants = {"w": weights(4, 3, 1, 1), "k": weights(1, 1, 6, 6)}
    assert kinds(simplified(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants))) == ["Conv", "Add"]


def test_a_constant_along_the_last_axis_of_equal_size_is_not_taken_for_channels() -> None:
    nodes = [node("Conv", "x w", "t"), node("Add", "t k", "y")]
    constants = {"w": weights(6, 6, 1, 1), "k": weights(6)}
    assert kinds(simplified(model(nodes, {"x": [1, 6, 6, 6]}, ["y"], constants))) == ["Conv", "Add"]


def test_scaled_pixels_go_into_the_weights_through_views() -> None:
    nodes = [
        node("Div", "x k", "t"),
        node("Transpose", "t", "u", perm=[0, 3, 1, 2]),
        node("Conv", "u w", "y", pads=[1, 1, 1, 1]),
    ]
    constants = {"k": np.float32(255), "w": weights(4, 3, 3, 3)}
    assert kinds(simplified(model(nodes, {"x": [1, 6, 6, 3]}, ["y"], constants))) == ["Transpose", "Conv"]


def test_image_normalization_in_front_of_a_transpose() -> None:
    nodes = [
        node("Sub", "x mean", "a"),
        node("Div", "a deviation", "b"),
        node("Transpose", "b", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "y", pads=[1, 1, 1, 1]),
    ]
    constants = {
        "mean": np.array([0.4, 0.5, 0.6], np.float32),
        "deviation": np.array([[[[0.2, 0.3, 0.4]]]], np.float32),
        "w": weights(4, 3, 3, 3),
    }
    result = simplified(model(nodes, {"x": [1, 6, 5, 3]}, ["y"], constants))
    assert kinds(result) == ["Transpose", "Conv", "Conv"]
    assert attribute(result.graph.node[1], "group", 1) == 3


def test_scale_and_shift_alone_is_a_depthwise_convolution() -> None:
    nodes = [node("Sub", "x k", "t"), node("Div", "t s", "y")]
    constants = {"k": weights(3, 1, 1), "s": np.abs(weights(3, 1, 1)) + 1}
    assert kinds(simplified(model(nodes, {"x": [1, 3, 4, 4]}, ["y"], constants))) == ["Conv"]


# Padding.


@pytest.mark.parametrize("opset", [10, 13, 18])
@pytest.mark.parametrize("amounts", [[0, 0, 1, 2, 0, 0, 3, 0], [0, 0, 0, 0, 0, 0, 1, 1]])
def test_pad_goes_into_conv(opset: int, amounts: list[int], tmp_path: Path) -> None:
    attributes = {"pads": amounts} if opset < 11 else {}
    pad = node("Pad", "x" if opset < 11 else "x p", "t", **attributes)
    nodes = [pad, node("Conv", "t w", "y", pads=[1, 0, 0, 1], strides=[2, 1])]
    constants = {"w": weights(4, 3, 3, 3), **({} if opset < 11 else {"p": i64(*amounts)})}
    result = imported(tmp_path, model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants, opset))
    assert kinds(result) == ["Conv"]


def test_pad_with_axes_goes_into_conv() -> None:
    nodes = [node("Pad", "x p - a", "t"), node("Conv", "t w", "y")]
    constants = {"w": weights(4, 3, 3, 3), "p": i64(1, 2), "a": i64(-1)}
    result = simplified(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants, 18))
    assert attribute(result.graph.node[0], "pads", []) == [0, 1, 0, 2]


@pytest.mark.parametrize(("value", "amounts"), [
    (1.0, [0, 0, 1, 1, 0, 0, 1, 1]),
    (0.0, [0, 1, 0, 0, 0, 0, 0, 0]),
])  # fmt: skip
def test_other_pads_stay(value: float, amounts: list[int]) -> None:
    channels = 3 + amounts[1]
    nodes = [node("Pad", "x p v", "t"), node("Conv", "t w", "y")]
    constants = {"w": weights(4, channels, 3, 3), "p": i64(*amounts), "v": np.float32(value)}
    assert kinds(simplified(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants))) == ["Pad", "Conv"]


def test_pad_goes_into_average_pool() -> None:
    nodes = [node("Pad", "x p", "t"), node("AveragePool", "t", "y", kernel_shape=[3, 3], strides=[2, 2])]
    result = simplified(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], {"p": i64(0, 0, 1, 0, 0, 0, 0, 1)}))
    assert kinds(result) == ["AveragePool"]
    assert attribute(result.graph.node[0], "count_include_pad", 0) == 1


def test_pad_in_front_of_an_average_that_excludes_its_own_padding_stays() -> None:
    pool = node("AveragePool", "t", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    nodes = [node("Pad", "x p", "t"), pool]
    result = simplified(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], {"p": i64(0, 0, 1, 0, 0, 0, 0, 1)}))
    assert kinds(result) == ["Pad", "AveragePool"]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("kind", ["Conv", "MaxPool", "AveragePool"])
@pytest.mark.parametrize("size", [5, 6, 7])
def test_auto_pad(mode: str, kind: str, size: int) -> None:
    attributes = {} if kind == "Conv" else {"kernel_shape": [3, 2]}
    inputs = "x w" if kind == "Conv" else "x"
    proto = model(
        [node(kind, inputs, "y", auto_pad=mode, strides=[2, 1], **attributes)],
        {"x": [1, 3, size, size]},
        ["y"],
        {"w": weights(4, 3, 3, 2)} if kind == "Conv" else {},
    )
    result = simplified(proto, QDQ_RULES)
    assert all(entry.name != "auto_pad" for entry in result.graph.node[0].attribute)


def test_auto_pad_with_dilation(tmp_path: Path) -> None:
    # onnxruntime refuses this, so the file must not reach it as it is.
    conv = node("Conv", "x w", "y", auto_pad="SAME_UPPER", dilations=[2])
    result = import_model(save(tmp_path, model([conv], {"x": [1, 3, 9]}, ["y"], {"w": weights(4, 3, 4)})))
    assert attribute(result.graph.node[0], "pads", []) == [3, 3]


# Gemm and MatMul.


@pytest.mark.parametrize("bias_shape", [(5,), (1, 5)])
@pytest.mark.parametrize("swapped", [False, True])
def test_matmul_and_add_is_gemm(bias_shape: tuple[int, ...], swapped: bool) -> None:
    nodes = [node("MatMul", "x w", "t"), node("Add", "b t" if swapped else "t b", "y")]
    result = simplified(model(nodes, {"x": [1, 7]}, ["y"], {"w": weights(7, 5), "b": weights(*bias_shape)}))
    assert kinds(result) == ["Gemm"]


def test_matmul_and_add_over_rows_is_gemm_between_reshapes() -> None:
    nodes = [node("MatMul", "x w", "t"), node("Add", "t b", "y")]
    result = simplified(model(nodes, {"x": [1, 4, 7]}, ["y"], {"w": weights(7, 5), "b": weights(5)}))
    assert kinds(result) == ["Reshape", "Gemm", "Reshape"]


def test_matmul_of_two_values_and_add_stays() -> None:
    nodes = [node("MatMul", "x x", "t"), node("Add", "t b", "y")]
    assert kinds(simplified(model(nodes, {"x": [1, 1]}, ["y"], {"b": weights(1)}))) == ["MatMul", "Add"]


@pytest.mark.parametrize("bias", [weights(1), weights(5), weights(1, 5), weights(1, 1)])
def test_gemm_form(bias: np.ndarray) -> None:
    gemm = node("Gemm", "x w b", "y", alpha=0.5, beta=2.0, transB=1)
    result = simplified(model([gemm], {"x": [1, 7]}, ["y"], {"w": weights(5, 7), "b": bias}))
    assert {entry.name for entry in result.graph.node[0].attribute} == {"transB"}
    assert constant(result, result.graph.node[0].input[2]).shape == (5,)


# Views and things that do nothing.


def test_views_merge() -> None:
    nodes = [
        node("Transpose", "x", "a", perm=[0, 2, 3, 1]),
        node("Transpose", "a", "b", perm=[0, 2, 1, 3]),
        node("Flatten", "b", "c"),
        node("Reshape", "c s", "d"),
        node("Unsqueeze", "d u", "y"),
    ]
    constants = {"s": i64(0, 6, -1), "u": i64(1)}
    result = simplified(model(nodes, {"x": [1, 3, 4, 5]}, ["y"], constants))
    assert kinds(result) == ["Transpose", "Reshape"]
    assert constant(result, result.graph.node[1].input[1]).tolist() == [1, 1, 6, 10]


def test_transposes_that_cancel_disappear() -> None:
    nodes = [
        node("Relu", "x", "r"),
        node("Transpose", "r", "a", perm=[0, 2, 3, 1]),
        node("Transpose", "a", "b", perm=[0, 3, 1, 2]),
        node("Sigmoid", "b", "y"),
    ]
    assert kinds(simplified(model(nodes, {"x": [1, 3, 4, 5]}, ["y"]))) == ["Relu", "Sigmoid"]


NOTHING: dict[str, tuple[onnx.NodeProto, dict[str, Any]]] = {
    "Identity": (node("Identity", "r", "t"), {}),
    "Dropout": (node("Dropout", "r", "t"), {}),
    "Dropout_ratio": (node("Dropout", "r k f", "t"), {"k": np.float32(0.5), "f": np.bool_(False)}),
    "Cast": (node("Cast", "r", "t", to=1), {}),
    "Reshape": (node("Reshape", "r k", "t"), {"k": i64(1, 3, -1, 4)}),
    "Transpose": (node("Transpose", "r", "t", perm=[0, 1, 2, 3]), {}),
    "Pad": (node("Pad", "r k", "t"), {"k": np.zeros(8, np.int64)}),
    "Concat": (node("Concat", "r", "t", axis=1), {}),
    "Sum": (node("Sum", "r", "t"), {}),
    "Slice": (node("Slice", "r k l", "t"), {"k": i64(0), "l": i64(99)}),
    "MaxPool": (node("MaxPool", "r", "t", kernel_shape=[1, 1]), {}),
    "Expand": (node("Expand", "r k", "t"), {"k": i64(1)}),
}


@pytest.mark.parametrize("form", NOTHING)
@pytest.mark.parametrize("last", [False, True])
def test_what_does_nothing_disappears(form: str, last: bool) -> None:
    nothing, constants = NOTHING[form]
    nodes = [node("Relu", "x", "r"), nothing]
    if not last:
        nodes.append(node("Sigmoid", "t", "y"))
    output = "t" if last else "y"
    result = simplified(model(nodes, {"x": [1, 3, 4, 4]}, [output], constants))
    assert kinds(result) == ["Relu"] if last else ["Relu", "Sigmoid"]
    assert [value.name for value in result.graph.output] == [output]


def test_two_outputs_of_one_value_keep_their_names() -> None:
    nodes = [node("Relu", "x", "y"), node("Identity", "y", "z")]
    result = simplified(model(nodes, {"x": [1, 3]}, ["y", "z"]))
    assert [value.name for value in result.graph.output] == ["y", "z"]


@pytest.mark.parametrize("form", NOTHING)
def test_an_output_that_is_the_input_is_an_identity(form: str) -> None:
    nothing, constants = NOTHING[form]
    nothing = onnx.NodeProto.FromString(nothing.SerializeToString())
    nothing.input[0] = "x"
    assert kinds(simplified(model([nothing], {"x": [1, 3, 4, 4]}, ["t"], constants))) == ["Identity"]


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
def test_a_reduction_of_no_axis_goes(kind: str) -> None:
    nodes = [node(kind, "x k", "r", noop_with_empty_axes=1), node("Tanh", "r", "y")]
    assert kinds(simplified(model(nodes, {"x": [2, 3]}, ["y"], {"k": np.zeros(0, np.int64)}, 18))) == ["Tanh"]


def test_mean_of_several_is_a_sum_times_a_number() -> None:
    nodes = [node("Mean", "x z x", "y")]
    assert kinds(simplified(model(nodes, {"x": [2, 3], "z": [3]}, ["y"]))) == ["Add", "Add", "Mul"]


@pytest.mark.parametrize(("divisor", "expected"), [((2, 3), "Mul"), ((3,), "Mul"), ((2, 2, 3), "Mul"), ((0,), "Div")])
def test_division_by_a_constant_is_a_product(divisor: tuple[int, ...], expected: str) -> None:
    constant = np.abs(weights(*divisor)) + 1 if divisor[0] else f32(1, 0, 2)
    proto = model([node("Div", "x c", "y")], {"x": [2, 3]}, ["y"], {"c": constant})
    with np.errstate(all="ignore"):
        assert kinds(simplified(proto)) == [expected]


def test_sum_of_several_is_a_chain_of_add() -> None:
    nodes = [node("Relu", "x", "a"), node("Sigmoid", "x", "b"), node("Sum", "x a b", "y")]
    assert kinds(simplified(model(nodes, {"x": [1, 3]}, ["y"]))) == ["Relu", "Sigmoid", "Add", "Add"]


def test_a_sum_of_squares_is_a_sum_of_products() -> None:
    proto = model([node("ReduceSumSquare", "x k", "y")], {"x": [1, 3, 4]}, ["y"], {"k": i64(2)}, opset=18)
    assert kinds(simplified(proto)) == ["Mul", "ReduceSum"]


def test_x_times_sigmoid_is_one_operator(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "c"), node("Sigmoid", "c", "s"), node("Mul", "s c", "y")]
    proto = model(nodes, {"x": [1, 3, 4, 4]}, ["y"], {"w": weights(4, 3, 1, 1)})
    assert kinds(imported(tmp_path, proto)) == ["Conv", "Swish"]


def test_x_times_hard_sigmoid_is_hard_swish(tmp_path: Path) -> None:
    nodes = [node("HardSigmoid", "x", "s", alpha=1 / 6, beta=0.5), node("Mul", "x s", "y")]
    assert kinds(imported(tmp_path, model(nodes, {"x": [1, 9]}, ["y"]))) == ["HardSwish"]


def test_hard_swish_by_relu6(tmp_path: Path) -> None:
    nodes = [
        node("Add", "x three", "a"),
        node("Clip", "a zero six", "c"),
        node("Mul", "x c", "m"),
        node("Div", "m six", "y"),
    ]
    constants = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    assert kinds(imported(tmp_path, model(nodes, {"x": [1, 9]}, ["y"], constants))) == ["HardSwish"]


def test_mish_in_parts(tmp_path: Path) -> None:
    nodes = [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t", "y")]
    assert kinds(imported(tmp_path, model(nodes, {"x": [1, 9]}, ["y"]))) == ["Mish"]


NUMBERS = {
    **{"one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "half": 0.5, "zero": 0.0, "fifth": 0.2, "sixth": 1 / 6},
    **{"root": 2**0.5, "inverse": 2**-0.5, "cubic": 0.044715, "tanh": (2 / np.pi) ** 0.5, "steep": 1.702},
}
GELU_TANH = [
    *(node("Mul", "q cubic", "c"), node("Add", "x c", "d"), node("Mul", "d tanh", "e")),
    *(node("Tanh", "e", "f"), node("Add", "f one", "g")),
]
FUNCTIONS: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "gelu_divided": ([
        node("Div", "x root", "a"), node("Erf", "a", "b"), node("Add", "b one", "c"),
        node("Mul", "x c", "d"), node("Mul", "d half", "y"),
    ], "Gelu"),
    "gelu_halved_first": ([
        node("Mul", "x inverse", "a"), node("Erf", "a", "b"), node("Add", "one b", "c"),
        node("Mul", "half x", "d"), node("Mul", "d c", "y"),
    ], "Gelu"),
    "gelu_tanh_by_pow": ([
        node("Pow", "x three", "q"), *GELU_TANH, node("Mul", "x half", "h"), node("Mul", "h g", "y"),
    ], "Gelu"),
    "gelu_tanh_by_mul": ([
        node("Mul", "x x", "p"), node("Mul", "x p", "q"), *GELU_TANH,
        node("Mul", "x g", "h"), node("Mul", "h half", "y"),
    ], "Gelu"),
    "gelu_by_sigmoid": ([node("Mul", "x steep", "a"), node("Sigmoid", "a", "b"), node("Mul", "x b", "y")], "Swish"),
    "silu_by_exp": ([
        node("Neg", "x", "a"), node("Exp", "a", "b"), node("Add", "b one", "c"), node("Div", "x c", "y"),
    ], "Swish"),
    "hard_sigmoid_by_relu6": ([
        node("Add", "x three", "a"), node("Clip", "a zero six", "b"), node("Div", "b six", "y"),
    ], "HardSigmoid"),
    "hard_sigmoid": ([
        node("Mul", "x fifth", "a"), node("Add", "a half", "b"), node("Clip", "b zero one", "y"),
    ], "HardSigmoid"),
    "hard_swish": ([
        node("Add", "three x", "a"), node("Min", "a six", "b"), node("Relu", "b", "c"),
        node("Mul", "c sixth", "d"), node("Mul", "d x", "y"),
    ], "HardSwish"),
    "leaky_relu_by_max": ([node("Mul", "x fifth", "a"), node("Max", "a x", "y")], "LeakyRelu"),
    "leaky_relu_in_halves": ([
        node("Relu", "x", "a"), node("Neg", "x", "b"), node("Relu", "b", "c"), node("Mul", "c fifth", "d"),
        node("Sub", "a d", "y"),
    ], "LeakyRelu"),
    "softplus": ([node("Exp", "x", "a"), node("Add", "a one", "b"), node("Log", "b", "y")], "Softplus"),
    "relu_by_comparing": ([node("Greater", "x zero", "a"), node("Where", "a x zero", "y")], "Relu"),
    "leaky_relu_by_comparing": ([
        node("GreaterOrEqual", "x zero", "a"), node("Mul", "x fifth", "b"), node("Where", "a x b", "y"),
    ], "LeakyRelu"),
    "leaky_relu_turned": ([
        node("Less", "x zero", "a"), node("Mul", "x fifth", "b"), node("Where", "a b x", "y"),
    ], "LeakyRelu"),
    "elu_by_comparing": ([
        node("Greater", "x zero", "a"), node("Exp", "x", "b"), node("Sub", "b one", "c"), node("Mul", "c half", "d"),
        node("Where", "a x d", "y"),
    ], "Elu"),
    "abs_by_comparing": ([node("Greater", "x zero", "a"), node("Neg", "x", "b"), node("Where", "a x b", "y")], "Abs"),
    "thresholded_relu": ([node("Greater", "x half", "a"), node("Where", "a x zero", "y")], "ThresholdedRelu"),
    "thresholded_relu_by_cast": ([
        node("Less", "half x", "a"), node("Cast", "a", "b", to=1), node("Mul", "x b", "y"),
    ], "ThresholdedRelu"),
    "softsign": ([node("Abs", "x", "a"), node("Add", "a one", "b"), node("Div", "x b", "y")], "Softsign"),
}  # fmt: skip


@pytest.mark.parametrize("form", FUNCTIONS)
def test_a_function_of_one_value_is_one_operator_however_written(form: str, tmp_path: Path) -> None:
    nodes, expected = FUNCTIONS[form]
    used = {name for entry in nodes for name in entry.input}
    constants = {name: np.float32(value) for name, value in NUMBERS.items() if name in used}
    proto = model([node("Sin", "w", "x"), *nodes], {"w": [1, 3, 4]}, ["y"], constants)
    assert kinds(imported(tmp_path, proto)) == ["Sin", expected]
    judged = import_outline(save(tmp_path, proto)).model
    assert kinds(judged) == ["Sin", expected]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("another_constant", ["Sin", "Mul", "Add", "Clip"]),
        ("read_inside", ["Sin", "Mul", "HardSigmoid"]),
        ("per_channel", ["Sin", "Mul", "HardSigmoid"]),
        ("behind_weights", ["Conv", "Clip"]),
    ],
)
def test_what_is_no_function_of_one_value_stays(form: str, expected: list[str]) -> None:
    nodes = [node("Mul", "x k", "a"), node("Add", "a h", "b"), node("Clip", "b zero one", "y")]
    constants = {"k": f32(0.2), "h": f32(0.5), "zero": np.float32(0), "one": np.float32(1), "w": weights(3, 3, 1)}
    outputs = ["y"]
    if form == "another_constant":
        constants["one"] = np.float32(0.9)
    if form == "read_inside":
        outputs.append("a")
    if form == "per_channel":
        constants["k"] = f32(0.2, 0.3, 0.2).reshape(3, 1)
    first = node("Conv", "v w", "x") if form == "behind_weights" else node("Sin", "v", "x")
    result = simplified(model([first, *nodes], {"v": [3, 3, 4]}, outputs, constants))
    assert kinds(result) == expected


def test_an_epsilon_is_not_taken_for_nothing() -> None:
    nodes = [node("Sigmoid", "x", "s"), node("Add", "s tiny", "a"), node("Log", "a", "y")]
    proto = model(nodes, {"x": [1, 3]}, ["y"], {"tiny": np.float32(1e-7)})
    assert kinds(simplified(proto)) == ["Sigmoid", "Add", "Log"]


def test_numbers_that_no_function_can_have_are_no_parameters() -> None:
    """A Celu with this alpha would not be finite."""
    nodes = [node("Max", "x small", "a"), node("Exp", "a", "y")]
    proto = model(nodes, {"x": [1, 3]}, ["y"], {"small": np.float32(2e-4)})
    assert kinds(simplified(proto)) == ["Clip", "Exp"]


def test_a_comparison_that_is_no_known_function_is_told(tmp_path: Path) -> None:
    nodes = [node("Greater", "x z", "c", name="compare"), node("Where", "c x z", "y")]
    with pytest.raises(ModelError, match=r"m.onnx: node 'compare' \(Greater\): .*hint: only where a Where behind it"):
        import_model(save(tmp_path, model(nodes, {"x": [1, 4], "z": [1, 4]}, ["y"])))
    with pytest.raises(ModelError, match=r"'compare' \(Greater\)"):
        import_model(save(tmp_path, model(nodes[:1], {"x": [1, 4], "z": [1, 4]}, ["c"])))


def test_prelu_with_one_slope_is_leaky_relu(tmp_path: Path) -> None:
    proto = model([node("PRelu", "x s", "y")], {"x": [1, 3, 4, 4]}, ["y"], {"s": f32(0.25)})
    result = imported(tmp_path, proto)
    assert kinds(result) == ["LeakyRelu"]
    assert attribute(result.graph.node[0], "alpha", 0.0) == 0.25


def test_global_max_pool_is_max_pool(tmp_path: Path) -> None:
    result = imported(tmp_path, model([node("GlobalMaxPool", "x", "y")], {"x": [1, 3, 4, 5]}, ["y"]))
    assert attribute(result.graph.node[0], "kernel_shape", []) == [4, 5]


def test_a_sigmoid_that_others_read_is_no_swish() -> None:
    nodes = [node("Sigmoid", "x", "s"), node("Mul", "x s", "p"), node("Add", "p s", "y")]
    assert kinds(simplified(model(nodes, {"x": [1, 9]}, ["y"]))) == ["Sigmoid", "Mul", "Add"]


def test_gelu_by_erf(tmp_path: Path) -> None:
    nodes = [
        node("Div", "x root", "a"),
        node("Erf", "a", "b"),
        node("Add", "b one", "c"),
        node("Mul", "x c", "d"),
        node("Mul", "d half", "y"),
    ]
    constants = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    assert kinds(imported(tmp_path, model(nodes, {"x": [1, 9]}, ["y"], constants))) == ["Gelu"]


# Older opsets.


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_softmax_before_opset_13_flattens(axis: int, tmp_path: Path) -> None:
    proto = model([node("Softmax", "x", "y", axis=axis)], {"x": [1, 3, 4, 2]}, ["y"], opset=11)
    assert "Softmax" in kinds(imported(tmp_path, proto))


OLDER: dict[str, tuple[int, list[onnx.NodeProto], list[int], dict[str, Any]]] = {
    "squeeze": (7, [node("Squeeze", "x", "y", axes=[2])], [1, 3, 1, 5], {}),
    "unsqueeze": (7, [node("Unsqueeze", "x", "y", axes=[1])], [1, 3], {}),
    "reducemean": (11, [node("ReduceMean", "x", "y", axes=[2, 3], keepdims=0)], [1, 3, 4, 5], {}),
    "reducemean_17": (17, [node("ReduceMean", "x", "y", axes=[-1, -2])], [1, 3, 4, 5], {}),
    "dropout": (9, [node("Relu", "x", "t"), node("Dropout", "t", "y", ratio=0.3)], [1, 3], {}),
    "batchnorm": (7, [node("BatchNormalization", "x g b m v", "y")], [1, 3, 4, 4], batchnorm(3)),
    "clip": (9, [node("Clip", "x", "y", min=-0.5)], [1, 9], {}),
    "pool": (8, [node("AveragePool", "x", "y", kernel_shape=[2, 2], auto_pad="SAME_UPPER")], [1, 2, 5, 5], {}),
    "gemm": (7, [node("Gemm", "x w b", "y")], [1, 3], {"w": weights(3, 4), "b": weights(4)}),
}


@pytest.mark.parametrize("form", OLDER)
def test_older_opsets_are_brought_to_one(form: str, tmp_path: Path) -> None:
    opset, nodes, shape, constants = OLDER[form]
    result = imported(tmp_path, model(nodes, {"x": shape}, ["y"], constants, opset))
    assert [(entry.domain, entry.version) for entry in result.opset_import] == [("", 20)]


# QDQ models keep every number.


def qdq_matmul() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    nodes = [
        node("QuantizeLinear", "x xs xz", "xq"),
        node("DequantizeLinear", "xq xs xz", "xd"),
        node("DequantizeLinear", "wq ws wz", "wd"),
        node("MatMul", "xd wd", "t"),
        node("DequantizeLinear", "bq bs bz", "bd"),
        node("Identity", "bd", "bi"),
        node("Add", "t bi", "u"),
        node("QuantizeLinear", "u ys yz", "uq"),
        node("DequantizeLinear", "uq ys yz", "ud"),
        node("QuantizeLinear", "ud zs yz", "vq"),
        node("DequantizeLinear", "vq zs yz", "y"),
    ]
    constants = {
        "xs": np.float32(0.05), "xz": np.int8(3), "ws": np.float32(0.01), "wz": np.int8(0),
        "wq": rng.integers(-127, 128, (7, 5)).astype(np.int8), "bs": np.float32(0.0005), "bz": np.int32(0),
        "bq": rng.integers(-1000, 1000, 5).astype(np.int32), "ys": np.float32(0.2), "yz": np.int8(-4),
        "zs": np.float32(0.3),
    }  # fmt: skip
    return model(nodes, {"x": ["N", 7]}, ["y"], constants, 13)


def test_qdq_keeps_neighbouring_pairs_and_every_bit(tmp_path: Path) -> None:
    proto = qdq_matmul()
    result = imported(tmp_path, proto)
    assert kinds(result).count("QuantizeLinear") == 3
    assert "Gemm" in kinds(result)
    assert "MatMul" not in kinds(result)
    for seed in range(5):
        feeds = feeds_for(result, seed)
        np.testing.assert_array_equal(run(proto, feeds)[0], run(result, feeds)[0])


def test_quantize_of_a_constant_is_folded(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq s z", "xd"),
        node("QuantizeLinear", "w s z", "wq"),
        node("DequantizeLinear", "wq s z", "wd"),
        node("Gemm", "xd wd", "t"),
        node("QuantizeLinear", "t s z", "tq"),
        node("DequantizeLinear", "tq s z", "y"),
    ]
    constants = {"w": weights(4, 4), "s": np.float32(0.04), "z": np.int8(0)}
    result = imported(tmp_path, model(nodes, {"x": [1, 4]}, ["y"], constants, 13))
    assert kinds(result).count("QuantizeLinear") == 2


def test_an_unsupported_form_is_told_with_a_hint(tmp_path: Path) -> None:
    nodes = [node("BatchNormalization", "x g b m x1", "y", name="normal")]
    inputs, statistics = {"x": [1, 4], "x1": [4]}, {"g": f32(1, 1, 1, 1), "b": f32(0, 0, 0, 0), "m": f32(0, 0, 0, 0)}
    pattern = r"m.onnx: node 'normal' \(BatchNormalization\): .*; hint: its statistics must be constants"
    with pytest.raises(ModelError, match=pattern):
        import_model(save(tmp_path, model(nodes, inputs, ["y"], statistics)))


# LayerNormalization: a line for each node, `output kind inputs`. The mean is m, the difference d, the variance v.

CENTRED = "m ReduceMean x axes; d Sub x m"
VARIANCE = f"{CENTRED}; q Mul d d; v ReduceMean q axes; e Add v eps; r Sqrt e"
RECIPROCAL = f"{VARIANCE}; i Reciprocal r"
LAYER_NORM: dict[str, str] = {
    "pytorch": f"{CENTRED}; q Pow d two; v ReduceMean q axes; e Add v eps; r Sqrt e; n Div d r; s Mul n g; y Add s b",
    "epsilon_first": f"{CENTRED}; q Mul d d; v ReduceMean q axes; e Add eps v; r Pow e half; n Div d r; y Sub n b",
    "two_means": f"k ReduceMean x axes; c Sub x k; {VARIANCE}; n Div c r; s Mul n g; y Add b s",
    "by_hand": f"{RECIPROCAL}; n Mul i d; s Div n g; y Add s b",
    "one_by_root": f"{VARIANCE}; i Div one r; n Mul d i; y Mul g n",
    "power": f"{CENTRED}; q Mul d d; v ReduceMean q axes; e Add v eps; i Pow e minus_half; y Mul d i",
    "squares_less_square": "m ReduceMean x axes; p Mul x x; k ReduceMean p axes; h Pow m two; v Sub k h; e Add v eps;"
    "r Sqrt e; d Sub x m; n Div d r; y Mul n g",
    "gain_in_reciprocal": f"{RECIPROCAL}; t Mul i g; s Mul d t; y Add s b",
    "keras": f"{RECIPROCAL}; t Mul i g; p Mul x t; k Mul m t; o Sub b k; y Add p o",
    "keras_without_gain": f"{RECIPROCAL}; p Mul i x; k Mul i m; o Sub b k; y Add o p",
    "keras_without_offset": f"{RECIPROCAL}; t Mul g i; p Mul x t; k Mul m t; y Sub p k",
    "keras_3": f"{RECIPROCAL}; t Mul i g; j Neg m; k Mul j t; o Add k b; p Mul x t; y Add p o",
    "keras_3_without_offset": f"{RECIPROCAL}; j Neg m; k Mul i j; p Mul x i; y Add p k",
    "negated": f"{RECIPROCAL}; k Mul m i; j Neg k; p Mul x i; y Add p j",
}


def layer_norm(lines: str, shape: tuple[int, ...], axes: tuple[int, ...], **constants: Any) -> onnx.ModelProto:
    normalized = [axis % len(shape) for axis in axes]
    sizes = [size if axis in normalized else 1 for axis, size in enumerate(shape)][min(normalized) :]
    known = {
        "axes": i64(*axes), "eps": np.float32(1e-3), "two": np.float32(2), "one": np.float32(1),
        "half": np.float32(0.5), "minus_half": np.float32(-0.5),
        "g": weights(*sizes), "b": weights(*sizes, seed=1), **constants,
    }  # fmt: skip
    parts = [line.split() for line in lines.split(";")]
    nodes = [node(kind, " ".join(inputs), output) for output, kind, *inputs in parts]
    read = {name for entry in nodes for name in entry.input}
    used = {name: value for name, value in known.items() if name in read}
    return model(nodes, {"x": shape}, ["y"], used, opset=18)


@pytest.mark.parametrize("form", LAYER_NORM)
def test_forms_of_layer_normalization_become_one_operator(form: str, tmp_path: Path) -> None:
    result = imported(tmp_path, layer_norm(LAYER_NORM[form], (1, 5, 7), (2,)))
    assert kinds(result) == ["LayerNormalization"]
    (entry,) = result.graph.node
    assert (attribute(entry, "axis", 0), attribute(entry, "epsilon", 0.0)) == (-1, float(np.float32(1e-3)))
    assert kinds(simplified(layer_norm(LAYER_NORM[form], (1, 5, 7), (-1,)))) == ["LayerNormalization"]


@pytest.mark.parametrize("form", ["pytorch", "keras"])
def test_layer_normalization_of_several_axes_and_of_channels(form: str) -> None:
    result = simplified(layer_norm(LAYER_NORM[form], (1, 4, 5, 7), (1, 2, 3)))
    assert kinds(result) == ["LayerNormalization"]
    for axes in ((1,), (1, 3)):
        result = simplified(layer_norm(LAYER_NORM[form], (1, 4, 5, 7), axes))
        assert kinds(result) == ["Transpose", "LayerNormalization", "Transpose"]


def test_a_mean_whose_axis_is_put_back_is_one_that_keeps_it() -> None:
    lines = LAYER_NORM["pytorch"].replace("v ReduceMean q axes", "w ReduceMean q axes; v Unsqueeze w axes")
    proto = layer_norm(lines, (1, 5, 7), (2,))
    next(entry for entry in proto.graph.node if entry.output[0] == "w").attribute.append(
        onnx.helper.make_attribute("keepdims", 0)
    )
    assert kinds(simplified(proto)) == ["LayerNormalization"]


KERAS_FUSED = (
    "r Reshape x rows; m ReduceMean r space; w Squeeze m space; d Sub r m; k ReduceSumSquare d space; v Div k count;"
    "n BatchNormalization r ones zeros w v; u Reshape n back; s Mul u g; y Add s b"
)


def keras_fused(lines: str, shape: tuple[int, ...], depth: int, **constants: Any) -> onnx.ModelProto:
    """How tf2onnx writes LayerNormalization of Keras where that calls a fused batch normalization."""
    rows = int(np.prod(shape)) // depth
    known = {
        "space": i64(0, 2, 3), "rows": i64(1, rows, depth, 1), "back": i64(*shape), "count": np.float32(depth),
        "ones": np.ones(rows, np.float32), "zeros": np.zeros(rows, np.float32), **constants,
    }  # fmt: skip
    proto = layer_norm(lines, shape, (len(shape) - 1,), **known)
    for entry in proto.graph.node:
        if entry.op_type == "ReduceSumSquare":
            entry.attribute.append(onnx.helper.make_attribute("keepdims", 0))
    return proto


def test_a_fused_batch_normalization_by_its_own_statistics(tmp_path: Path) -> None:
    proto = keras_fused(KERAS_FUSED, (1, 5, 7), 7)
    assert kinds(imported(tmp_path, proto)) == ["LayerNormalization"]
    assert kinds(simplified(proto)) == ["LayerNormalization"]
    both = keras_fused(KERAS_FUSED, (1, 5, 7), 35)
    assert attribute(simplified(both).graph.node[0], "axis", 0) == -2
    open_ended = KERAS_FUSED[: KERAS_FUSED.index("u Reshape")] + "y Relu n"
    assert "LayerNormalization" in kinds(simplified(keras_fused(open_ended, (1, 5, 7), 7)))


@pytest.mark.parametrize("change", [
    {"ones": weights(5)},
    {"zeros": weights(5)},
    {"count": np.float32(6)},
    {"lines": KERAS_FUSED.replace("k ReduceSumSquare d", "k ReduceSumSquare r")},
    {"lines": KERAS_FUSED.replace("w Squeeze m space", "a Relu r; c ReduceMean a space; w Squeeze c space")},
])  # fmt: skip
def test_a_batch_normalization_by_other_statistics_stays(change: dict[str, Any]) -> None:
    proto = keras_fused(change.pop("lines", KERAS_FUSED), (1, 5, 7), 7, **change)
    graph = Graph(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    simplify(graph, FLOAT_RULES)
    assert "BatchNormalization" in [entry.op_type for entry in graph.nodes]


@pytest.mark.parametrize("change", [
    ("d Sub x m", "d Sub m x"),
    ("d Sub x m", "d Sub z m"),
    ("q Pow d two", "q Pow d three"),
    ("e Add v eps", "e Sub v eps"),
    ("v ReduceMean q axes", "v ReduceMean q others"),
    ("v ReduceMean q axes", "v ReduceSum q axes"),
    ("n Div d r", "n Div r d"),
    ("e Add v eps", "e Add v each"),
])  # fmt: skip
def test_what_only_looks_like_layer_normalization_stays(change: tuple[str, str]) -> None:
    lines = LAYER_NORM["pytorch"].replace(*change)
    if "z m" in change[1]:
        lines = f"z Relu x; {lines}"
    others = {"three": np.float32(3), "others": i64(1), "each": np.abs(weights(7)) + 10}
    shape = (1, 7, 7)
    inferred = onnx.shape_inference.infer_shapes(layer_norm(lines, shape, (2,), **others), data_prop=True)
    graph = Graph(inferred)
    simplify(graph, FLOAT_RULES)
    assert not any(entry.op_type == "LayerNormalization" for entry in graph.nodes)


def test_gain_and_offset_along_other_axes_stay_behind_the_normalization() -> None:
    lines = LAYER_NORM["pytorch"].replace("s Mul n g", "s Mul n rows")
    result = simplified(layer_norm(lines, (1, 5, 7), (2,), rows=weights(5, 1)))
    assert kinds(result)[0] == "LayerNormalization"
    assert len(kinds(result)) > 1


def test_a_normalized_value_that_others_read_keeps_its_gain_apart() -> None:
    lines = LAYER_NORM["pytorch"].replace("y Add s b", "t Add s b; y Add t n")
    assert kinds(simplified(layer_norm(lines, (1, 5, 7), (2,))))[0] == "LayerNormalization"


def test_forms_of_softmax_become_one_operator(tmp_path: Path) -> None:
    shift = [node("ReduceMax", "x", "m", axes=[1]), node("Sub", "x m", "s"), node("Exp", "s", "e")]
    total = [*shift, node("ReduceSum", "e axes", "t")]
    for last, kind in (
        ([node("Div", "e t", "y")], "Softmax"),
        ([node("Log", "t", "l"), node("Sub", "s l", "y")], "LogSoftmax"),
    ):
        proto = model([*total, *last], {"x": ["N", 5]}, ["y"], {"axes": np.array([1])})
        assert kinds(imported(tmp_path, proto)) == [kind]
    proto = model([node("Softmax", "x", "p"), node("Log", "p", "y")], {"x": ["N", 5]}, ["y"])
    assert kinds(imported(tmp_path, proto)) == ["LogSoftmax"]


def attention(form: str, fill: float, reader: str = "Softmax") -> onnx.ModelProto:
    """Scores of (1, 2, 4, 4) masked in one of the forms, and a reader."""
    mask = np.tril(np.ones((4, 4), np.bool_))
    constants = {"m": mask, "f": np.float32(fill)}
    first = [node("Where", "m x f", "w")]
    if form == "added":
        constants = {"f": np.where(mask, np.float32(0), np.float32(fill))}
        first = [node("Add", "x f", "w")]
    if form == "biased":
        constants = {"f": np.where(mask, np.float32(0.5), np.float32(fill))}
        first = [node("Add", "f x", "w")]
    return model([*first, node(reader, "w", "y")], {"x": [1, 2, 4, 4]}, ["y"], constants)


@pytest.mark.parametrize("fill", [-np.inf, -3.4e38, -1e9, -1e4])
@pytest.mark.parametrize(
    ("form", "expected"),
    [("where", ["Where", "Softmax"]), ("added", ["Where", "Softmax"]), ("biased", ["Add", "Where", "Softmax"])],
)
def test_attention_masks_are_where_with_one_fill(form: str, fill: float, expected: list[str], tmp_path: Path) -> None:
    result = imported(tmp_path, attention(form, fill))
    assert kinds(result) == expected
    where = next(entry for entry in result.graph.node if entry.op_type == "Where")
    assert float(constant(result, where.input[2])) == -1e9


def test_a_large_operand_that_no_softmax_reads_stays() -> None:
    assert kinds(simplified(attention("added", -1e4, reader="Tanh"))) == ["Add", "Tanh"]
    assert kinds(simplified(attention("added", -np.inf, reader="Tanh"))) == ["Where", "Tanh"]


@pytest.mark.parametrize("taken", [True, False])
def test_a_mask_that_is_the_same_everywhere_goes(taken: bool) -> None:
    constants = {"m": np.full((1, 1), taken), "f": weights(2, 3)}
    values = "x f" if taken else "f x"
    proto = model([node("Where", f"m {values}", "w"), node("Tanh", "w", "y")], {"x": [2, 3]}, ["y"], constants)
    assert kinds(simplified(proto)) == ["Tanh"]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, "Conv"),
        ({"group": 2, "dilations": [2, 3], "pads": [1, 0, 2, 6]}, "Conv"),
        ({"pads": [2, 0, 3, 1]}, "ConvTranspose"),
        ({"strides": [1, 2]}, "ConvTranspose"),
        ({"output_shape": [5, 7]}, "ConvTranspose"),
        ({"auto_pad": "SAME_UPPER"}, "ConvTranspose"),
    ],
)
def test_a_transposed_convolution_of_stride_one_is_a_convolution(attributes: dict[str, Any], expected: str) -> None:
    constants = {"w": weights(4, 3, 3, 3), "b": weights(3 * attributes.get("group", 1))}
    proto = model([node("ConvTranspose", "x w b", "y", **attributes)], {"x": [1, 4, 5, 6]}, ["y"], constants)
    assert kinds(simplified(proto)) == [expected]


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_batchnorm_behind_a_transposed_convolution(group: int, bias: bool) -> None:
    constants = {"w": weights(4, 3, 2, 2), **batchnorm(3 * group), "c0": weights(3 * group)}
    first = node("ConvTranspose", "x w c0" if bias else "x w", "c", strides=[2, 2], group=group)
    nodes = [first, node("BatchNormalization", "c g b m v", "y")]
    assert kinds(simplified(model(nodes, {"x": [1, 4, 3, 2]}, ["y"], constants))) == ["ConvTranspose"]


@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize(
    ("computed", "bias", "expected"),
    [
        ("xw", (4,), {"MatMul", "Mul", "Add"}),
        ("w", (4,), {"MatMul", "Mul", "Add"}),
        ("x", (4, 4), {"Gemm", "Add"}),
        ("x", (4, 1), {"Gemm", "Add"}),  # was taken for a row
        ("xb", (4,), {"Gemm", "Mul", "Add"}),
        ("x", (1, 4), {"Gemm"}),
    ],
)
def test_other_gemms(turned: tuple[int, int], computed: str, bias: tuple[int, ...], expected: set[str]) -> None:
    shapes = {"x": (3, 4)[:: 1 - 2 * (1 - turned[0])], "w": (3, 4)[:: 1 - 2 * turned[1]], "b": bias}
    constants = {name: weights(*shapes[name]) for name in "xwb" if name not in computed}
    entry = node("Gemm", "x w b", "y", transA=turned[0], transB=turned[1], alpha=0.5, beta=2.0)
    proto = model([entry], {name: shapes[name] for name in computed}, ["y"], constants)
    assert set(kinds(simplified(proto))) - {"Transpose"} == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((4, 3), (2, 3, 5), ["Transpose", "MatMul", "Transpose"]),
        ((2, 4, 3), (3,), ["MatMul", "Reshape"]),
        ((4, 3), (1, 1, 3, 5), ["MatMul", "Reshape"]),
        ((2, 4, 3), (2, 3, 5), ["Slice", "MatMul", "Slice", "MatMul", "Concat"]),
        ((1, 4, 3), (2, 3, 5), ["MatMul", "MatMul", "Concat"]),
        ((4, 3), (2, 3, 5), ["MatMul", "Reshape", "MatMul", "Reshape", "Concat"]),
        ((1, 2, 4, 3), (1, 2, 3, 5), ["Slice", "MatMul", "Slice", "MatMul", "Concat"]),
        ((2, 2, 4, 3), (2, 2, 3, 5), ["MatMul"]),
    ],
)
def test_matmul_with_a_constant(left: tuple[int, ...], right: tuple[int, ...], expected: list[str]) -> None:
    shapes = {"a": left, "b": right}
    known = "a" if expected[0] == "Transpose" else "b"
    inputs = {name: shape for name, shape in shapes.items() if name != known}
    proto = model([node("MatMul", "a b", "y")], inputs, ["y"], {known: weights(*shapes[known])})
    assert kinds(simplified(proto)) == expected


def test_batchnorm_of_several_samples_is_a_product_and_a_sum() -> None:
    proto = model([node("BatchNormalization", "x g b m v", "y")], {"x": [5, 3]}, ["y"], batchnorm(3))
    assert kinds(simplified(proto)) == ["Mul", "Add"]


def test_a_slice_that_turns_an_axis_around_is_not_taken_for_one_that_does_nothing() -> None:
    constants = {"s": i64(-1), "e": i64(-99), "a": i64(1), "t": i64(-1)}
    proto = model([node("Slice", "x s e a t", "r"), node("Tanh", "r", "y")], {"x": [2, 3]}, ["y"], constants)
    assert kinds(simplified(proto)) == ["Slice", "Tanh"]


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize("amounts", [[0, 0, 1, 0, 0, 0, 2, 1], [0, 2, 3, 1, 0, 0, 0, 3], [0] * 8])
def test_other_modes_of_pad_are_slices_side_by_side(mode: str, amounts: list[int]) -> None:
    nodes = [node("Tanh", "x", "t"), node("Pad", "t p", "y", mode=mode)]
    result = simplified(model(nodes, {"x": [1, 3, 4, 5]}, ["y"], {"p": i64(*amounts)}, 19))
    axes = sum(amounts[axis] + amounts[4 + axis] > 0 for axis in range(4))
    assert kinds(result).count("Concat") == axes
    assert set(kinds(result)) <= {"Tanh", "Slice", "Concat"}


def test_negative_pads_are_a_slice() -> None:
    nodes = [node("Tanh", "x", "t"), node("Pad", "t p - a", "y")]
    proto = model(nodes, {"x": [1, 3, 4, 5]}, ["y"], {"p": i64(-1, 2, 0, -3), "a": i64(2, 3)}, 18)
    assert kinds(simplified(proto)) == ["Tanh", "Slice", "Pad"]


def test_an_infinite_pad_in_front_of_a_pool_is_finite() -> None:
    nodes = [node("Pad", "x p v", "t"), node("MaxPool", "t", "y", kernel_shape=[2, 2])]
    constants = {"p": i64(0, 0, 1, 1, 0, 0, 0, 0), "v": np.float32(-np.inf)}
    result = simplified(model(nodes, {"x": [1, 3, 4, 5]}, ["y"], constants))
    pad = next(entry for entry in result.graph.node if entry.op_type == "Pad")
    assert float(constant(result, pad.input[2])) == -1e9
