"""What the layers of generated networks execute under QEMU: instructions by class, reads of flash, bytes of code.

Many networks make one image, which runs each once on random bytes. A plugin (executed.c) counts blocks of code between
the calls of the layer hook; `<name>_run` itself is told apart from what it calls.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import reach
from benchmarks.target import prototypes
from nnbuild import instruction_timings
from nnbuild.instruction_timings import Instruction
from tests import qemu

PLUGIN = Path(__file__).with_name("executed.c")
CORES: Mapping[str, qemu.Core] = {
    "cortex-m0": replace(qemu.CORES["m0"], machine="mps2-an385", memory=qemu.MPS2),
    "cortex-m3": qemu.CORES["m3"],
    "cortex-m4": qemu.CORES["m4"],
    "cortex-m55": qemu.CORES["m55"],
}
"""One core for each class of instruction sets. QEMU's machine with a Cortex-M0 is small; a Cortex-M3 runs its code."""

_MAIN = """
static uint32_t state = 1;

static void fill(int8_t *bytes, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = (int8_t)((int32_t)(state >> 24) - 128);
    }
}

__attribute__((noinline)) void layer_done(void)
{
    __asm volatile("");
}
"""
HOOK = "layer_done"


@dataclass(slots=True)
class Executed:
    """Instructions by class, and accesses to flash: each 32 bits of instructions, each jump, reads of constants.

    `assembly` is the part of a layer that runs in the network's functions in assembly.
    """

    classes: dict[str, float] = field(default_factory=dict)
    waits: float = 0
    assembly: Executed | None = None

    @property
    def instructions(self) -> float:
        """All of them; `registers` and the jump of a POP are parts of one that is counted."""
        return self.classes.get("all", 0)

    def cycles(self, core: str) -> float:
        """Weighed with the core's timings."""
        column = instruction_timings.CORES.index(core)
        weights = instruction_timings.CYCLES
        return sum(weights[kind][column] * count for kind, count in self.classes.items() if kind != "all")


@dataclass(frozen=True, slots=True)
class Ran:
    """One network: its layers, what `<name>_run` adds to all of them, bytes of code by function, and the image.

    `rows` is what the functions of segments that go row by row add.
    """

    layers: tuple[Executed, ...]
    run: Executed
    rows: Executed
    code: Mapping[str, int]
    image: reach.Image

    def code_of(self, function: str) -> int:
        """Bytes of a layer's function in C, however the compiler renamed it, and of its constant parameters."""
        own = rf"{function}(_params|_in|_filter|_out|_order)?(\.[\w.]+)?"
        return sum(size for name, size in self.code.items() if re.fullmatch(own, name))


def run(cpu: str, networks: Sequence[Mapping[str, str]], folder: Path, library: Sequence[str] = ()) -> list[Ran]:
    """Compile the files of `networks`, named n0, n1, ..., and run them; `library`: an include folder and CMSIS-NN."""
    core = CORES[cpu]
    folder.mkdir(parents=True, exist_ok=True)
    reports = []
    for number, files in enumerate(networks):
        for name, text in files.items():
            (folder / name).write_text(text)
        reports.append(json.loads(files[f"n{number}.report.json"]))
    (folder / "main.c").write_text(_main(networks, reports))
    sources = [folder / "main.c", *(path for files in networks for path in _sources(folder, files))]
    hooks = [f"-DN{number}_LAYER_HOOK(index)={HOOK}()" for number in range(len(networks))]
    compile_arguments = [*hooks, *(word for word in library if word.startswith("-I")), "-w"]
    (folder / "hook.h").write_text(f"#ifndef __ASSEMBLER__\nvoid {HOOK}(void);\n#endif\n")
    compile_arguments += ["-include", str(folder / "hook.h")]
    archives = ["-Wl,-q", *(word for word in library if not word.startswith("-I"))]
    elf = qemu.link(folder, sources, core, "-O2", compile_arguments, archives)
    assembled = {name for files in networks for text in files.values() for name in re.findall(r"\.hidden (\w+)", text)}
    return _read(elf, _traced(elf, core, folder), [_order(report) for report in reports], assembled)


