"""Exact shrinking: fewer channels and layers, the same bytes for every input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnbuild import fixedpoint, interpret
from nnbuild.contract import Case, LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import KernelError
from nnbuild.lower import lower
from nnbuild.network import Array, Layer, Network, Port, QuantParams, Tensor
from nnbuild.ops import ALL, BY_NAME, channels
from nnbuild.ops.add import AddParams
from nnbuild.ops.average_pool import AveragePoolParams
from nnbuild.ops.clamp import ClampParams
from nnbuild.ops.conv2d import Conv2DParams
from nnbuild.ops.depthwise_conv2d import DepthwiseConv2DParams
from nnbuild.ops.fully_connected import FullyConnectedParams
from nnbuild.ops.lookup import LookupParams
from nnbuild.ops.spatial import Window
from nnbuild.ops.transpose import copy
from nnbuild.placeholder import placeholder
from nnbuild.shrink import Removed, known_intervals, shrink

from . import host
from .random_networks import RandomNetwork, networks
from .test_fuzz_networks import examples, lowered
from .test_reference_networks import quantized

ZERO = -11
"""Zero point of every tensor: not that of padding by chance."""
FAR = 1 << 20
"""A bias that no sum of a test comes up to."""
IDENTITY = np.arange(-128, 128).astype(np.int8)
CASES = [case for operator in ALL for case in operator.cases()]


@dataclass
class Maker:
    """A network by hand, a layer a call. Every layer has ReLU: what never fires is ZERO."""

    shape: tuple[int, ...] = (5, 4, 6)
    seed: int = 1
    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.tensors["x"] = Tensor("x", self.shape, QuantParams(0.1, ZERO))

    def layer(
        self,
        op: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        params: Any,
        constants: Mapping[str, Array] | None = None,
    ) -> str:
        name = f"l{len(self.layers):02d}_{op}"
        self.tensors[name] = Tensor(name, shape, QuantParams(0.1, ZERO))
        self.layers.append(Layer(name, op, tuple(inputs), name, params, constants or {}, f"node{len(self.layers)}"))
        return name

    def weighted(self, shape: tuple[int, ...], count: int) -> dict[str, Array]:
        return {
            "weights": self.rng.integers(-127, 128, shape).astype(np.int8),
            "bias": self.rng.integers(-3000, 3000, count).astype(np.int32),
            "multiplier": self.rng.integers(2**30, 2**31 - 1, count).astype(np.int32),
            "shift": self.rng.integers(-8, -4, count).astype(np.int8),
        }

    def window(self, source: str, kernel: int, pad: int) -> Window:
        height, width, count = self.tensors[source].shape
        out = (height + 2 * pad - kernel + 1, width + 2 * pad - kernel + 1)
        square = (kernel, kernel)
        return Window((height, width, count), out, square, (1, 1), (1, 1), (pad, pad), (pad, pad))

    def conv(self, source: str, count: int, kernel: int = 1, pad: int = 0) -> str:
        place = self.window(source, kernel, pad)
        params = Conv2DParams(place, count, 1, ZERO, ZERO, ZERO, 127)
        constants = self.weighted((count, kernel, kernel, place.input[2]), count)
        return self.layer("conv2d", [source], (*place.output, count), params, constants)

    def depthwise(self, source: str, kernel: int = 3, pad: int = 1) -> str:
        place = self.window(source, kernel, pad)
        count = place.input[2]
        constants = self.weighted((kernel, kernel, count), count)
        params = DepthwiseConv2DParams(place, ZERO, ZERO, ZERO, 127)
        return self.layer("depthwise_conv2d", [source], (*place.output, count), params, constants)

    def pool(self, source: str) -> str:
        height, width, count = self.tensors[source].shape
        place = Window((height, width, count), (1, 1), (height, width), (1, 1), (1, 1), (0, 0), (0, 0))
        params = AveragePoolParams(place, False, False, ZERO, ZERO, -128, 127)
        return self.layer("average_pool", [source], (1, 1, count), params)

    def dense(self, source: str, count: int) -> str:
        size = self.tensors[source].size
        params = FullyConnectedParams(1, size, count, ZERO, ZERO, -128, 127)
        return self.layer("fully_connected", [source], (count,), params, self.weighted((count, size), count))

    def lookup(self, source: str, table: Array) -> str:
        tensor = self.tensors[source]
        return self.layer("lookup", [source], tensor.shape, LookupParams(tensor.size), {"table": table})

    def clamp(self, source: str, low: int, high: int) -> str:
        tensor = self.tensors[source]
        return self.layer("clamp", [source], tensor.shape, ClampParams(tensor.size, low, high))

    def add(self, first: str, second: str) -> str:
        tensor = self.tensors[first]
        half = (2**30, 2**30)
        loops = ((tensor.size, 1, 1),)
        params = AddParams(loops, (1, 1), (ZERO, ZERO), half, (0, 0), 2**30, -18, ZERO, ZERO, 127)
        return self.layer("add", [first, second], tensor.shape, params)

    def constant(self, name: str, count: int, value: int) -> None:
        """The first `count` output channels of a layer hold nothing but `value`, ZERO or 127."""
        bias = self.of(name).constants["bias"]
        bias[:count] = -FAR if value == ZERO else FAR
        self.of(name).constants["shift"][:count] = -6

    def of(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def network(self, *outputs: str) -> Network:
        inputs = (Port("x", "x", (1, *self.shape), "NHWC"),)
        ports = tuple(Port(name, name, (1, *self.tensors[name].shape), "NHWC") for name in outputs)
        network = Network(dict(self.tensors), tuple(self.layers), inputs, ports)
        network.verify()
        return network


def samples(network: Network, count: int = 6) -> list[list[Array]]:
    """The corners, then random bytes."""
    rng = np.random.default_rng(3)
    sizes = [network.tensors[port.tensor].size for port in network.inputs]
    rows = [[np.full(size, corner, np.int8) for size in sizes] for corner in (-128, 127, ZERO)]
    return rows + [[rng.integers(-128, 128, size).astype(np.int8) for size in sizes] for _ in range(count)]


def differ(before: Network, after: Network, inputs: Sequence[Sequence[Array]] | None = None) -> int:
    """Output bytes that are not the same; states run on from sample to sample."""
    wrong = 0
    states: tuple[interpret.States, interpret.States] = ({}, {})
    for sample in samples(before) if inputs is None else inputs:
        pairs = zip(interpret.run(before, sample, states[0]), interpret.run(after, sample, states[1]), strict=True)
        for one, other in pairs:
            assert one.shape == other.shape
            wrong += int((one != other).sum())
    return wrong


def shapes(network: Network) -> list[tuple[int, ...]]:
    return [network.tensors[layer.output].shape for layer in network.layers]


def shrunk(network: Network) -> Network:
    """The shrunk network, which gives the same bytes and does not shrink again."""
    small = shrink(network)
    assert differ(network, small) == 0
    assert shrink(small) is small
    return small


# --- channels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [ZERO, 127])
def test_constant_channels_join_the_bias_of_a_pointwise_convolution(value: int) -> None:
    make = Maker()
    first = make.conv("x", 7, 3, 1)
    make.constant(first, 3, value)
    small = shrunk(make.network(make.conv(first, 5)))
    assert shapes(small) == [(5, 4, 4), (5, 4, 5)]
    assert [layer.name for layer in small.layers] == ["l00_conv2d", "l01_conv2d"]
    assert [layer.constants["weights"].shape for layer in small.layers] == [(4, 3, 3, 6), (5, 1, 1, 4)]


@pytest.mark.parametrize(("value", "pad", "left"), [(ZERO, 1, 4), (127, 1, 7), (127, 0, 4)])
def test_at_a_border_only_the_zero_point_can_be_folded(value: int, pad: int, left: int) -> None:
    make = Maker()
    first = make.conv("x", 7)
    make.constant(first, 3, value)
    small = shrunk(make.network(make.conv(first, 5, 3, pad)))
    assert shapes(small)[0] == (5, 4, left)


def test_a_rule_that_forgot_padding_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    first = make.conv("x", 7)
    make.constant(first, 3, 127)
    network = make.network(make.conv(first, 5, 3, 1))
    monkeypatch.setattr(channels, "foldable", lambda interval, zero_point, pads: interval.constant)
    assert differ(network, shrink(network)) > 0


def test_an_interval_that_forgot_padding_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first channel holds 127, and so does a window on it that lies inside; at a border it does not."""
    make = Maker()
    first = make.conv("x", 4)
    make.constant(first, 1, 127)
    second = make.depthwise(first)
    constants = make.of(second).constants
    constants["weights"][..., 0], constants["bias"][0], constants["shift"][0] = 1, 50 - 6 * 138, 0
    network = make.network(make.conv(second, 3))
    assert shapes(shrunk(network))[1] == (5, 4, 4)
    monkeypatch.setattr(channels, "padded", lambda interval, zero_point: interval)
    assert differ(network, shrink(network)) > 0


