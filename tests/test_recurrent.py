"""LSTM, GRU and RNN against onnxruntime, and states that outlive an inference."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import nnbuild
from nnbuild import fixedpoint, interpret, pipeline, samples
from nnbuild.accuracy import measure
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ConfigError, ModelError
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import Array, QuantParams
from nnbuild.ops import recurrent, singles
from nnbuild.pipeline import input_shapes
from nnbuild.selection import select
from nnbuild.states import keeps_states

from . import cmsis_library, host

HIDDEN, INPUTS, CLASSES = 12, 7, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class Builder:
    """A small recurrent model as PyTorch exports it: (steps, 1, INPUTS) -> layers -> Gemm of the last step."""

    def __init__(self, kind: str, steps: int, seed: int = 0) -> None:
        self.kind, self.steps = kind, steps
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = {"x": (steps, 1, INPUTS)}
        self.outputs: dict[str, tuple[int, ...]] = {"y": (1, CLASSES)}

    def constant(self, name: str, array: Array) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def layer(self, value: str, states: Mapping[int, str] | None = None, **attributes: Any) -> tuple[str, list[str]]:
        """Adds a recurrent layer; (Y without its axis of directions, [Y_h, Y_c])."""
        number, rows = len(self.nodes), GATES[self.kind] * HIDDEN
        depth = INPUTS if value == "x" else HIDDEN
        inputs = [value]
        for name, shape in (("W", (1, rows, depth)), ("R", (1, rows, HIDDEN)), ("B", (1, 2 * rows))):
            inputs.append(self.constant(f"{name}{number}", self.rng.normal(0, 0.5, shape).astype(np.float32)))
        inputs += ["", *(dict(states or {}).get(position, "") for position in (5, 6))]
        outputs = [f"Y{number}", f"H{number}", *([f"C{number}"] if self.kind == "LSTM" else [])]
        while not inputs[-1]:
            inputs.pop()
        self.nodes.append(
            helper.make_node(self.kind, inputs, outputs, name=f"rnn{number}", hidden_size=HIDDEN, **attributes)
        )
        axes = self.constant(f"axes{number}", np.array([1], np.int64))
        self.nodes.append(helper.make_node("Squeeze", [outputs[0], axes], [f"S{number}"], name=f"squeeze{number}"))
        return f"S{number}", outputs[1:]

    def classify(self, value: str) -> None:
        """Gemm of the last step."""
        last = self.constant("last", np.array(-1, np.int64))
        self.nodes.append(helper.make_node("Gather", [value, last], ["taken"], axis=0))
        weights = self.constant("Wy", self.rng.normal(0, 1, (CLASSES, HIDDEN)).astype(np.float32))
        bias = self.constant("By", self.rng.normal(0, 1, CLASSES).astype(np.float32))
        self.nodes.append(helper.make_node("Gemm", ["taken", weights, bias], ["y"], transB=1))

    def save(self, path: Path) -> Path:
        infos = [helper.make_tensor_value_info(*item) for item in self._typed(self.inputs)]
        outputs = [helper.make_tensor_value_info(*item) for item in self._typed(self.outputs)]
        graph = helper.make_graph(self.nodes, "recurrent", infos, outputs, self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
        return path

    @staticmethod
    def _typed(values: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int, tuple[int, ...]]]:
        return [(name, TensorProto.FLOAT, shape) for name, shape in values.items()]


def plain(path: Path, kind: str, steps: int, layers: int = 1) -> Path:
    """A model without states in its interface."""
    model = Builder(kind, steps)
    value = "x"
    for _ in range(layers):
        value, _ = model.layer(value)
    model.classify(value)
    return model.save(path)


def explicit(path: Path, kind: str, layers: int = 2, swapped: bool = False) -> Path:
    """One step, with the states of all layers in inputs h0 (and c0) and outputs hn (and cn), as PyTorch has them."""
    model = Builder(kind, 1)
    names = ("h", "c") if kind == "LSTM" else ("h",)
    for name in names:
        model.inputs[f"{name}0"] = model.outputs[f"{name}n"] = (layers, 1, HIDDEN)
    value, after = "x", []
    for number in range(layers):
        states = {}
        for position, name in enumerate(names, 5):
            bounds = [model.constant(f"{name}{number}_{n}", np.array([n + number], np.int64)) for n in (0, 1)]
            axis = model.constant(f"{name}{number}_axis", np.array([0], np.int64))
            state = f"{name}_of_layer{number}"
            model.nodes.append(helper.make_node("Slice", [f"{name}0", *bounds, axis], [state]))
            states[position] = state
        value, found = model.layer(value, states)
        after.append(found)
    for position, name in enumerate(names):
        parts = [found[position] for found in (after[::-1] if swapped else after)]
        model.nodes.append(helper.make_node("Concat", parts, [f"{name}n"], axis=0))
    model.classify(value)
    return model.save(path)


def sequences(count: int, steps: int) -> Array:
    """Smooth signals, float32 (count, steps, INPUTS)."""
    rng = np.random.default_rng(7)
    noise = rng.normal(0, 1, (count, steps + 4, INPUTS))
    return np.asarray(sum(noise[:, n : n + steps] for n in range(5)) / 2, np.float32)


def quantized(model: Path, calibration: Path, **options: Any) -> onnx.ModelProto:
    request = pipeline.Request(str(model), str(calibration), **options)
    return onnx.load_model_from_string(pipeline.quantized(request).content)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("kind", "least"), [("LSTM", 30.0), ("GRU", 30.0), ("RNN", 22.0)])
def test_sequences_agree_with_the_float_model(kind: str, least: float, layers: int, tmp_path: Path) -> None:
    model, calibration = plain(tmp_path / "m.onnx", kind, 20, layers), tmp_path / "x.npz"
    np.savez(calibration, x=sequences(40, 20))
    int8 = quantized(model, calibration)
    found = measure(import_model(model), int8, samples.load(str(calibration), {"x": (20, 1, INPUTS)}))
    assert found.sqnr_db >= least, found.sqnr_db
    network = lower(int8)
    assert network.tensors[network.layers[layers - 1].output].size == HIDDEN, "all steps are stored, one is read"


@pytest.mark.parametrize("kind", GATES)
def test_steps_with_a_kept_state_are_the_sequence_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    steps, x = 20, sequences(6, 20)
    whole, step = plain(tmp_path / "whole.onnx", kind, steps), plain(tmp_path / "step.onnx", kind, 1)
    calibration = tmp_path / "x.npz"
    np.savez(calibration, x=x.reshape(-1, 1, INPUTS))
    int8 = quantized(step, calibration, states="keep")
    assert keeps_states(int8)
    network = lower(int8)
    quant = network.tensors[network.inputs[0].tensor].quant
    longer = lower(_with_steps(int8, steps))
    for sequence in x:
        values = quant.quantize(sequence)
        kept: interpret.States = {}
        found = [interpret.run(network, [values[n]], kept)[0] for n in range(steps)]
        assert found[-1].tobytes() == interpret.run(longer, [values])[0].tobytes()
    np.savez(calibration, x=x)
    float_whole = import_model(whole)
    theirs = _by_onnxruntime(float_whole, x[0])
    ours = nnbuild_outputs(network, quant.quantize(x[0]))
    step_size = network.tensors[network.outputs[0].tensor].quant.scale
    assert np.abs(ours - theirs).max() <= 8 * step_size


def _with_steps(int8: onnx.ModelProto, steps: int) -> onnx.ModelProto:
    """The same integers over a sequence: one step is a sequence of 1."""
    copy = onnx.ModelProto()
    copy.CopyFrom(int8)
    del copy.metadata_props[:], copy.graph.value_info[:]
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = steps
    for node in copy.graph.node:
        if node.op_type == "Gather":
            constant = next(tensor for tensor in copy.graph.initializer if tensor.name == node.input[1])
            constant.CopyFrom(numpy_helper.from_array(np.array(steps - 1, np.int64), constant.name))
    return onnx.shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)


def _by_onnxruntime(model: onnx.ModelProto, sequence: Array) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": sequence.reshape(-1, 1, INPUTS)})[0])


def nnbuild_outputs(network: Any, values: Array) -> Array:
    """The answer behind the last of `values`, real."""
    kept: interpret.States = {}
    output = [interpret.run(network, [value], kept)[0] for value in values][-1]
    return np.asarray(network.tensors[network.outputs[0].tensor].quant.dequantize(output))


@pytest.mark.parametrize("kind", GATES)
def test_states_in_the_interface_become_kept_ones(kind: str, tmp_path: Path) -> None:
    calibration = tmp_path / "x.npz"
    np.savez(calibration, x=sequences(6, 20).reshape(-1, 1, INPUTS))
    pairs = {"h0": "hn", "c0": "cn"} if kind == "LSTM" else {"h0": "hn"}
    given = quantized(explicit(tmp_path / "a.onnx", kind), calibration, states=pairs)
    kept = quantized(plain(tmp_path / "b.onnx", kind, 1, 2), calibration, states="keep")
    networks = [lower(model) for model in (given, kept)]
    assert [port.name for port in networks[0].inputs] == ["x"]
    assert [port.name for port in networks[0].outputs] == ["y"]
    values = networks[0].tensors[networks[0].inputs[0].tensor].quant.quantize(sequences(1, 30)[0])
    # The random weights are drawn in the same order.
    assert nnbuild_outputs(networks[0], values).tobytes() == nnbuild_outputs(networks[1], values).tobytes()


def test_states_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    model, lstm = explicit(tmp_path / "m.onnx", "GRU"), explicit(tmp_path / "l.onnx", "LSTM")
    with pytest.raises(ConfigError, match="has no input 'q0'"):
        import_model(model, states={"q0": "hn"})
    with pytest.raises(ConfigError, match="has no output 'qn'"):
        import_model(model, states={"h0": "qn"})
    with pytest.raises(ConfigError, match=r"input 6\) does not come from an input"):
        import_model(lstm, states={"h0": "hn"})
    with pytest.raises(ConfigError, match="'cn' is not its state after input 'h0'"):
        import_model(lstm, states={"h0": "cn", "c0": "hn"})
    with pytest.raises(ConfigError, match="'hn' is not its state after input 'h0'"):
        import_model(explicit(tmp_path / "s.onnx", "GRU", swapped=True), states={"h0": "hn"})
    with pytest.raises(ConfigError, match="leaves the model no output"):
        import_model(model, states={"h0": "hn", "x": "y"})


def test_states_need_a_recurrent_layer(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in ("x", "y")]
    onnx.save(helper.make_model(helper.make_graph([relu], "g", values[:1], values[1:])), tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="no recurrent layer"):
        import_model(tmp_path / "m.onnx", states="keep")


def test_states_without_the_option_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="states="):
        import_model(explicit(tmp_path / "m.onnx", "LSTM"))


def test_a_reverse_direction_keeps_no_state(tmp_path: Path) -> None:
    model = Builder("GRU", 3)
    value, _ = model.layer("x", direction="reverse")
    model.classify(value)
    path, calibration = model.save(tmp_path / "m.onnx"), tmp_path / "x.npz"
    np.savez(calibration, x=sequences(4, 3))
    with pytest.raises(ModelError, match="a reverse direction keeps no state"):
        lower(quantized(path, calibration, states="keep"))


def test_accuracy_takes_the_samples_as_one_sequence(tmp_path: Path) -> None:
    model, calibration = plain(tmp_path / "m.onnx", "LSTM", 1), tmp_path / "x.npz"
    np.savez(calibration, x=sequences(1, 120).reshape(-1, 1, INPUTS))
    int8 = quantized(model, calibration, states="keep")
    float_model = import_model(model, states="keep")
    load = samples.load(str(calibration), input_shapes(float_model))
    assert measure(float_model, int8, load).sqnr_db >= 30.0
    assert measure(import_model(model), int8, load).sqnr_db < 20.0, "a float model that starts anew is another one"


def test_check_counts_what_is_kept(tmp_path: Path) -> None:
    path = plain(tmp_path / "m.onnx", "LSTM", 1)
    found = [nnbuild.check(path, cpu="cortex-m0", states=states).figures.ram for states in ("keep", None)]
    # A word, cells and hidden values; without the state they are scratch.
    assert found == [4 + 3 * HIDDEN + HIDDEN + HIDDEN, 4 * HIDDEN + HIDDEN]


def test_run_goes_on_and_reset_begins_anew(tmp_path: Path) -> None:
    model, calibration = plain(tmp_path / "m.onnx", "GRU", 1), tmp_path / "x.npz"
    np.savez(calibration, x=sequences(6, 20).reshape(-1, 1, INPUTS))
    network = lower(quantized(model, calibration, states="keep"))
    library = host.shared_library(tmp_path, emit(network, EmitOptions("m", selftest=3)))
    values = network.tensors[network.inputs[0].tensor].quant.quantize(sequences(1, 20)[0])
    with pytest.raises(AssertionError):
        host.call(library, "m_run", [values[0]], [CLASSES])  # 1: never reset
    for _ in range(2):
        library.m_reset()
        kept: interpret.States = {}
        for value in values:
            expected = interpret.run(network, [value], kept)[0]
            assert host.call(library, "m_run", [value], [CLASSES])[0].tobytes() == expected.tobytes()
    assert library.m_selftest() == 0
    kept = {}
    expected = interpret.run(network, [values[0]], kept)[0]
    assert host.call(library, "m_run", [values[0]], [CLASSES])[0].tobytes() == expected.tobytes()


def test_python_runs_a_batch_as_one_sequence(tmp_path: Path) -> None:
    model, calibration = plain(tmp_path / "m.onnx", "GRU", 1), tmp_path / "x.npz"
    x = sequences(1, 20)[0]
    np.savez(calibration, x=x.reshape(-1, 1, INPUTS))
    int8 = quantized(model, calibration, states="keep")
    onnx.save(int8, tmp_path / "m.int8.onnx")
    network = lower(int8)
    answers = nnbuild.run(tmp_path / "m.int8.onnx", x.reshape(-1, 1, INPUTS))
    values = network.tensors[network.inputs[0].tensor].quant.quantize(x)
    assert isinstance(answers, np.ndarray)
    assert answers[-1].ravel().tobytes() == nnbuild_outputs(network, values).ravel().tobytes()


# The functions inside.


def test_activations_are_within_two_steps_of_the_real_ones() -> None:
    table, gates = recurrent.sigmoid_table(), np.arange(-(2**15), 2**15, dtype=np.int64)
    real = gates / 2.0**12
    assert np.abs(recurrent.sigmoid(gates, table) - 2**15 / (1 + np.exp(-real))).max() < 12
    assert np.abs(recurrent.tanh(gates, table) - 2**15 * np.tanh(real)).max() < 24
    for power in range(-15, -8):
        real = np.tanh(gates * 2.0**power) * 2**15
        assert np.abs(recurrent.tanh(gates, table, power) - real).max() < 24 + 2 ** max(0, power + 12 + 2)


def test_activations_in_c_are_those_of_the_reference(tmp_path: Path) -> None:
    """Every value that a gate or cell can have, whose last bits the outputs round away."""
    folder = Path(nnbuild.__file__).parent / "csrc"
    texts = [(folder / f"nn_{name}.h").read_text() for name in ("shift_right", "sigmoid", "tanh")]
    program = "#include <stdint.h>\n" + "\n".join(texts)
    for name in ("sigmoid", "tanh"):
        program += f"""
