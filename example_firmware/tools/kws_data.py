"""A labelled data set of a keyword spotter -> calibration samples and test samples in the layout of a model.

    python kws_data.py kws.onnx kws_dev.npz kws_calib.npz kws_test.npz

The .npz holds `x` (N, ...) float32 and `y` (N,) integers, and perhaps `calib_idx`, the samples to calibrate with (else
the first quarter, at most 100). They are left out of the test. Samples stored channels last are transposed where the
model takes channels first.
"""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import onnx

from nnbuild.errors import CalibrationError, NNBuildError
from nnbuild.files import write_bytes
from nnbuild.network import Array


def input_shape(path: str) -> tuple[int, ...]:
    """The shape of the model's first input without the batch."""
    dimensions = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    return tuple(dimension.dim_value for dimension in dimensions)[1:]


def arranged(samples: Array, shape: tuple[int, ...], where: str) -> Array:
    """Samples (N, ...) in the layout (N, *shape)."""
    if samples.shape[1:] == shape:
        return samples
    if samples.ndim == 4 and (samples.shape[3], *samples.shape[1:3]) == shape:
        return samples.transpose(0, 3, 1, 2)
    if math.prod(samples.shape[1:]) == math.prod(shape):
        return samples.reshape(-1, *shape)
    raise CalibrationError(f"samples of shape {samples.shape[1:]} do not fit the model's {shape}", where)


def archive(path: str, samples: Array, labels: Array) -> None:
    """Write an .npz, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, x=samples, y=labels)
    write_bytes(path, buffer.getvalue())


def main(model: str, data: str, calibration: str, test: str) -> int:
    """Write the two files; returns the exit status."""
    try:
        with np.load(data, allow_pickle=False) as source:
            if "x" not in source or "y" not in source:
                raise CalibrationError("no arrays 'x' and 'y'", data)
            samples, labels = arranged(source["x"], input_shape(model), data), source["y"]
            default = np.arange(min(100, len(labels) // 4))
            chosen = source.get("calib_idx", default)
    except (NNBuildError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    archive(calibration, samples[chosen], labels[chosen])
    archive(test, samples[rest], labels[rest])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
