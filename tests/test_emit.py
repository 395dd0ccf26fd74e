"""What is written: names, header, helpers, arenas, self-test; and that nothing a model says breaks the C."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnbuild import cnames, interpret
from nnbuild.commands import ops as ops_command
from nnbuild.contract import Case
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ConfigError, KernelError
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import Network, QuantParams
from nnbuild.ops import ALL, singles
from nnbuild.target import TARGETS

from . import host
from .conftest import ROOT
from .test_kernels_host import mismatches


def case(name: str) -> Case:
    return next(c for op in ALL for c in op.cases() if c.name == name)


def two_ports() -> Network:
    """Add of two inputs, both the sum and its Relu are outputs; names that are no C."""
    parameters = [
        numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        numpy_helper.from_array(np.array(-3, np.int8), "z"),
    ]
    nodes = []

    def pair(value: str, out: str) -> None:
        nodes.append(helper.make_node("QuantizeLinear", [value, "s", "z"], [f"{out}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{out}_q", "s", "z"], [out]))

    pair("a/1", "da")
    pair("*/ int", "db")
    nodes.append(helper.make_node("Add", ["da", "db"], ["sum"], name='*/ #error "x" \\\n??/'))
    pair("sum", "out:0")
    nodes.append(helper.make_node("Relu", ["out:0"], ["r"]))
    pair("r", "out_0")
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6]) for name in ("a/1", "*/ int")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6]) for name in ("out:0", "out_0")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, parameters)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    return lower(onnx.shape_inference.infer_shapes(model, strict_mode=True), "ports")


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    network = two_ports()
    files = emit(network, EmitOptions("m", selftest=2))
    header = files["m.h"]
    for macro in ("M_INPUT_A_1_SIZE 6", "M_INPUT__INT_SIZE 6", "M_OUTPUT_OUT_0_SIZE 6", "M_OUTPUT_OUT_0_2_SIZE 6"):
        assert macro in header
    library = host.shared_library(tmp_path, files)
    a, b = (np.arange(6, dtype=np.int8) * k for k in (9, -4))
    expected = interpret.run(network, [a, b])
    got = host.call(library, "m_run", [a, b], [6, 6])
    assert [e.ravel().tolist() for e in expected] == [g.tolist() for g in got]
    assert library.m_selftest() == 0


@pytest.mark.parametrize("name", ["string", "stdint", "Time", "nn", "nn_kws"])
def test_names_that_would_hide_a_header_or_a_helper(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        emit(case("clamp_relu").network, EmitOptions(name))


def test_an_input_that_nobody_reads(tmp_path: Path) -> None:
    model = singles._Model("unread")
    quant = QuantParams(0.1, 3)
    model.inputs.append(helper.make_tensor_value_info("spare", TensorProto.FLOAT, [1, 4]))
    found = model.case(model.pair(model.node("Relu", [model.input((1, 6), quant)]), quant))
    assert mismatches(found, TARGETS["generic"], tmp_path) == 0


def test_the_header_is_cplusplus_too(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    host.write(tmp_path, emit(case("fully_connected_16x10").network, EmitOptions("kws", raw=("u8", 0.1, 0.0))))
    (tmp_path / "main.cpp").write_text(
        '#include "kws.h"\n'
        "int main() { int8_t in[KWS_INPUT_SIZE] = {}, out[KWS_OUTPUT_SIZE]; return kws_run(in, out); }\n"
    )
    command = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(tmp_path / "main.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_thresholds_argmax_and_floats(tmp_path: Path) -> None:
    network = case("softmax_12").network
    (tmp_path / "use.c").write_text(
        '#include "m.h"\n'
        "int use(const int8_t *output); float real(const float *values, int8_t *input, float *back);\n"
        "static const int8_t table[] = { M_OUTPUT_Q(0.8), M_OUTPUT_Q(0.0), M_OUTPUT_Q(1.0), M_OUTPUT_Q(-3) };\n"
        "int use(const int8_t *output)\n"
        "{ return m_argmax(output) * 1000 + table[0] + table[1] + table[2] + table[3]; }\n"
        "float real(const float *values, int8_t *input, float *back)\n"
        "{ m_quantize_input(values, input); m_dequantize_output(input, back); return values[0]; }\n"
    )
    files = emit(network, EmitOptions("m"))
    sources = host.write(tmp_path, files)
    host.compile_c(["gcc", "-O1", "-shared", "-fPIC"], tmp_path / "m.so", [*sources, tmp_path / "use.c"])
    library = ctypes.CDLL(str(tmp_path / "m.so"))
    output = np.array([-128, 5, 90, 90, 3, 0, 0, 0, 0, 0, 0, 0], np.int8)
    # 0.8 * 256 - 128 = 76.8 -> 77; 0 -> -128; 1 saturates at 127; -3 saturates at -128.
    assert library.use(output.ctypes.data_as(ctypes.c_void_p)) == 2000 + 77 - 128 + 127 - 128
    quant: QuantParams = network.tensors[network.inputs[0].tensor].quant
    values = np.array([0.0, 0.1, -0.3, 1e9, -1e9, 5, 2, 1, 0.7, -7, -9.0, 11.2], np.float32)
    stored, back = np.zeros(12, np.int8), np.zeros(12, np.float32)
    library.real(*(array.ctypes.data_as(ctypes.c_void_p) for array in (values, stored, back)))
    assert np.abs(stored.astype(int) - quant.quantize(values).astype(int)).max() <= 1
    assert stored[3] == 127
    assert stored[4] == -128
    assert np.allclose(back, (stored.astype(np.float32) + 128) / 256)


def test_callers_arena(tmp_path: Path) -> None:
    one = case("conv2d_3x3_padded")
    files = emit(one.network, EmitOptions("m", arena="caller", selftest=1))
    assert "static uint32_t m_arena" not in files["m.c"]
    library = host.shared_library(tmp_path, files)
    assert library.m_selftest() == 0
    size = int(re.search(r"ARENA_SIZE (\d+)", files["m.h"]).group(1))  # type: ignore[union-attr]
    memory, data, out = (np.zeros(n, np.int8) for n in (size + 8, one.inputs[0].shape[1], 4096))
    start = memory.ctypes.data + (-memory.ctypes.data) % 4
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (data, out)]
    assert library.m_run(ctypes.c_void_p(start), *pointers) == 0
    assert library.m_run(ctypes.c_void_p(start + 1), *pointers) == 1
    assert library.m_run(ctypes.c_void_p(0), *pointers) == 1


def test_the_layer_hook_sees_every_layer(tmp_path: Path) -> None:
    network = case("max_pool_rescaled").network
    files = emit(network, EmitOptions("m"))
    counter = "void hook(int i); int seen(void); static int trace; void hook(int i) { trace = trace * 10 + i; }\n"
    (tmp_path / "hook.c").write_text(counter + "int seen(void) { return trace; }\n")
    (tmp_path / "hook.h").write_text("void hook(int i);\n#define M_LAYER_HOOK(i) hook(i)\n")
    sources = host.write(tmp_path, files)
    command = ["gcc", "-O1", "-shared", "-fPIC", "-include", str(tmp_path / "hook.h")]
    host.compile_c(command, tmp_path / "m.so", [*sources, tmp_path / "hook.c"])
    library = ctypes.CDLL(str(tmp_path / "m.so"))
    size = [network.tensors[port.tensor].size for port in (network.inputs[0], network.outputs[0])]
    host.call(library, "m_run", [np.zeros(size[0], np.int8)], [size[1]])
    assert library.seen() == int("".join(str(n) for n in range(len(network.layers))))


def test_the_selftest_notices_a_changed_weight(tmp_path: Path) -> None:
    files = emit(case("conv2d_3x3").network, EmitOptions("m", selftest=3))
    assert host.shared_library(tmp_path / "right", files).m_selftest() == 0
    changed = files["m_weights.c"].replace("] = {\n    ", "] = {\n    1 + ", 1)
    assert changed != files["m_weights.c"]
    assert host.shared_library(tmp_path / "wrong", {**files, "m_weights.c": changed}).m_selftest() == 1


def test_generated_for_another_core_does_not_compile(tmp_path: Path) -> None:
    sources = host.write(tmp_path, emit(case("add_same").network, EmitOptions("m", TARGETS["cortex-m0"])))
    done = subprocess.run(["gcc", "-c", str(sources[0])], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "m.c was generated for cortex-m0" in done.stderr


def test_layers_of_equal_shape_share_a_function(reference_dir: Path) -> None:
    from nnbuild.importer import import_model

    network = lower(import_model(reference_dir / "models" / "int8" / "kws01_int8.onnx"), "kws")
    files = emit(network, EmitOptions("kws"))
    assert files["kws.c"].count("\nstatic void kws_") == 6
    report = json.loads(files["kws.report.json"])
    assert {layer["function"] for layer in report["layers"] if layer["op"] == "depthwise_conv2d"} == {
        "kws_l01_depthwise_conv2d"
    }


def test_output_is_deterministic_and_says_nothing_of_the_machine() -> None:
    program = (
        "from nnbuild.ops import ALL; from nnbuild.emit import *; import hashlib\n"
        "files = [emit(c.network, EmitOptions('m', selftest=1)) for op in ALL for c in op.cases()]\n"
        "texts = [text for each in files for text in each.values()]\n"
        "print(hashlib.sha256(''.join(texts).encode()).hexdigest()); import sys\n"
        "sys.exit(any('/home' in t or '/tmp' in t or '20' + '2' in t.splitlines()[0] for t in texts))"
    )
    digests = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_lines_of_generated_files_are_short() -> None:
    """Of `kws_OUTPUT_Q_` too; several inputs and outputs with long names make long prototypes."""
    files = emit(case("conv2d_3x3_padded").network, EmitOptions("keyword_spotter", selftest=1, raw=("u8", 0.1, -12.8)))
    assert [line for text in files.values() for line in text.splitlines() if len(line) > 120] == []


def test_what_cannot_be_is_said() -> None:
    network = case("add_same").network
    with pytest.raises(ConfigError, match="not a C identifier"):
        emit(network, EmitOptions("2fast"))
    with pytest.raises(ConfigError, match="arena 'heap' is unknown"):
        emit(network, EmitOptions("m", arena="heap"))
    with pytest.raises(ConfigError, match="one input"):
        emit(two_ports(), EmitOptions("m", raw=("u8", 1.0, 0.0)))
    with pytest.raises(KernelError) as caught:
        emit(network, EmitOptions("m", pins={"l00_add": "fastest", "l99": "direct"}))
    assert "there is no kernel 'fastest' for add" in str(caught.value)
    assert "pin of 'l99': there is no such layer; hint: layers are m_l00_add" in str(caught.value)


def test_a_pin_names_a_layer_as_reports_do() -> None:
    """docs/SCONS.md says `{"kws_l00_conv2d": "direct"}`, and so do hints: that was refused as no layer's name."""
    network = case("fully_connected_16x10").network
    layer = network.layers[0]
    files = [emit(network, EmitOptions("m", pins={name: "direct"})) for name in (f"m_{layer.name}", layer.name)]
    assert files[0] == files[1]
    assert files[0] != emit(network, EmitOptions("m"))


