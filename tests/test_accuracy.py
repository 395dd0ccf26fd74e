"""What `accuracy` measures, against figures worked out by hand, by the C and by the reference; its JSON; bounds."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nnbuild import float_model, host, interpret, samples
from nnbuild.accuracy import measure
from nnbuild.cli import main
from nnbuild.errors import CalibrationError, ConfigError, InternalError
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import Array, Network
from nnbuild.pipeline import input_shapes
from nnbuild.quantize import quantize
from nnbuild.ranges import Ranges
from nnbuild.report import hints
from nnbuild.report.accuracy import Accuracy, verdicts
from tests import test_arg_max, test_recurrent
from tests.graphs import Shape, model, node, save, weights

# Two Gemm whose steps are powers of two: x 1/16, h 1/4, y 1/2 (all zero points 0), weights 1/64 for each output.
FIRST = np.array([[127, 64], [-64, 127]]) / 64
SECOND = np.array([[127, 32], [16, 127]]) / 64
SPANS = {"x": (-8.0, 7.9375), "h": (-32.0, 31.75), "y": (-64.0, 63.5)}


def two_layers() -> onnx.ModelProto:
    nodes = [node("Gemm", "x w1", "h", name="first"), node("Gemm", "h w2", "y", name="second")]
    constants = {"w1": FIRST.astype(np.float32), "w2": SECOND.astype(np.float32)}
    return model(nodes, {"x": ["N", 2]}, ["y"], constants)


def measured(folder: Path, proto: onnx.ModelProto, spans: dict[str, tuple[float, float]], **x: Any) -> Accuracy:
    """The accuracy of `proto`, quantized with these ranges, over samples `x`."""
    imported = import_model(save(folder, proto))
    int8 = quantize(imported, Ranges(spans, "minmax", 1, ""))
    save(folder, int8, "m.int8.onnx")
    np.savez(folder / "v.npz", **x)
    read = import_model(folder / "m.int8.onnx")
    return measure(imported, read, samples.load(str(folder / "v.npz"), input_shapes(imported)), name="m")


def decibel(pairs: list[tuple[float, float]]) -> float:
    """SQNR of (float, integer) pairs, as DESIGN.md defines it."""
    return 10 * math.log10(sum(f**2 for f, _ in pairs) / sum((f - q) ** 2 for f, q in pairs))


def test_by_hand(tmp_path: Path) -> None:
    """One sample, (1.0, 0.53). In steps of 1/16 it is 16 and 8, which is 1.0 and 0.5.

    h: 16*127 - 8*64 = 1520, by 1024 is 1.484, in steps of 1/4 it is 6, which is 1.5;
       16*64 + 8*127 = 2040, by 1024 is 1.992, 8 steps, 2.0.
    y: 6*127 + 8*16 = 890, by 256 is 3.477, in steps of 1/2 it is 7, which is 3.5;
       6*32 + 8*127 = 1208, by 256 is 4.719, 9 steps, 4.5.
    """
    x = (1.0, 0.53)
    h = (1.0 * 127 / 64 - 0.53, 1.0 + 0.53 * 127 / 64)
    y = (h[0] * 127 / 64 + h[1] / 4, h[0] / 2 + h[1] * 127 / 64)
    found = measured(tmp_path, two_layers(), SPANS, x=np.array([x]))
    first, second = found.layers
    in_x, in_h, in_y = (
        decibel(list(zip(floats, ours, strict=True)))
        for floats, ours in ((x, (1.0, 0.5)), (h, (1.5, 2.0)), (y, (3.5, 4.5)))
    )
    assert first.sqnr_db == pytest.approx(in_h, abs=0.006)
    assert second.sqnr_db == found.sqnr_db == pytest.approx(in_y, abs=0.006)
    assert (in_x, in_h, in_y) == pytest.approx((31.54, 31.24, 25.42), abs=0.01)  # they differ, so none is the other
    added = 10 ** (-in_y / 10) - 10 ** (-in_h / 10)
    assert second.added_db == pytest.approx(-10 * math.log10(added), abs=0.02)
    added = 10 ** (-in_h / 10) - 10 ** (-in_x / 10)
    assert first.added_db == pytest.approx(-10 * math.log10(added), abs=0.2)
    assert [(layer.index, layer.name, layer.node) for layer in found.layers] == [
        (0, "m_l00_fully_connected", "first"),
        (1, "m_l01_fully_connected", "second"),
    ]
    assert (found.samples, found.agreement) == (1, 100.0)


def test_sums_run_over_all_samples(tmp_path: Path) -> None:
    """Not a mean of decibels: a large sample weighs as much as it is large. (1, 0.5) and (2, 1) are exact in x."""
    found = measured(tmp_path, two_layers(), SPANS, x=np.array([[1.0, 0.5], [2.0, 1.0]]))
    floats = [1520 / 1024, 2040 / 1024, 3040 / 1024, 4080 / 1024]
    ours = [1.5, 2.0, 3.0, 4.0]  # 5.94, 7.97, 11.88, 15.94 steps of 1/4
    assert found.layers[0].sqnr_db == pytest.approx(decibel(list(zip(floats, ours, strict=True))), abs=0.006)
    outputs = [sum(floats[i + k] * SECOND[k, n] for k in (0, 1)) for i in (0, 2) for n in (0, 1)]
    ours = [3.5, 4.5, 7.0, 9.5]  # 890, 1208, 1780, 2416 by 128: 6.95, 9.44, 13.91, 18.88 steps of 1/2
    assert found.sqnr_db == pytest.approx(decibel(list(zip(outputs, ours, strict=True))), abs=0.006)


def test_a_layer_adds_to_the_worst_of_its_inputs(tmp_path: Path) -> None:
    """Add of a coarse value and the exact input, into steps of 2."""
    branches = model(
        [node("Gemm", "x w1", "h"), node("Add", "h x", "y")],
        {"x": ["N", 2]},
        ["y"],
        {"w1": FIRST.astype(np.float32)},
    )
    found = measured(tmp_path, branches, {**SPANS, "y": (-256.0, 254.0)}, x=np.array([[1.0, 0.5], [2.0, -1.5]]))
    coarse, total = found.layers
    assert coarse.sqnr_db is not None
    assert total.sqnr_db is not None
    noise = 10 ** (-total.sqnr_db / 10) - 10 ** (-coarse.sqnr_db / 10)
    assert total.added_db == pytest.approx(-10 * math.log10(noise), abs=0.01)


def test_a_decision_that_differs(tmp_path: Path) -> None:
    """y = x (identity weights): 0.26 < 0.28 in float; in steps of 1/2 both are 0.5, and the first of equals wins."""
    identity = model([node("Gemm", "x w", "y")], {"x": ["N", 2]}, ["y"], {"w": np.eye(2, dtype=np.float32)})
    spans = {"x": (-1.0, 0.9921875), "y": (-64.0, 63.5)}
    found = measured(
        tmp_path, identity, spans, x=np.array([[0.26, 0.28], [0.9, 0.1], [0.3, 0.9]]), y=np.array([1, 0, 0])
    )
    assert found.agreement == pytest.approx(66.6667)
    assert [(pair.float, pair.int8, pair.count) for pair in found.confusions] == [(1, 0, 1)]
    assert (found.top1_float, found.top1) == pytest.approx((66.6667, 33.3333))
    assert next((entry.sample, entry.float, entry.int8) for entry in found.worst) == (0, 1, 0)
    assert [entry.sqnr_db for entry in found.worst] == sorted(entry.sqnr_db for entry in found.worst)


def test_nothing_differs(tmp_path: Path) -> None:
    found = measured(tmp_path, two_layers(), SPANS, x=np.zeros((3, 2)))
    assert found.sqnr_db == 200.0
    assert all(layer.sqnr_db == 200.0 and layer.added_db is None for layer in found.layers)
    assert "noise" not in hints.accuracy(found)


def test_one_number_has_no_arg_max(tmp_path: Path) -> None:
    """Its agreement would always be 100 %: a bound on it is missed, and says what to give."""
    single = model([node("Gemm", "x w", "y")], {"x": ["N", 2]}, ["y"], {"w": weights(2, 1)})
    found = measured(tmp_path, single, {"x": (-1, 1), "y": (-3, 3)}, x=weights(4, 2), y=np.zeros(4))
    assert found.agreement is found.top1 is None
    assert found.confusions == ()
    agreement, sqnr, drop = verdicts(found, {"agreement": 0.9, "drop": 0.1, "sqnr": 5.0})
    assert (agreement.ok, drop.ok, sqnr.ok) == (False, False, True)
    assert "drop is unknown, and its limit is 10.00 points; hint: the output is one number" in str(drop.finding("m"))
    assert "give min_sqnr" in str(agreement.finding("m"))


NHWC: Shape = ["N", 3, 6, 5]


def spatial() -> onnx.ModelProto:
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Reshape", "r s", "f"), node("Gemm", "f v", "y")]
    constants = {"w": weights(4, 3, 3, 3), "s": np.array([1, 48]), "v": weights(48, 5)}
    return model(nodes, {"x": NHWC}, ["y"], constants)


def random_inputs(*shape: int) -> Array:
    return np.random.default_rng(3).normal(0, 1, shape).astype(np.float32)


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    """A folder with m.onnx, its m.int8.onnx, v.npz and four samples in it."""
    save(tmp_path, spatial())
    np.savez(tmp_path / "v.npz", x=random_inputs(20, 3, 6, 5))
    words = ["quantize", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "v.npz")]
    assert main([*words, "-o", str(tmp_path / "m.int8.onnx")]) == 0
    return tmp_path


def command(folder: Path, *words: str) -> int:
    files = [str(folder / "m.onnx"), str(folder / "m.int8.onnx"), "--samples", str(folder / "v.npz")]
    return main(["accuracy", *files, "--json", str(folder / "m.accuracy.json"), *words])


def test_copies_have_no_figure_and_clamps_belong_to_their_layer(conv: Path) -> None:
    """The layer of Conv and Relu is held against the Relu, in the order of its elements."""
    assert command(conv) == 0
    layers = json.loads((conv / "m.accuracy.json").read_text())["layers"]
    assert [(layer["op"], layer["sqnr_db"] is None) for layer in layers] == [
        ("transpose", True),
        ("conv2d", False),
        ("fully_connected", False),
    ]
    assert all(layer["sqnr_db"] > 30 for layer in layers[1:])


def test_channels_last_and_single_rounding_are_the_integers_of_emit(conv: Path) -> None:
    """Same figures without the copy; the report names the network that `emit` makes with these words."""
    assert command(conv) == 0
    plain = json.loads((conv / "m.accuracy.json").read_text())
    for words in (["--input-layout", "NHWC"], ["--rounding", "single"], []):
        assert command(conv, *words) == 0
        found = json.loads((conv / "m.accuracy.json").read_text())
        assert main(["emit", str(conv / "m.int8.onnx"), "--output-dir", str(conv), "--name", "m", *words]) == 0
        emitted = json.loads((conv / "m.report.json").read_text())
        assert found["model_id"] == emitted["model_id"]
        for key in ("index", "name", "node", "op"):
            assert [layer[key] for layer in found["layers"]] == [layer[key] for layer in emitted["layers"]]
        assert found["sqnr_db"] == pytest.approx(plain["sqnr_db"], abs=0.5)
        if "NHWC" in words:
            assert [layer["sqnr_db"] for layer in found["layers"]] == [x["sqnr_db"] for x in plain["layers"][1:]]


def test_json_is_deterministic_and_read_back(conv: Path) -> None:
    texts = []
    for _ in range(2):
        assert command(conv) == 0
        texts.append((conv / "m.accuracy.json").read_bytes())
    assert texts[0] == texts[1]
    assert str(conv).encode() not in texts[0]
    assert Accuracy.read(conv / "m.accuracy.json").to_json().encode() == texts[0]


def test_bounds_of_a_kept_report(conv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second command needs neither models nor samples."""
    assert command(conv, "--min-sqnr", "500", "--min-agreement", "100%") == 1
    (conv / "m.onnx").unlink()
    capsys.readouterr()
    words = ["accuracy", "--report", str(conv / "m.accuracy.json")]
    assert main([*words, "--min-sqnr", "10", "--min-agreement", "0.5"]) == 0
    assert capsys.readouterr().out == ""
    assert main([*words, "--min-sqnr", "150.5", "--min-agreement", "0.5"]) == 1
    printed = capsys.readouterr()
    assert ">= 150.50 dB" in printed.out
    (line,) = printed.err.splitlines()
    assert "m.accuracy.json: m sqnr is " in line
    assert "hint: most noise is added by m_l0" in line
    assert "method='mse'" in line


