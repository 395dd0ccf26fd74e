"""Means over windows or over all of space. ONNX AveragePool, GlobalAveragePool, ReduceMean, ReduceSum;
TensorFlow Lite AVERAGE_POOL_2D.

Where input and output have one scale the mean is rounded half away from zero, as TensorFlow Lite does. With an output
scale of its own the sum is requantized once, by a multiplier that holds both the scales and the number of elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from nnbuild import fixedpoint, qdq
from nnbuild.contract import Case, Kernel, LayerView, Operator, Overlap, Quantization, RowForm, Source, tied
from nnbuild.intervals import monotone
from nnbuild.kernels import cmsis_nn
from nnbuild.kernels.exact_requantize import single_requantization
from nnbuild.kernels.upper_half import upper
from nnbuild.lower import Activation, Lowering, Output
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import reduction, spatial, wide_average_pool
from nnbuild.ops.pooling import walk, window_trips
from nnbuild.ops.spatial import Window, divides_window, window, without_in_window
from nnbuild.ram import overlap
from nnbuild.streams.sliding import by_window
from nnbuild.target import Target

MAX_COUNT = 2**22
"""Values whose sum of up to 255 each a kernel holds in 32 bits."""


@dataclass(frozen=True, slots=True)
class AveragePoolParams:
    """Integers of one pool.

    `pads_count`: padding is a zero that counts. `rescales`: the constants `multiplier` (int32) and `shift` (int8),
    indexed by the number of elements that count, make the output from the sum of (input - zero point).
    """

    window: Window
    pads_count: bool
    rescales: bool
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True, slots=True)
class MeanOfRowsParams(AveragePoolParams):
    """Of a mean over `rows` rows, of which the layer sees some `together`; the window is that of all."""

    rows: int = 1
    together: int = 1

    @property
    def calls(self) -> int:
        """How often the layer is called; the last time there may be fewer rows."""
        return -(-self.rows // self.together)


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """AveragePool, GlobalAveragePool, or ReduceMean and ReduceSum over any axes."""
    activation = ctx.activation(node, wide=True)
    place, tensor, index = _place(ctx, node, activation)
    if place.dilation != (1, 1):
        raise ctx.refuse(node, "dilation is not supported", "use a depthwise convolution")
    pads_count = bool(qdq.attribute(node, "count_include_pad", 0))
    counts = place.inside(pads_count)
    if counts.max() > MAX_COUNT:
        raise ctx.refuse(node, f"a mean of {int(counts.max())} values is not supported", f"at most {MAX_COUNT}")
    if counts.min() == 0:
        raise ctx.refuse(node, "some windows hold nothing but padding", "use smaller pads")
    output = ctx.output(node, wide=True)
    divides, quant = node.op_type != "ReduceSum", ctx.quant(activation)
    if quant.wide or output.quant.wide:
        name = wide_average_pool.add(ctx, node, tensor, place, pads_count, divides, output)
    else:
        params, constants = _integers(quant, output, place, pads_count, counts, divides)
        shape = (*place.output, place.input[2])
        name = ctx.layer("average_pool", (tensor,), shape, output.quant, params, constants, node)
    if index is None:
        ctx.define_spatial(output.value, name, activation.index.ndim)
    else:
        ctx.define(output.value, name, index)


def _place(ctx: Lowering, node: onnx.NodeProto, activation: Activation) -> tuple[Window, str, Array | None]:
    """The window, the tensor that it runs over, and where the elements of the result lie; None for channels last."""
    if node.op_type.startswith("Reduce"):
        found = reduction.of(ctx, node, activation)
        return found.window, found.tensor, found.index
    tensor, shape = ctx.channels_last(activation, node)
    if node.op_type == "AveragePool":
        return window(ctx, node, shape, qdq.attribute(node, "kernel_shape", [])), tensor, None
    return Window(shape, (1, 1), shape[:2], (1, 1), (1, 1), (0, 0), (0, 0)), tensor, None


def _integers(
    quant: QuantParams, output: Output, place: Window, pads_count: bool, counts: Array, divides: bool
) -> tuple[AveragePoolParams, dict[str, Array]]:
    rescales = quant != output.quant or not divides
    params = AveragePoolParams(
        window=place,
        pads_count=pads_count,
        rescales=rescales,
        input_zero_point=quant.zero_point,
        output_zero_point=output.quant.zero_point,
        activation_min=output.activation_min,
        activation_max=output.activation_max,
    )
    if not rescales:
        return params, {}
    multiplier = np.zeros(int(counts.max()) + 1, np.int32)
    shift = np.zeros(multiplier.size, np.int8)
    for count in np.unique(counts):
        real = float(quant.scale) / (float(output.quant.scale) * (int(count) if divides else 1))
        multiplier[count], shift[count] = fixedpoint.quantize_multiplier(real, 255 * int(count))
    return params, {"multiplier": multiplier, "shift": shift}


def reference(params: AveragePoolParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(height, width, channels) int8 -> (out height, out width, channels) int8."""
    place = params.window
    taps = place.taps(inputs[0].reshape(place.input).astype(np.int64), params.input_zero_point)
    counts = place.inside(params.pads_count)[..., None]
    sums = taps.sum(axis=(2, 3)) - int(np.prod(place.kernel)) * params.input_zero_point
    if params.rescales:
        mean = fixedpoint.requantize(sums, constants["multiplier"][counts], constants["shift"][counts])
        mean = mean + params.output_zero_point
    else:
        # The zero point is part of the mean: it is the rounding of the stored values that counts.
        total = sums + counts * params.input_zero_point
        mean = np.sign(total) * ((np.abs(total) + counts // 2) // counts)
    return fixedpoint.saturate(mean, params.activation_min, params.activation_max)


LANES = 4
"""Channels in a word, which cores with loads at any address take at a time."""
SHIFT = 24
"""Of reciprocals with which a mean's product stays in 32 bits, whatever the count."""


def reciprocals(counts: Sequence[int]) -> tuple[tuple[int, ...], int, bool]:
    """(factors, shift, exact): n // count == (n * factor) >> shift for every n that a mean of int8 values divides.

    In 32 bits. Where there are no such factors they are rounded down and not `exact`: the product is not too large.
    """
    for shift in (*range(8, SHIFT), SHIFT) if len(counts) == 1 else (SHIFT,):
        factors = [-(-(1 << shift) // count) for count in counts]
        if all(_divides(count, factor, shift) for count, factor in zip(counts, factors, strict=True)):
            return tuple(factors), shift, True
    return tuple((1 << SHIFT) // count for count in counts), SHIFT, False


def _divides(count: int, factor: int, shift: int) -> bool:
    """Whether the product is the quotient: both rise with n, so where the quotient does, and in front of it."""
    largest = 128 * count + count // 2
    ends = [end for quotient in range(1, 130) for end in (quotient * count - 1, quotient * count) if end <= largest]
    return largest * factor < 2**32 and all((n * factor) >> shift == n // count for n in (*ends, largest))


def sums_type(params: AveragePoolParams) -> str:
    """The smallest integers of C that hold the sums of rows."""
    rows, columns = params.window.kernel
    return "int16_t" if rows * columns * -INT8_MIN < 2**15 else "int32_t"


def scratch(view: LayerView, target: Target) -> int:
    """The sums from row to row."""
    if not isinstance(view.params, MeanOfRowsParams):
        return 0
    return view.output.size * (2 if sums_type(view.params) == "int16_t" else 4)


def by_rows(view: LayerView, count: int | None, together: int) -> RowForm | None:
    """Windows that hold no rows of padding, unless these count, or one window over all rows."""
    params: AveragePoolParams = view.params
    place, height = params.window, params.window.input[0]
    if count not in (None, height) or height < together:
        return None
    counts = place.inside(params.pads_count)
    if place.output == (1, 1) and place.kernel == place.input[:2] and not place.padded:
        values = {name: getattr(params, name) for name in AveragePoolParams.__slots__}
        mean = MeanOfRowsParams(**values, rows=height, together=together)
        return RowForm(height, height, mean, extent=together, stride=together, keeps=True, rows=together)
    # Rows are made of as many rows as their kernel has, which are all counted.
    whole = np.array_equal(counts, np.broadcast_to(place.of_rows(1).inside(params.pads_count), counts.shape))
    return spatial.by_rows(view, count, together, params.input_zero_point) if whole else None


def lanes(view: LayerView, target: Target) -> int:
    """Channels that are taken at a time: ARMv6-M loads words at their own addresses only, MVE has other ways."""
    if isinstance(view.params, MeanOfRowsParams):
        return 1
    return LANES if view.params.window.input[2] >= LANES and not (target.armv6m or target.mve) else 1


def render(view: LayerView, target: Target) -> Source:
    """Sums of windows clipped to the input; one product with a reciprocal or one requantization for each output."""
    params: AveragePoolParams = view.params
    counts = params.window.inside(params.pads_count)
    by_rows = isinstance(params, MeanOfRowsParams)
    count, varied = int(counts.max()), bool(counts.min() < counts.max())
    values = {
        "p": params,
        "w": params.window,
        "walk": walk(params.window),
        "lanes": lanes(view, target),
        "sums": sums_type(params) if by_rows else "",
        "pads": params.pads_count and params.window.padded,
        "varied": varied,
        "count": count,
        "start": -count * params.input_zero_point if params.rescales and not varied else 0,
    }
    if params.rescales:
        multiplier, shift = (int(view.constants[name][count]) for name in ("multiplier", "shift"))
        ends = (count * (INT8_MIN - params.input_zero_point), count * (INT8_MAX - params.input_zero_point))
        found = (None, []) if varied else single_requantization(params, multiplier, shift, ends, target)
        whole = None if varied or target.armv6m else upper(params, multiplier, shift, ends)
        values |= {"multiplier": multiplier, "shift": shift, "line": found[0], "own": found[1], "upper": whole}
        return Source("average_pool_rescaled.c.j2", values, dict(view.constants) if varied else {})
    known = np.unique(counts).tolist()
    factors, shift, exact = reciprocals(known)
    values |= {"factor": factors[0], "shift": shift, "exact": exact}
    table = np.zeros(count + 1, np.uint32)
    table[known] = factors
    return Source("average_pool.c.j2", values, {"factor": table} if varied else {})


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of the two templates."""
    place = view.params.window
    counts = place.inside(view.params.pads_count)
    if isinstance(view.params, MeanOfRowsParams):
        # A row adds to each sum; the outputs come with the last one.
        outputs, calls = place.input[2], view.params.calls
        scaled, taps = "rescaled_" if view.params.rescales else "", place.input[0] * place.input[1] // calls
        return {"pixel": 1, "tap": outputs * (taps + 2), f"{scaled}output": -(-outputs // calls)}
    scaled = "rescaled_" if view.params.rescales else ""
    varied = "varied_" if view.params.rescales and counts.min() != counts.max() else ""
    taken = lanes(view, target)
    blocks = place.pixels * -(-place.input[2] // taken)
    loops = {"block": blocks} if taken > 1 else {}
    return {"pixel": place.pixels, f"{varied}{scaled}output": blocks * taken, **loops, **window_trips(place, taken)}


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Channel by channel of each pixel, or four at a time, of which the last may come twice."""
    place, taken = view.params.window, lanes(view, target)
    own = overlap.by_pixels(place, place.input[2]) if place.input[2] % taken else overlap.by_channels(place)
    return {0: overlap.upwards(own, view.inputs[0].bytes)}


def _library_supports(view: LayerView, target: Target) -> str | None:
    if isinstance(view.params, MeanOfRowsParams):
        return "CMSIS-NN has no mean that goes on from row to row"
    return cmsis_nn.AVERAGE_POOL.supports(view, target)


def cases() -> Iterable[Case]:
    """Own and shared scales, padding that counts and that does not, odd sizes, global pools, one axis."""
    from nnbuild.ops import singles

    quant, other = QuantParams(0.05, -20), QuantParams(0.021, 3)
    kernel = {"kernel_shape": [3, 2], "strides": [2, 1]}
    padded = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    counting = {**padded, "count_include_pad": 1}
    ceiling = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1, "count_include_pad": 1}
    for name, output in (("same", quant), ("own", other)):
        yield singles.unary(f"average_pool_{name}", "AveragePool", (1, 3, 7, 4), quant, output, kernel)
        yield singles.unary(f"average_pool_{name}_padded", "AveragePool", (1, 3, 4, 5), quant, output, padded)
        yield singles.unary(f"average_pool_{name}_counting", "AveragePool", (1, 3, 4, 5), quant, output, counting)
        yield singles.unary(f"average_pool_{name}_ceil", "AveragePool", (1, 2, 6, 6), quant, output, ceiling)
        yield singles.unary(f"average_pool_{name}_global", "GlobalAveragePool", (1, 5, 25, 5), quant, output)
        one = {"kernel_shape": [4], "strides": [3]}
        yield singles.unary(f"average_pool_{name}_1d", "AveragePool", (1, 3, 10), quant, output, one)
    # Counts that no factor divides by in 32 bits, and windows of several such.
    yield singles.unary("average_pool_many", "GlobalAveragePool", (1, 5, 49, 10), quant, quant)
    wide = {"kernel_shape": [20, 20], "strides": [5, 5], "pads": [5, 5, 5, 5]}
    yield singles.unary("average_pool_many_padded", "AveragePool", (1, 2, 20, 20), quant, quant, wide)
    yield singles.unary("average_pool_rows", "AveragePool", (1, 6, 7, 9), quant, quant, {"kernel_shape": [5, 7]})
    yield singles.unary("average_pool_relu", "GlobalAveragePool", (1, 3, 3, 3), quant, quant, clamp=("Relu",))
    yield singles.unary("average_pool_one", "GlobalAveragePool", (1, 3, 1, 1), quant, quant)
    for name, axes, shape in (("last", [3], (1, 3, 4, 5)), ("channels", [1], (1, 7, 5)), ("all", [0, 1, 2], (2, 3, 4))):
        yield singles.reduced(f"reduce_mean_{name}", "ReduceMean", shape, axes, quant, other)
        yield singles.reduced(f"reduce_sum_{name}", "ReduceSum", shape, axes, quant, QuantParams(0.4, -7), keepdims=0)
    yield singles.unary("average_pool_saturates", "GlobalAveragePool", (1, 3, 3, 3), quant, QuantParams(0.005, 0))


OPERATOR = Operator(
    name="average_pool",
    summary="mean of a window, or of all of space",
    onnx=("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True, wide=True),
    params=AveragePoolParams,
    reference=reference,
    bounds=monotone(reference),
    channels=tied(divides_window, without_in_window),
    slides=by_window,
    rows=by_rows,
    kernels=(
        Kernel(
            "direct", render, scratch=scratch, trips=trips, outruns_library=lambda target: not target.mve, overlap=over
        ),
        replace(cmsis_nn.AVERAGE_POOL, supports=_library_supports),
    ),
    cases=cases,
)
