"""The reference networks, from every exporter: C equals the integer reference, and accuracy is what others reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from nnbuild import importer, interpret, pipeline
from nnbuild.emit import EmitOptions, emit
from nnbuild.lower import lower
from nnbuild.network import Network
from nnbuild.target import TARGETS

from . import host, reference

FOLDER = reference.FOLDER
MODELS = reference.models(FOLDER)
EXACT_SAMPLES = 20


def quantized(path: Path, folder: Path) -> tuple[onnx.ModelProto, reference.Data]:
    model = importer.import_model(path)
    value = model.graph.input[0]
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    data = reference.data(FOLDER, path, shape)
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return model, data
    np.savez(folder / "calibration.npz", x=data.calibration)
    request = pipeline.Request(str(path), str(folder / "calibration.npz"))
    return onnx.load_model_from_string(pipeline.quantized(request).content), data


def bytes_differ(network: Network, library: object, inputs: list[np.ndarray]) -> int:
    size = network.tensors[network.outputs[0].tensor].size
    wrong = 0
    for values in inputs:
        (expected,) = interpret.run(network, [values])
        (got,) = host.call(library, "m_run", [values], [size])  # type: ignore[arg-type]
        wrong += int((expected.ravel() != got).sum())
    return wrong


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_c_equals_reference_and_accuracy_holds(reference_dir: Path, path: Path, tmp_path: Path) -> None:
    model, data = quantized(path, tmp_path)
    network = lower(model, path.name)
    port, out = network.inputs[0], network.outputs[0]
    source, result = network.tensors[port.tensor].quant, network.tensors[out.tensor].quant
    library = host.shared_library(tmp_path, emit(network, EmitOptions("m", TARGETS["generic"])), ("gcc", "-O2"))
    inputs = [source.quantize(sample).reshape(port.shape) for sample in data.dev]
    assert bytes_differ(network, library, inputs[:EXACT_SAMPLES]) == 0
    session = onnxruntime.InferenceSession(str(path))
    name = session.get_inputs()[0].name
    reals = [sample.reshape(1, *sample.shape).astype(np.float32) for sample in data.dev]
    floats = np.array([session.run(None, {name: real})[0].ravel() for real in reals], np.float64)
    size = network.tensors[out.tensor].size
    ints = [result.dequantize(host.call(library, "m_run", [values], [size])[0]) for values in inputs]
    error = ((floats - np.array(ints, np.float64)) ** 2).sum()
    sqnr = 10 * np.log10((floats**2).sum() / error)
    agreement = 100 * float(np.mean(floats.argmax(axis=1) == np.array(ints).argmax(axis=1)))
    least_agreement, least_sqnr = reference.BOUNDS.get(path.name.split("_")[0], (0.0, 20.0))
    assert sqnr >= least_sqnr, f"{sqnr:.1f} dB"
    assert agreement >= least_agreement, f"{agreement:.2f} %"


@pytest.mark.parametrize("name", ["ic01", "kws01"])
def test_official_int8_networks_byte_for_byte(reference_dir: Path, name: str, tmp_path: Path) -> None:
    golden = np.load(reference_dir / "golden" / f"{name}_int8.npz")
    network = lower(importer.import_model(reference_dir / "models" / "int8" / f"{name}_int8.onnx"), name)
    library = host.shared_library(tmp_path, emit(network, EmitOptions("m", TARGETS["generic"])), ("gcc", "-O2"))
    size = golden["output"].shape[1]
    got = np.array([host.call(library, "m_run", [values], [size])[0] for values in golden["input"]])
    assert np.count_nonzero(got != golden["output"]) == 0
    assert bytes_differ(network, library, list(golden["input"][:EXACT_SAMPLES])) == 0


@pytest.mark.parametrize("name", ["ic01", "kws01"])
def test_every_layer_of_the_official_networks(reference_dir: Path, name: str) -> None:
    golden = np.load(reference_dir / "golden" / f"{name}_int8.npz")
    network = lower(importer.import_model(reference_dir / "models" / "int8" / f"{name}_int8.onnx"), name)
    values = interpret.run_all(network, [golden["input"][0]])
    # The interpreter lays some sums over their inputs, so a recorded layer may hold the result of the next one.
    computed = {values[layer.output].tobytes() for layer in network.layers}
    recorded = {golden[key].tobytes() for key in golden if key.startswith("layer")}
    assert recorded <= computed
    assert len(recorded) >= len(network.layers) - 3
