"""The newest rows of a value along time: those of this inference, behind those that are kept of the ones before.

No ONNX operator: `streams.over_time` puts it in front of layers that look back. The output is the state itself, and
what makes the new rows may write them there at once, over the oldest: so nothing is copied but the rows that move up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from nnbuild.contract import Case, Kernel, LayerView, Operator, Quantization, SameAsInput, Source, tied
from nnbuild.intervals import Interval
from nnbuild.lower import Lowering
from nnbuild.network import Array, Network, QuantParams
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class HistoryParams:
    """(outer, new, inner) come in, (outer, rows, inner) are kept and go out; there are more rows than new ones.

    Constant: `start`, int8 (outer * inner), which all rows are before the first inference.
    """

    outer: int
    rows: int
    new: int
    inner: int


def lower(ctx: Lowering, node: onnx.NodeProto) -> None:
    """Of no node."""
    raise ctx.refuse(node, "is not an operator of ONNX")


def state(view: LayerView) -> Array:
    """What the rows are after a reset, int8."""
    params: HistoryParams = view.params
    row = view.constants["start"].reshape(params.outer, 1, params.inner)
    return np.repeat(row, params.rows, axis=1).ravel()


def advance(
    params: HistoryParams, constants: Mapping[str, Array], inputs: Sequence[Array], kept: Array
) -> tuple[Array, Array]:
    """New rows int8, the rows before them int8 -> all that are kept now, twice."""
    new = inputs[0].reshape(params.outer, params.new, params.inner)
    rows = kept.reshape(params.outer, params.rows, params.inner)
    found = np.concatenate([rows[:, params.new :], new], axis=1).ravel()
    return found, found


def settled(network: Network) -> int:
    """Inferences from a reset to the first whose outputs have nothing left of what windows began with; 1: the first."""
    passed = {port.tensor: 1 for port in network.inputs}

    def of(tensor: str) -> int:
        """Of whatever it shares bytes with."""
        return max(count for name, count in passed.items() if network.shares(name, tensor))

    for layer in network.layers:
        passed[layer.output] = max(of(name) for name in layer.inputs)
        if isinstance(layer.params, HistoryParams):
            passed[layer.output] += -(-layer.params.rows // layer.params.new) - 1
    return max(of(port.tensor) for port in network.outputs)


def _turns(params: HistoryParams) -> bool:
    """Whether new rows may come in where the oldest ones lie, since a row always moves to where one was."""
    return params.outer == 1 and params.rows % params.new == 0


def _moved(params: HistoryParams) -> tuple[int, int]:
    """Elements by which all that is kept moves, and how many these are."""
    shift = params.new * params.inner
    return shift, params.outer * params.rows * params.inner - shift


def _blocks(params: HistoryParams) -> tuple[int, int]:
    """Bytes of what is moved at once, words where the distance is one; and how many of them stand in a loop."""
    shift, _ = _moved(params)
    size = 4 if shift % 4 == 0 else 1
    return size, next(count for count in (4, 2, 1) if shift // size % count == 0)


def render(view: LayerView, target: Target) -> Source:
    """Column by column, or all that is kept at once and the new rows behind it."""
    params: HistoryParams = view.params
    shift, kept = _moved(params)
    if not _turns(params):
        quads = kept // 16 if shift % 4 == 0 else 0
        return Source("history_moved.c.j2", {"w": params, "shift": shift, "kept": kept, "quads": quads})
    size, block = _blocks(params)
    values = {"w": params, "words": size == 4, "step": shift // size, "kept": kept // size, "block": block}
    return Source("history.c.j2", values)


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of both templates."""
    params: HistoryParams = view.params
    shift, kept = _moved(params)
    if not _turns(params):
        quads = kept // 16 if shift % 4 == 0 else 0
        parts = params.outer if params.outer > 1 else 0
        return {"quad": quads, "moved": kept - 16 * quads, "part": parts, "copied": params.outer * shift}
    size, block = _blocks(params)
    name = "word" if size == 4 else "byte"
    return {f"{name}_column{block}": shift // size // block, f"{name}_row{block}": kept // size // block}


def bounds(view: LayerView, inputs: Sequence[Interval]) -> Interval:
    """What comes in, and what is there in the beginning; of all channels at once, where time is the last axis."""
    count = view.output.channels
    start, low, high = view.constants["start"].astype(np.int64), inputs[0].low, inputs[0].high
    if view.inputs[0].channels != count:
        low, high = np.full(count, low.min()), np.full(count, high.max())
    start = start.reshape(-1, count) if start.size % count == 0 else start[:, None]
    return Interval(np.minimum(low, start.min(axis=0)), np.maximum(high, start.max(axis=0)))


def _divides(view: LayerView) -> bool:
    channels = view.output.channels
    return view.inputs[0].channels == channels and view.params.inner % channels == 0


def _without(view: LayerView, kept: Array) -> tuple[HistoryParams, Mapping[str, Array]]:
    start = view.constants["start"].reshape(-1, kept.size)[:, kept].ravel()
    return replace(view.params, inner=start.size // view.params.outer), {"start": start}


def cases() -> Iterable[Case]:
    """Rows that move in words, in bytes, in both; several times; more than one new row; a beginning other than zero."""
    from nnbuild.ops import singles

    table = {
        "words": (1, 5, 1, 16),
        "some_words": (1, 4, 1, 12),
        "bytes": (1, 3, 1, 7),
        "two_new": (1, 7, 2, 5),
        "most_are_new": (1, 4, 3, 8),
        "pairs": (1, 6, 3, 8),
        "odd_bytes": (1, 5, 1, 9),
        "even_bytes": (1, 6, 2, 3),
        "columns": (3, 5, 1, 4),
        "columns_bytes": (5, 4, 1, 3),
        "one_channel": (4, 6, 2, 1),
    }
    for name, sizes in table.items():
        yield singles.history(f"history_{name}", HistoryParams(*sizes), QuantParams(0.05, -20))


OPERATOR = Operator(
    name="history",
    summary="the newest rows along time, kept from one inference to the next",
    onnx=(),
    lower=lower,
    quantization=lambda node: Quantization(output=SameAsInput()),
    params=HistoryParams,
    state=state,
    advance=advance,
    in_state=True,
    inplace=lambda view: (0,) if _turns(view.params) else (),
    bounds=bounds,
    channels=tied(_divides, _without),
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
