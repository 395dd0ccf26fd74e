"""The least and the most cycles that a function in assembly takes in one inference, read off its text.

Implicit path enumeration (Li and Malik, DAC 1995): the paths between two labels whose number of runs is known have a
least and a most cost; how often each is taken follows from those numbers, with what is left open, such as a clamp,
taken as it costs least, or most. Every loop must pass such a label. Cycles are those of
`nnbuild.instruction_timings`, with memory that never waits; nothing is fitted and nothing is run. Where they are
instructions, what is predicated or skipped counts, and each LE and LETP, as in QEMU; a core may do without the latter.
Words that lie at no multiple of four, which take a Cortex-M3 and M4 longer, count as if they did.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nnbuild.errors import InternalError
from nnbuild.instruction_timings import CORES, CYCLES, Instruction

CALL = "call"
"""The name under which `runs` holds how often the function is called."""

_LABEL = re.compile(r"\s*([.\w]+):\s*")
_TARGET = re.compile(r"([.\w]+)$")
_IT = re.compile(r"it[te]{0,3}")
_LOOPS = ("le", "letp", "wls", "wlstp")
"""Low-overhead loops: what jumps back while there is more, and what jumps behind the loop where there is nothing."""
_ENTRY = re.compile(r"\.2?byte\s+\(([.\w]+) - [.\w]+\) / 2$")
_BY_TABLE = ("tbb", "tbh")
_ENDS = "end"

Costs = dict[str, float]
"""Name of the label that a path leads to -> its cost."""


@dataclass(frozen=True, slots=True)
class Range:
    """Cycles, or instructions, of all runs in one inference."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class _Line:
    """One instruction, the labels in front of it, and the name of the one that it may jump to.

    `maybe`: an IT block skips it where its condition fails; the mnemonic is without that. `table` names the labels that
    TBB and TBH may lead to.
    """

    instruction: Instruction
    labels: tuple[str, ...]
    target: str
    maybe: bool = False
    table: tuple[str, ...] = ()

    @property
    def leaves(self) -> bool:
        """Whether it ends the function, if it is executed."""
        one = self.instruction
        return one.mnemonic == "bx" or (one.mnemonic in ("pop", "ldmia") and "pc" in one.operands)

    @property
    def conditional(self) -> bool:
        """Whether it may jump or not."""
        return bool(self.target) and (self.maybe or self.instruction.mnemonic != "b")

    @property
    def stays(self) -> bool:
        """Whether the instruction behind it can be the next one."""
        return self.maybe or not (self.leaves or self.table or (self.target and not self.conditional))


def cycles(text: str, symbol: str, core: str, runs: Mapping[str, int]) -> Range:
    """Of the function `symbol` in `text` on `core`, one of `instruction_timings.CORES`.

    `runs` says how often it is called and how often each label `.L<symbol>_<name>` is passed, by name. InternalError
    where a loop has no such label, or where the numbers contradict each other.
    """
    return _range(text, symbol, runs, functools.partial(_cycles, CORES.index(core)))


def instructions(text: str, symbol: str, runs: Mapping[str, int]) -> Range:
    """The same in instructions, for cores whose timings are not known."""
    return _range(text, symbol, runs, lambda line, after, taken: (1, 1))


def unit(cpu: str) -> str:
    """What is told for a core: `cycles`, or `instructions` where its timings are not known."""
    return "cycles" if cpu in CORES else "instructions"


def total(ranges: Sequence[Range | None]) -> Range | None:
    """Their sum; None where there are none, or one is not known."""
    known = [each for each in ranges if each is not None]
    if not known or len(known) < len(ranges):
        return None
    return Range(sum(each.least for each in known), sum(each.most for each in known))


_Cost = Callable[[_Line, _Line | None, bool], tuple[float, float]]
"""The least and the most of an instruction, by what stands behind it, and whether it jumps."""


