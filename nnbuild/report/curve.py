"""What flash buys: the sets of kernels that no other beats in flash and cycles, around the one that was taken.

From `models[].curve` of the document; all of it is estimated, as kernels are before anything is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

STEPS = (4096, 8192, 16384)
"""Bytes of flash more than now, for which the report says what they would buy."""
LEAST = 0.01
"""Of the cycles; less is not worth a word."""
SHOWN = 48
"""Points of a curve that a report keeps."""
WIDTH, HEIGHT, EDGE = 240.0, 72.0, 5.0
"""Of the picture of a curve, in its units."""

Point = dict[str, Any]


def thinned(curve: Sequence[tuple[int, int]], chosen: int) -> list[Point]:
    """At most SHOWN points as they stand in the document, with both ends and the chosen one."""
    count = len(curve)
    kept = (
        {0, chosen, count - 1, *(round(step * (count - 1) / (SHOWN - 2)) for step in range(SHOWN - 1))}
        if count
        else set()
    )
    return [
        {"flash": flash, "cycles": cycles, "chosen": index == chosen}
        for index, (flash, cycles) in enumerate(curve)
        if index in kept or count <= SHOWN
    ]


def words(curve: Sequence[Point]) -> str:
    """What more flash would buy and less would cost, in one line; "" where there is nothing to choose from."""
    if len(curve) < 2:
        return ""
    return "; ".join([", ".join(_more(curve)) or "no larger kernels are faster", *_less(curve)])


def _more(curve: Sequence[Point]) -> Iterator[str]:
    now = _chosen(curve)
    bought = LEAST
    for step in STEPS:
        best = min(point["cycles"] for point in curve if point["flash"] <= now["flash"] + step)
        saved = 1 - best / now["cycles"]
        if saved >= bought:
            yield f"{step // 1024}K more flash would save {100 * saved:.0f} % of the cycles"
            bought = saved + LEAST


def _less(curve: Sequence[Point]) -> Iterator[str]:
    now, least = _chosen(curve), curve[0]
    if least["flash"] < now["flash"]:
        yield f"the smallest kernels take {now['flash'] - least['flash']:,} bytes less, {_times(least, now)} the cycles"


def smallest(curve: Sequence[Point]) -> str:
    """What `optimize='size'` would save, for a budget that is missed; "" where nothing."""
    if not curve or curve[0]["chosen"]:
        return ""
    now, least = _chosen(curve), curve[0]
    return (
        f"optimize='size' would save {now['flash'] - least['flash']:,} bytes and take {_times(least, now)} the cycles"
    )


def _times(one: Point, other: Point) -> str:
    return f"{one['cycles'] / other['cycles']:.2f} times"


def _chosen(curve: Sequence[Point]) -> Point:
    return next(point for point in curve if point["chosen"])


@dataclass(frozen=True, slots=True)
class Picture:
    """A curve to draw: corners of the line "x,y x,y", and where the chosen point is."""

    line: str
    x: float
    y: float


def picture(curve: Sequence[Point]) -> Picture | None:
    """Flash to the right, cycles upwards; None where there is nothing to choose from."""
    if len(curve) < 2:
        return None
    spans = [(min(p[key] for p in curve), max(p[key] for p in curve)) for key in ("flash", "cycles")]

    def at(value: int, span: tuple[int, int], length: float) -> float:
        return EDGE + (value - span[0]) / max(1, span[1] - span[0]) * (length - 2 * EDGE)

    places = [(at(p["flash"], spans[0], WIDTH), HEIGHT - at(p["cycles"], spans[1], HEIGHT)) for p in curve]
    # A set is the best up to the flash of the next: steps, not slopes.
    corners = [places[0]]
    for x, y in places[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    x, y = next(place for place, point in zip(places, curve, strict=True) if point["chosen"])
    return Picture(" ".join(f"{left:.1f},{top:.1f}" for left, top in corners), x, y)
