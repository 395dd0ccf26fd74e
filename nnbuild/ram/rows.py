"""Layers that are computed row by row, through buffers of a few rows: which can be, when each row is due, what is kept.

A segment is a run of layers between tensors that are whole: its source, of which a row comes at each step or is read
where it lies, and its result, to which rows are written where they belong. A layer of it is an ordinary layer of the
same operator with other sizes (`contract.RowForm`): a convolution of 3 x 3 reads three rows and makes one. So all
kernels serve, constants are the same, and bits are equal by construction; nothing is computed twice.

Rows are computed as soon as their inputs are there, one or two at a time (`Way`), at a step that their number tells:
`first + row * every`. Padding is rows that hold the zero point and come at their own steps. A tensor keeps as many rows
as its readers reach back, and moves them up when some come: a hundredth of the cycles of a network, in exchange for
kernels that know nothing of rings. Or what is kept of it lies apart, and moves to a window for the readers alone: twice
the moves, but memory that all tensors of the segment share. Where branches meet, one may wait where that costs fewer
bytes of rows (`_timed`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from nnbuild.contract import LayerView, RowForm
from nnbuild.network import Layer, Network, Tensor
from nnbuild.ops import BY_NAME

PUSHED = "pushed rows"
"""The place in the arena of the word that counts the rows that the caller has pushed."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a segment goes: so many rows `together`, and what is kept `apart` from the windows that readers see."""

    together: int = 1
    apart: bool = False


class Run(NamedTuple):
    """Layers `first` to `last`, which are to go row by row."""

    first: int
    last: int
    way: Way = Way()


@dataclass(frozen=True, slots=True)
class Due:
    """Rows come `rows` at a time, from row y * rows - skip on at step `first + y * every`, for y < `count`."""

    first: int
    every: int
    count: int
    rows: int = 1
    skip: int = 0

    def newest(self, step: int) -> int:
        """The number of the last that came until the end of `step`, were there no end of rows."""
        return (step - self.first) // self.every

    def behind(self, step: int) -> int:
        """The row behind all that came until the end of `step`."""
        return (self.newest(step) + 1) * self.rows - self.skip

    @property
    def end(self) -> int:
        """The step behind the last."""
        return self.first + (self.count - 1) * self.every + 1


@dataclass(frozen=True, slots=True)
class Kept:
    """The rows that readers see of a tensor of `height`: `rows` of `bytes` each, of which the last ones are new.

    They come `until` times; what is beyond the tensor is padding, or nothing but steps on which the others move up.
    Rows outside of the tensor hold `fill`, None where nobody reads them; `above`: some are in front of it. Where
    `stays`, rows are needed at later steps than the one at which they come. These are kept `apart`, and the tensor is a
    window that lives from the layer that writes it to the last that reads it; or the tensor is all of them.
    """

    rows: int
    bytes: int
    height: int
    due: Due
    until: int
    fill: int | None
    above: bool
    stays: bool
    apart: bool

    @property
    def new(self) -> int:
        """Bytes that come at a step."""
        return self.due.rows * self.bytes

    @property
    def old(self) -> int:
        """Bytes that are there from the steps before."""
        return self.rows * self.bytes - self.new

    @property
    def beyond(self) -> int:
        """Bytes of the last that come that are beyond the tensor."""
        return (self.due.count * self.due.rows - self.due.skip - self.height) * self.bytes

    @property
    def held(self) -> int:
        """Bytes that are needed in the whole segment."""
        return (self.old if self.apart else self.rows * self.bytes) if self.stays else 0


@dataclass(frozen=True, slots=True)
class Read:
    """What a layer reads of `tensor` at its call y: `extent` rows.

    They lie `offset` bytes into the rows that are kept; of a source that is whole, `offset` is None, and they are those
    from row y * stride - pad on, which are `gathered` where some are outside.
    """

    tensor: str
    extent: int
    stride: int
    pad: int
    fill: int
    offset: int | None
    gathered: bool


