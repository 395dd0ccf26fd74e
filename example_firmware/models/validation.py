"""What the accuracy of both networks is checked on: the frames that training never saw, as the networks know them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

FULL_SCALE = 16.0


def samples() -> Iterator[npt.NDArray[np.float32]]:
    """All test frames, cells of 0..16 as 0..1: (N, 8, 8)."""
    with np.load(Path(__file__).with_name("touch_test.npz")) as archive:
        yield archive["grid"] / np.float32(FULL_SCALE)
