"""Networks as streams: at every call the bits of the whole window, in numpy and in C; and what cannot be one."""

from __future__ import annotations

import ctypes
import functools
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

import nnbuild
from nnbuild import freeze, interpret
from nnbuild.cli import main
from nnbuild.contract import LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ConfigError, ModelError
from nnbuild.importer import import_model
from nnbuild.intervals import Interval
from nnbuild.lower import lower, traced
from nnbuild.network import Array, Layer, Network, Port, QuantParams, Tensor
from nnbuild.ops import BY_NAME
from nnbuild.ops.history import HistoryParams, _turns, settled
from nnbuild.pipeline import Request, quantized
from nnbuild.ram import memory
from nnbuild.ram.memory import plan
from nnbuild.selection import select
from nnbuild.shrink import known_intervals, shrink
from nnbuild.streams import over_time, reset
from nnbuild.streams.over_time import streamed
from nnbuild.streams.reset import fills
from nnbuild.streams.sliding import Time
from nnbuild.streams.stream import Stream, stream_of
from nnbuild.target import TARGETS

from . import host, qemu, reference, test_recurrent
from .graphs import f32, i64, model, node, save, weights
from .random_streams import RandomStream, streams

ROOT = Path(__file__).parents[1]


def windows(network: Network, axis: int, frames: int, calls: int, seed: int = 0) -> list[tuple[Array, Array]]:
    """For each call the new frames, and the whole window behind them; zeros before the first."""
    (port,) = network.inputs
    tensor, rng = network.tensors[port.tensor], np.random.default_rng(seed)
    window = np.full(port.shape, tensor.quant.zero_point, np.int8)
    found = []
    for _ in range(calls):
        shape = tuple(frames if n == axis else size for n, size in enumerate(port.shape))
        new = rng.integers(-128, 128, shape).astype(np.int8)
        window = np.concatenate([window, new], axis).take(range(frames, frames + port.shape[axis]), axis)
        found.append((new.ravel(), window.ravel()))
    return found


def newest(whole: Array, rows: Array) -> Array:
    """The part of the whole window's output that a call gives."""
    axis = next((n for n in range(whole.ndim) if whole.shape[n] != rows.shape[n]), 0)
    return whole.take(range(whole.shape[axis] - rows.shape[axis], whole.shape[axis]), axis)


def differing(whole: Network, stream: Network, axis: int, calls: int, seed: int = 0) -> list[int]:
    """Calls whose bytes are not those of the whole window."""
    frames, states = stream.inputs[0].shape[axis], interpret.States()
    wrong = []
    for number, (new, window) in enumerate(windows(whole, axis, frames, calls, seed)):
        outputs = interpret.run(stream, [new], states)
        expected = interpret.run(whole, [window])
        if any(newest(a, b).tobytes() != b.tobytes() for a, b in zip(expected, outputs, strict=True)):
            wrong.append(number)
    return wrong


def of_random(drawn: RandomStream) -> tuple[Network, Network] | None:
    """Both forms, of as few frames a call as there may be, or of a multiple; None where it is refused."""
    whole = lower(drawn.model)
    try:
        stream = streamed(whole, Stream(drawn.axis))
        several = drawn.times * stream.inputs[0].shape[drawn.axis]
        if drawn.times == 1 or several >= whole.inputs[0].shape[drawn.axis]:
            return whole, stream
        return whole, streamed(whole, Stream(drawn.axis, several))
    except ModelError as error:
        event(error.findings[0].message[:60])
        return None


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(streams())
def test_random_streams_are_the_whole_window_to_the_last_bit(drawn: RandomStream) -> None:
    both = of_random(drawn)
    if both is not None:
        whole, stream = both
        event(f"{sum(layer.op == 'history' for layer in stream.layers)} histories")
        calls = 2 * whole.inputs[0].shape[drawn.axis]
        assert differing(whole, stream, drawn.axis, calls, drawn.seed) == []
        if (smaller := shrink(stream)) is not stream:
            event("smaller")
            assert differing(whole, smaller, drawn.axis, calls, drawn.seed) == []


@settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(st.lists(streams(), min_size=6, max_size=6))
@pytest.mark.parametrize("target", ["generic", "cortex-m0"])
def test_random_streams_in_c_are_the_reference(target: str, drawn: list[RandomStream]) -> None:
    found = [each for each in map(of_random, drawn) if each is not None]
    chosen = replace(TARGETS[target], guard="")
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, str] = {}
        for number, (_, stream) in enumerate(found):
            files |= emit(stream, EmitOptions(f"m{number}", chosen))
        library = host.shared_library(Path(folder), files)
        for number, (whole, stream) in enumerate(found):
            if any(layer.op == "history" for layer in stream.layers):
                getattr(library, f"m{number}_reset")()
            assert differing_in_c(library, f"m{number}", whole, stream, drawn[0].seed) == []


