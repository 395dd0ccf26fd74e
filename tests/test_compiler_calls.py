"""What generated C for ARMv6-M calls of the compiler's library: copies and fills, and no division or wide product.

A Cortex-M0 has no instruction for a division, a product of 64 bits or a shift of 64 bits by a variable, so a compiler
calls a function for each; those take 50 to several hundred cycles, and bytes of flash.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from nnbuild.contract import Case
from nnbuild.emit import EmitOptions, emit
from nnbuild.ops import ALL
from nnbuild.placement import Placement

from . import host, parts_networks, programs, qemu, random_layers
from .test_kernels_cores import RESCALING

MOVES = {"memcpy", "memmove", "memset"}
CALLS: dict[str, set[str]] = {
    "gru": {"memcpy"},
    "history": {"memcpy", "memmove"},
    **{name: {"memcpy", "memset"} for name in ("lstm", "rnn")},
    **{name: {"memset"} for name in ("log_softmax", "mul", "pad", "rescale", "wide_depthwise_conv2d")},
}
"""By operator, of gcc 12 at -O2: what moves or fills bytes. Another compiler may find more or fewer such loops."""


def calls(folder: Path, cases: Sequence[Case], core: qemu.Core = qemu.CORES["m0"]) -> set[str]:
    """The functions that the C of `cases` calls and does not define, with assembly and without, in both roundings."""
    text = ""
    for number, case in enumerate(cases):
        rounded = any(layer.op in RESCALING for layer in case.network.layers)
        for form, (assembly, single) in enumerate(
            [(True, False), (False, False), (False, True)][: 3 if rounded else 2]
        ):
            network = replace(case.network, single_rounding=single)
            name = f"m{number}_{form}"
            target = replace(core.target, assembly=assembly)
            files = emit(network, EmitOptions(name, target, arena="caller", backend="direct"))
            host.write(folder, files)
            text += programs._included(folder / f"{name}.c")
    return undefined(folder, text, core)


def undefined(folder: Path, text: str, core: qemu.Core = qemu.CORES["m0"]) -> set[str]:
    """The functions of others that C calls, but for weights and assembly of models."""
    folder.mkdir(exist_ok=True)
    (folder / "all.c").write_text(text)
    (built,) = qemu.objects([*qemu.flags(core), "-O2", "-std=c99", f"-I{folder}"], folder, [folder / "all.c"])
    found = subprocess.run(["arm-none-eabi-nm", "-u", str(built)], capture_output=True, text=True, check=True).stdout
    return {name for name in re.findall(r"^\s*U (\w+)$", found, re.MULTILINE) if not re.match(r"m\d+_", name)}


def test_cases_call_what_moves_bytes_and_nothing_else(tmp_path: Path) -> None:
    qemu.need()
    found = {}
    for operator in ALL:
        if operator.kernels:
            found[operator.name] = calls(tmp_path / operator.name, list(operator.cases()))
    assert {name: called - MOVES for name, called in found.items() if called - MOVES} == {}
    if "12.2" in subprocess.run([qemu.COMPILER, "--version"], capture_output=True, text=True, check=True).stdout:
        assert {name: called for name, called in found.items() if called} == CALLS


@pytest.mark.parametrize("seed", [32, 59])
def test_no_layer_is_left_out(seed: int, tmp_path: Path) -> None:
    """gcc 12.2 left out a concatenation where it saw that input and output lie in one array; both seeds have one."""
    qemu.need()
    core = qemu.CORES["m4"]
    network = parts_networks.network(Random(seed).randrange)
    files = emit(network, EmitOptions("m", core.target, placement=Placement(io="arena")))
    host.write(tmp_path, files)
    (built,) = qemu.objects([*qemu.flags(core), "-O2", "-std=c99", f"-I{tmp_path}"], tmp_path, [tmp_path / "m.c"])
    text = subprocess.run(["arm-none-eabi-objdump", "-d", built], capture_output=True, text=True, check=True).stdout
    run = text.split("<m_run>:")[1].split("\n\n")[0]
    assert len(re.findall(r"\tb(?:l|\.w)\t", run)) == len(re.findall(r"^    m_l\d+", files["m.c"], re.MULTILINE))


def test_random_layers_call_what_moves_bytes_and_nothing_else(tmp_path: Path) -> None:
    qemu.need()
    cases = [*random_layers.cases(0, 15), *random_layers.cases(0, 10, wide=True)]
    assert calls(tmp_path, cases) <= MOVES


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("int32_t f(int32_t a, int32_t b) { return a / b; }", {"__aeabi_idiv"}),
        ("uint32_t f(uint32_t a) { return a / 9u; }", {"__aeabi_uidiv"}),
        ("int64_t f(int64_t a, int32_t b) { return a * b; }", {"__aeabi_lmul"}),
        ("int32_t f(int32_t a) { return a * 9; }", set()),
    ],
)
def test_calls_are_noticed(tmp_path: Path, body: str, expected: set[str]) -> None:
    qemu.need()
    assert undefined(tmp_path, f"#include <stdint.h>\n{body}\n") == expected
