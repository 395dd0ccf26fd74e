"""What LSTM, GRU and RNN have in common: two matrix products for each gate, one of the input and one of the state.

Integers as in TensorFlow Lite's quantization specification of LSTM, with a multiplier for each row of the weights: both
products are scaled to gates in Q3.12, and their sum is saturated to 16 bits. Where each gate has one scale, as
TensorFlow Lite and CMSIS-NN have it, each product is saturated too: then what one has beyond 8, the other cannot take
back. Sigmoid and tanh come from one table of 256 values of the sigmoid, 24 to a unit, with lines between them, and are
in Q0.15. What the network says to the next step is int8 with the scale of its output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from nnbuild import fixedpoint, layout, qdq
from nnbuild.contract import LayerView, Quantization
from nnbuild.lower import Lowering
from nnbuild.moving import MOVING, moved, numbered
from nnbuild.network import INT8_MAX, INT8_MIN, Array, QuantParams
from nnbuild.ops import channels
from nnbuild.placeholder import is_placeholder, packed
from nnbuild.target import Target

GATE_BITS = 12
"""Bits behind the point of a gate before its activation."""

Q15 = QuantParams(2.0**-15, 0)
"""Of values in 16 bits, 15 of them behind the point."""

INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1

_TABLE_STEPS = 24  # entries of the table to a unit
_REASON = "carry it from call to call with `states`, or start from a constant"


@dataclass(frozen=True, slots=True)
class RecurrentParams:
    """The loops: `steps` in time, `batch` sequences, one direction for each entry of `reverse`.

    `every_step`: the output holds all steps (steps, directions, batch, hidden), else the last one alone. `keep`: the
    state outlives the call. `saturates`: each product is clamped to 16 bits, not only their sum.

    Constants, D directions, G gates, H hidden, I inputs: `weights` (D, G, H, I) and `recurrent` (D, G, H, H) int8;
    `bias`, `multiplier` int32, `shift` int8 and the same with `recurrent_` in front, (D, G, H); `sigmoid` uint16[256];
    `hidden` int8 (D, batch, H), the state at the start.
    """

    steps: int
    batch: int
    reverse: tuple[bool, ...]
    inputs: int
    hidden: int
    every_step: bool
    keep: bool
    saturates: bool
    input_zero_point: int
    output_zero_point: int

    @property
    def states(self) -> int:
        """Elements of the state."""
        return len(self.reverse) * self.batch * self.hidden

    @property
    def rows(self) -> int:
        """How often a step of one direction of one sequence is computed."""
        return self.steps * len(self.reverse) * self.batch


@dataclass(frozen=True, slots=True)
class Reading:
    """What a node of ONNX says: its input's tensor, where its output goes, the loops and the constants of them."""

    tensor: str
    source: QuantParams
    value: str
    quant: QuantParams
    loops: RecurrentParams
    constants: dict[str, Array]


