"""The same bytes from every compiler and optimization, and nothing for the sanitizers to report."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nnbuild.contract import Case
from nnbuild.ops import ALL
from nnbuild.target import TARGETS

from . import host, programs

SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
BUILDS = [
    *[[compiler, level] for compiler in ("gcc", "clang") for level in ("-O0", "-Os", "-O2", "-O3")],
    ["gcc", "-O2", "-flto", "-flto-partition=one"],  # gcc warns of several partitions
    ["gcc", *SANITIZE],
    ["gcc", "-O2", "-funsigned-char"],
    ["clang", "-O2", "-flto"],
]


def some_cases() -> list[Case]:
    """Every second case of each operator: all kernels, at half the time."""
    return [case for operator in ALL for case in list(operator.cases())[::2]]


@pytest.mark.parametrize("target", ["generic", "cortex-m0"])
@pytest.mark.parametrize("build", BUILDS, ids=lambda build: "_".join(build).replace("-", ""))
def test_same_bytes(build: list[str], target: str, tmp_path: Path) -> None:
    if shutil.which(build[0]) is None:
        pytest.skip(f"{build[0]} is not installed")
    if target != "generic" and build[1] not in ("-O2", "-O1"):
        pytest.skip("the form for ARMv6-M is covered at -O2 and under the sanitizers")
    cases = some_cases()
    sources = programs.units(tmp_path, programs.write(tmp_path, cases, replace(TARGETS[target], guard="")))
    program = tmp_path / "program"
    host.compile_c(build, program, sources)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{cases[max(done.returncode, 1) - 1].name}: {done.stderr[-2000:]}"
    assert done.stderr == ""


def test_sanitizers_would_report(tmp_path: Path) -> None:
    """The build that must be silent is one that can speak."""
    source = tmp_path / "bad.c"
    source.write_text(
        "int main(void) { volatile int big = 2147483647; volatile int more = big + 1; return more > 0; }\n"
    )
    subprocess.run(["gcc", *SANITIZE, "-o", str(tmp_path / "bad"), str(source)], check=True)
    done = subprocess.run([str(tmp_path / "bad")], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "signed integer overflow" in done.stderr
