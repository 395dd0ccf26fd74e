"""Additions in assembly for MVE: both operands in one sum of 32 bits, four outputs at a time.

The sum is `ops.add.plane`, proved for all pairs of inputs; additions without one are the portable C.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from nnbuild import layout
from nnbuild.contract import Assembly, LayerView, Source
from nnbuild.kernels import mve
from nnbuild.ops import broadcast
from nnbuild.target import Target

SUM = (
    *("const int8_t *first", "const int8_t *second", "int8_t *output"),
    *("const int32_t *plane", "int32_t count"),
)
LANES = 4


def supports(view: LayerView, target: Target) -> str | None:
    """As mve.py; and operands that are walked byte by byte in the innermost loop."""
    aside = None if view.params.loops[-1][1:] == (1, 1) else "its operands do not lie side by side"
    return mve.supports(view, target) or aside


def render(view: LayerView, target: Target) -> Source:
    """One call for each run of the innermost loop."""
    from nnbuild.ops import add

    params = view.params
    plane = add.plane(params)
    if plane is None:
        return add.render(view, target)
    outer, count = params.loops[:-1], params.loops[-1][0]
    own = broadcast.source(view, "mve_add.c.j2", away=plane.away, shift=plane.shift, count=count)
    places = [layout.expression(outer, position) for position in (0, 1)]
    names = ("input", "operand" if "operand" in view.constants else "input2")
    first, second = (name if at == "0" else f"&{name}[{at}]" for name, at in zip(names, places, strict=True))
    form = {"low": params.activation_min, "high": params.activation_max, "away": plane.away}
    form["zero_point"] = params.output_zero_point if plane.away else 0
    runs = {"call": _calls(view), "four": _calls(view) * -(-count // LANES)}
    function = Assembly("mve_add.S.j2", "sum", "void", SUM, form, 50 if plane.away else 42, runs)
    numbers = np.array([*plane.factors, plane.offset, -plane.shift], np.int32)
    values = {**own.values, "first": first, "second": second}
    return replace(own, values=values, data={**own.data, "plane": numbers}, assembly=(function,))


def _calls(view: LayerView) -> int:
    return math.prod(dim[0] for dim in view.params.loops[:-1])


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Calls of mve_add.S.j2, and its loop."""
    return {"run": _calls(view), "four": _calls(view) * -(-view.params.loops[-1][0] // LANES)}
