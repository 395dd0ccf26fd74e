"""Put the output of the example into the README, and that of `check` into CHECK.md: `python docs/refresh.py`.

Builds from nothing, so that the output is what a new user sees; the lines of
compiler and linker and most of the frames are left out.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKER = "<!-- output: ./do example -->\n```\n"
LEFT_OUT = ("scons:", "CC ", "AS ", "LINK ", "SIZE ", "SAMPLE ")
FRAMES_SHOWN = 4


def shortened(output: str) -> str:
    """The output without the compiler's lines, and with the first frames only."""
    kept = [line.rstrip() for line in output.splitlines() if not line.startswith(LEFT_OUT)]
    text = "\n".join(kept)
    frames = re.findall(r"^frame .*\n", text, re.MULTILINE)
    for frame in frames[FRAMES_SHOWN:-1]:
        text = text.replace(frame, "")
    return text.replace(frames[-1], f"...\n{frames[-1]}")


def refresh_check() -> None:
    """Run the command that CHECK.md names and put its answer below it."""
    page = ROOT / "docs" / "CHECK.md"
    text = page.read_text(encoding="utf-8")
    found = re.search(r"<!-- output: (check .*?) -->\n```\n(.*?)```", text, re.DOTALL)
    assert found is not None
    command = [sys.executable, "-m", "nnbuild", *shlex.split(found[1])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    page.write_text(text[: found.start(2)] + done.stdout + text[found.end(2) :], encoding="utf-8")


def main() -> int:
    """Run the example and rewrite the blocks."""
    refresh_check()
    for command in (["-c"], []):
        arguments = [sys.executable, "-m", "SCons", "-C", "example_firmware", "-Q", *command, "nn-size", "run"]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(MARKER)
    after = rest.split("```\n", 1)[1]
    readme.write_text(f"{before}{MARKER}{shortened(done.stdout)}\n```\n{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
