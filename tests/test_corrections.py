"""Corrections: what they leave alone, and that each does what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nnbuild import calibrate, corrections, samples, simulation
from nnbuild.corrections import bias, equalize, rounding
from nnbuild.importer import import_model
from nnbuild.pipeline import Request, input_shapes, quantized
from nnbuild.quantize import quantize
from tests.graphs import model, node, save, weights


def case(folder: Path) -> tuple[onnx.ModelProto, samples.Samples]:
    """A strided, a grouped, a depthwise convolution and a fully connected layer, with channels of unequal size."""
    w = weights(4, 2, 3, 3) * np.array([1, 0.5, 3, 0.4], np.float32)[:, None, None, None]
    nodes = [
        node("Conv", "x w a", "c", strides=[2, 1], pads=[1, 0, 0, 1]), node("Relu", "c", "r"),
        node("Conv", "r v b", "d", group=4, pads=[1, 1, 1, 1]), node("Relu", "d", "s"),
        node("Conv", "s u", "e", group=2, dilations=[2, 1]), node("Flatten", "e", "f"), node("Gemm", "f g h", "y"),
    ]  # fmt: skip
    constants = {
        "w": w, "a": weights(4), "v": weights(4, 1, 3, 3), "b": weights(4), "u": weights(6, 2, 2, 2),
        "g": weights(6 * 2 * 5, 3), "h": weights(3),
    }  # fmt: skip
    path = save(folder, model(nodes, {"x": ["N", 2, 8, 7]}, ["y"], constants))
    noise = np.random.default_rng(0).normal(size=(40, 2, 8, 7))
    np.savez(folder / "c.npz", x=noise.cumsum(axis=2).cumsum(axis=3).astype(np.float32))  # neighbours are alike
    proto = import_model(path)
    return proto, samples.load(str(folder / "c.npz"), input_shapes(proto))


def errors(proto: onnx.ModelProto, given: list[Any], *forms: onnx.ModelProto, value: str = "y") -> list[float]:
    real = simulation.run(proto, [value], given)
    return [simulation.noise(real, simulation.run(form, [value], given)) for form in forms]


def means(proto: onnx.ModelProto, given: list[Any], form: onnx.ModelProto) -> float:
    """The largest mean error of a channel of the second layer."""
    both = (simulation.run(entry, ["d"], given) for entry in (proto, form))
    apart = [real["d"] - ours["d"] for real, ours in zip(*both, strict=True)]
    return float(np.abs(np.mean(apart, axis=(0, 1, 3, 4))).max())


def test_equalizing_leaves_the_float_model_what_it_computes(tmp_path: Path) -> None:
    proto, found = case(tmp_path)
    form = equalize.correct(proto, list(found), 1.0)
    assert form is not None
    assert errors(proto, list(found), form)[0] < 1e-9
    found_now = simulation.run(form, ["r"], list(found))
    peaks = np.max([np.abs(entry["r"]).max(axis=(0, 2, 3)) for entry in found_now], axis=0)
    assert peaks.min() == pytest.approx(peaks.max(), rel=1e-3)


def test_rounding_and_bias_help(tmp_path: Path) -> None:
    """Each in front of the layer's own quantization; what comes behind it is noise in so small a network."""
    proto, found = case(tmp_path)
    plain = quantize(proto, calibrate.ranges(proto, found))
    rounded = rounding.correct(proto, plain, list(found))
    before, after = errors(proto, list(found), plain, rounded, value="c")
    assert after < before
    assert means(proto, list(found), bias.correct(proto, plain, list(found))) < means(proto, list(found), plain) / 4


def test_what_does_not_help_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, found = case(tmp_path)
    plain = quantize(proto, calibrate.ranges(proto, found))

    def worse(*_: Any) -> onnx.ModelProto:
        spoiled = onnx.ModelProto()
        spoiled.CopyFrom(plain)
        name = next(entry for entry in plain.graph.node if entry.op_type == "QuantizeLinear").input[1]
        scale = next(tensor for tensor in spoiled.graph.initializer if tensor.name == name)
        scale.CopyFrom(onnx.numpy_helper.from_array(np.array(0.5, np.float32), name))
        return spoiled

    monkeypatch.setattr(corrections, "_AFTER", {"rounding": worse, "bias": worse})
    assert corrections.corrected(proto, lambda _: plain, list(found), ("rounding", "bias")) is plain


