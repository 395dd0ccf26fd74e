"""What each kernel executes and takes, by layer and core: `python -m benchmarks.kernels [--write | --check]`.

Single layers (kernel_layers.py) with every kernel of ours that serves, and with CMSIS-NN's where it is there: counted
instructions, cycles, bytes of code, data and scratch. `--write` refreshes docs/KERNELS.md and benchmarks/kernels.json,
which takes a minute and needs CMSIS-NN. `--check` measures our kernels again: under the compiler that the table names
a figure above the committed one is an error, under another the differences are printed. Needs the cross compiler and
QEMU with plugins.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import cmsis_nn as library_benchmark
from benchmarks import executed, kernel_layers, target
from benchmarks.kernel_page import PAGE, page
from benchmarks.kernel_table import DATA, Row, Table, judge
from nnbuild import cmsis_nn, instruction_timings
from nnbuild.contract import Case, LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.files import write_text
from nnbuild.network import Layer, Network
from nnbuild.ops import BY_NAME
from nnbuild.shrink import shrink
from nnbuild.target import TARGETS, Target

CORES = ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m55")
IMAGE_BYTES = 400_000
"""Weights and buffers that fit into one image: the Cortex-M55's machine has 512 KiB of each."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One layer with one kernel, in a network of its own. `roles` as in Row; `files` are named as network `number`."""

    layer: str
    kernel: str
    roles: tuple[str, ...]
    view: LayerView
    options: EmitOptions
    network: Network

    def files(self, number: int) -> dict[str, str]:
        """What is compiled."""
        return emit(self.network, replace(self.options, name=f"n{number}"))


def variants(case: Case, where: Target) -> Iterator[Variant]:
    """Every kernel that serves the layer of `case`, of which some are what nnbuild takes."""
    network = shrink(case.network)
    layer = network.layers[_index(network)]
    view = LayerView.of(network, layer)
    in_c = replace(where, assembly=False)
    roles = {"own": _taken(network, where, "direct"), "auto": _taken(network, where, "auto")}
    plain = _taken(network, in_c, "direct")
    kernels = {kernel.name: where for kernel in BY_NAME[layer.op].kernels if kernel.supports(view, where) is None}
    if plain in kernels and _text(network, layer, plain, where) == _text(network, layer, plain, in_c):
        roles["c"] = plain
    else:
        kernels[f"{plain} in C"] = in_c
        roles["c"] = f"{plain} in C"
    for label, made_for in kernels.items():
        kernel = label.removesuffix(" in C")
        mine = tuple(role for role, name in roles.items() if name == label)
        yield Variant(case.name, label, mine, view, _options(layer, kernel, made_for), network)


def _index(network: Network) -> int:
    """Of the one layer that is no transpose."""
    (index,) = (at for at, layer in enumerate(network.layers) if layer.op != "transpose")
    return index


def _taken(network: Network, where: Target, backend: str) -> str:
    """The kernel that the layer gets when nobody pins one."""
    kernels = [
        layer["kernel"] for layer in _report(emit(network, EmitOptions("n0", where, backend=backend, apart=True)), "n0")
    ]
    return str(kernels[_index(network)])


def _report(files: Mapping[str, str], name: str) -> list[dict[str, Any]]:
    """What the report says of each layer."""
    layers: list[dict[str, Any]] = json.loads(files[f"{name}.report.json"])["layers"]
    return layers


def _options(layer: Layer, kernel: str, where: Target) -> EmitOptions:
    return EmitOptions("n0", where, pins={layer.name: kernel}, backend="direct", apart=True)


def _text(network: Network, layer: Layer, kernel: str, where: Target) -> dict[str, str]:
    """What the compiler sees."""
    files = emit(network, _options(layer, kernel, where))
    return {name: text for name, text in files.items() if name.endswith((".c", ".S"))}


