"""Writing files: to a temporary name in the same folder, then renamed, so that nobody ever sees half a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from nnbuild.errors import ConfigError


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; missing folders are made. ConfigError where that cannot be."""
    target = Path(path)
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
        temporary = ""
    except OSError as error:
        raise ConfigError(f"cannot write: {error.strerror or error}", str(path)) from None
    finally:
        if temporary and os.path.exists(temporary):  # an error, or somebody's Ctrl-C
            os.unlink(temporary)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Write `text` as UTF-8; lines end with `\n` on every machine."""
    write_bytes(path, text.encode("utf-8"))


def _mode(target: Path) -> int:
    """The access rights that a plain `open(path, "w")` would leave; mkstemp alone makes a private file."""
    if target.exists():
        return target.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_folder(folder: str | os.PathLike[str], files: Mapping[str, str], remove: Iterable[str] = ()) -> None:
    """Write `files` (name -> text) into `folder`, and remove the files named in `remove`.

    Everything is written beside the folder first, so that a full disk changes nothing in it; a file whose contents are
    the same keeps its date. ConfigError where that cannot be.
    """
    target = Path(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staged:
            changed = [name for name, text in files.items() if not _holds(target / name, text.encode("utf-8"))]
            for name in changed:
                write_text(Path(staged) / name, files[name])
            target.mkdir(exist_ok=True)
            for name in changed:
                os.replace(Path(staged) / name, target / name)
        for name in remove:
            (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write: {error.strerror or error}", str(folder)) from None


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data
