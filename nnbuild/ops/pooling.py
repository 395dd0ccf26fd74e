"""How the kernels of pools go over a window that lies wholly in the input (pool_window.c.j2)."""

from __future__ import annotations

from dataclasses import dataclass

from nnbuild.kernels.horner_armv6m import split
from nnbuild.ops.spatial import Window

FLAT, UNROLLED = 9, 4
"""The most values of a window that stand one behind the other, and of one pass of a loop."""


@dataclass(frozen=True, slots=True)
class Walk:
    """`rows` times `passes` over the values at `offsets`, then those at `rest`; all in elements from a moving pointer.

    It moves by `step` behind a pass, and by `skip` behind a row.
    """

    rows: int
    passes: int
    offsets: tuple[int, ...]
    step: int
    rest: tuple[int, ...]
    skip: int

    @property
    def taps(self) -> int:
        """Values of a window."""
        return self.rows * (self.passes * len(self.offsets) + len(self.rest))


def walk(place: Window) -> Walk:
    """Small windows value by value; rows that lie one behind the other in memory as one; the others row by row."""
    rows, columns = place.kernel
    step, row = place.dilation[1] * place.input[2], place.dilation[0] * place.input[1] * place.input[2]
    if rows * columns <= FLAT:
        return Walk(1, 1, tuple(v * row + u * step for v in range(rows) for u in range(columns)), 0, (), 0)
    if row == columns * step or rows == 1:
        rows, columns = 1, rows * columns
    passes, unrolled, rest = split(columns, UNROLLED)
    moved = step * unrolled * (passes if passes > 1 else 0)
    behind = 0 if passes > 1 else unrolled
    return Walk(
        rows=rows,
        passes=passes,
        offsets=tuple(u * step for u in range(unrolled)),
        step=step * unrolled,
        rest=tuple((behind + u) * step for u in range(rest)),
        skip=row - moved,
    )


def window_trips(place: Window, lanes: int = 1) -> dict[str, int]:
    """The loops of pool_window.c.j2, where `lanes` channels are taken at a time."""
    blocks = -(-place.input[2] // lanes)
    if place.padded:
        rows, columns = place.clipped()
        return {"clipped_row": rows * place.output[1] * blocks, "clipped_tap": rows * columns * blocks}
    own = walk(place)
    windows = place.pixels * blocks
    return {
        "row": windows * own.rows if own.rows > 1 else 0,
        "pass": windows * own.rows * own.passes if own.passes > 1 else 0,
        "tap": windows * own.taps,
    }
