"""The flash of an image as a treemap: model, layer, kind; what belongs to no model beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nnbuild.report.treemap import Rect, squarify

WIDTH, HEIGHT = 1080.0, 420.0
_HEAD = 20.0
_GAP = 1.5
_LETTER = 6.3
"""Units that a letter takes at the size of the labels, at most as wide as an average digit or letter is."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one kind. `model` and `layer` are indices, -1 where it belongs to none."""

    label: str
    kind: str
    size: int
    model: int = -1
    layer: int = -1


@dataclass(frozen=True, slots=True)
class Cell:
    """A part and where it is drawn; `lines` are what fits into it."""

    part: Part
    rect: Rect
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A model, or what is beside the models, with its cells."""

    label: str
    size: int
    rect: Rect
    head: str
    cells: tuple[Cell, ...]


def parts_of_model(index: int, model: dict[str, Any]) -> list[Part]:
    """All bytes of a model's flash: those of layers that symbols show, and the rest of each kind."""
    flash, parts = dict(model["flash"]), []
    for layer in model["layers"]:
        for kind in ("weights", "code"):
            size = layer[kind] or 0
            flash[kind] -= size
            parts.append(Part(layer["name"].removeprefix(f"{model['name']}_"), kind, size, index, layer["index"]))
    others = {"weights": "other constants", "code": "run and others", "kernels": "shared functions"}
    parts += [Part(label, kind, flash[kind], index) for kind, label in others.items()]
    parts.append(Part("self-test", "selftest", flash["selftest"], index))
    return [part for part in parts if part.size > 0]


def parts_of_image(document: dict[str, Any]) -> list[tuple[str, list[Part]]]:
    """Groups of parts that add up to the image's flash, the largest first."""
    groups = [(f"model {model['name']}", parts_of_model(i, model)) for i, model in enumerate(document["models"])]
    rest = dict(document["flash"])
    for part in (part for _, parts in groups for part in parts):
        rest[part.kind] -= part.size
    shared = [Part(row["function"], "kernels", row["bytes"]) for row in document["shared_kernels"] if row["bytes"]]
    rest["kernels"] -= _sum(shared)
    groups.append(("shared kernels", shared))
    labels = {"kernels": "other kernels", "rest": "rest of firmware", "unattributed": "unattributed"}
    labels |= {"weights": "other constants", "code": "other code", "selftest": "self-tests"}
    groups += [(label, [Part(label, kind, rest[kind])]) for kind, label in labels.items() if rest[kind] > 0]
    return sorted((group for group in groups if group[1]), key=lambda group: (-_sum(group[1]), group[0]))


def _sum(parts: Sequence[Part]) -> int:
    return sum(part.size for part in parts)


def layout(document: dict[str, Any]) -> list[Group]:
    """The treemap's groups in a rectangle of WIDTH x HEIGHT."""
    groups = parts_of_image(document)
    rects = squarify([_sum(parts) for _, parts in groups], Rect(0, 0, WIDTH, HEIGHT))
    return [_group(label, parts, rect) for (label, parts), rect in zip(groups, rects, strict=True)]


def _group(label: str, parts: list[Part], rect: Rect) -> Group:
    single = len(parts) == 1
    inside = rect.inset(_GAP, _GAP, _GAP, _GAP) if single else rect.inset(_GAP, _HEAD, _GAP, _GAP)
    parts = sorted(parts, key=lambda part: (-part.size, part.layer, part.kind))
    cells = tuple(_cells(parts, inside))
    head = "" if single else fitting(f"{label} · {_sum(parts):,} bytes", rect.width) or fitting(label, rect.width)
    return Group(label, _sum(parts), rect, head, cells)


def _cells(parts: Sequence[Part], area: Rect) -> Iterator[Cell]:
    rects = squarify([part.size for part in parts], area)
    for part, rect in zip(parts, rects, strict=True):
        drawn = rect.inset(_GAP / 2, _GAP / 2, _GAP / 2, _GAP / 2)
        room = [fitting(text, drawn.width) for text in (part.label, f"{part.size:,}")]
        count = int((drawn.height - 4) // 14)
        yield Cell(part, drawn, tuple(line for line in room[:count] if line))


def fitting(text: str, width: float) -> str:
    """`text`, shortened to `width` units, or nothing where that leaves less than four letters."""
    room = int((width - 8) / _LETTER)
    if len(text) <= room:
        return text
    return f"{text[: room - 1]}…" if room >= 5 else ""
