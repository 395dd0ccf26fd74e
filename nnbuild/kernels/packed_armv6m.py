"""Packed sums in assembly for ARMv6-M: one multiplication makes several products, in about three cycles each.

A sum of int8 products hardly needs 32 bits: how many it can need follows from the weights, for any inputs. Counted from
the lowest that it can be, it is a field of `bits` bits without a sign. Each of up to six accumulators holds one field
at its lower end, and the bits above these ends, taken together as one string, hold further fields, which go across from
one accumulator to the next: five accumulators make eight sums of 20 bits. A word of weights is what an input adds to an
accumulator. All of this is modulo 2^32: an accumulator with a later part of a field holds the field's earlier bits as
well, shifted below that part, and they are subtracted when the fields are taken out.

Words take 2 to 4 bytes for a weight of one byte. Eight low registers hold five words, the input, and the pointers to
inputs and words; accumulators are high registers. Beside the assembly stands the same in C for other compilers; sums
without a line in 32 bits (exact_requantize.py) are Horner words in C. Outputs of int16 are made by a product of
64 bits from halves (`wide`, wide_requantize.py); inputs are bytes in any case, sums of int16 leave no bits to others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.fixedpoint import wrap32
from nnbuild.kernels import horner, horner_armv6m, wide_requantize
from nnbuild.kernels.armv6m import by_product, channel, limits
from nnbuild.kernels.exact_requantize import Form
from nnbuild.kernels.exact_requantize import requantization as scaling
from nnbuild.kernels.wide_requantize import Upper
from nnbuild.network import INT8_MAX, INT8_MIN, Array
from nnbuild.placeholder import is_placeholder, placeholder
from nnbuild.target import Target

if TYPE_CHECKING:
    from nnbuild.ops.spatial import Window

ACCUMULATORS = ("r12", "lr", "r8", "r9", "r10", "r11")
"""Those that a function may change without saving them come first."""
AT_ONCE = 5
"""Words that one LDM loads."""
FLAT, UNROLLED, COPIED = 16, 8, 8
"""Inputs up to which all of them are written one after the other; the most that one pass of a loop takes, and of one
that copies."""
GATHER = ("const int8_t *window", "int8_t *patch", "int32_t length", "int32_t skip", "int32_t rows")
LEAST_BITS, MOST_BITS = 8, 31
"""Of a field: no block then has more outputs than STRB can reach, and sums that need more have no line."""


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bits of the field of `channel`, from bit `low` on, at bit `at` of an accumulator."""

    channel: int
    at: int
    low: int
    size: int


