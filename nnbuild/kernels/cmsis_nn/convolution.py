"""Convolutions and depthwise convolutions: which function serves a layer, and the scratch that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnbuild.contract import LayerView, Overlap, Source
from nnbuild.kernels.cmsis_nn.call import INCLUDES, by_pixels, kernel, per_channel, vectors, window_values
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.ops.spatial import Window

MVE_CHANNEL_BLOCK = 124
"""CH_IN_BLOCK_MVE of arm_nnsupportfunctions.h: channels that depthwise gathers at a time on MVE."""

_SIZE_CALLS = {
    "arm_convolve_s8": "arm_convolve_s8_get_buffer_size(&{0}_in, &{0}_filter)",
    "arm_convolve_1_x_n_s8": "arm_convolve_1_x_n_s8_get_buffer_size(&{0}_params, &{0}_in, &{0}_filter, &{0}_out)",
    "arm_convolve_1x1_s8_fast": "arm_convolve_1x1_s8_fast_get_buffer_size(&{0}_in)",
    "arm_depthwise_conv_s8_opt": "arm_depthwise_conv_s8_opt_get_buffer_size(&{0}_in, &{0}_filter)",
}
"""How to ask the library on the target; {0} is the layer's symbol."""


def _is_1x1(place: Window, groups: int) -> bool:
    return place.kernel == (1, 1) and groups == 1 and not place.padded


def _is_row(place: Window, groups: int) -> bool:
    """Whether arm_convolve_1_x_n_s8 serves on MVE: one row, and the pads that it derives are the layer's.

    It takes the first window that reaches into the right padding to do so by one element, and has fewer elements of
    padding than a stride above 1 may need; where that is not so it reads behind the row, with wrong results.
    """
    if place.input[0] != 1 or place.kernel[0] != 1 or place.output[0] != 1 or groups != 1 or place.dilation != (1, 1):
        return False
    if place.stride[1] * place.input[2] % 4 or place.kernel[1] > place.input[1]:
        return False
    left, middle, right, total = _row_parts(place)
    pad, odd = place.pad[1], total % 2
    if 2 * pad + odd != total or left + middle + right != place.output[1]:
        return False
    by_one = place.stride[1] * (left + middle) - pad + place.kernel[1] - 1 == place.input[1]
    return by_one and (not odd or right == pad + 1)


