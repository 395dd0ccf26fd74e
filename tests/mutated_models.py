"""Damaged models, and a process that runs nnbuild's commands over them within limits of time and memory.

    python -m tests.mutated_models < jobs > results

A job is one line of JSON, the arguments of a command; so is a result. The process ends where a command takes longer
than it may, or where native code fails: the first job without a result is the culprit.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from tests.damage import damage

SECONDS = 20
BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Result:
    """Exit status of a command, what it printed to the error stream, and how long it took."""

    status: int
    errors: str
    seconds: float


def bytes_changed(content: bytes, seed: int) -> bytes:
    """A few bytes flipped, set, removed or repeated, or the end cut off."""
    rng = random.Random(seed)
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(changed))
        way = rng.randrange(9)
        if way < 2:
            changed[at] ^= 1 << rng.randrange(8)
        elif way < 4:
            changed[at] = rng.choice((0, 1, 2, 127, 128, 255))
        elif way < 6:
            del changed[at : at + rng.randrange(1, 9)]
        elif way < 8:
            changed[at:at] = changed[rng.randrange(len(changed)) :][: rng.randrange(1, 40)]
        elif len(changed) > 100:
            del changed[max(at, 99) :]
    return bytes(changed)


def graph_changed(content: bytes, seed: int) -> bytes:
    """One or two edits of nodes, attributes, initializers, shapes or wires."""
    rng = np.random.default_rng(seed)
    model = onnx.load_model_from_string(content)
    for _ in range(int(rng.integers(1, 3))):
        damage(model, rng)
    return bytes(model.SerializeToString())


def run(jobs: Sequence[Sequence[str]]) -> list[Result]:
    """The result of each job; fewer than jobs where one of them took the process with it."""
    lines = "".join(json.dumps(list(job)) + "\n" for job in jobs)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutated_models"],
        input=lines, capture_output=True, text=True, check=False, env=environment, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    return [Result(**json.loads(line)) for line in done.stdout.splitlines()]


def limit() -> None:
    """What the commands of this process may take."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _measured(job: list[str]) -> Result:
    from nnbuild import cli

    with tempfile.TemporaryFile("w+") as errors:
        before = time.monotonic()
        with _streams_to(errors.fileno()):
            signal.alarm(SECONDS)
            try:
                status = cli.main(job)
            except SystemExit as end:
                status = 2 if end.code else 0
            signal.alarm(0)
        seconds = time.monotonic() - before
        errors.seek(0)
        return Result(status, errors.read(), seconds)


@contextlib.contextmanager
def _streams_to(errors: int) -> Iterator[None]:
    """Both streams of the process elsewhere, also for native code that writes to them."""
    saved = [os.dup(stream) for stream in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    os.dup2(null, 1)
    os.dup2(errors, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, old in zip((1, 2), saved, strict=True):
            os.dup2(old, stream)
            os.close(old)
        os.close(null)


def _main() -> None:
    limit()
    for line in sys.stdin:
        result = _measured(json.loads(line))
        fields = {"status": result.status, "errors": result.errors, "seconds": result.seconds}
        print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    _main()