def measured(cores: Sequence[str] = CORES, root: Path | None = None, only: str = "") -> list[Row]:
    """Rows of the layers whose name contains `only`; those of CMSIS-NN too where its folder is given."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for core in cores:
            rows += _of_core(core, root, only, Path(folder) / core)
    return rows


def _of_core(core: str, root: Path | None, only: str, folder: Path) -> Iterator[Row]:
    link: list[str] = []
    where = TARGETS[core]
    if root is not None:
        (folder / "library").mkdir(parents=True)
        link = library_benchmark.library([*executed.CORES[core].flags, "-mthumb"], root, folder / "library")
        where = replace(where, cmsis_nn=cmsis_nn.read(root))
    wanted = [one for case in kernel_layers.cases() if only in case.name for one in variants(case, where)]
    for number, group in enumerate(_images(wanted)):
        files = [variant.files(position) for position, variant in enumerate(group)]
        ran = executed.run(core, files, folder / f"image{number}", link)
        for position, (variant, own) in enumerate(zip(group, files, strict=True)):
            yield _row(core, variant, own, f"n{position}", ran[position])


def _images(wanted: Sequence[Variant]) -> Iterator[list[Variant]]:
    group: list[Variant] = []
    room = IMAGE_BYTES
    for variant in wanted:
        report = json.loads(variant.files(0)["n0.report.json"])
        size = report["arena_bytes"] + sum(layer["weights_bytes"] for layer in report["layers"])
        ports = (*variant.network.inputs, *variant.network.outputs)
        size += sum(variant.network.tensors[port.tensor].bytes for port in ports)
        if group and size > room:
            yield group
            group, room = [], IMAGE_BYTES
        group.append(variant)
        room -= size
    if group:
        yield group


def _row(core: str, variant: Variant, files: Mapping[str, str], name: str, ran: executed.Ran) -> Row:
    index = _index(variant.network)
    layer, found = _report(files, name)[index], ran.layers[index]
    cycles = round(found.cycles(core)) if core in instruction_timings.CORES else None
    weights = re.findall(r"^const \w+ (\w+)\[", files[f"{name}_weights.c"], re.MULTILINE)
    view = variant.view
    return Row(
        core=core,
        layer=variant.layer,
        kernel=variant.kernel,
        roles=variant.roles,
        macs=layer["macs"],
        elements=max(tensor.size for tensor in (*view.inputs, view.output)),
        instructions=round(found.instructions),
        cycles=cycles,
        code=ran.image.bytes_of(layer["function"], weights),
        data=layer["weights_bytes"],
        scratch=layer["scratch_bytes"],
    )


def main() -> int:
    """Measure and print; write with --write; 1 where --check finds a figure above the committed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="refresh docs/KERNELS.md and benchmarks/kernels.json")
    action.add_argument("--check", action="store_true", help="hold our kernels against benchmarks/kernels.json")
    parser.add_argument("--only", default="", metavar="LAYER", help="layers whose name contains this")
    arguments = parser.parse_args()
    if arguments.write and arguments.only:
        parser.error("--write is for all layers")
    for tool in (target.CC, "qemu-system-arm"):
        if shutil.which(tool) is None:
            print(f"skipped: {tool} is not installed", file=sys.stderr)
            return 0
    if arguments.check:
        verdict = judge(Table.read(DATA), Table(target.compiler_version(), "", tuple(measured(only=arguments.only))))
        print("\n".join([*verdict.remarks, *verdict.errors]) or "no kernel takes more or less than the table says")
        return 1 if verdict.errors else 0
    root = cmsis_nn.find(None, os.environ)
    if root is None and arguments.write:
        print("skipped: the table has CMSIS-NN beside our kernels; set CMSIS_NN", file=sys.stderr)
        return 0
    version = cmsis_nn.read(root).version if root else ""
    table = Table(target.compiler_version(), version, tuple(measured(root=root, only=arguments.only)))
    print(page(table))
    if arguments.write:
        write_text(DATA, table.text())
        write_text(PAGE, page(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
