"""Samples in every form, what can be wrong with them, and the ranges that follow."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nnbuild import calibrate, samples
from nnbuild.calibrate import digest_of, ranges
from nnbuild.cli import main
from nnbuild.errors import CalibrationError, ModelError
from nnbuild.histogram import CHOICES, Histogram
from nnbuild.importer import import_model
from nnbuild.ranges import Ranges, outward
from tests.graphs import model, node, save, weights

INPUTS = {"x": (1, 3, 4, 5)}


def stored(folder: Path, name: str, **arrays: Any) -> str:
    np.savez(folder / name, **arrays)
    return str(folder / name)


def read(spec: str, inputs: Any = None) -> list[dict[str, Any]]:
    return list(samples.load(spec, inputs or INPUTS))


def batch(count: int = 2, *shape: int) -> Any:
    size = shape or (3, 4, 5)
    return np.arange(count * math.prod(size), dtype=np.float32).reshape(count, *size)


# Where samples come from.


@pytest.mark.parametrize("key", ["x", "anything"])
def test_npz_with_one_array(key: str, tmp_path: Path) -> None:
    found = read(stored(tmp_path, "c.npz", **{key: batch()}))
    assert [sample["x"].shape for sample in found] == [(1, 3, 4, 5)] * 2
    np.testing.assert_array_equal(found[1]["x"][0], batch()[1])


def test_npz_prefers_the_name_of_the_input_then_x(tmp_path: Path) -> None:
    spec = stored(tmp_path, "c.npz", x=batch(), image=batch(3), y=np.zeros(2))
    assert len(read(spec, {"image": (1, 3, 4, 5)})) == 3
    assert len(read(spec, {"other": (1, 3, 4, 5)})) == 2


def test_npy_is_memory_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", batch())
    assert isinstance(samples._open_npy(tmp_path / "c.npy"), np.memmap)
    assert len(read(str(tmp_path / "c.npy"))) == 2


def test_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", batch(1) + 1000)
    np.savez(tmp_path / "a.npz", x=batch(2))
    np.save(tmp_path / "c.npy", batch(1)[0] + 2000)
    (tmp_path / "readme.txt").write_text("not a sample")
    assert [float(sample["x"].flat[0]) for sample in read(str(tmp_path))] == [0, 60, 1000, 2000]


FUNCTIONS = """
import numpy as np
ones = np.ones((3, 4, 5))
def generator():
    yield ones
    yield {"x": 2 * ones}
    yield np.stack([3 * ones, 4 * ones])
def array():
    return np.stack([ones, 2 * ones, 3 * ones, 4 * ones])
def mapping():
    return {"x": array()}
def fails():
    yield ones
    raise KeyError("no such\\nfile")
def leaves():
    raise SystemExit(3)
def nothing():
    return []
def words():
    yield "a string"
def two():
    yield {"a": ones, "b": ones}
