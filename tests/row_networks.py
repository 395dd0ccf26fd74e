"""Random small networks that go by rows: windows of all kinds, branches that meet, pools, and what stands around them.

The layers that can go row by row are named from "first" to "last"; one may stand in front of them and one behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from nnbuild import fixedpoint, layout
from nnbuild.contract import Case
from nnbuild.network import Array, Layer, Network, Port, QuantParams, Tensor
from nnbuild.ops.add import AddParams
from nnbuild.ops.average_pool import AveragePoolParams
from nnbuild.ops.clamp import ClampParams
from nnbuild.ops.conv2d import Conv2DParams
from nnbuild.ops.depthwise_conv2d import DepthwiseConv2DParams
from nnbuild.ops.lookup import LookupParams
from nnbuild.ops.max_pool import MaxPoolParams
from nnbuild.ops.spatial import Window
from nnbuild.ram import rows
from nnbuild.ram.rows import Run, Way

Map = tuple[int, int, int]
SEGMENT = "first-last"
_FIRST = Way()


@dataclass
class Maker:
    """A network under construction; `draw` is hypothesis'."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    rng: np.random.Generator
    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def quant(self) -> QuantParams:
        return QuantParams(0.05, self.draw(st.sampled_from([-128, 127, -5, 0, 31])))

    def layer(
        self, op: str, inputs: tuple[str, ...], shape: Map, quant: QuantParams, params: Any, **constants: Array
    ) -> str:
        name = f"t{len(self.layers)}"
        self.tensors[name] = Tensor(name, shape, quant)
        self.layers.append(Layer(f"l{len(self.layers)}_{op}", op, inputs, name, params, constants, op))
        return name

    def window(self, shape: Map, pads: bool, same: bool = False, dilates: bool = True) -> Window:
        """Any window over `shape`, or one whose output is as large."""
        pairs: list[tuple[int, ...]] = []
        for size in shape[:2]:
            for _ in range(100):
                kernel, stride = self.number(1, 5), 1 if same else self.number(1, 3)
                dilation = self.number(1, 2) if dilates else 1
                extent = (kernel - 1) * dilation + 1
                before = extent // 2 if same else self.number(0, extent - 1) if pads else 0
                behind = extent - 1 - before if same else self.number(0, extent - 1) if pads else 0
                length = (size + before + behind - extent) // stride + 1
                # Not too many windows that hold nothing but padding: a pool has none.
                if length > 0 and size >= extent - max(before, behind) and (length - 1) * stride - before < size:
                    break
            else:
                kernel, stride, dilation, before, behind, length = 1, 1, 1, 0, 0, size
            pairs.append((kernel, stride, dilation, before, behind, length))
        columns = [(int(a), int(b)) for a, b in zip(*pairs, strict=True)]
        kernel_, stride_, dilation_, pad, pad_end, output = columns
        return Window(shape, output, kernel_, stride_, dilation_, pad, pad_end)

    def convolution(self, name: str, same: bool = False) -> str:
        """conv2d with or without groups, or depthwise."""
        shape, quant, output = self.shape(name), self.tensors[name].quant, self.quant()
        place = self.window(shape, pads=True, same=same)
        depthwise = self.draw(st.booleans())
        count = shape[2] if depthwise or same else self.number(1, 6)
        fan = math.prod(place.kernel) * (1 if depthwise else shape[2])
        low = output.zero_point if self.draw(st.booleans()) else -128
        shift = -6 - round(math.log2(fan) / 2)
        constants = {
            "weights": self.rng.integers(
                -127, 128, (*place.kernel, count) if depthwise else (count, *place.kernel, shape[2])
            ),
            "bias": self.rng.integers(-9000, 9000, count),
            "multiplier": self.rng.integers(2**30, 2**31 - 1, count),
            "shift": np.full(count, shift),
        }
        kinds = {"weights": np.int8, "bias": np.int32, "multiplier": np.int32, "shift": np.int8}
        typed = {key: array.astype(kinds[key]) for key, array in constants.items()}
        rest = (quant.zero_point, output.zero_point, low, 127)
        params: Any = DepthwiseConv2DParams(place, *rest) if depthwise else Conv2DParams(place, count, 1, *rest)
        op = "depthwise_conv2d" if depthwise else "conv2d"
        return self.layer(op, (name,), (*place.output, count), output, params, **typed)

    def pool(self, name: str) -> str:
        shape, quant = self.shape(name), self.tensors[name].quant
        if self.draw(st.booleans()):
            place = self.window(shape, pads=True)
            if place.inside(pads_count=False).min() > 0:
                return self.layer(
                    "max_pool", (name,), (*place.output, shape[2]), quant, MaxPoolParams(place, -128, 127)
                )
        place = self.window(shape, pads=False, dilates=False)
        params = AveragePoolParams(place, False, False, quant.zero_point, quant.zero_point, -128, 127)
        return self.layer("average_pool", (name,), (*place.output, shape[2]), quant, params)

    def mean(self, name: str) -> str:
        """Over all of space, with the scale of its input or another."""
        shape, quant = self.shape(name), self.tensors[name].quant
        place = Window(shape, (1, 1), shape[:2], (1, 1), (1, 1), (0, 0), (0, 0))
        count, output = shape[0] * shape[1], self.quant()
        if self.draw(st.booleans()):
            params = AveragePoolParams(place, False, False, quant.zero_point, quant.zero_point, -128, 127)
            return self.layer("average_pool", (name,), (1, 1, shape[2]), quant, params)
        params = AveragePoolParams(place, False, True, quant.zero_point, output.zero_point, -128, 127)
        multiplier, shift = np.zeros(count + 1, np.int32), np.zeros(count + 1, np.int8)
        multiplier[count], shift[count] = fixedpoint.quantize_multiplier(0.9 / count, 255 * count)
        return self.layer("average_pool", (name,), (1, 1, shape[2]), output, params, multiplier=multiplier, shift=shift)

    def table(self, name: str) -> str:
        values = self.rng.integers(-128, 128, 256).astype(np.int8)
        size = self.tensors[name].size
        return self.layer("lookup", (name,), self.shape(name), self.quant(), LookupParams(size), table=values)

    def branches(self, name: str) -> str:
        """Two ways of different length that meet in a sum."""
        ends: list[str] = []
        for most in (3, 2):
            end = name
            for _ in range(self.number(0 if ends and ends[0] != name else 1, most)):
                end = self.convolution(end, same=True)
            ends.append(end)
        size, output = self.tensors[name].size, self.quant()
        params = AddParams(
            loops=layout.loops(np.arange(size), np.arange(size)) or (),
            signs=(1, 1),
            zero_points=(self.tensors[ends[0]].quant.zero_point, self.tensors[ends[1]].quant.zero_point),
            multipliers=(1 << 30, 1 << 30),
            shifts=(0, 0),
            output_multiplier=1 << 30,
            output_shift=-18,
            output_zero_point=output.zero_point,
            activation_min=-128,
            activation_max=127,
        )
        return self.layer("add", (ends[0], ends[1]), self.shape(name), output, params)

    def of_height(self, make: Callable[[str], str], name: str, least: int) -> str:
        """What `make` makes of a tensor; the tensor itself where that would have fewer rows."""
        count = len(self.layers)
        end = make(name)
        if self.shape(end)[0] >= least:
            return end
        del self.layers[count:]
        return name

    def shape(self, name: str) -> Map:
        height, width, channels = self.tensors[name].shape
        return height, width, channels


