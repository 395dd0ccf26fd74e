"""Every operator case on every core under QEMU: the bytes are those of the integer reference.

With nnbuild's own kernels, and with CMSIS-NN's wherever they serve; these also on this machine, and each call's scratch
compared with what CMSIS-NN itself asks for.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnbuild import importer, interpret
from nnbuild.contract import Case
from nnbuild.kernels import exact_requantize
from nnbuild.lower import lower
from nnbuild.network import Layer
from nnbuild.ops import ALL
from nnbuild.target import TARGETS, Target

from . import cmsis_library, host, programs, qemu, random_layers, reference, test_shrink
from .cmsis_library import HOST

CASES = [case for operator in ALL for case in operator.cases()]
IMAGE = {name: 40 if core.small else 160 for name, core in qemu.CORES.items()} | {HOST: 200}
"""Cases in one image: what fits into its flash, and into an exit status."""
SAMPLES = 2
RANDOM = 60
RANDOM_ON = [(name, wide) for name in ("m0", "m3", "m4", "m7", "m33", "m55") for wide in (False, True)]
SANITIZE = ("-fsanitize=address",)
"""On this machine, CMSIS-NN included, so that no function reads or writes where it must not."""
RESCALING = {"add", "average_pool", "conv2d", "depthwise_conv2d", "fully_connected", "mul", "prelu"}
"""Operators whose results depend on the rounding."""
SINGLE = [
    replace(case, network=replace(case.network, single_rounding=True))
    for case in CASES
    if any(layer.op in RESCALING for layer in case.network.layers)
]


def images(cases: list[Case]) -> list[tuple[str, int]]:
    """(core, first case) of every image."""
    return [(core, first) for core, count in IMAGE.items() for first in range(0, len(cases), count)]


def explain(status: int, printed: str, cases: list[Case]) -> str:
    """What failed, by the names of cases."""
    numbers = [int(line.split(": ")[1]) for line in printed.splitlines() if re.match(r"differs: \d|.*case: \d", line)]
    names = [cases[number - 1].name for number in numbers if 0 < number <= len(cases)]
    return f"status {status}: {', '.join(names)}\n{printed}"


def run_direct(folder: Path, core: qemu.Core, cases: list[Case], assembly: bool = True) -> tuple[int, str]:
    """Exit status and output of `cases` with nnbuild's own kernels."""
    target = replace(core.target, assembly=assembly)
    sources = programs.units(folder, programs.write(folder, cases, target, backend="direct"))
    return qemu.run(qemu.link(folder, sources, core), core)


def run_cmsis_nn(
    folder: Path, core: str, cases: list[Case], machine: qemu.Core | None = None, *flags: str
) -> tuple[int, str]:
    """The same with CMSIS-NN wherever it serves, on `machine` or the core's own, or on this one.

    `flags` are for CMSIS-NN and for the code that calls it.
    """
    sources = programs.write(folder, cases, cmsis_library.target(core), backend="cmsis_nn")
    library = cmsis_library.library(core, *flags)
    if core == HOST:
        return run_here(folder, programs.units(folder, sources), library)
    machine = machine or qemu.CORES[core]
    units, flags, libraries = programs.units(folder, sources), library.compile_arguments, library.link_arguments
    elf = qemu.link(folder, units, machine, compile_arguments=flags, link_arguments=libraries)
    return qemu.run(elf, machine)


def run_here(folder: Path, sources: list[Path], library: cmsis_library.Library) -> tuple[int, str]:
    program = folder / "program"
    board = ["-include", str(qemu.BOARDS / "board.h"), str(qemu.BOARDS / "host.c")]
    command = ["gcc", "-O2", f"-I{folder}", *library.compile_arguments, *board]
    host.compile_c(command, program, [*sources, *map(Path, library.link_arguments)])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("core", "first"), [image for image in images(CASES) if image[0] != HOST])
def test_own_kernels(core: str, first: int, tmp_path: Path) -> None:
    qemu.need()
    cases = CASES[first : first + IMAGE[core]]
    status, printed = run_direct(tmp_path, qemu.CORES[core], cases)
    assert (status, printed) == (0, ""), explain(status, printed, cases)


