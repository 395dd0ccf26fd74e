"""What is said where RAM decides, and that segments are judged alone as they are in their network."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from nnbuild import rows, wall
from nnbuild.cuts import WAYS, Cuts
from nnbuild.memory import needs
from nnbuild.network import Network
from nnbuild.optimize import Aim, eligible
from nnbuild.selection import candidates
from nnbuild.streaming import Made, Setup, made
from nnbuild.target import TARGETS
from tests.test_rows import fixed_cases, maps

M0 = Setup(TARGETS["cortex-m0"], io=True)


def said(network: Network, ram: int | None, **options: Any) -> tuple[Made, list[str]]:
    setup = replace(M0, aim=Aim(ram=ram), **options)
    found = made(network, setup)
    return found, wall.lines(network, setup, found)


def test_nothing_is_said_where_ram_decides_nothing() -> None:
    whole, none = said(maps(), None)
    assert none == []
    assert said(maps(), whole.figures.ram)[1] == []


def test_what_rows_cost() -> None:
    whole = said(maps(), None)[0].figures
    found, (line,) = said(maps(), round(0.7 * whole.ram))
    own = found.figures
    assert line.startswith(f"ram= costs: {whole.ram - own.ram:,} bytes of RAM less than with whole layers")
    more = own.cycles - whole.cycles
    assert f"{abs(more):,} cycles {'less' if more < 0 else 'more'}" in line


def test_the_wall_and_what_helps() -> None:
    """Each remedy is what a plan with it takes."""
    network = maps()
    found, (line, *remedies) = said(network, 1, rows="never")
    own = found.figures.ram
    assert line.startswith(
        f"ram {own:,} bytes at the least that was found, {own - 1:,} over the limit of 1: the wall is l"
    )
    assert f"with {max(found.planned.live):,} bytes at once (" in line
    pushed, rows_ = (said(network, 1, rows="auto", pushed=push)[0].figures.ram for push in (True, False))
    assert remedies == [
        f"push_rows=True takes {pushed:,} bytes, still {pushed - 1:,} over",
        f"stream_rows='auto' takes {rows_:,} bytes, still {rows_ - 1:,} over",
    ]
    fits = said(network, rows_, rows="never")[1]
    assert fits[-1].endswith(f"takes {rows_:,} bytes, which fits")
    assert re.search(r"push_rows=True takes [\d,]+ bytes, which fits", fits[1])


@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m4", "generic"])
@pytest.mark.parametrize("io", [False, True])
def test_segments_alone_need_what_they_need_in_their_network(core: str, io: bool) -> None:
    for network in (maps(12), *(case.network for case in fixed_cases(8))):
        setup = replace(M0, target=TARGETS[core], io=io)
        cuts = Cuts(network, setup, candidates(network, setup.target))
        for first in range(len(network.layers)):
            for last in cuts.ends(first):
                parts = cuts.segments(first, last)
                assert bool(parts) == any(rows.streamed(network, [rows.Run(first, last, way)]) for way in WAYS)
                for part in parts:
                    assert part.way is not None
                    whole = rows.streamed(network, [rows.Run(first, last, part.way)])
                    assert whole is not None
                    serving = eligible(candidates(whole, setup.target), setup.target)
                    full = needs(whole, serving, setup.target, io)[first : last + 1]
                    for own, every in zip(part.kernels, full, strict=True):
                        assert {need for need, _ in own} <= set(every)
                        assert min(need for need, _ in own) == min(every)
                    assert cuts.bound(first, last) <= part.peak