void all_{name}(const uint16_t *table, int32_t step, int32_t *results)
{{
    for (int32_t i = 0; i < 65536; i++) {{ results[i] = nn_{name}((i - 32768) * step, table); }}
}}
"""
    library = host.shared_library(tmp_path, {"all.h": "", "all.c": '#include "all.h"\n' + prototypes() + program})
    table, values = recurrent.sigmoid_table(), np.arange(-(2**15), 2**15, dtype=np.int64)
    found = np.zeros(65536, np.int32)
    library.all_sigmoid(table.ctypes.data_as(ctypes.c_void_p), 3, found.ctypes.data_as(ctypes.c_void_p))
    assert (found == recurrent.sigmoid(values, table)).all()
    for left in range(4):
        library.all_tanh(table.ctypes.data_as(ctypes.c_void_p), 3 << left, found.ctypes.data_as(ctypes.c_void_p))
        assert (found == recurrent.tanh(values, table, left - 12)).all()


def prototypes() -> str:
    words = [f"void all_{name}(const uint16_t *table, int32_t step, int32_t *results);" for name in ("sigmoid", "tanh")]
    return "#include <stdint.h>\n" + "\n".join(words) + "\n"


@settings(max_examples=300)
@given(st.integers(-(2**15), 2**15 - 1), st.integers(0, 2**15 - 1), st.integers(-(2**15), 2**15 - 1))
def test_a_gru_stays_between_its_values(fresh: int, update: int, before: int) -> None:
    now = fresh + ((update * (before - fresh) + 2**14) >> 15)
    assert min(fresh, before) <= now <= max(fresh, before)
    assert -(2**31) <= update * (before - fresh) + 2**14 < 2**31


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["LSTM", "GRU", "RNN"]), st.integers(1, 3), st.integers(1, 9),
    st.integers(1, 9), st.integers(0, 2**16), st.booleans(), st.sampled_from(["forward", "reverse", "bidirectional"]),
)  # fmt: skip
def test_a_step_of_random_layers_is_within_the_stated_error(
    kind: str, batch: int, inputs: int, hidden: int, seed: int, linear: bool, direction: str
) -> None:
    """Against onnxruntime's operator on the dequantized weights, inputs and state. What later steps make of an error
    is the network's: random ones are chaotic."""
    rng = np.random.default_rng(seed)
    attributes: dict[str, Any] = {"direction": direction}
    if kind == "GRU":
        attributes["linear_before_reset"] = int(linear)
    output = QuantParams(1 / 128, int(rng.integers(-9, 9)))  # which the state has, too
    source = QuantParams(float(np.float32(rng.uniform(0.005, 0.03))), int(rng.integers(-128, 128)))
    model = singles.recurrent_model(f"{kind}{seed}", kind, (1, batch, inputs), hidden, source, output, attributes)
    network = lower(model)
    values = rng.integers(-128, 128, (1, batch, inputs)).astype(np.int8)
    (ours,) = interpret.run(network, [values])
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = output.quantize(session.run(None, {"x0": source.dequantize(values)})[0])
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= recurrent.error(network.layers[0].params) == 1