def read(
    ctx: Lowering,
    node: onnx.NodeProto,
    gates: int,
    split_bias: Sequence[int] = (),
    fine: int | None = None,
    wide: Sequence[int] = (),
) -> Reading:
    """Inputs, attributes and constants of an LSTM, GRU or RNN of `gates` gates.

    The bias of the state's product joins that of the input's, but for the gates `split_bias`. With `fine` gates are in
    2^-`fine` output steps and not in Q3.12. The state's product of the gates `wide` takes values in Q0.15.
    """
    activation = ctx.activation(node)
    index = activation.index
    if index.ndim != 3:
        raise ctx.refuse(node, f"input of {index.ndim} dimensions is not supported", "three: time, batch, features")
    steps, batch, inputs = index.shape
    reverse = _directions(ctx, node)
    weights, scales = channels.weights(ctx, node, 1, 1)
    recurrent, recurrent_scales = channels.weights(ctx, node, 2, 1)
    rows, hidden = weights.shape[1], weights.shape[1] // gates
    wanted = ((len(reverse), rows, inputs), (len(reverse), rows, hidden))
    if (weights.shape, recurrent.shape) != wanted or hidden * gates != rows:
        raise ctx.refuse(node, f"weights of shapes {list(weights.shape)} and {list(recurrent.shape)} do not fit")
    _check(ctx, node, steps)
    if ctx.keeps_states and any(reverse):
        raise ctx.refuse(node, "a reverse direction keeps no state", "states are for layers that go forward in time")
    output = ctx.output(node)
    if (output.activation_min, output.activation_max) != (INT8_MIN, INT8_MAX):
        raise ctx.refuse(node, "a clamp behind it is not part of it", "quantize its output in front of the clamp")
    quant = output.quant
    source = ctx.quant(activation)
    loops = RecurrentParams(
        steps, batch, reverse, inputs, hidden, True, ctx.keeps_states, True, source.zero_point, quant.zero_point
    )
    loops = replace(loops, every_step=not _last_is_enough(ctx, output.value, loops))
    shape = (len(reverse), gates, hidden)
    of_input, of_state = _biases(ctx, node, shape, split_bias)
    gate = QuantParams(2.0**-GATE_BITS if fine is None else quant.scale * 2.0**-fine, 0)
    constants = _product(ctx, node, weights, scales, of_input, [source] * gates, gate)
    sources = [Q15 if number in wide else quant for number in range(gates)]
    other = _product(ctx, node, recurrent, recurrent_scales, of_state, sources, gate)
    loops = replace(loops, saturates=_saturates(constants, other, wide))
    constants |= {"recurrent" if name == "weights" else f"recurrent_{name}": each for name, each in other.items()}
    real = _start(ctx, node, 5, "initial state", loops)
    constants |= {"sigmoid": sigmoid_table(), "hidden": quant.quantize(real)}
    tensor = ctx.arrange(activation, index, node, (steps, batch, inputs) if batch > 1 else (steps, inputs))
    return Reading(tensor, source, output.value, quant, loops, constants)


def _saturates(of_input: Mapping[str, Array], of_state: Mapping[str, Array], wide: Sequence[int]) -> bool:
    """Whether each product is saturated by itself: where a gate has one scale, or where a sum could leave 32 bits."""
    products = (of_input, of_state)
    scales = [product[name] for product in products for name in ("multiplier", "shift")]
    if all((array == array[..., :1]).all() for array in scales):
        return True
    sums = [np.abs(product["weights"].astype(np.int64)).sum(axis=-1) * 255 for product in products]
    sums[1][:, list(wide)] *= 2**8
    most = [total + np.abs(product["bias"].astype(np.int64)) for total, product in zip(sums, products, strict=True)]
    reals = [product["multiplier"] * 2.0 ** (product["shift"].astype(np.float64) - 31) for product in products]
    return bool(sum(reach * real for reach, real in zip(most, reals, strict=True)).max() > 2.0**30)


def define(ctx: Lowering, node: onnx.NodeProto, reading: Reading, name: str) -> None:
    """The ONNX value Y, (steps, directions, batch, hidden), is tensor `name`."""
    loops = reading.loops
    step = (len(loops.reverse), loops.batch, loops.hidden)
    if loops.every_step:
        index = layout.contiguous((loops.steps, *step))
    else:  # whoever reads it takes the last step only
        index = np.broadcast_to(layout.contiguous(step), (loops.steps, *step))
    ctx.define(reading.value, name, index)


def memory_shape(loops: RecurrentParams) -> tuple[int, ...]:
    """Of the output."""
    each = (len(loops.reverse), loops.batch, loops.hidden)
    kept = tuple(n for n in each[:-1] if n > 1)
    return (*((loops.steps,) if loops.every_step else ()), *kept, loops.hidden)


def start_of_cell(ctx: Lowering, node: onnx.NodeProto, loops: RecurrentParams) -> tuple[Array, int]:
    """Input 6 of an LSTM: the cells at the start, int16 (directions, batch, hidden), and the power of two of their
    scale, which is that of the constant's DequantizeLinear, else 2^-12."""
    real = _start(ctx, node, 6, "initial cell state", loops)
    constant = ctx.constant(node, 6)
    power = -GATE_BITS
    if constant is not None and constant.scale is not None and constant.scale.size == 1:
        power = int(np.clip(round(float(np.log2(constant.scale.ravel()[0]))), -15, -9))
    cells = np.clip(np.rint(real * 2.0**-power), -INT16_MAX, INT16_MAX)
    return np.asarray(cells.astype(np.int16)), power


