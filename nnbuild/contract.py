"""The contract of one operator: everything that the stages need to know about it, in one frozen record.

A stage never asks for an operator by name. It walks the model, finds the record by the ONNX or layer name, and calls
what the record holds. A new operator is a new file in `nnbuild/ops` with a record, and its templates beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from onnx import NodeProto

from nnbuild import intervals
from nnbuild.intervals import Interval
from nnbuild.network import Array, Layer, Network, QuantParams, Tensor
from nnbuild.streams.sliding import Slides, never
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.lower import Lowering


# How the quantizer chooses the parameters of an operator's output.
@dataclass(frozen=True, slots=True)
class Calibrated:
    """From the range seen in calibration."""


@dataclass(frozen=True, slots=True)
class SameAsInput:
    """Those of an input: the operator moves, selects or clamps values."""

    index: int = 0


@dataclass(frozen=True, slots=True)
class Fixed:
    """By definition, such as softmax's 1/256 and -128."""

    quant: QuantParams


@dataclass(frozen=True, slots=True)
class Masked:
    """From the ranges of what is computed and what is known among the inputs, where that is no stand-in for infinity.

    A constant counts as infinite from `FAR` times the largest computed value on, since the computed values would have
    hardly a step left beside it. In front of a Softmax a constant counts for no less than `BELOW` under the smallest
    computed value: e^-8 is below its step of 1/256. What counts less saturates.
    """

    FAR: ClassVar[float] = 100.0
    BELOW: ClassVar[float] = 8.0


OutputRule = Calibrated | SameAsInput | Fixed | Masked


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a float node of this operator becomes QDQ.

    Input `weights` is a constant quantized to int8, symmetric, per channel along `weight_axis(node, shape)`;
    input `bias` is a constant int32 with scale input * weight. A clamp that alone reads the output of an operator with
    `fuses_clamp` is part of it: the Q/DQ pair goes behind the clamp. With `inputs_like_output` the operator works on
    one scale: inputs that nobody else reads are quantized with the parameters of its output. `parameters` are inputs
    that stay as they are, whatever their type: bounds, amounts, a fill value, what lowering turns into wider integers.

    Input `recurrent` is a constant that the operator multiplies with its own output, quantized as `weights` are. Input
    `cell` is the start of a value that it carries in 16 bits, with a scale that is a power of two: the range of that
    value is `<output>_cell` of `Operator.internals`.

    With `wide` input 0 (of operators without weights every input) and the output may be int16; others get an int8 copy
    of what is. `wide_output` is whether the output may be too.
    """

    output: OutputRule = Calibrated()
    weights: int | None = None
    weight_axis: Callable[[NodeProto, Sequence[int]], int] = lambda node, shape: 0
    bias: int | None = None
    fuses_clamp: bool = False
    inputs_like_output: bool = False
    parameters: frozenset[int] = frozenset()
    recurrent: int | None = None
    cell: int | None = None
    wide: bool = False
    wide_output: bool = True


class Order(Enum):
    """In which order a kernel has to write: `ANY`, or as its output lies over an input.

    `FORWARDS` as far below that input's start as the kernel asks for, `BACKWARDS` as far above it.
    """

    ANY = "any"
    FORWARDS = "forwards"
    BACKWARDS = "backwards"


@dataclass(frozen=True, slots=True)
class Overlap:
    """Where an output may lie over an input that nobody reads afterwards.

    It begins at least `below` bytes below the input (0: at its place), or at least `above` bytes above it. As long as
    they share memory the distance is a multiple of `step`.
    """

    below: int
    above: int
    step: int = 1


@dataclass(frozen=True, slots=True)
class LayerView:
    """A layer with its tensors at hand: what kernels and references work from.

    `order` is `ANY` until the memory is planned: only what a kernel renders and how often its loops run depend on it.
    """

    layer: Layer
    inputs: tuple[Tensor, ...]
    output: Tensor
    order: Order = Order.ANY

    @classmethod
    def of(cls, network: Network, layer: Layer) -> LayerView:
        """The view of `layer` in `network`."""
        return cls(layer, tuple(network.tensors[name] for name in layer.inputs), network.tensors[layer.output])

    @property
    def backwards(self) -> bool:
        """Whether a kernel has to begin at the end."""
        return self.order is Order.BACKWARDS

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of an element of the first input, and of the output."""
        return self.inputs[0].element_bytes, self.output.element_bytes

    @property
    def params(self) -> Any:
        """The layer's parameters, of the dataclass that its operator declares."""
        return self.layer.params

    @property
    def constants(self) -> Mapping[str, Array]:
        """The layer's constants by name."""
        return self.layer.constants


