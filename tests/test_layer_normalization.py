"""LayerNormalization against the operator in float64, over scales and depths at their ends; what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbuild import interpret
from nnbuild.contract import LayerView
from nnbuild.errors import ModelError
from nnbuild.lower import lower
from nnbuild.network import Array, Network, QuantParams
from nnbuild.ops import layer_normalization
from nnbuild.ops.layer_normalization import MAX_DEPTH
from nnbuild.target import TARGETS
from tests.conformance import judge, node_tests
from tests.graphs import model, node, weights

IN, OUT = QuantParams(0.1, 3), QuantParams(0.02, -9)


def lowered(
    shape: Sequence[int],
    constants: Mapping[str, Any],
    quant: QuantParams = IN,
    output: QuantParams = OUT,
    results: Sequence[str] = ("y",),
    **attributes: Any,
) -> Network:
    """LayerNormalization of x, between Q/DQ pairs; `constants` are scale and bias, `results` outputs of the graph."""
    known = dict(constants)
    for name, parameters in (("in", quant), ("out", output)):
        known |= {f"{name}_s": np.float32(parameters.scale), f"{name}_z": np.int8(parameters.zero_point)}
    inputs = " ".join(["xd", "scale", *(["bias"] if "bias" in constants else [])])
    nodes = [
        node("QuantizeLinear", "x in_s in_z", "xq"),
        node("DequantizeLinear", "xq in_s in_z", "xd"),
        node("LayerNormalization", inputs, "n mean deviation", name="norm", **attributes),
        node("QuantizeLinear", "n out_s out_z", "yq"),
        node("DequantizeLinear", "yq out_s out_z", "y"),
    ]
    proto = model(nodes, {"x": shape}, results, known)
    return lower(onnx.shape_inference.infer_shapes(proto, strict_mode=True), "m.onnx")


def exact(values: Array, quant: QuantParams, gain: Array, offset: Array, epsilon: float) -> Array:
    """The operator on dequantized rows, in float64; the zero point is 0."""
    real = values.astype(np.float64) * quant.scale
    centred = real - real.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    normal = np.divide(centred, deviation, out=np.zeros_like(centred), where=centred != 0)
    return np.asarray(normal * gain + offset)


def rows(kind: str, depth: int, rng: np.random.Generator) -> Array:
    """int8 rows of one kind: random, constant, of two values, with one value that differs."""
    if kind == "random":
        return rng.integers(-128, 128, (3, depth)).astype(np.int8)
    if kind == "near":
        return (rng.integers(-128, 127, (3, 1)) + rng.integers(0, 2, (3, depth))).astype(np.int8)
    found = np.repeat(rng.choice([-128, 127, 0], (3, 1)), depth, axis=1).astype(np.int8)
    if kind == "single":
        found[:, rng.integers(depth)] ^= rng.choice(np.array([1, -1], np.int8))
    return found


scales = st.floats(-9, 3).map(lambda exponent: float(np.float32(10.0**exponent)))


@settings(max_examples=300, deadline=None)
@given(
    depth=st.one_of(st.integers(1, 9), st.integers(1, 1000), st.sampled_from((511, 512, 513, 514, 4096))),
    kind=st.sampled_from(("random", "near", "constant", "single")),
    scale=scales,
    spread=scales,
    shift=scales,
    steps=st.floats(-2, 5.7).map(lambda exponent: 10.0**exponent),
    zero_points=st.tuples(st.integers(-128, 127), st.integers(-128, 127)),
    epsilon=st.sampled_from((0.0, 1e-12, 1e-5, 1e-3, 1.0)),
    cancelling=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_at_most_a_step_from_the_float_operator(
    depth: int, kind: str, scale: float, spread: float, shift: float, steps: float,
    zero_points: tuple[int, int], epsilon: float, cancelling: bool, seed: int,
) -> None:  # fmt: skip
    """Scales of input, gain and offset over 12 decades; an output that reaches a hundredth of a step to half a million.

    With `cancelling`, offsets are such that values of many steps come back into the range of int8.
    """
    rng = np.random.default_rng(seed)
    epsilon = float(np.float32(epsilon))
    quant = QuantParams(scale, zero_points[0])
    gain, offset = (rng.normal(0, size, depth).astype(np.float32) for size in (spread, shift))
    values = rows(kind, depth, rng)
    if cancelling:
        offset = -exact(values, quant, gain, np.zeros(depth), epsilon)[0].astype(np.float32)
    reach = np.abs(gain).max() * np.sqrt(depth) + np.abs(offset).max()
    output = QuantParams(float(np.float32(reach / steps)), zero_points[1])
    wanted = exact(values, quant, gain, offset, epsilon)
    network = lowered(values.shape, {"scale": gain, "bias": offset}, quant, output, epsilon=epsilon)
    found = interpret.run(network, [values])[0].astype(np.int64)
    best = np.clip(np.rint(wanted / output.scale) + output.zero_point, -128, 127)
    assert np.abs(found - best).max() <= 1
    # Before rounding it is off by a quarter of a step at most.
    error = np.abs(found - np.clip(wanted / output.scale + output.zero_point, -128, 127))
    assert error.max() <= 0.75


@pytest.mark.parametrize(
    ("constants", "options", "message"),
    [
        ({"scale": weights(8)}, {"results": ("y", "mean")}, r"node 'norm' .*: its output 'mean' is used"),
        ({"scale": weights(8)}, {"results": ("y", "deviation")}, "its output 'deviation' is used"),
        ({"scale": weights(8)}, {"epsilon": -1.0}, "epsilon -1.0 is not a number from 0 on"),
        ({"scale": weights(8), "bias": np.full(8, np.nan, np.float32)}, {}, "its constant 'bias' is not finite"),
        ({"scale": weights(4, 1)}, {}, r"its constant 'scale' of shape \[4, 1\] does not fit \[8\]"),
        ({"scale": weights(8)}, {"output": QuantParams(1e-8, 0)}, r"its output's scale 1e-08 is too fine for values"),
    ],
)
def test_refusals(constants: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        lowered((1, 4, 8), constants, **options)


def test_deep_rows_are_refused() -> None:
    depth = MAX_DEPTH + 1
    with pytest.raises(ModelError, match=f"a mean over {depth} values is not supported; hint: at most {MAX_DEPTH}"):
        lowered((1, depth), {"scale": weights(depth)})


def test_equal_scales_and_biases_are_stored_once() -> None:
    ones = np.ones(8, np.float32)
    for constants, sizes in (
        ({"scale": ones}, [1, 1]),
        ({"scale": ones, "bias": 3 * ones}, [1, 1]),
        ({"scale": ones, "bias": weights(8)}, [1, 8]),
        ({"scale": weights(8)}, [8, 8]),
    ):
        layer = lowered((1, 4, 8), constants).layers[0]
        assert [array.size for array in layer.constants.values()] == sizes


def test_layers_of_one_shape_share_a_function() -> None:
    sources = []
    for quant, epsilon, seed in ((IN, 1e-5, 1), (QuantParams(1e-9, -128), 1e-3, 2)):
        network = lowered((1, 4, 8), {"scale": weights(8, seed=seed)}, quant, epsilon=epsilon)
        sources.append(layer_normalization.render(LayerView.of(network, network.layers[0]), TARGETS["cortex-m0"]))
    assert sources[0].values == sources[1].values
    assert sources[0].data["scaling"].tolist() != sources[1].data["scaling"].tolist()


def test_quantized_scales_are_read() -> None:
    """As other quantizers write them: int8 and int32 behind DequantizeLinear."""
    gain, offset = np.array([-127, 3, 50, 127], np.int8), np.array([1000, -7, 0, 90], np.int32)
    known = {
        "s": np.float32(0.1), "z": np.int8(3), "g": gain, "gs": np.float32(0.01), "gz": np.int8(0),
        "b": offset, "bs": np.float32(0.001), "bz": np.int32(0),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq s z", "xd"),
        node("DequantizeLinear", "g gs gz", "scale"),
        node("DequantizeLinear", "b bs bz", "bias"),
        node("LayerNormalization", "xd scale bias", "n"),
        node("QuantizeLinear", "n s z", "yq"),
        node("DequantizeLinear", "yq s z", "y"),
    ]
    proto = onnx.shape_inference.infer_shapes(model(nodes, {"x": [1, 4]}, ["y"], known))
    (layer,) = lower(proto).layers
    real = {"scale": (gain * 0.01).astype(np.float32), "bias": (offset * 0.001).astype(np.float32)}
    (other,) = lowered((1, 4), real, QuantParams(0.1, 3), QuantParams(0.1, 3)).layers
    for name, array in layer.constants.items():
        np.testing.assert_allclose(array, other.constants[name], rtol=1e-6)


def test_the_onnx_projects_tests_pass_where_one_output_is_asked_for(tmp_path: Path) -> None:
    """As they stand they ask for mean and deviation, too."""
    count = 0
    for test in node_tests():
        if [entry.op_type for entry in test.model.graph.node] == ["LayerNormalization"]:
            assert judge(test, tmp_path).outcome == "refused"
            del test.model.graph.output[1:]
            assert judge(test, tmp_path).outcome == "passed", judge(test, tmp_path)
            count += 1
    assert count > 10
