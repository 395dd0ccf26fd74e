"""CMSIS-NN's int8 kernels, called directly: the function that fits a layer, not the wrapper that links them all.

API and scratch sizes: CMSIS-NN 6.0.0 and newer, `arm_nnfunctions.h` and `*_get_buffer_sizes_s8.c`; a test compares the
sizes with the library's own functions. A kernel's `supports` says what the library, or this version of it, cannot do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nnbuild import overlap
from nnbuild.contract import Kernel, LayerView, Overlap, Source, each_output
from nnbuild.network import INT8_MAX, INT8_MIN, Array
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.ops.concat import ConcatPart
    from nnbuild.ops.spatial import Window

INCLUDES = ("arm_nnfunctions.h",)
MVE_CHANNEL_BLOCK = 124
"""CH_IN_BLOCK_MVE of arm_nnsupportfunctions.h: channels that depthwise gathers at a time on MVE."""
MAX_SOFTMAX_DEPTH = 511
"""A larger sum of exponentials would be shifted by more than 31 bits."""

_SIZE_CALLS = {
    "arm_convolve_s8": "arm_convolve_s8_get_buffer_size(&{0}_in, &{0}_filter)",
    "arm_convolve_1_x_n_s8": "arm_convolve_1_x_n_s8_get_buffer_size(&{0}_params, &{0}_in, &{0}_filter, &{0}_out)",
    "arm_convolve_1x1_s8_fast": "arm_convolve_1x1_s8_fast_get_buffer_size(&{0}_in)",
    "arm_depthwise_conv_s8_opt": "arm_depthwise_conv_s8_opt_get_buffer_size(&{0}_in, &{0}_filter)",
}
"""How to ask the library on the target; {0} is the layer's symbol."""

Supports = Callable[[LayerView, Target], str | None]
Over = Callable[[LayerView, Target], Mapping[int, Overlap]]


def _kernel(
    render: Callable[[LayerView, Target], Source],
    functions: Callable[[LayerView, Target], str],
    supports: Supports = lambda view, target: None,
    scratch: Callable[[LayerView, Target], int] = lambda view, target: 0,
    trips: Callable[[LayerView, Target], Mapping[str, int]] = each_output,
    over: Over = lambda view, target: {},
) -> Kernel:
    """A kernel that calls `functions(view, target)`, which this version of CMSIS-NN must have."""

    def named(view: LayerView, target: Target) -> dict[str, int]:
        # Each function has costs of its own.
        function = functions(view, target).removeprefix("arm_")
        return {f"{function} {name}": count for name, count in {"call": 1, **trips(view, target)}.items()}

    def available(view: LayerView, target: Target) -> str | None:
        if target.cmsis_nn is None:
            return "CMSIS-NN is not given"
        if any(tensor.dtype != "int8" for tensor in (*view.inputs, view.output)):
            return "values are not int8"
        reason = supports(view, target)
        if reason is not None:
            return reason
        function = functions(view, target)
        if function not in target.cmsis_nn.functions:
            return f"CMSIS-NN {target.cmsis_nn.version} has no {function}"
        return None

    return Kernel("cmsis_nn", render, available, scratch, named, functions, overlap=over)


