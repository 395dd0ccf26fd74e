"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnbuild.errors import ConfigError
from nnbuild.files import write_bytes, write_text


def test_written_with_its_folder_and_nothing_left_over(tmp_path: Path) -> None:
    write_text(tmp_path / "a/b.txt", "one\ntwo\n")
    assert (tmp_path / "a/b.txt").read_bytes() == b"one\ntwo\n"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_access_rights_are_those_of_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "ours").chmod(0o640)
    write_bytes(tmp_path / "ours", b"new")
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "folder/inside").mkdir(parents=True)
    with pytest.raises(ConfigError, match="folder: cannot write: "):
        write_bytes(tmp_path / "folder", b"new")
    assert os.listdir(tmp_path) == ["folder"]
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ConfigError, match="cannot write: "):
        write_bytes(tmp_path / "file/inside", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