def test_a_gru_does_not_stand_still() -> None:
    """With an update gate of 0.998 an int8 state never moves; in Q0.15 it comes within a step of int8 of its goal."""
    now = 2**14
    for _ in range(20000):
        now = 0 + ((32700 * (now - 0) + 2**14) >> 15)
    assert now < 2**15 / 128
    assert round(32700 / 2**15 * 64) == round(32700 / 2**15 * 127) - 63 == 64


def test_cells_hold_what_calibration_saw(tmp_path: Path) -> None:
    model = Builder("LSTM", 60)
    value, _ = model.layer("x")
    model.classify(value)
    bias = next(tensor for tensor in model.constants if tensor.name == "B0")
    values = numpy_helper.to_array(bias).copy()
    values[0, : 4 * HIDDEN] = np.repeat([4.0, 4.0, 6.0, 2.0], HIDDEN)  # every gate open: cells grow by 1 a step
    bias.CopyFrom(numpy_helper.from_array(values, "B0"))
    path, calibration = model.save(tmp_path / "m.onnx"), tmp_path / "x.npz"
    np.savez(calibration, x=sequences(20, 60))
    int8 = quantized(path, calibration)
    (layer,) = [layer for layer in lower(int8).layers if layer.op == "lstm"]
    assert layer.params.cell_power >= -10
    found = measure(import_model(path), int8, samples.load(str(calibration), {"x": (60, 1, INPUTS)}))
    assert found.sqnr_db >= 25.0