def test_channels_that_nobody_reads_go_through_depthwise_layers() -> None:
    make = Maker()
    first = make.conv("x", 9, 3, 1)
    second = make.depthwise(first)
    third = make.conv(second, 4)
    make.of(third).constants["weights"][..., 2:6] = 0
    network = make.network(third)
    assert shapes(shrunk(network)) == [(5, 4, 5), (5, 4, 5), (5, 4, 4)]
    make.of(first).constants["weights"][2:6] = 99  # garbage in what is gone changes nothing
    make.of(second).constants["bias"][2:6] = 12345
    assert differ(network, shrink(make.network(third))) == 0


def test_a_dead_end_takes_the_layers_in_front_with_it() -> None:
    make = Maker()
    first = make.conv("x", 8, 3, 1)
    second = make.conv(first, 6)
    third = make.conv(second, 4)
    make.constant(second, 2, 127)
    make.of(second).constants["weights"][2:, ..., :5] = 0  # what only constant channels read
    make.of(second).constants["weights"][:2, ..., 5:] = 0
    assert shapes(shrunk(make.network(third))) == [(5, 4, 3), (5, 4, 4), (5, 4, 4)]


def test_a_map_that_is_flattened_loses_channels_in_front_of_a_fully_connected_layer() -> None:
    make = Maker()
    first = make.conv("x", 7)
    make.constant(first, 4, 127)
    small = shrunk(make.network(make.dense(first, 3)))
    assert [layer.constants["weights"].shape for layer in small.layers] == [(3, 1, 1, 6), (3, 60)]


