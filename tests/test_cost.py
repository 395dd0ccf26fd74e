"""Estimated costs: every kernel has some, they are close to what runs, and what they are made of is right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from benchmarks import cost_fit, executed
from benchmarks.cost_page import COUNTED
from nnbuild import calibrate, cmsis_nn, cost, importer, instruction_timings, quantize, samples
from nnbuild.contract import Assembly, LayerView
from nnbuild.cost import Timing
from nnbuild.emit import EmitOptions, emit
from nnbuild.instruction_timings import Instruction
from nnbuild.lower import lower
from nnbuild.network import Network
from nnbuild.ops import ALL, BY_NAME
from nnbuild.ops.spatial import Window
from nnbuild.optimize import Aim, Memory, optimize
from nnbuild.ram.memory import needs, plan
from nnbuild.rendering import assembly_text
from nnbuild.selection import Choice, candidates, select
from nnbuild.target import TARGETS, Target, of_compiler
from tests import qemu, random_layers

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "example_firmware" / "models"


def example(name: str) -> Network:
    model = importer.import_model(MODELS / f"{name}.onnx")
    shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    loaded = samples.load(str(MODELS / "touch_calib.npz"), {model.graph.input[0].name: shape})
    return lower(quantize.quantize(model, calibrate.ranges(model, loaded)), name)


def chosen(network: Network, target: Target, goal: str = "balanced") -> tuple[Choice, ...]:
    """The kernels that `emit` takes."""
    serving = candidates(network, target)
    memory = Memory(lambda choices: plan(network, choices, target), lambda layers: needs(network, layers, target))
    return optimize(serving, target, Aim(goal), memory).choices


def table() -> dict[tuple[str, str, str], tuple[float, float]]:
    """(network, kernels, core) -> counted cycles, error of the estimate in percent; from docs/COSTS.md."""
    rows = re.findall(
        r"^\| (\S.*?) \| (own|CMSIS-NN) \| (\S+) \| [\d,]+ \| ([\d,]+) \| [\d,]+ \| (\S+) % \|",
        (ROOT / "docs" / "COSTS.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {(name, kind, core): (float(cycles.replace(",", "")), float(off)) for name, kind, core, cycles, off in rows}


# --- the table -----------------------------------------------------------------------------------------------------


def cores() -> Iterator[Target]:
    root = cmsis_nn.find(None, os.environ)
    library = cmsis_nn.read(root) if root else None
    for cpu in ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m55"):
        yield replace(TARGETS[cpu], cmsis_nn=library)


@pytest.mark.parametrize("target", list(cores()), ids=lambda target: target.cpu)
def test_every_loop_of_every_kernel_has_costs(target: Target) -> None:
    costs = json.loads((ROOT / "nnbuild" / "costs.json").read_text())["kernels"]
    missing = set()
    for operator in ALL:
        for case in operator.cases():
            for layer in case.network.layers:
                view = LayerView.of(case.network, layer)
                for kernel in BY_NAME[layer.op].kernels:
                    if kernel.supports(view, target) is None:
                        loops = costs.get(f"{layer.op}/{kernel.name}", {}).get(cost.isa(target), {})
                        missing |= {(layer.op, kernel.name, loop) for loop in kernel.trips(view, target)} - {
                            (layer.op, kernel.name, loop) for loop in loops
                        }
    assert not missing, f"{sorted(missing)}: run `python -m benchmarks.fit_costs --write`"


def test_errors_are_within_what_is_promised() -> None:
    rows = table()
    assert {core for _, _, core in rows} == set(cost.FITTED)
    assert {name.split()[0] for name, _, _ in rows} == {"kws01", "ic01", "ad01", "vww96", "sww"}
    assert all(abs(off) <= 25 for _, off in rows.values())
    for core in cost.FITTED:
        choices = select(example("touch"), TARGETS[core])
        assert 0 < (cost.error_percent(core, choices) or 0) <= 25


def test_the_table_is_of_the_costs(reference_dir: Path) -> None:
    """What docs/COSTS.md says of two networks is what the committed costs say."""
    for name in ("kws01", "ic01"):
        model = importer.import_model(reference_dir / "models" / "int8" / f"{name}_int8.onnx")
        for core in cost.FITTED:
            target = TARGETS[core]
            counted, off = table()[f"{name} (official int8)", "own", core]
            found = cost.network_cost(select(lower(model, name), target), target, Timing(core))
            assert 100 * (found.cycles / counted - 1) == pytest.approx(off, abs=0.11)


# --- against what runs -----------------------------------------------------------------------------------------------


FRAME = 640
"""Cycles of a frame of the example besides those of the network: 64 values of raw input, and reading the timer."""


@pytest.mark.parametrize("name", COUNTED)
def test_networks_that_are_not_in_the_fit(name: str) -> None:
    target = TARGETS["cortex-m0"]
    choices = chosen(example(name), target)
    found = cost.network_cost(choices, target, Timing("cortex-m0")).cycles + FRAME
    assert abs(100 * (found / COUNTED[name] - 1)) <= (cost.error_percent("cortex-m0", choices) or 0)


def test_the_documents_name_what_was_counted() -> None:
    costs, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/COSTS.md", "README.md"))
    for name, cycles in COUNTED.items():
        assert re.search(rf"{cycles:,} (?:cycles )?for `{name}`", costs)
        assert re.search(rf"^{name} .* {cycles:,} ", readme, re.MULTILINE)


def test_counted_as_it_runs(tmp_path: Path) -> None:
    """Cycles, accesses to flash, and code, of what QEMU executes now."""
    qemu.need()
    target, network = TARGETS["cortex-m0"], example("touch_cnn")
    (ran,) = executed.run("cortex-m0", [emit(network, EmitOptions("n0", target))], tmp_path)
    choices = chosen(network, target)
    parts = [*ran.layers, ran.run]
    cycles, waits = sum(part.cycles("cortex-m0") for part in parts), sum(part.waits for part in parts)
    code = sum(size for name, size in ran.code.items() if re.fullmatch(r"n0_(run|l\d\d_[a-z0-9_]+)(\.[\w.]+)?", name))
    code -= sum(
        size for name, size in ran.code.items() if re.search(r"_(weights|bias|multiplier|shift|scaling|exp\w+)$", name)
    )
    for wait_states in (0, 2):
        found = cost.network_cost(choices, target, Timing("cortex-m0", wait_states))
        assert found.cycles == pytest.approx(cycles + wait_states * waits, rel=0.15)
    assert found.code_bytes == pytest.approx(code, rel=0.15)
    assert cycles == pytest.approx(COUNTED["touch_cnn"], rel=0.03)


def test_instructions_of_assembly_are_those_of_its_text() -> None:
    target, seen = TARGETS["cortex-m0"], 0
    networks = [case.network for operator in ALL for case in operator.cases()]
    networks += [case.network for case in random_layers.cases(0, 40)]
    for network in networks:
        for layer in candidates(network, target):
            for own in (own for kernel in layer.kernels for own in kernel.render(layer.view, target).assembly):
                lines = (re.sub(r"^\s*[\w.]+:|@.*", "", line).strip() for line in assembly_text(own).splitlines())
                counted = [line for line in lines if line and not line.startswith(".")]
                assert own.instructions == len(counted), own
                seen += 1
    assert seen > 50


@pytest.mark.parametrize("compiler", ["arm-none-eabi-gcc", "clang --target=armv6m-none-eabi"])
def test_assembly_is_counted_to_the_byte(compiler: str, tmp_path: Path) -> None:
    """By its lines, each of 16 bits; GNU's assembler and LLVM's agree."""
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"{compiler} is not installed")
    target, network = TARGETS["cortex-m0"], example("touch_cnn")
    (tmp_path / "m_kernels.S").write_text(emit(network, EmitOptions("m", target, aim=Aim("speed")))["m_kernels.S"])
    command = [*compiler.split(), "-mcpu=cortex-m0", "-mthumb", "-c", "m_kernels.S", "-o", "m.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    with (tmp_path / "m.o").open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        found = sum(symbol["st_size"] for symbol in table.iter_symbols() if symbol["st_info"]["type"] == "STT_FUNC")
    sources = [choice.kernel.render(choice.view, target) for choice in chosen(network, target, "speed")]
    assert sum(cost.assembly_bytes(sources)) == found


@pytest.mark.parametrize(("cpu", "functions"), [("cortex-m3", 25), ("cortex-m4", 45), ("cortex-m55", 30)])
def test_assembly_with_wide_instructions_is_counted_to_the_byte(cpu: str, functions: int, tmp_path: Path) -> None:
    """Every function of the cases and of random layers."""
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    target = TARGETS[cpu]
    used: dict[str, Assembly] = {}
    networks = [case.network for operator in ALL for case in operator.cases()]
    for network in (*networks, *(case.network for case in random_layers.cases(0, 40))):
        for choice in select(network, target):
            used |= {repr(own): own for own in choice.kernel.render(choice.view, target).assembly}
    lines = [".syntax unified", ".thumb"]
    for number, own in enumerate(used.values()):
        name = f"f{number}"
        lines += [f".type {name}, %function", assembly_text(own, name), f".size {name}, . - {name}"]
    (tmp_path / "f.S").write_text("\n".join([*lines, ""]))
    command = ["arm-none-eabi-gcc", f"-mcpu={cpu}", "-mthumb", "-c", "f.S", "-o", "f.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    with (tmp_path / "f.o").open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        sizes = {symbol.name: symbol["st_size"] for symbol in table.iter_symbols()}
    wrong = [own for number, own in enumerate(used.values()) if sizes[f"f{number}"] != 2 * own.instructions]
    assert wrong == []
    assert len(used) > functions


# --- what it is made of --------------------------------------------------------------------------------------------


def test_shared_functions_count_once() -> None:
    target, network = TARGETS["cortex-m0"], example("touch_cnn")
    choices = select(network, target)
    once = cost.network_cost(choices, target, Timing("cortex-m0"))
    twice = cost.network_cost([*choices, *choices], target, Timing("cortex-m0"))
    calls = (
        cost.run_work([*choices, *choices], target, "cortex-m0").code - cost.run_work(choices, target, "cortex-m0").code
    )
    assert twice.code_bytes - once.code_bytes == pytest.approx(calls, abs=1)
    assert twice.cycles == pytest.approx(2 * once.cycles, rel=0.01)


def test_cores_without_timings() -> None:
    network = example("touch")
    for core, basis in {
        "cortex-m7": "instructions x factor",
        "cortex-m55": "instructions x factor",
        "generic": None,
    }.items():
        target = TARGETS[core]
        choices = select(network, target)
        assert cost.basis(core) == basis
        assert cost.error_percent(core, choices) is None
        found = cost.network_cost(choices, target, Timing(core))
        assert found.instructions <= found.cycles <= 2 * found.instructions + 1


@pytest.mark.parametrize("seed", range(3))
def test_windows_at_borders(seed: int) -> None:
    """The counts of windows and taps are those of the positions, one by one."""
    seen = 0
    for case in random_layers.cases(100 + seed, 40):
        for layer in case.network.layers:
            place = getattr(layer.params, "window", None)
            if isinstance(place, Window):
                seen += 1
                assert place.reaching_outside == outside(place)
                assert place.clipped() == inside(place)
    assert seen > 10


def positions(place: Window, axis: int) -> list[list[int]]:
    starts = [index * place.stride[axis] - place.pad[axis] for index in range(place.output[axis])]
    return [[start + tap * place.dilation[axis] for tap in range(place.kernel[axis])] for start in starts]


def outside(place: Window) -> int:
    whole = [[all(0 <= at < place.input[axis] for at in taps) for taps in positions(place, axis)] for axis in (0, 1)]
    return sum(not (row and column) for row in whole[0] for column in whole[1])


def inside(place: Window) -> tuple[int, int]:
    rows, columns = (
        sum(0 <= at < place.input[axis] for taps in positions(place, axis) for at in taps) for axis in (0, 1)
    )
    return rows, columns


def test_nonnegative_least_squares() -> None:
    """The conditions of the optimum (Kuhn and Tucker), also where two columns are one."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        matrix = rng.random((30, 6))
        matrix[:, 5] = matrix[:, 1]
        values = matrix @ rng.uniform(-1, 2, 6) + rng.normal(0, 0.1, 30)
        found = cost_fit.nonnegative(matrix, values)
        gradient = matrix.T @ (values - matrix @ found)
        assert (found >= 0).all()
        assert gradient.max() < 1e-6
        assert np.abs(gradient[found > 0]).max(initial=0) < 1e-6