def _row_parts(place: Window) -> tuple[int, int, int, int]:
    """Outputs of a row that touch the left padding, none, the right padding; and the elements of padding in all."""
    stride, pad = place.stride[1], place.pad[1]
    total = (place.output[1] - 1) * stride + place.kernel[1] - place.input[1]
    right = max(1, (pad + total % 2 + stride - 1) // stride) if pad + total % 2 else 0
    left = max(1, (pad + stride - 1) // stride) if pad else 0
    return left, max(place.output[1] - left - right, 0), right, total


def convolve_function(view: LayerView, target: Target) -> str:
    """The CMSIS-NN function for a conv2d layer on this core."""
    place, groups = view.params.window, view.params.groups
    if _is_1x1(place, groups):
        return "arm_convolve_1x1_s8_fast" if place.stride == (1, 1) else "arm_convolve_1x1_s8"
    return "arm_convolve_1_x_n_s8" if target.mve and _is_row(place, groups) else "arm_convolve_s8"


def convolve_scratch(view: LayerView, target: Target) -> int:
    """Bytes: none for 1x1; im2col columns of 16 bits, or on MVE four of 8 bits; the padded ends of a row."""
    place: Window = view.params.window
    function = convolve_function(view, target)
    if function == "arm_convolve_s8":
        column = place.kernel[0] * place.kernel[1] * place.input[2]
        return 4 * 16 * -(-column // 16) if target.mve else 2 * 2 * (-(-column // 4) * 4)
    if function == "arm_convolve_1_x_n_s8":
        _, _, right, total = _row_parts(place)
        channels, full = place.input[2], place.kernel[1] * place.input[2]
        left_pad = place.pad[1] * channels
        right_pad = right * channels if total % 2 else left_pad
        return max(full + left_pad, full - channels + right_pad)
    return 0


def _convolve(view: LayerView, target: Target) -> Source:
    assert target.cmsis_nn is not None
    function = convolve_function(view, target)
    upscales = function == "arm_convolve_s8" and target.cmsis_nn.convolve_upscales
    return Source(
        template="cmsis_nn_convolve.c.j2",
        values={
            **window_values(view),
            "function": function,
            "kind": "conv",
            "outputs": view.params.channels,
            "filter": (view.params.channels, *view.params.window.kernel, _group_inputs(view)),
            "scratch_bytes": convolve_scratch(view, target),
            "needed": _SIZE_CALLS.get(function, "0"),
            "upscales": upscales,
        },
        data=per_channel(view.constants, view.constants["weights"]),
        includes=INCLUDES,
    )


def _group_inputs(view: LayerView) -> int:
    return int(view.params.window.input[2] // view.params.groups)


def _convolve_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Pixels, the inputs that are gathered for them, outputs, and products."""
    place = view.params.window
    taps = place.kernel[0] * place.kernel[1] * _group_inputs(view)
    size = view.output.size
    gathered = place.pixels * place.kernel[0] * place.kernel[1] * place.input[2]
    return {"pixel": place.pixels, "input": gathered, "output": size, "mac": size * vectors(target, taps, 16)}


def _convolve_over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """arm_convolve_s8 copies windows, in their order, before it computes them; of several groups, group by group.

    Functions for 1x1 windows go through the pixels once for each two channels.
    """
    by_window = convolve_function(view, target) == "arm_convolve_s8" and view.params.groups == 1
    return by_pixels(view, target) if by_window else {}


CONVOLVE = kernel(_convolve, convolve_function, scratch=convolve_scratch, trips=_convolve_trips, over=_convolve_over)


def depthwise_function(view: LayerView, target: Target) -> str:
    """The CMSIS-NN function for a depthwise_conv2d layer on this core."""
    place = view.params.window
    if place.dilation != (1, 1):
        return "arm_depthwise_conv_s8"
    # Of a 3x3 window it always reads the middle column.
    middle = (place.output[1] - 1) * place.stride[1] - place.pad[1] + 1
    if not target.mve and place.kernel == (3, 3) and max(place.pad) <= 1 and middle < place.input[1]:
        return "arm_depthwise_conv_3x3_s8"
    return "arm_depthwise_conv_s8_opt" if target.dsp else "arm_depthwise_conv_s8"


def depthwise_scratch(view: LayerView, target: Target) -> int:
    """Bytes of the window that arm_depthwise_conv_s8_opt gathers: 16 bits a tap, or on MVE four windows of 8 bits."""
    if depthwise_function(view, target) != "arm_depthwise_conv_s8_opt":
        return 0
    taps = view.params.window.kernel[0] * view.params.window.kernel[1]
    return int(4 * MVE_CHANNEL_BLOCK * taps if target.mve else 2 * taps * view.params.window.input[2])


def _depthwise(view: LayerView, target: Target) -> Source:
    place = view.params.window
    # On MVE the last group of four channels is read whole.
    padding = -place.input[2] % 4 if target.mve else 0
    return Source(
        template="cmsis_nn_convolve.c.j2",
        values={
            **window_values(view),
            "function": depthwise_function(view, target),
            "kind": "dw_conv",
            "outputs": place.input[2],
            "filter": (1, *place.kernel, place.input[2]),
            "scratch_bytes": depthwise_scratch(view, target),
            "needed": _SIZE_CALLS.get(depthwise_function(view, target), "0"),
            "upscales": False,
        },
        data=per_channel(view.constants, view.constants["weights"], padding),
        includes=INCLUDES,
    )


def _depthwise_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Pixels, rows of windows, outputs and products."""
    place = view.params.window
    rows, columns = place.kernel
    channels = place.pixels * vectors(target, place.input[2], 4)
    return {"pixel": place.pixels, "output": channels, "row": channels * rows, "mac": channels * rows * columns}


def _depthwise_over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Pixel by pixel, except for MVE's function, which goes through them for some channels after the other."""
    return {} if target.mve else by_pixels(view, target)


DEPTHWISE = kernel(
    _depthwise, depthwise_function, scratch=depthwise_scratch, trips=_depthwise_trips, over=_depthwise_over
)
