"""Bytes that each function of CMSIS-NN brings into an image: `python -m benchmarks.cmsis_nn_sizes`.

Writes nnbuild/cmsis_nn_sizes.json: for each class of instruction sets the sizes of the library's symbols, and for each
function that generated code may call the symbols that the linker takes for it. What several functions share counts
once. `nnbuild check` needs it, because it does not link. Needs the cross compiler and a CMSIS-NN.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import target
from nnbuild import cmsis_nn
from nnbuild.files import write_text
from nnbuild.report import elf

TABLE = Path(__file__).resolve().parents[1] / "nnbuild" / "cmsis_nn_sizes.json"
FLAGS = {
    "armv6m": target.CORES["M0"][1],
    "armv7m": ["-mcpu=cortex-m3", "-mthumb", "-mfloat-abi=soft"],
    "dsp": target.CORES["M4"][1],
    "mve": target.CORES["M55"][1],
}
COMMON = frozenset(("memcpy", "memset", "memmove"))
"""What an image has anyway."""


def compiled(flags: list[str], root: Path, folder: Path) -> Path:
    """The library as the build makes it."""
    objects = []
    for source in cmsis_nn.sources(root):
        objects.append(str(folder / f"{source.stem}.o"))
        options = [*flags, "-O2", *target.SECTIONS, f"-I{root / 'Include'}"]
        subprocess.run([target.CC, *options, "-c", str(source), "-o", objects[-1]], check=True)
    archive = folder / "libcmsis_nn.a"
    subprocess.run(["arm-none-eabi-ar", "rcs", str(archive), *objects], check=True)
    return archive


def linked(flags: list[str], archive: Path, function: str) -> dict[str, int]:
    """Symbols and their bytes, of an image that holds nothing but `function`."""
    image = archive.parent / "one.elf"
    only = [
        "-nostartfiles",
        "--specs=nano.specs",
        f"-Wl,-e,{function},-u,{function},--gc-sections,--no-warn-rwx-segments",
    ]
    subprocess.run([target.CC, *flags, *only, str(archive), "-lm", "-o", str(image)], check=True)
    loaded = [section for section in elf.read(image).sections if section.load is not None]
    places: dict[tuple[str, int], tuple[str, int]] = {}
    for section in loaded:
        for symbol in sorted(section.symbols, key=lambda symbol: symbol.name):
            if symbol.size and symbol.name not in COMMON:
                places.setdefault((section.name, symbol.offset), (symbol.name, symbol.size))
    return dict(places.values())


def measured(flags: list[str], root: Path, offered: frozenset[str]) -> dict[str, Any]:
    """Of one class of instruction sets: sizes by symbol, symbols by function."""
    symbols: dict[str, int] = {}
    functions: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        archive = compiled(flags, root, Path(folder))
        for function in (name for names in cmsis_nn.CALLS.values() for name in names):
            if function in offered and not function.endswith("_get_buffer_size"):
                found = linked(flags, archive, function)
                symbols |= found
                functions[function] = sorted(found)
    return {"symbols": dict(sorted(symbols.items())), "functions": dict(sorted(functions.items()))}


def document(tables: Mapping[str, Any], version: str) -> str:
    """The table as it is stored."""
    head = {"compiler": f"{target.compiler_version()}, -O2", "cmsis_nn": version}
    return json.dumps({**head, "isa": tables}, indent=1) + "\n"


def main() -> int:
    """Measure and write."""
    root = cmsis_nn.find(None, os.environ)
    if root is None:
        print("skipped: no CMSIS-NN; set CMSIS_NN", file=sys.stderr)
        return 0
    offered = cmsis_nn.read(root)
    tables = {isa: measured(flags, root, offered.functions) for isa, flags in FLAGS.items()}
    write_text(TABLE, document(tables, offered.version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