def test_a_pin_is_held_and_a_pin_that_cannot_serve_is_an_error() -> None:
    shuffled = case("transpose_table").network
    with pytest.raises(KernelError, match="no nested loops express it"):
        emit(shuffled, EmitOptions("m", pins={shuffled.layers[-1].name: "direct"}))


def test_assembly_stands_beside_the_c() -> None:
    """On ARMv6-M: other compilers than GNU's take the C of the same file; without assembly it is the only form."""
    network = case("fully_connected_16x10").network
    core = TARGETS["cortex-m0"]
    both, only_c = (
        emit(
            network,
            EmitOptions("m", replace(core, assembly=kernel == "assembly"), pins={"l00_fully_connected": kernel}),
        )
        for kernel in ("assembly", "horner")
    )
    function = json.loads(both["m.report.json"])["layers"][0]["function"]
    assert f"    .global {function}_dot\n" in both["m_kernels.S"]
    assert f"void {function}_dot(const int8_t *inputs" in both["m.c"]
    without = re.sub(r"#if M_ASSEMBLY\n.*?#else\n(.*?)#endif\n", r"\1", both["m.c"], flags=re.DOTALL)
    without = re.sub(r"/\* Some kernels are in .*?#endif\n\n", "", without, flags=re.DOTALL)
    without, expected = (re.sub(r", about [\d,]+ cycles", "", text) for text in (without, only_c["m.c"]))
    assert without == expected
    assert "This network has none: all of its kernels are C." in only_c["m_kernels.S"]
    assert both["m_weights.c"] == only_c["m_weights.c"]
    assert "all of its kernels are C" in emit(network, EmitOptions("m", TARGETS["cortex-m3"]))["m_kernels.S"]
    assert f"    .global {function}_dot\n" in emit(network, EmitOptions("m", TARGETS["cortex-m4"]))["m_kernels.S"]