def test_a_pool_a_table_and_a_clamp_lose_channels() -> None:
    make = Maker()
    first = make.conv("x", 7)
    make.constant(first, 2, 127)
    table = make.lookup(first, np.maximum(-IDENTITY.astype(np.int64) // 2, -50).astype(np.int8))
    small = shrunk(make.network(make.dense(make.pool(make.clamp(table, -40, 30)), 3)))
    assert shapes(small) == [(5, 4, 5), (5, 4, 5), (5, 4, 5), (1, 1, 5), (3,)]


def test_a_sum_keeps_what_either_side_needs() -> None:
    """Of the channels 0 to 2 on one side and 2 to 4 on the other only channel 2 is constant on both."""
    make = Maker()
    one, other = make.conv("x", 6), make.conv("x", 6)
    for name, dead in ((one, slice(0, 3)), (other, slice(2, 5))):
        make.of(name).constants["bias"][dead] = -FAR
        make.of(name).constants["shift"][dead] = -6
    small = shrunk(make.network(make.conv(make.add(one, other), 4)))
    assert shapes(small) == [(5, 4, 5)] * 3 + [(5, 4, 4)]


def test_a_residual_keeps_the_channels_of_the_models_input() -> None:
    make = Maker()
    first = make.conv("x", 6)
    make.constant(first, 3, ZERO)
    total = make.add("x", first)
    last = make.conv(total, 4)
    make.of(last).constants["weights"][..., 1] = 0
    small = shrunk(make.network(last))
    assert shapes(small) == [(5, 4, 6), (5, 4, 6), (5, 4, 4)]


def test_outputs_of_the_model_keep_their_shape() -> None:
    make = Maker()
    first = make.conv("x", 7)
    make.constant(first, 7, 127)
    network = make.network(first, make.conv(first, 5))
    small = shrunk(network)
    assert shapes(small) == shapes(network)


def test_a_tensor_keeps_one_channel() -> None:
    make = Maker()
    first = make.conv("x", 7)
    make.constant(first, 7, 127)
    assert shapes(shrunk(make.network(make.conv(first, 5)))) == [(5, 4, 1), (5, 4, 5)]


def test_another_reader_keeps_a_channel_and_its_bias() -> None:
    """One reader could fold the constant, the other is padded: the channel stays for both."""
    make = Maker()
    first = make.conv("x", 7)
    make.constant(first, 3, 127)
    small = shrunk(make.network(make.conv(first, 5), make.conv(first, 5, 3, 1)))
    assert shapes(small)[0] == (5, 4, 7)


def test_what_is_not_analysed_keeps_all() -> None:
    make = Maker()
    first = make.conv("x", 6)
    make.constant(first, 3, ZERO)
    params, constants = copy(np.arange(5 * 4 * 6).reshape(5, 4, 6).transpose(2, 0, 1).ravel())
    turned = make.layer("transpose", [first], (6, 5, 4), params, constants)
    network = make.network(make.dense(turned, 3))
    assert shrink(network) is network


def test_rows_that_are_no_whole_pixels_keep_all() -> None:
    make = Maker()
    first = make.conv("x", 6)
    make.constant(first, 3, ZERO)
    params = FullyConnectedParams(8, 15, 3, ZERO, ZERO, -128, 127)
    network = make.network(make.layer("fully_connected", [first], (8, 3), params, make.weighted((3, 15), 3)))
    assert shrink(network) is network
    rows = Maker()
    first = rows.conv("x", 6)
    rows.constant(first, 3, ZERO)
    params = FullyConnectedParams(10, 12, 3, ZERO, ZERO, -128, 127)
    network = rows.network(rows.layer("fully_connected", [first], (10, 3), params, rows.weighted((3, 12), 3)))
    assert [layer.constants["weights"].shape for layer in shrunk(network).layers] == [(3, 1, 1, 6), (3, 6)]


def test_a_sum_of_tensors_of_other_shapes_keeps_all() -> None:
    make = Maker()
    first = make.conv("x", 6)
    make.constant(first, 3, ZERO)
    network = make.network(make.conv(make.add(first, make.dense("x", 120)), 3))
    assert shrink(network) is network


def test_a_sum_that_walks_its_operands_in_other_orders_keeps_all() -> None:
    make = Maker()
    first = make.conv("x", 6)
    make.constant(first, 3, ZERO)
    total = make.add(first, first)
    layer = make.layers.pop()
    params = replace(layer.params, loops=((20, 6, 0), (6, 1, 1)))
    operand = {"operand": np.arange(6).astype(np.int8)}
    make.layers.append(replace(layer, inputs=(first,), params=params, constants=operand))
    network = make.network(make.conv(total, 3))
    assert shrink(network) is network


def test_one_rounding_or_two() -> None:
    make = Maker()
    first = make.conv("x", 8, 3, 1)
    make.constant(first, 3, ZERO)
    network = replace(make.network(make.conv(first, 5, 3, 1)), single_rounding=True)
    assert shapes(shrunk(network))[0] == (5, 4, 5)


# --- layers ------------------------------------------------------------------------------------------------------


def test_equal_layers_are_computed_once() -> None:
    make = Maker()
    one, other = make.conv("x", 6), make.conv("x", 6)
    make.of(other).constants.update(make.of(one).constants)  # type: ignore[attr-defined]
    behind = [make.conv(one, 4), make.conv(other, 4)]
    small = shrunk(make.network(*behind))
    assert [layer.name for layer in small.layers] == [one, *behind]


def test_equal_outputs_of_the_model_stay_two() -> None:
    make = Maker()
    one, other = make.conv("x", 6), make.conv("x", 6)
    make.of(other).constants.update(make.of(one).constants)  # type: ignore[attr-defined]
    network = make.network(one, other)
    assert shrink(network) is network


def test_equal_layers_with_equal_states_are_one() -> None:
    found = [
        case
        for case in CASES
        for layer in case.network.layers
        if BY_NAME[layer.op].state(LayerView.of(case.network, layer)) is not None
    ]
    assert found
    for case in found:
        layers, tensors = list(case.network.layers), dict(case.network.tensors)
        for layer in case.network.layers:
            again = {name: f"again_{name}" for name in (*layer.inputs, layer.output) if f"again_{name}" in tensors}
            inputs = tuple(again.get(name, name) for name in layer.inputs)
            tensors[f"again_{layer.output}"] = replace(tensors[layer.output], name=f"again_{layer.output}")
            layers.append(replace(layer, inputs=inputs, name=f"again_{layer.name}", output=f"again_{layer.output}"))
        last = tensors[layers[-1].output]
        tensors["y"] = replace(last, name="y")
        table = {"table": IDENTITY[::-1].copy()}
        layers.append(Layer("y", "lookup", (last.name,), "y", LookupParams(last.size), table, ""))
        ports = (*case.network.outputs, Port("y", "y", last.shape, ""))
        network = replace(case.network, tensors=tensors, layers=tuple(layers), outputs=ports)
        small = shrink(network)
        assert len(small.layers) <= len(case.network.layers) + 1
        assert differ(network, small) == 0


def test_layers_that_nobody_reads_go() -> None:
    make = Maker()
    make.lookup(make.conv("x", 6), IDENTITY[::-1].copy())
    network = make.network(make.conv("x", 4))
    small = shrunk(network)
    assert [layer.name for layer in small.layers] == ["l02_conv2d"]
    assert set(small.tensors) == {"x", "l02_conv2d"}


def test_copies_go() -> None:
    """An identity, also one for no more than the values that come; a clamp that cannot act; the order that is there."""
    make = Maker()
    first = make.conv("x", 6)
    table = IDENTITY.copy()
    table[: ZERO + 128] = 55  # ReLU never gives these
    same, constants = copy(np.arange(120))
    source = make.clamp(make.lookup(make.lookup(first, IDENTITY), table), ZERO, 127)
    last = make.conv(make.layer("transpose", [source], (5, 4, 6), same, constants), 4)
    assert [layer.name for layer in shrunk(make.network(last)).layers] == [first, last]


def test_a_copy_that_is_the_models_output_hands_its_name_on() -> None:
    make = Maker()
    first = make.conv("x", 6)
    last = make.clamp(first, -128, 127)
    small = shrunk(make.network(last))
    assert [(layer.name, layer.output) for layer in small.layers] == [(first, last)]
    make = Maker()
    network = make.network(make.clamp("x", -128, 127))
    assert shrink(network) is network
    make = Maker()
    first = make.conv("x", 6)
    network = make.network(make.clamp(first, -128, 127), make.conv(first, 4))
    assert shrink(network) is network


def test_a_clamp_that_acts_stays() -> None:
    make = Maker()
    network = make.network(make.conv(make.clamp(make.conv("x", 6), ZERO, 126), 4))
    assert shrink(network) is network


def test_tables_behind_tables_are_one() -> None:
    make = Maker()
    rng = np.random.default_rng(5)
    tables = [rng.integers(-128, 128, 256).astype(np.int8) for _ in range(3)]
    source = "x"
    for table in tables:
        source = make.lookup(source, table)
    small = shrunk(make.network(source))
    assert [layer.name for layer in small.layers] == [source]
    make = Maker()
    between = make.lookup("x", tables[0])
    network = make.network(between, make.lookup(between, tables[1]))
    assert shrink(network) is network
    make = Maker()
    between = make.lookup("x", tables[0])
    network = make.network(make.lookup(between, tables[1]), make.lookup(between, tables[2]))
    assert shrink(network) is network


# --- any network -------------------------------------------------------------------------------------------------


def outside(network: Network, sample: Sequence[Array], states: interpret.States) -> list[str]:
    """Tensors that hold what their intervals do not."""
    with fixedpoint.rounding(network.single_rounding):
        known = known_intervals(network)
    wrong = []
    for name, values in interpret.run_all(network, sample, states).items():
        if network.tensors[name].dtype == "int8":
            wide = values.reshape(-1, network.tensors[name].channels).astype(np.int64)
            if (wide < known[name].low).any() or (wide > known[name].high).any():
                wrong.append(name)
    return wrong


@pytest.mark.parametrize("single", [False, True])
def test_every_operators_values_lie_in_its_intervals(single: bool) -> None:
    for case in CASES:
        network, states = replace(case.network, single_rounding=single), interpret.States()
        for index in range(len(case.inputs[0])):
            assert outside(network, [values[index] for values in case.inputs], states) == [], case.name


def test_every_operators_cases_give_the_same_bytes() -> None:
    def rows(case: Case) -> list[list[Array]]:
        return [[values[index] for values in case.inputs] for index in range(len(case.inputs[0]))]

    for case in CASES:
        assert differ(case.network, shrink(case.network), rows(case)) == 0, case.name


def thinned(network: Network, seed: int) -> Network:
    """The network with output channels that are constant, at either end, and input channels without weights."""
    rng = np.random.default_rng(seed)
    layers = []
    for layer in network.layers:
        constants = {name: array.copy() for name, array in layer.constants.items()}
        if layer.op in ("conv2d", "depthwise_conv2d", "fully_connected"):
            axis = 2 if layer.op == "depthwise_conv2d" else 0
            weights = np.moveaxis(constants["weights"], axis, 0)
            dead = rng.random(len(weights)) < rng.choice([0, 0.3, 0.9])
            weights[dead] = 0
            constants["bias"][dead] = rng.choice([-1, 0, 1], int(dead.sum())) * rng.choice([3, 2**16])
            if layer.op != "depthwise_conv2d":
                weights[..., rng.random(weights.shape[-1]) < rng.choice([0, 0.3, 0.9])] = 0
        layers.append(replace(layer, constants=constants))
    return replace(network, layers=tuple(layers), single_rounding=bool(seed % 2))


@examples(150)
@given(random=networks(), seed=st.integers(0, 2**32 - 1))
def test_random_networks_with_dead_channels(random: RandomNetwork, seed: int) -> None:
    network = lowered(random.model)
    if network is None:
        return
    network = thinned(network, seed)
    assert differ(network, shrink(network), random.samples(5)) == 0
    for sample in random.samples(5):
        assert outside(network, sample, {}) == []


def chain(seed: int) -> Network:
    """Depthwise and pointwise layers, residual sums and pools, their channels thinned."""
    make = Maker(seed=seed)
    rng = make.rng
    source = make.conv("x", int(rng.integers(1, 12)), 3, 1)
    for _ in range(int(rng.integers(1, 7))):
        kind = rng.integers(0, 5)
        if kind == 0:
            source = make.conv(source, int(rng.integers(1, 12)), *[(1, 0), (3, 1), (3, 2)][rng.integers(0, 3)])
        elif kind == 1:
            source = make.depthwise(source)
        elif kind == 2:
            source = make.add(source, make.conv(source, make.tensors[source].shape[2]))
        elif kind == 3:
            source = make.lookup(source, np.sort(rng.integers(-128, 128, 256)).astype(np.int8))
        else:
            source = make.clamp(source, -20, int(rng.integers(-10, 128)))
    source = make.pool(source) if rng.random() < 0.5 else source
    return thinned(make.network(make.dense(source, 4)), seed)


def chains(count: int) -> list[Case]:
    """The first `count` chains, with inputs, of two roundings as CMSIS-NN has them."""
    found = [replace(chain(seed), single_rounding=False) for seed in range(count)]
    rows = [np.stack([sample[0] for sample in samples(network)]) for network in found]
    return [Case(f"chain_{seed}", network, (rows[seed],)) for seed, network in enumerate(found)]


def test_random_chains_shrink_and_give_the_same_bytes() -> None:
    removed = 0
    for seed in range(200):
        network = chain(seed)
        small = shrunk(network)
        for sample in samples(network, 2):
            assert outside(network, sample, {}) == []
        removed += Removed.between(network, small).constant_bytes > 0
    assert removed > 100


def test_the_c_of_a_shrunk_network_gives_the_bytes_of_the_whole_one(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    made = [chain(seed) for seed in range(12)]
    for number, network in enumerate(made):
        files |= emit(network, EmitOptions(f"m{number}"))
    library = host.shared_library(tmp_path, files)
    for number, network in enumerate(made):
        for sample in samples(network):
            (found,) = host.call(library, f"m{number}_run", sample, [4])
            assert np.array_equal(found, interpret.run(network, sample)[0].ravel())


def test_unknown_constants_are_left_alone() -> None:
    make = Maker()
    first = make.conv("x", 7)
    make.constant(first, 3, ZERO)
    network = make.network(make.conv(first, 5))
    layers = [
        replace(layer, constants={**layer.constants, "weights": placeholder(layer.constants["weights"].shape, np.int8)})
        for layer in network.layers
    ]
    outline = replace(network, layers=tuple(layers))
    assert shrink(outline) is outline


# --- what users see ----------------------------------------------------------------------------------------------


def test_report_says_what_was_removed_and_the_id_is_that_of_the_whole_network() -> None:
    make = Maker()
    first = make.conv("x", 7)
    make.constant(first, 3, ZERO)
    network = make.network(make.clamp(make.conv(first, 5), -128, 127))
    report = json.loads(emit(network, EmitOptions("m"))["m.report.json"])
    assert report["model_id"] == f"0x{network.model_id():08x}"
    gone = 3 * (6 + 4 + 4 + 1) + 5 * 3  # weights, bias, multiplier, shift; weights behind
    assert report["removed"] == {"layers": 1, "macs": 20 * (3 * 6 + 5 * 3), "constant_bytes": gone}


def test_a_pin_of_a_layer_that_is_gone_is_no_error() -> None:
    make = Maker()
    clamp = make.clamp(make.conv("x", 7), -128, 127)
    network = make.network(make.conv(clamp, 4))
    for name in (clamp, f"m_{clamp}", "node1"):
        emit(network, EmitOptions("m", pins={name: "direct"}))
    with pytest.raises(KernelError, match="there is no such layer"):
        emit(network, EmitOptions("m", pins={"node9": "direct"}))


def test_a_value_without_axes() -> None:
    make = Maker(shape=())
    network = make.network(make.lookup("x", IDENTITY[::-1].copy()))
    assert shrink(network) is network
    assert outside(network, [np.array([5], np.int8)], {}) == []


@pytest.mark.parametrize(
    ("file", "macs", "constants"), [("vww96_tf", 3_719_321, 38_813), ("vww96_torch_legacy", 3_719_321, 38_813)]
)
def test_half_of_vww96_goes(reference_dir: Path, file: str, macs: int, constants: int, tmp_path: Path) -> None:
    """7,489,664 MACs and 233,828 bytes of constants before, 208,112 of them weights."""
    path = reference_dir / "models" / ("torch" if "torch" in file else "tf2onnx") / f"{file}.onnx"
    model, data = quantized(path, tmp_path)
    network = lower(model, file)
    small = shrink(network)
    removed = Removed.between(network, small)
    assert removed.macs == 7_489_664 - macs
    assert removed.constant_bytes == 233_828 - constants
    quant = network.tensors[network.inputs[0].tensor].quant
    frames = [[quant.quantize(frame)] for frame in data.dev[:3]]
    assert differ(network, small, [*samples(network, 1), *frames]) == 0