@dataclass(frozen=True, slots=True)
class Assembly:
    """A function in assembly that a kernel's C calls as `called.<name>`: `template` rendered with `values` into `.S`.

    Functions with equal templates and values are one function. Its symbol is that of the first layer's function with
    `_<name>` behind it. It has that many `instructions` of 16 bits; one of 32 bits counts twice. `runs` says how often
    the layer calls it in one inference ("call"), and how often each of its labels `.L<symbol>_<name>` is passed that a
    loop goes through: what `nnbuild.static_cost` tells cycles from. `unaligned` says the same for inputs that do not
    lie at a multiple of 4, where that matters.
    """

    template: str
    name: str
    returns: str
    parameters: tuple[str, ...]
    values: Mapping[str, Any]
    instructions: int
    runs: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    unaligned: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Source:
    """What a kernel contributes for one layer.

    `template` (in `nnbuild/ops` or `nnbuild/kernels`) is rendered with `values`, numbers and strings; `data` are the
    const arrays that it stores in flash, by name (int8, uint8, int16, uint16, int32 or uint32, one-dimensional when
    written); `includes` are further headers. A template may call any function of `nnbuild/csrc`: the emitter sees it.
    With `assembly` the C must do without it too: where the macro of the name in `assembly` is 0.
    """

    template: str
    values: Mapping[str, Any]
    data: Mapping[str, Array] = field(default_factory=dict)
    includes: tuple[str, ...] = ()
    assembly: tuple[Assembly, ...] = ()


def each_output(view: LayerView, target: Target) -> Mapping[str, int]:
    """The trips of a kernel with one loop, over the elements of its output."""
    return {"output": view.output.size}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to compute an operator. `supports` answers None, or the reason against.

    `library` names the library function that it calls, where it calls one.
    `trips` says how often each of the kernel's loops runs for a layer, by the loop's name; `nnbuild.cost` knows what
    a trip of each costs on a core. A kernel whose loops depend on constants reads them, and takes the most that they
    can make where they are placeholders; to the others only their shapes matter.
    `outruns_library` is whether it is to be taken before CMSIS-NN's kernel on a core, where the choice is ours.
    `overlap` says over which inputs, by position, the output may lie, and how: no write may reach a byte that the
    kernel reads later, in whatever form it is rendered for that order.
    """

    name: str
    render: Callable[[LayerView, Target], Source]
    supports: Callable[[LayerView, Target], str | None] = lambda view, target: None
    scratch: Callable[[LayerView, Target], int] = lambda view, target: 0
    trips: Callable[[LayerView, Target], Mapping[str, int]] = each_output
    library: Callable[[LayerView, Target], str | None] = lambda view, target: None
    outruns_library: Callable[[Target], bool] = lambda target: not target.dsp
    overlap: Callable[[LayerView, Target], Mapping[int, Overlap]] = lambda view, target: {}


@dataclass(frozen=True, slots=True)
class Run:
    """Elements `start` to `start + size` of input `input`, which are the output's from `place` on, as they are."""

    input: int
    start: int
    place: int
    size: int


@dataclass(frozen=True, slots=True)
class Case:
    """One test case: a layer in a network of its own, with inputs that reach its corners."""

    name: str
    network: Network
    inputs: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Channels:
    """How a layer of an operator loses channels of its tensors, positions along their last axis (`nnbuild.shrink`).

    `divides(view)`: whether the layer is of the form that the others take; no layer that is not loses a channel.
    `reads(view, kept, inputs)`: which channels of each input (with these intervals) are needed for the channels `kept`
    (bool) of the output. `without(view, inputs, sources, kept)`: parameters and constants of the layer whose inputs
    have the channels `sources` (bool, for each input) left, and whose output has the channels `kept`; what is missing
    and needed holds one value, which is in `inputs`. Where `tied`, output and inputs keep the same channels.
    """

    divides: Callable[[LayerView], bool]
    reads: Callable[[LayerView, Array, Sequence[Interval]], Sequence[Array]]
    without: Callable[[LayerView, Sequence[Interval], Sequence[Array], Array], tuple[Any, Mapping[str, Array]]]
    tied: bool = False


def tied(
    divides: Callable[[LayerView], bool],
    without: Callable[[LayerView, Array], tuple[Any, Mapping[str, Array]]],
) -> Channels:
    """Of operators whose output channel c comes of the inputs' channels c; `without(view, kept)`."""
    return Channels(
        divides,
        reads=lambda view, kept, inputs: [kept] * len(inputs),
        without=lambda view, inputs, sources, kept: without(view, kept),
        tied=True,
    )


