"""`python -m nnbuild`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

if sys.version_info < (3, 11):  # noqa: UP036  NNPYTHON may name a Python that cannot read the rest
    version = ".".join(str(number) for number in sys.version_info[:2])
    sys.exit(f"{sys.executable}: Python {version} is too old for nnbuild; hint: take 3.11 or newer")


def interrupted(number: int, frame: FrameType | None) -> None:
    """Ctrl-C: an exception, but in the middle of an import, where compiled modules print what they make of it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


signal.signal(signal.SIGINT, interrupted)

from nnbuild.cli import main  # noqa: E402  what it imports may be interrupted too

sys.exit(main())
