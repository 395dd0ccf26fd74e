"""Matrix product of two computed values, with broadcasting over the leading axes. ONNX MatMul.

With constant weights it is `fully_connected`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nnbuild import fixedpoint, layout
from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, Source
from nnbuild.lower import Activation, Lowering
from nnbuild.network import Array, QuantParams
from nnbuild.target import Target

MAX_DEPTH = 2**15
"""So many products of two int8 values less their zero points stay below 2^31."""


@dataclass(frozen=True, slots=True)
class MatMulParams:
    """`batch` products of (rows, depth) and (columns, depth); the second operand lies with its depth innermost."""

    batch: int
    rows: int
    depth: int
    columns: int
    zero_points: tuple[int, int]
    output_multiplier: int
    output_shift: int
    output_zero_point: int
    activation_min: int
    activation_max: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """MatMul(a, b) as numpy's: one-dimensional operands are a row and a column."""
    a, b = ctx.activation(node, 0), ctx.activation(node, 1)
    left = a.index[None, :] if a.index.ndim == 1 else a.index
    right = b.index[:, None] if b.index.ndim == 1 else b.index
    depth = left.shape[-1]
    if right.shape[-2] != depth:
        raise ctx.refuse(node, f"shapes {list(a.shape)} and {list(b.shape)} do not fit")
    if depth > MAX_DEPTH:
        raise ctx.refuse(node, f"a sum of {depth} products is not supported", f"at most {MAX_DEPTH}")
    leading = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    tensors = (
        _operand(ctx, node, a, np.broadcast_to(left, (*leading, *left.shape[-2:]))),
        _operand(ctx, node, b, np.broadcast_to(right, (*leading, *right.shape[-2:])).swapaxes(-1, -2)),
    )
    output = ctx.output(node)
    quants = ctx.quant(a), ctx.quant(b)
    rows, columns = left.shape[-2], right.shape[-1]
    multiplier, shift = fixedpoint.quantize_multiplier(
        quants[0].scale * quants[1].scale / output.quant.scale, 255 * 255 * depth
    )
    params = MatMulParams(
        batch=math.prod(leading),
        rows=rows,
        depth=depth,
        columns=columns,
        zero_points=(quants[0].zero_point, quants[1].zero_point),
        output_multiplier=multiplier,
        output_shift=shift,
        output_zero_point=output.quant.zero_point,
        activation_min=output.activation_min,
        activation_max=output.activation_max,
    )
    shape = (*leading, rows, columns)
    name = ctx.layer("matmul", tensors, layout.memory_shape(shape), output.quant, params, {}, node)
    squeezed = (*leading, *((rows,) if a.index.ndim > 1 else ()), *((columns,) if b.index.ndim > 1 else ()))
    ctx.define(output.value, name, layout.contiguous(squeezed))


def _operand(ctx: Lowering, node: onnx.NodeProto, value: Activation, index: Array) -> str:
    """The tensor that holds `index` in order; a copy where it does not yet, or where broadcasting repeats it."""
    return ctx.arrange(value, index, node, layout.memory_shape(index.shape))


def reference(params: MatMulParams, constants: Mapping[str, Array], inputs: Sequence[Array]) -> Array:
    """(batch, rows, depth) and (batch, columns, depth) int8 -> (batch, rows, columns) int8."""
    a = inputs[0].reshape(params.batch, params.rows, params.depth).astype(np.int64) - params.zero_points[0]
    b = inputs[1].reshape(params.batch, params.columns, params.depth).astype(np.int64) - params.zero_points[1]
    scaled = fixedpoint.requantize(a @ b.swapaxes(1, 2), params.output_multiplier, params.output_shift)
    return fixedpoint.saturate(scaled + params.output_zero_point, params.activation_min, params.activation_max)


def macs(view: LayerView) -> int:
    """Multiplications."""
    return int(view.params.batch * view.params.rows * view.params.columns * view.params.depth)


def render(view: LayerView, target: Target) -> Source:
    """Dot products of rows."""
    return Source(template="matmul.c.j2", values={"p": view.params})


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of matmul.c.j2."""
    rows = view.params.batch * view.params.rows
    return {"row": rows, "output": view.output.size, "mac": macs(view)}


def cases() -> Iterable[Case]:
    """Several matrices, one for all, vectors, a transposed operand, a square, the largest sums, a clamp."""
    from nnbuild.ops import singles

    a, b, out = QuantParams(0.05, -7), QuantParams(0.021, 19), QuantParams(0.07, 3)
    table: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
        ("one", (1, 3, 5), (1, 5, 4)),
        ("several", (1, 2, 3, 5), (1, 2, 5, 4)),
        ("broadcast", (3, 2, 5), (5, 4)),
        ("row", (5,), (2, 5, 3)),
        ("column", (2, 3, 5), (5,)),
    ]
    for name, first, second in table:
        yield singles.several(f"matmul_{name}", "MatMul", [first, second], [a, b], out)
    turned = [(), (0, 2, 1)]
    yield singles.several("matmul_transposed", "MatMul", [(1, 4, 6), (1, 3, 6)], [a, b], out, orders=turned)
    ends = [QuantParams(0.05, -128), QuantParams(0.02, 127)]
    yield singles.several("matmul_saturates", "MatMul", [(2, 33), (33, 3)], ends, QuantParams(0.4, 100))
    yield singles.several("matmul_relu", "MatMul", [(1, 4, 4), (1, 4, 4)], [a, b], out, ("Relu",))
    yield singles.repeated("matmul_square", "MatMul", (4, 4), 2, a, out)
    yield singles.repeated("matmul_itself", "MatMul", (1, 1), 2, a, out)


OPERATOR = Operator(
    name="matmul",
    summary="matrix product of two computed values (ONNX MatMul)",
    onnx=(),
    lower=lower,
    quantization=lambda node: Quantization(fuses_clamp=True),
    params=MatMulParams,
    reference=reference,
    macs=macs,
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
