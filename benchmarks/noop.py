"""What a model costs a build that has nothing to do: `python -m benchmarks.noop [--write]`.

Runs scons on small firmware projects in which everything is built, and counts the CPU time of the whole scons process;
the wall clock is that on an idle machine. A project without models, of the same C files otherwise, is the measure. The
projects take turns, and the table has medians. `--write` refreshes docs/BUILD-TIME.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import SCons

from nnbuild import __version__
from nnbuild.files import write_text
from tests.scons_project import HOST, SITE, Project

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "BUILD-TIME.md"
C_FILES = 50
RUNS = 15
WEIGHTS = 300_000  # bytes of an .onnx that scons must look at


@dataclass(frozen=True, slots=True)
class Firmware:
    """One project: how many models, and what else its SConstruct asks for."""

    name: str
    models: int = 0
    tool: bool = True
    budget: bool = False


FIRMWARE = (
    Firmware("no nnbuild", tool=False),
    Firmware("the tool, no model"),
    Firmware("1 model", models=1),
    Firmware("1 model and a budget", models=1, budget=True),
    Firmware("4 models and a budget", models=4, budget=True),
    Firmware("16 models and a budget", models=16, budget=True),
)


def sconstruct(firmware: Firmware) -> str:
    """A SConstruct with `C_FILES` C files and the models of `firmware`."""
    head = HOST if firmware.tool else 'env = Environment(tools=["default"])\n'
    models = [f'env.NNModel("models/m{at}.onnx", calibration="models/calib")' for at in range(firmware.models)]
    text = f'{head}sources = ["main.c", Glob("src/*.c"), {", ".join(models)}]\nfw = env.Program("fw", sources)\n'
    return text + ('env.NNBudget(fw, FLASH="64M")\n' if firmware.budget else "")


def write(folder: Path, firmware: Firmware) -> Project:
    """The project, built; commands of a model are the stand-in of the tests, which write files of the same names."""
    project = Project(folder)
    files: dict[str, str | bytes] = {
        "SConstruct": sconstruct(firmware),
        "main.c": "int main(void)\n{\n    return 0;\n}\n",
    }
    files |= {f"src/f{at}.c": f"int f{at};\n" for at in range(C_FILES)}
    files |= {f"models/m{at}.onnx": b"weights=200 ".ljust(WEIGHTS) for at in range(firmware.models)}
    files |= {f"models/calib/{at}.npz": "1" for at in range(4)}
    project.write(files)
    project.scons("-j2", site=SITE if firmware.tool else "")
    return project


def seconds(project: Project, tool: bool) -> tuple[float, float]:
    """CPU time and wall clock of one scons with nothing to do."""
    command = [sys.executable, "-m", "SCons", *([SITE] if tool else []), "-Q"]
    variables = {key: text for key, text in os.environ.items() if key not in ("SCONSFLAGS", "PYTHONPATH")}
    before, start = cpu_of_children(), time.perf_counter()
    done = subprocess.run(command, cwd=project.folder, env=variables, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - start
    if "is up to date." not in done.stdout:
        raise SystemExit(f"{project.folder.name}: not up to date:\n{done.stdout}")
    return cpu_of_children() - before, wall


def cpu_of_children() -> float:
    """Seconds that the processes which this one has started and ended took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(folder: Path, runs: int) -> dict[Firmware, tuple[float, float]]:
    """Medians of CPU time and wall clock for each project."""
    projects = {firmware: write(folder / str(at), firmware) for at, firmware in enumerate(FIRMWARE)}
    taken: dict[Firmware, list[tuple[float, float]]] = {firmware: [] for firmware in FIRMWARE}
    for _ in range(runs):
        for firmware, project in projects.items():
            taken[firmware].append(seconds(project, firmware.tool))
    return {
        firmware: (statistics.median(cpu for cpu, _ in pairs), statistics.median(wall for _, wall in pairs))
        for firmware, pairs in taken.items()
    }


def table(medians: Mapping[Firmware, tuple[float, float]]) -> str:
    """The medians in Markdown, and what they are to the project without nnbuild."""
    lines = ["| firmware | CPU s | more, ms | ratio | wall clock s |", "|---|---:|---:|---:|---:|"]
    plain = medians[FIRMWARE[0]][0]
    for firmware, (cpu, wall) in medians.items():
        more = (cpu - plain) * 1000
        lines.append(f"| {firmware.name} | {cpu:.3f} | {more:.0f} | {cpu / plain:.2f} | {wall:.3f} |")
    return "\n".join(lines)


def document(rows: str, runs: int) -> str:
    """docs/BUILD-TIME.md."""
    python = platform.python_version()
    return f"""# What a model costs a build that has nothing to do

nnbuild {__version__}, SCons {SCons.__version__}, Python {python}; medians of {runs} runs; refreshed by
`python -m benchmarks.noop --write`.

A firmware of {C_FILES + 1} C files in which everything is built: scons starts, reads the SConstruct, looks at all
files and finds nothing to do. Each model has an `.onnx` of {WEIGHTS // 1000} kB and a folder of samples. No command of
nnbuild runs then; what the SCons side costs is loading it, a look into each `.onnx` for external data, and the hash of
nnbuild's own files. CPU time is of the whole process; the wall clock says more about what else the machine did.

{rows}
"""


def main() -> int:
    """Print the table, refresh it with --write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"refresh {TABLE.relative_to(ROOT)}")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"runs of each project (default: {RUNS})")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = table(measure(Path(folder), arguments.runs))
    print(rows)
    if arguments.write:
        write_text(TABLE, document(rows, arguments.runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