def _order(report: Mapping[str, Any]) -> list[int]:
    """The layers in the order in which they run: those of a segment row by row."""
    order, layers = list(range(len(report["layers"]))), report["layers"]
    for own in reversed(report["segments"]):
        inside = range(own["first"], own["last"] + 1)
        due = [(layers[index]["rows"], index) for index in inside]
        steps = [
            index
            for step in range(own["steps"])
            for rows, index in due
            if (step - rows["first"]) % rows["every"] == 0
            and 0 <= (step - rows["first"]) // rows["every"] < rows["count"]
        ]
        order[own["first"] : own["last"] + 1] = steps
    return order


def _sources(folder: Path, files: Mapping[str, str]) -> list[Path]:
    return [folder / name for name in files if name.endswith((".c", ".S"))]


def _main(networks: Sequence[Mapping[str, str]], reports: Sequence[Mapping[str, Any]]) -> str:
    names = [f"n{number}" for number in range(len(reports))]
    lines = ["#include <stdint.h>", *(f'#include "{name}.h"' for name in names), _MAIN]
    body = []
    for name, files, report in zip(names, networks, reports, strict=True):
        found = prototypes(files[f"{name}.h"], name)
        arguments, pushed = [], f"{name}_push_row" in found
        body.append("    state = 1;")  # what a network executes is the same whatever runs in front of it
        for kind in ("inputs", "outputs"):
            for position, port in enumerate(report[kind]):
                buffer, size = f"{name}_{kind}{position}", math.prod(port["shape"])
                in_arena = f"{name}_{kind[:-1]}" in found
                if in_arena:
                    buffer = f"{name}_{kind[:-1]}()"
                else:
                    lines.append(f"static int8_t {buffer}[{size}] __attribute__((aligned(4)));")
                if not (in_arena or (pushed and kind == "inputs")):
                    arguments.append(buffer)
                body += [f"    fill({buffer}, {size});"] if kind == "inputs" else []
        body += [f"    {name}_reset();"] if report["state_bytes"] else []
        push = f"{name}_push_row(y, &{name}_inputs0[y * {name.upper()}_INPUT_ROW_SIZE]);"
        loop = [f"    for (int32_t y = 0; y < {name.upper()}_INPUT_ROWS; y++) {{", f"        {push}", "    }"]
        run = f"    {name}_run({', '.join(arguments)});"
        body += [f"    {HOOK}();", *(loop if pushed else []), run, f"    {HOOK}();"]
    return "\n".join([*lines, "", "int main(void)", "{", *body, "    return 0;", "}", ""])


def _traced(elf: Path, core: qemu.Core, folder: Path) -> Path:
    """The plugin's output for one run of the image."""
    plugin, output = folder / "executed.so", folder / "executed.txt"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(plugin), str(PLUGIN)], check=True)
    mark = _symbols(elf)[HOOK][0]
    arguments = f"file={plugin},out={output},mark={mark:#x},ram={core.memory.ram[0]:#x}"
    command = ["qemu-system-arm", "-M", core.machine, "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", "-plugin", arguments, "-kernel", str(elf)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=600)
    return output


def _symbols(elf: Path) -> dict[str, tuple[int, int]]:
    """Address and size of each function."""
    text = subprocess.run(["arm-none-eabi-nm", "-S", str(elf)], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) [TtWw] (\S+)$", text, re.MULTILINE)
    return {name: (int(address, 16) & ~1, int(size, 16)) for address, size, name in found}


