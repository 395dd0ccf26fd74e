"""The C of a segment that goes row by row: one function, which does what is due at a step (templates/rows.c.j2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace

from nnbuild.network import Network
from nnbuild.ram.memory import Plan
from nnbuild.ram.rows import PUSHED, Kept, Read, Segment, Step, kept_of


@dataclass(frozen=True, slots=True)
class Item:
    """What a step may have to do: rows that come, `bytes` at a time, and what makes them. Texts are C.

    What is there from the steps before, `moved` bytes, moves up in front of them, or comes from `apart` and goes there.
    The last bytes, as many, begin at `from_`. `index` is that of the layer. `outside` are the calls that make rows
    outside of the tensor where padding has to be, with place and bytes of these.
    """

    first: int
    every: int
    count: int
    until: int
    call: str
    index: int | None = None
    window: str = ""
    at: str = ""
    from_: str = ""
    newest: str = ""
    bytes: int = 0
    moved: int = 0
    apart: str = ""
    fill: int | None = None
    outside: tuple[tuple[int, str, int], ...] = ()


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
    together: int
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
        window = next((read for read in step.reads if read.gathered), None)
        text = _gathered(own, step, window, planned, ports) if window else ""
        due = step.due
        item = Item(due.first, due.every, due.count, due.count, calls[step.layer], index, text)
        items.append(_with_rows(item, kept.get(step.writes), step.writes, planned))
    used = [str(value) for item in items for value in astuple(item)]
    memory = [name for name in ("arena", "state") if any(f"&{name}[" in text for text in used)]
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
        together=own.way.together,
        filled=tuple(
            (_at(planned, kept_of(tensor) if rows.apart else tensor, 0), rows.fill, rows.held, tensor)
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
    if read.gathered:
        return "window"
    return _whole(read.tensor, read.stride * own.row_bytes, planned, ports)


def _written(network: Network, own: Segment, step: Step, planned: Plan, ports: Mapping[str, str]) -> str:
    kept = own.kept.get(step.writes)
    if kept is not None:
        return _at(planned, step.writes, kept.old)
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


def _with_rows(item: Item, kept: Kept | None, tensor: str, planned: Plan) -> Item:
    """`item` with the rows of the tensor that it writes, where some of these are kept."""
    if kept is None:
        return item
    end, skipped = kept.rows * kept.bytes - kept.beyond, kept.due.skip * kept.bytes
    outside = ((0, kept.old, skipped), (kept.due.count - 1, end, kept.beyond))
    return replace(
        item,
        until=kept.until,
        at=_at(planned, tensor, 0),
        from_=_at(planned, tensor, kept.new),
        newest=_at(planned, tensor, kept.old),
        bytes=kept.new,
        moved=kept.old,
        apart=_at(planned, kept_of(tensor), 0) if kept.apart else "",
        fill=kept.fill,
        outside=tuple(
            (call, _at(planned, tensor, at), size) for call, at, size in outside if size and kept.fill is not None
        ),
    )


def _pushed(own: Segment, planned: Plan) -> Item:
    kept = own.kept[own.source]
    call = f"    nn_copy({_at(planned, own.source, kept.old)}, pushed, {kept.bytes});"
    return _with_rows(Item(0, 1, own.height, own.height, call), kept, own.source, planned)
