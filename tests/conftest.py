"""What several tests need: the reference folder, a host compiler, and a way to run generated C on the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    folder = Path(os.environ.get("NNBUILD_REFERENCE_DIR", ROOT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"reference models are not at {folder.name}; set NNBUILD_REFERENCE_DIR")
    return folder
