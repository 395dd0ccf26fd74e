"""Sections and alignment of weights and arena, inputs and outputs in the arena: the same bytes, where asked for."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from nnbuild import cnames, interpret
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ConfigError
from nnbuild.network import Array, Network
from nnbuild.ops import ALL
from nnbuild.placement import Placement
from nnbuild.ram import memory
from nnbuild.report import budget, elf, linkerscript, usage
from nnbuild.selection import select
from nnbuild.target import TARGETS

from . import host, programs, qemu
from .random_networks import RandomNetwork, networks
from .test_emit import case, two_ports
from .test_fuzz_networks import examples, lowered
from .test_kernels_cores import explain

CASES = [case for operator in ALL for case in operator.cases()]
ALIGNED = Placement(arena_align=32, io="arena")
IN_ARENA = Placement(io="arena")


def number(header: str, macro: str) -> int:
    return int(re.search(rf"#define {macro} (\d+)", header)[1])  # type: ignore[index]


def run_in_arena(folder: Path, network: Network, samples: Sequence[Sequence[Array]], placement: Placement) -> None:
    """Inputs written into an arena full of noise, outputs read from it; no byte around the arena changes."""
    files = emit(network, EmitOptions("m", TARGETS["generic"], arena="caller", placement=placement))
    library, header = host.shared_library(folder, files), files["m.h"]
    size = number(header, "M_ARENA_SIZE")
    assert size % placement.arena_align == 0
    places = {
        kind: [number(header, f"M_{kind.upper()}{own}_OFFSET") for own in suffixes(network, kind)]
        for kind in ("input", "output")
    }
    assert all(offset % placement.arena_align == 0 for offsets in places.values() for offset in offsets)
    for sample in samples:
        room = np.random.default_rng(1).integers(0, 256, size + 256).astype(np.uint8)
        start = 64 + -room.ctypes.data % placement.arena_align
        arena, before = room[start : start + size].view(np.int8), room.copy()
        for offset, values in zip(places["input"], sample, strict=True):
            arena[offset : offset + values.size] = values
        assert library.m_run(ctypes.c_void_p(room.ctypes.data + start)) == 0
        for offset, wanted in zip(places["output"], interpret.run(network, list(sample)), strict=True):
            assert np.array_equal(arena[offset : offset + wanted.size], wanted.ravel())
        assert np.array_equal(room[:start], before[:start])
        assert np.array_equal(room[start + size :], before[start + size :])


def suffixes(network: Network, kind: str) -> list[str]:
    ports = network.inputs if kind == "input" else network.outputs
    if len(ports) == 1:
        return [""]
    return [f"_{own}".upper() for own in cnames.distinct([port.name for port in ports])]


def test_every_operator_in_the_arena(tmp_path: Path) -> None:
    sources = programs.units(tmp_path, programs.write(tmp_path, CASES, TARGETS["generic"], placement=IN_ARENA))
    host.compile_c(["gcc", "-O1", "-fsanitize=address"], tmp_path / "program", sources)
    done = subprocess.run([str(tmp_path / "program")], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), CASES[max(done.returncode, 1) - 1].name


@examples(12, shrink=False)
@given(random=networks())
def test_random_networks_in_the_arena(tmp_path_factory: pytest.TempPathFactory, random: RandomNetwork) -> None:
    network = lowered(random.model)
    if network is not None:
        folder = tmp_path_factory.mktemp("arena")
        for placement in (IN_ARENA, ALIGNED):
            run_in_arena(folder / str(placement.arena_align), network, random.samples(4), placement)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("core", ["m0", "m55"])
def test_in_the_arena_on_cores(core: str, start: int, tmp_path: Path) -> None:
    """Every fifth case, in two images: together they are larger than a Cortex-M0's board."""
    qemu.need()
    machine, cases = qemu.CORES[core], CASES[start::10]
    sources = programs.units(tmp_path, programs.write(tmp_path, cases, machine.target, placement=IN_ARENA))
    status, printed = qemu.run(qemu.link(tmp_path, sources, machine), machine)
    assert (status, printed) == (0, ""), explain(status, printed, cases)


