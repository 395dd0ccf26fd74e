"""What one trip of each kernel's loops costs, fitted to samples by nonnegative least squares, and how far off that is.

The error of a reference network is that of the fit to all samples, and of one to the samples of the other networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cost_samples import CORES, MEASURED_ON, Sample, columns
from nnbuild import cost
from nnbuild.network import Array

# Cores without timings of their own take the ratio of cycles to instructions of a similar one. On MVE, where nothing
# here has timings, a vector instruction takes two cycles; so no more than two for each.
LIKE = {"cortex-m23": "cortex-m0plus", "cortex-m7": "cortex-m4", "cortex-m33": "cortex-m4"}
VECTOR_FACTOR = {"cortex-m55": 2.0, "cortex-m85": 2.0}
SMALL = {"instructions": 300.0, "code": 60.0}
"""Below about so much an error counts absolutely, above relatively."""
LEAST = 5.0
"""Percent that no error is stated below: networks much smaller than the reference networks are further off."""
ROUNDS, TYPICAL = 20, 0.05
"""Layers that are further off than that share count less in the next round (Huber): compilers treat some specially."""


def nonnegative(matrix: Array, values: Array) -> Array:
    """x >= 0 that minimizes |matrix x - values|: Lawson and Hanson, Solving Least Squares Problems, chapter 23."""
    count = matrix.shape[1]
    solution, free, useless = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
    tolerance = 1e-9 * max(1.0, float(np.abs(matrix.T @ values).max(initial=0)))
    for _ in range(10 * count):
        gradient = matrix.T @ (values - matrix @ solution)
        gradient[free | useless] = -np.inf
        if gradient.max() <= tolerance:
            break
        added = int(gradient.argmax())
        free[added] = True
        while True:
            trial = np.zeros(count)
            trial[free] = np.linalg.lstsq(matrix[:, free], values, rcond=None)[0]
            if trial[added] <= 0 and solution[added] == 0:
                # Only rounding makes it look useful, as where loops always run equally often.
                free[added], useless[added] = False, True
                break
            if trial[free].min() > 0:
                solution, useless = trial, np.zeros(count, bool)
                break
            falling = free & (trial <= 0)
            step = (solution[falling] / (solution[falling] - trial[falling])).min()
            solution = solution + step * (trial - solution)
            free &= solution > 1e-12
            solution[~free] = 0
    return solution


def fit(isa: str, samples: Sequence[Sample]) -> dict[str, dict[str, list[float]]]:
    """kernel -> loop -> what one trip costs, by column."""
    rows: dict[str, dict[str, list[float]]] = {}
    for kernel in sorted({sample.kernel for sample in samples}):
        mine = [sample for sample in samples if sample.kernel == kernel]
        loops = list(dict.fromkeys(loop for sample in mine for loop in sample.trips))
        fitted = {column: _column(mine, loops, column) for column in columns(isa)}
        rows[kernel] = {loop: [round(float(fitted[c][at]), 3) for c in fitted] for at, loop in enumerate(loops)}
    return rows


def _column(samples: Sequence[Sample], loops: Sequence[str], column: str) -> Array:
    values = np.array([sample.figures[column] for sample in samples])
    trips = np.array([[sample.trips.get(loop, 0) for loop in loops] for sample in samples], float)
    if column == "code":
        trips = np.array([[_code(sample, loop) for loop in loops] for sample in samples], float)
    small = SMALL.get(column, SMALL["instructions"])
    # The first round trusts large layers, so that none of which the compiler left little has all the say.
    size, trust = np.sqrt(values + small), np.ones(len(values))
    for _ in range(ROUNDS):
        weight = trust / size
        # Columns of one size, so that the tolerance suits all of them.
        scale = np.maximum(np.abs(trips * weight[:, None]).max(axis=0), 1e-12)
        solution: Array = nonnegative(trips * weight[:, None] / scale, values * weight) / scale
        estimates = trips @ solution
        size = np.maximum(values, estimates) + small
        off = np.abs(estimates - values) / size
        trust = np.sqrt(np.minimum(1, TYPICAL / np.maximum(off, 1e-12)))
    return solution


def _code(sample: Sample, loop: str) -> float:
    """How much code a loop is: there once, however often it runs."""
    return cost.code_of(sample.kernel, loop, sample.trips.get(loop, 0))


def estimate(isa: str, rows: Mapping[str, Mapping[str, Sequence[float]]], sample: Sample, column: str) -> float:
    """What the table says of a sample."""
    at = columns(isa).index(column)
    known = rows[sample.kernel]
    code = column == "code"
    trips = {loop: _code(sample, loop) if code else count for loop, count in sample.trips.items() if loop in known}
    return sum(known[loop][at] * count for loop, count in trips.items())


# --- errors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One reference network: measured, and how far off the estimate is, in percent, with it in the fit and without."""

    network: str
    backend: str
    core: str
    instructions: float
    cycles: float
    waits: float
    error: float
    unseen: float
    with_waits: float


def evaluate(isa: str, samples: Sequence[Sample]) -> list[Row]:
    """A row for each reference network, backend and core of the class."""
    rows, all_fitted = [], fit(isa, samples)
    for name in dict.fromkeys(sample.network for sample in samples if sample.network):
        # The official int8 networks have the layers of those of their name.
        family = name.split()[0]
        unseen = fit(isa, [sample for sample in samples if sample.network.split(" ")[0] != family])
        for backend in ("direct", "cmsis_nn"):
            mine = [sample for sample in samples if (sample.network, sample.backend) == (name, backend)]
            if not mine:
                continue  # rows are measured with our kernels alone
            for core in CORES[isa] or ("instructions",):
                real, waits = (sum(sample.figures[column] for sample in mine) for column in (core, "waits"))
                instructions = sum(sample.figures["instructions"] for sample in mine)

                def error(table: Mapping[str, Any], *which: str, measured: float, of: Sequence[Sample] = mine) -> float:
                    guess = sum(estimate(isa, table, sample, column) for sample in of for column in which)
                    return 100 * (guess / measured - 1)

                seen = error(all_fitted, core, measured=real)
                other = error(unseen, core, measured=real)
                slow = error(unseen, core, "waits", measured=real + waits)
                label = core if CORES[isa] else MEASURED_ON[isa]
                rows.append(Row(name, backend, label, instructions, real, waits, seen, other, slow))
    return rows


def errors(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """core -> backend -> the largest error of a network that is not in the fit, with and without a wait state.

    At least LEAST.
    """
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        mine = found.setdefault(row.core, {})
        largest = max(abs(row.unseen), abs(row.with_waits), abs(row.error))
        mine[row.backend] = round(max(mine.get(row.backend, LEAST), largest), 1)
    return found


def factors(rows: Sequence[Row]) -> dict[str, float]:
    """Cycles for each instruction on cores without timings."""
    ratio = {}
    for core, like in LIKE.items():
        mine = [row for row in rows if row.core == like]
        ratio[core] = round(max(row.cycles / row.instructions for row in mine), 2)
    return {**ratio, **VECTOR_FACTOR}
