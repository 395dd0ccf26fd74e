"""What several tests need: the reference folder, a host compiler, and a way to run generated C on the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnbuild import cmsis_nn

from . import reference

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    folder = reference.FOLDER
    if not (folder / "models").is_dir():
        pytest.skip(f"reference models are not at {folder.name}; set NNBUILD_REFERENCE_DIR")
    return folder


@pytest.fixture(scope="session")
def cmsis_nn_dir() -> Path:
    """CMSIS-NN, found as a build finds it."""
    found = cmsis_nn.find(None, os.environ)
    if found is None:
        pytest.skip("no CMSIS-NN; set CMSIS_NN, or run `python -m nnbuild cmsis-nn --fetch`")
    return found.resolve()