@pytest.mark.parametrize(("core", "first"), images(CASES))
def test_cmsis_nn(core: str, first: int, tmp_path: Path) -> None:
    if core != HOST:
        qemu.need()
    cases = CASES[first : first + IMAGE[core]]
    status, printed = run_cmsis_nn(tmp_path, core, cases, None, *(SANITIZE if core == HOST else ()))
    assert (status, printed) == (0, ""), explain(status, printed, cases)


@pytest.mark.parametrize("core", ["m0", "m3", "m4", "m55"])
def test_own_kernels_for_shapes_that_shrinking_leaves(core: str, tmp_path: Path) -> None:
    qemu.need()
    cases = test_shrink.chains(12)
    status, printed = run_direct(tmp_path, qemu.CORES[core], cases)
    assert (status, printed) == (0, ""), explain(status, printed, cases)


@pytest.mark.parametrize("core", [HOST, "m0", "m4", "m55"])
def test_cmsis_nn_for_shapes_that_shrinking_leaves(core: str, tmp_path: Path) -> None:
    if core != HOST:
        qemu.need()
    cases = test_shrink.chains(12)
    status, printed = run_cmsis_nn(tmp_path, core, cases, None, *(SANITIZE if core == HOST else ()))
    assert (status, printed) == (0, ""), explain(status, printed, cases)


@pytest.mark.parametrize("core", [HOST, "m4", "m55"])
@pytest.mark.parametrize("seed", range(1, 2 + int(os.environ.get("NNBUILD_SWEEP", "0"))))
def test_random_layers_with_cmsis_nn(core: str, seed: int, tmp_path: Path) -> None:
    """What its functions do not say: windows that they read beyond. NNBUILD_SWEEP=N adds N times as many."""
    if core != HOST:
        qemu.need()
    cases = list(random_layers.cases(seed, RANDOM))
    status, printed = run_cmsis_nn(tmp_path, core, cases, None, *(SANITIZE if core == HOST else ()))
    assert (status, printed) == (0, ""), explain(status, printed, cases)


@pytest.mark.parametrize(("core", "first"), [image for image in images(SINGLE) if image[0] not in ("m7", "m33", HOST)])
def test_own_kernels_with_single_rounding(core: str, first: int, tmp_path: Path) -> None:
    qemu.need()
    cases = SINGLE[first : first + IMAGE[core]]
    status, printed = run_direct(tmp_path, qemu.CORES[core], cases)
    assert (status, printed) == (0, ""), explain(status, printed, cases)


@pytest.mark.parametrize(("core", "first"), images(SINGLE))
def test_cmsis_nn_with_single_rounding(core: str, first: int, tmp_path: Path) -> None:
    if core != HOST:
        qemu.need()
    cases = SINGLE[first : first + IMAGE[core]]
    status, printed = run_cmsis_nn(tmp_path, core, cases, None, cmsis_library.SINGLE_ROUNDING)
    assert (status, printed) == (0, ""), explain(status, printed, cases)


def test_the_rounding_shows() -> None:
    """A CMSIS-NN that rounds in the other way would be noticed."""
    shown = set()
    for case in SINGLE:
        other = replace(case.network, single_rounding=False)
        for sample in zip(*case.inputs, strict=True):
            if interpret.run(case.network, sample)[0].tobytes() != interpret.run(other, sample)[0].tobytes():
                shown |= {layer.op for layer in case.network.layers}
    assert shown >= RESCALING, RESCALING - shown


@pytest.mark.parametrize(("core", "first"), [image for image in images(CASES) if image[0] in ("m0", "m4", "m55")])
def test_own_kernels_without_assembly(core: str, first: int, tmp_path: Path) -> None:
    """On cores that have kernels in assembly."""
    qemu.need()
    cases = CASES[first : first + IMAGE[core]]
    status, printed = run_direct(tmp_path, qemu.CORES[core], cases, assembly=False)
    assert (status, printed) == (0, ""), explain(status, printed, cases)
    assert not list(tmp_path.glob("kernels.S"))


