"""The arena over the layers of one inference: which tensor lives where, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnbuild.report.flashmap import fitting
from nnbuild.report.treemap import Rect

WIDTH = 1080.0
_LEFT, _RIGHT = 64.0, 8.0
_LANE = 22.0
_BODY = 250.0
_FOOT = 34.0
_THINNEST = 4.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A buffer and where it is drawn. `layer` is the one that writes it, or the first that reads an input."""

    row: dict[str, Any]
    rect: Rect
    text: str
    layer: int


@dataclass(frozen=True, slots=True)
class Column:
    """A layer's place on the axis, its label, bytes live in the arena while it runs."""

    index: int
    x: float
    width: float
    label: str
    live: int
    peak: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    """What to draw, in units of a `width` x `height` picture; `body` is the arena."""

    width: float
    height: float
    body: Rect
    bars: tuple[Bar, ...]
    columns: tuple[Column, ...]
    ticks: tuple[tuple[float, int], ...]


def live_bytes(model: dict[str, Any]) -> list[int]:
    """Bytes of the arena up to the highest that is in use at each layer."""
    placed = [row for row in model["arena"] if row["offset"] is not None]
    return [
        max((r["offset"] + r["bytes"] for r in placed if r["first"] <= layer["index"] <= r["last"]), default=0)
        for layer in model["layers"]
    ]


def layout(model: dict[str, Any]) -> Timeline:
    """The timeline of a model; buffers of the caller are in lanes above the arena."""
    callers = [row for row in model["arena"] if row["offset"] is None]
    lanes, count = _lanes(callers)
    placed = [row for row in model["arena"] if row["offset"] is not None]
    high = min(_BODY, 40.0 + 40.0 * len(placed)) if placed else 0.0
    body = Rect(_LEFT, count * _LANE + 8, WIDTH - _LEFT - _RIGHT, high)
    step = body.width / max(1, len(model["layers"]))
    bars = [
        _bar(row, Rect(body.x, lane * _LANE, step, _LANE - 4), 0.0, row["last"] + 1.0)
        for row, lane in zip(callers, lanes, strict=True)
    ]
    scale = body.height / max(1, model["arena_bytes"])
    for row in placed:
        high = max(_THINNEST, row["bytes"] * scale)
        box = Rect(body.x, max(body.y, body.y + body.height - row["offset"] * scale - high), step, high)
        bars.append(_bar(row, box, *_span(row, placed)))
    height = body.y + body.height + _FOOT
    return Timeline(WIDTH, height, body, tuple(bars), _columns(model, body, step), _ticks(model["arena_bytes"], body))


def _lanes(rows: Sequence[dict[str, Any]]) -> tuple[list[int], int]:
    """A lane for each of the caller's buffers, so that none lies upon another."""
    ends: list[int] = []
    lanes = []
    for row in rows:
        lane = next((i for i, end in enumerate(ends) if end < row["first"]), len(ends))
        ends[lane:] = [row["last"], *ends[lane + 1 :]]
        lanes.append(lane)
    return lanes, len(ends)


def _span(row: dict[str, Any], placed: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """From where to where, in layers; of a layer in place its output takes over in the middle."""
    first, last = float(row["first"]), row["last"] + 1.0
    for other in placed:
        over = other["offset"] < row["offset"] + row["bytes"] and row["offset"] < other["offset"] + other["bytes"]
        if other is not row and over:
            first = first + 0.5 if other["last"] == row["first"] else first
            last = last - 0.5 if other["first"] == row["last"] else last
    return first, last


def _bar(row: dict[str, Any], box: Rect, first: float, last: float) -> Bar:
    first = max(first, float(row["first"]))
    rect = Rect(box.x + first * box.width, box.y, (last - first) * box.width, box.height).inset(1, 0.5, 1, 0.5)
    names = {"scratch": "scratch", "input": f"input {row['name']}", "output": f"output {row['name']}"}
    name = names.get(row["kind"], row["name"])
    text = "" if rect.height < 13 else fitting(f"{name} · {row['bytes']:,}", rect.width) or fitting(name, rect.width)
    return Bar(row, rect, text, row["first"])


def _columns(model: dict[str, Any], body: Rect, step: float) -> tuple[Column, ...]:
    live = live_bytes(model)
    peak = model["peak_layer"]
    every = max(1, round(26 / step + 0.49))
    return tuple(
        Column(
            index,
            body.x + index * step,
            step,
            (fitting(f"{index} {layer['op']}", step) or (str(index) if index % every == 0 else "")),
            live[index],
            index == peak,
        )
        for index, layer in enumerate(model["layers"])
    )


def _ticks(arena: int, body: Rect) -> tuple[tuple[float, int], ...]:
    """Heights of a few round numbers of bytes, and of the arena's end."""
    step = next((size for size in (2**n for n in range(2, 40)) if arena / size <= 5), 4)
    values = [value for value in range(0, arena, step) if arena - value > step / 3] + [arena]
    scale = body.height / max(1, arena)
    return tuple((body.y + body.height - value * scale, value) for value in values if arena)