def test_size_takes_the_report_of_this_network_only(conv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(conv, "--rounding", "single") == 0
    assert main(["emit", str(conv / "m.int8.onnx"), "--output-dir", str(conv), "--name", "m"]) == 0
    made = ["gcc", "-c", "-o", str(conv / "m.o"), str(conv / "m.c")]
    subprocess.run(made, check=True)
    words = ["size", str(conv / "m.o"), "--model-report", str(conv / "m.report.json")]
    joined = [*words, "--accuracy-report", str(conv / "m.accuracy.json")]
    capsys.readouterr()
    assert main(joined) == 1
    assert "m.accuracy.json: is of network m 0x" in capsys.readouterr().err
    assert command(conv) == 0
    assert main([*joined, "--model-budget", "m.sqnr=10 dB", "--model-budget", "m.agreement=5%"]) == 0
    assert "% agree with the float model" in capsys.readouterr().out
    assert main([*joined, "--model-budget", "m.sqnr=150"]) == 1
    assert "m sqnr is " in capsys.readouterr().err
    for wrong, message in (("m.sqnr=x", "must be a ratio"), ("m.agreement=97", "must be a share"), ("m.x=1", "KIND")):
        assert main([*joined, "--model-budget", wrong]) == 1
        assert message in capsys.readouterr().err
    assert main([*words, "--model-budget", "m.sqnr=10"]) == 1
    assert "m.sqnr needs --accuracy-report" in capsys.readouterr().err


def test_hint_names_per_channel_where_it_is_not(conv: Path) -> None:
    words = ["quantize", str(conv / "m.onnx"), "--calibration", str(conv / "v.npz"), "-o", str(conv / "m.int8.onnx")]
    for kind, hinted in (("per_tensor", True), ("per_channel", False)):
        assert main([*words, "--fully-connected", kind]) == 0
        assert command(conv) == 0
        assert ("fully_connected='per_channel'" in hints.accuracy(Accuracy.read(conv / "m.accuracy.json"))) == hinted


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1}', '{"schema": 2}', "\ud800", "[" * 100000])
def test_no_report(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.accuracy.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match=r"not an accuracy report.*make it with"):
        Accuracy.read(path)