def start_in_q15(ctx: Lowering, node: onnx.NodeProto, loops: RecurrentParams) -> Array:
    """Input 5, the state at the start, in Q0.15, int16 (directions, batch, hidden)."""
    real = _start(ctx, node, 5, "initial state", loops)
    return np.asarray(saturate16(np.rint(real * 2.0**15).astype(np.int64)).astype(np.int16))


def _directions(ctx: Lowering, node: onnx.NodeProto) -> tuple[bool, ...]:
    known = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    direction = qdq.attribute(node, "direction", "forward")
    if direction not in known:
        raise ctx.refuse(node, f"direction '{direction}' is unknown")
    return known[direction]


def _check(ctx: Lowering, node: onnx.NodeProto, steps: int) -> None:
    """Refuse what would be computed otherwise than the node says."""
    if qdq.attribute(node, "layout", 0):
        raise ctx.refuse(node, "layout 1 is not supported", "import the model first")
    if any(node.output[1:]):
        value = next(value for value in node.output[1:] if value)
        raise ctx.refuse(node, f"its output '{value}' is not supported", "import the model first")
    lengths = ctx.constant(node, 4)
    if len(node.input) > 4 and node.input[4] and (lengths is None or (lengths.values != steps).any()):
        raise ctx.refuse(node, "sequences shorter than the input are not supported", "leave sequence_lens out")
    peepholes = ctx.constant(node, 7)
    if len(node.input) > 7 and node.input[7] and (peepholes is None or peepholes.real().any()):
        raise ctx.refuse(node, "peepholes are not supported")
    for name in ("clip", "input_forget"):
        if qdq.attribute(node, name, 0):
            raise ctx.refuse(node, f"{name} is not supported")


def activations(ctx: Lowering, node: onnx.NodeProto, *allowed: Sequence[str]) -> int:
    """Which of the `allowed` lists of activation functions, for one direction, the node has; the first by default."""
    given = [name.decode() if isinstance(name, bytes) else str(name) for name in qdq.attribute(node, "activations", [])]
    for number, names in enumerate(allowed):
        count = len(given) // len(names) or 1
        if (not given and number == 0) or [name.lower() for name in given] == [n.lower() for n in names] * count:
            return number
    raise ctx.refuse(node, f"activations {', '.join(given)} are not supported", f"{', '.join(allowed[0])}")


def _last_is_enough(ctx: Lowering, value: str, loops: RecurrentParams) -> bool:
    """Whether of Y, the ONNX value `value`, only the step is read that each direction computes last."""
    shape = (loops.steps, len(loops.reverse), loops.batch, loops.hidden)
    numbers = numbered(shape)
    last = [numbers[0 if reverse else -1, direction] for direction, reverse in enumerate(loops.reverse)]
    return _read(ctx, value, numbers) <= set(np.asarray(last).ravel().tolist())


def _read(ctx: Lowering, value: str, numbers: Array) -> set[int]:
    """Which of `numbers`, laid out as `value`, anybody computes with, behind operators that only move elements."""
    if value in ctx.graph_outputs:
        return set(numbers.ravel().tolist())
    found: set[int] = set()
    for reader in ctx.readers.get(value, ()):
        if reader.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found |= _read(ctx, reader.output[0], numbers)
            continue
        others = {name: ctx.stored(name) for name in reader.input if name and name != value}
        if reader.op_type in MOVING and all(each is not None for each in others.values()):
            inputs = {value: numbers, **{name: each for name, each in others.items() if each is not None}}
            for name, part in moved(reader, inputs, ctx.opset).items():
                found |= _read(ctx, name, part)
        else:
            found |= set(numbers.ravel().tolist())
    return found