def differing_in_c(library: ctypes.CDLL, name: str, whole: Network, stream: Network, seed: int) -> list[int]:
    """Calls of the C whose bytes are not the reference's of the whole window."""
    sizes = [stream.tensors[port.tensor].bytes for port in stream.outputs]
    shapes = zip(whole.inputs[0].shape, stream.inputs[0].shape, strict=True)
    axis = next(n for n, (size, new) in enumerate(shapes) if size != new)
    wrong = []
    for number, (new, window) in enumerate(windows(whole, axis, stream.inputs[0].shape[axis], 12, seed)):
        outputs = host.call(library, f"{name}_run", [new], sizes)
        expected = interpret.run(whole, [window])
        for port, rows, found in zip(stream.outputs, expected, outputs, strict=True):
            if newest(rows, np.empty(port.shape)).tobytes() != found.tobytes():
                wrong.append(number)
    return wrong


# The reference network.


@dataclass(frozen=True)
class Quantized:
    """A model, its int8 form, and windows of it."""

    path: Path
    int8: onnx.ModelProto
    samples: Array


@functools.cache
def sww() -> Quantized:
    """The wake word network as a build quantizes it, with its samples as float."""
    folder = reference.FOLDER
    samples = np.load(folder / "data" / "sww_calib.npz")["x"]
    with tempfile.TemporaryDirectory() as made:
        np.savez(f"{made}/x.npz", x=samples)
        path = folder / "models" / "tf2onnx" / "sww_tf.onnx"
        request = Request(str(path), f"{made}/x.npz", method="minmax", corrections="none", stream=Stream(1))
        return Quantized(path, onnx.load_from_string(quantized(request).content), samples)


def test_sww_needs_46_thousand_multiplications_a_frame(reference_dir: Path) -> None:
    whole, stream = traced(sww().int8)[0], lower(sww().int8)
    counts = [
        sum(BY_NAME[layer.op].macs(LayerView.of(network, layer)) for layer in network.layers)
        for network in (whole, stream)
    ]
    assert counts == [826_368, 46_040]
    assert stream.inputs[0].shape == (1, 1, 1, 40)
    assert settled(stream) == 30
    assert differing(whole, stream, 1, 70) == []


def test_sww_takes_a_quarter_of_a_million_cycles_and_4300_bytes(reference_dir: Path) -> None:
    target = TARGETS["cortex-m0"]
    report = json.loads(emit(lower(sww().int8), EmitOptions("sww", target))["sww.report.json"])
    cycles = report["cost"]["run"]["cycles"] + sum(layer["cost"]["cycles"] for layer in report["layers"])
    assert cycles < 250_000
    assert report["arena_bytes"] + report["state_bytes"] <= 4300


@pytest.mark.parametrize("core", ["m0", "m4"])
def test_sww_on_cores_is_the_whole_window_at_every_frame(reference_dir: Path, core: str, tmp_path: Path) -> None:
    """The bytes of 70 frames; expected are those of the network over its whole window."""
    qemu.need()
    machine = qemu.CORES[core]
    whole, stream = traced(sww().int8)[0], lower(sww().int8)
    calls = windows(whole, 1, 1, 70)
    expected = np.concatenate([interpret.run(whole, [window])[0].ravel() for _, window in calls])
    sources = host.write(tmp_path, emit(stream, EmitOptions("sww", machine.target)))
    sources += [tmp_path / "sww_kernels.S"]
    main = tmp_path / "main.c"
    main.write_text(_frames_program(np.concatenate([new for new, _ in calls]), expected))
    assert qemu.run(qemu.link(tmp_path, [*sources, main], machine), machine) == (0, "")
    expected[-2] ^= 1
    main.write_text(_frames_program(np.concatenate([new for new, _ in calls]), expected))
    assert qemu.run(qemu.link(tmp_path, [*sources, main], machine), machine)[0] == 70


def _frames_program(frames: Array, expected: Array) -> str:
    """Ends with 0, or with the number of the first frame, from 1 on, whose output is another."""
    arrays = {"frames": frames, "expected": expected}
    data = "\n".join(
        f"static const int8_t {name}[{values.size}] = {{ {', '.join(map(str, values.tolist()))} }};"
        for name, values in arrays.items()
    )
    return f"""#include "sww.h"
{data}
int main(void);
int main(void)
{{
    int8_t output[SWW_OUTPUT_SIZE];
    sww_reset();
    for (int frame = 0; frame < {expected.size} / SWW_OUTPUT_SIZE; frame++) {{
        if (sww_run(&frames[frame * SWW_INPUT_SIZE], output) != 0) {{
            return 200;
        }}
        for (int i = 0; i < SWW_OUTPUT_SIZE; i++) {{
            if (output[i] != expected[frame * SWW_OUTPUT_SIZE + i]) {{
                return frame + 1;
            }}
        }}
    }}
    return 0;
}}
"""


# What builds do with a stream.


