"""CMSIS-NN through nnbuild beside hand-written calls: `python -m benchmarks.cmsis_nn [--write]`.

With `backend="cmsis_nn"`, on M0, M4 and M55: flash, arena and instructions, and how far they are from direct calls
written by hand with a static plan (`HAND_WRITTEN`, measured with CMSIS-NN 99f736a, gcc 12.2, -O2, newlib-nano on the
official int8 networks; for the others with per-tensor fully connected layers). Under that compiler a figure more than
2 % above is an error; under another the difference is printed. `--write` refreshes docs/CMSIS-NN.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import command, target
from benchmarks.footprint import ROOT, quantized
from nnbuild import __version__, cmsis_nn, interpret
from nnbuild.emit import EmitOptions, emit
from nnbuild.files import write_text
from nnbuild.lower import lower
from nnbuild.network import Network
from nnbuild.target import TARGETS

TABLE = ROOT / "docs" / "CMSIS-NN.md"
CPUS = {"M0": "cortex-m0", "M4": "cortex-m4", "M55": "cortex-m55"}
COMPILER = "12.2"
SAMPLES = 2
TOLERANCE = 1.02

# (model file, fully connected layers); the first two are the official int8 networks.
NETWORKS = {
    "kws01": ("int8/kws01_int8.onnx", "per_channel"),
    "ic01": ("int8/ic01_int8.onnx", "per_channel"),
    "ad01": ("tf2onnx/ad01_tf.onnx", "per_tensor"),
    "vww96": ("tf2onnx/vww96_tf.onnx", "per_tensor"),
}

# (network, core) -> flash, arena, instructions.
HAND_WRITTEN: Mapping[tuple[str, str], tuple[int, int, int]] = {
    ("kws01", "M0"): (45969, 16000, 29_010_000),
    ("kws01", "M4"): (46719, 16000, 7_700_000),
    ("kws01", "M55"): (41123, 20464, 1_810_000),
    ("ic01", "M0"): (97825, 49728, 97_600_000),
    ("ic01", "M4"): (100215, 49728, 29_900_000),
    ("ic01", "M55"): (92863, 49728, 4_910_000),
    ("ad01", "M0"): (275249, 768, 1_760_000),
    ("ad01", "M4"): (275939, 768, 580_000),
    ("ad01", "M55"): (273791, 768, 147_000),
    ("vww96", "M0"): (260385, 55296, 86_900_000),
    ("vww96", "M4"): (261083, 55296, 24_100_000),
    ("vww96", "M55"): (255559, 55296, 6_550_000),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One network on one core, with CMSIS-NN's kernels and with nnbuild's own; bytes and instructions."""

    network: str
    core: str
    flash: int
    arena: int
    stack: int
    instructions: int
    own_flash: int
    own_instructions: int

    def ratios(self) -> tuple[float, float, float]:
        """Flash, arena and instructions relative to hand-written calls."""
        flash, arena, instructions = HAND_WRITTEN[self.network, self.core]
        return self.flash / flash, self.arena / arena, self.instructions / instructions


def library(flags: Sequence[str], root: Path, folder: Path) -> list[str]:
    """Link arguments of the library, compiled with `flags` at -O2 without a warning."""
    objects = []
    for source in cmsis_nn.sources(root):
        obj = folder / f"{source.stem}.o"
        words = [*flags, "-O2", *target.SECTIONS, "-Wall", "-Wextra", f"-I{root / 'Include'}"]
        subprocess.run([target.CC, *words, "-c", str(source), "-o", str(obj)], check=True)
        objects.append(str(obj))
    archive = folder / "libcmsis_nn.a"
    subprocess.run(["arm-none-eabi-ar", "rcs", str(archive), *objects], check=True)
    return [f"-I{root / 'Include'}", str(archive)]


