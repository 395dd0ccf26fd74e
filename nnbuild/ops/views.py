"""What operators share that only say where elements come from: no arithmetic, no layer, no code.

Such an operator is one function of numpy on the array of offsets (see `nnbuild.layout`); a constant is moved at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx

from nnbuild.contract import Quantization, SameAsInput
from nnbuild.lower import Lowering
from nnbuild.network import Array

Move = Callable[[Array], Array]

QUANTIZATION = Quantization(output=SameAsInput(), wide=True)
"""Elements keep their values, and with them scale and zero point."""


def define(ctx: Lowering, node: onnx.NodeProto, move: Move, output: int = 0) -> None:
    """The output of `node` holds the elements of its first input that `move` picks, in the shape that it gives them.

    ModelError where the model's shapes say otherwise.
    """
    constant = ctx.constant(node, 0)
    name = node.output[output]
    if constant is not None:
        if constant.scale is not None and constant.scale.size > 1:
            raise ctx.refuse(node, "moves a constant that is quantized per channel", "fold it when exporting")
        values = move(constant.values)
        _check(ctx, node, name, values)
        ctx.values[name] = replace(constant, values=values)
        return
    activation = ctx.activation(node, indices=True)
    index = move(activation.index)
    _check(ctx, node, name, index)
    ctx.define(name, activation.tensor, index)


def _check(ctx: Lowering, node: onnx.NodeProto, name: str, values: Array) -> None:
    shape = ctx.shapes.get(name, values.shape)
    if shape != values.shape or not values.size:
        raise ctx.refuse(node, f"its output has the shape {list(values.shape)}, the model says {list(shape)}")


def numbers(ctx: Lowering, node: onnx.NodeProto, position: int, default: list[int] | None = None) -> list[int]:
    """Input `position`, which must be known integers; `default` where it is left out."""
    if position >= len(node.input) or not node.input[position]:
        if default is None:
            raise ctx.refuse(node, f"input {position} is missing")
        return default
    constant = ctx.constant(node, position)
    if constant is None:
        raise ctx.refuse(node, f"input {position} is not constant", "export it as a constant")
    return [int(value) for value in constant.values.ravel()]