def test_damaged_report(conv: Path) -> None:
    """Every field gone or of another type is one readable error, never a traceback."""
    assert command(conv) == 0
    whole = json.loads((conv / "m.accuracy.json").read_text())
    for key in whole:
        for damaged in ({k: v for k, v in whole.items() if k != key}, {**whole, key: {"x": 1}}, {**whole, "more": 1}):
            (conv / "m.accuracy.json").write_text(json.dumps(damaged))
            with pytest.raises(ConfigError, match="not an accuracy report"):
                Accuracy.read(conv / "m.accuracy.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "accuracy takes MODEL.onnx"),
        (["m.onnx", "m.int8.onnx"], "accuracy takes MODEL.onnx"),
        (["m.onnx", "--report", "r.json"], "--report goes with neither"),
        (["--report", "no.json"], "no.json: cannot read"),
    ],
)
def test_arguments(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accuracy", *words]) == 1
    assert message in capsys.readouterr().err


def test_values_that_overflow(tmp_path: Path) -> None:
    steep = model([node("Exp", "x", "h"), node("Exp", "h", "y")], {"x": ["N", 2]}, ["y"])
    spans = {"x": (0.0, 100.0), "h": (0.0, 1.0), "y": (0.0, 1.0)}
    with pytest.raises(CalibrationError, match=r"value '.*' is not finite for sample 1"):
        measured(tmp_path, steep, spans, x=np.array([[0.0, 0.0], [90.0, 0.0]]))


def test_too_few_labels(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="there are 2 labels for more samples"):
        measured(tmp_path, two_layers(), SPANS, x=np.zeros((3, 2)), y=np.zeros(2, np.int64))


def test_large_sets_are_streamed(conv: Path, tmp_path: Path) -> None:
    """Samples that a function yields are looked at one by one, and each is let go."""
    (conv / "val.py").write_text(
        "import numpy as np, weakref\nalive = []\n"
        "def samples():\n"
        "    for i in range(60):\n"
        "        batch = np.full((2, 3, 6, 5), i / 60, np.float32)\n"
        "        alive.append(weakref.ref(batch))\n"
        "        yield batch\n"
        "        del batch\n"
        "        assert sum(r() is not None for r in alive) <= 2, 'samples are kept'\n"
    )
    (conv / "v.npz").unlink()
    files = [str(conv / "m.onnx"), str(conv / "m.int8.onnx"), "--samples", f"{conv / 'val.py'}:samples"]
    assert main(["accuracy", *files, "--json", str(conv / "f.json")]) == 0
    assert json.loads((conv / "f.json").read_text())["samples"] == 120


# --- layers alone ------------------------------------------------------------------------------------------------


def test_alone_by_hand(tmp_path: Path) -> None:
    """As `test_by_hand`, for (1.0, 0.59), which is 16 and 9 in integers.

    h: 16*127 - 9*64 = 1456, by 1024 is 1.42, 6 steps, 1.5; 16*64 + 9*127 = 2167, by 1024 is 2.12, 8 steps, 2.0.
    In float it is (1.39, 2.17), which is 6 and 9 steps: so alone the second layer has another input than on the way.
    y on the way: 6*127 + 8*16 = 890, by 256 is 3.48, 7 steps, 3.5; 6*32 + 8*127 = 1208, 4.72, 9 steps, 4.5.
    y alone: 6*127 + 9*16 = 906, by 256 is 3.54, 7 steps, 3.5; 6*32 + 9*127 = 1335, 5.21, 10 steps, 5.0.
    """
    x = (1.0, 0.59)
    h = (x[0] * 127 / 64 - x[1], x[0] + x[1] * 127 / 64)
    y = (h[0] * 127 / 64 + h[1] / 4, h[0] / 2 + h[1] * 127 / 64)
    found = measured(tmp_path, two_layers(), SPANS, x=np.array([x]))
    first, second = found.layers
    assert first.sqnr_db == first.isolated_db == pytest.approx(decibel([(h[0], 1.5), (h[1], 2.0)]), abs=0.006)
    assert second.sqnr_db == found.sqnr_db == pytest.approx(decibel([(y[0], 3.5), (y[1], 4.5)]), abs=0.006)
    assert second.isolated_db == pytest.approx(decibel([(y[0], 3.5), (y[1], 5.0)]), abs=0.006)
    assert (first.saturation, second.saturation) == (0.0, 0.0)


def test_saturation_is_the_share_of_values_out_of_range(tmp_path: Path) -> None:
    """h ends at 1.75 in steps of 1/4 from -32: what is above is lost, and what is below is rounded."""
    narrow = {**SPANS, "h": (-30.0, 1.75)}  # 31.75 / 255: steps of 0.1245
    found = measured(tmp_path, two_layers(), narrow, x=np.array([[4.0, 0.5], [0.1, 0.1]]))
    first, second = found.layers
    assert first.saturation is not None
    assert first.saturation > 99.0
    assert second.saturation == 0.0
    assert second.isolated_db is not None
    assert second.sqnr_db is not None
    assert second.isolated_db - 15 < second.sqnr_db  # its input is what h can hold, which both have lost
    assert "method='minmax'" in hints.accuracy(found)


def test_copies_are_computed_on_the_way_alone(conv: Path) -> None:
    """The transpose has no value of its own; the layer behind it is alone all the same, on exact inputs."""
    assert command(conv) == 0
    transpose, first, second = Accuracy.read(conv / "m.accuracy.json").layers
    assert transpose.isolated_db is transpose.saturation is None
    assert first.isolated_db == first.sqnr_db
    assert second.isolated_db is not None
    assert second.sqnr_db is not None
    assert second.isolated_db > second.sqnr_db


def test_layers_are_looked_at_over_samples_evenly_spaced(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for 4 of 20 it is every fifth; outputs are of all 20."""
    assert command(conv) == 0
    whole = Accuracy.read(conv / "m.accuracy.json")
    monkeypatch.setattr("nnbuild.accuracy.LAYER_SAMPLES", 4)
    assert command(conv) == 0
    some = Accuracy.read(conv / "m.accuracy.json")
    assert (whole.layer_samples, some.layer_samples) == (20, 4)
    assert (whole.samples, whole.sqnr_db, whole.worst) == (some.samples, some.sqnr_db, some.worst)
    assert whole.layers != some.layers
    monkeypatch.undo()
    np.savez(conv / "v.npz", x=random_inputs(20, 3, 6, 5)[::5])
    assert command(conv) == 0
    assert Accuracy.read(conv / "m.accuracy.json").layers == some.layers


# --- who evaluates -----------------------------------------------------------------------------------------------


def both(folder: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The reports by the generated C, and by the reference."""
    found = []
    for by in (["--host-cc", "cc"], ["--reference"]):
        assert command(folder, *words, *by) == 0
        found.append(json.loads((folder / "m.accuracy.json").read_text()))
    return found[0], found[1]


@pytest.mark.parametrize("words", [[], ["--input-layout", "NHWC"], ["--rounding", "single"]])
def test_the_c_and_the_reference_report_the_same(conv: Path, words: list[str]) -> None:
    generated, reference = both(conv, *words)
    assert re.fullmatch(r"(gcc|clang) \d+\.\d+\.\d+", generated.pop("evaluated_by"))
    assert reference.pop("evaluated_by") == "reference"
    assert generated == reference


def index_of(folder: Path) -> Network:
    """An index of int32, with what it is the index of."""
    test_arg_max.classifier(folder / "m.onnx", [test_arg_max.arg_max()], {"y": (onnx.TensorProto.INT64, (1,))})
    return lower(test_arg_max.quantized(folder / "m.onnx", folder))


def images(folder: Path) -> Network:
    """NCHW through a copy."""
    np.savez(folder / "v.npz", x=random_inputs(20, 3, 6, 5))
    save(folder, spatial())
    words = ["quantize", str(folder / "m.onnx"), "--calibration", str(folder / "v.npz")]
    assert main([*words, "-o", str(folder / "m.int8.onnx")]) == 0
    return lower(import_model(folder / "m.int8.onnx"))


def two_of_each() -> onnx.ModelProto:
    nodes = [node("Gemm", "x w", "h"), node("Add", "h z", "y"), node("Relu", "y", "r")]
    return model(nodes, {"x": ["N", 8], "z": ["N", 4]}, ["h", "r"], {"w": weights(8, 4)})


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(("make", "outputs"), [(images, 1), (index_of, 2)])
def test_the_bytes_of_the_program_are_those_of_the_reference(
    tmp_path: Path, make: Callable[[Path], Network], outputs: int, compiler: str
) -> None:
    """All outputs, the values behind an index among them, over inputs that saturate."""
    rng = np.random.default_rng(5)
    network = make(tmp_path)
    host.build(network, "m", [compiler], tmp_path / "m.host")
    program = host.Program.of(tmp_path / "m.host", network)
    assert program.by.startswith(compiler)
    with program.start(network) as process:
        for _ in range(50):
            inputs = [rng.integers(-128, 128, math.prod(port.shape), np.int8) for port in network.inputs]
            ours, theirs = interpret.run_all(network, inputs), process.run(inputs)
            assert len(theirs) == outputs
            for name, values in theirs.items():
                assert values.dtype == ours[name].dtype
                assert (values == ours[name]).all()


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    save(tmp_path, two_of_each())
    np.savez(tmp_path / "v.npz", x=random_inputs(30, 8), z=random_inputs(30, 4))
    words = ["quantize", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "v.npz")]
    assert main([*words, "-o", str(tmp_path / "m.int8.onnx")]) == 0
    generated, reference = both(tmp_path)
    del generated["evaluated_by"], reference["evaluated_by"]
    assert generated == reference


def test_more_samples_than_a_chunk_in_their_order(conv: Path) -> None:
    """Several processes, and results as if there were one."""
    count = 150
    x = random_inputs(count, 3, 6, 5)
    x[137] *= 50
    labels = np.arange(count) % 5
    np.savez(conv / "v.npz", x=x, y=labels)
    generated, reference = both(conv)
    assert generated.pop("evaluated_by") != reference.pop("evaluated_by")
    assert generated == reference
    assert generated["samples"] == count
    assert generated["worst"][0]["sample"] == 137


def test_a_state_goes_on_through_all_samples(tmp_path: Path) -> None:
    """One sequence for one process: its outputs differ from those of samples that begin anew."""
    test_recurrent.plain(tmp_path / "m.onnx", "GRU", 1)
    rng = np.random.default_rng(4)
    np.savez(tmp_path / "v.npz", x=rng.normal(0, 1, (70, 1, 1, test_recurrent.INPUTS)).astype(np.float32))
    found = []
    for states in ([], ["--states", "keep"]):
        words = ["quantize", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "v.npz"), *states]
        assert main([*words, "-o", str(tmp_path / "m.int8.onnx")]) == 0
        generated, reference = both(tmp_path, *states)
        del generated["evaluated_by"], reference["evaluated_by"]
        assert generated == reference
        found.append(generated)
    assert found[0]["sqnr_db"] != found[1]["sqnr_db"]
    assert found[1]["layer_samples"] == 50
    (gru,) = [layer for layer in found[1]["layers"] if layer["op"] == "gru"]
    assert gru["isolated_db"] == pytest.approx(gru["sqnr_db"], abs=0.01)  # alone it keeps its state too


