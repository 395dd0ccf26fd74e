"""Add, Mul, Min and Max of two tensors of one layout."""

from __future__ import annotations

from nnbuild.contract import Kernel, LayerView, Source
from nnbuild.kernels.cmsis_nn.call import INCLUDES, kernel
from nnbuild.network import INT8_MAX, INT8_MIN
from nnbuild.target import Target


def _flat(view: LayerView, target: Target) -> str | None:
    """Elementwise kernels walk both inputs and the output in one order."""
    loops = view.params.loops
    return None if len(loops) == 1 and loops[0][1:] == (1, 1) else "no broadcasting or change of layout"


def _add(view: LayerView, target: Target) -> Source:
    from nnbuild.ops.add import LEFT_SHIFT

    values = {"p": view.params, "second": _second(view), "left_shift": LEFT_SHIFT, "size": view.output.size}
    return Source("cmsis_nn_add.c.j2", values, dict(view.constants), INCLUDES)


def _add_supports(view: LayerView, target: Target) -> str | None:
    return _flat(view, target) if view.params.signs == (1, 1) else "no subtraction"


ADD = kernel(_add, lambda view, target: "arm_elementwise_add_s8", _add_supports)


def _mul(view: LayerView, target: Target) -> Source:
    values = {"p": view.params, "second": _second(view), "size": view.output.size}
    return Source("cmsis_nn_mul.c.j2", values, dict(view.constants), INCLUDES)


def _second(view: LayerView) -> str:
    return "operand" if "operand" in view.constants else "input2"


MUL = kernel(_mul, lambda view, target: "arm_elementwise_mul_s8", _flat)


def _extremum_supports(view: LayerView, target: Target) -> str | None:
    if (view.params.activation_min, view.params.activation_max) != (INT8_MIN, INT8_MAX):
        return "it has no clamp"
    return _flat(view, target)


def _extremum(function: str) -> Kernel:
    def render(view: LayerView, target: Target) -> Source:
        values = {"function": function, "second": _second(view), "size": view.output.size}
        return Source("cmsis_nn_extremum.c.j2", values, dict(view.constants), INCLUDES)

    return kernel(render, lambda view, target: function, _extremum_supports)


MINIMUM = _extremum("arm_minimum_s8")
MAXIMUM = _extremum("arm_maximum_s8")