def _start(ctx: Lowering, node: onnx.NodeProto, position: int, what: str, loops: RecurrentParams) -> Array:
    """Input `position`, real (directions, batch, hidden); zeros where it is left out."""
    shape = (len(loops.reverse), loops.batch, loops.hidden)
    if position >= len(node.input) or not node.input[position]:
        return np.zeros(shape)
    constant = ctx.constant(node, position)
    if constant is None:
        raise ctx.refuse(node, f"a computed {what} (input {position}) is not supported", _REASON)
    return np.broadcast_to(constant.real(), shape)


def _biases(
    ctx: Lowering, node: onnx.NodeProto, shape: tuple[int, int, int], split: Sequence[int]
) -> tuple[Array, Array]:
    """Real biases of both products, (directions, gates, hidden); all in the first but for the gates `split`."""
    given = len(node.input) > 3 and node.input[3]
    constant = ctx.constant(node, 3) if given else None
    if given and constant is None:
        raise ctx.refuse(node, "its bias (input 3) is not constant")
    both = np.zeros((shape[0], 2, *shape[1:])) if constant is None else constant.real()
    if both.size != 2 * np.prod(shape):
        raise ctx.refuse(node, f"its bias has {both.size} elements for {int(np.prod(shape))} rows")
    of_input, of_state = both.reshape(shape[0], 2, *shape[1:]).swapaxes(0, 1)
    own = np.zeros(shape)
    own[:, list(split)] = of_state[:, list(split)]
    return of_input + of_state - own, own


def _product(
    ctx: Lowering, node: onnx.NodeProto, weights: Array, scales: Array, bias: Array, sources: Sequence[QuantParams],
    gate: QuantParams,
) -> dict[str, Array]:  # fmt: skip
    """Constants of one matrix product: weights (D, G * H, n) with `scales` (G * H,), real biases (D, G, H).

    `sources` are the parameters of what each gate's weights are multiplied with.
    """
    rows = weights.reshape(*bias.shape, -1)
    kept = rows if is_placeholder(weights) else packed(rows)
    found: dict[str, list[Array]] = {}
    for number, source in enumerate(sources):
        steps = np.broadcast_to(
            np.float64(source.scale) * scales.reshape(bias.shape[1:])[number], rows[:, number, :, 0].shape
        )
        whole = np.clip(np.rint(bias[:, number] / steps), -fixedpoint.INT32_MAX, fixedpoint.INT32_MAX).astype(np.int32)
        flat = rows[:, number].reshape(-1, weights.shape[-1])
        # Values in Q0.15 are 2^8 times as large as int8: so is what their sums can reach.
        reach = channels.accumulators(ctx, node, flat, whole.ravel(), source)
        if source is Q15:
            reach = _wide_reach(ctx, node, flat, whole.ravel())
        own = channels.multipliers(steps.ravel(), gate, reach)
        for name, array in {"bias": whole, **own}.items():
            found.setdefault(name, []).append(array.reshape(steps.shape))
    return {"weights": kept, **{name: np.stack(arrays, axis=1) for name, arrays in found.items()}}


def _wide_reach(ctx: Lowering, node: onnx.NodeProto, flat: Array, biases: Array) -> Array:
    """The largest magnitude of sums of weights (rows, n) and values in Q0.15."""
    reach = (np.abs(flat.astype(np.int64)).sum(axis=1) << 15) + np.abs(biases.astype(np.int64))
    if reach.max(initial=0) > fixedpoint.INT32_MAX:
        raise ctx.refuse(node, "a 32-bit sum of its reset values can overflow", "export it with linear_before_reset=1")
    return np.asarray(reach)


def sigmoid_table() -> Array:
    """sigmoid(i / 24) in Q0.16 for i = 0 to 255, each moved by half of what the line to the next one misses in the
    middle; the last is 1. TensorFlow Lite's table of the same name."""

    def sigmoid(x: Array) -> Array:
        return np.asarray(2.0**16 / (1 + np.exp(-x / _TABLE_STEPS)))

    at = np.arange(256, dtype=np.float64)
    missed = (sigmoid(at) + sigmoid(at + 1)) / 2 - sigmoid(at + 0.5)
    table = np.floor(sigmoid(at) - missed / 2 + 0.5)
    table[255] = 2**16 - 1
    return np.asarray(table, np.uint16)


