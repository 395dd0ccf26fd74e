"""The reference networks with their samples: what calibrates, what measures, and the figures to reach."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("NNBUILD_REFERENCE_DIR", ROOT.parent / "shared"))
"""Where the reference folder is, or would be."""


@dataclass(frozen=True, slots=True)
class Data:
    """Samples as the float model takes them (N, ...): for calibration, for measuring; labels where there are some."""

    calibration: Array
    dev: Array
    labels: Array | None = None


# onnxruntime MinMax on the same samples: same arg-max as float in %, output SQNR in dB.
BOUNDS = {"kws01": (98.67, 25.5), "ic01": (98.20, 23.3)}


def models(folder: Path) -> list[Path]:
    """Float models of all exporters, and the public ones."""
    return sorted(path for kind in ("tf2onnx", "torch", "public") for path in (folder / "models" / kind).glob("*.onnx"))


def data(folder: Path, model: Path, shape: tuple[int, ...]) -> Data:
    """Samples for `model`, whose input has `shape`; random ones for the public models, which come without data."""
    found = _data(folder / "data", model.name.split("_")[0], shape)
    if model.parent.name == "torch" and found.dev.ndim == 4:
        return Data(found.calibration.transpose(0, 3, 1, 2), found.dev.transpose(0, 3, 1, 2), found.labels)
    return found


def _data(folder: Path, name: str, shape: tuple[int, ...]) -> Data:
    if name == "ad01":
        spectrogram = np.load(folder / "ad01_sample_mlcommons.npz")["spec"]
        windows = np.stack([spectrogram[i : i + 5].reshape(640) for i in range(len(spectrogram) - 4)])
        return Data(np.load(folder / "ad01_calib.npz")["x"], windows)
    if name == "ic01":
        dev = np.load(folder / "ic01_dev.npz")
        return Data(np.load(folder / "ic01_calib.npz")["x"].astype(np.float32), dev["x"].astype(np.float32), dev["y"])
    if name == "kws01":
        dev = np.load(folder / "kws01_dev.npz")
        kept = np.setdiff1d(np.arange(len(dev["x"])), dev["calib_idx"])
        return Data(np.load(folder / "kws01_calib.npz")["x"], dev["x"][kept], dev["y"][kept])
    if name == "vww96":
        images = np.load(folder / "vww96_calib_surrogate.npz")["x"].astype(np.float32) / 255
        return Data(images[:70], images[70:])
    if name == "sww":
        frames = np.load(folder / "sww_calib.npz")["x"]
        return Data(frames, frames)
    random = np.random.default_rng(0).random((40, *shape[1:]), dtype=np.float32)
    return Data(random, random)