@dataclass(frozen=True, slots=True)
class RowForm:
    """How a layer is computed row by row (`ram.rows`), from `inputs` rows of each input to `outputs` rows.

    They are made `rows` at a time. Those from row y * rows - skip on are what a layer of the operator with `params`,
    and the constants of the whole one, makes of `extent` rows, the first of which is row y * stride + first; rows that
    lie outside of the input hold `fill`. What is made outside of the output is not used. A layer that `keeps` has one
    output for all rows: its scratch lives from the first to the last of them, its function is told which call it is,
    and the last call makes the output.
    """

    inputs: int
    outputs: int
    params: Any
    extent: int = 1
    stride: int = 1
    pad: int = 0
    fill: int = 0
    keeps: bool = False
    rows: int = 1
    skip: int = 0

    @classmethod
    def of_elements(cls, count: int, together: int, params: Any) -> RowForm:
        """Of a layer that makes a row of each of `count` rows."""
        return cls(count, count, params, extent=together, stride=together, rows=together)

    @property
    def calls(self) -> int:
        """How often the layer is called."""
        return -(-(self.outputs + self.skip) // self.rows)

    @property
    def each(self) -> int:
        """By how many rows of the input a row of the output is behind the one before."""
        return self.stride // self.rows

    @property
    def first(self) -> int:
        """The first row of the input that the first call reads."""
        return -self.pad - self.skip * self.each

    @property
    def below(self) -> bool:
        """Whether the last row of the output needs padding below the input."""
        return (self.outputs - self.rows) * self.each - self.pad + self.extent > self.inputs


@dataclass(frozen=True, slots=True)
class Operator:
    """Everything about one operator.

    `onnx` are the ONNX types whose nodes `lower` turns into layers of this operator (or into views, which are no
    layers at all); `reference(params, constants, inputs)` takes int8 arrays in the shapes of the layer's tensors and
    its result is the meaning of the layer, bit for bit; `inplace` names the inputs whose memory the output may take
    with any kernel, when they die there and have its size (`Kernel.overlap` says more); `cases()` is the one table
    that tests and docs use.

    A layer that keeps something from one inference to the next says by `state` what that is when it starts, as bytes;
    `advance(params, constants, inputs, state)` then is the reference: the result and the state behind it. With
    `in_state` the result is that state, and its readers find it there; an input that `inplace` names may then lie at
    the beginning of it.
    `error(params)` is how many output steps a layer may be off from the float operator on the same (dequantized) input.
    `internals(node, values)` are float values inside of a node whose range calibration has to know, by name; `values`
    gives what a name of the float model stands for.

    What `nnbuild.shrink` asks: `bounds(view, inputs)`, the interval of the output from those of the inputs;
    `channels`, how channels are taken away, where they can be; `copies(view, inputs)`, whether the output is the first
    input for every input within these intervals; `behind(first, second)`, the constants with which `second`, a layer
    of this operator, also does what `first` in front of it does, or None. What `streams.over_time` asks: `slides(view,
    times)`, how a layer runs along time.

    `runs(view)` are what the output consists of where the layer does nothing but move whole runs of its inputs: memory
    may make it unnecessary (`ram.elision`).

    `rows(view, count, together)` is how a layer is computed row by row, so many of them `together`, None where it
    cannot be: `count` is of how many rows its inputs are, None where the layer itself has to say.
    """

    name: str
    summary: str
    onnx: tuple[str, ...]
    lower: Callable[[Lowering, NodeProto], None]
    quantization: Callable[[NodeProto], Quantization]
    params: type | None = None
    reference: Callable[[Any, Mapping[str, Array], Sequence[Array]], Array] | None = None
    macs: Callable[[LayerView], int] = lambda view: 0
    error: Callable[[Any], int] = lambda params: 1
    inplace: Callable[[LayerView], tuple[int, ...]] = lambda view: ()
    state: Callable[[LayerView], Array | None] = lambda view: None
    advance: Callable[[Any, Mapping[str, Array], Sequence[Array], Array], tuple[Array, Array]] | None = None
    in_state: bool = False
    internals: Callable[[NodeProto, Callable[[str], Array]], Mapping[str, Array]] = lambda node, values: {}
    bounds: intervals.Rule = lambda view, inputs: intervals.anything(view.output)
    channels: Channels | None = None
    copies: Callable[[LayerView, Sequence[Interval]], bool] = lambda view, inputs: False
    behind: Callable[[Layer, Layer], Mapping[str, Array] | None] = lambda first, second: None
    runs: Callable[[LayerView], tuple[Run, ...]] = lambda view: ()
    slides: Slides = never
    rows: Callable[[LayerView, int | None, int], RowForm | None] = lambda view, count, together: None
    kernels: tuple[Kernel, ...] = ()
    cases: Callable[[], Iterable[Case]] = lambda: ()
