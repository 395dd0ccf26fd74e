"""What int8 costs in accuracy, beside onnxruntime's in the same run: `python -m benchmarks.quantization [--write]`.

Every model calibrates with samples of the reference folder and is judged on others: nnbuild's by the integers of the
generated C, onnxruntime's in onnxruntime. `--write` refreshes docs/ACCURACY.md. Needs the reference folder and `cc`.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from benchmarks import command
from benchmarks.footprint import ROOT
from nnbuild import __version__, accuracy, float_model, host, samples, simulation
from nnbuild.calibrate import METHODS
from nnbuild.corrections import NAMES
from nnbuild.files import write_text
from nnbuild.importer import import_model
from nnbuild.network import Array
from nnbuild.pipeline import Request, input_shapes, quantized
from tests import reference

TABLE = ROOT / "docs" / "ACCURACY.md"
JUDGED = ("kws01", "ic01")
EXPORTERS = ("tf2onnx/{}_tf", "torch/{}_torch_legacy", "torch/{}_torch_dynamo")
WITHOUT_CLASSES = frozenset(("ad01",))
NAMED = ("kws01", "ic01", "ad01", "vww96", "sww")
REPEATED = 4  # of ad01's windows, which overlap, each so many


@dataclass(frozen=True, slots=True)
class Case:
    """A float model with its samples, as files."""

    name: str
    path: Path
    model: onnx.ModelProto
    calibration: Path
    judging: Path
    labels: Array | None

    @property
    def samples(self) -> list[samples.Sample]:
        """Those to judge by."""
        return list(samples.load(str(self.judging), input_shapes(self.model)))


@dataclass(frozen=True, slots=True)
class Result:
    """Percent of right labels, None without; percent of equal arg-max; dB; seconds that quantizing took."""

    top1: float | None
    agreement: float | None
    sqnr: float
    seconds: float


def case(shared: Path, pattern: str, name: str, folder: Path) -> Case:
    """A reference network; of sww, which has no other samples, one half calibrates and the other judges."""
    path = shared / "models" / f"{pattern.format(name)}.onnx"
    model = import_model(path)
    (shape,) = input_shapes(model).values()
    found = reference.data(shared, path, shape)
    calibration, judging = found.calibration, found.dev
    if name == "sww":
        calibration, judging = calibration[::2], calibration[1::2]
    if name == "ad01":
        judging = judging[::REPEATED]
    files = [folder / f"{path.stem}_{kind}.npz" for kind in ("calibration", "judging")]
    labels: dict[str, Any] = {} if found.labels is None else {"y": found.labels}
    np.savez(files[0], x=np.ascontiguousarray(calibration, np.float32))
    np.savez(files[1], x=np.ascontiguousarray(judging, np.float32), **labels)
    return Case(name, path, model, files[0], files[1], found.labels)


# --- nnbuild -----------------------------------------------------------------------------------------------------


def ours(found: Case, folder: Path, **options: Any) -> Result:
    """nnbuild's quantization with `options` of a Request."""
    start = time.perf_counter()
    content = quantized(Request(str(found.path), str(found.calibration), **options)).content
    seconds = time.perf_counter() - start
    file = folder / "ours.int8.onnx"
    file.write_bytes(content)

    words = host.compiler(None)
    assert words is not None
    judging = samples.load(str(found.judging), input_shapes(found.model))
    measured = accuracy.measure(found.model, import_model(file), judging, program=host.compiled(words, "net", folder))
    return Result(measured.top1, measured.agreement, measured.sqnr_db, seconds)


# --- onnxruntime -------------------------------------------------------------------------------------------------

