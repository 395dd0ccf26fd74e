"""Show which CMSIS-NN a build would use, its version, and which operators it serves; --fetch gets a release.

Looked for in this order: --cmsis-nn or the environment variable CMSIS_NN, $CMSIS_PACK_ROOT/ARM/CMSIS-NN/<newest>,
and the user's cache folder ($XDG_CACHE_HOME or ~/.cache, then nnbuild/CMSIS-NN). The exit status is 1 where there is
none. --fetch clones a pinned release with git into the cache folder, and verifies the commit.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnbuild import cmsis_nn
from nnbuild.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nnbuild cmsis-nn`."""
    parser.add_argument("--cmsis-nn", metavar="DIR", help="look here only")
    parser.add_argument("--fetch", action="store_true", help=f"clone {cmsis_nn.RELEASE_TAG} into the cache folder")


def run(arguments: argparse.Namespace) -> int:
    """Fetch where that is asked for; print what there is."""
    if arguments.fetch:
        folder = cmsis_nn.cache_folder(os.environ)
        cmsis_nn.fetch(folder)
        print(f"fetched {cmsis_nn.RELEASE_TAG}, commit {cmsis_nn.RELEASE_COMMIT}, into {folder}")
    root = cmsis_nn.find(arguments.cmsis_nn, os.environ)
    if root is None:
        hint = "set CMSIS_NN to its folder, or run `python -m nnbuild cmsis-nn --fetch`"
        raise ConfigError("no CMSIS-NN found", hint=hint)
    print("\n".join(_report(root)))
    return 0


def _report(root: Path) -> list[str]:
    from nnbuild.ops import ALL

    found = cmsis_nn.read(root)
    count = len(cmsis_nn.sources(root))
    lines = [f"CMSIS-NN {found.version} in {root}; {count} of its files are compiled, where they are used", ""]
    for operator in ALL:
        if not any(kernel.name == "cmsis_nn" for kernel in operator.kernels):
            continue
        served = [name for name in cmsis_nn.CALLS[operator.name] if not name.endswith("_get_buffer_size")]
        there = [name for name in served if name in found.functions]
        missing = [name for name in served if name not in found.functions]
        lacks = f"; not in this version: {', '.join(missing)}" if missing else ""
        lines.append(f"{operator.name:18} {', '.join(there) or 'nothing'}{lacks}")
    return lines
