"""The model's inputs and outputs in C: their names, and what `<name>_run` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnbuild import cnames
from nnbuild.network import Network, Port, Tensor
from nnbuild.ram.memory import Plan


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A model input or output with its names in C: macro prefix, function suffix, argument; `offset` in the arena.

    The rows of one that has them are pushed, each of `row_size`.
    """

    port: Port
    tensor: Tensor
    macro: str
    suffix: str
    argument: str
    offset: int | None = None
    rows: int = 0

    @property
    def row_size(self) -> int:
        """Elements that the caller has at a time."""
        return self.tensor.size // self.rows if self.rows else self.tensor.size

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(np.dtype(self.tensor.dtype).itemsize)

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return 8 * self.itemsize


def named(
    network: Network, whole: Network, ports: Sequence[Port], name: str, kind: str, planned: Plan
) -> list[NamedPort]:
    """One port is `input`; of several each carries its own name."""
    heights = {own.source: own.height for own in network.segments if own.pushed}
    names = [f"_{own}" for own in cnames.distinct([port.name for port in ports])] if len(ports) > 1 else [""]
    return [
        NamedPort(
            port,
            whole.tensors[port.tensor],
            f"{name}_{kind}{own}".upper(),
            own,
            f"{kind}{own}",
            planned.offsets.get(port.tensor),
            heights.get(port.tensor, 0) if kind == "input" else 0,
        )
        for port, own in zip(ports, names, strict=True)
    ]


def parameters(caller_arena: bool, planned: Plan, inputs: Sequence[NamedPort], outputs: Sequence[NamedPort]) -> str:
    """Those of `<name>_run`; with `caller_arena` memory is the caller's."""
    words = [f"void *{memory}" for memory in _callers_memory(caller_arena, planned)]
    words += [f"const {p.tensor.dtype}_t *{p.argument}" for p in inputs if p.offset is None]
    words += [f"{p.tensor.dtype}_t *{p.argument}" for p in outputs if p.offset is None]
    return ", ".join(words) or "void"


def arguments(caller_arena: bool, planned: Plan, ports: Sequence[NamedPort]) -> str:
    """What the self-test passes to `<name>_run`."""
    return ", ".join([*_callers_memory(caller_arena, planned), *(p.argument for p in ports if p.offset is None)])


def _callers_memory(caller_arena: bool, planned: Plan) -> list[str]:
    """The memory that the caller passes."""
    return ["arena", "state"][: 2 if planned.state_bytes else 1] if caller_arena else []