@dataclass(frozen=True, slots=True)
class Step:
    """When a layer of a segment computes which rows, and from what; `keeps` as in `contract.RowForm`."""

    layer: str
    due: Due
    reads: tuple[Read, ...]
    writes: str
    keeps: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """Layers `first` to `last` of a network, row by row, in `length` steps.

    The rows of `source`, `height` of `row_bytes` each, are read where they lie, or are `pushed` by the caller. `homes`
    says to which tensor belongs what the layers read and write, `starts` at which byte of the rows that are kept of it.
    A result that begins `lead` bytes below the source may overwrite it, where nobody else reads that: its rows come
    behind those that are still to be read.
    """

    first: int
    last: int
    way: Way
    length: int
    source: str
    height: int
    row_bytes: int
    pushed: bool
    kept: Mapping[str, Kept]
    steps: tuple[Step, ...]
    homes: Mapping[str, str]
    starts: Mapping[str, int]
    lead: int

    @property
    def result(self) -> str:
        """The tensor that the segment writes."""
        return self.steps[-1].writes

    @property
    def lasting(self) -> tuple[str, ...]:
        """The tensors that are needed from its first layer to its last one, whatever step it is."""
        whole = (name for name, own in self.kept.items() if own.stays and not own.apart)
        return (self.source, self.result, *whole, *self.apart)

    @property
    def apart(self) -> tuple[str, ...]:
        """The tensors for what is kept apart."""
        return tuple(kept_of(name) for name, own in self.kept.items() if own.apart)

    @property
    def names(self) -> frozenset[str]:
        """Its layers."""
        return frozenset(step.layer for step in self.steps)

    @property
    def moved(self) -> int:
        """Bytes that move up in one inference."""
        return sum(own.until * own.old * (2 if own.apart else 1) for own in self.kept.values())

    @property
    def held(self) -> int:
        """Bytes of rows that are needed from step to step."""
        return sum(own.held for own in self.kept.values())

    def step(self, layer: str) -> Step:
        """That of a layer."""
        return next(step for step in self.steps if step.layer == layer)


def kept_of(tensor: str) -> str:
    """The tensor for what is kept of another, where that lies apart."""
    return f"{tensor} kept"


def streamed(network: Network, runs: Sequence[Run], pushed: bool = False) -> Network | None:
    """`network` with the layers of `runs` row by row; None where one of them cannot be.

    With `pushed` the rows of the model's input come from the caller, one by one, to the run that begins with it.
    """
    layers, tensors, segments = list(network.layers), dict(network.tensors), []
    for run in runs:
        found = segment(network, run, pushed and run.first == 0)
        if found is None:
            return None
        own, forms = found
        segments.append(own)
        for index, form in zip(range(run.first, run.last + 1), forms, strict=True):
            layers[index] = _by_row(network, own, network.layers[index], form, tensors)
    return replace(network, tensors=tensors, layers=tuple(layers), segments=tuple(segments))


def goes_by_rows(network: Network, first: int, last: int) -> bool:
    """Whether each of these layers goes by rows, and rows of one are those of the next; not so, with more layers."""
    layers = network.layers[first : last + 1]
    return _forms(network, layers, layers[0].inputs[0], 1) is not None


def segment(network: Network, run: Run, pushed: bool = False) -> tuple[Segment, list[RowForm]] | None:
    """The layers of `run` row by row, with their forms; None where they cannot be."""
    layers = network.layers[run.first : run.last + 1]
    source = layers[0].inputs[0]
    forms = _forms(network, layers, source, run.way.together)
    if forms is None or not _closed(network, run, source, pushed):
        return None
    flow = _timed(network, layers, forms, _Setting(source, pushed, run.way.apart))
    if flow is None:
        return None
    height = forms[0].inputs
    row_bytes = network.tensors[source].bytes // height
    homes, starts = _places(flow)
    own = Segment(
        first=run.first,
        last=run.last,
        way=run.way,
        length=max(step.due.end for step in flow.steps),
        source=source,
        height=height,
        row_bytes=row_bytes,
        pushed=pushed,
        kept=flow.kept,
        steps=tuple(flow.steps),
        homes=homes,
        starts=starts,
        lead=_lead(flow.steps, network.tensors[layers[-1].output].bytes, row_bytes),
    )
    return own, forms


def _places(flow: _Flow) -> tuple[dict[str, str], dict[str, int]]:
    """`Segment.homes` and `Segment.starts`."""
    homes: dict[str, str] = {}
    starts: dict[str, int] = {}
    for step in flow.steps:
        written = f"{step.writes}[{step.layer}]"
        homes[written] = step.writes
        if step.writes in flow.kept:
            starts[written] = flow.kept[step.writes].old
        for read in step.reads:
            name = f"{read.tensor}[{step.layer}]"
            homes[name] = name if read.gathered else read.tensor
            if read.offset is not None:
                starts[name] = read.offset
    return homes, starts


def _lead(steps: Sequence[Step], result: int, row_bytes: int) -> int:
    """How far the result, of so many bytes, has to begin below a source whose rows it overwrites."""
    last = steps[-1]
    readers = [(step.due, read) for step in steps for read in step.reads if read.offset is None]
    size, lead = result // last.due.count, 0
    for row in range(last.due.count if readers else 0):
        unread = min(_unread(due, read, last.due.first + row * last.due.every) for due, read in readers)
        written = result if last.keeps else (row + 1) * size
        lead = max(lead, written - unread * row_bytes)
    return lead