def _range(text: str, symbol: str, runs: Mapping[str, int], cost: _Cost) -> Range:
    paths = _paths(_lines(text, symbol), f".L{symbol}_", set(runs) - {CALL}, cost)
    found = [_transported({name: found[most] for name, found in paths.items()}, runs, (1, -1)[most]) for most in (0, 1)]
    return Range(round(found[0]), round(found[1]))


@functools.lru_cache(maxsize=64)
def _lines(text: str, symbol: str) -> tuple[_Line, ...]:
    """The instructions of the function; directives and comments are none."""
    found: list[_Line] = []
    labels: list[str] = []
    inside, maybe = False, 0
    for raw in text.splitlines():
        line = raw.partition("@")[0].strip()
        while (match := _LABEL.match(line)) is not None:
            inside = inside or match[1] == symbol
            labels.append(match[1])
            line = line[match.end() :]
        if found and (entry := _ENTRY.match(line)) and found[-1].instruction.mnemonic in _BY_TABLE:
            found[-1] = replace(found[-1], table=(*found[-1].table, entry[1]))
        if not line or line.startswith(".") or not inside:
            continue
        name, _, operands = (part.strip() for part in line.partition(" "))
        mnemonic = name.partition(".")[0]
        instruction = Instruction(mnemonic[:-2] if maybe else mnemonic, operands, 2)
        jumps = instruction.kind == "branch" or mnemonic in _LOOPS
        target = _TARGET.search(operands)
        found.append(_Line(instruction, tuple(labels), target[1] if jumps and target else "", maybe > 0))
        labels, maybe = [], len(mnemonic) - 1 if _IT.fullmatch(mnemonic) else max(maybe - 1, 0)
    if not found:
        raise InternalError(f"no function {symbol}")
    return tuple(found)


def _paths(lines: Sequence[_Line], prefix: str, counted: set[str], cost: _Cost) -> dict[str, tuple[Costs, Costs]]:
    """From the call and from each counted label, the least and the most cost to each that can come next, or the end."""
    at = [(index, label) for index, line in enumerate(lines) for label in line.labels if label.startswith(prefix)]
    stops = {index: name for index, label in at if (name := label.removeprefix(prefix)) in counted}
    if missing := counted - set(stops.values()):
        raise InternalError(f"no label {', '.join(sorted(missing))}")
    ways: list[tuple[Costs, Costs]] = [({}, {})] * len(lines)
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        after = lines[index + 1] if index + 1 < len(lines) else None
        followers = [(index + 1, False)] if line.stays else []
        followers += [(_place(lines, index, target), True) for target in _targets(line)]
        ends = [(cost(line, after, True), ({_ENDS: 0.0}, {_ENDS: 0.0}))] if line.leaves else []
        ways[index] = _joined(
            [(cost(line, after, taken), _onward(ways, stops, index, to)) for to, taken in followers] + ends
        )
    return {CALL: _onward(ways, stops, -1, 0), **{name: ways[index] for index, name in stops.items()}}


def _targets(line: _Line) -> tuple[str, ...]:
    """The labels that it may jump to."""
    if line.instruction.mnemonic in _BY_TABLE and not line.table:
        raise InternalError("a jump by a table that does not follow it")
    return line.table or ((line.target,) if line.target else ())


def _place(lines: Sequence[_Line], index: int, target: str) -> int:
    """Where the label is; of a number, the next or the last one."""
    number = re.fullmatch(r"(\d+)([bf])", target)
    if number is None:
        found = next((place for place, line in enumerate(lines) if target in line.labels), None)
        if found is None:
            raise InternalError(f"no label {target} to jump to")
        return found
    ahead = number[2] == "f"
    places = range(index + 1, len(lines)) if ahead else range(index, -1, -1)
    return next(place for place in places if number[1] in lines[place].labels)


def _onward(ways: Sequence[tuple[Costs, Costs]], stops: Mapping[int, str], index: int, to: int) -> tuple[Costs, Costs]:
    if to in stops:
        return {stops[to]: 0.0}, {stops[to]: 0.0}
    if to <= index:
        raise InternalError("a loop without a label whose runs are known")
    return ways[to]


