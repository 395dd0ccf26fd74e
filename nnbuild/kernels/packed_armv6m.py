"""Packed sums in assembly for ARMv6-M: one multiplication makes several products, in about 2.5 cycles each.

A sum of int8 products hardly needs 32 bits: how many it needs follows from the weights and is proved for all inputs.
Counted from the lowest that it can be, it is a field of `bits` bits without a sign. Each of up to six accumulators holds
one field at its lower end, and the bits above these ends, taken together as one string, hold further fields, which go
across from one accumulator to the next. A word of weights is what an input adds to an accumulator. All of this is
modulo 2^32: an accumulator with a later part of a field holds the field's earlier bits as well, shifted below that part,
and they are subtracted when the fields are taken out. So five accumulators make eight sums of 20 bits.

Words take 2 to 4 bytes for a weight of one byte. Eight low registers hold five words, the input, and the pointers to
inputs and words; accumulators are high registers. Beside the assembly stands the same in C for other compilers; sums
without a line in 32 bits (exact_requantize.py) are Horner words in C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.fixedpoint import wrap32
from nnbuild.kernels import horner, horner_armv6m
from nnbuild.kernels.armv6m import requantization
from nnbuild.kernels.exact_requantize import Form
from nnbuild.kernels.exact_requantize import requantization as scaling
from nnbuild.network import INT8_MAX, INT8_MIN, Array
from nnbuild.placeholder import is_placeholder, placeholder
from nnbuild.target import Target

PARAMETERS = (*horner_armv6m.ARRAYS, *horner_armv6m.SIZES)
ACCUMULATORS = ("r12", "lr", "r8", "r9", "r10", "r11")
"""Those that a function may change without saving them come first."""
AT_ONCE = 5
"""Words that one LDM loads."""
UNROLLED = 8
"""The most inputs that one pass of a loop takes."""
LEAST_BITS = 8
"""Of a field: no block then has more outputs than STRB can reach."""
TINY = 1500
"""The most weights of a layer for which words, which take more flash than weights, are worth their speed."""


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
    bits = max(((INT8_MAX - INT8_MIN) * largest).bit_length(), LEAST_BITS)

    def cycles(own: Packing) -> int:
        return own.blocks(outputs) * (taps * (3 + 3 * own.words + _loads(own.words)) + 40)

    found = []
    for words in range(1, min(len(ACCUMULATORS), outputs) + 1):
        blocks = -(-outputs // (words + words * (32 - bits) // bits))
        found.append(Packing(bits, words, max(-(-outputs // blocks), words)))
    return min(found, key=cycles)


def _loads(words: int) -> int:
    return -(-words // AT_ONCE)


def words(weights: Array, own: Packing) -> Array:
    """(channels, taps) int8 -> int32, flat: for each block what accumulators start with, then words of each tap."""
    outputs, taps = weights.shape
    blocks = own.blocks(outputs)
    if is_placeholder(weights):
        return placeholder((blocks * (taps + 1) * own.words,), np.int32)
    padded = np.zeros((blocks * own.channels, taps), np.int64)
    padded[:outputs] = weights
    lowest = np.minimum(padded * INT8_MIN, padded * INT8_MAX).sum(axis=1)
    columns = np.concatenate([-lowest[:, None], padded], axis=1).reshape(blocks, own.channels, -1)
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


def supports(view: LayerView, target: Target) -> str | None:
    """ARMv6-M, with its assembly wanted, and few weights."""
    count = view.constants["weights"].size
    return horner_armv6m.supports(view, target) or (f"{count} weights are more than {TINY}" if count > TINY else None)


def fully_connected(view: LayerView, target: Target) -> Source:
    """A fully connected layer."""
    params, weights = view.params, view.constants["weights"]
    line, constants = scaling(view, weights, params.input_zero_point, target, from_lowest=True)
    if line is None:
        return horner.fully_connected(view, target)
    own = packing(weights)
    pieces = own.pieces()
    passes, unrolled, tail = _split(params.inputs)
    form: dict[str, Any] = {
        "line": line,
        "low": params.activation_min,
        "accumulators": ACCUMULATORS[: own.words],
        "fields": unpacking(pieces, own.bits),
        "flat": passes == 1,
        "unrolled": unrolled,
        "tail": tail,
        "rest": params.outputs % own.channels,
        "once": params.outputs == own.channels,
    }
    dot = Assembly("packed_armv6m.S.j2", "dot", "void", PARAMETERS, form, _instructions(**form))
    values = {"p": params, "line": line, "own": own, "pieces": pieces, "length": passes * unrolled}
    data = {"weights": words(weights, own), **constants}
    return Source("packed_fully_connected.c.j2", values, data, assembly=(dot,))


def _split(inputs: int) -> tuple[int, int, int]:
    return (1, inputs, 0) if inputs <= horner_armv6m.FLAT else horner_armv6m.split(inputs, UNROLLED)


def _instructions(
    line: Form,
    low: int,
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
    outputs = sum(len(lines) for lines, _ in fields) + len(fields) * (requantization(line, low) + 1)
    return around + block + (unrolled + tail) * (2 + loads + 2 * count) + outputs


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of packed_armv6m.S.j2, and that over rows; `word` is one addition to an accumulator."""
    params, packed = view.params, packing(view.constants["weights"])
    blocks = params.rows * packed.blocks(params.outputs)
    inputs = blocks * params.inputs
    own = {"block": blocks, "pass": blocks * _split(params.inputs)[0], "output": view.output.size}
    return {**own, "input": inputs, "load": inputs * _loads(packed.words), "word": inputs * packed.words}
