"""CMSIS-NN on this machine: where it is, which version, what it offers, which of its sources nnbuild needs.

Standard library only: the SCons side imports this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nnbuild.errors import ConfigError

HEADER = Path("Include") / "arm_nnfunctions.h"


@dataclass(frozen=True, slots=True)
class CmsisNN:
    """What kernels may rely on: `functions` that the header declares, and `version` in words.

    `convolve_upscales`: arm_convolve_s8 takes an `upscale_dims` (7.0.0 and newer).
    """

    version: str
    functions: frozenset[str]
    convolve_upscales: bool


def read(root: Path) -> CmsisNN:
    """The CMSIS-NN in folder `root`, a checkout or an unpacked pack; ConfigError where there is none."""
    try:
        text = (root / HEADER).read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise ConfigError(f"no CMSIS-NN here: {HEADER} is missing", str(root), "set CMSIS_NN to its folder") from None
    declared = dict(re.findall(r"\b(arm_\w+)\(([^;{}]*)\)\s*;", text))
    return CmsisNN(
        version=_version(text),
        functions=frozenset(declared),
        convolve_upscales="upscale_dims" in declared.get("arm_convolve_s8", ""),
    )


def _version(header: str) -> str:
    found = re.search(r"\$Revision:\s*V\.([\d.]+)", header)
    return f"arm_nnfunctions.h {found.group(1)}" if found else "unknown"