def _joined(branches: Sequence[tuple[tuple[float, float], tuple[Costs, Costs]]]) -> tuple[Costs, Costs]:
    least: Costs = {}
    most: Costs = {}
    for (low, high), (lowest, highest) in branches:
        for name, value in lowest.items():
            least[name] = min(least.get(name, float("inf")), low + value)
        for name, value in highest.items():
            most[name] = max(most.get(name, 0.0), high + value)
    return least, most


def _cycles(column: int, line: _Line, after: _Line | None, taken: bool) -> tuple[float, float]:
    """Least and most; what an IT block skips takes as long as what does nothing."""
    low, high = _executed(column, line, after, taken)
    if taken or not line.maybe:
        return low, high
    skipped = CYCLES["plain"][column]
    return min(low, skipped), skipped if line.target or line.leaves else max(high, skipped)


def _executed(column: int, line: _Line, after: _Line | None, taken: bool) -> tuple[float, float]:
    """Least and most, with what a load saves the load behind it: that is quicker, unless it is jumped to or skipped."""
    one = line.instruction
    kind = one.kind
    if kind == "branch" and line.conditional and not taken:
        kind = "plain"
    value = CYCLES[kind][column]
    if kind == "several":
        value += one.registers * CYCLES["registers"][column]
        value += CYCLES["jump"][column] if "pc" in one.operands else 0
    if kind == "load" and after is not None and after.instruction.kind == "load" and after.instruction.follows(one):
        saving = CYCLES["load"][column] - CYCLES["next_load"][column]
        return value - saving, value if after.maybe else value - saving
    return value, value


def _transported(costs: Mapping[str, Costs], runs: Mapping[str, int], sign: int) -> float:
    """The least total (of `sign` times the costs) of paths such that every label is passed as often as `runs` says.

    A transportation problem: what leaves a label is what comes to it. Solved by successive shortest paths.
    """
    supply = dict(runs)
    demand = {**{name: count for name, count in runs.items() if name != CALL}, _ENDS: runs[CALL]}
    flow: dict[tuple[str, str], int] = {}
    while any(supply.values()):
        route = _shortest(costs, supply, demand, flow, sign)
        if route is None:
            raise InternalError("the runs of its labels contradict each other")
        amount = min(supply[route[0][0]], demand[route[-1][1]])
        amount = min([amount, *(flow[edge] for edge in route[1::2])])
        for step, edge in enumerate(route):
            flow[edge] = flow.get(edge, 0) + (-amount if step % 2 else amount)
        supply[route[0][0]] -= amount
        demand[route[-1][1]] -= amount
    return sum(costs[source][sink] * count for (source, sink), count in flow.items())


def _shortest(
    costs: Mapping[str, Costs],
    supply: Mapping[str, int],
    demand: Mapping[str, int],
    flow: Mapping[tuple[str, str], int],
    sign: int,
) -> list[tuple[str, str]] | None:
    """The cheapest way from what is left of a supply to what is left of a demand: edges there, back, there, ..."""
    sources: dict[str, tuple[float, list[tuple[str, str]]]] = {name: (0.0, []) for name, left in supply.items() if left}
    sinks: dict[str, tuple[float, list[tuple[str, str]]]] = {}
    changed = True
    while changed:
        changed = False
        for source, (so_far, route) in list(sources.items()):
            for sink, value in costs[source].items():
                total = so_far + sign * value
                if total < sinks.get(sink, (float("inf"), []))[0]:
                    sinks[sink] = (total, [*route, (source, sink)])
                    changed = True
        for (source, sink), count in flow.items():
            if count and sink in sinks:
                total = sinks[sink][0] - sign * costs[source][sink]
                if total < sources.get(source, (float("inf"), []))[0]:
                    sources[source] = (total, [*sinks[sink][1], (source, sink)])
                    changed = True
    open_sinks = [sinks[name] for name, left in demand.items() if left and name in sinks]
    return min(open_sinks)[1] if open_sinks else None
