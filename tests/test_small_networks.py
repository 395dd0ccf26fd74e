"""Small networks of every supported kind, all the way: import, calibrate, quantize, lower, run in integers.

What comes out is held against the float model. One number for all: 28 dB is what 8 bits give with room to spare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto

from nnbuild import samples
from nnbuild.accuracy import measure
from nnbuild.importer import import_model
from nnbuild.pipeline import Request, input_shapes, quantized
from tests.graphs import Shape, f32, i64, model, node, save, session, weights

NETWORKS: dict[str, onnx.ModelProto] = {}


def add(
    name: str,
    nodes: Sequence[NodeProto],
    shape: Shape,
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    inputs: Mapping[str, Shape] | None = None,
) -> None:
    NETWORKS[name] = model(nodes, inputs or {"x": shape}, outputs, constants, opset)


def scaled(*shape: int, seed: int = 0) -> Any:
    """Weights that keep the size of the values."""
    return (weights(*shape, seed=seed) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def batchnorm(channels: int) -> dict[str, Any]:
    gamma, beta, mean, variance = np.random.default_rng(5).normal(1, 0.5, (4, channels)).astype(np.float32)
    return {"g": gamma, "b": beta, "m": mean, "v": np.abs(variance) + np.float32(0.1)}


UNARY = """
    Abs Celu Elu Erf Exp HardSigmoid HardSwish LeakyRelu Neg Selu Sigmoid Softplus Softsign Tanh