def _by_pixels(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Of functions that compute pixel by pixel, upwards, and do not read a window once its outputs are written."""
    own = overlap.by_pixels(view.params.window, view.output.shape[-1])
    return {0: overlap.upwards(own, view.inputs[0].bytes)}


def _vectors(target: Target, elements: int, lanes: int) -> int:
    """Steps over `elements`: one each, or on MVE one for each vector."""
    return -(-elements // lanes) if target.mve else elements


def _per_channel(constants: Mapping[str, Array], weights: Array, padding: int = 0) -> dict[str, Array]:
    """Weights, biases, multipliers and shifts as the library reads them, with `padding` elements that it may touch."""
    arrays = {
        "weights": weights.ravel(),
        "bias": constants["bias"].astype(np.int32),
        "multiplier": constants["multiplier"].astype(np.int32),
        "shift": constants["shift"].astype(np.int32),
    }
    return {name: np.pad(array, (0, padding)) for name, array in arrays.items()}


# Convolution.


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
            **_window_values(view),
            "function": function,
            "kind": "conv",
            "outputs": view.params.channels,
            "filter": (view.params.channels, *view.params.window.kernel, _group_inputs(view)),
            "scratch_bytes": convolve_scratch(view, target),
            "needed": _SIZE_CALLS.get(function, "0"),
            "upscales": upscales,
        },
        data=_per_channel(view.constants, view.constants["weights"]),
        includes=INCLUDES,
    )


def _group_inputs(view: LayerView) -> int:
    return int(view.params.window.input[2] // view.params.groups)


def _window_values(view: LayerView) -> dict[str, Any]:
    return {"p": view.params, "w": view.params.window}


def _convolve_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Pixels, the inputs that are gathered for them, outputs, and products."""
    place = view.params.window
    taps = place.kernel[0] * place.kernel[1] * _group_inputs(view)
    size = view.output.size
    gathered = place.pixels * place.kernel[0] * place.kernel[1] * place.input[2]
    return {"pixel": place.pixels, "input": gathered, "output": size, "mac": size * _vectors(target, taps, 16)}


def _convolve_over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """arm_convolve_s8 copies windows, in their order, before it computes them; of several groups, group by group.

    Functions for 1x1 windows go through the pixels once for each two channels.
    """
    by_window = convolve_function(view, target) == "arm_convolve_s8" and view.params.groups == 1
    return _by_pixels(view, target) if by_window else {}


CONVOLVE = _kernel(_convolve, convolve_function, scratch=convolve_scratch, trips=_convolve_trips, over=_convolve_over)


# Depthwise convolution.


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
            **_window_values(view),
            "function": depthwise_function(view, target),
            "kind": "dw_conv",
            "outputs": place.input[2],
            "filter": (1, *place.kernel, place.input[2]),
            "scratch_bytes": depthwise_scratch(view, target),
            "needed": _SIZE_CALLS.get(depthwise_function(view, target), "0"),
            "upscales": False,
        },
        data=_per_channel(view.constants, view.constants["weights"], padding),
        includes=INCLUDES,
    )


def _depthwise_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Pixels, rows of windows, outputs and products."""
    place = view.params.window
    rows, columns = place.kernel
    channels = place.pixels * _vectors(target, place.input[2], 4)
    return {"pixel": place.pixels, "output": channels, "row": channels * rows, "mac": channels * rows * columns}


def _depthwise_over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Pixel by pixel, except for MVE's function, which goes through them for some channels after the other."""
    return {} if target.mve else _by_pixels(view, target)


DEPTHWISE = _kernel(
    _depthwise, depthwise_function, scratch=depthwise_scratch, trips=_depthwise_trips, over=_depthwise_over
)


# Fully connected.


def _one_multiplier(view: LayerView) -> bool:
    return all(bool((view.constants[name] == view.constants[name][0]).all()) for name in ("multiplier", "shift"))


def fully_connected_function(view: LayerView, target: Target) -> str:
    """Per tensor where all outputs share a multiplier, else per channel."""
    return "arm_fully_connected_s8" if _one_multiplier(view) else "arm_fully_connected_per_channel_s8"


def _fully_connected(view: LayerView, target: Target) -> Source:
    params, constants = view.params, view.constants
    data = _per_channel(constants, constants["weights"])
    if target.mve:
        # MVE starts from kernel sums, which include the bias: constants here, and no scratch.
        sums = constants["weights"].astype(np.int64).sum(axis=1) * -params.input_zero_point + constants["bias"]
        data["bias"] = sums.astype(np.int32)
    shared = _one_multiplier(view)
    values = {"p": params, "function": fully_connected_function(view, target), "shared": shared, "sums": target.mve}
    if shared:
        del data["multiplier"], data["shift"]
        values |= {"multiplier": int(constants["multiplier"][0]), "shift": int(constants["shift"][0])}
    return Source("cmsis_nn_fully_connected.c.j2", values, data, INCLUDES)


def _fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Outputs and products."""
    return {"output": view.output.size, "mac": view.output.size * _vectors(target, view.params.inputs, 16)}


FULLY_CONNECTED = _kernel(_fully_connected, fully_connected_function, trips=_fully_connected_trips)


# Elementwise.


def _flat(view: LayerView, target: Target) -> str | None:
    """Elementwise kernels walk both inputs and the output in one order."""
    loops = view.params.loops
    return None if len(loops) == 1 and loops[0][1:] == (1, 1) else "no broadcasting or change of layout"


def _add(view: LayerView, target: Target) -> Source:
    from nnbuild.ops.add import LEFT_SHIFT

    values = {"p": view.params, "second": _second(view), "left_shift": LEFT_SHIFT, "size": view.output.size}
    return Source("cmsis_nn_add.c.j2", values, dict(view.constants), INCLUDES)


def _add_supports(view: LayerView, target: Target) -> str | None:
    return _flat(view, target) if view.params.signs == (1, 1) else "no subtraction"


ADD = _kernel(_add, lambda view, target: "arm_elementwise_add_s8", _add_supports)


# Pooling.


def _pool(view: LayerView, function: str, scratch_bytes: int) -> Source:
    values = {**_window_values(view), "function": function, "scratch_bytes": scratch_bytes}
    return Source("cmsis_nn_pool.c.j2", values, includes=INCLUDES)


def _max_pool_supports(view: LayerView, target: Target) -> str | None:
    return None if view.params.window.dilation == (1, 1) else "no dilation"


def _average_pool_supports(view: LayerView, target: Target) -> str | None:
    params = view.params
    if params.rescales:
        return "its pool cannot change the scale"
    if not np.array_equal(params.window.inside(params.pads_count), params.window.inside(False)):
        return "its pool does not count padding"
    return None


def average_pool_scratch(view: LayerView, target: Target) -> int:
    """Bytes: a 32-bit sum for each channel on cores with DSP but no MVE."""
    return int(4 * view.params.window.input[2]) if target.dsp and not target.mve else 0


def _pool_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Pixels, positions under their windows, outputs, and the values that these are made of."""
    place = view.params.window
    rows, columns = place.clipped()
    channels = place.input[2]
    loops = {"pixel": place.pixels, "position": rows * columns, "output": place.pixels * _vectors(target, channels, 16)}
    return {**loops, "tap": rows * columns * _vectors(target, channels, 16)}


