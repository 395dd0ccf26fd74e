"""What the commands that refresh a page of docs/ have in common."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.reference import FOLDER, ROOT


def parser(doc: str | None, page: Path, by_network: bool = True) -> argparse.ArgumentParser:
    """With `--write` for `page`, and `--only` for some of the networks."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--write", action="store_true", help=f"refresh {page.relative_to(ROOT)}")
    if by_network:
        made.add_argument("--only", default="", help="networks whose name contains this")
    return made


def reference() -> Path | None:
    """The reference folder; None, with a line that says so, where there is none."""
    if (FOLDER / "models").is_dir():
        return FOLDER
    print("skipped: no reference models; set NNBUILD_REFERENCE_DIR", file=sys.stderr)
    return None
