"""Raw integers to int8: the line equals the real formula, and the C equals the line, for every raw value."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ConfigError
from nnbuild.network import QuantParams
from nnbuild.ops import BY_NAME, singles
from nnbuild.raw_input import raw_input

from . import host


def exact(raw: np.ndarray, scale: float, offset: float, quant: QuantParams) -> np.ndarray:
    line = np.floor((raw * scale + offset) / quant.scale + quant.zero_point + 0.5)
    return np.clip(line, -128, 127).astype(np.int8)


@given(st.floats(0.01, 2.0), st.floats(-20, 20), st.integers(-128, 127))
def test_bytes_are_exact(ratio: float, offset: float, zero_point: int) -> None:
    quant = QuantParams(0.0123, zero_point)
    raw = np.arange(256)
    found = raw_input("u8", ratio * quant.scale, offset * quant.scale, quant).quantize(raw)
    difference = np.abs(found.astype(int) - exact(raw, ratio * quant.scale, offset * quant.scale, quant))
    # Where the real value is a half to the last bits of a double, either neighbour is right.
    halves = np.abs((raw * ratio + offset) % 1 - 0.5) < 1e-9
    assert difference.max() <= 1
    assert not difference[~halves].any()


@given(st.floats(1e-5, 0.05), st.integers(-128, 127))
def test_counts_are_within_one_step(ratio: float, zero_point: int) -> None:
    quant = QuantParams(0.0123, zero_point)
    raw = np.arange(-32768, 32768)
    found = raw_input("i16", ratio * quant.scale, 0.0, quant).quantize(raw)
    assert np.abs(found.astype(int) - exact(raw, ratio * quant.scale, 0.0, quant)).max() <= 1


def test_pixels_scaled_by_255_are_a_subtraction() -> None:
    found = raw_input("u8", 1 / 255, 0.0, QuantParams(float(np.float32(1 / 255)), -128))
    assert (found.factor, found.shift, found.add, found.table) == (1, 0, -128, None)


@pytest.mark.parametrize("scale", [1 / 255, 0.004, 0.0071, -0.003, 3.0])
@pytest.mark.parametrize("kind", ["u8", "i16"])
def test_c_equals_the_line(kind: str, scale: float, tmp_path: Path) -> None:
    case = next(c for c in BY_NAME["clamp"].cases() if c.name == "clamp_hardtanh")
    quant = case.network.tensors[case.network.inputs[0].tensor].quant
    conversion = raw_input(kind, scale, 0.3, quant)
    library = host.shared_library(tmp_path, emit(case.network, EmitOptions("m", raw=(kind, scale, 0.3))))
    low, high, dtype = (0, 255, np.uint8) if kind == "u8" else (-32768, 32767, np.int16)
    for start in range(low, high + 1, 256):
        raw = np.arange(start, start + 256).astype(dtype)
        output = np.zeros(256, np.int8)
        getattr(library, f"m_set_input_{kind}")(ctypes.c_void_p(raw.ctypes.data), ctypes.c_void_p(output.ctypes.data))
        assert np.array_equal(output, conversion.quantize(raw))


@pytest.mark.parametrize(("kind", "scale"), [("u12", 1.0), ("u8", 0.0), ("i16", float("nan"))])
def test_nonsense_is_refused(kind: str, scale: float) -> None:
    with pytest.raises(ConfigError):
        raw_input(kind, scale, 0.0, QuantParams(0.1, 0))


@pytest.mark.parametrize("size", [4, 5, 12])
@pytest.mark.parametrize("scale", [1 / 255, 0.0071])
def test_sizes_that_are_no_whole_number_of_passes(scale: float, size: int, tmp_path: Path) -> None:
    """By subtraction, and by a table or a line; at the end of the array no byte is touched."""
    quant = QuantParams(float(np.float32(1 / 255)), -128)
    network = singles.clamp("m", ("Clip", 0.0, 1.0), (1, size), quant, quant).network
    library = host.shared_library(tmp_path, emit(network, EmitOptions("m", raw=("u8", scale, 0.0))))
    raw, output = np.arange(3, 3 + 19 * size, 19).astype(np.uint8), np.full(size + 4, 99, np.int8)
    library.m_set_input_u8(ctypes.c_void_p(raw.ctypes.data), ctypes.c_void_p(output.ctypes.data))
    assert np.array_equal(output[:size], raw_input("u8", scale, 0.0, quant).quantize(raw))
    assert (output[size:] == 99).all()