@dataclass(frozen=True, slots=True)
class Packing:
    """Blocks of up to `channels` outputs, whose fields of `bits` bits lie in `words` accumulators."""

    bits: int
    words: int
    channels: int

    def pieces(self) -> tuple[tuple[Piece, ...], ...]:
        """Those in each accumulator. Channels are numbered in the order in which their last bits come."""
        bits, spare = self.bits, 32 - self.bits
        split = self.channels - self.words
        found = []
        for word in range(self.words):
            first, end = word * spare, (word + 1) * spare
            pieces = [Piece(word + min(split, first // bits), 0, 0, bits)]
            for index in range(split):
                low, high = max(index * bits, first), min((index + 1) * bits, end)
                if low < high:
                    last = ((index + 1) * bits - 1) // spare
                    pieces.append(Piece(last + 1 + index, bits + low - first, low - index * bits, high - low))
            found.append(tuple(pieces))
        return tuple(found)

    def blocks(self, outputs: int) -> int:
        """How many there are."""
        return -(-outputs // self.channels)


def packing(weights: Array) -> Packing:
    """The fastest for weights (channels, taps); where they are not known, for the largest that there are."""
    outputs, taps = weights.shape
    largest = 128 * taps if is_placeholder(weights) else int(np.abs(weights.astype(np.int64)).sum(axis=1).max())
    bits = min(max(((INT8_MAX - INT8_MIN) * largest).bit_length(), LEAST_BITS), MOST_BITS)

    def cycles(own: Packing) -> int:
        return int(own.blocks(outputs) * (taps * (3 + 3 * own.words + _loads(own.words)) + 40))

    found = []
    for words in range(1, min(len(ACCUMULATORS), outputs) + 1):
        blocks = -(-outputs // _fields(bits, words))
        channels = max(-(-outputs // blocks), words)
        # With room to spare fields are as wide as it allows, so that more layers share their code.
        widest = max(wide for wide in range(bits, 32) if _fields(wide, words) >= channels)
        found.append(Packing(widest, words, channels))
    return min(found, key=cycles)


def _fields(bits: int, words: int) -> int:
    """How many fields of `bits` bits accumulators hold."""
    return words + words * (32 - bits) // bits


def _loads(words: int) -> int:
    return -(-words // AT_ONCE)


def words(weights: Array, own: Packing, raised: int = 0) -> Array:
    """(channels, taps) int8 -> int32, flat: for each block what accumulators start with, then words of each tap.

    Kernels add `raised` to each input.
    """
    outputs, taps = weights.shape
    blocks = own.blocks(outputs)
    if is_placeholder(weights):
        return placeholder((blocks * (taps + 1) * own.words,), np.int32)
    padded = np.zeros((blocks * own.channels, taps), np.int64)
    padded[:outputs] = weights
    lowest = np.minimum(padded * INT8_MIN, padded * INT8_MAX).sum(axis=1)
    start = -lowest - raised * padded.sum(axis=1)
    columns = np.concatenate([start[:, None], padded], axis=1).reshape(blocks, own.channels, -1)
    places = np.zeros((own.words, own.channels), np.int64)
    for word, pieces in enumerate(own.pieces()):
        for piece in pieces:
            places[word, piece.channel] = 1 << piece.at - piece.low
    return np.asarray(wrap32(places @ columns).transpose(0, 2, 1).astype(np.int32).ravel())


def unpacking(pieces: Sequence[Sequence[Piece]], bits: int) -> list[tuple[list[str], str]]:
    """For each channel the instructions behind those of the one before, and the register that holds its field then.

    Nothing else may change r0 (an accumulator), r1 (a field of which only earlier bits are known) and accumulators.
    """
    found: list[tuple[list[str], str]] = []
    lines: list[str] = []
    for accumulator, (_, *above) in zip(ACCUMULATORS, pieces, strict=False):
        lines.append(f"mov     r0, {accumulator}")
        if above and above[0].low:
            lines += [f"lsls    r2, r1, #{above[0].at - above[0].low}", "subs    r0, r0, r2"]
        if above:
            lines += [f"lsls    r2, r0, #{32 - bits}", f"lsrs    r2, r2, #{32 - bits}"]
        found.append((lines, "r2" if above else "r0"))
        lines = []
        for piece in above:
            lines += _taken(piece, piece is above[-1])
            if piece.low + piece.size == bits:
                found.append((lines, "r1"))
                lines = []
    return found


def _taken(piece: Piece, last: bool) -> list[str]:
    """A piece from r0 into r1; above the last one there is nothing."""
    to, unused = "r2" if piece.low else "r1", 0 if last else 32 - piece.at - piece.size
    lines = [f"lsls    {to}, r0, #{unused}"] if unused else []
    lines.append(f"lsrs    {to}, {to if unused else 'r0'}, #{piece.at + unused}")
    return [*lines, *([f"lsls    r2, r2, #{piece.low}", "adds    r1, r1, r2"] if piece.low else [])]


def in_place(place: Window) -> bool:
    """Whether every window is one piece of the input: it is then read there, else in a patch of unsigned bytes."""
    return place.kernel[0] == 1 and not place.gathers


def scratch(view: LayerView, target: Target) -> int:
    """The patch of a convolution."""
    return 0 if in_place(view.params.window) else horner_armv6m.scratch(view, target)


def conv2d(view: LayerView, target: Target) -> Source:
    """A conv2d layer without groups."""
    place: Window = view.params.window
    raised = 0 if in_place(place) else 128
    source = _source("packed_conv2d.c.j2", view, target, view.params.channels, place.pixels, raised)
    return horner.conv2d(view, target, raised) if source is None else _over_windows(source, view)


def supports_wide(view: LayerView, target: Target) -> str | None:
    """As horner_armv6m.py; and int8 inputs, whose sums are fields of no more bits than there are."""
    if view.inputs[0].quant.wide:
        return "its input is int16"
    taps = view.constants["weights"].size // view.params.channels
    if (INT8_MAX - INT8_MIN) * -INT8_MIN * taps >= 1 << MOST_BITS:
        return "its sums are too long"
    return horner_armv6m.supports_conv2d(view, target)


def wide(view: LayerView, target: Target) -> Source:
    """A layer with int8 inputs and int16 outputs (`wide_conv2d`) without groups."""
    place, outputs = view.params.window, view.params.channels
    raised = 0 if in_place(place) else 128
    weights = view.constants["weights"].reshape(outputs, -1)
    upper, own = wide_requantize.requantization(view, weights, from_lowest=True)
    form = {"line": None, "upper": upper, "limits": limits(upper), "result": f"{view.output.dtype}_t"}
    constants = {"scaling": own.ravel()}
    source = _packed("packed_conv2d.c.j2", view, weights, place.pixels, raised, form, constants)
    return _over_windows(source, view)


def _over_windows(source: Source, view: LayerView) -> Source:
    """The C of `source` with its window found, or copied into a patch."""
    place, raised = view.params.window, source.values["raised"]
    values = {"w": place, "gathers": place.gathers, "copied": 0, "backwards": view.backwards}
    if not raised:
        return replace(source, values={**source.values, **values})
    own, values["copied"] = _gather(place)
    return replace(source, values={**source.values, **values}, assembly=(own, *source.assembly))


def _gather(place: Window) -> tuple[Assembly, int]:
    """What copies windows into a patch, and how many bytes of a row its loop takes; it is told so."""
    passes, unrolled, tail = horner_armv6m.split(place.kernel[1] * place.input[2], COPIED)
    values, instructions = {"unrolled": unrolled, "tail": tail}, 17 + 4 * (unrolled + tail) + (tail > 0)
    rows = place.pixels * place.kernel[0]
    runs = {"call": place.pixels, "row": rows, "pass": rows * passes}
    own = Assembly("packed_gather_armv6m.S.j2", "gather", "int32_t", GATHER, values, instructions, runs)
    return own, passes * unrolled


def fully_connected(view: LayerView, target: Target) -> Source:
    """A fully connected layer."""
    source = _source("packed_fully_connected.c.j2", view, target, view.params.outputs, view.params.rows)
    return horner.fully_connected(view, target) if source is None else source


def _source(
    template: str, view: LayerView, target: Target, outputs: int, windows: int, raised: int = 0
) -> Source | None:
    """Sums and outputs of one row or window, in C and in assembly; None without a line."""
    weights = view.constants["weights"].reshape(outputs, -1)
    line, constants = scaling(view, weights, view.params.input_zero_point, target, from_lowest=True)
    if line is None:
        return None
    form = {"line": line, "upper": None, "limits": (), "result": "int8_t"}
    return _packed(template, view, weights, windows, raised, form, constants)


def _packed(
    template: str,
    view: LayerView,
    weights: Array,
    windows: int,
    raised: int,
    output: Mapping[str, Any],
    constants: Mapping[str, Array],
) -> Source:
    """The same for a way in which sums become outputs."""
    own, outputs = packing(weights), len(weights)
    pieces = own.pieces()
    passes, unrolled, tail = _split(weights.shape[1])
    form: dict[str, Any] = {
        **output,
        "low": view.params.activation_min,
        "unsigned": raised > 0,
        "accumulators": ACCUMULATORS[: own.words],
        "fields": unpacking(pieces, own.bits),
        "flat": passes == 1,
        "unrolled": unrolled,
        "tail": tail,
        "rest": outputs % own.channels,
        "once": outputs == own.channels,
    }
    runs = {"call": windows, "block": windows * own.blocks(outputs)}
    if passes > 1:
        runs["pass"] = runs["block"] * passes
    arrays = ("const int8_t *inputs", f"{output['result']} *output", *horner_armv6m.ARRAYS[2:])
    parameters = (*arrays, *horner_armv6m.SIZES)
    dot = Assembly("packed_armv6m.S.j2", "dot", "void", parameters, form, _instructions(**form), runs)
    size = (output["upper"] or output["line"]).size
    values = {
        "p": view.params,
        "line": output["line"],
        "upper": output["upper"],
        "size": size,
        "own": own,
        "pieces": pieces,
        "raised": raised,
        "result": output["result"],
    }
    values |= {"length": passes * unrolled, "outputs": outputs}
    return Source(template, values, {"weights": words(weights, own, raised), **constants}, assembly=(dot,))


def _split(inputs: int) -> tuple[int, int, int]:
    return (1, inputs, 0) if inputs <= FLAT else horner_armv6m.split(inputs, UNROLLED)


def _instructions(
    line: Form | None,
    upper: Upper | None,
    limits: Sequence[str],
    result: str,
    low: int,
    unsigned: bool,
    accumulators: Sequence[str],
    fields: Sequence[tuple[Sequence[str], str]],
    flat: bool,
    unrolled: int,
    tail: int,
    rest: int,
    once: bool,
) -> int:
    """Of packed_armv6m.S.j2."""
    count = len(accumulators)
    saved, loads = max(count - 2, 0), _loads(count)
    around = 5 + 2 * saved + 2 * (saved > 0) + 3 * (not flat)
    block = 1 + loads + count + (not flat or tail > 0) + 4 * (not flat) + 2 + (0 if once else 10)
    output = by_product(upper) if upper else channel(line, low) if line else 0
    outputs = sum(len(lines) for lines, _ in fields) + len(fields) * (output + 1)
    return around + block + (unrolled + tail) * (2 - unsigned + loads + 2 * count) + outputs


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of packed_armv6m.S.j2 and gather_armv6m.S.j2, and those of C around them."""
    place: Window = view.params.window
    rows, columns = place.kernel
    own = _trips(view, view.constants["weights"].reshape(view.params.channels, -1), place.pixels)
    copied = {"row": place.pixels * rows, "copied": place.pixels * rows * columns * place.input[2]}
    read = {"signed_input": own["input"]} if in_place(place) else copied
    return {**own, **read, **place.trips(place.gathered)}


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of packed_armv6m.S.j2."""
    return _trips(view, view.constants["weights"], view.params.rows)


def _trips(view: LayerView, weights: Array, windows: int) -> dict[str, int]:
    """`load` is one LDM, `word` one addition to an accumulator; outputs on both sides of zero have a step more."""
    (outputs, taps), packed = weights.shape, packing(weights)
    blocks = windows * packed.blocks(outputs)
    inputs = blocks * taps
    params = view.params
    narrow = not view.output.quant.wide
    two_sided = narrow and params.activation_min < params.output_zero_point < params.activation_max
    output = {"two_sided_output" if two_sided else "output": windows * outputs}
    own = {"block": blocks, "pass": blocks * _split(taps)[0], **output}
    return {**own, "input": inputs, "load": inputs * _loads(packed.words), "word": inputs * packed.words}