def small(folder: Path, **attributes: Any) -> Path:
    """Two convolutions along time over (1, 12, 1, 3), and a classifier behind all frames of the second."""
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w1", "a", name="first", **attributes),
        node("Relu", "a", "b"),
        node("Conv", "b w2", "c", name="second"),
        node("Flatten", "c", "f"),
        node("Gemm", "f w3", "y", name="third"),
    ]
    rows = 8 if not attributes else 8 + sum(attributes["pads"])
    constants = {"w1": weights(4, 3, 3, 1), "w2": weights(5, 4, 3, 1, seed=1), "w3": weights(5 * rows, 2, seed=2)}
    return save(folder, model(nodes, {"x": (1, 12, 1, 3)}, ["y"], constants))


def samples(folder: Path, count: int = 20, frames: int = 12) -> str:
    values = np.random.default_rng(3).normal(0, 1, (count, frames, 1, 3)).astype(np.float32)
    np.savez(folder / "x.npz", x=values)
    return str(folder / "x.npz")


def command(*words: str) -> None:
    assert main(list(words)) == 0


def test_a_build_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """quantize, accuracy by the C and by the reference, emit with a self-test, and Python's run."""
    path, calibration, int8 = str(small(tmp_path)), samples(tmp_path), str(tmp_path / "m.int8.onnx")
    command("quantize", path, "--calibration", calibration, "--stream-axis", "1", "-o", int8)
    found = []
    for way in ([], ["--reference"]):
        words = [path, int8, "--samples", calibration, "--json", str(tmp_path / "a.json"), "--stream-axis", "1", *way]
        command("accuracy", *words)
        found.append(json.loads((tmp_path / "a.json").read_text()))
    generated, reference = found
    assert "gcc" in generated.pop("evaluated_by")
    reference.pop("evaluated_by")
    assert generated == reference, "the C, frame by frame, is the whole window in numpy"
    command("emit", int8, "--name", "m", "--selftest", "30", "--output-dir", str(tmp_path / "c"))
    report = json.loads((tmp_path / "c" / "m.report.json").read_text())
    assert report["model_id"] == generated["model_id"]
    files = {file.name: file.read_text() for file in (tmp_path / "c").iterdir()}
    assert "#define M_INPUT_SHAPE { 1, 1, 1, 3 }" in files["m.h"]
    assert "#define M_WARM_UP 12\n" in files["m.h"]
    library = host.shared_library(tmp_path / "built", files)
    assert library.m_selftest() == 0
    network = lower(onnx.load(int8))
    whole = traced(onnx.load(int8))[0]
    calls = windows(whole, 1, 1, 20)
    answers = nnbuild.run(int8, np.stack([new.reshape(1, 1, 3) for new, _ in calls]))
    assert isinstance(answers, np.ndarray)
    for (_, window), answer in zip(calls, answers, strict=True):
        assert interpret.run(whole, [window])[0].tobytes() == answer.tobytes()
    assert network.model_id() == int(report["model_id"], 16) != whole.model_id()


def test_the_file_stays_a_network_over_its_window(tmp_path: Path) -> None:
    """Standard ONNX of the whole window, whose metadata say the rest; importing it again keeps them."""
    path, calibration = small(tmp_path), samples(tmp_path)
    one, two = (
        onnx.load_from_string(quantized(Request(str(path), calibration, stream=stream)).content)
        for stream in (Stream(1, 2), None)
    )
    assert stream_of(one) == Stream(1, 2)
    assert stream_of(two) is None
    assert stream_of(import_model(save(tmp_path, one, "i.onnx"))) == Stream(1, 2)
    assert stream_of(import_model(tmp_path / "i.onnx", stream=Stream(1, 4))) == Stream(1, 4)
    del one.metadata_props[:]
    assert one == two


def test_states_of_the_caller(tmp_path: Path) -> None:
    """Two streams that take turns, each with a state of its own; and a state that nobody reset."""
    whole = lower(onnx.load_from_string(quantized(Request(str(small(tmp_path)), samples(tmp_path))).content))
    stream = streamed(whole, Stream(1))
    library = host.shared_library(tmp_path / "c", emit(stream, EmitOptions("m", arena="caller")))
    header = (tmp_path / "c" / "m.h").read_text()
    arena, *states = (
        np.zeros(int(re.search(rf"M_{what}_SIZE (\d+)", header)[1]) // 4 + 1, np.uint32)  # type: ignore[index]
        for what in ("ARENA", "STATE", "STATE")
    )
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (arena, *states)]
    output = np.zeros(2, np.int8)
    both = [windows(whole, 1, 1, 30, seed) for seed in (1, 2)]
    assert library.m_run(pointers[0], pointers[1], both[0][0][0].ctypes, output.ctypes) == 1
    for state in pointers[1:]:
        assert library.m_reset(state) == 0
    for calls in zip(*both, strict=True):
        for state, (new, window) in zip(pointers[1:], calls, strict=True):
            assert (
                library.m_run(pointers[0], state, ctypes.c_void_p(new.ctypes.data), ctypes.c_void_p(output.ctypes.data))
                == 0
            )
            assert output.tobytes() == interpret.run(whole, [window])[0].tobytes()


