"""Frozen quantization: an int8 file committed beside the model, and a lock that says what it was made from.

m.int8.lock is JSON: SHA-256 of the model and its external data, of the calibration samples as the model sees them, of
the int8 file itself; the options; the versions of what computed it. A lock is checked without onnxruntime. Other
versions do not break it, anything else does; calibration data that is not there is not checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from nnbuild import __version__, samples
from nnbuild.calibrate import digest_of
from nnbuild.errors import CalibrationError, ConfigError, Finding
from nnbuild.files import write_bytes, write_text
from nnbuild.onnxfile import external_files, inside, parse, read_model
from nnbuild.pipeline import Quantized, Request, input_shapes, quantized
from nnbuild.precision_names import AUTO

_SCHEMA = 1
_TOOLS = ("numpy", "onnx", "onnxruntime")
_HINT = "freeze again: `scons nn-freeze`, or `python -m nnbuild freeze`"


def lock_path(int8_file: str) -> Path:
    """m.int8.onnx -> m.int8.lock."""
    path = Path(int8_file)
    return path.with_suffix(".lock") if path.suffix == ".onnx" else path.with_name(path.name + ".lock")


def freeze(request: Request, int8_file: str) -> Quantized:
    """Quantize, write the int8 file and its lock."""
    result = quantized(request)
    calibration = None
    if result.ranges is not None:
        calibration = {"samples": result.ranges.samples, "sha256": result.ranges.sha256}
    document = {
        "schema": _SCHEMA,
        "int8": _sha256(result.content),
        "model": _model_digests(request.model),
        "calibration": calibration,
        "options": _options(request),
        "versions": {"nnbuild": __version__, **{name: metadata.version(name) for name in _TOOLS}},
    }
    write_bytes(int8_file, result.content)
    if result.found is not None:
        document["int16"] = json.loads(result.found.metadata())
    write_text(lock_path(int8_file), json.dumps(document, indent=1, sort_keys=True) + "\n")
    return result


def frozen(request: Request, int8_file: str) -> bytes:
    """The bytes of the frozen int8 file, once its lock is found to hold; ConfigError names everything that changed."""
    content = _read(Path(int8_file))
    lock = _lock(lock_path(int8_file))
    changed = list(_changes(request, int8_file, content, lock))
    if changed:
        raise ConfigError.of(Finding(change, int8_file, _HINT) for change in changed)
    return content


def _changes(request: Request, int8_file: str, content: bytes, lock: dict[str, Any]) -> Iterator[str]:
    if _sha256(content) != lock["int8"]:
        yield "the int8 file is not the one that the lock was written for"
        return
    digests = _model_digests(request.model)
    locked: dict[str, str] = lock["model"]
    for name in sorted(digests.keys() | locked.keys()):
        if digests.get(name) != locked.get(name):
            what = f"the model's data file '{name}'" if name else f"the model {request.model}"
            yield f"{what} is not the one that was frozen"
    options, before = _options(request), lock["options"]
    for name in sorted(options.keys() | before.keys()):
        if options.get(name) != before.get(name):
            yield f"option {name} is {_said(options.get(name))}, frozen with {_said(before.get(name))}"
    if request.calibration is not None and _present(request.calibration):
        held = lock["calibration"]
        if held is None:
            yield "the frozen model came quantized, but calibration samples are given"
        elif digest_of(samples.load(request.calibration, input_shapes(read_model(int8_file)))) != held["sha256"]:
            yield f"the calibration samples {request.calibration} are not those that were frozen"


def _said(value: object) -> str:
    return "not given" if value is None else json.dumps(value)


def _present(calibration: str) -> bool:
    try:
        files = samples.source_files(calibration)
    except CalibrationError:
        return Path(calibration).exists()  # there, but wrong: loading it will say how
    return all(file.exists() for file in files)


def _options(request: Request) -> dict[str, Any]:
    """What was asked for, in JSON's types; an option that was not given is not there, so defaults may improve."""
    options: dict[str, Any] = {f"input-shape {name}": list(shape) for name, shape in request.input_shapes.items()}
    if request.method is not None:
        options["method"] = request.method
    if request.corrections is not None:
        options["corrections"] = request.corrections
    if request.ranges is not None:
        options["ranges"] = _sha256(_read(Path(request.ranges)))
    if request.fully_connected is not None:
        options["fully_connected"] = request.fully_connected
    if request.int16:
        options["int16"] = list(request.int16)
    if AUTO in request.int16:
        options.update({name: value for name, value in asdict(request.aim).items() if value is not None})
    if request.states is not None:
        options["states"] = request.states if isinstance(request.states, str) else dict(request.states)
    if request.stream is not None:
        options |= {f"stream_{key}": value for key, value in asdict(request.stream).items() if value is not None}
    return options


def _model_digests(model: str) -> dict[str, str]:
    """SHA-256 of the .onnx (under "") and of each file of its external data, by name."""
    path = Path(model)
    digests = {"": _sha256(_read(path))}
    for name in external_files(parse(path)):
        data = inside(path.resolve().parent, name)
        if data is None or not data.is_file():
            raise ConfigError(f"external data file '{name}' is missing, or outside the model's folder", model)
        digests[name] = _sha256(_read(data))
    return digests


def _lock(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read(path))
        good = document["schema"] == _SCHEMA and isinstance(document["model"], dict)
        good = good and isinstance(document["options"], dict) and isinstance(document["int8"], str)
        good = good and (document["calibration"] is None or isinstance(document["calibration"]["sha256"], str))
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise ConfigError("not a lock file of this version", str(path), _HINT)
    return dict(document)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = _HINT if path.suffix == ".lock" or path.name.endswith(".int8.onnx") else ""
        raise ConfigError(f"cannot read: {error.strerror or error}", str(path), hint) from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
