"""A firmware project in a temporary folder, built by real runs of scons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STANDIN = Path(__file__).with_name("scons_standin.py")
SITE = f"--site-dir={ROOT / 'site_scons'}"

STANDIN_LINE = f"NNPYTHON=[{sys.executable!r}, {str(STANDIN)!r}]"
HOST = f'env = Environment(tools=["default", "nn"], {STANDIN_LINE})\n'
MAIN = '#include "kws.h"\nint main(void)\n{\n    return kws_run(0) * 0;\n}\n'


class Project:
    """A folder with a SConstruct; `scons()` runs it and keeps what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, files: dict[str, str | bytes]) -> None:
        """Write files, by path below the project."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def scons(self, *arguments: str, status: int = 0, site: str = SITE) -> str:
        """What scons prints; fails where its exit status is not `status`, or where it shows a traceback."""
        environment = {key: text for key, text in os.environ.items() if key not in ("SCONSFLAGS", "PYTHONPATH")}
        command = [sys.executable, "-m", "SCons", *([site] if site else []), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, output
        assert "Traceback" not in output, output
        return output

    def calls(self) -> list[str]:
        """The commands that the stand-in has run since the last question."""
        log = self.folder / "calls.log"
        if not log.exists():
            return []
        lines = log.read_text().splitlines()
        log.unlink()
        return [line.split("\t")[0] for line in lines]

    def files(self, pattern: str) -> list[str]:
        """The names of files below the project that match, sorted."""
        return sorted(path.name for path in self.folder.rglob(pattern))

    def path(self, pattern: str) -> Path:
        """The one file that matches."""
        (found,) = self.folder.rglob(pattern)
        return found

    def built(self, output: str) -> bool:
        """Whether the run did anything at all."""
        return "is up to date." not in output