def test_layers_of_different_shapes_share_assembly() -> None:
    """Sizes are arguments; what differs is the number of inputs left over, of channels left over, and of the line."""
    from nnbuild.kernels import horner_armv6m
    from nnbuild.selection import select

    def assembled(channels: int, inputs: int) -> list[str]:
        shapes = (1, inputs, 5, 5), (channels, inputs, 3, 3)
        relu = QuantParams(0.2, -128)
        made = singles.weighted("shared", "Conv", *shapes, 0, QuantParams(0.05, -20), relu, {}, ("Relu",))
        choices = select(made.network, TARGETS["cortex-m0"])
        choice = next(choice for choice in choices if choice.layer.op == "conv2d")
        return [repr(own) for own in choice.kernel.render(choice.view, TARGETS["cortex-m0"]).assembly]

    assert assembled(16, 16) == assembled(32, 16) == assembled(16, 32)
    assert assembled(16, 16) != assembled(18, 16)
    assert horner_armv6m.split(144, 16) == (9, 16, 0)
    assert horner_armv6m.split(37, 16) == (3, 12, 1)


def test_names_from_a_model_are_harmless_in_c() -> None:
    assert cnames.comment("a */ b") == "a * / b"
    assert cnames.comment("tri??/graph\n") == "tri? ?/graph?"
    assert cnames.identifier("2:Conv/é") == "_2_conv"
    assert cnames.distinct(["a", "A", "int"]) == ["a", "a_2", "_int"]


