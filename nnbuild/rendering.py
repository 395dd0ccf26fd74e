"""Templates: what they may say, the C functions that their text calls, and functions in assembly as text."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib import resources

import jinja2

from nnbuild import cnames, static_cost
from nnbuild.contract import Assembly
from nnbuild.kernels import armv6m
from nnbuild.kernels.exact_requantize import Form
from nnbuild.target import Target


def helpers(texts: Sequence[str], target: Target, single_rounding: bool) -> list[str]:
    """The functions of `csrc` that `texts` call and those that they call, callees first, each for this core."""
    found: dict[str, str] = {}

    def visit(text: str) -> None:
        for helper in sorted(set(re.findall(r"\bnn_\w+(?=\()", text)) - set(found)):
            own = _helper(helper, target, single_rounding)
            visit(own.partition("static inline")[2].partition("(")[2])
            found.setdefault(helper, own)

    for text in texts:
        visit(text)
    return list(found.values())


def _helper(name: str, target: Target, single_rounding: bool) -> str:
    """One file of `csrc`, without its licence line; the form for single rounding and for ARMv6-M where there is one."""
    folder = resources.files("nnbuild") / "csrc"
    endings = [
        f"{rounding}{core}.h"
        for rounding in (["_single", ""] if single_rounding else [""])
        for core in (["_armv6m", ""] if target.armv6m else [""])
    ]
    path = next(path for path in (folder / f"{name}{ending}" for ending in endings) if path.is_file())
    return path.read_text(encoding="utf-8").partition("*/\n")[2].strip("\n")


def assembly_text(assembly: Assembly, symbol: str = "f") -> str:
    """The function in assembly, without what declares it."""
    return environment().get_template(assembly.template).render(assembly.values, symbol=symbol).strip("\n")


def assembly_range(assembly: Assembly, cpu: str, times: int = 1) -> static_cost.Range | None:
    """Cycles that the function takes in one inference, which computes the layer so many `times`.

    Instructions where the core has no timings.
    """
    if not assembly.runs:
        return None
    text, known = assembly_text(assembly), static_cost.unit(cpu) == "cycles"
    found = []
    for once in (assembly.runs, assembly.unaligned or assembly.runs):
        runs = {label: count * times for label, count in once.items()}
        found.append(static_cost.cycles(text, "f", cpu, runs) if known else static_cost.instructions(text, "f", runs))
    return static_cost.Range(min(each.least for each in found), max(each.most for each in found))


@functools.cache
def environment() -> jinja2.Environment:
    """All templates of the package, of operators and kernels too, with the filters that they use."""
    folder = resources.files("nnbuild")
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(folder / name) for name in ("ops", "kernels", "templates")]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    filters = {
        "comment": cnames.comment,
        "plus": _plus,
        "times": _times,
        "step": _step,
        "literal": _literal,
        "product": _product,
        "constant": _constant,
    }
    made.filters |= filters
    return made


def _plus(value: int) -> str:
    """` + 5`, ` - 5`, or nothing for 0."""
    return "" if value == 0 else f" {'+' if value > 0 else '-'} {abs(value)}"


def _times(value: int) -> str:
    """` * 2`, or nothing for 1."""
    return "" if value == 1 else f" * {value}"


def _step(variable: str, by: int) -> str:
    """`i++`, or `i += 2`."""
    return f"{variable}++" if by == 1 else f"{variable} += {by}"


def _product(line: Form, above: str, factors: str, offset: str) -> str:
    """The product with a line's slope and its offset, by the helper that it needs."""
    arguments = f"{above}, {factors}, {offset}"
    return f"nn_scale_wide({arguments})" if line.wide else f"nn_scale({arguments}, {line.low}, {line.dropped})"


def _constant(register: str, value: int) -> str:
    return "\n".join(f"    {line}" for line in armv6m.constant(register, value))


def _literal(value: int) -> str:
    """`5`, or `(-5)`."""
    return str(value) if value >= 0 else f"({value})"