def by_rows(folder: Path, kernel: int) -> tuple[Network, Network]:
    """A convolution over `kernel` frames, one over three, a classifier behind the whole window; two frames a call."""
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w1", "a", name="first"),
        node("Conv", "a w2", "b", name="second"),
        node("Flatten", "b", "f"),
        node("Gemm", "f w3", "y", name="third"),
    ]
    constants = {"w1": weights(4, 3, kernel, 1), "w2": weights(5, 4, 3, 1, seed=1)}
    constants["w3"] = weights(5 * (11 - kernel), 2, seed=2)
    path = save(folder, model(nodes, {"x": (1, 12, 1, 3)}, ["y"], constants))
    whole = lower(onnx.load_from_string(quantized(Request(str(path), samples(folder))).content))
    return whole, streamed(whole, Stream(1, 2))


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("frames", [1, 2])
def test_what_others_read_is_not_written_where_it_is_kept(tmp_path: Path, channels: int, frames: int) -> None:
    """New rows that a table reads too, or a part of them: the history has moved them by then."""
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w1", "a"),
        node("Conv", "a w2", "b"),
        node("Slice", "a from to channel", "part"),
        node("Tanh", "part", "c"),
        node("Slice", "c late end time", "d"),
        node("Concat", "b d", "y", axis=1),
    ]
    bounds = {"from": 0, "to": channels, "channel": 1, "late": 2, "end": 12, "time": 2}
    constants = {"w1": weights(4, 3, 1, 1), "w2": weights(4, 4, 3, 1, seed=1)}
    constants |= {name: i64(value) for name, value in bounds.items()}
    path = save(tmp_path, model(nodes, {"x": (1, 12, 1, 3)}, ["y"], constants))
    whole = lower(onnx.load_from_string(quantized(Request(str(path), samples(tmp_path))).content))
    stream = streamed(whole, Stream(1, frames))
    library = host.shared_library(tmp_path / "c", emit(stream, EmitOptions("m")))
    library.m_reset()
    assert differing_in_c(library, "m", whole, stream, 0) == []


def test_states_lie_at_words_and_apart(tmp_path: Path) -> None:
    """Though their sizes are odd: 3 rows of 3, 3 of 4, 8 of 5."""
    whole = lower(onnx.load_from_string(quantized(Request(str(small(tmp_path)), samples(tmp_path))).content))
    stream = streamed(whole, Stream(1))
    planned = plan(stream, select(stream, TARGETS["generic"]), TARGETS["generic"])
    assert list(planned.states.values()) == [4, 16, 28]
    assert planned.state_bytes == 28 + 40


def test_a_stream_goes_by_rows(tmp_path: Path) -> None:
    """Rows of what is kept are read where they lie in the state, and rows of new frames are written there."""
    whole, stream = by_rows(tmp_path, 3)
    first, second = [layer.name for layer in stream.layers if layer.op == "conv2d"]
    files = emit(stream, EmitOptions("m", stream_rows=f"{first}-{first},{second}-{second}"))
    assert "int8_t *state, int32_t step" in files["m.c"]
    library = host.shared_library(tmp_path / "c", files)
    library.m_reset()
    assert differing_in_c(library, "m", whole, stream, 0) == []


def test_frames_of_a_stream_are_pushed(tmp_path: Path) -> None:
    """What is made of them waits in the arena, not in the state, until the run."""
    whole, stream = by_rows(tmp_path, 1)
    library = host.shared_library(tmp_path / "c", emit(stream, EmitOptions("m", push_rows=True)))
    library.m_reset()
    output = np.zeros(2, np.int8)
    for new, window in windows(whole, 1, 2, 12):
        for row, frame in enumerate(new.reshape(2, 3)):
            assert library.m_push_row(row, ctypes.c_void_p(frame.ctypes.data)) == 0
        assert library.m_run(ctypes.c_void_p(output.ctypes.data)) == 0
        assert output.tobytes() == interpret.run(whole, [window])[0].tobytes()


def test_a_frozen_stream_is_no_other(tmp_path: Path) -> None:
    request = Request(str(small(tmp_path)), samples(tmp_path), stream=Stream(1))
    int8 = str(tmp_path / "m.int8.onnx")
    freeze.freeze(request, int8)
    assert stream_of(onnx.load_from_string(freeze.frozen(request, int8))) == Stream(1)
    with pytest.raises(ConfigError, match="option stream_axis is not given, frozen with 1"):
        freeze.frozen(replace(request, stream=None), int8)
    with pytest.raises(ConfigError, match="option stream_frames is 2, frozen with not given"):
        freeze.frozen(replace(request, stream=Stream(1, 2)), int8)


