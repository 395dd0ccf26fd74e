"""Packed sums (kernels/packed_armv6m.py): fields come out as they went in, whatever the weights and the inputs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import executed
from nnbuild.contract import Case
from nnbuild.emit import EmitOptions, emit
from nnbuild.kernels.packed_armv6m import ACCUMULATORS, LEAST_BITS, Packing, packing, unpacking, words
from nnbuild.network import Array, Network, QuantParams
from nnbuild.ops import BY_NAME, singles
from nnbuild.optimize import Aim
from nnbuild.placeholder import placeholder
from nnbuild.selection import candidates
from nnbuild.target import TARGETS, Target

from . import programs, qemu
from .test_cost import example
from .test_kernels_cores import explain, roomy, run_direct

M0 = TARGETS["cortex-m0"]
HERE = replace(M0, guard="")
IN, OUT = QuantParams(0.05, -20), QuantParams(0.25, 5)


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    """Any that fits."""
    bits, count = draw(st.integers(LEAST_BITS, 31)), draw(st.integers(1, len(ACCUMULATORS)))
    return Packing(bits, count, draw(st.integers(count, count + count * (32 - bits) // bits)))


def run_lines(lines: list[str], registers: dict[str, int]) -> None:
    """Runs MOV, LSLS, LSRS, ADDS and SUBS."""
    for line in lines:
        name, to, *operands = re.findall(r"[\w#]+", line)
        numbers = [int(each[1:]) if each.startswith("#") else registers[each] for each in operands]
        results = {
            "mov": numbers[0],
            "lsls": numbers[0] << numbers[-1] % 32,
            "lsrs": numbers[0] >> numbers[-1] % 32,
            "adds": numbers[0] + numbers[-1],
            "subs": numbers[0] - numbers[-1],
        }
        registers[to] = results[name] % 2**32


def unpacked(own: Packing, sums: list[int]) -> list[int]:
    """What the assembly takes out of accumulators; whatever is in other registers."""
    registers = {f"r{number}": 0xDEADBEEF for number in range(8)} | dict(zip(ACCUMULATORS, sums, strict=False))
    found = []
    for lines, field in unpacking(own.pieces(), own.bits):
        run_lines(lines, registers)
        found.append(registers[field])
        registers |= dict.fromkeys(("r2", "r3", "r4", "r5", "r6", field if field != "r0" else "r2"), 0xDEADBEEF)
    return found


@settings(max_examples=300, deadline=None)
@given(packings(), st.data())
def test_fields_come_out_as_they_went_in(own: Packing, data: st.DataObject) -> None:
    ends = st.sampled_from([0, 1, 2**own.bits - 1])
    values = st.lists(ends | st.integers(0, 2**own.bits - 1), min_size=own.channels, max_size=own.channels)
    fields = data.draw(values)
    sums = [0] * own.words
    for word, pieces in enumerate(own.pieces()):
        for piece in pieces:
            sums[word] += fields[piece.channel] << piece.at - piece.low
    assert unpacked(own, [value % 2**32 for value in sums]) == fields


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([1, 20, 128]))
def test_sums_of_products_come_out(outputs: int, taps: int, seed: int, largest: int) -> None:
    """Weights and inputs at random and at their ends; each block's fields are its sums, from the lowest of each."""
    random = np.random.default_rng(seed)
    weights = random.integers(-largest, largest, (outputs, taps))
    weights[random.random((outputs, taps)) < random.choice([0, 0.5])] = 0
    lowest = np.minimum(weights * -128, weights * 127).sum(axis=1)
    own = packing(weights)
    stream = words(weights.astype(np.int8), own).astype(np.int64).reshape(-1, taps + 1, own.words)
    highest = np.where(weights[random.integers(outputs)] > 0, 127, -128)
    for inputs in (random.integers(-128, 128, taps), highest, -1 - highest):
        sums = (stream[:, 0] + (inputs[:, None] * stream[:, 1:]).sum(axis=1)) % 2**32
        found = [field for block in sums.tolist() for field in unpacked(own, block)]
        assert found[:outputs] == (weights @ inputs - lowest).tolist()


