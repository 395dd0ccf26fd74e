"""The operators' cases catch faults: each mutant of the C, and of the integers that lowering computes, is noticed."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnbuild import interpret
from nnbuild.contract import Case, Operator
from nnbuild.network import Layer, Network
from nnbuild.ops import ALL, BY_NAME
from nnbuild.target import TARGETS

from . import programs

V6M = replace(TARGETS["cortex-m0"], guard="")

# (operator whose cases must notice, text in the generated C, what it becomes)
TEXT_MUTANTS = [
    ("conv2d", "+ 0x40000000", "+ 0x20000000"),
    ("conv2d", ">> 31)", ">> 30)"),
    ("conv2d", "remainder > threshold", "remainder >= threshold"),
    ("fully_connected", "(value < 0 ? 1 : 0)", "0"),
    ("conv2d", "<< (uint32_t)left", "<< (uint32_t)right"),
    ("conv2d", "value < low ? low", "value < low ? low + 1"),
    ("conv2d", "value > high ? high", "value >= high ? high - 1"),
    ("conv2d", "int32_t sum = bias[channel]", "int32_t sum = 0"),
    ("conv2d", "nn_shift_right(word, 8)", "nn_shift_right(word, 7)"),
    ("conv2d", "- (b << 8)", ""),
    ("conv2d", "c - (d << 8) - total", "c - (d << 8)"),
    ("conv2d", "channel + i < ", "channel + i + 1 < "),
    ("fully_connected", "* 128u", "* 127u"),
    ("conv2d", "u >= 0 &&", ""),
    ("conv2d", "top >= 0 && ", ""),
    ("depthwise_conv2d", "tap += column", "tap += 1"),
    ("depthwise_conv2d", "line += row", "line += 1"),
    ("add", "(a + b,", "(a - b,"),
    ("add", " - input2[", " + input2["),
    ("add", " + nn_shift_right(sum, 31)", ""),
    ("mul", "(a * b,", "(a + b,"),
    ("mul", "const int32_t b = input2[i2]", "const int32_t b = input2[i1]"),
    ("mul", "sum < 0 ?", "sum > 0 ?"),
    ("mul", "nn_clamp(scaled, -90", "nn_clamp(scaled, -128"),
    ("minimum", "a < b", "a > b"),
    ("minimum", "? a : b;", "? b : a;"),
    ("minimum", "(int8_t)nn_clamp(a < b ? a : b, -27, 53)", "a < b ? a : b"),
    ("maximum", "a > b", "a < b"),
    ("maximum", "? a : b,", "? a : a,"),
    ("concat", "] + 128]", "] + 127]"),
    ("concat", "output[3 + i1 * 10]", "output[4 + i1 * 10]"),
    ("concat", "table1[input2", "table0[input2"),
    ("concat", "input3[", "input["),
    ("concat", "i1 * 10 + i2", "i1 * 9 + i2"),
    ("average_pool", "(uint32_t)count / 2u", "0u"),
    ("average_pool", "sum < 0 ? -(int32_t)mean : (int32_t)mean", "(int32_t)mean"),
    ("average_pool", "sum -= count", "sum += count"),
    ("average_pool", "from_2 - 256u", "from_2 - 255u"),
    ("average_pool", "word, 24)", "word, 25)"),
    ("average_pool", "sum < 0 ?", "sum > 0 ?"),
    ("average_pool", "- columns)", ")"),
    ("max_pool", "value > best", "value < best"),
    ("max_pool", "best = tap[0] > best", "best = tap[0] < best"),
    ("layer_normalization", "sum += value;", "sum -= value;"),
    ("layer_normalization", "nn_product(513u, (uint32_t)squares)", "(uint64_t)(513u * (uint32_t)squares)"),
    ("layer_normalization", "nn_product(size, size)", "(uint64_t)(size * size)"),
    ("layer_normalization", "variance > 0u", "variance > 99u"),
    ("layer_normalization", " + epsilon;", ";"),
    ("layer_normalization", "i < 3; i++", "i < 1; i++"),
    ("layer_normalization", "nn_product(size, (uint32_t)root)", "(uint64_t)(size * (uint32_t)root)"),
    ("layer_normalization", "sum < 0 ? 0u - product : product", "product"),
    ("layer_normalization", "offset[i]", "offset[0]"),
    ("softmax", "step < 3", "step < 1"),
    ("softmax", "largest = input[i] > largest", "largest = input[i] < largest"),
    ("softmax", "bits + 22u", "bits + 23u"),
    ("softmax", "+ 2048u", ""),
    ("lookup", "table[(uint8_t)input[i]]", "table[(uint8_t)input[i] ^ 1]"),
    ("lookup", "input[i + 3]", "input[i + 2]"),
    ("prelu", "given >= 0", "given > 5"),
    ("pad", "x + 2", "x + 1"),
    ("transpose", "i2 *", "i1 *"),
    ("lstm", "gates[2] * 3", "gates[1] * 3"),
    ("lstm", "size & 511u", "size & 255u"),
    ("lstm", "2 - step", "step"),
    ("lstm", "hidden[i] = next[i];", ""),
    ("gru", "update * (cells[unit] - fresh) + 16384", "update * (cells[unit] - fresh)"),
    ("gru", "reset * cells[unit]", "cells[unit]"),
    ("gru", "left[i] * *row++", "hidden[i] * *row++"),
    ("rnn", "steps > 0 ? steps : 0", "steps"),
    ("rnn", "gate + 64", "gate + 63"),
    ("arg_max", "i] > input", "i] >= input"),
    ("history", "words[k + 1] = words[k + ", "words[k + 1] = words[k - 1 + "),
    ("history", "new0 = nn_word(&input[4 * i])", "new0 = nn_word(input)"),
    ("history", "output[k] = output[k + ", "output[k] = output[k - 1 + "),
    ("history", "= new0;", "= (int8_t)(new0 + 1);"),
    ("history", "words[i + 1] = b;", "words[i + 1] = a;"),
    ("history", "output[i] = output[i + ", "output[i] = output[i - 1 + "),
    ("history", "= *input++;", "= *input;"),
    ("history", "_initial_state[i", "_initial_state[0 * i"),
    ("arg_max", "i] <= input", "i] < input"),
    ("wide_conv2d", "0x80000000u", "0u"),
    ("wide_conv2d", "c - (d << 8) - total", "c - (d << 8)"),
    ("wide_depthwise_conv2d", "outside[i] = 0", "outside[i] = 1"),
    ("wide_depthwise_conv2d", "nn_high_half(values)", "nn_low_half(values)"),
    ("wide_add", " - input2[", " + input2["),
    ("wide_average_pool", "multiplier[rows * columns]", "multiplier[1]"),
    ("wide_softmax", "/ 64u", "/ 32u"),
    ("rescale", "nn_clamp(value", "nn_clamp(value + 1"),
]
V6M_MUTANTS = [
    ("conv_transpose", "low + 0x4000u", "low"),
    ("conv_transpose", "(uint32_t)nn_shift_right(middle, 16)", "0u"),
    ("layer_normalization", "+ (low >> 16)", ""),
    ("conv_transpose", "((uint32_t)middle & 0xFFFFu)", "0u"),
    ("conv_transpose", "(int32_t)((a_low * b_low) >> 16)", "0"),
    ("conv2d", "scaled -= (int32_t)taken;", ""),
    ("conv2d", "(int32_t)high - 1) + 1, 1)", "(int32_t)high - 1), 1)"),
    ("conv2d", "(int32_t)zero", "0"),
    ("conv2d", ", 0, 255);", ", 0, 254);"),
    ("conv2d", "nn_shift_right(low, bits - dropped)", "0"),
    ("conv2d", "nn_shift_right(sum, dropped)", "sum"),
    ("fully_connected", "nn_shift_right(sum, 16) * low", "0u"),
    ("fully_connected", "nn_clamp(sum + own[0], 0, own[1])", "(sum + own[0])"),
    ("fully_connected", " - (fields[", " + (fields["),
    ("wide_conv2d", " + 32768)", " + 32767)"),
    ("wide_conv2d", " + (uint32_t)own[0]", ""),
    ("wide_depthwise_conv2d", "own[1], 0x80000000u", "own[1], 0x70000000u"),
    ("conv2d", "= (word >> ", "= 3u + (word >> "),
    ("conv2d", ") << ", ") << 1 << "),
    ("add", " >> shift", " >> shift << 1 >> 1 << 0 | 1"),
]


# Parameters that the reference does not read: its table holds what follows from them.
UNREAD = {("softmax", "shift")}


def noticed(operator: str, old: str, new: str, portable: bool, folder: Path) -> tuple[bool, bool]:
    """(whether the text occurs, whether the program of the operator's cases fails with it replaced)."""
    cases = list(BY_NAME[operator].cases())
    sources = programs.write(folder, cases, TARGETS["generic"] if portable else V6M)
    found = False
    for source in sources:
        text = source.read_text()
        if source.name != "main.c" and not source.name.endswith("_weights.c") and old in text:
            found = True
            source.write_text(text.replace(old, new))
    program = folder / "program"
    # A mutant may read anywhere: the address sanitizer ends it before it does harm.
    command = ["gcc", "-O1", "-w", "-fsanitize=address", "-o", str(program)]
    subprocess.run([*command, *map(str, programs.units(folder, sources))], check=True, capture_output=True)
    done = subprocess.run([str(program)], capture_output=True, check=False, timeout=120)
    return found, done.returncode != 0


@pytest.mark.parametrize(("operator", "old", "new"), TEXT_MUTANTS)
def test_mutants_of_the_c_are_caught(operator: str, old: str, new: str, tmp_path: Path) -> None:
    assert noticed(operator, old, new, portable=True, folder=tmp_path) == (True, True)


@pytest.mark.parametrize(("operator", "old", "new"), V6M_MUTANTS)
def test_mutants_of_the_form_for_armv6m_are_caught(operator: str, old: str, new: str, tmp_path: Path) -> None:
    assert noticed(operator, old, new, portable=False, folder=tmp_path) == (True, True)


def mutated(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """The layer with one of its integers changed by the least amount that must show."""
    for field in dataclasses.fields(layer.params):
        if (layer.op, field.name) in UNREAD:
            continue
        value = getattr(layer.params, field.name)
        for label, changed in _neighbours(field.name, value):
            yield label, replace(layer, params=replace(layer.params, **{field.name: changed}))
    for name, array in layer.constants.items():
        steps = {"multiplier": 1 << 22, "exponential": 1 << 20, "quarters": 1 << 22, "parts": 1 << 28}
        step = steps.get(name.removeprefix("recurrent_"), 1)
        changed_array = np.where(array > 0, array - array.dtype.type(step), array + array.dtype.type(step))
        yield name, replace(layer, constants={**layer.constants, name: changed_array.astype(array.dtype)})


def _neighbours(name: str, value: Any) -> list[tuple[str, Any]]:
    if name == "activation_min":
        return [(name, value + 1)]
    if name == "activation_max":
        return [(name, value - 1)]
    if name in ("low", "high", "fill") or name.endswith(("zero_point", "shift")):
        return [(f"{name}+1", value + 1), (f"{name}-1", value - 1)]
    if name in ("left", "offset", "factor"):
        return [(name, value + max(1, abs(value) >> 6))]
    if name == "output_multiplier":
        return [(name, value - (1 << 24))]
    if name == "signs":
        return [(f"{name}[{k}]", tuple(v * (-1) ** (k == i) for i, v in enumerate(value))) for k in range(2)]
    if name in ("zero_points", "shifts"):
        return [(f"{name}[{k}]", tuple(v + (k == i) for i, v in enumerate(value))) for k in range(2)]
    if name == "multipliers":
        return [(f"{name}[{k}]", tuple(v - (k == i) * (1 << 24) for i, v in enumerate(value))) for k in range(2)]
    return []


def outputs(case: Case, network: Network) -> list[bytes]:
    return [
        interpret.run(network, [values[k] for values in case.inputs])[0].tobytes() for k in range(len(case.inputs[0]))
    ]


@pytest.mark.parametrize("operator", [op for op in ALL if op.kernels], ids=lambda op: op.name)
def test_mutants_of_the_integers_are_caught(operator: Operator) -> None:
    """Every parameter of an operator matters to at least one of its cases."""
    seen: dict[str, bool] = {}
    for case in operator.cases():
        true = outputs(case, case.network)
        for position, layer in enumerate(case.network.layers):
            if layer.op != operator.name:
                continue
            for label, mutant in mutated(layer):
                layers = (*case.network.layers[:position], mutant, *case.network.layers[position + 1 :])
                changed = outputs(case, replace(case.network, layers=layers)) != true
                seen[label] = seen.get(label, False) or changed
    assert [label for label, caught in seen.items() if not caught] == []