def sigmoid(gates: Array, table: Array) -> Array:
    """Q3.12 (int64) -> Q0.15."""
    scaled = gates * 3
    value = _between(np.abs(scaled), 9, (2**15 - 1) << 10, table)
    return np.where(scaled >= 0, value + 2**9, 2**25 - value + 2**9 - 1) >> 10


def tanh(values: Array, table: Array, power: int = -GATE_BITS) -> Array:
    """Values times 2^`power` (int64) -> Q0.15: tanh(x) = 2 * sigmoid(2 * x) - 1."""
    left = power + GATE_BITS
    scaled = values * (3 << left) if left >= 0 else (values * 3 + (1 << (-left - 1))) >> -left
    value = _between(np.abs(scaled), 8, (2**16 - 1) << 8, table)
    return np.where(scaled >= 0, value - 2**23 + 2**7, 2**23 - value + 2**7 - 1) >> 8


def _between(magnitude: Array, bits: int, largest: int, table: Array) -> Array:
    """The table at `magnitude` / 2^`bits`, with a line from entry to entry, times 2^`bits`."""
    entries = table.astype(np.int64)
    entry = np.minimum(magnitude >> bits, 254)
    line = (entries[entry] << bits) + (magnitude & ((1 << bits) - 1)) * (entries[entry + 1] - entries[entry])
    return np.where(magnitude >> bits >= 255, largest, line)


def product(
    params: RecurrentParams, constants: Mapping[str, Array], direction: int, values: Array, recurrent: bool
) -> Array:
    """Gates (G, H) in Q3.12 of values less their zero point, int64."""
    prefix = "recurrent_" if recurrent else ""
    matrix = constants["recurrent" if recurrent else "weights"][direction].astype(np.int64)
    sums = matrix @ values + constants[f"{prefix}bias"][direction]
    found = [constants[f"{prefix}{name}"][direction] for name in ("multiplier", "shift")]
    scaled = fixedpoint.requantize(sums, *found)
    return saturate16(scaled) if params.saturates else scaled


def saturate16(values: Array) -> Array:
    """Clamped to 16 bits, int64."""
    return np.clip(values, INT16_MIN, INT16_MAX)


def unpacked(params: RecurrentParams, state: Array, wide: bool) -> tuple[Array, Array]:
    """The bytes of a state as (hidden int8, cells int16 or nothing), int64, each (directions, batch, hidden)."""
    shape = (len(params.reverse), params.batch, params.hidden)
    cells = state[: 2 * params.states].view("<i2") if wide else np.zeros(params.states)
    hidden = state[2 * params.states :] if wide else state
    return hidden.reshape(shape).astype(np.int64), cells.reshape(shape).astype(np.int64)


def start(constants: Mapping[str, Array]) -> Array:
    """The bytes of the state that a sequence begins with."""
    return packed_state(constants["hidden"], constants.get("cells"))


def kept(view: LayerView) -> Array | None:
    """The state at the start, where it outlives a call."""
    return start(view.constants) if view.params.loops.keep else None


def packed_state(hidden: Array, cells: Array | None) -> Array:
    """The bytes of a state, int8: cells (16 bits, little-endian) in front of hidden."""
    narrow = hidden.astype(np.int8).ravel()
    return narrow if cells is None else np.concatenate([cells.astype("<i2").ravel().view(np.int8), narrow])


def walk(
    params: RecurrentParams, constants: Mapping[str, Array], inputs: Sequence[Array], state: Array, wide: bool,
    step: Callable[[int, Array, Array, Array], tuple[Array, Array]],
) -> tuple[Array, Array]:  # fmt: skip
    """Output and state behind it. `step(direction, values, hidden, cells)`, int64, gives the next hidden and cells."""
    values = inputs[0].reshape(params.steps, params.batch, params.inputs).astype(np.int64) - params.input_zero_point
    hidden, cells = unpacked(params, state, wide)
    output = np.zeros((params.steps, *hidden.shape), np.int64)
    for direction, backwards in enumerate(params.reverse):
        for sequence in range(params.batch):
            for time in range(params.steps)[:: -1 if backwards else 1]:
                now = step(direction, values[time, sequence], hidden[direction, sequence], cells[direction, sequence])
                hidden[direction, sequence], cells[direction, sequence] = now
                output[time, direction, sequence] = now[0]
    result = output if params.every_step else hidden
    return result.astype(np.int8), packed_state(hidden, cells if wide else None)


