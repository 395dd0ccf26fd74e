"""Horner words (see horner.py) in assembly for ARMv6-M: 17 cycles for four multiplications, where a compiler takes 27.

Eight low registers hold exactly what the innermost step needs: four sums, the input, the word, its shifted copy and the
pointer to words; the rest lives in high registers. The assembly computes one window, or one row of a fully connected
layer; C finds the windows. It is for GNU assemblers; beside it stands the same in C for other compilers, and
for sums without a line in 32 bits (exact_requantize.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.kernels import horner
from nnbuild.target import Target

FLAT = 32
"""Inputs of a window up to which all of them are written one after the other."""
UNROLLED, SUMMED = 32, 8
"""The most inputs that one pass of a loop takes: in the main loop, and where inputs are added up."""
GROUPED = 24
"""The same where one pass takes several short rows."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How the inputs of a window of `rows` rows are walked.

    `kind` is "flat", all in one piece; "groups", `group` rows a pass; or "passes", where each row is `passes` times
    `unrolled` inputs and a `tail`. `sum_...` are the same for adding the inputs up.
    """

    kind: str
    rows: int
    length: int
    group: int
    passes: int
    unrolled: int
    tail: int
    sum_passes: int
    sum_unrolled: int
    sum_tail: int


def walk(rows: int, length: int) -> Walk:
    """The walk over `rows` rows of `length` inputs."""
    passes, unrolled, tail = _split(length, UNROLLED)
    found = Walk("passes", rows, length, 1, passes, unrolled, tail, *_split(length, SUMMED))
    if rows * length <= FLAT:
        return replace(found, kind="flat")
    if 2 * length <= GROUPED:
        group = max(count for count in range(1, GROUPED // length + 1) if rows % count == 0)
        return replace(found, kind="groups", group=group)
    return found


def _split(length: int, most: int) -> tuple[int, int, int]:
    """(passes, inputs of each, inputs left over) with few of these, and as many as possible in a pass."""
    if length <= most:
        return 1, length, 0
    unrolled = min(range(most, most // 2, -1), key=lambda count: length % count)
    return length // unrolled, unrolled, length % unrolled


def supports(view: LayerView, target: Target) -> str | None:
    """ARMv6-M, with its assembly wanted."""
    if not target.armv6m:
        return "its assembly is for ARMv6-M"
    return None if target.assembly else "assembly is switched off"


def supports_conv2d(view: LayerView, target: Target) -> str | None:
    """The same, and all channels must see the same inputs."""
    return supports(view, target) or horner.supports_conv2d(view, target)


def conv2d(view: LayerView, target: Target) -> Source:
    """A conv2d layer without groups."""
    rows, columns = view.params.window.kernel
    return _assembled(horner.conv2d(view, target), rows, columns * view.params.window.input[2], view.params.channels)


def conv2d_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_armv6m.S.j2, and those of C around it."""
    from nnbuild.ops.conv2d import gathered, place_trips

    place = view.params.window
    own = _trips(walk(place.kernel[0], place.kernel[1] * place.input[2]), place.pixels, view.params.channels)
    return {**own, **place_trips(place, gathered(place))}


def fully_connected_trips(view: LayerView, target: Target) -> dict[str, int]:
    """The loops of horner_armv6m.S.j2, and that over rows."""
    return _trips(walk(1, view.params.inputs), view.params.rows, view.params.outputs)


def _trips(found: Walk, windows: int, channels: int) -> dict[str, int]:
    blocks, inputs = windows * -(-channels // 4), found.rows * found.length
    trips = {"window": windows, "input": windows * inputs, "block": blocks, "word": blocks * inputs}
    if found.kind == "groups":
        trips["pass"] = blocks * found.rows // found.group
    if found.kind == "passes":
        trips |= {"pass": blocks * found.rows * found.passes, "row": blocks * found.rows}
    return {**trips, "output": windows * channels}


def fully_connected(view: LayerView, target: Target) -> Source:
    """A fully connected layer."""
    return _assembled(horner.fully_connected(view, target), 1, view.params.inputs, view.params.outputs)


def _assembled(source: Source, rows: int, length: int, channels: int) -> Source:
    """The C of `source` with its windows computed in assembly, where the sums have a line."""
    if source.values["line"] is None:
        return source
    parameters = ["const int8_t *window", "int8_t *output", "const int32_t *weights", "const int32_t *scaling"]
    parameters += ["int32_t row"] if rows > 1 else []
    values = {**source.values, "walk": walk(rows, length), "channels": channels}
    return replace(source, values=values, assembly=Assembly("horner_armv6m.S.j2", "window", tuple(parameters)))