"""
for kind in UNARY.split():
    add(kind, [node("Conv", "x w", "c"), node(kind, "c", "y")], [1, 3, 6, 6], {"w": scaled(4, 3, 3, 3)})
add("Mish", [node("Conv", "x w", "c"), node("Mish", "c", "y")], [1, 3, 6, 6], {"w": scaled(4, 3, 3, 3)}, 18)
add("Gelu", [node("Conv", "x w", "c"), node("Gelu", "c", "y")], [1, 3, 6, 6], {"w": scaled(4, 3, 3, 3)}, 20)
add(
    "SiLU",
    [node("Conv", "x w", "c"), node("Sigmoid", "c", "s"), node("Mul", "c s", "y")],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 3, 3)},
)
add(
    "GeluErf",
    [
        node("Gemm", "x w", "c"),
        node("Div", "c r", "d"),
        node("Erf", "d", "e"),
        node("Add", "e o", "f"),
        node("Mul", "c f", "h"),
        node("Mul", "h hf", "y"),
    ],
    [1, 12],
    {"w": scaled(12, 6), "r": np.float32(2**0.5), "o": np.float32(1), "hf": np.float32(0.5)},
)
add(
    "PRelu1",
    [node("Conv", "x w", "c"), node("PRelu", "c s", "y")],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 3, 3), "s": f32(0.2)},
)
add(
    "GlobalMax",
    [node("Conv", "x w", "c"), node("GlobalMaxPool", "c", "p"), node("Flatten", "p", "f"), node("Gemm", "f v", "y")],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 3, 3), "v": scaled(4, 3)},
)
add(
    "dilgroups",
    [node("Conv", "x w b", "c", dilations=[2, 2], group=2, pads=[2, 1, 2, 1], strides=[2, 1]), node("Relu", "c", "y")],
    [1, 4, 9, 9],
    {"w": scaled(6, 2, 3, 3), "b": weights(6)},
)
add(
    "conv1d",
    [
        node("Conv", "x w b", "c", pads=[1, 1], strides=[2]),
        node("BatchNormalization", "c g b m v", "n"),
        node("Relu", "n", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f q", "y"),
    ],
    [1, 3, 21],
    {"w": scaled(5, 3, 3), **batchnorm(5), "q": scaled(5, 3)},
)
add(
    "mm3",
    [node("MatMul", "x w", "t"), node("Add", "t b", "u"), node("Relu", "u", "y")],
    [1, 5, 7],
    {"w": scaled(7, 4), "b": weights(4)},
)
add("mm_nobias", [node("MatMul", "x w", "y")], [1, 7], {"w": scaled(7, 4)})
add("bn2", [node("BatchNormalization", "x g b m v", "t"), node("Relu", "t", "y")], [1, 6], batchnorm(6))
add(
    "bn4",
    [node("BatchNormalization", "x g b m v", "t"), node("Conv", "t w", "y", pads=[1, 1, 1, 1])],
    [1, 6, 5, 5],
    {**batchnorm(6), "w": scaled(4, 6, 3, 3)},
)
add("bn3", [node("BatchNormalization", "x g b m v", "y")], [1, 6, 9], batchnorm(6))
add("softmax1", [node("Conv", "x w", "c"), node("Softmax", "c", "y", axis=1)], [1, 3, 4, 4], {"w": scaled(5, 3, 1, 1)})
add("softmax_old", [node("Gemm", "x w", "c"), node("Softmax", "c", "y")], [1, 9], {"w": scaled(9, 5)}, 11)
add("two_in", [node("Add", "a b", "t"), node("Relu", "t", "y")], [], inputs={"a": ["N", 3, 4, 4], "b": ["N", 3, 4, 4]})
add("two_out", [node("Gemm", "x w", "y"), node("Relu", "y", "z")], [1, 9], {"w": scaled(9, 5)}, outputs=["y", "z"])
add(
    "residual",
    [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("Conv", "r w", "d", pads=[1] * 4),
        node("Add", "d r", "e"),
        node("Relu", "e", "y"),
    ],
    [1, 4, 6, 6],
    {"w": scaled(4, 4, 3, 3)},
)
add("addconst", [node("Relu", "x", "r"), node("Add", "r k", "y")], [1, 4, 6, 6], {"k": weights(1, 4, 1, 1)})
add(
    "addspatial",
    [node("Conv", "x w", "r"), node("Add", "r k", "y")],
    [1, 4, 6, 6],
    {"w": scaled(4, 4, 1, 1), "k": weights(1, 1, 6, 6)},
)
add("mulscalar_out", [node("Sigmoid", "x", "s"), node("Mul", "s k", "y")], [1, 9], {"k": np.float32(3)})
add(
    "rescale_nhwc",
    [
        node("Mul", "x k", "a"),
        node("Sub", "a o", "b"),
        node("Transpose", "b", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "y", pads=[1] * 4),
    ],
    [1, 6, 6, 3],
    {"k": np.float32(1 / 128), "o": np.float32(1), "w": scaled(4, 3, 3, 3)},
)
add(
    "norm_nhwc",
    [
        node("Sub", "x mean", "a"),
        node("Div", "a sd", "b"),
        node("Transpose", "b", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "y", pads=[1] * 4),
    ],
    [1, 6, 6, 3],
    {"mean": f32(0.4, 0.5, 0.6), "sd": f32(0.2, 0.3, 0.25), "w": scaled(4, 3, 3, 3)},
)
add(
    "padval",
    [node("Pad", "x p v", "t"), node("Conv", "t w", "y")],
    [1, 3, 5, 5],
    {"p": i64(0, 0, 1, 1, 0, 0, 1, 1), "v": np.float32(1.5), "w": scaled(4, 3, 3, 3)},
)
add(
    "avg_sameupper",
    [
        node("Conv", "x w", "c"),
        node("AveragePool", "c", "y", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    ],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 1, 1)},
)
add(
    "avg_ceil",
    [node("Conv", "x w", "c"), node("AveragePool", "c", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 1, 1)},
)
add(
    "maxpool_ceil",
    [
        node("Conv", "x w", "c"),
        node("MaxPool", "c", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, dilations=[1, 1]),
    ],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 1, 1)},
)
add(
    "reducemean",
    [
        node("Conv", "x w", "c"),
        node("Relu", "c", "r"),
        node("ReduceMean", "r", "m", axes=[2, 3], keepdims=0),
        node("Gemm", "m v", "y"),
    ],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 1, 1), "v": scaled(4, 3)},
)
add("hardtanh_alone", [node("Clip", "x lo hi", "y")], [1, 50], {"lo": np.float32(-1), "hi": np.float32(1)})
add(
    "hardtanh_net",
    [node("Gemm", "x w b", "t"), node("Max", "t lo", "u"), node("Min", "u hi", "v"), node("Gemm", "v w2", "y")],
    [1, 20],
    {"w": scaled(20, 10), "b": weights(10), "lo": np.float32(-1), "hi": np.float32(1), "w2": scaled(10, 4)},
)
add(
    "convpoolrelu",
    [
        node("Conv", "x w", "c"),
        node("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Relu", "p", "r"),
        node("Flatten", "r", "f"),
        node("Gemm", "f v", "y"),
    ],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 1, 1), "v": scaled(36, 3)},
)
add(
    "flatten_nchw",
    [node("Conv", "x w", "c"), node("Flatten", "c", "f"), node("Gemm", "f v b", "y")],
    [1, 3, 3, 5],
    {"w": scaled(4, 3, 1, 1), "v": scaled(60, 3), "b": weights(3)},
)
add(
    "squeeze",
    [
        node("Conv", "x w", "c"),
        node("GlobalAveragePool", "c", "g"),
        node("Squeeze", "g a", "s"),
        node("Gemm", "s v", "y"),
    ],
    [1, 3, 3, 5],
    {"w": scaled(4, 3, 1, 1), "a": i64(2, 3), "v": scaled(4, 3)},
)
add(
    "transpose_mid",
    [node("Conv", "x w", "c"), node("Transpose", "c", "t", perm=[0, 2, 1, 3]), node("Conv", "t v", "y")],
    [1, 3, 3, 5],
    {"w": scaled(4, 3, 1, 1), "v": scaled(2, 3, 1, 1)},
)
add("conv_valid_1x1spatial", [node("Conv", "x w b", "y")], [1, 3, 3, 3], {"w": scaled(4, 3, 3, 3), "b": weights(4)})
add(
    "deadrelu",
    [node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("Conv", "r v", "y")],
    [1, 3, 3, 3],
    {"w": scaled(4, 3, 1, 1) * np.float32(1e-3), "b": f32(*[-9] * 4), "v": scaled(2, 4, 1, 1)},
)
add(
    "sum3",
    [node("Conv", "x w", "a"), node("Relu", "x", "b"), node("Sum", "a b x", "y")],
    [1, 3, 4, 4],
    {"w": scaled(3, 3, 1, 1)},
)
add("globalavg1d", [node("GlobalAveragePool", "x", "y")], [1, 3, 30])

add(
    "squeeze_excite",
    [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Conv", "p d", "q"),
        node("Relu", "q", "e"),
        node("Conv", "e u", "f"),
        node("Sigmoid", "f", "s"),
        node("Mul", "r s", "m"),
        node("Conv", "m v", "y"),
    ],
    [1, 3, 6, 6],
    {"w": scaled(6, 3, 3, 3), "d": scaled(4, 6, 1, 1), "u": scaled(6, 4, 1, 1) * 3, "v": scaled(3, 6, 1, 1)},
)
add("mul_square", [node("Gemm", "x w", "t"), node("Mul", "t t", "y")], [1, 9], {"w": scaled(9, 5)})
add("mul_relu", [node("Mul", "a b", "t"), node("Relu", "t", "y")], [], inputs={"a": ["N", 3, 4, 4], "b": ["N", 4]})
add(
    "sub_branches",
    [
        node("Conv", "x w", "c"),
        node("GlobalAveragePool", "c", "m"),
        node("Sub", "c m", "d"),
        node("Sub", "m d", "e"),
        node("Relu", "e", "y"),
    ],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 3, 3)},
)
add(
    "mul_mask",
    [node("Conv", "x w", "c"), node("Mul", "c k", "y")],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 1, 1), "k": np.abs(weights(1, 1, 6, 6))},
)
for kind in ("Min", "Max"):
    add(
        f"{kind}_branches",
        [
            node("Conv", "x w", "a"),
            node("Conv", "x v", "b"),
            node(kind, "a b", "c"),
            node("Relu", "c", "r"),
            node("Conv", "r u", "y"),
        ],
        [1, 3, 6, 6],
        {"w": scaled(4, 3, 3, 3), "v": scaled(4, 3, 3, 3)[::-1].copy() * 2, "u": scaled(3, 4, 1, 1)},
    )
    add(
        f"{kind}_three_and_constant",
        [node("Sigmoid", "x", "s"), node("Tanh", "x", "t"), node(kind, "s x t k", "y")],
        [1, 3, 5, 4],
        {"k": weights(1, 3, 1, 4)},
    )
add(
    "concat_dense_block",
    [
        node("Conv", "x w", "a", pads=[1] * 4),
        node("Relu", "a", "b"),
        node("Conv", "b v", "c", pads=[1] * 4),
        node("Relu", "c", "d"),
        node("Concat", "x b d", "e", axis=1),
        node("MaxPool", "e", "f", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "f u", "y"),
    ],
    [1, 3, 6, 6],
    {"w": scaled(4, 3, 3, 3), "v": scaled(5, 4, 3, 3), "u": scaled(4, 12, 1, 1)},
)
add(
    "concat_branches",
    [
        node("Conv", "x w", "a"),
        node("Conv", "x v", "b"),
        node("Concat", "a b", "c", axis=1),
        node("Relu", "c", "r"),
        node("Conv", "x u", "d"),
        node("Concat", "d r d", "e", axis=3),
        node("Flatten", "e", "f"),
        node("Gemm", "f g", "y"),
    ],
    [1, 3, 4, 5],
    {
        "w": scaled(4, 3, 1, 1),
        "v": scaled(2, 3, 1, 1)[::-1].copy(),
        "u": scaled(6, 3, 1, 1) * 2,
        "g": scaled(360, 5) * 4,
    },
)
add(
    "concat_heads",
    [
        node("Conv", "x w", "a", pads=[1] * 4),
        node("Conv", "x v", "b", pads=[1] * 4, strides=[2, 2]),
        node("Transpose", "a", "c", perm=[0, 2, 3, 1]),
        node("Transpose", "b", "d", perm=[0, 2, 3, 1]),
        node("Reshape", "c s", "e"),
        node("Reshape", "d s", "f"),
        node("Concat", "e f", "g", axis=1),
        node("Softmax", "g", "y", axis=2),
    ],
    [1, 3, 4, 6],
    {"w": scaled(8, 3, 3, 3), "v": scaled(8, 3, 3, 3), "s": i64(1, -1, 4)},
)
add(
    "concat_constant",
    [node("Gemm", "x w", "t"), node("Concat", "k t", "y", axis=-1)],
    [1, 9],
    {"w": scaled(9, 5), "k": weights(1, 3)},
)
add(
    "layer_norm_in_parts",
    [
        node("MatMul", "x w", "t"),
        node("ReduceMean", "t", "m", axes=[-1]),
        node("Sub", "t m", "d"),
        node("Pow", "d two", "q"),
        node("ReduceMean", "q", "v", axes=[-1]),
        node("Add", "v eps", "e"),
        node("Sqrt", "e", "r"),
        node("Div", "d r", "n"),
        node("Mul", "n g", "s"),
        node("Add", "s b", "y"),
    ],
    [1, 5, 7],
    {"w": scaled(7, 8), "two": np.float32(2), "eps": np.float32(1e-5), "g": weights(8), "b": weights(8, seed=1)},
    13,
)
add(
    "layer_norm_of_channels",
    [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Transpose", "c", "t", perm=[0, 2, 3, 1]),
        node("LayerNormalization", "t g b", "n"),
        node("Transpose", "n", "u", perm=[0, 3, 1, 2]),
        node("LayerNormalization", "u h", "o", axis=1),
        node("Conv", "o v", "y"),
    ],
    [1, 3, 6, 5],
    {
        "w": scaled(8, 3, 3, 3), "g": weights(8), "b": weights(8, seed=1),
        "h": weights(8, 6, 5), "v": scaled(4, 8, 1, 1),
    },
)  # fmt: skip
add(
    "attention",
    [
        node("LayerNormalization", "x g b", "n"),
        node("MatMul", "n wq", "q"),
        node("MatMul", "n wk", "k"),
        node("MatMul", "n wv", "v"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "s"),
        node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p v", "a"),
        node("Add", "x a", "r"),
        node("LayerNormalization", "r g b", "o"),
        node("MatMul", "o wo", "h"),
        node("Gelu", "h", "y"),
    ],
    [1, 6, 8],
    {
        "g": 1 + weights(8) / 4,
        "b": weights(8, seed=1) / 4,
        **{f"w{name}": scaled(8, 8, seed=at) for at, name in enumerate("qkvo")},
    },
    20,
)
add(
    "add_crooked",
    [
        node("Transpose", "x", "t", perm=[0, 2, 1]),
        node("Reshape", "t s", "u"),
        node("Transpose", "u", "v", perm=[0, 2, 1]),
        node("Add", "v x", "a"),
        node("Concat", "v a", "y", axis=2),
    ],
    [1, 4, 6],
    {"s": i64(1, 6, 4)},
)


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_agree_with_floats(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, NETWORKS[name])
    proto = import_model(path)
    shapes = input_shapes(proto)
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(0, 1, (100, *shape[1:])).astype(np.float32) for key, shape in shapes.items()}
    spec = str(tmp_path / "c.npz")
    np.savez(spec, **arrays)  # type: ignore[arg-type]
    int8 = onnx.load_model_from_string(quantized(Request(str(path), spec)).content)
    onnx.checker.check_model(int8, full_check=True)
    session(int8)  # onnxruntime takes it
    assert measure(proto, int8, samples.load(spec, shapes), 50).sqnr_db > 28