def measured(
    network: Network, core: str, options: EmitOptions, shared: Path, folder: Path, link: list[str]
) -> dict[str, int]:
    """Flash, arena, stack, instructions; the outputs must be the integer reference's."""
    size = network.tensors[network.inputs[0].tensor].size
    inputs = np.random.default_rng(0).integers(-128, 128, (SAMPLES, size)).astype(np.int8)
    expected = np.array([interpret.run(network, [values])[0].ravel() for values in inputs])
    files = emit(network, options)
    found = target.measure(core, files, inputs, shared / "harness", folder, link)
    if not np.array_equal(found.outputs, expected):
        raise SystemExit(f"{core}: outputs differ from the integer reference")
    arena = json.loads(files["net.report.json"])["arena_bytes"]
    return {"flash": found.flash, "arena": arena, "stack": found.stack, "instructions": found.instructions}


def rows(shared: Path, root: Path, folder: Path, chosen: str) -> Iterator[Row]:
    """Every network on every core."""
    libraries = {}
    for core in CPUS:
        (folder / f"library{core}").mkdir()
        libraries[core] = library(target.CORES[core][1], root, folder / f"library{core}")
    offered = cmsis_nn.read(root)
    for name, (file, fully_connected) in NETWORKS.items():
        if chosen not in name:
            continue
        model, _ = quantized(shared / "models" / file, folder, shared, fully_connected)
        network = lower(model, name)
        for core, cpu in CPUS.items():
            options = EmitOptions("net", replace(TARGETS[cpu], cmsis_nn=offered), backend="cmsis_nn")
            with_library = measured(network, core, options, shared, folder / core, libraries[core])
            own = measured(network, core, EmitOptions("net", TARGETS[cpu]), shared, folder / f"own{core}", [])
            yield Row(name, core, **with_library, own_flash=own["flash"], own_instructions=own["instructions"])


HEADER = (
    "| network | core | flash | against hand-written | arena | against | instructions | against | stack "
    "| own kernels: flash | own kernels: instructions |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def line(row: Row) -> str:
    """One row in Markdown."""
    flash, arena, instructions = (f"{100 * (ratio - 1):+.1f} %" for ratio in row.ratios())
    cells = [f"{row.flash:,}", flash, f"{row.arena:,}", arena, f"{row.instructions:,}", instructions, f"{row.stack:,}"]
    cells += [f"{row.own_flash:,}", f"{row.own_instructions:,}"]
    return f"| {row.network} | {row.core} | {' | '.join(cells)} |"


def main() -> int:
    """Print the table; 1 where a figure is worse than it may be."""
    arguments = command.parser(__doc__, TABLE).parse_args()
    shared = command.reference()
    root = cmsis_nn.find(None, os.environ)
    if shared is None or root is None:
        print("skipped: needs CMSIS-NN and the reference models", file=sys.stderr)
        return 0
    lines, worse = [], []
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(shared, root, Path(folder), arguments.only):
            lines.append(line(row))
            print(lines[-1], flush=True)
            if max(row.ratios()) > TOLERANCE:
                worse.append(f"{row.network} on {row.core}")
    if arguments.write:
        write_text(TABLE, document(lines, cmsis_nn.read(root).version))
    if worse:
        print(f"more than 2 % above hand-written calls: {', '.join(worse)}", file=sys.stderr)
    return 1 if worse and f" {COMPILER}" in target.compiler_version() else 0


def document(lines: list[str], version: str) -> str:
    """docs/CMSIS-NN.md."""
    return f"""# CMSIS-NN through nnbuild, beside hand-written calls

nnbuild {__version__}, CMSIS-NN {version}, {target.compiler_version()}, `-O2`, newlib-nano;
refreshed by `python -m benchmarks.cmsis_nn --write`.

`backend="cmsis_nn"`: every layer that CMSIS-NN serves calls it, the others use nnbuild's own kernels. Flash is the
linked image less the same image with an empty network; instructions of one inference are counted under QEMU by the
reference harness' plugin; stack is painted. "Against hand-written" is the difference to direct calls with a static
plan, written by hand for the same networks with the same compiler. kws01 and ic01 are the official int8 networks;
ad01 and vww96 are quantized by nnbuild with `fully_connected="per_tensor"`, as the hand-written ones are. The last two
columns are nnbuild's own kernels (`backend="direct"`) for comparison. Every row equals the integer reference.
Of vww96 nnbuild leaves out the channels that hold one value whatever the input; the hand-written calls compute them.

{HEADER}
{chr(10).join(lines)}
"""


if __name__ == "__main__":
    sys.exit(main())