def test_the_table_is_monotone() -> None:
    assert (np.diff(recurrent.sigmoid_table().astype(int)) >= 0).all()
    with fixedpoint.rounding(single=True):
        gates = np.arange(-(2**15), 2**15, dtype=np.int64)
        assert (np.diff(recurrent.sigmoid(gates, recurrent.sigmoid_table())) >= 0).all()


def test_cmsis_nn_serves_one_scale_a_gate(tmp_path: Path) -> None:
    target = cmsis_library.target("m4")
    model, calibration = plain(tmp_path / "m.onnx", "LSTM", 20), tmp_path / "x.npz"
    np.savez(calibration, x=sequences(20, 20))
    for scales, kernel in (("per_tensor", "cmsis_nn"), ("per_channel", "direct")):
        int8 = quantized(model, calibration, fully_connected=scales)
        choice = select(lower(int8), target, backend="cmsis_nn")[0]
        assert choice.kernel.name == kernel
        assert kernel == "cmsis_nn" or "fully_connected='per_tensor'" in choice.reasons["cmsis_nn"]
        found = measure(import_model(model), int8, samples.load(str(calibration), {"x": (20, 1, INPUTS)}))
        assert found.sqnr_db >= 28.0


def test_the_table_is_that_of_cmsis_nn() -> None:
    text = (cmsis_library.root() / "Source" / "NNSupportFunctions" / "arm_nntables.c").read_text()
    found = re.search(r"sigmoid_table_uint16\[256\]\s*=\s*\{(.*?)\}", text, re.DOTALL)
    assert found is not None
    assert [int(word) for word in re.findall(r"\d+", found[1])] == recurrent.sigmoid_table().tolist()
