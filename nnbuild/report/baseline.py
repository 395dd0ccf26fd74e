"""The last accepted build, `NN_BASELINE="size-baseline.json"`: a committed file with the figures that are compared.

    {"schema": 1, "images": {"build/fw.elf": {"figures": {"bytes": {"FLASH": 81234, "kws flash": 9876, ...},
     "us": {...}, ...}, "layers": {"bytes": {"kws_l00_conv2d flash": 1234, ...}, "cycles": {...}}}}}

`scons nn-baseline`, or `python -m nnbuild baseline`, writes it: sorted, with no date and no absolute path in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnbuild.errors import ConfigError, Finding
from nnbuild.files import write_text
from nnbuild.report import difference
from nnbuild.report.budget import Growth, Share, Verdict
from nnbuild.report.difference import Change, Earlier, Figure

SCHEMA = 1
Snapshot = dict[str, dict[str, dict[str, float]]]
"""What is kept of one image: parts (`figures`, `layers`) -> unit -> name -> value."""

_HINT = "`scons nn-baseline` accepts this build and writes it"
_REPAIR = "take it from version control, or delete it and accept a build by `scons nn-baseline`"
_NAMED = 5
_UNITS = ("bytes", "us", "cycles", "percent", "points", "dB")


def snapshot(document: Mapping[str, Any]) -> Snapshot:
    """What the baseline keeps of a report."""
    earlier = difference.of_document(document)
    return {"figures": _by_unit(earlier.figures), "layers": _by_unit(earlier.layers)}


def _by_unit(figures: Sequence[Figure]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for figure in sorted(figures, key=lambda figure: (figure.unit, figure.what)):
        found.setdefault(figure.unit, {})[figure.what] = figure.value
    return found


def earlier(kept: Snapshot) -> Earlier:
    """The figures of a snapshot, for `difference.changes`."""
    return Earlier(_figures(kept["figures"]), _figures(kept["layers"]))


def _figures(by_unit: Mapping[str, Mapping[str, float]]) -> tuple[Figure, ...]:
    return tuple(Figure(what, value, unit) for unit, values in by_unit.items() for what, value in values.items())


def read(path: str | Path) -> dict[str, Snapshot]:
    """The snapshots of a baseline by image, {} where there is no such file. ConfigError where it is none."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ConfigError(f"is no baseline of schema {SCHEMA}", str(path), _REPAIR)
        return {str(image): _checked(kept) for image, kept in data["images"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError("is no baseline", str(path), _REPAIR) from None


def _checked(kept: Any) -> Snapshot:
    """A snapshot as it was written; ValueError, KeyError, TypeError or AttributeError for anything else."""
    for part in ("figures", "layers"):
        for unit, values in kept[part].items():
            numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values.values())
            if unit not in _UNITS or not numbers:
                raise ValueError(unit)
    return {"figures": kept["figures"], "layers": kept["layers"]}


def accept(path: str | Path, documents: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the figures of `documents`, by image, into the baseline; other images in it stay."""
    images = {**read(path), **{image: snapshot(document) for image, document in documents.items()}}
    text = json.dumps({"images": images, "schema": SCHEMA}, indent=1, sort_keys=True, ensure_ascii=True)
    write_text(path, text + "\n")


def of_image(path: str | Path, image: str, required: bool) -> Snapshot | None:
    """The snapshot of one image. ConfigError where it is `required` and there is none yet."""
    found = read(path).get(image)
    if found is None and required:
        missing = "has no figures of" if Path(path).exists() else "does not exist, so nobody knows the growth of"
        raise ConfigError(f"{missing} {image}", str(path), _HINT)
    return found


def verdicts(
    document: Mapping[str, Any], kept: Snapshot, growth: Mapping[str, Growth], code: Collection[str]
) -> list[Verdict]:
    """The growth of each region held against its limit; growth of "" is that of all regions that have no other.

    `code` are the regions of code and constants. ConfigError for limits on regions that do not exist.
    """
    before = kept["figures"].get("bytes", {})
    names = [region["name"] for region in document["regions"]]
    unknown = [name for name in growth if name and name not in names]
    if unknown:
        hint = f"the regions are {', '.join(names)}"
        where = document["files"][0]
        raise ConfigError.of(
            [Finding(f"growth of region '{name}', which does not exist", where, hint) for name in unknown]
        )
    found = []
    for region in document["regions"]:
        name, limit = region["name"], growth.get(region["name"], growth.get(""))
        if limit is not None:
            old = before.get(name, 0)
            allowed = int(old * limit.percent / 100) if isinstance(limit, Share) else limit
            hint = _grown(document, kept, name, (" flash", " weights") if name in code else (" ram", " stack"))
            found.append(Verdict(f"growth {name}", region["used"] - old, allowed, hint=hint))
    return found


def _grown(document: Mapping[str, Any], kept: Snapshot, region: str, kinds: tuple[str, ...]) -> str:
    """What has grown: the region, then layers and models by figures of these `kinds`, the most first."""
    old, now = earlier(kept), difference.of_document(document)
    regions = [change for change in difference.changes(old.figures, now.figures) if change.what == region]
    parts = difference.changes(old.layers, now.layers) + difference.changes(
        [figure for figure in old.figures if " " in figure.what], [f for f in now.figures if " " in f.what]
    )
    parts = [part for part in parts if part.unit == "bytes" and part.what.endswith(kinds)]
    grown = sorted((part for part in parts if _by(part) > 0), key=lambda part: -_by(part))
    return "; ".join([*map(_told, regions), *map(_told, grown[:_NAMED]), _HINT])


def _by(change: Change) -> float:
    return (change.new or 0) - (change.old or 0)


def _told(change: Change) -> str:
    old = "new" if change.old is None else f"from {difference.amount(change.old, change.unit)}"
    return f"{change.what} {'+' if _by(change) > 0 else ''}{_by(change):,.0f}, {old} to {change.new or 0:,.0f}"
