"""Gemm and MatMul with constant weights: every output is a sum over all inputs of its row.

ONNX Gemm, MatMul; TensorFlow Lite FULLY_CONNECTED. The order of the input in memory is folded into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from nnbuild import fixedpoint, layout, qdq
from nnbuild.contract import Case, Channels, Kernel, LayerView, Operator, Overlap, Quantization, Source
from nnbuild.intervals import Interval
from nnbuild.kernels import cmsis_nn, horner, horner_armv6m, mve, packed_armv6m, smlad
from nnbuild.lower import Activation, Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.ops import channels, matmul, wide_conv2d
from nnbuild.ops.spatial import Window
from nnbuild.placeholder import is_placeholder, packed
from nnbuild.ram import overlap
from nnbuild.streams.sliding import Sliding, Time, by_rows, whole
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class FullyConnectedParams:
    """Integers of one layer. Constants: weights (outputs, inputs) int8; bias, multiplier int32, shift int8."""

    rows: int
    inputs: int
    outputs: int
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Gemm(x, W, b) or MatMul(x, W) with W known; a MatMul of two computed values is `matmul`."""
    if node.op_type == "MatMul" and ctx.constant(node, 0) is None and ctx.constant(node, 1) is None:
        matmul.lower(ctx, node)
        return
    activation = ctx.activation(node, wide=True)
    if qdq.attribute(node, "transA", 0):
        activation = Activation(activation.tensor, activation.index.T)
    by_row = node.op_type == "Gemm" and bool(qdq.attribute(node, "transB", 0))
    known = ctx.constant(node, 1)
    if known is not None and known.values.ndim != 2:
        raise ctx.refuse(node, f"weights of {known.values.ndim} dimensions are not supported", "two")
    weights, weight_scales = channels.weights(ctx, node, 1, 0 if by_row else 1)
    weights = weights if by_row else weights.T
    outputs, count = weights.shape
    if activation.shape[-1] != count:
        raise ctx.refuse(node, f"{activation.shape[-1]} inputs do not fit weights for {count}")
    rows = math.prod(activation.shape[:-1])
    tensor, weights = _in_memory_order(ctx, activation, weights, rows, node)
    alpha, beta = (float(qdq.attribute(node, key, 1.0)) for key in ("alpha", "beta"))
    if alpha <= 0:
        raise ctx.refuse(node, f"alpha {alpha} is not supported", "fold it into the weights")
    quant = ctx.quant(activation)
    scales = np.float64(quant.scale) * weight_scales * alpha
    bias = channels.bias(ctx, node, 2, scales, beta)
    output = ctx.output(node, wide=True)
    shape = (*activation.shape[:-1], outputs)
    if quant.wide or output.quant.wide:
        place = Window((1, rows, count), (1, rows), (1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
        weighted = wide_conv2d.Weighted(place, 1, weights[:, None, None, :], bias, scales)
        name = wide_conv2d.add(ctx, node, tensor, weighted, output, layout.memory_shape(shape))
        ctx.define(output.value, name, layout.contiguous(shape))
        return
    reach = channels.accumulators(ctx, node, weights, bias, quant)
    params = FullyConnectedParams(
        rows, count, outputs, quant.zero_point, output.quant.zero_point, output.activation_min, output.activation_max
    )
    constants = {"weights": weights, "bias": bias, **channels.multipliers(scales, output.quant, reach)}
    name = ctx.layer("fully_connected", (tensor,), layout.memory_shape(shape), output.quant, params, constants, node)
    ctx.define(output.value, name, layout.contiguous(shape))


def _in_memory_order(
    ctx: Lowering, activation: Activation, weights: Array, rows: int, node: onnx.NodeProto
) -> tuple[str, Array]:
    """Weights permuted so that each row of the input is read as it lies in memory; a copy only where rows differ."""
    count = weights.shape[1]
    index = activation.index.reshape(rows, count)
    inside = index - np.arange(rows)[:, None] * count
    same = np.array_equal(inside, np.broadcast_to(inside[0], inside.shape))
    fills = ctx.tensors[activation.tensor].size == index.size
    if same and fills and np.array_equal(np.sort(inside[0]), np.arange(count)):
        if is_placeholder(weights):
            return activation.tensor, weights
        permuted = np.empty_like(weights)
        permuted[:, inside[0]] = weights
        return activation.tensor, permuted
    return ctx.arrange(activation, index, node, (rows, count)), packed(weights)


def reference(params: FullyConnectedParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(rows * inputs) int8 -> (rows, outputs) int8."""
    values = inputs[0].reshape(params.rows, params.inputs).astype(np.float64) - params.input_zero_point
    # Sums stay below 2^31 (checked in lowering): exact in float64.
    sums = np.rint(values @ constants["weights"].astype(np.float64).T).astype(np.int64) + constants["bias"]
    scaled = fixedpoint.requantize(sums, constants["multiplier"], constants["shift"]) + params.output_zero_point
    return fixedpoint.saturate(scaled, params.activation_min, params.activation_max)


def slides(view: LayerView, times: Sequence[Time | None]) -> Sliding | str:
    """Row by row, or of all points in time at once where a row of the input holds several."""
    (time,) = times
    params: FullyConnectedParams = view.params
    if time is None or time.inner % params.inputs:
        return whole(view, times)
    return by_rows(view, times, params.rows, lambda rows: replace(params, rows=rows))


def render(view: LayerView, target: Target) -> Source:
    """Dot products; the input's zero point is folded into the bias."""
    params, constants = view.params, view.constants
    sums = constants["weights"].astype(np.int64).sum(axis=1)
    folded = (constants["bias"].astype(np.int64) - params.input_zero_point * sums).astype(np.int32)
    return Source(
        template="fully_connected.c.j2",
        values={"p": params},
        data={"weights": constants["weights"], "bias": folded, **{k: constants[k] for k in ("multiplier", "shift")}},
    )


def over(view: LayerView, target: Target) -> dict[int, Overlap]:
    """Row by row, where there are several."""
    params: FullyConnectedParams = view.params
    return {0: overlap.by_rows(params.rows, params.inputs, params.outputs)} if params.rows > 1 else {}


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of fully_connected.c.j2."""
    params = view.params
    return {"vector": params.rows, "output": view.output.size, "mac": view.output.size * params.inputs}


def bounds(view: LayerView, inputs: Sequence[Interval]) -> Interval:
    """Every weight meets the end of its input's interval that counts; all rows are one."""
    weights = channels.signed_sums(view.constants["weights"], ())
    return channels.reachable(view.params, view.constants, weights, inputs[0].spread(view.params.inputs))


def _divides(view: LayerView) -> bool:
    """A row of the input is a whole number of its pixels: the channels of a map that was flattened."""
    params: FullyConnectedParams = view.params
    return params.inputs % view.inputs[0].channels == 0 and view.output.channels == params.outputs


def _matrices(view: LayerView) -> Array:
    return np.asarray(view.constants["weights"].reshape(view.params.outputs, -1, view.inputs[0].channels))


def _reads(view: LayerView, kept: Array, inputs: Sequence[Interval]) -> Sequence[Array]:
    folded = channels.foldable(inputs[0], view.params.input_zero_point, pads=False)
    return [channels.read(_matrices(view), kept, folded)]


def _without(
    view: LayerView, inputs: Sequence[Interval], sources: Sequence[Array], kept: Array
) -> tuple[FullyConnectedParams, Mapping[str, Array]]:
    params: FullyConnectedParams = view.params
    constants, weights = channels.shrunk(
        view.constants, _matrices(view), inputs[0], params.input_zero_point, sources[0], kept
    )
    flat = packed(weights.reshape(len(weights), -1))
    return replace(params, inputs=flat.shape[1], outputs=len(flat)), {**constants, "weights": flat}


def cases() -> Iterable[Case]:
    """One and several rows, odd sizes, both orders of weights, clamps, saturation, weights in another memory order."""
    from nnbuild.ops import singles

    quant, out = QuantParams(0.05, -20), QuantParams(0.25, 5)
    by_row = {"transB": 1}
    yield singles.weighted("fully_connected_16x10", "Gemm", (1, 16), (10, 16), 0, quant, out, by_row)
    yield singles.weighted("fully_connected_odd", "Gemm", (1, 13), (13, 7), 1, quant, out)
    yield singles.weighted("fully_connected_one", "Gemm", (1, 1), (1, 1), 0, quant, out, by_row)
    yield singles.weighted("fully_connected_rows", "MatMul", (1, 4, 6), (6, 5), 1, quant, out, bias=False)
    yield singles.weighted("fully_connected_alpha", "Gemm", (1, 8), (8, 3), 1, quant, out, {"alpha": 0.5, "beta": 2.0})
    hard_tanh = ("Clip", -1.0, 1.0)
    sharp = QuantParams(1 / 127, 0)
    yield singles.weighted("fully_connected_hardtanh", "Gemm", (1, 64), (16, 64), 0, quant, sharp, by_row, hard_tanh)
    halves, halved = QuantParams(2.0**-4, 3), QuantParams(2.0**-6, -1)
    yield singles.weighted("fully_connected_halves", "Gemm", (1, 3), (250, 3), 0, halves, halved, by_row, exact=True)
    turned = {"transA": 1}
    yield singles.weighted("fully_connected_turned", "Gemm", (6, 4), (6, 5), 1, quant, out, turned)
    yield singles.weighted("fully_connected_turned_one", "Gemm", (7, 1), (5, 7), 0, quant, out, {**turned, **by_row})
    # Long sums: a line of three products, one of bounded sums, and none at all (kernels/exact_requantize.py).
    for name, inputs, scale in (("long", 500, 2.0), ("bounded", 610, 2.0), ("longer", 700, 8.0)):
        shapes = (1, inputs), (5, inputs)
        yield singles.weighted(f"fully_connected_{name}", "Gemm", *shapes, 0, quant, QuantParams(scale, 5), by_row)
    shapes, relu = ((1, 610), (5, 610)), QuantParams(2.0, -128)
    yield singles.weighted("fully_connected_bounded_relu", "Gemm", *shapes, 0, quant, relu, by_row, ("Relu",))
    yield singles.weighted("fully_connected_relu", "Gemm", (1, 9), (4, 9), 0, quant, out, by_row, ("Relu",))


def _quantization(node: onnx.NodeProto) -> Quantization:
    by_row = node.op_type == "Gemm" and bool(qdq.attribute(node, "transB", 0))
    bias = 2 if node.op_type == "Gemm" else None

    def axis(_: onnx.NodeProto, shape: Sequence[int]) -> int:
        return 0 if by_row else len(shape) - 1

    return Quantization(weights=1, weight_axis=axis, bias=bias, fuses_clamp=True, wide=True)


OPERATOR = Operator(
    name="fully_connected",
    summary="matrix product with constant weights",
    onnx=("Gemm", "MatMul"),
    lower=lower,
    quantization=_quantization,
    params=FullyConnectedParams,
    reference=reference,
    bounds=bounds,
    channels=Channels(_divides, _reads, _without),
    macs=lambda view: view.params.rows * view.params.inputs * view.params.outputs,
    slides=slides,
    kernels=(
        Kernel(
            "assembly",
            horner_armv6m.fully_connected,
            horner_armv6m.supports,
            trips=horner_armv6m.fully_connected_trips,
            overlap=over,
        ),
        Kernel(
            "packed",
            packed_armv6m.fully_connected,
            horner_armv6m.supports,
            trips=packed_armv6m.fully_connected_trips,
            overlap=over,
        ),
        Kernel(
            "smlad",
            smlad.fully_connected,
            smlad.supports,
            trips=smlad.fully_connected_trips,
            outruns_library=smlad.outruns_library,
            overlap=over,
        ),
        Kernel(
            "mve",
            mve.fully_connected,
            mve.supports,
            trips=mve.fully_connected_trips,
            outruns_library=mve.outruns_library,
            overlap=mve.over_rows,
        ),
        Kernel("horner", horner.fully_connected, trips=horner.fully_connected_trips, overlap=over),
        Kernel("direct", render, trips=trips, overlap=over),
        cmsis_nn.FULLY_CONNECTED,
    ),
    cases=cases,
)
