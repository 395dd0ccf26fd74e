"""The accepted build of an image: NN_BASELINE, `growth=` of NNBudget, and `scons nn-baseline`.

The baseline is a source: it is committed, and an image depends on it. `scons nn-baseline` builds without holding the
growth against it, and writes it then. That run has a signature of its own, so what it has linked counts as built for no
other run: an accepted image is checked again by the next `scons`, against the baseline that it has become.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import SCons.Node
import SCons.Script
import SCons.Util

from nnbuild.errors import ConfigError
from nnbuild.report.budget import Share, parse_growth
from nnbuild.scons import boundary, run

ALIAS = "nn-baseline"

_ACCEPTED: dict[Any, list[Any]] = {}
"""The images whose figures each baseline holds."""


def file(env: Any, where: str) -> Any:
    """The node of `$NN_BASELINE`, None for none. ConfigError for what is no path."""
    node = run.one_file(env, env.get("NN_BASELINE"), "NN_BASELINE", where)
    return None if node is None else node.srcnode()


def growth(value: Any, baseline: Any, where: str) -> dict[str, str]:
    """`growth=` as limits by region, "" for all that are not named; each in its one canonical form."""
    if value is None:
        return {}
    if baseline is None:
        hint = "set NN_BASELINE='size-baseline.json'; `scons nn-baseline` writes that file, which is to be committed"
        raise ConfigError("growth is held against NN_BASELINE, which is not set", where, hint)
    given = value if isinstance(value, Mapping) else {"": value}
    limits = {}
    for region, limit in sorted(given.items()):
        try:
            parsed = parse_growth(limit)
        except ConfigError as error:
            raise ConfigError(f"growth {error.findings[0].message}, not {limit!r}", where) from None
        limits[region] = f"{parsed.percent:g}%" if isinstance(parsed, Share) else str(parsed)
    return limits


def accepting() -> bool:
    """Whether this run of scons accepts what it builds."""
    asked = [str(name) for name in SCons.Script.COMMAND_LINE_TARGETS]
    return any(name == ALIAS or name.startswith(f"{ALIAS}-") for name in asked)


def there(baseline: Any) -> bool:
    """Whether the file exists."""
    return baseline is not None and os.path.exists(baseline.get_abspath())


def signature(baseline: Any, limits: Mapping[str, str]) -> str:
    """What an image that is held against a baseline depends on, besides the file."""
    return f"growth {dict(limits)} since {there(baseline)} accepting {accepting()}" if baseline is not None else ""


def name(elf: Any) -> str:
    """What an image is called in a baseline: its path, the same on every system."""
    return run.path(elf).replace(os.sep, "/")


def arguments(elf: Any, baseline: Any, limits: Mapping[str, str]) -> list[str]:
    """The arguments of the `size` command."""
    if baseline is None:
        return []
    words = ["--baseline", run.path(baseline), "--image", name(elf)]
    if accepting():
        return words
    given = [f"{region}={limit}" if region else limit for region, limit in limits.items()]
    return words + [word for limit in given for word in ("--growth", limit)]


def accept(env: Any, elf: Any, baseline: Any, report: Callable[[Any], str]) -> None:
    """Let `scons nn-baseline` write the figures of `elf`; `report` names the JSON of an image."""
    known = baseline in _ACCEPTED
    _ACCEPTED.setdefault(baseline, []).append(elf)
    alias = f"{ALIAS}-{run.path(baseline)}"
    if known:
        env.Alias(alias, [elf])
        return

    def words(target: Any, source: Any, env: Any) -> list[str]:
        return [run.path(baseline), *(f"{name(image)}={report(image)}" for image in _ACCEPTED[baseline])]

    mine = env.Alias(alias, [elf], run.action("NNBASELINECOM", words))
    boundary.remember_line(*mine)
    env.AlwaysBuild(mine)
    env.Alias(ALIAS, mine)
