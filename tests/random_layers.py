"""Random single layers with windows: odd channels, rows, strides, uneven pads, dilation. What cases by hand forget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnbuild.contract import Case
from nnbuild.errors import NNBuildError
from nnbuild.network import QuantParams
from nnbuild.ops import singles

MAX_WEIGHTS = 12000
POOLS = {"max": "MaxPool", "average": "AveragePool"}
KINDS = ("conv", "conv", "depthwise", "depthwise", "grouped", "matmul", *POOLS)


class _Dice:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def channels(self) -> int:
        """Few, some, many, or what vectors like."""
        few, some, many = self.number(1, 5), self.number(6, 36), self.number(100, 140)
        return int(self.rng.choice([few, some, many, 4, 8, 16], p=[0.35, 0.25, 0.05, 0.15, 0.1, 0.1]))

    def window(self, shape: tuple[int, int]) -> dict[str, Any] | None:
        """Attributes of a Conv or a pool over `shape`; None where no window fits."""
        kernel = [self.number(1, min(5, shape[0])), self.number(1, 5)]
        kernel = [min(3, shape[0]), 3] if self.chance(0.3) else [1, 1] if self.chance(0.15) else kernel
        stride = [self.number(1, 3), self.number(1, 3)] if self.chance(0.4) else [self.number(1, 2)] * 2
        dilation = [1, 1] if self.chance(0.8) else [self.number(1, 2), self.number(1, 2)]
        before, after = [0, 0], [0, 0]
        for axis in (0, 1) if self.chance(0.6) else ():
            reach = (kernel[axis] - 1) * dilation[axis]
            before[axis] = self.number(0, reach // 2 + reach % 2)
            after[axis] = min(before[axis] + self.number(0, 1), reach) if self.chance(0.7) else self.number(0, reach)
        spans = [shape[a] + before[a] + after[a] - (kernel[a] - 1) * dilation[a] for a in (0, 1)]
        pads = before + after
        found = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "pads": pads}
        return found if min(spans) > 0 else None

    def types(self, wide: bool) -> tuple[QuantParams, QuantParams]:
        """Of input and output; with `wide` one of them is int16, or both are."""
        quant = QuantParams(0.05, self.number(-128, 127))
        output = QuantParams(float(self.rng.choice([0.05, 0.1, 0.3, 1.0])), self.number(-128, 127))
        if not wide:
            return quant, output
        which = self.number(0, 2)
        fine = float(self.rng.choice([0.00003, 0.0002, 0.001, 0.004]))
        source = quant if which == 0 else QuantParams(0.0002, 0, "int16")
        return source, output if which == 1 else QuantParams(fine, 0, "int16")

    def case(self, name: str, wide: bool = False) -> Case | None:
        """A layer of any kind, with `wide` with int16 values; None where the dice do not fit together."""
        quant, output = self.types(wide)
        clamp: tuple[Any, ...] = ("Relu",) if self.chance(0.3) else ()
        if wide and self.chance(0.2):
            clamp = ("Clip", -90 * output.scale, 77 * output.scale)
        shape = (1, self.number(1, 24)) if self.chance(0.4) else (self.number(1, 9), self.number(1, 9))
        kind = str(self.rng.choice(KINDS[:-2] if wide else KINDS))
        if kind == "matmul":
            rows, count, outputs = self.number(1, 4), self.number(1, 70), self.number(1, 40)
            product = (1, rows, count), (count, outputs)
            return singles.weighted(name, "MatMul", *product, 1, quant, output, clamp=clamp, bias=False)
        window = self.window(shape)
        if window is None:
            return None
        if kind in POOLS:
            return singles.unary(name, POOLS[kind], (1, self.channels(), *shape), quant, quant, window, clamp)
        inputs, outputs, groups = self.connections(kind)
        weights = (outputs, inputs // groups, *window["kernel_shape"])
        if np.prod(weights) > MAX_WEIGHTS:
            return None
        attributes, bias = {**window, "group": groups}, self.chance(0.8)
        sizes = (1, inputs, *shape), weights
        return singles.weighted(name, "Conv", *sizes, 0, quant, output, attributes, clamp, bias=bias)

    def connections(self, kind: str) -> tuple[int, int, int]:
        """(input channels, output channels, groups) of a convolution."""
        if kind == "grouped":
            groups = self.number(2, 4)
            return groups * self.number(1, 5), groups * self.number(1, 5), groups
        inputs = self.channels()
        return (inputs, inputs, inputs) if kind == "depthwise" else (inputs, self.channels(), 1)


def cases(seed: int, count: int, wide: bool = False) -> Iterator[Case]:
    """`count` layers, `wide` with int16 values; those that nnbuild refuses in words are no test of kernels."""
    dice = _Dice(seed)
    found = 0
    while found < count:
        try:
            case = dice.case(f"random_{seed}_{found}", wide)
        except NNBuildError:
            continue
        if case is not None:
            found += 1
            yield Case(case.name, case.network, tuple(values[[0, 3, 5]] for values in case.inputs))