def macs(view: LayerView) -> int:
    """Multiplications of both products."""
    params, gates = view.params.loops, view.constants["bias"].shape[1]
    return int(params.rows * gates * params.hidden * (params.inputs + params.hidden))


def quantization(parameters: Sequence[int], cell: int | None = None) -> Quantization:
    """W and R by rows; the bias stays real."""
    return Quantization(weights=1, weight_axis=lambda *_: 1, recurrent=2, cell=cell, parameters=frozenset(parameters))


def error(params: Any) -> int:
    """One output step for each step in time, as long as the network itself makes no more of an error than it was."""
    return int(params.loops.steps)


def scratch(view: LayerView, target: Target, wide: bool, extra: int = 0) -> int:
    """Bytes: a row of int8, `extra`, and the state where it does not outlive the call."""
    params = view.params.loops
    kept = 0 if params.keep else params.states * (3 if wide else 1)
    return int(kept + params.hidden + extra)


def trips(view: LayerView, target: Target) -> dict[str, int]:
    """Steps, gates of one hidden value, multiplications of both products."""
    params, gates = view.params.loops, view.constants["bias"].shape[1]
    computed = params.rows * gates * params.hidden
    return {
        "step": params.rows,
        "hidden": params.rows * params.hidden,
        "gate": computed,
        "mac": computed * (params.inputs + params.hidden),
    }


def folded_biases(view: LayerView, wide: Sequence[int] = ()) -> tuple[Array, Array]:
    """Biases of both products with the zero points of input and state in them, int32 (D, G, H); `wide` as in `read`."""
    constants, params = view.constants, view.params.loops
    found = []
    for prefix, matrix, zero in (
        ("", "weights", params.input_zero_point),
        ("recurrent_", "recurrent", params.output_zero_point),
    ):
        sums = constants[matrix].astype(np.int64).sum(axis=-1)
        if prefix:
            sums[:, list(wide)] = 0
        found.append((constants[f"{prefix}bias"].astype(np.int64) - zero * sums).astype(np.int32))
    return found[0], found[1]


def rows(view: LayerView, order: Sequence[Sequence[int]], wide: Sequence[int] = ()) -> dict[str, Array]:
    """The constants in the order in which kernels walk: for each direction and group of gates in `order`, for each
    hidden value, for each gate of the group: the row of the input's weights, then the state's. Zero points are in the
    biases."""
    constants = view.constants

    def walked(*arrays: Array) -> Array:
        both = np.concatenate(arrays, axis=-1)  # (D, G, H, n)
        groups = [both[:, list(group)].swapaxes(1, 2).reshape(len(both), -1) for group in order]
        return np.ascontiguousarray(np.concatenate(groups, axis=1).ravel())

    found = {"weights": walked(constants["weights"], constants["recurrent"])}
    found["bias"] = walked(*(bias[..., None] for bias in folded_biases(view, wide)))
    for name in ("multiplier", "shift"):
        found[name] = walked(constants[name][..., None], constants[f"recurrent_{name}"][..., None])
    return {**found, "sigmoid": constants["sigmoid"]}


def starts(view: LayerView, cells: bool) -> dict[str, Array]:
    """The constants of a state that starts anew in each call, where it is not 0 everywhere."""
    params, constants = view.params.loops, view.constants
    found = {}
    if not params.keep and cells and constants["cells"].any():
        found["initial_cells"] = constants["cells"].ravel()
    if not params.keep and (constants["hidden"] != params.output_zero_point).any():
        found["initial_hidden"] = constants["hidden"].ravel()
    return found