number = 3
"""


@pytest.mark.parametrize("function", ["generator", "array", "mapping"])
def test_function(function: str, tmp_path: Path) -> None:
    (tmp_path / "calib.py").write_text(FUNCTIONS)
    found = read(f"{tmp_path}/calib.py:{function}")
    assert [float(sample["x"].flat[0]) for sample in found] == [1, 2, 3, 4]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["calib.py"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", r"calib.py:14: KeyError: 'no such\\nfile'"),
        ("leaves", "calib.py:16: SystemExit: 3"),
        ("nothing", "there are no samples"),
        ("words", "item 0: the array for 'x' has dtype <U8, which holds no numbers"),
        ("missing", "there is no function 'missing'"),
        ("number", "there is no function 'number'"),
        ("two", "there is no array for input 'x'; hint: it holds 'a', 'b'"),
    ],
)
def test_function_that_fails(function: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "calib.py").write_text(FUNCTIONS)
    with pytest.raises(CalibrationError, match=message) as caught:
        read(f"{tmp_path}/calib.py:{function}")
    assert "\n" not in str(caught.value)


def test_function_file_that_does_not_parse(tmp_path: Path) -> None:
    (tmp_path / "calib.py").write_text("def samples(:\n")
    with pytest.raises(CalibrationError, match="SyntaxError"):
        read(f"{tmp_path}/calib.py:samples")


# Shapes and types.


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [
        ((7, 3, 4, 5), (1, 3, 4, 5)),
        ((7, 1, 3, 4, 5), (1, 3, 4, 5)),
        ((7, 60), (1, 3, 4, 5)),
        ((7, 49, 10), (1, 1, 49, 10)),
        ((7, 49, 10, 1), (1, 1, 49, 10)),
        ((7, 640), (1, 640)),
        ((7, 1, 640), (1, 640)),
    ],
)
def test_shapes_that_fit(shape: tuple[int, ...], inputs: tuple[int, ...], tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = read(stored(tmp_path, "c.npz", x=data), {"x": inputs})
    assert len(found) == 7
    for sample, expected in zip(found, data, strict=True):
        np.testing.assert_array_equal(sample["x"], expected.reshape(inputs))


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 3, 4, 5)])
def test_a_single_sample(shape: tuple[int, ...], tmp_path: Path) -> None:
    assert len(read(stored(tmp_path, "c.npz", x=np.zeros(shape)))) == 1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (7, 4, 5, 3),
            r"\(7, 4, 5, 3\) do not fit input 'x', which wants \(N, 3, 4, 5\); hint: .*transpose\(0, 3, 1, 2\)",
        ),
        ((7, 3, 5, 4), r"do not fit input 'x', which wants \(N, 3, 4, 5\)$"),
        ((7, 61), "do not fit"),
        ((60,), "do not fit"),
        ((0, 3, 4, 5), "is empty"),
        ((), "do not fit"),
    ],
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=message):
        read(stored(tmp_path, "c.npz", x=np.zeros(shape, np.float32)))


def test_nchw_samples_for_an_nhwc_model(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"these are NCHW, the model takes NHWC: save x.transpose\(0, 2, 3, 1\)"):
        read(stored(tmp_path, "c.npz", x=np.zeros((2, 3, 4, 5))), {"x": (1, 4, 5, 3)})


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64, np.float16, np.float64, np.bool_])
def test_numbers_are_taken_as_they_are(kind: type[np.generic], tmp_path: Path) -> None:
    data = np.ones((2, 3, 4, 5), kind)
    found = read(stored(tmp_path, "c.npz", x=data))
    assert found[0]["x"].dtype == np.float32
    assert float(found[0]["x"].max()) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_none(bad: float, tmp_path: Path) -> None:
    data = np.zeros((4, 3, 4, 5))
    data[2, 1, 1, 1] = bad
    with pytest.raises(CalibrationError, match=r"c.npz: sample 2: input 'x' holds (NaN|an infinite number)"):
        read(stored(tmp_path, "c.npz", x=data))


@pytest.mark.parametrize("data", [np.array(["a", "b"]), np.zeros((2, 60), complex), np.zeros(2, "M8[s]")])
def test_dtypes_that_hold_no_numbers(data: Any, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="which holds no numbers"):
        read(stored(tmp_path, "c.npz", x=data))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    spec = stored(tmp_path, "c.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CalibrationError, match="cannot be read"):
        read(spec)
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CalibrationError, match="not a readable"):
        read(str(tmp_path / "c.npy"))


@pytest.mark.parametrize("name", ["c.npz", "c.npy"])
def test_truncated_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("z"):
        np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(9, 3, 4, 5)))
    else:
        np.save(path, batch())
    content = path.read_bytes()
    for size in (0, 1, 10, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:size])
        with pytest.raises(CalibrationError, match=name):
            read(str(path))


def test_flipped_bytes_in_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(9, 3, 4, 5)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="cannot be read"):
        read(str(path))


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.csv").write_text("1,2")
    cases = {
        "missing.npz": "there is no such file or folder",
        "empty": "holds no .npy and no .npz",
        "c.csv": "'.csv' files are not read; hint: give a .npz",
        "calib.py:samples": "there is no such file",
    }
    for name, message in cases.items():
        with pytest.raises(CalibrationError, match=message):
            samples.load(str(tmp_path / name), INPUTS)
    with pytest.raises(CalibrationError, match="no array for input 'x'; hint: it holds 'a', 'b'"):
        read(stored(tmp_path, "two.npz", a=batch(), b=batch()))


def test_several_inputs(tmp_path: Path) -> None:
    inputs = {"a": (1, 3), "b": (1, 2)}
    good = stored(tmp_path, "c.npz", a=np.zeros((4, 3)), b=np.ones((4, 2)))
    assert [set(sample) for sample in read(good, inputs)] == [{"a", "b"}] * 4
    with pytest.raises(CalibrationError, match=r"the inputs have \[3, 4\] samples each"):
        read(stored(tmp_path, "d.npz", a=np.zeros((4, 3)), b=np.ones((3, 2))), inputs)
    np.save(tmp_path / "e.npy", np.zeros((4, 3)))
    with pytest.raises(CalibrationError, match=r"the model has 2 inputs, a \.npy holds one array"):
        read(str(tmp_path / "e.npy"), inputs)


def test_labels(tmp_path: Path) -> None:
    spec = stored(tmp_path, "c.npz", x=batch(3), y=np.array([2, 0, 1], np.uint8))
    labels = samples.load(spec, INPUTS).labels()
    assert labels is not None
    assert labels.tolist() == [2, 0, 1]
    assert samples.load(stored(tmp_path, "d.npz", x=batch(3)), INPUTS).labels() is None


# Ranges.


def network(folder: Path) -> onnx.ModelProto:
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Sigmoid", "r", "y")]
    return import_model(save(folder, model(nodes, {"x": ["N", 3, 4, 5]}, ["y"], {"w": weights(2, 3, 1, 1)})))


def test_extremes_of_every_value(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(9, 3, 4, 5)).astype(np.float32)
    proto = network(tmp_path)
    found = ranges(proto, samples.load(stored(tmp_path, "c.npz", x=data), INPUTS), "minmax")
    result = np.einsum("oi,nihw->nohw", weights(2, 3, 1, 1)[:, :, 0, 0], data)
    assert found.samples == 9
    assert set(found.tensors) == {"x", "c", "r", "y"}
    for name, values in (("x", data), ("c", result), ("r", np.maximum(result, 0))):
        low, high = found.tensors[name]
        assert low <= values.min() + 1e-6
        assert high >= values.max() - 1e-6
        assert high - low == pytest.approx(values.max() - values.min(), rel=1e-5)


def test_rounded_outward_to_six_digits() -> None:
    assert outward(-1.23456749, 9.87654321) == (-1.23457, 9.87655)
    assert outward(0.0, 1.0) == (0.0, 1.0)
    assert outward(-255.0, 1e-9) == (-255.0, 1.00001e-9)  # the double is a little more than 1e-9


@pytest.mark.parametrize("method", calibrate.METHODS)
def test_the_order_of_samples_does_not_matter(method: str, tmp_path: Path) -> None:
    scale = np.logspace(-4, 3, 20)[:, None, None, None]
    data = np.random.default_rng(0).normal(size=(20, 3, 4, 5)) * scale
    proto = network(tmp_path)
    forwards = ranges(proto, samples.load(stored(tmp_path, "a.npz", x=data), INPUTS), method)
    backwards = ranges(proto, samples.load(stored(tmp_path, "b.npz", x=data[::-1]), INPUTS), method)
    assert forwards.tensors == backwards.tensors
    assert forwards.sha256 != backwards.sha256


def statistics(values: Any) -> Histogram:
    found = Histogram()
    for part in np.array_split(np.asarray(values, np.float32), 7):
        found.add(part)
    return found


def test_histogram_counts_every_value_once() -> None:
    values = np.random.default_rng(0).normal(size=10_000) * np.logspace(-6, 6, 10_000)
    found = statistics(values)
    assert found.bins.sum() == 10_000
    centres, counts = found.centres()
    assert float(np.sum(centres * counts)) == pytest.approx(values.sum(), abs=found.width * 10_000)
    assert max(abs(values)) <= found.width * 4096


def test_a_value_is_half_a_bin_from_its_centre() -> None:
    """After bins have merged as well; the extremes are those of all parts, whichever comes first."""
    values = np.array([-90.0, 7.3, -0.4, 2.6, 0.013, -3.2, 0.4, 900.0, -5.0, 1.0, 250.0], np.float32)
    for ordered in (values, values[::-1]):
        found = statistics(ordered)
        assert (found.low, found.high) == (-90.0, 900.0)
        assert found.width <= 0.5
        centres, counts = found.centres()
        assert counts.sum() == len(values)
        assert all(np.abs(centres - value).min() <= found.width / 2 for value in values)


def test_percentile_leaves_out_single_values_only_among_many() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 300_000)
    values[7] = 1000.0
    low, high = CHOICES["percentile"](statistics(values))
    assert high < 2.0
    assert low < -0.99
    few = np.append(np.linspace(-1, 1, 99), 1000.0)
    assert CHOICES["percentile"](statistics(few))[1] == pytest.approx(1000.0)


def test_mse_shrinks_a_range_with_a_tail_and_keeps_a_uniform_one() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 100_000)
    assert CHOICES["mse"](statistics(values)) == (float(np.float32(values.min())), float(np.float32(values.max())))
    values[7] = 30.0
    assert CHOICES["mse"](statistics(values))[1] < 28.0


def test_all_zero_and_constant_values() -> None:
    for value in (0.0, 5.0, -3.0):
        found = statistics(np.full(100, value))
        for choice in CHOICES.values():
            low, high = choice(found)
            assert min(low, 0.0) <= value <= max(high, 0.0)


def test_inputs_are_never_clipped(tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(-1, 1, (2000, 3, 4, 5)).astype(np.float32)
    data[5, 0, 0, 0] = 99.0
    found = ranges(network(tmp_path), samples.load(stored(tmp_path, "c.npz", x=data), INPUTS), "percentile")
    assert found.tensors["x"][1] == 99.0


def test_values_that_overflow_are_told(tmp_path: Path) -> None:
    nodes = [node("Exp", "x", "y")]
    proto = import_model(save(tmp_path, model(nodes, {"x": ["N", 3]}, ["y"])))
    spec = stored(tmp_path, "c.npz", x=np.array([[1, 2, 3], [1000, 0, 0]], np.float32))
    with pytest.raises(CalibrationError, match="value 'y' is not finite for sample 1"):
        ranges(proto, samples.load(spec, {"x": (1, 3)}))


def test_json_comes_back(tmp_path: Path) -> None:
    found = ranges(network(tmp_path), samples.load(stored(tmp_path, "c.npz", x=batch()), INPUTS))
    text = found.to_json()
    assert Ranges.from_json(text, "m.ranges.json") == found
    assert list(json.loads(text)["tensors"]) == sorted(found.tensors)
    assert found.sha256 == digest_of(samples.load(str(tmp_path / "c.npz"), INPUTS))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": 2}',
        '{"schema": 1, "tensors": {"x": [1]}}',
        '{"schema": 1, "tensors": 3}',
        "[" * 9999,
    ],
)
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(CalibrationError, match=r"m\.ranges\.json: "):
        Ranges.from_json(text, "m.ranges.json")


@pytest.mark.parametrize("span", ["[NaN, 1]", "[2, 1]", "[0, Infinity]"])
def test_json_with_impossible_ranges(span: str) -> None:
    text = f'{{"schema": 1, "method": "minmax", "samples": 1, "sha256": "", "tensors": {{"x": {span}}}}}'
    with pytest.raises(CalibrationError, match="not finite, or upside down"):
        Ranges.from_json(text, "m.ranges.json")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network(tmp_path)
    path, spec = str(tmp_path / "m.onnx"), stored(tmp_path, "c.npz", x=batch())
    for name in ("a.json", "b.json"):
        assert main(["calibrate", path, "--calibration", spec, "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert main(["calibrate", path, "--calibration", spec, "--method", "guess", "-o", str(tmp_path / "c.json")]) == 1
    assert main(["calibrate", path, "-o", str(tmp_path / "c.json")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "unknown method 'guess'; hint: one of auto, minmax, percentile, mse, entropy"
    assert "a float model needs calibration samples; hint: calibration='samples.npz' in NNModel" in lines[1]


def test_shapes_that_onnxruntime_refuses_only_when_it_runs(tmp_path: Path) -> None:
    """onnx before 1.22 lets a Gemm pass whose weights do not fit its input."""
    proto = import_model(
        save(tmp_path, model([node("Gemm", "x w", "y")], {"x": ["N", 3]}, ["y"], {"w": weights(3, 2)}))
    )
    kept = proto.graph.initializer[0]
    kept.CopyFrom(onnx.numpy_helper.from_array(weights(4, 2), kept.name))
    spec = stored(tmp_path, "c.npz", x=np.zeros((2, 3), np.float32))
    with pytest.raises(ModelError, match="onnxruntime cannot run it"):
        ranges(proto, samples.load(spec, {"x": (1, 3)}))