def test_how_many_outputs_share_accumulators() -> None:
    """Five accumulators for eight outputs of 20 bits, six for ten of 18 or 19, one for two of 16, one for one."""
    assert packing(np.full((16, 64), 40)) == Packing(20, 5, 8)
    assert packing(np.full((10, 16), 60)) == Packing(19, 6, 10)
    assert packing(np.full((2, 4), 64)) == Packing(16, 1, 2)
    assert packing(np.full((1, 9), -127)) == Packing(31, 1, 1)
    assert packing(placeholder((4, 10**6), np.int8)) == Packing(31, 4, 4)
    assert packing(np.zeros((30, 5), np.int64)) == Packing(LEAST_BITS, 4, 15)


def test_unknown_weights_take_no_less_than_any() -> None:
    worst = np.full((7, 30), -128, np.int8)
    assert packing(placeholder((7, 30), np.int8)) == packing(worst)
    assert words(placeholder((7, 30), np.int8), packing(worst)).size == words(worst, packing(worst)).size


# --- layers ----------------------------------------------------------------------------------------------------------


def layers() -> Iterator[Case]:
    """Fully connected layers of many shapes, with weights at their ends, small, of one sign, zeros, mixed."""
    random = np.random.default_rng(5)
    kinds: Mapping[str, tuple[int, int]] = {
        "any": (-127, 127),
        "ends": (-127, -127),
        "small": (-3, 4),
        "positive": (0, 127),
        "negative": (-127, 0),
        "zeros": (0, 0),
    }
    shapes = [(1, 1), (2, 1), (3, 2), (17, 5), (16, 10), (64, 16), (33, 13), (8, 24), (5, 40), (200, 3), (24, 7)]
    for number, (inputs, outputs) in enumerate(shapes):
        kind = list(kinds)[number % len(kinds)]
        low, high = kinds[kind]
        weights = random.integers(low, high + 1, (outputs, inputs)).astype(np.int8)
        if kind == "ends":
            weights = np.where(random.random(weights.shape) < 0.5, -weights, weights).astype(np.int8)
        yield with_weights(f"{kind}_{inputs}x{outputs}", weights, ("Clip", -1.0, 1.0) if number % 2 else ())


def with_weights(name: str, weights: Array, clamp: tuple[str, float, float] | tuple[()]) -> Case:
    """A layer with these weights (outputs, inputs); inputs are random, and those of the highest and lowest sums."""
    outputs, inputs = weights.shape
    output = QuantParams(1 / 127, 0) if clamp else OUT
    case = singles.weighted(name, "Gemm", (1, inputs), (outputs, inputs), 0, IN, output, {"transB": 1}, clamp)
    (layer,) = case.network.layers
    mine = replace(layer, constants={**layer.constants, "weights": weights})
    ends = [np.where(row > 0, 127, -128) for row in weights[:3]]
    samples = np.array([*ends, *(-1 - end for end in ends)], np.int8)
    return Case(name, replace(case.network, layers=(mine,)), (np.concatenate([case.inputs[0][:6], samples]),))


PINS = {"l00_fully_connected": "packed"}


def run_pinned(folder: Path, cases: list[Case]) -> tuple[int, str]:
    core = roomy("m0")
    sources = programs.units(folder, programs.write(folder, cases, core.target, pins=PINS))
    return qemu.run(qemu.link(folder, sources, core), core)


def test_layers_on_a_core(tmp_path: Path) -> None:
    qemu.need()
    cases = list(layers())
    status, printed = run_pinned(tmp_path, cases)
    assert (status, printed) == (0, ""), explain(status, printed, cases)
    assert all("@ Take the fields" in (tmp_path / f"m{n}_kernels.S").read_text() for n in range(len(cases)))


