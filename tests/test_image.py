"""The linked image holds what the plan says: arena and states of each model, as large as its report has them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nnbuild.emit import EmitOptions, emit
from nnbuild.network import Network
from nnbuild.optimize import Aim
from nnbuild.placement import Placement
from nnbuild.streams.over_time import streamed
from nnbuild.streams.stream import Stream

from . import host, qemu
from .test_over_time import by_rows
from .test_rows import maps

M0 = qemu.CORES["m0"]


@dataclass(frozen=True)
class Image:
    """Models of two sizes as streams or over whole maps, how they are generated, and what of it is in the report."""

    stream: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: bool = False


IMAGES = {
    "static": Image(),
    "in the arena": Image(options={"placement": Placement(io="arena", arena_align=16)}),
    "in a section": Image(options={"placement": Placement(arena_section=".bss.mine")}),
    "shared": Image(options={"arena": "shared"}),
    "caller": Image(options={"arena": "caller"}),
    "stream": Image(stream=True),
    "shared stream": Image(stream=True, options={"arena": "shared"}),
    "stream of the caller": Image(stream=True, options={"arena": "caller"}),
    "rows": Image(options={"aim": Aim(ram=1)}, rows=True),
    "pushed": Image(options={"push_rows": True}, rows=True),
    "pushed, caller": Image(options={"push_rows": True, "arena": "caller"}, rows=True),
    "pushed, shared": Image(options={"push_rows": True, "arena": "shared"}, rows=True),
    "pushed stream": Image(stream=True, options={"push_rows": True}, rows=True),
}


def models(folder: Path, stream: bool) -> list[Network]:
    if stream:
        whole, own = by_rows(folder, 1)
        return [own, streamed(whole, Stream(1, 4))]
    return [maps(12, 2), maps(9, 3)]


def calling(name: str, image: Image) -> str:
    """C that calls a model, with memory of the caller that is named like that of a model."""
    own = image.options.get("arena") == "caller"
    memory = [f"{name}_arena", *([f"{name}_state"] if image.stream else [])] if own else []
    lines = [f"static uint32_t {each}[{each.upper()}_SIZE / 4];" for each in memory]
    lines += [f"int8_t {kind}_{name}[{name.upper()}_{kind.upper()}_SIZE];" for kind in ("input", "output")]
    pushed, in_arena = "push_row" in str(image.options), image.options.get("placement", Placement()).in_arena
    ports = [*([] if in_arena or pushed else [f"input_{name}"]), *([] if in_arena else [f"output_{name}"])]
    calls = [f"(void){name}_reset({', '.join(memory[1:])});"] if image.stream else []
    calls += [f"(void){name}_push_row({', '.join([*memory[:1], '0', f'input_{name}'])});"] if pushed else []
    calls += [f"return {name}_run({', '.join([*memory, *ports])});"]
    return "\n".join([*lines, f"static int call_{name}(void) {{ {' '.join(calls)} }}"])


@pytest.mark.parametrize("kind", IMAGES)
def test_the_linked_image_is_the_plan(kind: str, tmp_path: Path) -> None:
    """Sizes of the symbols, for each model; of a shared arena what the largest needs."""
    qemu.need()
    image, files, code, reports = IMAGES[kind], dict[str, str](), [], {}
    arena = str(image.options.get("arena", "static"))
    for name, network in zip(("one", "two"), models(tmp_path, image.stream), strict=True):
        made = emit(network, EmitOptions(name, M0.target, **image.options))
        files |= made
        reports[name] = json.loads(made[f"{name}.report.json"])
        code.append(calling(name, image))
        assert bool(reports[name]["segments"]) == image.rows
        assert bool(reports[name]["state_bytes"]) == image.stream
    include = '#include "one.h"\n#include "two.h"\nint main(void);\n'
    main = f"{include}{chr(10).join(code)}\nint main(void) {{ return call_one() + call_two(); }}\n"
    sources = [*host.write(tmp_path, {**files, "main.c": main}), *(tmp_path / f"{name}_kernels.S" for name in reports)]
    elf = qemu.link(tmp_path, sources, M0)
    expected = {f"{name}_arena": report["arena_bytes"] for name, report in reports.items()}
    if arena == "shared":
        expected = {"nn_shared_arena": max(expected.values())}
    expected |= {f"{name}_state": report["state_bytes"] for name, report in reports.items() if image.stream}
    assert memory(elf) == expected


def memory(elf: Path) -> dict[str, int]:
    """The bytes of what is written by models, by symbol."""
    listed = subprocess.run(["arm-none-eabi-nm", "-S", str(elf)], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\w+ (\w+) [bBdDC] ((?:one|two|nn)_\w+)$", listed, re.MULTILINE)
    return {name: int(size, 16) for size, name in found}
