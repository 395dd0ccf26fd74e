"""Runs cppcheck's MISRA C:2012 check over generated C, and says where each finding is in words that stay.

A place is a function of `nnbuild/csrc` (`nn_requantize`), a layer's operator and kernel (`conv2d/horner`), or a file of
a model without its name (`.h`, `.c`, `_selftest.c`, `_weights.c`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

VERSIONS = ("2.10", "2.13", "2.17")
"""Of cppcheck, for which docs/MISRA.md is exact: those of Debian 12, Ubuntu 24.04 and Debian 13."""

Findings = set[tuple[str, str]]
"""(rule, place)"""

_FLAGS = ["--addon=misra", "--enable=style", "--std=c99", "--platform=arm32-wchar_t4", "--quiet"]
_DEFINES = ["-D__GNUC__=12", "-D__ELF__=1", "-D__ARM_ARCH_6M__=1", "-D__ARM_ARCH=6", "-D__ARM_FEATURE_DSP=1"]
_DEFINES += ["-D__ARM_FEATURE_MVE=1"]


def version(cppcheck: str = "cppcheck") -> str:
    """`2.10`, or "" where there is no cppcheck."""
    if shutil.which(cppcheck) is None:
        return ""
    done = subprocess.run([cppcheck, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+\.\d+)", done.stdout)
    return found[1] if found else ""


def findings(folder: Path, files: Mapping[str, str], cppcheck: str = "cppcheck") -> Findings:
    """What cppcheck says of `files`, written to `folder`; AssertionError where it cannot read one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "main.c").write_text(_main(files), encoding="utf-8")
    sources = sorted([*(name for name in files if name.endswith(".c")), "main.c"])
    # With several processes 2.13 forgets what concerns several files.
    jobs = 1 if version(cppcheck) == "2.13" else os.cpu_count() or 1
    command = [cppcheck, *_FLAGS, *_DEFINES, f"-j{jobs}", "--template={file}:{line}: {id}", *sources]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    broken = [line for line in lines if re.search(r": (\w*[sS]yntaxError|internal\w*|unknownMacro)$", line)]
    assert done.returncode == 0, done.stdout + done.stderr
    assert not broken, broken
    found = set()
    for line in lines:
        match = re.fullmatch(r"(\S+):(\d+): misra-c2012-([\d.]+)", line)
        if match and match[1] != "main.c":
            found.add((match[3], _place(files, match[1], int(match[2]))))
    return found


def _main(files: Mapping[str, str]) -> str:
    """A firmware that uses what the headers offer."""
    headers = [name for name in files if name.endswith(".h")]
    names = [
        name
        for header in headers
        for name in re.findall(r"^(?:const )?\w+ \*?(\w+)\([^{]*?\);$", files[header], re.MULTILINE)
        if not name.endswith("_selftest") or header.replace(".h", "_selftest.c") in files
    ]
    includes = "".join(f'#include "{header}"\n' for header in headers)
    return f"{includes}int main(void)\n{{\n" + "".join(f"    (void){name};\n" for name in names) + "    return 0;\n}\n"


def _place(files: Mapping[str, str], name: str, line: int) -> str:
    model, suffix = re.fullmatch(r"(m\d+)(\w*\.\w)", name).groups()  # type: ignore[union-attr]
    function = _function(files[name].splitlines(), line) if suffix == ".c" else ""
    if function.startswith("nn_"):
        return function
    for layer in json.loads(files[f"{model}.report.json"])["layers"]:
        if layer["function"] == function:
            return f"{layer['op']}/{layer['kernel']}"
    return str(suffix)


def _function(lines: list[str], line: int) -> str:
    """The function that holds a line, "" for none."""
    for text in reversed(lines[:line]):
        if text.startswith("}"):
            return ""
        match = re.match(r"(?:static |inline |const )*\w+ \*?(\w+)\(", text)
        if match:
            return match[1]
    return ""


def listed(document: str) -> dict[str, set[str]]:
    """Rule -> places of the table in docs/MISRA.md; `*` is everywhere."""
    rows = re.findall(r"^\| (\d+\.\d+) \| ([^|]*) \| [^|]{10,} \|$", document, re.MULTILINE)
    assert len({rule for rule, _ in rows}) == len(rows), "a rule is listed twice"
    return {rule: set(re.findall(r"`([^`]+)`", where)) for rule, where in rows}


def differences(found: Findings, known: Mapping[str, set[str]]) -> list[str]:
    """A line for each finding that is not listed, and for each listed one that is not found."""
    wrong = []
    for rule in sorted({rule for rule, _ in found} | set(known), key=lambda rule: [int(n) for n in rule.split(".")]):
        places, allowed = {place for other, place in found if other == rule}, known.get(rule, set())
        if "*" in allowed:
            wrong += [] if places else [f"rule {rule} is listed and never broken: take the row out"]
            continue
        wrong += [f"rule {rule} is broken in {place} and not listed" for place in sorted(places - allowed)]
        wrong += [f"rule {rule} is listed for {place} and not broken there" for place in sorted(allowed - places)]
    return wrong
