"""The answer of `nnbuild check` in words: verdict, figures against limits, the largest layers, the smallest change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nnbuild.errors import printable
from nnbuild.estimate.advice import short
from nnbuild.estimate.figures import MARGIN_PERCENT, LayerFigures

if TYPE_CHECKING:
    from nnbuild.estimate.advice import Advice
    from nnbuild.estimate.verdict import Check
    from nnbuild.report.budget import Verdict

_LAYERS = 5
_OTHERS = 2
_NAME = 36

_PARTS: dict[str, Callable[[LayerFigures], int]] = {
    "flash": lambda layer: layer.flash,
    "ram": lambda layer: layer.live,
    "latency": lambda layer: layer.cycles,
}
_NAMES = {"flash": "flash", "ram": "RAM", "latency": "latency"}


def as_text(check: Check) -> str:
    """All lines of one model, without the last line's end."""
    lines = [_verdict(check), *_figures(check), *_largest(check), *_advice(check), *_notes(check)]
    return "\n".join(printable(line) for line in lines)


def size(amount: float) -> str:
    """`9,876 bytes`, `131.2 KB`, `59.2 MB`; K is 1024."""
    if abs(amount) < 10 * 1024:
        return f"{round(amount):,} bytes"
    return f"{amount / 1024:,.1f} KB" if abs(amount) < 10 * 2**20 else f"{amount / 2**20:,.1f} MB"


def duration(us: float) -> str:
    """`95 us`, `2.31 ms`, `1.52 s`."""
    if us < 999.5:
        return f"{us:.3g} us"
    return f"{us / 1e3:.3g} ms" if us < 999.5e3 else f"{us / 1e6:,.4g} s"


def _amount(value: float, unit: str) -> str:
    if unit == "cycles":
        return f"{round(value):,} cycles"
    return duration(value) if unit == "us" else size(value)


def _verdict(check: Check) -> str:
    head = f"{check.file} on {check.setup.target.cpu}"
    missed = [verdict for verdict in check.budgets if not verdict.ok]
    open_ends = "; latency is not judged" if check.unjudged else ""
    if not check.budgets:
        limits = open_ends or "; no limits given"
        return f"{head}: flash {size(check.flash)}, RAM {size(check.ram)} (within {MARGIN_PERCENT} %){limits}"
    if missed:
        return f"{head}: does not fit: {', '.join(_missed(verdict) for verdict in missed)}{open_ends}"
    close = [_NAMES[verdict.what] for verdict in check.budgets if _close(verdict, check)]
    rest = f", but {' and '.join(close)} within the estimate's margin: build it to be sure" if close else ""
    return f"{head}: fits{rest}{open_ends}"


def _missed(verdict: Verdict) -> str:
    value, limit = verdict.value or 0, verdict.limit
    over = (
        f"{_amount(value - limit, verdict.unit)} over"
        if value < 10 * limit or not limit
        else f"{value / limit:,.0f} times"
    )
    return f"{_NAMES[verdict.what]} {_amount(value, verdict.unit)} of {_amount(limit, verdict.unit)} ({over})"


def _close(verdict: Verdict, check: Check) -> bool:
    error = check.figures.error_percent if verdict.what == "latency" else None
    return verdict.ok and (verdict.value or 0) * (1 + (error or MARGIN_PERCENT) / 100) > verdict.limit


def _figures(check: Check) -> Iterator[str]:
    limits = {verdict.what: verdict for verdict in check.budgets}
    found = check.figures
    library = f", CMSIS-NN {found.library:,}" if found.library else ""
    rows = [
        ("flash", f"{found.flash:,} bytes: weights {found.weights:,}, code {found.code:,}{library}"),
        ("ram", f"{found.ram:,} bytes of arena"),
    ]
    if check.cycles is not None:
        rows.append(("latency", f"{check.cycles:,} cycles{_at_clock(check)}; {found.macs:,} multiplications"))
    for what, text in rows:
        verdict = limits.get(what)
        share = f"  [{100 * (verdict.value or 0) / verdict.limit:,.0f} %]" if verdict and verdict.limit else ""
        yield f"  {_NAMES[what]:8} {text}{share}"
    error = found.error_percent if check.cycles is not None else None
    cycles = f", cycles within {error:.0f} % of counted ones" if error is not None else ""
    margin = f"flash and RAM within {MARGIN_PERCENT} % of the linked image{cycles}"
    yield f"  Estimates from shapes. On known networks: {margin}."


def _at_clock(check: Check) -> str:
    limit = check.limits.latency
    if limit is None or check.us is None:
        return ""
    most = f" of {duration(limit.us)}" if check.unjudged else ""
    return f", {duration(check.us)}{most} at {limit.mhz:g} MHz"


def _largest(check: Check) -> Iterator[str]:
    """The largest layers in what is missed, or in all that is limited where nothing is."""
    known = [what for what in _PARTS if what != "latency" or check.cycles is not None]
    missed = [verdict.what for verdict in check.budgets if not verdict.ok]
    chosen: dict[int, None] = {}
    layers = check.figures.layers
    for what in missed or known:
        order = sorted(range(len(layers)), key=lambda index: -_PARTS[what](layers[index]))
        chosen |= dict.fromkeys(order[: max(2, _LAYERS // len(missed or known))])
    total = {"flash": check.figures.flash, "ram": check.figures.ram, "latency": check.figures.cycles}
    yield f"  {'largest layers':{_NAME + 22}}{'flash':>14}{'RAM there':>14}" + (
        f"{'cycles':>19}" if "latency" in known else ""
    )
    for index in sorted(chosen):
        layer = layers[index]
        cells = "".join(_cell(_PARTS[what](layer), total[what], 19 if what == "latency" else 14) for what in known)
        yield f"  {layer.name[:21]:22}{short(layer.node):{_NAME}}{cells}".rstrip()


def _cell(value: int, total: int, width: int) -> str:
    share = f"{100 * value / total:.0f} %" if total else ""
    return f"{value:,} {share:>5}".rjust(width)


def _advice(check: Check) -> Iterator[str]:
    if check.fits:
        return
    if not check.advised:
        yield "  Changes that would fit were not looked for."
    elif check.hopeless:
        yield "  It is too far over for a change of sizes: it needs another network."
    elif not check.advice:
        yield "  No change of sizes that was tried fits: layers at an eighth of their outputs, half the input."
    for option in check.advice[:1]:
        yield from _option(check, option, "smallest change that fits")
    for option in check.advice[1 : 1 + _OTHERS]:
        yield from _option(check, option, "also fits")


def _option(check: Check, option: Advice, head: str) -> Iterator[str]:
    before, after = check.figures, option.figures
    saved = [
        f"{size(before.flash - after.flash)} of flash" if before.flash > after.flash else "",
        f"{size(before.ram - after.ram)} of RAM" if before.ram > after.ram else "",
        f"{before.cycles - after.cycles:,} cycles" if before.cycles > after.cycles and check.cycles is not None else "",
    ]
    yield f"  {head}: {option.change}"
    yield f"    saves {', '.join(part for part in saved if part)}"


def _notes(check: Check) -> Iterator[str]:
    for note in check.notes:
        yield f"  note: {note}"
