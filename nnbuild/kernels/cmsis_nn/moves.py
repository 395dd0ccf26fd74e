"""Pad, transpose and concatenation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnbuild.contract import LayerView, Source
from nnbuild.kernels.cmsis_nn.call import INCLUDES, kernel
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.ops.concat import ConcatPart


def _pad(view: LayerView, target: Target) -> Source:
    params = view.params
    after = tuple(o - i - b for o, i, b in zip(params.output, params.input, params.before, strict=True))
    return Source("cmsis_nn_pad.c.j2", {"p": params, "after": after}, includes=INCLUDES)


def _pad_trips(view: LayerView, target: Target) -> dict[str, int]:
    """Rows and pixels copied, bytes of output."""
    rows, columns, channels = view.params.input
    return {"row": rows, "pixel": rows * columns, "input": rows * columns * channels, "output": view.output.size}


PAD = kernel(_pad, lambda view, target: "arm_pad_s8", trips=_pad_trips)


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


TRANSPOSE = kernel(_transpose, lambda view, target: "arm_transpose_s8", _transpose_supports)


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


CONCAT = kernel(_concat, lambda view, target: "arm_concatenation_s8_x", _concat_supports, trips=_concat_trips)
