"""Scratch of CMSIS-NN's kernels: what nnbuild plans equals the library's own *_get_buffer_size functions.

The library is compiled for this machine, where those for DSP and MVE are functions of their own. Random layers.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_int32
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nnbuild.contract import LayerView
from nnbuild.kernels.cmsis_nn import convolution, pools
from nnbuild.network import Layer, QuantParams, Tensor
from nnbuild.ops.conv2d import Conv2DParams
from nnbuild.ops.depthwise_conv2d import DepthwiseConv2DParams
from nnbuild.ops.spatial import Window
from nnbuild.target import TARGETS

from . import cmsis_library

CORES = {"scalar": TARGETS["cortex-m0"], "dsp": TARGETS["cortex-m4"], "mve": TARGETS["cortex-m55"]}


class Dims(Structure):
    _fields_ = [(name, c_int32) for name in ("n", "h", "w", "c")]


class Tile(Structure):
    _fields_ = [(name, c_int32) for name in ("w", "h")]


class ConvParams(Structure):
    _fields_ = [
        ("input_offset", c_int32),
        ("output_offset", c_int32),
        ("stride", Tile),
        ("padding", Tile),
        ("dilation", Tile),
        ("activation", Tile),
    ]


class DepthwiseParams(Structure):
    _fields_ = [("input_offset", c_int32), ("output_offset", c_int32), ("ch_mult", c_int32), *ConvParams._fields_[2:]]


@st.composite
def windows(draw: Any, channels: st.SearchStrategy[int]) -> Window:
    """A window whose output size and pads fit together."""
    kernel, stride, dilation, pad, end, size = ([], [], [], [], [], [])
    for _ in range(2):
        kernel.append(draw(st.integers(1, 5)))
        stride.append(draw(st.integers(1, 3)))
        # A kernel of one element has no dilation, whatever a model says.
        dilation.append(draw(st.sampled_from([1, 1, 1, 2])) if kernel[-1] > 1 else 1)
        extent = (kernel[-1] - 1) * dilation[-1] + 1
        size.append(draw(st.integers(extent, extent + 12)))
        pad.append(draw(st.integers(0, kernel[-1] - 1)))
        end.append(draw(st.integers(0, kernel[-1] - 1)))
    if draw(st.booleans()):
        size[0], kernel[0], pad[0], end[0], dilation = 1, 1, 0, 0, [1, 1]
    extents = [(kernel[a] - 1) * dilation[a] + 1 for a in range(2)]
    output = [(size[a] + pad[a] + end[a] - extents[a]) // stride[a] + 1 for a in range(2)]
    pair = [tuple(values) for values in (output, kernel, stride, dilation, pad, end)]
    return Window((size[0], size[1], draw(channels)), *pair)


def view(params: Any, outputs: int) -> LayerView:
    place = params.window
    tensors = [
        Tensor("x", place.input, QuantParams(0.1, 0)),
        Tensor("y", (*place.output, outputs), QuantParams(0.1, 0)),
    ]
    return LayerView(Layer("l", "op", ("x",), "y", params, {}, "n"), (tensors[0],), tensors[1])


def dims(place: Window, filter_dims: tuple[int, int, int, int], outputs: int) -> tuple[Dims, Dims, Dims]:
    height, width, channels = place.input
    return Dims(1, height, width, channels), Dims(*filter_dims), Dims(1, *place.output, outputs)


def tiles(place: Window) -> tuple[Tile, Tile, Tile, Tile]:
    return Tile(*place.stride[::-1]), Tile(*place.pad[::-1]), Tile(*place.dilation[::-1]), Tile(-128, 127)


def library() -> ctypes.CDLL:
    return cmsis_library.functions()


def asked(function: Any, *arguments: Structure) -> int:
    function.restype = c_int32
    function.argtypes = [POINTER(type(argument)) for argument in arguments]
    return int(function(*(byref(argument) for argument in arguments)))


@settings(max_examples=300, deadline=None)
@given(windows(st.integers(1, 70)), st.integers(1, 9))
def test_convolution(place: Window, outputs: int) -> None:
    params = Conv2DParams(place, outputs, 1, 0, 0, -128, 127)
    layer, lib = view(params, outputs), library()
    x, f, y = dims(place, (outputs, *place.kernel, place.input[2]), outputs)
    conv = ConvParams(0, 0, *tiles(place))
    for name, target in CORES.items():
        ending = "" if name == "scalar" else f"_{name}"
        called = convolution.convolve_function(layer, target)
        planned = convolution.convolve_scratch(layer, target)
        if called == "arm_convolve_s8":
            # Not the wrapper, which may take another path for the same layer.
            if name == "mve":
                assert planned == asked(lib.arm_convolve_s8_get_buffer_size_mve, x, f)
            else:
                assert planned == asked(lib.arm_convolve_s8_get_buffer_size, x, f)
        else:
            wrapper = getattr(lib, f"arm_convolve_wrapper_s8_get_buffer_size{ending}")
            assert planned == asked(wrapper, conv, x, f, y), called


@settings(max_examples=300, deadline=None)
@given(windows(st.integers(2, 200)))
def test_depthwise(place: Window) -> None:
    params = DepthwiseConv2DParams(place, 0, 0, -128, 127)
    channels = place.input[2]
    layer, lib = view(params, channels), library()
    x, f, y = dims(place, (1, *place.kernel, channels), channels)
    conv = DepthwiseParams(0, 0, 1, *tiles(place))
    for name, target in CORES.items():
        ending = "" if name == "scalar" else f"_{name}"
        wrapper = getattr(lib, f"arm_depthwise_conv_wrapper_s8_get_buffer_size{ending}")
        found, wanted = convolution.depthwise_scratch(layer, target), asked(wrapper, conv, x, f, y)
        # Where arm_depthwise_conv_3x3_s8, which needs none, would read beyond its input, another function serves.
        another = convolution.depthwise_function(layer, target) == "arm_depthwise_conv_s8_opt" and wanted == 0
        assert found == wanted or (another and place.kernel == (3, 3)), name


@given(st.integers(1, 500), st.integers(1, 64))
def test_average_pool(channels: int, width: int) -> None:
    place = Window((4, width, channels), (4, width), (1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
    lib = library()
    for name in ("dsp", "mve"):
        function = getattr(lib, f"arm_avgpool_s8_get_buffer_size_{name}")
        planned = pools.average_pool_scratch(view(Pool(place), channels), CORES[name])
        assert planned == function(width, channels)


class Pool:
    """Enough of a pool's parameters for its scratch."""

    def __init__(self, window: Window) -> None:
        self.window = window


@given(st.integers(1, 600), st.integers(1, 300))
def test_fully_connected_asks_for_its_sums_on_mve_only(inputs: int, outputs: int) -> None:
    """The sums of the weights are constants of nnbuild's, 4 bytes an output; other cores ask for nothing."""
    lib = library()
    f = Dims(inputs, 1, 1, outputs)
    assert asked(lib.arm_fully_connected_s8_get_buffer_size_mve, f) == 4 * outputs
    assert asked(lib.arm_fully_connected_s8_get_buffer_size_dsp, f) == 0


def test_a_core_without_mve_gathers_less() -> None:
    place = Window((8, 8, 16), (8, 8), (5, 5), (1, 1), (1, 1), (2, 2), (2, 2))
    layer = view(DepthwiseConv2DParams(place, 0, 0, -128, 127), 16)
    sizes = {name: convolution.depthwise_scratch(layer, target) for name, target in CORES.items()}
    assert sizes == {"scalar": 0, "dsp": 2 * 25 * 16, "mve": 4 * 124 * 25}
    assert convolution.depthwise_function(layer, CORES["scalar"]) == "arm_depthwise_conv_s8"
