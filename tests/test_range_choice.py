"""`method="auto"`: what a tensor's range costs the outputs decides, and what entropy takes for a range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnbuild import calibrate, samples
from nnbuild.histogram import CHOICES, Histogram
from nnbuild.importer import import_model
from nnbuild.pipeline import input_shapes
from nnbuild.ranges import Range
from tests.graphs import model, node, save


def ranges_of(folder: Path, between: str, method: str) -> Range:
    """Of `h`, which is nearly always small and in one sample of 50 twenty times as large, in front of an operator."""
    nodes = [node("Gemm", "x w", "h"), *([node(between, "h", "s")] if between else [])]
    nodes.append(node("Gemm", "s v" if between else "h v", "y"))
    identity = np.eye(8, dtype=np.float32)
    path = save(folder, model(nodes, {"x": ["N", 8]}, ["y"], {"w": identity, "v": identity}))
    values = np.random.default_rng(0).normal(size=(150, 8)).clip(-3, 3)
    values[::50] *= 20
    np.savez(folder / "c.npz", x=values.astype(np.float32))
    proto = import_model(path)
    found = samples.load(str(folder / "c.npz"), input_shapes(proto))
    return calibrate.ranges(proto, found, method).tensors["h"]


def test_a_range_is_as_narrow_as_the_outputs_allow(tmp_path: Path) -> None:
    """Behind a Sigmoid nothing is left of large values; elsewhere they are what an output's power is made of."""
    widest = ranges_of(tmp_path, "", "minmax")
    assert ranges_of(tmp_path, "", "auto") == widest
    low, high = ranges_of(tmp_path, "Sigmoid", "auto")
    assert high - low < 0.75 * (widest[1] - widest[0])


def test_of_equal_errors_the_widest_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnbuild.range_choice._Trial.errors", lambda trial, *_: [1.0] * len(trial.candidates))
    assert ranges_of(tmp_path, "Sigmoid", "auto") == ranges_of(tmp_path, "Sigmoid", "percentile")


def histogram(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Histogram:
    found = Histogram()
    found.add(values.astype(np.float32))
    return found


def test_entropy_clips_a_tail_and_keeps_what_is_even() -> None:
    source = np.random.default_rng(0)
    even = source.uniform(-1, 1, 200_000)
    assert CHOICES["entropy"](histogram(even)) == CHOICES["minmax"](histogram(even))
    tail = np.append(source.normal(size=200_000), [40.0])
    low, high = CHOICES["entropy"](histogram(tail))
    assert high < 30
    assert low < -3.5


def test_entropy_does_not_see_the_zeros_of_a_relu() -> None:
    """However many they are, the range is the same."""
    positive = np.abs(np.random.default_rng(0).normal(size=50_000))
    found = [CHOICES["entropy"](histogram(np.append(positive, np.zeros(count)))) for count in (10, 1_000_000)]
    assert found[0] == found[1]
    assert found[0][1] > 2
