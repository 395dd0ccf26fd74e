"""What `accuracy` measures, against figures worked out by hand; its JSON; bounds held against it."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nnbuild import samples
from nnbuild.accuracy import measure
from nnbuild.calibrate import Ranges
from nnbuild.cli import main
from nnbuild.errors import CalibrationError, ConfigError
from nnbuild.importer import import_model
from nnbuild.network import Array
from nnbuild.pipeline import input_shapes
from nnbuild.quantize import quantize
from nnbuild.report import hints
from nnbuild.report.accuracy import Accuracy, verdicts
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
    agreement, drop, sqnr = verdicts(found, {"agreement": 0.9, "drop": 0.1, "sqnr": 5.0})
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


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": 1}', '{"schema": 2}', "\ud800", "[" * 100000]
)
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