MAX_POOL = _kernel(
    lambda view, target: _pool(view, "arm_max_pool_s8", 0),
    lambda view, target: "arm_max_pool_s8",
    _max_pool_supports,
    trips=_pool_trips,
    over=_by_pixels,
)
AVERAGE_POOL = _kernel(
    lambda view, target: _pool(view, "arm_avgpool_s8", average_pool_scratch(view, target)),
    lambda view, target: "arm_avgpool_s8",
    _average_pool_supports,
    average_pool_scratch,
    _pool_trips,
    _by_pixels,
)


# Softmax, pad, transpose.


def _softmax_supports(view: LayerView, target: Target) -> str | None:
    if view.params.shift < 0:
        return "its input scale is too small"
    return None if view.params.depth <= MAX_SOFTMAX_DEPTH else f"more than {MAX_SOFTMAX_DEPTH} values"


def _lstm_supports(view: LayerView, target: Target) -> str | None:
    params, constants = view.params.loops, view.constants
    if params.reverse != (False,):
        return "it goes one way, forward"
    if params.keep:
        return "its state starts anew in each call"
    if constants["cells"].any() or (constants["hidden"] != params.output_zero_point).any():
        return "its state starts from 0"
    scales = [constants[f"{prefix}{name}"] for prefix in ("", "recurrent_") for name in ("multiplier", "shift")]
    if not params.saturates or any((array != array[..., :1]).any() for array in scales):
        return "it takes one scale for the weights of a gate: fully_connected='per_tensor'"
    return None


def _lstm(view: LayerView, target: Target) -> Source:
    from nnbuild.ops.recurrent import folded_biases

    constants = view.constants
    names = ("multiplier", "shift", "recurrent_multiplier", "recurrent_shift")
    scales = [[int(constants[name][0, gate, 0]) for name in names] for gate in range(4)]
    data = {
        "weights": np.concatenate([constants[name].ravel() for name in ("weights", "recurrent")]),
        "bias": np.concatenate([bias.ravel() for bias in folded_biases(view)]),
    }
    values = {"p": view.params, "l": view.params.loops, "scales": scales}
    return Source("cmsis_nn_lstm.c.j2", values, data, INCLUDES)


def lstm_scratch(view: LayerView, target: Target) -> int:
    """Bytes: two rows of gates and the cells, of 16 bits, and all steps where only the last one is kept."""
    params = view.params.loops
    return int(6 * params.states + (0 if params.every_step else params.steps * params.states))


LSTM = _kernel(
    _lstm,
    lambda view, target: "arm_lstm_unidirectional_s8",
    _lstm_supports,
    lstm_scratch,
    lambda view, target: {
        "step": view.params.loops.rows,
        "gate": 4 * view.params.loops.rows * view.params.loops.hidden,
        "mac": _vectors(target, view.params.loops.inputs, 16) * 4 * view.params.loops.rows * view.params.loops.hidden
        + _vectors(target, view.params.loops.hidden, 16) * 4 * view.params.loops.rows * view.params.loops.hidden,
    },
)

SOFTMAX = _kernel(
    lambda view, target: Source("cmsis_nn_softmax.c.j2", {"p": view.params}, includes=INCLUDES),
    lambda view, target: "arm_softmax_s8",
    _softmax_supports,
    trips=lambda view, target: {"vector": view.params.rows, "output": view.output.size},
)


def _pad(view: LayerView, target: Target) -> Source:
    params = view.params
    after = tuple(o - i - b for o, i, b in zip(params.output, params.input, params.before, strict=True))
    return Source("cmsis_nn_pad.c.j2", {"p": params, "after": after}, includes=INCLUDES)