def test_inputs_and_outputs_need_no_memory_of_their_own() -> None:
    """A layer that may work in place does so in the input; a network's RAM is less than with buffers of its caller."""
    relu = case("clamp_relu").network
    planned = memory.plan(relu, select(relu, TARGETS["generic"]), TARGETS["generic"], io=True)
    size = relu.tensors[relu.inputs[0].tensor].size
    assert planned.offsets[relu.inputs[0].tensor] == planned.offsets[relu.outputs[0].tensor] == 0
    assert planned.arena == -(-size // 4) * 4
    pool = case("max_pool_rescaled").network
    ports = sum(pool.tensors[port.tensor].size for port in (*pool.inputs, *pool.outputs))
    choices = select(pool, TARGETS["generic"])
    both = [memory.plan(pool, choices, TARGETS["generic"], io=io).arena for io in (False, True)]
    assert both[1] < both[0] + ports


def test_an_output_that_a_later_layer_reads_stays(tmp_path: Path) -> None:
    """The sum is an output, and the Relu behind it, the last layer, could run in place."""
    network = two_ports()
    rng = np.random.default_rng(3)
    samples = [[rng.integers(-128, 128, 6).astype(np.int8) for _ in range(2)] for _ in range(4)]
    run_in_arena(tmp_path, network, samples, IN_ARENA)


@pytest.mark.parametrize("arena", ["static", "caller", "shared"])
@pytest.mark.parametrize("placement", [IN_ARENA, ALIGNED, Placement(".ext", "", 64), Placement(".ext", "", 8, "arena")])
def test_self_test_and_raw_input(arena: str, placement: Placement, tmp_path: Path) -> None:
    files = emit(
        case("conv2d_3x3_padded").network,
        EmitOptions("m", arena=arena, placement=placement, selftest=2, raw=("u8", 0.1, -12.8)),
    )
    library = library_with_assembly(tmp_path, files)
    assert library.m_selftest() == 0
    raw = np.arange(256, dtype=np.uint8)[: number(files["m.h"], "M_INPUT_SIZE")].copy()
    apart = np.zeros(raw.size, np.int8)
    library.m_set_input_u8(*(ctypes.c_void_p(array.ctypes.data) for array in (raw, apart)))
    library.m_set_input_u8(*[ctypes.c_void_p(raw.ctypes.data)] * 2)
    assert np.array_equal(raw.view(np.int8), apart), "raw values may lie where the input goes"


def library_with_assembly(folder: Path, files: dict[str, str]) -> ctypes.CDLL:
    sources = host.write(folder, files)
    command = ["gcc", "-O1", "-shared", "-fPIC", str(folder / "m_kernels.S")]
    host.compile_c(command, folder / "m.so", sources)
    return ctypes.CDLL(str(folder / "m.so"))


def test_a_misaligned_arena_is_refused(tmp_path: Path) -> None:
    files = emit(case("conv2d_3x3_padded").network, EmitOptions("m", arena="caller", placement=ALIGNED))
    library = host.shared_library(tmp_path, files)
    room = np.zeros(number(files["m.h"], "M_ARENA_SIZE") + 64, np.int8)
    start = room.ctypes.data + -room.ctypes.data % 32
    assert [library.m_run(ctypes.c_void_p(start + offset)) for offset in (0, 4, 16, 31)] == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("placement", "arena", "message"),
    [
        (Placement(section="a b"), "static", "option 'section' must be a section's name"),
        (Placement(section=".bss.x"), "static", "option 'section' must be a section for constants"),
        (Placement(arena_section=".data.x"), "static", "option 'arena_section' must be a section for variables"),
        (Placement(arena_align=12), "static", "option 'arena_align' must be a power of two"),
        (Placement(arena_section=".dtcm"), "caller", "no arena to place with arena='caller'; hint: place the caller's"),
        (Placement(arena_section=".dtcm"), "shared", r"cannot place a shared arena; hint: .*_kernels.o\(COMMON\)"),
        (Placement(io="dma"), "static", "option 'io' must be one of"),
    ],
)
def test_what_cannot_be_placed_is_said(placement: Placement, arena: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        emit(case("add_same").network, EmitOptions("m", arena=arena, placement=placement))


# In a firmware: regions beside FLASH and RAM, for constants and for variables.

REGIONS = """
MEMORY
{
  EXT (r) : ORIGIN = 0x00020000, LENGTH = 128K
  DTCM (rw) : ORIGIN = 0x20002000, LENGTH = 8K
}
SECTIONS
{
  .ext_flash : { *(.ext_flash) } > EXT
  .itcm : { *(.itcm) } > DTCM AT > FLASH
  .dtcm : { *(.dtcm) *_kernels.o(COMMON) } > DTCM
}
"""
MEMORY = qemu.Memory((0, "64K"), (0x20000000, "8K"), "1K", REGIONS)
BOARD = replace(qemu.CORES["m0"], memory=MEMORY)
MAIN = '#include "m.h"\nint main(void);\nint main(void)\n{\n    return m_selftest();\n}\n'


def firmware(folder: Path, arena: str = "static", runs: bool = True, **placement: Any) -> elf.Elf:
    """An image with a model, its self-test in `main`; linked with `REGIONS`, and run."""
    qemu.need()
    options = EmitOptions("m", BOARD.target, selftest=2, arena=arena, placement=Placement(**placement))
    files = emit(case("conv2d_3x3_padded").network, options)
    sources = host.write(folder, {**files, "main.c": MAIN})
    image = qemu.link(folder, [*sources, folder / "m_kernels.S"], BOARD)
    if runs:
        assert qemu.run(image, BOARD) == (0, "")
    return elf.read(image)


def used(folder: Path, image: elf.Elf) -> tuple[dict[str, int], usage.Usage]:
    """Bytes by region as the size report counts them, and by what they are for."""
    regions = linkerscript.regions(str(folder / "memory.ld"))
    measured = usage.measure([image], [usage.read_report(folder / "m.report.json")])
    return {use.name: use.used for use in budget.region_uses([image], 0, regions, {}, "memory.ld")}, measured


def test_sections_are_where_the_linker_script_says(tmp_path: Path) -> None:
    plain = firmware(tmp_path / "a")
    placed = firmware(tmp_path / "b", section=".ext_flash", arena_section=".dtcm", arena_align=32)
    (before, one), (after, two) = used(tmp_path / "a", plain), used(tmp_path / "b", placed)
    weights, arena = one.models[0].flash["weights"], two.models[0].ram["arena"]
    assert before["EXT"] == before["DTCM"] == 0
    assert two.models[0].flash["weights"] == weights
    assert weights <= after["EXT"] < weights + 16
    assert after["DTCM"] == arena == -(-one.models[0].ram["arena"] // 32) * 32
    assert before["FLASH"] - after["FLASH"] >= weights - 16
    assert placed.values["m_arena"] % 32 == 0
    (section,) = (section for section in placed.sections if section.name == ".dtcm")
    assert section.load is None, "nothing is stored in flash for it"


def test_weights_that_run_from_ram_count_there_too(tmp_path: Path) -> None:
    """The firmware copies them at start-up; here nobody does, so nothing runs."""
    image = firmware(tmp_path, runs=False, section=".itcm")
    regions, measured = used(tmp_path, image)
    weights = measured.models[0].flash["weights"]
    assert weights <= regions["DTCM"] < weights + 16
    assert measured.models[0].ram["other"] >= weights
    assert sum(measured.ram.values()) == regions["RAM"] + regions["DTCM"]


def test_a_shared_arena_is_placed_by_the_linker_script(tmp_path: Path) -> None:
    image = firmware(tmp_path, "shared", arena_align=64)
    regions, _ = used(tmp_path, image)
    assert regions["DTCM"] >= image.values["nn_shared_arena"] % 64 + 64
    assert image.values["nn_shared_arena"] % 64 == 0
    assert 0x20002000 <= image.values["nn_shared_arena"] < 0x20004000


@pytest.mark.parametrize("compiler", [["gcc"], ["clang"], ["gcc", "-flto"], ["arm-none-eabi-gcc", "-mcpu=cortex-m0"]])
@pytest.mark.parametrize("section", [".ext_flash", ".rodata.weights", ".itcm", "EXT", ".data.weights", ".text.weights"])
def test_compilers_take_the_sections(compiler: list[str], section: str, tmp_path: Path) -> None:
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not installed")
    network = case("conv2d_3x3_padded").network
    files = emit(network, EmitOptions("m", placement=Placement(section, ".bss.dtcm", 32)))
    for source in [*host.write(tmp_path, files), tmp_path / "m_kernels.S"]:
        command = [*compiler, "-O2", "-c", str(source), "-o", str(tmp_path / "m.o")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