def test_classes_of_instructions() -> None:
    block = [
        Instruction("push", "{r4, r5, lr}", 2),
        Instruction("ldrb", "r0, [r1, r2]", 2),
        Instruction("ldr", "r3, [r4, #4]", 2),
        Instruction("ldr", "r5, [r3, #0]", 2),  # waits for the one before
        Instruction("muls", "r0, r3", 2),
        Instruction("smlad", "r0, r1, r2, r3", 4),
        Instruction("str", "r0, [r1, r2]", 2),
        Instruction("bics", "r0, r1", 2),
        Instruction("bne", "10 <loop>", 2),
    ]
    assert instruction_timings.of_block(block, 0.75) == {
        **{"several": 1, "registers": 3, "load": 2, "next_load": 1, "multiply": 1, "multiply_add": 1},
        **{"indexed_store": 1, "plain": 1.25, "branch": 0.75},
    }
    returns = instruction_timings.of_block([Instruction("pop", "{r4-r7, pc}", 2)], 1)
    assert returns == {"several": 1, "registers": 5, "jump": 1}


def test_blocks_that_qemu_cuts_count_as_one() -> None:
    """At the end of a page, between two loads of which the second overlaps the first; some runs jump in behind it."""
    code = {
        0: Instruction("movs", "r2, #0", 2),
        2: Instruction("ldrsb", "r0, [r1, r2]", 2),
        4: Instruction("ldrsb", "r3, [r4, r2]", 2),
        6: Instruction("bne", "0 <loop>", 2),
    }
    reader = executed._Reader(code, {})
    whole, _, _ = reader.stretch([(0, 6, 10, 8)], 0)
    cut, _, _ = reader.stretch([(0, 2, 10, 0), (4, 6, 10, 8)], 0)
    assert cut == whole
    assert whole.classes["next_load"] == 10
    jumped, _, _ = reader.stretch([(0, 2, 10, 0), (4, 6, 13, 8)], 0)
    assert (jumped.classes["load"], jumped.classes["next_load"]) == (13, 10)


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "cortex-m7", "cortex-m33"])
def test_cores_of_one_instruction_set_are_told_apart(core: str) -> None:
    qemu.need()
    assert of_compiler([qemu.COMPILER, "-mthumb", f"-mcpu={core}"]).cpu == core
    assert of_compiler([qemu.COMPILER, "-mthumb", "-mcpu=cortex-m3", f"-mcpu={core}"]).cpu == core