def _pad_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Rows and pixels copied, bytes of output."""
    rows, columns, channels = view.params.input
    return {"row": rows, "pixel": rows * columns, "input": rows * columns * channels, "output": view.output.size}


PAD = _kernel(_pad, lambda view, target: "arm_pad_s8", trips=_pad_trips)


def _permutation(view: LayerView) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(input dimensions, order of them in the output) of a transpose of a whole tensor; None for any other copy."""
    params = view.params
    if params.start or not params.loops or params.size != view.inputs[0].size:
        return None
    order = sorted(range(len(params.loops)), key=lambda loop: -params.loops[loop][1])
    dims = tuple(params.loops[loop][0] for loop in order)
    stride = 1
    for loop, dim in zip(reversed(order), reversed(dims), strict=True):
        if params.loops[loop][1] != stride:
            return None
        stride *= dim
    return dims, tuple(order.index(loop) for loop in range(len(order)))


def _transpose_supports(view: LayerView, target: Target) -> str | None:
    found = _permutation(view)
    if found is None:
        return "not a transpose of a whole tensor"
    return None if len(found[0]) <= 4 else "more than four axes"


def _transpose(view: LayerView, target: Target) -> Source:
    found = _permutation(view)
    assert found is not None
    missing = 4 - len(found[0])
    dims = (*([1] * missing), *found[0])
    order = (*range(missing), *(missing + axis for axis in found[1]))
    values = {"dims": dims, "order": order, "output": tuple(dims[axis] for axis in order)}
    return Source("cmsis_nn_transpose.c.j2", values, includes=INCLUDES)


TRANSPOSE = _kernel(_transpose, lambda view, target: "arm_transpose_s8", _transpose_supports)


# Operators of two and more values.


def _mul(view: LayerView, target: Target) -> Source:
    values = {"p": view.params, "second": _second(view), "size": view.output.size}
    return Source("cmsis_nn_mul.c.j2", values, dict(view.constants), INCLUDES)


def _second(view: LayerView) -> str:
    return "operand" if "operand" in view.constants else "input2"


MUL = _kernel(_mul, lambda view, target: "arm_elementwise_mul_s8", _flat)


def _extremum_supports(view: LayerView, target: Target) -> str | None:
    if (view.params.activation_min, view.params.activation_max) != (INT8_MIN, INT8_MAX):
        return "it has no clamp"
    return _flat(view, target)


def _extremum(function: str) -> Kernel:
    def render(view: LayerView, target: Target) -> Source:
        values = {"function": function, "second": _second(view), "size": view.output.size}
        return Source("cmsis_nn_extremum.c.j2", values, dict(view.constants), INCLUDES)

    return _kernel(render, lambda view, target: function, _extremum_supports)


MINIMUM = _extremum("arm_minimum_s8")
MAXIMUM = _extremum("arm_maximum_s8")


def _blocks(part: ConcatPart) -> tuple[int, int, int] | None:
    """(bytes of a block, blocks, bytes from one to the next in the output) of a copy; None for any other."""
    rows, block = (part.loops[0], part.loops[1]) if len(part.loops) == 2 else ((1, 0, 0), part.loops[0])
    if len(part.loops) > 2 or part.source_start or part.table or block[1:] != (1, 1):
        return None
    if rows[0] > 1 and rows[1] != block[0]:
        return None
    return block[0], rows[0], rows[2] if rows[0] > 1 else block[0]


def _concat_supports(view: LayerView, target: Target) -> str | None:
    found = [_blocks(part) for part in view.params.parts]
    if any(blocks is None for blocks in found):
        return "no change of scale or layout"
    largest = max(max(blocks) for blocks in found if blocks is not None)
    return None if largest < 1 << 16 else "more than 65,535 elements along an axis"


def _concat(view: LayerView, target: Target) -> Source:
    names = {f"input{number}": "input" if number == 0 else f"input{number + 1}" for number in range(len(view.inputs))}
    parts = [
        (names.get(part.source, part.source), part.output_start, blocks)
        for part in view.params.parts
        if (blocks := _blocks(part)) is not None
    ]
    return Source("cmsis_nn_concat.c.j2", {"parts": parts}, dict(view.constants), INCLUDES)


def _concat_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Calls, blocks and bytes."""
    blocks = [found for part in view.params.parts if (found := _blocks(part)) is not None]
    return {"part": len(blocks), "block": sum(count for _, count, _ in blocks), "output": view.output.size}


CONCAT = _kernel(_concat, lambda view, target: "arm_concatenation_s8_x", _concat_supports, trips=_concat_trips)
