"""What is said where RAM decides, and that segments are judged alone as they are in their network."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from nnbuild.network import Network
from nnbuild.optimize import Aim, eligible
from nnbuild.ram import rows, wall
from nnbuild.ram.cuts import WAYS, Cuts, _Part
from nnbuild.ram.memory import _all_overlaps, _apart, _takeovers, lifetimes, needs, plan
from nnbuild.ram.streaming import Made, Setup, made
from nnbuild.selection import candidates, select
from nnbuild.target import TARGETS
from tests.row_networks import run_of
from tests.test_memory import case as case_of
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


def held(found: Made, setup: Setup, peak: int | None = None, states: int = 0) -> str:
    """What is said to live at the wall, or were another layer that, or with so many bytes of states."""
    live = found.planned.live if peak is None else tuple(int(n == peak) for n in range(len(found.planned.live)))
    (line,) = wall._wall(setup, replace(found, planned=replace(found.planned, live=live, state_bytes=states)), 1)
    return line[line.rindex("(") :]


def test_what_lives_at_the_wall() -> None:
    """48 rows of 6 x 8 values between convolutions; of a row of these three are kept, but one in front of the mean."""
    network, limit = maps(), replace(M0, aim=Aim(ram=1))
    setup = replace(limit, io=False, rows="never")
    found = made(network, setup)
    assert held(found, setup) == "(t0 2,304, t1 2,304, scratch 72)"
    assert held(found, setup, peak=0, states=28) == "(t0 2,304, scratch 18, states 28)"
    assert held(made(network, limit), limit, peak=1) == "(t0 144, t1 144, scratch 72, kept rows 432)"
    setup = replace(limit, rows="l1-l2")
    found = made(network, setup)
    assert "kept rows 144" in held(found, setup, peak=2)
    assert [held(found, setup, peak).count("kept rows") for peak in range(5)] == [0, 1, 1, 0, 0]


def test_a_price_is_a_share_of_what_whole_layers_take() -> None:
    found = made(maps(), replace(M0, rows="never"))
    own = found.figures
    ram = "ram= costs: 8 bytes of RAM less than with whole layers and the kernels of choice"
    whole = replace(own, ram=own.ram + 8, cycles=4 * own.cycles)
    assert wall.price(replace(found, whole=whole)) == [f"{ram}, {3 * own.cycles:,} cycles less (75.0 %)"]
    whole = replace(own, ram=own.ram + 8, flash=own.flash - 20)
    assert wall.price(replace(found, whole=whole)) == [f"{ram}, 20 bytes of flash more"]


def test_what_may_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is not there already, can be made, and takes less."""
    push, auto = {"rows": "auto", "pushed": True}, {"rows": "auto"}
    assert wall._options(M0) == {"push_rows=True": push}
    arena = {"push_rows=True": push, "push_rows=True with io='arena'": {**push, "io": True}}
    assert wall._options(replace(M0, io=False)) == arena
    pinned = replace(M0, rows="never", pushed=True, pins={"l0": "direct"})
    assert wall._options(pinned) == {"stream_rows='auto'": auto, "kernels without pins": {"pins": {}}}
    of_two = case_of("add", "add_same").network
    assert wall._ram(of_two, M0, push) is None
    taken = iter([900, 1000, None])
    monkeypatch.setattr(wall, "_ram", lambda network, setup, changes: next(taken))
    setup = replace(M0, aim=Aim(ram=100), rows="never", io=False)
    assert list(wall._remedies(of_two, setup, 1000)) == ["stream_rows='auto' takes 900 bytes, still 800 over"]


def test_a_part_has_the_fastest_kernels_within_a_limit() -> None:
    part = _Part(0, 1, (((8, 5), (4, 9)), ((6, 2),)), 3)
    assert part.peak == 6
    assert [part.cycles(limit) for limit in (6, 7, 8)] == [14, 14, 10]


def test_the_least_limit_is_none_beyond_what_is_asked() -> None:
    found = Cuts(maps(12), M0, candidates(maps(12), M0.target))
    least = found.least(found.whole())
    assert least is not None
    assert (found.least(least), found.least(least - 1)) == (least, None)


def by_rows(pushed: bool) -> list[Network]:
    """Networks whose layers go by rows, in every way."""
    networks = [(maps(12), rows.Run(0, 4)), *((case.network, run_of(case.network)) for case in fixed_cases(8))]
    found = (rows.streamed(each, [run._replace(way=way)], pushed) for each, run in networks for way in WAYS)
    return [each for each in found if each is not None]


@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_needs_are_what_lives_in_a_plan(apart: bool, pushed: bool) -> None:
    """Of the same kernels; with what lasts in a segment, sums and the count of rows among it, once."""
    target, networks = M0.target, by_rows(pushed)
    assert len(networks) > 3
    for network in networks:
        choices = select(network, target)
        own = [
            replace(layer, kernels=(choice.kernel,))
            for layer, choice in zip(candidates(network, target), choices, strict=True)
        ]
        live = plan(network, choices, target, True, apart=apart).live
        assert needs(network, own, target, True, apart=apart) == tuple((each,) for each in live)


def test_rows_that_are_needed_later_take_over_no_memory() -> None:
    """In a segment the next row of an input comes where the first one lay: what lasts begins in memory of its own."""
    lasting = 0
    for network in by_rows(False):
        lives = lifetimes(network)
        taken = list(_takeovers(network, lives, _apart(network, lives, (), 4)))
        over = _all_overlaps(network, select(network, M0.target), lives, M0.target)
        for own in network.segments:
            assert {step.output for step in taken if own.first <= step.layer <= own.last}.isdisjoint(own.lasting)
            assert not any(over.get(name) for name in own.lasting if name not in (own.source, own.result))
            assert over.get(own.result, {}).keys() <= {own.source}
            lasting += len(own.lasting)
    assert lasting > 20


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