def biased(folder: Path) -> tuple[onnx.ModelProto, samples.Samples]:
    """A fully connected layer whose inputs hardly change: what rounding its weights loses is a constant."""
    constants = {"w": weights(512, 4), "b": weights(4)}
    path = save(folder, model([node("Gemm", "x w b", "y")], {"x": ["N", 512]}, ["y"], constants))
    values = 1 + 0.02 * np.random.default_rng(1).normal(size=(40, 512))
    np.savez(folder / "c.npz", x=values.astype(np.float32))
    proto = import_model(path)
    return proto, samples.load(str(folder / "c.npz"), input_shapes(proto))


def test_what_surely_helps_is_kept(tmp_path: Path) -> None:
    proto, found = biased(tmp_path)
    request: dict[str, Any] = {"model": str(tmp_path / "m.onnx"), "calibration": str(tmp_path / "c.npz")}
    uncorrected = quantized(Request(**request, corrections="none")).content
    assert uncorrected == quantize(proto, calibrate.ranges(proto, found)).SerializeToString(deterministic=True)
    for allowed in (None, "rounding", "bias"):
        corrected = quantized(Request(**request, corrections=allowed)).content
        assert corrected == quantized(Request(**request, corrections=allowed)).content
        before, after = errors(proto, list(found), *map(onnx.load_model_from_string, (uncorrected, corrected)))
        assert after < before / 3, allowed
    assert quantized(Request(**request, corrections="equalize")).content == uncorrected


def test_few_samples_correct_nothing(tmp_path: Path) -> None:
    proto, found = biased(tmp_path)
    plain = quantize(proto, calibrate.ranges(proto, found))
    assert corrections.corrected(proto, lambda _: plain, list(found)[:4], corrections.NAMES) is plain
    assert corrections.corrected(proto, lambda _: plain, list(found)[:5], corrections.NAMES) is not plain


def uneven(folder: Path, count: int) -> tuple[onnx.ModelProto, samples.Samples]:
    """Two layers, with channels between them of which some are a hundred times as large as others."""
    w = weights(16, 8) * np.array([1, 0.01] * 4, np.float32)
    nodes = [node("Gemm", "x w", "h"), node("Relu", "h", "r"), node("Gemm", "r v", "y")]
    v = weights(8, 4) * np.array([[0.01], [1]] * 4, np.float32)
    path = save(folder, model(nodes, {"x": ["N", 16]}, ["y"], {"w": w, "v": v}))
    np.savez(folder / "c.npz", x=np.random.default_rng(2).normal(size=(count, 16)).astype(np.float32))
    proto = import_model(path)
    return proto, samples.load(str(folder / "c.npz"), input_shapes(proto))


@pytest.mark.parametrize(("count", "helps"), [(60, True), (40, False)])
def test_channels_are_equalized_where_enough_samples_show_them(count: int, helps: bool, tmp_path: Path) -> None:
    proto, found = uneven(tmp_path, count)
    request: dict[str, Any] = {"model": str(tmp_path / "m.onnx"), "calibration": str(tmp_path / "c.npz")}
    both = [quantized(Request(**request, corrections=allowed)).content for allowed in ("none", "equalize")]
    before, after = errors(proto, list(found), *map(onnx.load_model_from_string, both))
    assert (after < before / 4) == helps
    assert helps or both[0] == both[1]


def test_a_stream_is_held_in_bounded_memory() -> None:
    kept: simulation.Spread[samples.Sample] = simulation.Spread(10)
    for index in range(1000):
        kept.add({"x": np.array([index])})
    assert len(kept.samples) == 10
    assert [int(entry["x"][0]) for entry in kept.samples] == sorted(int(entry["x"][0]) for entry in kept.samples)
    assert int(kept.samples[-1]["x"][0]) > 800
