"""Ranges of activations, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from pathlib import Path

from nnbuild.errors import CalibrationError

Range = tuple[float, float]

_SCHEMA = 1
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Ranges:
    """Range of each activation by ONNX value name, and what it was taken from.

    `method` is "synthetic" where the samples are made up. `sha256` is of the samples as the model saw them (float32,
    little-endian), whatever file they came in.
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
    def read(cls, path: str) -> Ranges:
        """The file `path`; CalibrationError where it cannot be read, or is something else."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise CalibrationError(f"cannot read: {reason}", path) from None
        return cls.from_json(text, path)

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


def outward(low: float, high: float) -> Range:
    """Rounded to 6 digits, away from the range's middle: the last bits of a float kernel do not change the file."""
    down, up = Context(prec=_DIGITS, rounding=ROUND_FLOOR), Context(prec=_DIGITS, rounding=ROUND_CEILING)
    return float(down.create_decimal(Decimal(low))), float(up.create_decimal(Decimal(high)))