def _unread(due: Due, read: Read, step: int) -> int:
    """The first row of a whole source that a reader reads at `step` or later; beyond all where it reads no more."""
    row = max(0, -(-(step - due.first) // due.every))
    return max(0, row * read.stride - read.pad) if row < due.count else 2**40


def _forms(network: Network, layers: Sequence[Layer], source: str, together: int) -> list[RowForm] | None:
    """How each layer goes by rows; None where one does not, or rows of one are not those of the next."""
    counts: dict[str, int] = {}
    forms = []
    for layer in layers:
        view, operator = LayerView.of(network, layer), BY_NAME[layer.op]
        known = {counts[name] for name in layer.inputs if name in counts}
        form = operator.rows(view, next(iter(known), None), together)
        if form is None or known - {form.inputs} or operator.state(view) is not None:
            return None
        # Rows are whole bytes of a tensor, and nothing may be written beyond the result.
        if any(tensor.bytes % form.inputs for tensor in view.inputs):
            return None
        if (form.keeps and layer is not layers[-1]) or (layer is layers[-1] and _overruns(form)):
            return None
        counts |= {name: form.inputs for name in layer.inputs if name == source}
        counts[layer.output] = form.outputs
        forms.append(form)
    return _in_phase(layers, forms)


def _in_phase(layers: Sequence[Layer], forms: list[RowForm]) -> list[RowForm]:
    """The same, skipping rows where a reader then finds its last row last, so that none is kept that it needs later.

    Not where that takes one more call, nor in the last layer, whose rows are written where they belong.
    """
    for index in range(len(layers) - 2, -1, -1):
        name, own = layers[index].output, forms[index]
        needed = [form.first + form.extent for layer, form in zip(layers, forms, strict=True) if name in layer.inputs]
        shifted = replace(own, skip=-max(needed, default=0) % own.rows)
        forms[index] = shifted if shifted.calls == own.calls else own
    return forms


def _overruns(form: RowForm) -> bool:
    """Whether the last call makes more rows than there are."""
    return form.outputs % form.rows != 0 and not form.keeps


def _closed(network: Network, run: Run, source: str, pushed: bool) -> bool:
    """Whether nothing but the source comes in, and nothing but the last layer's output goes out.

    Nor may any of these tensors lie in another, or another in one of them (`ram.elision`): rows have other places.
    """
    layers = network.layers[run.first : run.last + 1]
    inside = {layer.output for layer in layers[:-1]}
    outside = [*network.layers[: run.first], *network.layers[run.last + 1 :]]
    wanted = {name for layer in outside for name in layer.inputs} | {port.tensor for port in network.outputs}
    read = {name for layer in layers for name in layer.inputs}
    written = {source} | {layer.output for layer in layers}
    if pushed and (source in wanted or [port.tensor for port in network.inputs] != [source]):
        return False
    if written & {*network.views, *(view.home for view in network.views.values())}:
        return False
    return read <= written and not inside & wanted and inside <= read


@dataclass(frozen=True, slots=True)
class _Flow:
    """When rows come and what is kept, with layers that wait as they do."""

    steps: list[Step]
    kept: dict[str, Kept]

    @property
    def bytes(self) -> int:
        """Of rows that stay."""
        return sum(own.held for own in self.kept.values())


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a flow is for: its source, whether that is pushed, and whether rows are kept apart."""

    source: str
    pushed: bool
    apart: bool


def _timed(network: Network, layers: Sequence[Layer], forms: Sequence[RowForm], setting: _Setting) -> _Flow | None:
    """The flow in which as few layers wait, and as few bytes of rows stay, as waiting one by one finds."""
    waits = dict.fromkeys(range(len(layers)), 0)
    best = _flow(network, layers, forms, setting, waits)
    if best is None or not any(len(layer.inputs) > 1 for layer in layers):
        return best
    improved = True
    while improved:
        improved = False
        for index, step in enumerate(best.steps):
            for wait in range(1, 4 * step.due.every + 1):
                found = _flow(network, layers, forms, setting, waits | {index: waits[index] + wait})
                if found is not None and found.bytes < best.bytes:
                    best, waits, improved = found, waits | {index: waits[index] + wait}, True
                    break
    return best


def _flow(
    network: Network,
    layers: Sequence[Layer],
    forms: Sequence[RowForm],
    setting: _Setting,
    waits: Mapping[int, int],
) -> _Flow | None:
    """All rows as soon as their inputs are there, and so many steps later."""
    due = {setting.source: _source(layers, forms, setting)}
    steps = []
    for index, (layer, form) in enumerate(zip(layers, forms, strict=True)):
        inputs = [due[name] for name in layer.inputs]
        rates = {divmod(form.stride * own.every, own.rows) for own in inputs}
        if len(rates) > 1:
            return None
        every, rest = rates.pop()
        if rest:
            return None
        ahead = form.first + form.extent - 1
        first = max(own.first + (ahead + own.skip) // own.rows * own.every for own in inputs) + waits[index]
        due[layer.output] = Due(first, every, form.calls, form.rows, form.skip)
        steps.append((layer, form, due[layer.output]))
    return _kept(network, steps, due, setting)


def _source(layers: Sequence[Layer], forms: Sequence[RowForm], setting: _Setting) -> Due:
    """One row at each step where it is pushed; of one that is whole as many as its readers go on by."""
    strides = [form.stride for layer, form in zip(layers, forms, strict=True) if setting.source in layer.inputs]
    height, rows = forms[0].inputs, 1 if setting.pushed else math.gcd(*strides)
    return Due(0, 1, -(-height // rows), rows)


def _kept(
    network: Network,
    steps: Sequence[tuple[Layer, RowForm, Due]],
    due: Mapping[str, Due],
    setting: _Setting,
) -> _Flow | None:
    kept: dict[str, Kept] = {}
    inside = [layer.output for layer, *_ in steps[:-1]]
    for name in [*([setting.source] if setting.pushed else []), *inside]:
        readers = [(form, own) for layer, form, own in steps if name in layer.inputs]
        found = _rows(network.tensors[name], due[name], readers)
        if found is None:
            return None
        in_step = all(own.every == due[name].every and not _waits(due[name], own) for _, own in readers)
        apart = setting.apart and found.stays and in_step and name != setting.source
        kept[name] = replace(found, apart=apart)
    return _Flow([_step(step, kept) for step in steps], kept)


def _rows(tensor: Tensor, due: Due, readers: Sequence[tuple[RowForm, Due]]) -> Kept | None:
    """What is kept of a tensor; None where readers want different padding."""
    reaches, fills, until = [], set(), due.count
    for form, own in readers:
        height = form.inputs
        reaches.append(form.extent + _behind(form, due, own))
        until = max(until, due.newest(own.end - 1) + 1)
        if form.pad > 0 or form.below:
            fills.add(form.fill)
    if len(fills) > 1:
        return None
    rows = max(*reaches, due.rows)
    # Rows that are used at their own step only can share memory with others.
    stays = rows > due.rows or any(_waits(due, own) for _, own in readers)
    above = any(form.pad > 0 for form, _ in readers)
    return Kept(rows, tensor.bytes // height, height, due, until, next(iter(fills), None), above, stays, False)


def _waits(due: Due, own: Due) -> bool:
    """Whether a reader runs at other steps than those at which rows come."""
    return (own.first - due.first) % due.every != 0


def _behind(form: RowForm, due: Due, own: Due) -> int:
    """How many rows come behind the last one that a reader needs until it runs."""
    return due.behind(own.first) - (form.first + form.extent)


def _step(step: tuple[Layer, RowForm, Due], kept: Mapping[str, Kept]) -> Step:
    layer, form, own = step
    reads = []
    for name in layer.inputs:
        offset = None
        if name in kept:
            offset = (kept[name].rows - form.extent - _behind(form, kept[name].due, own)) * kept[name].bytes
        end = (own.count - 1) * form.stride + form.first + form.extent
        gathered = offset is None and (form.first < 0 or end > form.inputs)
        reads.append(Read(name, form.extent, form.stride, -form.first, form.fill, offset, gathered))
    return Step(layer.name, own, tuple(reads), layer.output, form.keeps)


def _by_row(network: Network, own: Segment, layer: Layer, form: RowForm, tensors: dict[str, Tensor]) -> Layer:
    """`layer` for the rows of a call; what it reads and writes, and the rows that are kept, join `tensors`."""
    for name in dict.fromkeys(layer.inputs):
        kept, tensor = own.kept.get(name), network.tensors[name]
        if kept is not None:
            tensors[name] = _with_rows(tensor, name, form.inputs, kept.rows)
        if kept is not None and kept.apart:
            tensors[kept_of(name)] = _with_rows(tensor, kept_of(name), form.inputs, kept.rows - kept.due.rows)
        view = f"{name}[{layer.name}]"
        tensors[view] = _with_rows(tensor, view, form.inputs, form.extent)
    written = network.tensors[layer.output]
    view = f"{layer.output}[{layer.name}]"
    tensors[view] = replace(written, name=view) if form.keeps else _with_rows(written, view, form.outputs, form.rows)
    inputs = tuple(f"{name}[{layer.name}]" for name in layer.inputs)
    return replace(layer, inputs=inputs, output=view, params=form.params, times=form.calls)


def _with_rows(tensor: Tensor, name: str, height: int, rows: int) -> Tensor:
    """`tensor` of `height` rows with so many of them."""
    whole = tensor.shape[0] == height
    shape = (rows, *tensor.shape[1:]) if whole else (rows, tensor.size // height)
    return replace(tensor, name=name, shape=shape)
