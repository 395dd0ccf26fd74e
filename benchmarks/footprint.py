"""Flash, RAM and instructions of the reference networks: `python -m benchmarks.footprint [--write]`.

Prints one row for each network and core; `--write` refreshes docs/FOOTPRINT.md. Every row's outputs are compared with
the integer reference in the same run. Needs the reference folder, the cross compiler and QEMU.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks import command, target
from nnbuild import __version__, importer, interpret, pipeline
from nnbuild.emit import EmitOptions, emit
from nnbuild.files import write_text
from nnbuild.lower import lower
from nnbuild.pipeline import Request
from nnbuild.target import TARGETS
from tests import reference

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "FOOTPRINT.md"
CPUS = {"M0": "cortex-m0", "M4": "cortex-m4"}
SAMPLES = 3
NETWORKS = {
    "kws01 (official int8)": "int8/kws01_int8.onnx",
    "ic01 (official int8)": "int8/ic01_int8.onnx",
    "kws01": "tf2onnx/kws01_tf.onnx",
    "ic01": "tf2onnx/ic01_tf.onnx",
    "ad01": "tf2onnx/ad01_tf.onnx",
    "vww96": "tf2onnx/vww96_tf.onnx",
    "sww": "tf2onnx/sww_tf.onnx",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; bytes, instructions, seconds."""

    network: str
    core: str
    flash: int
    weights: int
    arena: int
    static_ram: int
    stack: int
    instructions: int
    quantize_s: float
    emit_s: float


def quantized(
    path: Path, folder: Path, shared: Path, fully_connected: str = "per_channel"
) -> tuple[onnx.ModelProto, float]:
    """The int8 model, and the seconds that importing, calibrating and quantizing took."""
    start = time.perf_counter()
    model = importer.import_model(path)
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        value = model.graph.input[0]
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        np.savez(folder / "calibration.npz", x=reference.data(shared, path, shape).calibration)
        request = Request(str(path), str(folder / "calibration.npz"), fully_connected=fully_connected)
        start = time.perf_counter()
        model = onnx.load_model_from_string(pipeline.quantized(request).content)
    return model, time.perf_counter() - start


def rows(shared: Path, folder: Path, chosen: str) -> Iterator[Row]:
    """Measure every network whose name contains `chosen` on every core."""
    for name, file in NETWORKS.items():
        if chosen not in name:
            continue
        model, quantize_s = quantized(shared / "models" / file, folder, shared)
        network = lower(model, name)
        size = network.tensors[network.inputs[0].tensor].size
        inputs = np.random.default_rng(0).integers(-128, 128, (SAMPLES, size)).astype(np.int8)
        expected = np.array([interpret.run(network, [values])[0].ravel() for values in inputs])
        for core, cpu in CPUS.items():
            start = time.perf_counter()
            files = emit(lower(model, name), EmitOptions("net", TARGETS[cpu]))
            emit_s = time.perf_counter() - start
            found = target.measure(core, files, inputs, shared / "harness", folder / core)
            if not np.array_equal(found.outputs, expected):
                raise SystemExit(f"{name} on {core}: outputs differ from the integer reference")
            report = json.loads(files["net.report.json"])
            weights = sum(layer["weights_bytes"] for layer in report["layers"])
            yield Row(
                name,
                core,
                found.flash,
                weights,
                report["arena_bytes"],
                found.static_ram,
                found.stack,
                found.instructions,
                quantize_s,
                emit_s,
            )


HEADER = (
    "| network | core | flash | weights + parameters | code | arena | static RAM | stack "
    "| instructions | quantize s | emit s |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def line(row: Row) -> str:
    """One row in Markdown."""
    numbers = [row.flash, row.weights, row.flash - row.weights, row.arena, row.static_ram, row.stack, row.instructions]
    cells = [
        row.network,
        row.core,
        *(f"{number:,}" for number in numbers),
        f"{row.quantize_s:.1f}",
        f"{row.emit_s:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Print the table, refresh it with --write."""
    arguments = command.parser(__doc__, TABLE).parse_args()
    shared = command.reference()
    if shared is None:
        return 0
    lines = []
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(shared, Path(folder), arguments.only):
            lines.append(line(row))
            print(lines[-1], flush=True)
    if arguments.write:
        write_text(TABLE, document(lines))
    return 0


def document(lines: list[str]) -> str:
    """docs/FOOTPRINT.md."""
    return f"""# Footprint of the reference networks

nnbuild {__version__}, {target.compiler_version()}, `-O2`, newlib-nano;
refreshed by `python -m benchmarks.footprint --write`.

Flash is the linked image less the same image with an empty network (so without start-up code); static RAM is the arena
and all other variables, without the caller's input and output; stack is the deepest of one inference, painted.
Instructions of one inference are counted under QEMU by the reference harness' plugin. Outputs of every row equal
the integer reference. Seconds are of one run on a small machine, and say no more than their order of magnitude.

{HEADER}
{chr(10).join(lines)}
"""


if __name__ == "__main__":
    sys.exit(main())
