"""Calibration: the range of every activation over the samples.

One pass of the float model over the samples in onnxruntime, on one thread, with every activation as an output. Of each
tensor it keeps the extremes and a histogram whose bins are powers of two wide and merge in pairs as the range grows, so
that memory is bounded and the result does not depend on the order of the samples' extremes.

Methods: `minmax` takes the extremes; `percentile` the smallest range that leaves out at most 1 in 100,000 values at
each end; `mse` the range inside the extremes whose 8-bit quantization has the least squared error over the histogram.
On the reference networks `percentile` gives the best SQNR, and with few samples it is `minmax`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import numpy as np
import onnx
from onnx import numpy_helper

from nnbuild import float_model
from nnbuild.errors import CalibrationError
from nnbuild.network import Array
from nnbuild.samples import Samples

Range = tuple[float, float]

METHODS = ("minmax", "percentile", "mse")
DEFAULT_METHOD = "percentile"

_SCHEMA = 1
_BINS = 8192  # symmetric about 0; at least a quarter of them lies within the extremes on one side
_DIGITS = 6
_LEFT_OUT = 1e-5  # share of values beyond a percentile's end


@dataclass(frozen=True, slots=True)
class Ranges:
    """Range of each activation by ONNX value name, and what it was taken from.

    `sha256` is of the samples as the model saw them (float32, little-endian), whatever file they came in.
    """

    tensors: Mapping[str, Range]
    method: str
    samples: int
    sha256: str

    def to_json(self) -> str:
        """m.ranges.json: sorted by name, numbers rounded outward to 6 digits."""
        document = {
            "schema": _SCHEMA,
            "method": self.method,
            "samples": self.samples,
            "sha256": self.sha256,
            "tensors": {name: list(self.tensors[name]) for name in sorted(self.tensors)},
        }
        return json.dumps(document, indent=1, ensure_ascii=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Ranges:
        """Read m.ranges.json; CalibrationError where it is something else."""
        try:
            document = json.loads(text)
            if document["schema"] != _SCHEMA:
                raise CalibrationError(f"schema {document['schema']} is not known", where, "calibrate again")
            tensors = {str(name): (float(low), float(high)) for name, (low, high) in document["tensors"].items()}
            ranges = cls(tensors, str(document["method"]), int(document["samples"]), str(document["sha256"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CalibrationError("not a ranges file", where, "make it with `python -m nnbuild calibrate`") from None
        if not all(math.isfinite(low) and math.isfinite(high) and low <= high for low, high in tensors.values()):
            raise CalibrationError("a range is not finite, or upside down", where)
        return ranges


@dataclass(slots=True)
class _Statistics:
    """Extremes and histogram of one tensor; bin i counts values in [(i - BINS/2) w, (i - BINS/2 + 1) w)."""

    low: float = math.inf
    high: float = -math.inf
    width: float = 0.0
    bins: Array = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, values: Array) -> None:
        """Count float32 `values` of any shape."""
        flat = values.astype(np.float64).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(abs(low), abs(high)))
        if self.width:
            index = np.floor(flat / self.width).astype(np.int64) + _BINS // 2
            self.bins += np.bincount(np.clip(index, 0, _BINS - 1), minlength=_BINS)
        else:
            self.bins[_BINS // 2] += flat.size

    def _widen(self, largest: float) -> None:
        if not largest or largest <= self.width * (_BINS // 2 - 1):
            return
        wanted = 2.0 ** math.ceil(math.log2(largest / (_BINS // 2 - 1)))
        if not self.width:
            self.width = wanted
        while self.width < wanted:
            merged = self.bins.reshape(-1, 2).sum(axis=1)
            self.bins = np.zeros(_BINS, np.int64)
            self.bins[_BINS // 4 : _BINS // 4 + _BINS // 2] = merged
            self.width *= 2

    def centres(self) -> tuple[Array, Array]:
        """(value, count) of each bin that holds something; values lie within the extremes."""
        used = np.flatnonzero(self.bins)
        values = (used - _BINS // 2 + 0.5) * self.width
        return np.clip(values, self.low, self.high), self.bins[used]


def ranges(model: onnx.ModelProto, samples: Samples, method: str = DEFAULT_METHOD) -> Ranges:
    """Ranges of every activation of an imported float model (inputs and outputs included) over `samples`.

    Raises CalibrationError for samples that do not fit or that drive a value to infinity.
    """
    names = [name for node in model.graph.node for name in node.output if name]
    session = float_model.session(model, names)
    inputs = [value.name for value in model.graph.input]
    statistics = {name: _Statistics() for name in (*inputs, *names)}
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    constant = functools.cache(lambda name: numpy_helper.to_array(initializers[name]))
    digest = hashlib.sha256()
    count = 0
    for sample in samples:
        for name in inputs:
            digest.update(sample[name].astype("<f4").tobytes())
            statistics[name].add(sample[name])
        found = session.run(sample)
        for name in names:
            if not np.isfinite(found[name]).all():
                raise CalibrationError(f"value '{name}' is not finite for sample {count}", samples.spec)
            statistics[name].add(found[name])
        for name, values in _internals(session.model, {**sample, **found}, constant).items():
            statistics.setdefault(name, _Statistics()).add(values)
        count += 1
        _progress(count)
    _progress(0)
    # Of an input every value counts: what a sensor delivers is not ours to clip.
    tensors = {
        name: _outward(*(_minmax if name in inputs else _CHOICES[method])(found)) for name, found in statistics.items()
    }
    return Ranges(tensors, method, count, digest.hexdigest())


def _internals(model: onnx.ModelProto, seen: Mapping[str, Array], constant: Callable[[str], Array]) -> dict[str, Array]:
    """What operators compute inside of a node and have to know the range of; constants are read where one asks."""
    from nnbuild.ops import BY_ONNX

    found: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type in BY_ONNX:
            found |= BY_ONNX[node.op_type].internals(node, lambda name: seen[name] if name in seen else constant(name))
    return found


def digest_of(samples: Samples) -> str:
    """SHA-256 of the samples as a model with these inputs sees them; equal to that of `ranges` over them."""
    digest = hashlib.sha256()
    for sample in samples:
        for name in samples.inputs:
            digest.update(sample[name].astype("<f4").tobytes())
    return digest.hexdigest()


def _minmax(found: _Statistics) -> Range:
    return found.low, found.high


def _percentile(found: _Statistics) -> Range:
    """The smallest range of whole bins that leaves out at most the share at each end."""
    values, counts = found.centres()
    allowed = counts.sum() * _LEFT_OUT
    low = values[np.searchsorted(np.cumsum(counts), allowed, side="right")]
    high = values[len(values) - 1 - np.searchsorted(np.cumsum(counts[::-1]), allowed, side="right")]
    half = found.width / 2
    return max(found.low, float(low) - half), min(found.high, float(high) + half)


def _mse(found: _Statistics) -> Range:
    """Shrink one end, then the other, while the squared error of quantizing the histogram falls."""
    values, counts = found.centres()
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    best = (low, high)
    least = _squared_error(values, counts, best)
    for first in _SHRINK if low < 0 else (1.0,):
        for second in _SHRINK if high > 0 else (1.0,):
            candidate = (low * first, high * second)
            error = _squared_error(values, counts, candidate)
            if error < least * (1 - _WORTH):
                best, least = candidate, error
    return best


# Shares of the extremes that are tried, widest first; and what a narrower one must gain to be taken.
_SHRINK = tuple(1.0 - step / 50 for step in range(35))
_WORTH = 1e-3


def _squared_error(values: Array, counts: Array, span: Range) -> float:
    low, high = span
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)
    steps = np.clip(np.rint(values / scale) + zero, 0, 255) - zero
    return float(np.sum(counts * np.square(values - steps * scale)))


_CHOICES: dict[str, Callable[[_Statistics], Range]] = {"minmax": _minmax, "percentile": _percentile, "mse": _mse}


def _outward(low: float, high: float) -> Range:
    """Rounded to 6 digits, away from the range's middle: the last bits of a float kernel do not change the file."""
    down, up = Context(prec=_DIGITS, rounding=ROUND_FLOOR), Context(prec=_DIGITS, rounding=ROUND_CEILING)
    return float(down.create_decimal(Decimal(low))), float(up.create_decimal(Decimal(high)))


def _progress(count: int) -> None:
    if sys.stderr.isatty():
        text = f"\rcalibrating: {count} samples" if count else "\r" + " " * 40 + "\r"
        print(text, end="", file=sys.stderr, flush=True)