def test_check_judges_a_stream_by_its_shapes(tmp_path: Path) -> None:
    path = small(tmp_path)
    whole = nnbuild.check(path, cpu="cortex-m0")
    stream = nnbuild.check(path, cpu="cortex-m0", stream_axis=1)
    assert stream.figures.macs < whole.figures.macs / 4
    assert any(layer.op == "history" for layer in stream.figures.layers)
    int8 = quantized(Request(str(path), samples(tmp_path), stream=Stream(1))).content
    planned = json.loads(
        emit(lower(onnx.load_from_string(int8)), EmitOptions("m", TARGETS["cortex-m0"]))["m.report.json"]
    )
    assert stream.figures.ram == planned["arena_bytes"] + planned["state_bytes"]


def test_channels_last_moves_the_axis(tmp_path: Path) -> None:
    """The axis is that of the model, whatever order the input has in C."""
    nodes = [node("Conv", "x w", "a"), node("GlobalAveragePool", "a", "b"), node("Flatten", "b", "y")]
    path = save(tmp_path, model(nodes, {"x": (1, 3, 12, 2)}, ["y"], {"w": weights(4, 3, 3, 2)}))
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(0, 1, (9, 3, 12, 2)).astype(np.float32))
    int8 = onnx.load_from_string(quantized(Request(str(path), str(tmp_path / "x.npz"), stream=Stream(2))).content)
    for layout, shape, axis in (("", (1, 3, 1, 2), 2), ("NHWC", (1, 1, 2, 3), 1)):
        stream, whole = lower(int8, "", layout), traced(int8, "", layout)[0]
        assert stream.inputs[0].shape == shape
        assert differing(whole, stream, axis, 30) == []


# What is kept.


def test_readers_share_what_is_kept() -> None:
    """A window of three rows, and beside it the row before the last of them, which needs no rows of its own."""
    drawn = _residual()
    whole, stream = lower(drawn), streamed(lower(drawn), Stream(1))
    histories = [layer for layer in stream.layers if layer.op == "history"]
    assert [layer.params.rows for layer in histories] == [3]
    assert differing(whole, stream, 1, 25) == []


def _residual() -> onnx.ModelProto:
    """x -> window of three rows; plus the middle one."""
    from nnbuild.ops.singles import _Model

    build, quant = _Model("residual"), QuantParams(0.05, 3)
    x = build.node("Transpose", [build.input((1, 9, 1, 4), quant)], perm=[0, 3, 1, 2])
    weight = build.quantized(
        np.arange(-18, 18, dtype=np.int8).reshape(4, 1, 3, 3)[:, :, :, :1] * 3, np.full(4, 0.01), 0
    )
    y = build.pair(build.node("Conv", [x, weight], group=4), QuantParams(0.04, -8))
    bounds = [build.constant(np.array([n], np.int64)) for n in (1, 8, 2)]
    total = build.pair(build.node("Add", [y, build.node("Slice", [x, *bounds])]), QuantParams(0.08, 1))
    return build.model(total)


def test_a_state_begins_as_zeros_would_leave_it(tmp_path: Path) -> None:
    """What a reset writes: values of the zero frames behind each layer, as runs and rows, and no image of the state."""
    whole = lower(onnx.load_from_string(quantized(Request(str(small(tmp_path)), samples(tmp_path))).content))
    stream = streamed(whole, Stream(1))
    choices = select(stream, TARGETS["generic"])
    found, pattern = fills(stream, plan(stream, choices, TARGETS["generic"]))
    assert [(fill.value, fill.period) for fill in found[:1]] == [(whole.tensors["input0"].quant.zero_point, 1)]
    assert pattern.size == sum(fill.period for fill in found if fill.value is None) < 12
    zeros = interpret.run_all(whole, [np.full(36, whole.tensors["input0"].quant.zero_point, np.int8)])
    for layer in stream.layers:
        if layer.op == "history":
            rows = zeros[layer.inputs[0]].reshape(layer.params.outer, -1, layer.params.inner)
            assert (rows == layer.constants["start"].reshape(layer.params.outer, 1, -1)).all()


