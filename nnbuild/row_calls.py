"""The C of a segment that goes row by row: one function, which does what is due at a step (templates/rows.c.j2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnbuild.memory import Plan
from nnbuild.network import Network
from nnbuild.rows import PUSHED, Kept, Read, Segment, Step


@dataclass(frozen=True, slots=True)
class Item:
    """What a step may have to do: rows that come, and what makes one. Texts are C; `index` is that of the layer."""

    first: int
    every: int
    count: int
    until: int
    at: str
    newest: str
    bytes: int
    moved: int
    fill: int | None
    window: str
    call: str
    index: int | None


@dataclass(frozen=True, slots=True)
class Function:
    """A segment's function. `arguments` are those of its calls in front of the step; `filled` what is padding at first.

    `ends` are the first and the last index of its layers. Of an input that is `pushed`: its rows, bytes of each, and
    where in the arena the word lies that counts them.
    """

    name: str
    title: str
    signature: str
    arguments: tuple[str, ...]
    length: int
    filled: tuple[tuple[str, int, int, str], ...]
    items: tuple[Item, ...]
    ends: tuple[int, int]
    pushed: tuple[int, int, int] | None = None


def places(network: Network, own: Segment, planned: Plan, ports: Mapping[str, str]) -> dict[str, str]:
    """Where in C lies what the layers of a segment read and write, by the name of the row or window.

    `ports` are the arguments that stand for tensors that do not lie in the arena.
    """
    found = {}
    for step in own.steps:
        for read in step.reads:
            found[f"{read.tensor}[{step.layer}]"] = _read(own, read, planned, ports)
        found[f"{step.writes}[{step.layer}]"] = _written(network, own, step, planned, ports)
    return found


def function(
    network: Network, own: Segment, planned: Plan, ports: Mapping[str, str], name: str, calls: Mapping[str, str]
) -> Function:
    """The function of a segment of the model `name`; `calls` are the statements that call layers, by their names."""
    kept, layers = own.kept, network.layers
    items = [_pushed(own, planned)] if own.pushed else []
    for index, step in enumerate(own.steps, own.first):
        window = next((read for read in step.reads if read.offset is None and read.extent > 1), None)
        text = _gathered(own, step, window, planned, ports) if window else ""
        items.append(
            _item(
                step.due.first,
                step.due.every,
                step.due.count,
                kept.get(step.writes),
                planned,
                step.writes,
                text,
                calls[step.layer],
                index,
            )
        )
    memory = [name for name in ("arena", "state") if any(f"&{name}[" in f"{item.window} {item.call}" for item in items)]
    parameters, arguments = [f"int8_t *{each}" for each in memory], list(memory)
    whole = [] if own.pushed else [own.source]
    for tensor in (*whole, own.result):
        if tensor not in (*planned.offsets, *planned.in_states):
            kind = "const int8_t" if tensor == own.source else "int8_t"
            parameters.append(f"{kind} *{ports[tensor]}")
            arguments.append(ports[tensor])
    if own.pushed:
        parameters.append("const int8_t *pushed")
    first, last = layers[own.first].name, layers[own.last].name
    return Function(
        name=f"{name}_rows_{first.partition('_')[0]}",
        title=first if first == last else f"{first} to {last}",
        signature=f"static void {name}_rows_{first.partition('_')[0]}({', '.join([*parameters, 'int32_t step'])})",
        arguments=tuple(arguments),
        length=own.length,
        filled=tuple(
            (_at(planned, tensor, 0), rows.fill, rows.rows * rows.bytes, tensor)
            for tensor, rows in kept.items()
            if rows.above and rows.fill is not None
        ),
        items=tuple(items),
        ends=(own.first, own.last),
        pushed=(own.height, own.row_bytes, planned.offsets[PUSHED]) if own.pushed else None,
    )


def _at(planned: Plan, tensor: str, offset: int, index: str = "") -> str:
    """In the arena, or in what is kept of a stream."""
    if tensor in planned.in_states:
        return f"&state[{planned.in_states[tensor] + offset}{index}]"
    return f"&arena[{planned.offsets[tensor] + offset}{index}]"


def _whole(tensor: str, bytes_: int, planned: Plan, ports: Mapping[str, str]) -> str:
    """Row `row`, or one of so many bytes for each of its numbers, of a tensor that is whole."""
    index = f"row * {bytes_}" if bytes_ > 1 else "row"
    return f"&{ports[tensor]}[{index}]" if tensor in ports else _at(planned, tensor, 0, f" + {index}")


def _read(own: Segment, read: Read, planned: Plan, ports: Mapping[str, str]) -> str:
    if read.offset is not None:
        return _at(planned, read.tensor, read.offset)
    if read.extent > 1:
        return "window"
    return _whole(read.tensor, read.stride * own.row_bytes, planned, ports)


def _written(network: Network, own: Segment, step: Step, planned: Plan, ports: Mapping[str, str]) -> str:
    kept = own.kept.get(step.writes)
    if kept is not None:
        return _at(planned, step.writes, (kept.rows - 1) * kept.bytes)
    if step.keeps:
        return ports.get(step.writes) or _at(planned, step.writes, 0)
    return _whole(step.writes, network.tensors[step.writes].bytes // step.due.count, planned, ports)


def _gathered(own: Segment, step: Step, read: Read, planned: Plan, ports: Mapping[str, str]) -> str:
    """The arguments of nn_rows_from."""
    source = ports.get(read.tensor) or _at(planned, read.tensor, 0)
    top = f"row * {read.stride}" if read.stride > 1 else "row"
    top += f" - {read.pad}" if read.pad else ""
    patch = _at(planned, f"{read.tensor}[{step.layer}]", 0)
    return f"{source}, {own.height}, {own.row_bytes}, {top}, {read.extent}, {patch}, {read.fill}"


def _item(
    first: int,
    every: int,
    count: int,
    kept: Kept | None,
    planned: Plan,
    tensor: str,
    window: str,
    call: str,
    index: int | None,
) -> Item:
    if kept is None:
        return Item(first, every, count, count, "", "", 0, 0, None, window, call, index)
    at, behind = _at(planned, tensor, 0), (kept.rows - 1) * kept.bytes
    newest = _at(planned, tensor, behind)
    return Item(first, every, count, kept.until, at, newest, kept.bytes, behind, kept.fill, window, call, index)


def _pushed(own: Segment, planned: Plan) -> Item:
    kept = own.kept[own.source]
    newest = _at(planned, own.source, (kept.rows - 1) * kept.bytes)
    call = f"    nn_copy({newest}, pushed, {kept.bytes});"
    return _item(0, 1, own.height, kept, planned, own.source, "", call, None)