def run_of(network: Network, way: Way = _FIRST) -> Run:
    """The segment from "first" to "last"."""
    names = [layer.name for layer in network.layers]
    return Run(names.index("first"), names.index("last"), way)


@st.composite
def cases(draw: st.DrawFn, samples: int = 3, way: Way = _FIRST, pushed: bool = False) -> Case:
    """A network with a segment from "first" to "last" that can go this `way`, and inputs."""
    maker = Maker(draw, np.random.default_rng(draw(st.integers(0, 2**20))))
    least = way.together
    shape = (maker.number(least, 14), maker.number(1, 6), draw(st.sampled_from([1, 2, 3, 4, 5, 8])))
    maker.tensors["x"] = Tensor("x", shape, maker.quant())
    end = "x"
    if not pushed and draw(st.booleans()):
        end = maker.layer("clamp", (end,), shape, maker.tensors[end].quant, ClampParams(math.prod(shape), -100, 90))
    before = len(maker.layers)
    end = maker.convolution(end, same=maker.shape(end)[0] < 4 * least)
    for _ in range(maker.number(1, 4)):
        end = maker.of_height(
            draw(st.sampled_from([maker.convolution, maker.branches, maker.pool, maker.table])), end, least
        )
    # Rows that come together are all of a result, but of a mean.
    end = maker.mean(end) if draw(st.booleans()) or maker.shape(end)[0] % least else end
    behind = len(maker.layers)
    assume(behind - before > 1)
    if draw(st.booleans()):
        size = maker.tensors[end].size
        end = maker.layer("clamp", (end,), maker.shape(end), maker.tensors[end].quant, ClampParams(size, -120, 120))
    names = {before: "first", behind - 1: "last"}
    layers = tuple(replace(layer, name=names.get(index, layer.name)) for index, layer in enumerate(maker.layers))
    port = Port("x", "x", shape, "height, width, channels")
    output = Port("y", end, maker.shape(end), "height, width, channels")
    network = Network(maker.tensors, layers, (port,), (output,))
    network.verify()
    # A pool that happens to be a mean of all rows goes by rows at the end only.
    assume(rows.segment(network, run_of(network, way), pushed) is not None)
    values = [np.full(math.prod(shape), corner, np.int8) for corner in (-128, 127)]
    values += [maker.rng.integers(-128, 128, math.prod(shape)).astype(np.int8) for _ in range(samples - 2)]
    return Case("rows", network, (np.array(values),))