def test_bytes_that_differ_are_a_fault_of_nnbuild(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is held against the program in every run: here one that has another network in it."""
    network = lower(import_model(conv / "m.int8.onnx"))
    layer = network.layers[-1]
    constants = {**layer.constants, "bias": layer.constants["bias"] + 4000}
    other = replace(network, layers=(*network.layers[:-1], replace(layer, constants=constants)))
    monkeypatch.setattr(Network, "model_id", lambda self: 1)
    host.build(other, "m", ["cc"], conv / "m.host")
    with pytest.raises(InternalError, match=r"output 'y' of the generated C is not the reference's for sample 0"):
        measure(
            import_model(conv / "m.onnx"),
            import_model(conv / "m.int8.onnx"),
            samples.load(str(conv / "v.npz"), {"x": (1, 3, 6, 5)}),
            program=lambda network: host.Program.of(conv / "m.host", network),
        )


def test_a_program_of_another_network_is_refused(conv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    int8, made = str(conv / "m.int8.onnx"), str(conv / "m.host")
    assert main(["host", int8, "--rounding", "single", "-o", made]) == 0
    assert command(conv, "--program", made) == 1
    assert "m.host: is no program of this network; hint: make it with" in capsys.readouterr().err
    assert command(conv, "--program", made, "--rounding", "single") == 0
    assert command(conv, "--program", str(conv / "v.npz")) == 1
    assert "v.npz: does not run here: " in capsys.readouterr().err


def test_a_program_that_stops_is_one_line(conv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = lower(import_model(conv / "m.int8.onnx"))
    program = conv / "m.host"
    program.write_text(f'#!/bin/sh\n[ "$1" ] && echo "cc 1.2.3 0x{network.model_id():08x}" && exit 0\nexit 3\n')
    program.chmod(0o755)
    assert command(conv, "--program", str(program)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "m.host: ended with status 3 in place of an answer; hint: " in line


def test_the_program_needs_no_folder_and_leaves_none(conv: Path) -> None:
    """Nothing of where it was made is in it, and it is whole or not there."""
    before = sorted(path.name for path in conv.iterdir())
    made = []
    for name in ("one", "two"):
        assert main(["host", str(conv / "m.int8.onnx"), "-o", str(conv / name / "m.host")]) == 0
        made.append((conv / name / "m.host").read_bytes())
        assert [path.name for path in (conv / name).iterdir()] == ["m.host"]
    assert made[0] == made[1]
    assert str(conv).encode() not in made[0]
    assert main(["host", str(conv / "m.int8.onnx"), "--host-cc", "gcc -fno-such", "-o", str(conv / "m.host")]) == 1
    assert sorted(path.name for path in conv.iterdir()) == sorted([*before, "one", "two"])


@pytest.mark.parametrize("flags", ["", "-std=c99 -Wall -Wextra -Wconversion -Wshadow -pedantic -Werror -O0"])
def test_the_main_function_compiles_without_a_warning(conv: Path, flags: str) -> None:
    assert main(["host", str(conv / "m.int8.onnx"), "--host-cc", f"gcc {flags}", "-o", str(conv / "m.host")]) == 0


COMPILERS = {
    "no-such-cc": "no-such-cc: there is no such compiler; hint: HOSTCC (--host-cc) names",
    "false": "false: cannot compile the network for this machine: it does not say why; hint: ",
    "gcc -fno-such": "gcc: cannot compile the network for this machine: ",
    "gcc 'x": "gcc 'x: is no command; hint: ",
}


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_compiler_that_cannot_is_one_line(conv: Path, compiler: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command(conv, "--host-cc", compiler) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(COMPILERS[compiler])


def test_no_compiler_at_all_is_the_reference(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(conv))
    assert command(conv) == 0
    assert Accuracy.read(conv / "m.accuracy.json").evaluated_by == "reference"
    assert main(["host", str(conv / "m.int8.onnx"), "-o", str(conv / "m.host")]) == 1


# --- labels ------------------------------------------------------------------------------------------------------


def labelled(folder: Path) -> None:
    """200 samples that float decides right: every other decision of int8 is lost."""
    x = random_inputs(200, 3, 6, 5)
    np.savez(folder / "v.npz", x=x)
    session = float_model.session(import_model(folder / "m.onnx"), ["y"])
    labels = np.array([int(np.argmax(session.run({"x": sample[None]})["y"])) for sample in x])
    np.savez(folder / "v.npz", x=x, y=labels)


def test_a_drop_is_met_exactly(conv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(conv)
    assert command(conv) == 0
    found = Accuracy.read(conv / "m.accuracy.json")
    assert found.top1_float == 100.0
    assert found.drop is not None
    assert found.top1 == found.agreement == 100.0 - found.drop
    wrong = sum(pair.count for pair in found.confusions)
    assert found.drop == pytest.approx(wrong / 2)
    assert wrong > 0
    assert command(conv, "--max-drop", f"{found.drop}%") == 0
    assert command(conv, "--max-drop", str(found.drop / 100)) == 0
    capsys.readouterr()
    assert command(conv, "--max-drop", f"{found.drop - 0.01}%") == 1
    printed = capsys.readouterr()
    assert re.search(
        rf"\n  m drop +{found.drop:.2f} points +{found.drop - 0.01:.2f} points +0\.01 points\n", printed.out
    )
    (line,) = printed.err.splitlines()
    assert f"m drop is 0.01 points over its limit: {found.drop:.2f} of {found.drop - 0.01:.2f} points; hint: " in line


def test_int8_may_win(tmp_path: Path) -> None:
    """As `test_a_decision_that_differs`, with the label that int8 finds: a drop below 0 meets any limit."""
    identity = model([node("Gemm", "x w", "y")], {"x": ["N", 2]}, ["y"], {"w": np.eye(2, dtype=np.float32)})
    spans = {"x": (-1.0, 0.9921875), "y": (-64.0, 63.5)}
    found = measured(tmp_path, identity, spans, x=np.array([[0.26, 0.28], [0.9, 0.1], [0.3, 0.9]]), y=[0, 0, 1])
    assert (found.top1_float, found.top1, found.drop) == (66.6667, 100.0, -33.3333)
    (drop,) = verdicts(found, {"drop": 0.0})
    assert drop.ok


def test_a_drop_without_labels_is_one_line(conv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(conv, "--max-drop", "1%") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "m drop is unknown, and its limit is 1.00 points; hint: the validation data have no labels, array 'y'" in line
    )


def test_labels_of_other_samples(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="there are 6 labels for 3 samples"):
        measured(tmp_path, two_layers(), SPANS, x=np.zeros((3, 2)), y=np.zeros((3, 2), np.int64))
