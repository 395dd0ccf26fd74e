"""Layers that are computed row by row, through buffers of a few rows: which can be, when each row is due, what is kept.

A segment is a run of layers between tensors that are whole: its source, of which a row comes at each step or is read
where it lies, and its result, to which rows are written where they belong. A layer of it is an ordinary layer of the
same operator with other sizes (`contract.RowForm`): a convolution of 3 x 3 reads three rows and makes one. So all
kernels serve, constants are the same, and bits are equal by construction; nothing is computed twice.

Each row is computed as soon as its inputs are there, at a step that its number tells: `first + row * every`. Padding is
rows that hold the zero point and come at their own steps. A tensor keeps as many rows as its readers reach back, and
moves them up when one comes: a hundredth of the cycles of a network, in exchange for kernels that know nothing of
rings. Where branches meet, one may wait where that costs fewer bytes of rows (`_timed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nnbuild.contract import LayerView, RowForm
from nnbuild.network import Layer, Network, Tensor
from nnbuild.ops import BY_NAME

PUSHED = "pushed rows"
"""The place in the arena of the word that counts the rows that the caller has pushed."""


@dataclass(frozen=True, slots=True)
class Due:
    """Row y comes at step `first + y * every`, for y < `count`."""

    first: int
    every: int
    count: int

    def newest(self, step: int) -> int:
        """The last row that there is at the end of `step`, were there no end of rows."""
        return (step - self.first) // self.every

    @property
    def end(self) -> int:
        """The step behind the last row."""
        return self.first + (self.count - 1) * self.every + 1


@dataclass(frozen=True, slots=True)
class Kept:
    """The rows that a segment keeps of a tensor: `rows` of `bytes` each, the last one being the newest.

    Of `until` rows those from `due.count` on are padding, or nothing but steps on which the others move up. Rows
    outside of the tensor hold `fill`, None where nobody reads them; `above`: some are in front of it. Where `stays`,
    rows are needed at later steps than the one at which they come.
    """

    rows: int
    bytes: int
    due: Due
    until: int
    fill: int | None
    above: bool
    stays: bool


@dataclass(frozen=True, slots=True)
class Read:
    """What a layer reads of `tensor` for its row y: `extent` rows.

    They lie `offset` bytes into the rows that are kept; of a source that is whole, `offset` is None, and they are those
    from row y * stride - pad on.
    """

    tensor: str
    extent: int
    stride: int
    pad: int
    fill: int
    offset: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """When a layer of a segment computes which row, and from what; `keeps` as in `contract.RowForm`."""

    layer: str
    due: Due
    reads: tuple[Read, ...]
    writes: str
    keeps: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """Layers `first` to `last` of a network, row by row, in `length` steps.

    The rows of `source`, `height` of `row_bytes` each, are read where they lie, or are `pushed` by the caller. `homes`
    says to which tensor belongs what the layers read and write. A result that begins `lead` bytes below the source may
    overwrite it, where nobody else reads that: its rows come behind those that are still to be read.
    """

    first: int
    last: int
    length: int
    source: str
    height: int
    row_bytes: int
    pushed: bool
    kept: Mapping[str, Kept]
    steps: tuple[Step, ...]
    homes: Mapping[str, str]
    lead: int

    @property
    def result(self) -> str:
        """The tensor that the segment writes."""
        return self.steps[-1].writes

    @property
    def lasting(self) -> tuple[str, ...]:
        """The tensors that are needed from its first layer to its last one, whatever step it is."""
        return (self.source, self.result, *(name for name, own in self.kept.items() if own.stays))

    @property
    def names(self) -> frozenset[str]:
        """Its layers."""
        return frozenset(step.layer for step in self.steps)

    @property
    def moved(self) -> int:
        """Bytes that move up in one inference."""
        return sum(own.until * (own.rows - 1) * own.bytes for own in self.kept.values())

    def step(self, layer: str) -> Step:
        """That of a layer."""
        return next(step for step in self.steps if step.layer == layer)


def streamed(network: Network, runs: Sequence[tuple[int, int]], pushed: bool = False) -> Network | None:
    """`network` with the layers of `runs` (first, last) row by row; None where one of them cannot be.

    With `pushed` the rows of the model's input come from the caller, one by one, to the run that begins with it.
    """
    layers, tensors, segments = list(network.layers), dict(network.tensors), []
    for first, last in runs:
        found = segment(network, first, last, pushed and first == 0)
        if found is None:
            return None
        own, forms = found
        segments.append(own)
        for index, form in zip(range(first, last + 1), forms, strict=True):
            layers[index] = _by_row(network, own, network.layers[index], form, tensors)
    return replace(network, tensors=tensors, layers=tuple(layers), segments=tuple(segments))


def goes_by_rows(network: Network, first: int, last: int) -> bool:
    """Whether each of these layers goes by rows, and rows of one are those of the next; not so, with more layers."""
    layers = network.layers[first : last + 1]
    return _forms(network, layers, layers[0].inputs[0]) is not None


def segment(network: Network, first: int, last: int, pushed: bool = False) -> tuple[Segment, list[RowForm]] | None:
    """The layers `first` to `last` row by row, with their forms; None where they cannot be."""
    layers = network.layers[first : last + 1]
    source = layers[0].inputs[0]
    forms = _forms(network, layers, source)
    if forms is None or not _closed(network, first, last, source, pushed):
        return None
    flow = _timed(network, layers, forms, source, pushed)
    if flow is None:
        return None
    homes = {f"{layer.output}[{layer.name}]": layer.output for layer in layers}
    for step in flow.steps:
        for read in step.reads:
            # Rows of a whole source are gathered, where some are outside.
            name = f"{read.tensor}[{step.layer}]"
            homes[name] = name if read.offset is None and read.extent > 1 else read.tensor
    height = forms[0].inputs
    row_bytes = network.tensors[source].bytes // height
    length = max(step.due.end for step in flow.steps)
    lead = _lead(flow.steps, network.tensors[layers[-1].output].bytes, row_bytes)
    steps = tuple(flow.steps)
    return Segment(first, last, length, source, height, row_bytes, pushed, flow.kept, steps, homes, lead), forms


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


def _forms(network: Network, layers: Sequence[Layer], source: str) -> list[RowForm] | None:
    """How each layer goes by rows; None where one does not, or rows of one are not those of the next."""
    counts: dict[str, int] = {}
    forms = []
    for layer in layers:
        view, operator = LayerView.of(network, layer), BY_NAME[layer.op]
        known = {counts[name] for name in layer.inputs if name in counts}
        form = operator.rows(view, next(iter(known), None))
        if form is None or known - {form.inputs} or operator.state(view) is not None:
            return None
        # A window never lies in padding alone above the tensor, and rows are whole bytes of it.
        if form.pad >= form.extent or any(tensor.bytes % form.inputs for tensor in view.inputs):
            return None
        if form.keeps and layer is not layers[-1]:
            return None
        counts |= {name: form.inputs for name in layer.inputs if name == source}
        counts[layer.output] = form.outputs
        forms.append(form)
    return forms


def _closed(network: Network, first: int, last: int, source: str, pushed: bool) -> bool:
    """Whether nothing but the source comes in, and nothing but the last layer's output goes out.

    Nor may any of these tensors lie in another, or another in one of them (`nnbuild.elision`): rows have other places.
    """
    layers = network.layers[first : last + 1]
    inside = {layer.output for layer in layers[:-1]}
    outside = [*network.layers[:first], *network.layers[last + 1 :]]
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
        return sum(own.rows * own.bytes for own in self.kept.values() if own.stays)


def _timed(
    network: Network, layers: Sequence[Layer], forms: Sequence[RowForm], source: str, pushed: bool
) -> _Flow | None:
    """The flow in which as few layers wait, and as few bytes of rows stay, as waiting one by one finds."""
    waits = dict.fromkeys(range(len(layers)), 0)
    best = _flow(network, layers, forms, source, pushed, waits)
    if best is None or not any(len(layer.inputs) > 1 for layer in layers):
        return best
    improved = True
    while improved:
        improved = False
        for index, step in enumerate(best.steps):
            for wait in range(1, 4 * step.due.every + 1):
                found = _flow(network, layers, forms, source, pushed, waits | {index: waits[index] + wait})
                if found is not None and found.bytes < best.bytes:
                    best, waits, improved = found, waits | {index: waits[index] + wait}, True
                    break
    return best


def _flow(
    network: Network,
    layers: Sequence[Layer],
    forms: Sequence[RowForm],
    source: str,
    pushed: bool,
    waits: Mapping[int, int],
) -> _Flow | None:
    """Every row as soon as its inputs are there, and so many steps later."""
    due = {source: Due(0, 1, forms[0].inputs)}
    steps = []
    for index, (layer, form) in enumerate(zip(layers, forms, strict=True)):
        ahead = form.extent - 1 - form.pad
        rates = {due[name].every for name in layer.inputs}
        if len(rates) > 1:
            return None
        first = max(due[name].first + ahead * due[name].every for name in layer.inputs) + waits[index]
        due[layer.output] = Due(first, rates.pop() * form.stride, form.outputs)
        steps.append((layer, form, due[layer.output]))
    return _kept(network, steps, due, source, pushed)


def _kept(
    network: Network,
    steps: Sequence[tuple[Layer, RowForm, Due]],
    due: Mapping[str, Due],
    source: str,
    pushed: bool,
) -> _Flow | None:
    kept: dict[str, Kept] = {}
    inside = [layer.output for layer, *_ in steps[:-1]]
    for name in [*([source] if pushed else []), *inside]:
        readers = [(form, own) for layer, form, own in steps if name in layer.inputs]
        found = _rows(network.tensors[name], due[name], readers)
        if found is None:
            return None
        kept[name] = found
    return _Flow([_step(step, kept) for step in steps], kept)


def _rows(tensor: Tensor, due: Due, readers: Sequence[tuple[RowForm, Due]]) -> Kept | None:
    """What is kept of a tensor; None where readers want different padding."""
    reaches, fills, until = [], set(), due.count
    for form, own in readers:
        reaches.append(form.extent + _behind(form, due, own))
        until = max(until, due.newest(own.end - 1) + 1)
        below = (own.count - 1) * form.stride - form.pad + form.extent > due.count
        if form.pad > 0 or below:
            fills.add(form.fill)
    if len(fills) > 1:
        return None
    rows = max(reaches)
    # A row that is used at its own step only can share memory with others.
    stays = rows > 1 or any((own.first - due.first) % due.every for _, own in readers)
    above = any(form.pad > 0 for form, _ in readers)
    return Kept(
        rows, tensor.bytes // due.count, due, until if rows > 1 else due.count, next(iter(fills), None), above, stays
    )


def _behind(form: RowForm, due: Due, own: Due) -> int:
    """How many rows come between the last one that a reader's row needs, and that row."""
    return due.newest(own.first) - (form.extent - 1 - form.pad)


