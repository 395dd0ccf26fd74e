"""Rectangles whose areas are sizes: a squarified treemap (Bruls, Huizing, van Wijk, "Squarified Treemaps", 2000)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle; `x` and `y` are its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    def inset(self, left: float, top: float, right: float, bottom: float) -> Rect:
        """Smaller by so much on each side, never negative."""
        width, height = max(0.0, self.width - left - right), max(0.0, self.height - top - bottom)
        return Rect(self.x + left, self.y + top, width, height)


def squarify(sizes: Sequence[float], area: Rect) -> list[Rect]:
    """One rectangle in `area` for each of `sizes`, which are above 0 and largest first, as square as possible."""
    scale = area.width * area.height / total if (total := sum(sizes)) > 0 else 0.0
    areas = [size * scale for size in sizes]
    placed: list[Rect] = []
    free = area
    while len(placed) < len(areas):
        row = _row(areas[len(placed) :], min(free.width, free.height))
        free = _place(row, free, placed)
    return placed


def _row(areas: Sequence[float], side: float) -> Sequence[float]:
    """As many areas as make the worst of them best, when they are laid along `side`."""
    count = 1
    while count < len(areas) and _worst(areas[: count + 1], side) <= _worst(areas[:count], side):
        count += 1
    return areas[:count]


def _worst(row: Sequence[float], side: float) -> float:
    """The largest ratio of long to short sides in a row."""
    total = sum(row)
    if total <= 0 or side <= 0:
        return float("inf")
    return max(max(side * side * area / total**2, total**2 / (side * side * area)) for area in row)


def _place(row: Sequence[float], free: Rect, placed: list[Rect]) -> Rect:
    """Put a row along the shorter side of `free`; what is left of it."""
    total = sum(row)
    tall = free.width >= free.height
    thickness = total / (free.height if tall else free.width) if total > 0 else 0.0
    at = free.y if tall else free.x
    for area in row:
        length = area / thickness if thickness > 0 else 0.0
        placed.append(Rect(free.x, at, thickness, length) if tall else Rect(at, free.y, length, thickness))
        at += length
    return free.inset(thickness, 0, 0, 0) if tall else free.inset(0, thickness, 0, 0)
