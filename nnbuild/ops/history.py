"""The newest rows of a value along time: those of this inference, behind those that are kept of the ones before.

No ONNX operator: `nnbuild.streaming` puts it in front of layers that look back. The output is the state itself, so
nothing is copied but the rows that move up.
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
    for layer in network.layers:
        passed[layer.output] = max(passed[name] for name in layer.inputs)
        if isinstance(layer.params, HistoryParams):
            passed[layer.output] += -(-layer.params.rows // layer.params.new) - 1
    return max(passed[port.tensor] for port in network.outputs)


def _moved(params: HistoryParams) -> tuple[int, int, int]:
    """Elements by which all move, that move, and how many times four words of them move at once."""
    shift = params.new * params.inner
    kept = params.outer * params.rows * params.inner - shift
    return shift, kept, kept // 16 if shift % 4 == 0 else 0


def render(view: LayerView, target: Target) -> Source:
    """One move of all that is kept, in words where the distance is one."""
    shift, kept, quads = _moved(view.params)
    return Source("history.c.j2", {"w": view.params, "shift": shift, "kept": kept, "quads": quads})


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of history.c.j2."""
    shift, kept, quads = _moved(view.params)
    outer = view.params.outer
    return {"quad": quads, "moved": kept - 16 * quads, "part": outer if outer > 1 else 0, "copied": outer * shift}


def bounds(view: LayerView, inputs: Sequence[Interval]) -> Interval:
    """What comes in, and what is there in the beginning."""
    start = view.constants["start"].astype(np.int64)
    start = start.reshape(-1, view.output.channels) if start.size % view.output.channels == 0 else start[:, None]
    return Interval(np.minimum(inputs[0].low, start.min(axis=0)), np.maximum(inputs[0].high, start.max(axis=0)))


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
    bounds=bounds,
    channels=tied(_divides, _without),
    kernels=(Kernel("direct", render, trips=trips),),
    cases=cases,
)
