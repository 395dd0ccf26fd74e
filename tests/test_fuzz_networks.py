"""Random networks: C equals the integer reference bit for bit, and both mean what onnxruntime computes in floats.

NNBUILD_SWEEP=N runs N times as many, under the sanitizers.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from nnbuild import interpret
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import InternalError, NNBuildError
from nnbuild.importer import import_model
from nnbuild.lower import lower
from nnbuild.network import Network
from nnbuild.target import TARGETS, Target

from . import host
from .damage import damage
from .host import Array
from .random_networks import RandomNetwork, networks

SWEEP = int(os.environ.get("NNBUILD_SWEEP", "0"))
BATCH = 6
"""Networks that are compiled into one library."""

TARGETS_HERE: dict[str, Target] = {
    "generic": TARGETS["generic"],
    "armv6m": replace(TARGETS["cortex-m0"], guard=""),
}
SAMPLES = 5
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def examples(count: int, shrink: bool = True) -> settings:
    """The same examples at every run, unless this is a sweep; what takes a compiler is not shrunk."""
    return settings(
        max_examples=count * max(SWEEP, 1),
        deadline=None,
        derandomize=not SWEEP,
        database=None,
        suppress_health_check=QUIET,
        phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if shrink else ())),
        report_multiple_bugs=False,
    )


def lowered(model: onnx.ModelProto) -> Network | None:
    """The network, or None where nnbuild says in one line that it does not serve the model."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    try:
        return lower(inferred, "random.onnx")
    except NNBuildError as error:
        check_message(error)
        return None


def check_message(error: NNBuildError) -> None:
    """The error is the user's to understand, and one line for each finding."""
    assert not isinstance(error, InternalError), error
    for line in str(error).splitlines():
        assert line.strip()
        event(f"refused: {line.partition(': ')[2][:60]}")


def imported(model: onnx.ModelProto, folder: Path) -> Network | None:
    """The network by the way of a file."""
    path = folder / "random.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        return lower(import_model(path), "random.onnx")
    except NNBuildError as error:
        check_message(error)
        return None


def poisoned(
    library: ctypes.CDLL, name: str, network: Network, arena: int, sample: Sequence[Array], fill: int
) -> list[Array]:
    """One run in an arena that is filled with `fill` (or noise, for -1); nothing outside of it may change."""
    rng = np.random.default_rng(1)
    room = np.full(arena + 64, 99, np.uint8)
    start = 32 - room.ctypes.data % 4
    room[start : start + arena] = rng.integers(0, 256, arena) if fill < 0 else fill
    sizes = [network.tensors[port.tensor].size for port in network.outputs]
    outputs = [np.full(size + 34, 77, np.int8) for size in sizes]
    inputs = [np.concatenate([np.zeros(1, np.int8), values]) for values in sample]
    before = [values.copy() for values in inputs]
    pointers = [room.ctypes.data + start, *(v.ctypes.data + 1 for v in inputs), *(v.ctypes.data + 17 for v in outputs)]
    assert getattr(library, f"{name}_run")(*map(ctypes.c_void_p, pointers)) == 0
    assert (room[:start] == 99).all(), "wrote in front of the arena"
    assert (room[start + arena :] == 99).all(), "wrote behind the arena"
    for values, old in zip(inputs, before, strict=True):
        assert np.array_equal(values, old), "wrote to its input"
    for values, size in zip(outputs, sizes, strict=True):
        assert (values[:17] == 77).all()
        assert (values[17 + size :] == 77).all()
    return [values[17 : 17 + size] for values, size in zip(outputs, sizes, strict=True)]


def compiled(folder: Path, found: Sequence[Network], target: Target) -> tuple[ctypes.CDLL, list[int]]:
    """One library with models m0, m1, ... and the bytes of arena that each wants."""
    files: dict[str, str] = {}
    arenas = []
    for number, network in enumerate(found):
        made = emit(network, EmitOptions(f"m{number}", target, arena="caller"))
        line = next(line for line in made[f"m{number}.h"].splitlines() if "_ARENA_SIZE " in line)
        arenas.append(int(line.split()[2]))
        files |= made
    flags = ["gcc", "-O1"]
    if SWEEP:
        flags += ["-fsanitize=undefined", "-fno-sanitize-recover=all", "-static-libubsan"]
    return host.shared_library(folder, files, flags), arenas


@examples(4, shrink=False)
@given(drawn=st.lists(networks(), min_size=BATCH, max_size=BATCH))
def test_c_equals_reference(tmp_path_factory: pytest.TempPathFactory, drawn: list[RandomNetwork]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    pairs = [(random, network) for random in drawn if (network := lowered(random.model)) is not None]
    for label, target in TARGETS_HERE.items():
        library, arenas = compiled(folder / label, [network for _, network in pairs], target)
        for number, (random, network) in enumerate(pairs):
            for position, sample in enumerate(random.samples(SAMPLES)):
                fill = (0x55, -1, 0, 0xFF, 0x80)[position % 5]
                found = poisoned(library, f"m{number}", network, arenas[number], sample, fill)
                for a, b in zip(found, interpret.run(network, sample), strict=True):
                    assert np.array_equal(a, b.ravel()), f"{label}: {onnx.printer.to_text(random.model)}"


@examples(60)
@given(random=networks())
def test_means_what_onnxruntime_computes(random: RandomNetwork) -> None:
    network = lowered(random.model)
    if network is None:
        return
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        random.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for sample in random.samples(SAMPLES):
        wanted = session.run(None, random.feeds(sample))
        for position, ours in enumerate(interpret.run(network, sample)):
            theirs = random.steps(position, np.asarray(wanted[position]))
            assert ours.shape == theirs.shape
            worst = float(np.abs(ours - np.clip(theirs, -128, 127)).max())
            assert worst <= random.tolerance[position], onnx.printer.to_text(random.model)


@examples(40)
@given(random=networks())
def test_import_changes_no_byte(tmp_path_factory: pytest.TempPathFactory, random: RandomNetwork) -> None:
    """Simplifying a quantized model must not change its numbers."""
    direct, through = lowered(random.model), imported(random.model, tmp_path_factory.mktemp("fuzz"))
    if direct is None or through is None:
        return
    assert [port.shape for port in direct.outputs] == [port.shape for port in through.outputs]
    for sample in random.samples(3):
        for a, b in zip(interpret.run(direct, sample), interpret.run(through, sample), strict=True):
            assert np.array_equal(a, b), onnx.printer.to_text(random.model)


@examples(100)
@given(random=networks(), seed=st.integers(0, 2**32 - 1))
def test_damaged_models_are_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, random: RandomNetwork, seed: int
) -> None:
    """Whatever an edited file says: C, or one line for each finding; never a traceback."""
    rng = np.random.default_rng(seed)
    for _ in range(int(rng.integers(1, 3))):
        damage(random.model, rng)
    network = imported(random.model, tmp_path_factory.mktemp("fuzz"))
    if network is not None:
        interpret.run(network, [np.zeros(network.tensors[port.tensor].size, np.int8) for port in network.inputs])
        emit(network, EmitOptions("m"))