def test_fills_make_the_states_of_any_beginning() -> None:
    """In memory of noise, side by side; a beginning that is a repetition takes no more of the constant than it has to.

    Neighbours of one value are one fill.
    """
    rng = np.random.default_rng(1)
    for _ in range(200):
        tensors: dict[str, Tensor] = {}
        layers: list[Layer] = []
        quant = QuantParams(0.1, 0)
        for number, inner in enumerate(rng.integers(1, 7, 4).tolist()):
            tensors |= {name: Tensor(name, (n, inner), quant) for name, n in ((f"x{number}", 1), (f"y{number}", 3))}
            row = rng.choice(np.array([0, 5], np.int8), inner) if rng.integers(2) else np.full(inner, 5, np.int8)
            kept = HistoryParams(1, 3, 1, inner)
            layers.append(Layer(f"l{number}", "history", (f"x{number}",), f"y{number}", kept, {"start": row}, "n"))
        inputs, outputs = (
            tuple(Port(name, name, tensors[name].shape, "") for name in tensors if name[0] == end) for end in "xy"
        )
        network = Network(tensors, tuple(layers), inputs, outputs)
        found, constant = fills(network, plan(network, select(network, TARGETS["generic"]), TARGETS["generic"]))
        states, size = memory._states(network)
        filled = np.full(size, 77, np.int8)
        for fill in found:
            part = constant[fill.source : fill.source + fill.period] if fill.value is None else np.int8(fill.value)
            filled[fill.first : fill.end] = np.resize(part, fill.end - fill.first)
        rows = [layer.constants["start"] for layer in layers]
        for layer, row in zip(layers, rows, strict=True):
            start = states[layer.name]
            assert (filled[start : start + 3 * row.size] == np.tile(row, 3)).all()
        single = [row[0] if (row == row[0]).all() else None for row in rows]
        assert len(found) == sum(
            one is None or one != before for one, before in zip(single, [None, *single[:-1]], strict=True)
        )
        periods = [
            next(n for n in range(1, 7) if (np.resize(row[:n], 3 * row.size) == np.tile(row, 3)).all()) for row in rows
        ]
        assert constant.size == sum(period for period in periods if period > 1)


def test_new_rows_come_in_where_the_oldest_lie_unless_that_is_elsewhere() -> None:
    sizes = {(1, 5, 1, 16): True, (1, 6, 2, 3): True, (1, 7, 2, 5): False, (3, 5, 1, 4): False}
    assert {each: _turns(HistoryParams(*each)) for each in sizes} == sizes


def test_a_beginning_is_repeated_as_a_whole() -> None:
    """A state ends with the end of a repetition: C need not stop within one."""
    for values, size in (([0, 5, 0], 3), ([0, 5, 0, 5], 2), ([4, 4, 4], 1), ([1, 2, 1, 3], 4)):
        assert reset._repeated(np.array(values, np.int8)).tolist() == values[:size]


def test_channels_that_hold_one_value_are_not_kept(tmp_path: Path) -> None:
    """The history of the first convolution loses a channel with it, and begins without it."""
    constants = {"w1": weights(4, 3, 3, 1), "w2": weights(5, 4, 3, 1, seed=1), "b": f32(0.1, -90.0, 0.2, 0.0)}
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w1 b", "a"),
        node("Relu", "a", "r"),
        node("Conv", "r w2", "c"),
        node("GlobalAveragePool", "c", "y"),
    ]
    path = save(tmp_path, model(nodes, {"x": (1, 12, 1, 3)}, ["y"], constants))
    request = Request(str(path), samples(tmp_path), method="minmax", corrections="none")
    whole = lower(onnx.load_from_string(quantized(request).content))
    stream = streamed(whole, Stream(1))
    found = [[la.params.inner for la in net.layers if la.op == "history"] for net in (stream, shrink(stream))]
    assert found == [[3, 4, 5], [3, 3, 5]]
    assert differing(whole, shrink(stream), 1, 30) == []


def test_what_is_kept_is_bounded_where_time_is_the_last_axis() -> None:
    """As many channels as the kept rows, whatever the new ones are; all values lie within, from the reset on."""
    for new in (1, 2, 3):
        params = HistoryParams(4, 6, new, 1)
        start = np.array([-100, 3, 40, 7], np.int8)
        tensors = {name: Tensor(name, (4, size), QuantParams(0.05, 0)) for name, size in (("x", new), ("kept", 6))}
        view = LayerView(
            Layer("l", "history", ("x",), "kept", params, {"start": start}, "n"), (tensors["x"],), tensors["kept"]
        )
        came = Interval(np.arange(-5, -5 + new), np.arange(20, 20 + new))
        found = BY_NAME["history"].bounds(view, [came])
        assert found.low.tolist() == [-100] * 6
        assert found.high.tolist() == [40] * 6
        later = BY_NAME["history"].bounds(
            replace(view, layer=replace(view.layer, constants={"start": start * 0})), [came]
        )
        assert (later.low.tolist(), later.high.tolist()) == ([-5] * 6, [19 + new] * 6)


def test_a_stream_whose_last_axis_is_time_shrinks(tmp_path: Path) -> None:
    """A table, and a classifier behind all points in time of three channels."""
    nodes = [node("Tanh", "x", "a"), node("Flatten", "a", "f"), node("Gemm", "f w", "y")]
    path = save(tmp_path, model(nodes, {"x": (1, 3, 12)}, ["y"], {"w": weights(36, 2)}))
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(0, 1, (9, 3, 12)).astype(np.float32))
    whole = lower(onnx.load_from_string(quantized(Request(str(path), str(tmp_path / "x.npz"))).content))
    for frames in (1, 2, 4):
        stream = streamed(whole, Stream(2, frames))
        known = known_intervals(stream)
        assert {name: own.low.size for name, own in known.items()} == {
            name: tensor.channels for name, tensor in stream.tensors.items()
        }
        assert differing(whole, shrink(stream), 2, 30) == []


