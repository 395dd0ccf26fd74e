"""How sums become outputs in assembly where activations have 16 bits: one product, rounded once, as the reference does.

Cores with SMMULR do it in one instruction; ARMv6-M puts the product together from halves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nnbuild.contract import LayerView
from nnbuild.fixedpoint import wrap32
from nnbuild.network import Array
from nnbuild.placeholder import is_placeholder, placeholder


@dataclass(frozen=True, slots=True)
class Upper:
    """The form of a layer: what `fixedpoint.scale_upper` does, in `bits` for an output.

    A channel has two integers, its bias times 2^left and its multiplier. An output is the upper half of
    ((sum << left) + bias) * multiplier, rounded to nearest, plus `zero`, clamped to [low, high].
    """

    left: int
    zero: int
    low: int
    high: int
    bits: int
    size: ClassVar[int] = 2

    @property
    def saturates(self) -> bool:
        """Whether outputs are clamped to what their type holds, or to what of it is not negative."""
        half = 1 << self.bits - 1
        return self.high == half - 1 and self.low in (0, -half)


def requantization(view: LayerView, weights: Array, raised: int = 0, from_lowest: bool = False) -> tuple[Upper, Array]:
    """The form of a layer, and (channels, 2) int32 for sums of raw inputs plus `raised`; modulo 2^32, as sums are.

    `weights` is (channels, taps). With `from_lowest` sums count from the smallest that they can be.
    """
    params, constants = view.params, view.constants
    form = Upper(params.left, params.output_zero_point, params.activation_min, params.activation_max, params.bits)
    if any(is_placeholder(array) for array in (weights, *constants.values())):
        return form, placeholder((len(weights), form.size), np.int32)
    taps = weights.astype(np.int64)
    folded = constants["bias"].astype(np.int64) - (params.input_zero_point + raised) * taps.sum(axis=1)
    if from_lowest:
        low, high = (limit + raised for limit in view.inputs[0].quant.limits)
        folded += np.minimum(taps * low, taps * high).sum(axis=1)
    bias = wrap32(folded << params.left).astype(np.int32)
    return form, np.stack([bias, constants["multiplier"]], axis=1)
