"""Models as a folder of C for builds without SCons and Python: CMake, Keil, IAR, make.

Quantizes and generates as the SCons tool does, and writes C, headers, sources.txt, CMakeLists.txt and a README.txt for
the other build systems. A model that is quantized already (.int8.onnx) is taken as it is. Options hold for all models
of the call; what one has of its own stands in the .toml beside it, as for SCons. CMSIS-NN is named, never copied.
Either the whole folder is written or nothing of it; a second export removes what it no longer writes.

    python -m nnbuild export firmware/nn models/kws.onnx --calibration models/kws_calib.npz --cpu cortex-m0 --selftest 2
    python -m nnbuild export firmware/nn models/kws.int8.onnx models/wake.int8.onnx --cpu cortex-m4
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from nnbuild import config
from nnbuild.commands import emit, model_arguments, network_arguments
from nnbuild.errors import ConfigError, Finding, NNBuildError
from nnbuild.export import Exported, export, stale_files
from nnbuild.files import write_bytes, write_folder
from nnbuild.freeze import frozen
from nnbuild.pipeline import quantized


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    parser.add_argument("folder", metavar="DIR", help="new, empty, or an earlier export")
    parser.add_argument("models", metavar="MODEL.onnx", nargs="+")
    parser.add_argument("--name", help="the model's name in C (default: its file's), for one model")
    _add_options(parser)
    for action in parser._actions:
        # What is not given must not hide what the model's sidecar says.
        action.default = argparse.SUPPRESS


def _add_options(parser: argparse.ArgumentParser) -> None:
    model_arguments.add_calibration(parser)
    model_arguments.add_shapes(parser)
    model_arguments.add_quantization(parser)
    parser.add_argument("--frozen", metavar="m.int8.onnx", help="check the lock of this int8 file, and export it")
    network_arguments.add_lowering(parser)
    emit.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Generate everything, then write it."""
    given = vars(arguments)
    if "name" in given and len(arguments.models) > 1:
        raise ConfigError("--name is for one model", hint="name = '...' in the .toml beside each model")
    models, findings = [], []
    for path in arguments.models:
        try:
            models.append(_model(path, given))
        except NNBuildError as error:
            findings.append((type(error), error.findings))
    if findings:
        raise findings[0][0].of(finding for _, some in findings for finding in some)
    library = given.get("cmsis_nn")
    files = export(models, Path(library) if library else None)
    folder = Path(arguments.folder)
    write_folder(folder, files, stale_files(folder, files))
    print(f"{folder}: {len(files)} files, {', '.join(model.options.name for model in models)}")
    return 0


def _model(path: str, given: dict[str, Any]) -> Exported:
    """Quantized, in a file as in a build, and lowered."""
    side = _sidecar(path)
    name = given.get("name") or side.pop("name", None) or config.default_name(path)
    config.parse_options({"name": name}, path)
    options = argparse.ArgumentParser()
    _add_options(options)
    words = [str(word) for stage in ("quantize", "emit") for word in config.arguments(side, stage)]
    merged = argparse.Namespace(**{**vars(options.parse_args(words)), **given, "model": path})
    request, emitted = model_arguments.request(merged), emit.options(merged, name)
    content = frozen(request, merged.frozen) if merged.frozen else quantized(request).content
    with tempfile.TemporaryDirectory() as folder:
        merged.model = str(Path(folder) / "m.int8.onnx")
        write_bytes(merged.model, content)
        network = network_arguments.network(merged, path)
    return Exported(network, emitted, path)


def _sidecar(path: str) -> dict[str, Any]:
    """The options in the .toml beside the model; its paths are relative to it."""
    file = Path(re.sub(r"(\.int8)?\.onnx$", "", path) + ".toml")
    side = config.parse_options(config.read_sidecar(file, str(file)), str(file))
    for name, option in config.OPTIONS.items():
        if option.path and name in side:
            side[name] = str(file.parent / side[name])
    checked = [name for name in side if config.OPTIONS[name].stage not in ("quantize", "emit")]
    if checked:
        message = f"{', '.join(checked)}: only SCons builds check {'it' if len(checked) == 1 else 'them'}"
        print(Finding(message, str(file)), file=sys.stderr)
    return side
