"""300 models of changed bytes and of changed graphs, through the commands: each is built, or refused in words.

Each within 20 s and 2 GB. NNBUILD_SWEEP=N takes N times as many.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from nnbuild.importer import import_model
from nnbuild.onnxfile import is_qdq
from nnbuild.pipeline import Request, input_shapes, quantized

from . import mutated_models, reference
from .conftest import ROOT
from .graphs import save
from .mutated_models import Result, bytes_changed, graph_changed
from .test_small_networks import NETWORKS

COUNT = 300 * max(int(os.environ.get("NNBUILD_SWEEP", "0")), 1)
WAYS: tuple[Callable[[bytes, int], bytes], ...] = (bytes_changed, graph_changed)


def samples(model: onnx.ModelProto, path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = input_shapes(model)
    arrays: dict[str, Any] = {name: rng.normal(0, 1, (4, *shape[1:])) for name, shape in shapes.items()}
    np.savez(path, **arrays)


def sources(folder: Path, models: Sequence[Path]) -> list[tuple[str, bytes, bytes]]:
    """Name, bytes and int8 bytes of each model; `<name>.npz` in `folder` holds samples of each."""
    found = []
    for path in models:
        imported = import_model(path)
        samples(imported, folder / f"{path.stem}.npz")
        calibration = None if is_qdq(imported) else str(folder / f"{path.stem}.npz")
        found.append((path.stem, path.read_bytes(), quantized(Request(str(path), calibration)).content))
    return found


def networks(folder: Path) -> list[Path]:
    """Files of networks of every supported kind."""
    return [save(folder, network, f"{name}.onnx") for name, network in NETWORKS.items()]


def mutant(number: int, found: Sequence[tuple[str, bytes, bytes]], folder: Path) -> tuple[list[str], ...]:
    """The commands over mutant `number`: check; quantize (of an int8 model nothing); emit of what that wrote."""
    name, plain, integer = found[number // 4 % len(found)]
    path, int8 = folder / f"m{number}.onnx", folder / f"m{number}.int8.onnx"
    is_float = number // 2 % 2 == 0
    (path if is_float else int8).write_bytes(WAYS[number % 2](plain if is_float else integer, number))
    quantize = ["quantize", str(path), "--calibration", str(folder / f"{name}.npz"), "-o", str(int8)]
    emit = ["emit", str(int8), "--name", "m", "--output-dir", str(folder / f"c{number}"), "--cpu", "cortex-m0"]
    check = ["check", str(path if is_float else int8), "--cpu", "cortex-m0", "--flash", "4K", "--ram", "1K"]
    return check, (quantize if is_float else []), emit


def wrong(job: Sequence[str], result: Result) -> str:
    """What is wrong with how a command ended; "" where it is fine: success, or one line for each finding."""
    lines = result.errors.splitlines()
    files = f"{re.escape(job[1])}|{re.escape(job[3])}" if job[0] == "quantize" else re.escape(job[1])
    fine, refused = ((0, 1), 2) if job[0] == "check" else ((0,), 1)
    if result.status not in (*fine, refused) or (result.status in fine) != (lines == []):
        return f"status {result.status}: {result.errors[-500:]}"
    odd = [line for line in lines if not (re.fullmatch(rf"({files}): \S.{{8,600}}", line) and line.isprintable())]
    return f"says: {odd[0]}" if odd else ""


def failures(jobs: Sequence[Sequence[str]]) -> tuple[list[str], list[Result]]:
    """What is wrong, by job, and all results; what ends the process of the commands is wrong as well."""
    with ThreadPoolExecutor(2) as pool:
        halves = [jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]]
        both = list(pool.map(mutated_models.run, halves))
    found = []
    for half, results in zip(halves, both, strict=True):
        if len(results) < len(half):
            found.append(f"{half[len(results)]}: took the process with it, or more than {mutated_models.SECONDS} s")
        pairs = zip(half, results, strict=False)
        found += [f"{' '.join(job)}: {text}" for job, result in pairs if (text := wrong(job, result))]
    return found, [result for results in both for result in results]


def run(folder: Path, models: Sequence[Path], count: int) -> tuple[int, int]:
    """How many of `count` mutants are built, and how many refused; AssertionError with what is wrong."""
    found = sources(folder, models)
    mutants = [mutant(number, found, folder) for number in range(count)]
    judged, _ = failures([check for check, _, _ in mutants])
    first = [quantize for _, quantize, _ in mutants if quantize]
    bad, results = failures(first)
    quantized_ones = {job[5] for job, result in zip(first, results, strict=False) if result.status == 0}
    second = [emit for _, quantize, emit in mutants if not quantize or emit[1] in quantized_ones]
    worse, more = failures(second)
    assert not judged + bad + worse, "\n".join([*judged, *bad, *worse])
    refused = sum(result.status for result in [*results, *more])
    return count - refused, refused


def test_mutants_are_built_or_refused_in_words(tmp_path: Path) -> None:
    built, refused = run(tmp_path, networks(tmp_path), COUNT)
    assert built > COUNT // 10
    assert refused > COUNT // 10


def test_mutants_of_the_reference_networks(reference_dir: Path, tmp_path: Path) -> None:
    official = sorted((reference_dir / "models" / "int8").glob("*.onnx"))
    built, refused = run(tmp_path, [*official, *reference.models(reference_dir)], COUNT // 10)
    assert built + refused == COUNT // 10


def test_the_command_itself(tmp_path: Path) -> None:
    """From start-up on, in a process of its own for each."""
    found = sources(tmp_path, networks(tmp_path)[:2])
    for number in range(6):
        jobs = [job for job in mutant(number, found, tmp_path) if job]
        for job in jobs:
            done = subprocess.run(
                [sys.executable, "-m", "nnbuild", *job],
                capture_output=True, text=True, check=False, timeout=mutated_models.SECONDS,
                preexec_fn=mutated_models.limit, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            assert not wrong(job, Result(done.returncode, done.stderr, 0.0))
            if done.returncode and job[0] == "quantize":
                break


def test_limits_hold(tmp_path: Path) -> None:
    """A command that takes more than it may is noticed, and so is one that says nothing of use."""
    program = "from tests import mutated_models as m; m.limit(); bytearray(m.BYTES)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr
    job = ["emit", "m.onnx"]
    assert not wrong(job, Result(0, "", 1.0))
    assert not wrong(job, Result(1, "m.onnx: node 'a' (Conv): no kernel\nm.onnx: node 'b' (Conv): no kernel\n", 1.0))
    assert wrong(job, Result(1, "", 1.0))
    assert wrong(job, Result(0, "RuntimeWarning: overflow\n", 1.0))
    assert wrong(job, Result(1, "m.onnx: \n", 1.0))
    assert wrong(job, Result(1, "Traceback (most recent call last):\n", 1.0))
    assert wrong(job, Result(3, "m.onnx: internal error: KeyError: 'a'\n", 1.0))