def _disassembled(elf: Path) -> dict[int, Instruction]:
    text = subprocess.run(["arm-none-eabi-objdump", "-d", str(elf)], capture_output=True, text=True, check=True).stdout
    line = r"^\s+([0-9a-f]+):\t([0-9a-f]{4}(?: ?[0-9a-f]{4})?)\s*\t(\S+)[\t ]*([^;@\n]*)"
    return {
        int(address, 16): Instruction(mnemonic.split(".")[0], operands.strip(), len(raw.replace(" ", "")) // 2)
        for address, raw, mnemonic, operands in re.findall(line, text, re.MULTILINE)
    }


def _read(elf: Path, output: Path, layers: Sequence[Sequence[int]], assembled: Collection[str]) -> list[Ran]:
    """The stretches of the networks: one in front of each, one for each layer, and what runs behind the last.

    `layers` are those of each network in the order in which they run; `assembled` are the symbols of functions in
    assembly.
    """
    symbols = _symbols(elf)
    reader = _Reader(_disassembled(elf), symbols, assembled)
    stretches: list[tuple[Executed, Executed, Executed]] = []
    blocks: list[tuple[int, int, int, int]] = []
    for line in output.read_text().splitlines():
        words = line.split()
        if words[0] == "BLOCK":
            blocks.append((int(words[1], 16), int(words[2], 16), int(words[3]), int(words[4])))
        else:
            stretches.append(reader.stretch(blocks, int(words[2])))
            blocks = []
    image = reach.read(elf)
    found, at = [], 0
    for number, order in enumerate(layers):
        # stretches[at] ends where the network begins, and the last ends behind its return.
        count = len(order)
        mine = stretches[at + 1 : at + 1 + count]
        run, rows = (_added([own[kind] for own in stretches[at + 1 : at + 2 + count]]) for kind in (1, 2))
        parts: dict[int, list[Executed]] = {index: [] for index in sorted(order)}
        for index, (layer, _, _) in zip(order, mine, strict=True):
            parts[index].append(layer)
        code = {name: size for name, (_, size) in symbols.items() if name.startswith(f"n{number}_")}
        found.append(Ran(tuple(_added(own) for own in parts.values()), run, rows, code, image))
        at += count + 2
    return found


def _added(parts: Sequence[Executed]) -> Executed:
    total = Executed()
    for part in parts:
        for kind, count in part.classes.items():
            total.classes[kind] = total.classes.get(kind, 0) + count
        total.waits += part.waits
    assembly = [part.assembly for part in parts if part.assembly is not None]
    total.assembly = _added(assembly) if assembly else None
    return total


class _Reader:
    """Weighs blocks; what belongs to main and to the hook is left out."""

    def __init__(
        self,
        code: Mapping[int, Instruction],
        symbols: Mapping[str, tuple[int, int]],
        assembled: Collection[str] = (),
    ) -> None:
        self._code = code
        self._ranges = {
            kind: [symbols[name] for name in symbols if re.fullmatch(pattern, name)]
            for kind, pattern in {
                "run": r"n\d+_(run|push_row)",
                "rows": r"n\d+_rows_[\w.]+",
                "none": f"main|fill|{HOOK}",
            }.items()
        }
        self._ranges["assembly"] = [symbols[name] for name in symbols if name in assembled]

    def _kind(self, address: int) -> str:
        for kind, ranges in self._ranges.items():
            if any(start <= address < start + size for start, size in ranges):
                return kind
        return "layer"

    def stretch(self, blocks: Sequence[tuple[int, int, int, int]], reads: int) -> tuple[Executed, Executed, Executed]:
        """(the layer's, those of `<name>_run`, those of segments)."""
        found = {"run": Executed(), "rows": Executed(), "none": Executed(), "layer": Executed(), "assembly": Executed()}
        behind = self._loads_at_ends(blocks)
        for first, last, times, taken in blocks:
            into = found[self._kind(first)]
            block = self._block(first, last)
            if block and block[-1].kind == "call" and f"<{HOOK}>" in block[-1].operands:
                block = block[:-1]  # the call of the hook, which a firmware has not
            counts = instruction_timings.of_block(block, taken / times)
            for kind, count in counts.items():
                into.classes[kind] = into.classes.get(kind, 0) + times * count
            load = behind.get(first)
            if load is not None and block and block[0].kind == "load" and block[0].follows(load[0]):
                overlapping = min(times, load[1])
                into.classes["load"] -= overlapping
                into.classes["next_load"] = into.classes.get("next_load", 0) + overlapping
            into.classes["all"] = into.classes.get("all", 0) + times * len(block)
            jumps = sum(counts.get(kind, 0) for kind in ("branch", "call", "jump"))
            into.waits += times * (sum(instruction.size for instruction in block) / 4 + jumps)
        found["layer"].waits += reads
        layer = _added([found["layer"], found["assembly"]])
        layer.assembly = found["assembly"]
        return layer, found["run"], found["rows"]

    def _loads_at_ends(self, blocks: Sequence[tuple[int, int, int, int]]) -> dict[int, tuple[Instruction, int]]:
        """Loads that end a block, and how often, by the address behind: QEMU cuts blocks where a page ends."""
        found: dict[int, tuple[Instruction, int]] = {}
        for _, last, times, _ in blocks:
            instruction = self._code[last]
            if instruction.kind == "load" and not instruction.operands.startswith("pc"):
                after = last + instruction.size
                found[after] = instruction, times + found.get(after, (instruction, 0))[1]
        return found

    def _block(self, first: int, last: int) -> list[Instruction]:
        block, address = [], first
        while address <= last:
            instruction = self._code[address]
            block.append(instruction)
            address += instruction.size
        return block