@pytest.mark.parametrize("assembly", [True, False])
@pytest.mark.parametrize("single", [False, True])
def test_lines_of_three_products(single: bool, assembly: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What few sums are long enough for, cut first, in all kernels, on the core that has some in assembly."""
    qemu.need()
    monkeypatch.setattr(exact_requantize, "NARROW", ())
    monkeypatch.setattr(exact_requantize, "LONG", 0)
    weighted = {"conv2d", "depthwise_conv2d", "fully_connected"}
    cases = [case for case in (SINGLE if single else CASES) if any(la.op in weighted for la in case.network.layers)]
    status, printed = run_direct(tmp_path, roomy("m0"), cases, assembly)
    assert (status, printed) == (0, ""), explain(status, printed, cases)
    text = "".join(path.read_text() for path in tmp_path.glob("m*.c"))
    assert "nn_scale_wide(nn_clamp(" in text


@pytest.mark.parametrize(("name", "wide"), RANDOM_ON)
@pytest.mark.parametrize("seed", range(1, 2 + int(os.environ.get("NNBUILD_SWEEP", "0"))))
def test_random_layers_with_assembly(seed: int, name: str, wide: bool, tmp_path: Path) -> None:
    """Sizes of windows and channels of any kind, also with int16 values. NNBUILD_SWEEP=N adds N times as many."""
    qemu.need()
    cases = list(random_layers.cases(seed, RANDOM, wide))
    core = roomy(name)
    status, printed = run_direct(tmp_path, core, cases)
    assert (status, printed) == (0, ""), explain(status, printed, cases)
    assert (tmp_path / "kernels.S").exists() == (not wide or name not in ("m3", "m55"))


SHIFTED = """
static const int8_t *shifted(const int8_t *values, size_t count)
{
    static union {
        uint32_t alignment;
        int8_t bytes[4096];
    } memory;
    memcpy(memory.bytes + BY, values, count);
    return memory.bytes + BY;
}
int main(void);
"""


def alone(case: Case, layer: Layer) -> Case:
    """The layer without those that bring its input, which has as many bytes as that of the network, in its order."""
    network = case.network
    ports = [
        (replace(port, tensor=name),)
        for port, name in ((network.inputs[0], layer.inputs[0]), (network.outputs[0], layer.output))
    ]
    tensors = {name: network.tensors[name] for name in (layer.inputs[0], layer.output)}
    return replace(case, network=replace(network, tensors=tensors, layers=(layer,), inputs=ports[0], outputs=ports[1]))


@pytest.mark.parametrize(("op", "by"), [*(("conv2d", by) for by in range(4)), ("wide_conv2d", 0), ("wide_conv2d", 2)])
def test_inputs_may_have_any_alignment(op: str, by: int, tmp_path: Path) -> None:
    """Kernels that read words look where their windows lie."""
    qemu.need()
    machine = roomy("m0")
    cases = [alone(case, layer) for case in CASES for layer in case.network.layers if layer.op == op]
    cases = [case for case in cases if case.network.layers[0].params.window.input[2] % 4 == 0]
    assert len(cases) > 3
    sources = programs.write(tmp_path, cases, machine.target, backend="direct")
    main = tmp_path / "main.c"
    text = re.sub(
        r"(\(const (int8|int16)_t \*\)m\d+_in0 \+ sample \* (\d+))",
        r"(const \2_t *)(const void *)shifted((const int8_t *)(\1), \3 * sizeof(\2_t))",
        main.read_text(),
    )
    main.write_text(text.replace("int main(void);", SHIFTED.replace("BY", str(by)), 1))
    status, printed = qemu.run(qemu.link(tmp_path, programs.units(tmp_path, sources), machine), machine)
    assert (status, printed) == (0, ""), explain(status, printed, cases)
    assert "shifted((const int8_t *)((const int" in text


def roomy(core: str) -> qemu.Core:
    """The core, or for one whose machine is small its code on a Cortex-M3, which executes ARMv6-M."""
    found = qemu.CORES[core]
    return replace(found, machine=qemu.CORES["m3"].machine, memory=qemu.MPS2) if found.small else found


@functools.cache
def official() -> list[Case]:
    """The official int8 networks as cases; the recorded outputs are those that the integer reference gives."""
    folder = reference.FOLDER
    return [_official(folder, name) for name in ("kws01", "ic01")]


def _official(folder: Path, name: str) -> Case:
    golden = np.load(folder / "golden" / f"{name}_int8.npz")
    network = lower(importer.import_model(folder / "models" / "int8" / f"{name}_int8.onnx"), name)
    samples = golden["input"][:SAMPLES].reshape(SAMPLES, -1)
    for sample, recorded in zip(samples, golden["output"][:SAMPLES], strict=True):
        assert interpret.run(network, [sample])[0].ravel().tobytes() == recorded.tobytes()
    return Case(name, network, (samples,))


@pytest.mark.parametrize("core", qemu.CORES)
def test_official_networks_with_own_kernels(reference_dir: Path, core: str, tmp_path: Path) -> None:
    qemu.need()
    assert run_direct(tmp_path, roomy(core), official()) == (0, "")


@pytest.mark.parametrize("core", [HOST, *qemu.CORES])
def test_official_networks_with_cmsis_nn(reference_dir: Path, core: str, tmp_path: Path) -> None:
    if core != HOST:
        qemu.need()
    machine = None if core == HOST else roomy(core)
    assert run_cmsis_nn(tmp_path, core, official(), machine) == (0, "")


# The programs can fail.

TWO = [case for case in CASES if case.network.layers[0].op == "fully_connected"][:2]


def has_assembly(target: Target) -> bool:
    """Whether fully connected layers are in assembly."""
    return target.armv6m or target.dsp


@pytest.mark.parametrize("core", qemu.CORES)
def test_a_wrong_byte_is_noticed(core: str, tmp_path: Path) -> None:
    qemu.need()
    machine = qemu.CORES[core]
    sources = programs.write(tmp_path, TWO, machine.target)
    weights = tmp_path / "m1_weights.c"
    before, brace, after = weights.read_text().partition("_scaling[" if has_assembly(machine.target) else "_bias[")
    first = after.index("{\n    ") + len("{\n    ")
    added = 1 << 27 if machine.target.armv6m else 4000  # to a slope, or to a bias
    weights.write_text(f"{before}{brace}{after[:first]}{added} + {after[first:]}")
    assert qemu.run(qemu.link(tmp_path, sources, machine), machine) == (2, "differs: 2\n")


@pytest.mark.parametrize("core", qemu.CORES)
def test_a_fault_is_noticed(core: str, tmp_path: Path) -> None:
    qemu.need()
    machine = qemu.CORES[core]
    sources = programs.write(tmp_path, TWO, machine.target)
    main = tmp_path / "main.c"
    main.write_text(main.read_text().replace("CASE_BEGINS(number);", 'CASE_BEGINS(number); __asm volatile("udf #0");'))
    assert qemu.run(qemu.link(tmp_path, sources, machine), machine) == (254, "fault in case: 1\n")


def convolution(folder: Path) -> list[Path]:
    """The program of one convolution that needs scratch, for this machine with CMSIS-NN."""
    target = cmsis_library.target(HOST)
    for case in CASES:
        sources = programs.write(folder, [case], target, backend="cmsis_nn")
        if "arm_convolve_s8(" in (folder / "m0.c").read_text():
            break
    return sources


def test_writing_behind_the_arena_is_noticed(tmp_path: Path) -> None:
    sources = convolution(tmp_path)
    header = tmp_path / "m0.h"
    header.write_text(re.sub(r"(ARENA_SIZE \d+)", r"\1 / 8 * 4", header.read_text()))
    status, printed = run_here(tmp_path, sources, cmsis_library.library(HOST))
    assert (status, printed) == (1, "differs: 1\n")


def test_scratch_of_another_size_is_noticed(tmp_path: Path) -> None:
    sources = convolution(tmp_path)
    model = tmp_path / "m0.c"
    before, check, after = model.read_text().rpartition("NN_CHECK_SCRATCH(")
    model.write_text(f"{before}{check}1 + {after}")
    status, printed = run_here(tmp_path, sources, cmsis_library.library(HOST))
    assert status == 252
    assert printed.startswith("scratch needed: ")


def test_cmsis_nn_tells_sizes() -> None:
    functions = cmsis_library.functions()
    assert functions.arm_avgpool_s8_get_buffer_size_mve(5, 8) == 0
    assert functions.arm_avgpool_s8_get_buffer_size_dsp(5, 8) == 32


def test_every_core_has_a_target() -> None:
    for core in qemu.CORES.values():
        assert TARGETS[core.cpu].guard
        assert core.flags[0] == f"-mcpu={core.cpu}"
