"""`NN_REQUIRE=">=0.3,<0.4"`: which versions of nnbuild a SConstruct was written for.

Clauses as in PEP 440, on the numbers of the version alone: `0.4.0.dev1` counts as 0.4.0.
"""

from __future__ import annotations

import operator
import re
from typing import Any

from nnbuild.errors import ConfigError
from nnbuild.scons import run

_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|~=|>|<)\s*(\d+(?:\.\d+)*)(\.\*)?\s*", re.ASCII)
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_HINT = "such as NN_REQUIRE='>=0.3,<0.4'"

Version = tuple[int, ...]


def _numbers(text: str) -> Version:
    match = re.match(r"\d+(\.\d+)*", text, re.ASCII)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _holds(version: Version, sign: str, wanted: Version, prefix: bool) -> bool:
    """Whether `version` satisfies one clause; `prefix` for one that ends in `.*`."""
    if sign == "~=":  # at least this, and the same but for the last number
        return _holds(version, ">=", wanted, False) and _holds(version, "==", wanted[:-1], True)
    length = len(wanted) if prefix else max(len(version), len(wanted))
    one, two = (tuple(numbers[at] if at < len(numbers) else 0 for at in range(length)) for numbers in (version, wanted))
    if sign in ("==", "!="):
        return (one == two) == (sign == "==")
    return bool(_COMPARE[sign](one, two))


def satisfied(version: str, requirement: str) -> bool:
    """Whether `version` is what `requirement` asks for. ConfigError where that is no requirement."""
    clauses = []
    for text in requirement.split(","):
        match = _CLAUSE.fullmatch(text)
        if match is None or (match[3] and match[1] not in ("==", "!=")) or (match[1] == "~=" and "." not in match[2]):
            raise ConfigError(f"'{text.strip()}' is no condition on a version", "NN_REQUIRE", _HINT)
        clauses.append((match[1], _numbers(match[2]), bool(match[3])))
    return all(_holds(_numbers(version), *clause) for clause in clauses)


def check(env: Any, version: str) -> None:
    """ConfigError where `env` wants another version of nnbuild than this `version`."""
    value = env.get("NN_REQUIRE")
    if value is None or value == "":
        return
    if not isinstance(value, str):
        raise ConfigError(f"must be text, not {value!r}", "NN_REQUIRE", _HINT)
    wanted = env.subst(value)
    if not satisfied(version, wanted):
        hint = f"it is in {run.PACKAGE}"
        raise ConfigError(f"this is nnbuild {version}, and {wanted} is required", "NN_REQUIRE", hint)
