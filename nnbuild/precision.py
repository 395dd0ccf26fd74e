"""Which values of a model get 16 bits: those that are named, or the few that an aim takes.

The noise that 8 bits of a value make adds up with that of the others (docs/INT16.md has figures), so it is measured
once for each value, with all others in 16 bits. For the noise that an aim leaves the cheapest set is looked for; it is
quantized and corrected as a build does it and judged (`nnbuild.precision_judge`), which says how much noise may stay,
until nothing cheaper is left. All of it on calibration samples.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from nnbuild import precision_cost
from nnbuild.errors import ConfigError, ModelError
from nnbuild.lower import lower
from nnbuild.precision_cost import Cost
from nnbuild.precision_judge import Aim, Form, Judge, Outlook
from nnbuild.precision_names import layer_names
from nnbuild.precision_report import Found, Value
from nnbuild.quantize import wide_values

SAMPLES = 128
"""The most that decide, evenly spread over all."""

COUNTS = 0.01
"""The share of all noise below which 16 bits would change nothing."""

ROUNDS = 5
"""The most sets that are corrected and judged beside that of all values; each takes as long as a quantization."""

_CHEAP = 1e-3  # growth that counts for nothing


@dataclass(frozen=True, slots=True)
class _Judged:
    """A set: its noise, that of values that stay in 8 bits left of it, by what factor it may grow, what it reaches."""

    names: tuple[str, ...]
    noise: float
    factor: float
    outlook: Outlook

    @property
    def met(self) -> bool:
        """Whether the aim is."""
        return self.factor >= 1.0


class _Costs:
    """Of sets of names beside `start`, and whether they live in so many bytes of `ram`."""

    def __init__(self, form: Form, start: Sequence[str], ram: int | None) -> None:
        self._form, self._start, self._ram = form, start, ram
        self._known: dict[frozenset[str], Cost] = {}

    def without_limit(self) -> _Costs:
        """The same costs."""
        other = _Costs(self._form, self._start, None)
        other._known = self._known
        return other

    def of(self, names: Collection[str]) -> Cost:
        """Of the set."""
        key = frozenset(names)
        if key not in self._known:
            self._known[key] = precision_cost.of(lower(self._form([*self._start, *names])))
        return self._known[key]

    def growth(self, names: Collection[str]) -> float:
        """Against `start` alone."""
        return self.of(names).above(self.of(()))

    def within(self, names: Collection[str]) -> bool:
        """Whether RAM suffices."""
        return self._ram is None or self.of(names).ram <= self._ram


def search(
    model: onnx.ModelProto,
    form: Form,
    judge: Judge,
    aim: Aim,
    start: Sequence[str] = (),
    finished: Form | None = None,
) -> Found:
    """`start` and the cheapest set of names of nodes whose outputs it takes in 16 bits to reach `aim`.

    `model` is the imported float model, `form` its QDQ form, which `finished` is what the build makes of, where it is
    another. Where no set reaches the aim, all that count are taken. ConfigError without an aim, and where a set might
    reach it but for RAM.
    """
    if not aim.given:
        hint = "min_sqnr=36, min_agreement='99%' or max_drop='1%'"
        raise ConfigError("int16 'auto' needs an aim", hint=hint)

    def judged(names: Sequence[str]) -> _Judged:
        all_names = [*start, *names]
        int8 = (finished or form)(all_names)
        errors = judge.errors(int8) * math.sqrt(judge.unseen(form, all_names))
        factor = judge.allowed(int8, errors, aim)
        return _Judged(tuple(names), judge.noise(errors), factor, judge.outlook(int8, errors))

    costs = _Costs(form, start, aim.ram)
    before = judged(())
    inputs = [value.name for value in model.graph.input]
    every = {} if before.met else _noise(judge, form, start, _possible(model, form, start))
    inner = {name: own for name, own in every.items() if name not in inputs}
    noise = {name: own for name, own in inner.items() if own > COUNTS * math.fsum(inner.values())}
    after = before if before.met else _rounds(judged, before, noise, costs)
    if not after.met and not _free(after.names, noise, costs):
        raise _both(after, noise, costs, aim)
    return _found(form, start, before, after, every, costs, aim)


def _rounds(
    judged: Callable[[Sequence[str]], _Judged], first: _Judged, noise: Mapping[str, float], costs: _Costs
) -> _Judged:
    """The cheapest set that is judged to reach the aim, or all that there is."""
    tried = {frozenset(first.names): first}
    last = first
    for _ in range(ROUNDS):
        names = _cheapest(noise, _allowed(last, noise), costs)
        if frozenset(names) in tried:
            names = _cheapest(noise, _between(tried.values(), noise), costs)
        if frozenset(names) in tried:
            break
        last = tried[frozenset(names)] = judged(names)
    good = [found for found in tried.values() if found.met]
    if good:
        return min(good, key=lambda found: costs.growth(found.names))
    everything = _cheapest(noise, 0.0, costs)
    return tried.get(frozenset(everything)) or judged(everything)


def _between(tried: Collection[_Judged], noise: Mapping[str, float]) -> float:
    """Noise in the middle between the most that reached the aim and the least that did not."""
    left = {met: [_left(found.names, noise) for found in tried if found.met is met] for met in (True, False)}
    return (max(left[True], default=0.0) + min(left[False], default=0.0)) / 2


def _allowed(found: _Judged, noise: Mapping[str, float]) -> float:
    """What the noise of values in 8 bits may be, by what was judged: all else makes as much as it does there."""
    return _left(found.names, noise) + found.noise * (found.factor - 1.0)


def _left(names: Collection[str], noise: Mapping[str, float]) -> float:
    return math.fsum(own for name, own in noise.items() if name not in names)


def _cheapest(noise: Mapping[str, float], allowed: float, costs: _Costs) -> list[str]:
    """A set within the limits that leaves at most the noise `allowed`, or as little as it can.

    By noise for cost one value after the other is taken. At each step the cheapest one that would be enough ends a set
    as well, and of the sets, without what they can spare, the cheapest counts.
    """
    taken: list[str] = []
    growth = {name: costs.growth([name]) for name in noise}
    sets = []
    while _left(taken, noise) > allowed:
        rest = [name for name in noise if name not in taken and costs.within([*taken, name])]
        if not rest:
            break
        enough = [name for name in rest if _left([*taken, name], noise) <= allowed]
        if enough:
            sets.append([*taken, min(enough, key=lambda name: growth[name])])
        taken = [*taken, _best(rest, taken, noise, growth, costs)]
    else:
        sets.append(taken)
    return min((_pruned(found, noise, allowed, costs) for found in sets), key=costs.growth) if sets else taken


def _best(
    rest: Sequence[str], taken: Sequence[str], noise: Mapping[str, float], growth: dict[str, float], costs: _Costs
) -> str:
    """The one with the most noise for what it costs beside `taken`, of which `growth` holds what was last known."""
    fresh: set[str] = set()
    while True:
        best = max(rest, key=lambda name: noise[name] / max(growth[name], _CHEAP))
        if best in fresh:
            return best
        growth[best] = costs.growth([*taken, best]) - costs.growth(taken)
        fresh.add(best)


def _pruned(names: Sequence[str], noise: Mapping[str, float], allowed: float, costs: _Costs) -> list[str]:
    """Without what is not needed, the dearest first."""
    kept = list(names)
    saved = {name: costs.growth(kept) - costs.growth([other for other in kept if other != name]) for name in kept}
    for name in sorted(kept, key=lambda name: -saved[name]):
        fewer = [other for other in kept if other != name]
        if _left(fewer, noise) <= allowed and costs.growth(fewer) <= costs.growth(kept) and costs.within(fewer):
            kept = fewer
    return kept


def _noise(judge: Judge, form: Form, start: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """What the 8 bits of each of `names` do to held-out samples where all others have 16."""
    whole = judge.held(form, [*start, *names])
    noise = {}
    for name in names:
        without = judge.held(form, [*start, *(other for other in names if other != name)])
        noise[name] = judge.noise(whole - without)
        _progress(len(noise), len(names))
    _progress(0, 0)
    return noise


def _possible(model: onnx.ModelProto, form: Form, start: Sequence[str]) -> list[str]:
    """Names of further inputs and nodes whose 16 bits every reader can take: of some the sums would leave 32 bits."""
    found = []
    names = [*(value.name for value in model.graph.input), *(name for name, _ in wide_values(model))]
    for name in (name for name in names if name not in start):
        try:
            lower(form([name]))
        except ModelError:
            continue
        found.append(name)
    return found


def _free(names: Sequence[str], noise: Mapping[str, float], costs: _Costs) -> bool:
    """Whether RAM keeps no value in 8 bits."""
    return all(name in names or costs.within([*names, name]) for name in noise)


def _both(found: _Judged, noise: Mapping[str, float], costs: _Costs, aim: Aim) -> ConfigError:
    """That aim and RAM cannot be had together, and what each of them lacks."""
    free = costs.without_limit()
    size = costs.of(_cheapest(noise, max(_allowed(found, noise), 0.0), free)).ram
    reached = f"{found.outlook.text(aim)} can be expected within it, {aim.text()} is wanted"
    return ConfigError(
        f"int16 'auto' does not reach the aim within ram={aim.ram:,} bytes: {reached}",
        hint=f"what reaches it has {size:,} bytes alive at once, {size - (aim.ram or 0):,} too many",
    )


def _found(
    form: Form,
    start: Sequence[str],
    before: _Judged,
    after: _Judged,
    noise: Mapping[str, float],
    costs: _Costs,
    aim: Aim,
) -> Found:
    """What is told of the set."""
    layers = layer_names(form(()))
    whole = costs.of(after.names)
    cores = precision_cost.on_cores(lower(form([*start, *after.names]))) if after.names else {}
    values = []
    for name in after.names:
        fewer = [other for other in after.names if other != name]
        less = costs.of(fewer)
        without = precision_cost.on_cores(lower(form([*start, *fewer])))
        values.append(
            Value(
                layer=layers.get(name, name),
                gain_db=_gain(after.noise + noise[name], after.noise),
                products=(whole.wide - less.wide) / max(whole.products, 1),
                ram=whole.ram - less.ram,
                constants=whole.flash - less.flash,
                cycles={cpu: cores[cpu].cycles - without[cpu].cycles for cpu in cores},
                flash={cpu: cores[cpu].flash - without[cpu].flash for cpu in cores},
            )
        )
    rest = sorted((name for name in noise if name not in after.names), key=lambda name: -noise[name])
    # Measured one by one they may be more than the whole: of more than 10 dB nothing is known.
    least = after.noise / 10
    further = {layers.get(name, name): _gain(after.noise, max(after.noise - noise[name], least)) for name in rest}
    return Found(
        names=(*start, *after.names),
        paste=tuple(layers.get(name, name) for name in (*start, *after.names)),
        aim=aim,
        before=before.outlook,
        after=after.outlook,
        met=after.met,
        values=tuple(sorted(values, key=lambda value: -value.gain_db)),
        further=further,
        cycles={cpu: cores[cpu].cycles for cpu in cores},
        ram=whole.ram,
    )


def _gain(before: float, after: float) -> float:
    """dB between two noises; 0 where there is none."""
    return 10 * math.log10(before / after) if after > 0 else 0.0


def _progress(count: int, of: int) -> None:
    if sys.stderr.isatty():
        text = f"\rmeasuring 16 bits: {count} of {of}" if count else "\r" + " " * 40 + "\r"
        print(text, end="", file=sys.stderr, flush=True)