def test_layers_in_c(tmp_path: Path) -> None:
    """The same words, by the C that stands beside the assembly."""
    cases = list(layers())
    sources = [source for source in programs.write(tmp_path, cases, HERE, pins=PINS) if source.suffix == ".c"]
    assert all("fields[0] = word" in (tmp_path / f"m{number}.c").read_text() for number in range(len(cases)))
    warnings = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=address,undefined"]
    program = tmp_path / "program"
    subprocess.run(["gcc", "-O1", *warnings, "-o", str(program), *map(str, sources)], check=True)
    assert subprocess.run([str(program)], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("kernel", ["packed", "assembly", "horner", "direct"])
@pytest.mark.parametrize("name", ["conv2d", "fully_connected"])
def test_every_kernel_whatever_it_costs(
    name: str, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu.need()
    operator = BY_NAME[name]
    (wanted,), (direct,) = ([own for own in operator.kernels if own.name == each] for each in (kernel, "direct"))
    rest = replace(direct, supports=lambda view, target: None if wanted.supports(view, target) else "another serves")
    monkeypatch.setitem(BY_NAME, name, replace(operator, kernels=(wanted,) if wanted is direct else (wanted, rest)))
    cases = list(operator.cases())
    status, printed = run_direct(tmp_path, roomy("m0"), cases)
    assert (status, printed) == (0, ""), explain(status, printed, cases)
    reports = [path.read_text() for path in tmp_path.glob("m*.report.json")]
    assert sum(f'"kernel": "{kernel}"' in text for text in reports) > len(cases) / 2


def kernels_of(network: Network, goal: str) -> list[str]:
    report = json.loads(emit(network, EmitOptions("m", M0, aim=Aim(goal)))["m.report.json"])
    return [layer["kernel"] for layer in report["layers"]]


def test_a_small_network_takes_them_but_for_size() -> None:
    """The example's: 64-16-10, for which words take 2 KB more."""
    network = example("touch")
    assert kernels_of(network, "balanced") == kernels_of(network, "speed") == ["packed", "packed"]
    assert "packed" not in kernels_of(network, "size")


@pytest.mark.parametrize("target", [replace(M0, assembly=False), TARGETS["cortex-m3"], TARGETS["cortex-m4"]])
def test_other_targets_have_no_such_kernel(target: Target) -> None:
    (layer,) = candidates(with_weights("m", np.ones((2, 3), np.int8), ()).network, target)
    assert "packed" in layer.reasons


def test_cycles_are_between_those_of_the_text(tmp_path: Path) -> None:
    """Whatever the input: what QEMU executes of `touch` is within what static_cost reads off the assembly."""
    qemu.need()
    files = emit(example("touch"), EmitOptions("n0", M0))
    (ran,) = executed.run("cortex-m0", [files], tmp_path)
    found = re.findall(r"calls? in one inference, ([\d,]+)(?: to ([\d,]+))? cycles", files["n0_kernels.S"])
    assert len(found) == len(ran.layers) == 2
    for (least, most), layer in zip(found, ran.layers, strict=True):
        # C around the assembly: arguments, and the call.
        around = 50
        assert int(least.replace(",", "")) < layer.cycles("cortex-m0") < int((most or least).replace(",", "")) + around


# --- they can fail ---------------------------------------------------------------------------------------------------

MUTANTS = [
    ("subs    r0, r0, r2", "movs    r0, r0"),
    ("lsrs    r2, r2, #12", "lsrs    r2, r2, #11"),
    ("lsrs    r1, r0, #20", "lsrs    r1, r0, #21"),
    ("lsls    r2, r2, #12", "lsls    r2, r2, #13"),
    ("adds    r1, r1, r2", "movs    r2, r2"),
    ("add     r10, r4", "add     r10, r3"),
    ("movs    r5, #7\n", "movs    r5, #6\n"),
    ("cmp     r7, r5", "cmp     r5, r5"),
    ("adds    r3, r3, #8", "adds    r3, r3, #7"),
]


@pytest.mark.parametrize(("old", "new"), MUTANTS)
def test_mutants_of_the_assembly_are_caught(old: str, new: str, tmp_path: Path) -> None:
    """Of sums of 20 bits: eight in five accumulators, by passes of eight inputs."""
    qemu.need()
    random = np.random.default_rng(0)
    weights = random.integers(-70, 71, (16, 64)).astype(np.int8)
    case, core = with_weights("m", weights, ()), roomy("m0")
    sources = programs.units(tmp_path, programs.write(tmp_path, [case], core.target, pins=PINS))
    kernels = tmp_path / "m0_kernels.S"
    text = kernels.read_text()
    assert old in text
    kernels.write_text(text.replace(old, new))
    status, _ = qemu.run(qemu.link(tmp_path, sources, core), core)
    assert status != 0