def test_the_table_of_operators_is_current() -> None:
    assert (ROOT / "docs" / "OPERATORS.md").read_text() == ops_command.markdown()


def test_model_id_follows_the_numbers() -> None:
    network = case("fully_connected_16x10").network
    layer = network.layers[0]
    weights = layer.constants["weights"].copy()
    weights[0, 0] ^= 1
    changed = replace(layer, constants={**layer.constants, "weights": weights})
    assert network.model_id() == case("fully_connected_16x10").network.model_id()
    assert network.model_id() != replace(network, layers=(changed,)).model_id()


@pytest.mark.parametrize(
    "names",
    [
        ("a/b", "a:b", "a.b", "a;b"),
        ("int", "for", "double", "static"),
        ("input", "output", "memcpy", "NULL"),
        ("size", "shape", "scale", "zero_point"),
        ("A", "a", "a_2", "a/2"),
        ("0", "1", "-1", " "),
        ("\u00e5", "\u00e4", "\u5165\u529b", "\U0001f600"),
        ("x*/ int y; /*", "\\", "??/", '"%s\n#error'),
    ],
)
def test_inputs_and_outputs_of_any_name_compile(names: tuple[str, str, str, str], tmp_path: Path) -> None:
    first, second, total, positive = names
    scale = ["s", "z"]
    nodes = [helper.make_node("QuantizeLinear", [name, *scale], [f"q{name}"], name=name) for name in (first, second)]
    nodes += [helper.make_node("DequantizeLinear", [f"q{name}", *scale], [f"d{name}"]) for name in (first, second)]
    nodes += [
        helper.make_node("Add", [f"d{first}", f"d{second}"], ["sum"], name=total),
        helper.make_node("QuantizeLinear", ["sum", *scale], ["qsum"]),
        helper.make_node("DequantizeLinear", ["qsum", *scale], [total]),
        helper.make_node("Relu", [total], ["r"], name=positive),
        helper.make_node("QuantizeLinear", ["r", *scale], ["qr"]),
        helper.make_node("DequantizeLinear", ["qr", *scale], [positive]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5]) for name in names]
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in (("s", np.float32(0.1)), ("z", np.int8(3)))
    ]
    graph = helper.make_graph(nodes, "g", ports[:2], ports[2:], constants)
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    network = lower(import_model(path))
    library = host.shared_library(tmp_path, emit(network, EmitOptions("m", selftest=1)))
    inputs = [np.arange(5, dtype=np.int8), np.full(5, 7, np.int8)]
    expected = interpret.run(network, inputs)
    for got, wanted in zip(host.call(library, "m_run", inputs, [5, 5]), expected, strict=True):
        np.testing.assert_array_equal(got, wanted.ravel())