# What cannot be one.


def refused(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any],
    stream: Stream | None = None,
    int16: Sequence[str] = (),
) -> str:
    path = save(folder, model(nodes, {"x": (1, 3, 12)}, ["y"], constants))
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(0, 1, (9, 3, 12)).astype(np.float32))
    request = Request(str(path), str(folder / "x.npz"), stream=stream or Stream(2), int16=tuple(int16))
    int8 = onnx.load_from_string(quantized(request).content)
    with pytest.raises(ModelError) as caught:
        lower(int8, "m.onnx")
    return str(caught.value)


def test_padding_along_time(tmp_path: Path) -> None:
    text = refused(tmp_path, [node("Conv", "x w", "y", name="first", pads=[1, 1])], {"w": weights(4, 3, 3)})
    assert text == "m.onnx: node 'first' (conv2d): cannot stream: it pads along time"


def test_softmax_over_time(tmp_path: Path) -> None:
    text = refused(tmp_path, [node("Softmax", "x", "y", name="over", axis=2)], {})
    assert text == "m.onnx: node 'over' (softmax): cannot stream: it runs over several points in time at once"


def test_attention_over_time(tmp_path: Path) -> None:
    nodes = [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "t x", "y", name="all")]
    assert refused(tmp_path, nodes, {}) == "m.onnx: node 'all' (matmul): cannot stream: matmul does not run along time"


def test_recurrent_layers(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[2, 0, 1]),
        node("GRU", "t w r", "y -", name="steps", hidden_size=2),
    ]
    text = refused(tmp_path, nodes, {"w": weights(1, 6, 3), "r": weights(1, 6, 2)})
    assert text == "m.onnx: node 'steps' (gru): cannot stream: gru does not run along time"


def test_constants_that_change_along_time(tmp_path: Path) -> None:
    text = refused(tmp_path, [node("Mul", "x w", "y", name="envelope")], {"w": weights(1, 3, 12)})
    assert text == "m.onnx: node 'envelope' (mul): cannot stream: what it takes is not the same at all times"


@pytest.mark.parametrize(
    ("name", "own"),
    [("first", "'first' (wide_conv2d)"), ("second", "'second' (wide_conv2d)"), ("x", "'first' (transpose)")],
)
def test_values_of_16_bits(tmp_path: Path, name: str, own: str) -> None:
    nodes = [node("Conv", "x w", "a", name="first"), node("Conv", "a v", "y", name="second")]
    text = refused(tmp_path, nodes, {"w": weights(4, 3, 3), "v": weights(4, 4, 3)}, int16=[name])
    assert text.splitlines()[0] == f"m.onnx: node {own}: cannot stream: it has int16 values, and a stream keeps int8"


def test_values_of_16_bits_behind_a_stream(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a"),
        node("GlobalAveragePool", "a", "m"),
        node("Flatten", "m", "f"),
        node("Gemm", "f g", "h", name="wide"),
        node("Gemm", "h g", "y"),
    ]
    path = save(tmp_path, model(nodes, {"x": (1, 3, 12)}, ["y"], {"w": weights(4, 3, 3), "g": weights(4, 4)}))
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(0, 1, (9, 3, 12)).astype(np.float32))
    request = Request(str(path), str(tmp_path / "x.npz"), stream=Stream(2), int16=("wide",))
    int8 = onnx.load_from_string(quantized(request).content)
    whole, stream = traced(int8, "", "")[0], lower(int8)
    assert any(tensor.quant.wide for tensor in stream.tensors.values())
    assert differing(whole, stream, 2, 30) == []


def test_values_of_16_bits_are_not_looked_for(tmp_path: Path) -> None:
    path = save(tmp_path, model([node("Conv", "x w", "y")], {"x": (1, 3, 12)}, ["y"], {"w": weights(4, 3, 3)}))
    np.savez(tmp_path / "x.npz", x=np.zeros((9, 3, 12), np.float32))
    with pytest.raises(ConfigError, match="'stream_axis' and int16='auto' exclude each other"):
        quantized(Request(str(path), str(tmp_path / "x.npz"), stream=Stream(2), int16=("auto",)))


def test_time_that_is_turned_round(tmp_path: Path) -> None:
    nodes = [node("Slice", "x b e a s", "r", name="back"), node("Conv", "r w", "y", name="first")]
    bounds = {"b": i64(-1), "e": i64(-13), "a": i64(2), "s": i64(-1), "w": weights(4, 3, 3)}
    assert "cannot stream: it moves points in time about" in refused(tmp_path, nodes, bounds)


def test_every_node_is_named_once(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a", name="first", pads=[1, 1]),
        node("Conv", "x w", "b", name="second", pads=[2, 0]),
        node("Add", "a b", "y", name="behind"),
    ]
    lines = refused(tmp_path, nodes, {"w": weights(4, 3, 3)}).splitlines()
    assert [line.split("'")[1] for line in lines] == ["first", "second"]


