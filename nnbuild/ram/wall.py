"""What is said where RAM decides: what a plan costs beside whole layers; where none fits, the wall, and what helps.

What would help is planned before it is named: nothing is promised that was not tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nnbuild.errors import NNBuildError
from nnbuild.network import Network
from nnbuild.ram.streaming import AUTO, Made, Setup, made


def lines(network: Network, setup: Setup, found: Made) -> list[str]:
    """What is said of `found`, which `network` was made to; nothing where RAM has no limit, or changes nothing."""
    if setup.aim.ram is None:
        return []
    over = found.figures.ram - setup.aim.ram
    if over > 0:
        return [*_wall(setup, found, over), *_remedies(network, setup, found.figures.ram)]
    return price(found)


def price(found: Made) -> list[str]:
    """What it costs beside the whole layers that are made where RAM has no limit; nothing where it is that."""
    own, whole = found.figures, found.whole
    if whole is None or own == whole:
        return []
    parts = [f"{whole.ram - own.ram:,} bytes of RAM less than with whole layers and the kernels of choice"]
    for now, then, unit in ((own.cycles, whole.cycles, "cycles"), (own.flash, whole.flash, "bytes of flash")):
        if now != then:
            share = f" ({100 * abs(now - then) / then:.1f} %)" if unit == "cycles" else ""
            parts.append(f"{abs(now - then):,} {unit} {'more' if now > then else 'less'}{share}")
    return [f"ram= costs: {', '.join(parts)}"]


def _wall(setup: Setup, found: Made, over: int) -> Iterator[str]:
    """By how much it misses, and what lives at the fullest layer."""
    planned, limit = found.planned, setup.aim.ram
    layer = found.network.layers[planned.peak]
    names = dict.fromkeys(found.network.home(name) for name in (*layer.inputs, layer.output))
    held = [f"{name} {found.network.tensors[name].bytes:,}" for name in names if name in planned.offsets]
    choice = found.selection.choices[planned.peak]
    scratch = choice.kernel.scratch(choice.view, setup.target)
    held += [f"scratch {scratch:,}"] if scratch else []
    kept = [own for own in found.network.segments if own.first <= planned.peak <= own.last]
    rows = sum(row.rows * row.bytes for own in kept for row in own.kept.values() if row.stays)
    held += [f"kept rows {rows:,}"] if rows else []
    held += [f"states {planned.state_bytes:,}"] if planned.state_bytes else []
    yield (
        f"ram {found.figures.ram:,} bytes at the least that was found, {over:,} over the limit of {limit:,}: "
        f"the wall is {setup.prefix}{layer.name} with {planned.live[planned.peak]:,} bytes at once ({', '.join(held)})"
    )


def _remedies(network: Network, setup: Setup, now: int) -> Iterator[str]:
    """The options that take less, the least first."""
    tried = [(_ram(network, setup, changes), words) for words, changes in _options(setup).items()]
    for ram, words in sorted((ram, words) for ram, words in tried if ram is not None):
        if ram < now:
            assert setup.aim.ram is not None
            over = ram - setup.aim.ram
            yield f"{words} takes {ram:,} bytes, {f'still {over:,} over' if over > 0 else 'which fits'}"


def _options(setup: Setup) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    if setup.rows != AUTO:
        found["stream_rows='auto'"] = {"rows": AUTO}
    if not setup.pushed:
        found["push_rows=True"] = {"rows": AUTO, "pushed": True}
        if not setup.io:
            found["push_rows=True with io='arena'"] = {"rows": AUTO, "pushed": True, "io": True}
    if setup.pins:
        found["kernels without pins"] = {"pins": {}}
    return found


def _ram(network: Network, setup: Setup, changes: Mapping[str, Any]) -> int | None:
    try:
        return made(network, replace(setup, **changes)).figures.ram
    except NNBuildError:
        return None