METHODS_OF_ONNXRUNTIME: Mapping[str, tuple[CalibrationMethod, Mapping[str, Any]]] = {
    "MinMax": (CalibrationMethod.MinMax, {}),
    "Percentile 99.999": (CalibrationMethod.Percentile, {"CalibPercentile": 99.999}),
    "Entropy": (CalibrationMethod.Entropy, {}),
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Samples one by one, as `quantize_static` wants them."""

    def __init__(self, found: Case, name: str) -> None:
        given = samples.load(str(found.calibration), input_shapes(found.model))
        self._left = iter([{name: next(iter(sample.values()))} for sample in given])

    def get_next(self) -> dict[str, Array] | None:
        """The next sample; None behind the last."""
        return next(self._left, None)


def theirs(found: Case, folder: Path, method: str) -> Result:
    """onnxruntime's quantization: QDQ, int8, weights per channel."""
    kind, extra = METHODS_OF_ONNXRUNTIME[method]
    (port,) = onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"]).get_inputs()
    start = time.perf_counter()
    output = folder / "theirs.onnx"
    quantize_static(
        found.path,
        output,
        _Reader(found, port.name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=kind,
        extra_options=dict(extra),
    )
    seconds = time.perf_counter() - start
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(output, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in found.model.graph.output]
    real = float_model.session(found.model, names)
    given = found.samples
    exact = np.array([real.run(sample)[names[0]].ravel() for sample in given], np.float64)
    rounded = simulation.each(
        lambda sample: session.run(None, {port.name: next(iter(sample.values()))})[0].ravel(), given
    )
    return judged(exact, np.array(rounded, np.float64), found.labels, seconds)


def judged(exact: Array, rounded: Array, labels: Array | None, seconds: float) -> Result:
    """Of outputs (samples, elements)."""
    error = np.square(exact - rounded).sum()
    agreement = 100 * float((exact.argmax(1) == rounded.argmax(1)).mean()) if exact.shape[1] > 1 else None
    top1 = None if labels is None else 100 * float((rounded.argmax(1) == labels.ravel()).mean())
    return Result(top1, agreement, 10 * float(np.log10(np.square(exact).sum() / error)), seconds)


# --- tables ------------------------------------------------------------------------------------------------------

Measure = Callable[[Case, Path], Result]


def forms() -> dict[str, Measure]:
    """The rows of the first table."""
    found: dict[str, Measure] = {}
    for method in METHODS_OF_ONNXRUNTIME:
        found[f"onnxruntime {method}"] = functools.partial(theirs, method=method)
    for method in METHODS:
        text = f'nnbuild `method="{method}"`, no corrections'
        found[text] = functools.partial(ours, method=method, corrections="none")
    for name in NAMES:
        rest = ",".join(other for other in NAMES if other != name)
        found[f"nnbuild without `{name}`"] = functools.partial(ours, corrections=rest)
    return {**found, "**nnbuild, as it comes**": ours}


HEADER = f"| | {' | '.join(f'{name} top-1 | agreement | SQNR | s' for name in JUDGED)} |\n|---{'|---:' * 8}|"
_COLUMNS = "agreement | SQNR | s"
EXPORTED = f"| model | calibrated / judged | onnxruntime {_COLUMNS} | nnbuild {_COLUMNS} |\n|---|---{'|---:' * 6}|"


def cells(result: Result, top1: bool) -> list[str]:
    """Numbers of a table."""
    shown = [result.top1, result.agreement] if top1 else [result.agreement]
    return [
        *("-" if value is None else f"{value:.2f}" for value in shown),
        f"{result.sqnr:.1f}",
        f"{result.seconds:.1f}",
    ]


def compared(shared: Path, folder: Path) -> Iterator[str]:
    """Rows of the first table."""
    cases = [case(shared, EXPORTERS[0], name, folder) for name in JUDGED]
    for text, measure in forms().items():
        results = [cells(measure(found, folder), top1=True) for found in cases]
        yield f"| {text} | {' | '.join(' | '.join(row) for row in results)} |"


def exported(shared: Path, folder: Path) -> Iterator[str]:
    """Rows of the second table."""
    for name in NAMED:
        for pattern in EXPORTERS:
            found = case(shared, pattern, name, folder)
            counts = [len(np.load(file)["x"]) for file in (found.calibration, found.judging)]
            both = [theirs(found, folder, "MinMax"), ours(found, folder)]
            both = [replace(result, agreement=None) for result in both] if name in WITHOUT_CLASSES else both
            numbers = " | ".join(" | ".join(cells(result, top1=False)) for result in both)
            yield f"| {found.path.stem} | {counts[0]} / {counts[1]} | {numbers} |"


def document(first: list[str], second: list[str]) -> str:
    """docs/ACCURACY.md."""
    return f"""# Accuracy of quantized networks

nnbuild {__version__} and onnxruntime {onnxruntime.__version__} (`quantize_static`: QDQ, int8, weights per channel) with
the same samples in one run; refreshed by `python -m benchmarks.quantization --write`. *Agreement* is the share of
samples with the float model's arg-max, SQNR that of all outputs in dB, *s* the seconds that quantizing took
({os.cpu_count()} cores, {platform.machine()}). No sample that calibrates is judged by. nnbuild's figures are those of
the generated C.

## Methods and corrections

kws01: 100 samples calibrate, 300 others judge; ic01: 100 and 500. One sample of kws01 is 0.33 points: SQNR tells more.

{HEADER}
{chr(10).join(first)}

onnxruntime's Entropy takes the ranges of its MinMax. nnbuild's `auto` chooses between the others for each tensor, by
what each costs the outputs; how sure it must be, it and the corrections, was chosen by cross-validation among
calibration samples. A Softmax has the scale of TensorFlow Lite's, 1/256: of a certain answer it shows 255/256, 48 dB.

## Every exporter

nnbuild as it comes, and onnxruntime's MinMax. Of sww there is one set: every second sample judges. Of ad01 every
{REPEATED}th window of a recording judges; it has no classes. PyTorch's older exporter leaves BatchNormalization behind
ad01's layers, which onnxruntime does not fold.

{EXPORTED}
{chr(10).join(second)}
"""


def main() -> int:
    """Print the tables, refresh the page with --write."""
    arguments = command.parser(__doc__, TABLE, by_network=False).parse_args()
    shared = command.reference()
    if shared is None:
        return 0
    tables: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for header, rows in ((HEADER, compared), (EXPORTED, exported)):
            print(header)
            tables.append([])
            for row in rows(shared, Path(folder)):
                tables[-1].append(row)
                print(row, flush=True)
    if arguments.write:
        write_text(TABLE, document(*tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