def test_frames_that_strides_do_not_divide(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a", name="first", strides=[2]), node("Relu", "a", "y")]
    text = refused(tmp_path, nodes, {"w": weights(4, 3, 3)}, Stream(2, 3))
    assert text.startswith(
        "m.onnx: node 'first' (conv2d): cannot stream: a row of it takes 2 frames, and 3 come in a call"
    )
    text = refused(tmp_path, nodes, {"w": weights(4, 3, 3)}, Stream(2, 12))
    assert text == "m.onnx: option 'stream_axis': a call brings 12 frames of a window of 12: nothing is left to keep"


@pytest.mark.parametrize("value", ["9 0", "0 1", "1 100", "1", "x", "1 -1", "1 0 0", "١ 0", "9" * 400])
def test_files_that_say_something_else(value: str, tmp_path: Path) -> None:
    """The note is part of the file: it is refused in one line, or is none."""
    int8 = onnx.load_from_string(quantized(Request(str(small(tmp_path)), samples(tmp_path), stream=Stream(1))).content)
    (entry,) = int8.metadata_props
    entry.value = value
    made = import_model(save(tmp_path, int8, "i.onnx"))
    if stream_of(made) is None:
        assert lower(made).inputs[0].shape == (1, 12, 1, 3)
    else:
        with pytest.raises(ModelError, match=r"the file says that axis|nothing is left to keep"):
            lower(made)


def test_options_that_do_not_fit_the_model(tmp_path: Path) -> None:
    one = small(tmp_path)
    with pytest.raises(
        ConfigError, match=r"input 'x' of shape \[1, 12, 1, 3\] has no such axis; hint: its axes are 1 to 3"
    ):
        import_model(one, stream=Stream(4))
    two = save(tmp_path, model([node("Add", "x z", "y")], {"x": (1, 4), "z": (1, 4)}, ["y"]), "two.onnx")
    with pytest.raises(ConfigError, match="the model has 2 inputs, and frames come by one"):
        import_model(two, stream=Stream(1))
    recurrent = test_recurrent.plain(tmp_path / "r.onnx", "GRU", 4)
    with pytest.raises(ConfigError, match="options 'stream_axis' and 'states' exclude each other"):
        import_model(recurrent, states="keep", stream=Stream(1))
    with pytest.raises(ConfigError, match="option 'stream_frames' needs stream_axis"):
        nnbuild.check(one, cpu="cortex-m0", stream_frames=2)
    with pytest.raises(ConfigError, match="option 'stream_axis' must be an axis from 1"):
        nnbuild.check(one, cpu="cortex-m0", stream_axis=0)


# The tests can fail.


def test_another_beginning_is_noticed_until_nothing_of_it_is_left() -> None:
    whole = lower(_residual())
    stream = streamed(whole, Stream(1))
    layers = tuple(
        replace(layer, constants={"start": layer.constants["start"] + np.int8(9)}) if layer.op == "history" else layer
        for layer in stream.layers
    )
    assert differing(whole, replace(stream, layers=layers), 1, 20) == list(range(settled(stream) - 1))


@pytest.mark.parametrize("mutant", ["one row too many", "one row too few", "elements of another row", "new rows first"])
def test_mutants_of_the_rules_are_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lower(_residual())
    needed, moved = over_time._Build._needed, Time.moved
    mutants: dict[str, tuple[Any, str, Any]] = {
        "one row too many": (
            over_time._Build,
            "_needed",
            lambda *given: needed(*given) + (given[1].op == "depthwise_conv2d"),
        ),
        "one row too few": (over_time._Build, "_needed", lambda *given: needed(*given) - (given[1].op == "transpose")),
        "elements of another row": (Time, "moved", lambda time, at, n: moved(time, at, n) + time.inner * (n > 1)),
        "new rows first": (
            interpret,
            "run_layer",
            lambda network, layer, inputs, states, run=interpret.run_layer: (
                np.roll(run(network, layer, inputs, states), 1)
                if layer.op == "history"
                else run(network, layer, inputs, states)
            ),
        ),
    }
    monkeypatch.setattr(*mutants[mutant])
    assert differing(whole, streamed(whole, Stream(1)), 1, 20) != []


def test_a_row_that_does_not_move_up_is_noticed(tmp_path: Path) -> None:
    """Mutants of the C of what is kept, where new rows come in over the oldest."""
    whole = lower(_residual())
    stream = streamed(whole, Stream(1))
    files = emit(stream, EmitOptions("m"))
    texts = {"": "", "words[k] = words[k + 1];": "", "words[i + 2] = new0;": "words[i + 1] = new0;"}
    for number, (old, new) in enumerate(texts.items()):
        assert old in files["m.c"]
        mutant = {**files, "m.c": files["m.c"].replace(old, new) if old else files["m.c"]}
        library = host.shared_library(tmp_path / str(number), mutant)
        library.m_reset()
        assert bool(differing_in_c(library, "m", whole, stream, 1)) == bool(old)
