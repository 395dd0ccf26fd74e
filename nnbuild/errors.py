"""What can go wrong, and how it is said.

    NNBuildError
    |-- ModelError          the user's .onnx: unreadable, unsupported, inconsistent
    |-- ConfigError         an option, a tool or a target that is wrong or missing
    |-- CalibrationError    calibration or validation samples
    |-- KernelError         no kernel serves a layer, or a pinned one cannot
    |-- BudgetError         flash, RAM, latency or accuracy over what was allowed
    `-- InternalError       our own fault

An error carries one or more findings; it prints one gcc-like line for each: `where: message; hint: ...`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def printable(line: str) -> str:
    """`line` without what a terminal would obey, whatever a model put into its names."""
    return "".join(char if char.isprintable() else "?" for char in line)


def first_line(error: Exception) -> str:
    """What a library's exception says, cut to one line that a finding can hold."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what, where (`file` or `file: node 'name' (Op)`), and what to do about it."""

    message: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"; hint: {self.hint}" if self.hint else ""
        return printable(" ".join(f"{where}{self.message}{hint}".split()))


class NNBuildError(Exception):
    """Anything that a user can cause or must be told; printed without a traceback."""

    def __init__(self, message: str, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.findings: tuple[Finding, ...] = (Finding(message, where, hint),)

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> NNBuildError:
        """An error of this class that carries all `findings` (at least one)."""
        collected = tuple(findings)
        first = collected[0]
        error = cls(first.message, first.where, first.hint)
        error.findings = collected
        return error

    def within(self, file: str) -> NNBuildError:
        """This error, its findings all in `file`: those that name a node in it, and those that name nothing."""
        places = [
            finding.where if finding.where.startswith(file) else ": ".join(filter(None, (file, finding.where)))
            for finding in self.findings
        ]
        return type(self).of(
            Finding(finding.message, place, finding.hint) for finding, place in zip(self.findings, places, strict=True)
        )

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings)


class ModelError(NNBuildError):
    """The user's model."""


class ConfigError(NNBuildError):
    """An option, a tool or a target."""


class CalibrationError(NNBuildError):
    """Calibration or validation samples."""


class KernelError(NNBuildError):
    """No kernel serves a layer, or a pinned one cannot."""


class BudgetError(NNBuildError):
    """Over what the SConstruct allows."""


class InternalError(NNBuildError):
    """A fault of nnbuild itself."""