def _step(step: tuple[Layer, RowForm, Due], kept: Mapping[str, Kept]) -> Step:
    layer, form, own = step
    reads = []
    for name in layer.inputs:
        offset = None
        if name in kept:
            offset = (kept[name].rows - form.extent - _behind(form, kept[name].due, own)) * kept[name].bytes
        reads.append(Read(name, form.extent, form.stride, form.pad, form.fill, offset))
    return Step(layer.name, own, tuple(reads), layer.output, form.keeps)


def _by_row(network: Network, own: Segment, layer: Layer, form: RowForm, tensors: dict[str, Tensor]) -> Layer:
    """`layer` for one row; what it reads and writes, and the rows that are kept, join `tensors`."""
    for name in dict.fromkeys(layer.inputs):
        rows = own.kept[name].rows if name in own.kept else None
        if rows is not None:
            tensors[name] = _with_rows(network.tensors[name], name, form.inputs, rows)
        view = f"{name}[{layer.name}]"
        tensors[view] = _with_rows(network.tensors[name], view, form.inputs, form.extent)
    written = network.tensors[layer.output]
    view = f"{layer.output}[{layer.name}]"
    tensors[view] = replace(written, name=view) if form.keeps else _with_rows(written, view, form.outputs, 1)
    inputs = tuple(f"{name}[{layer.name}]" for name in layer.inputs)
    return replace(layer, inputs=inputs, output=view, params=form.params, times=form.outputs)


def _with_rows(tensor: Tensor, name: str, height: int, rows: int) -> Tensor:
    """`tensor` of `height` rows with so many of them."""
    whole = tensor.shape[0] == height
    shape = (rows, *tensor.shape[1:]) if whole else (rows, tensor.size // height)
    return replace(tensor, name=name, shape=shape)
