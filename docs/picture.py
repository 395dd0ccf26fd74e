"""Make docs/report.png, the README's picture of the example's report: `python docs/picture.py` in a checkout.

Builds the example, opens its page in a headless Chromium, and keeps what is above the layers of the larger network, in
256 colours. The section of the small network is left out.
"""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nnbuild.files import write_bytes  # noqa: E402
from tests import browser  # noqa: E402

WIDTH = 1100
CUT = """(() => {
    document.querySelector("#m0").remove();
    return [...document.querySelectorAll("#m1 h3")][1].getBoundingClientRect().top + scrollY - 8;
})()"""
# Pixels as the browser decodes them: four bytes each, as base64.
PIXELS = """(async () => {
    const picture = await createImageBitmap(await (await fetch("data:image/png;base64,%s")).blob());
    const canvas = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
    canvas.drawImage(picture, 0, 0);
    const bytes = canvas.getImageData(0, 0, picture.width, picture.height).data;
    let text = "";
    for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
    return btoa(text);
})()"""


def photograph(path: Path) -> Any:
    """The upper part of the page at `path`: uint8 (height, width, 3)."""
    with tempfile.TemporaryDirectory() as profile, browser.started(Path(profile)) as tab:
        tab.open(path, width=WIDTH)
        height = int(tab.value(CUT))
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        png = tab.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        tab.call("Page.navigate", url="about:blank")
        pixels = base64.b64decode(tab.value(PIXELS % png))
    return np.frombuffer(pixels, np.uint8).reshape(height, WIDTH, 4)[:, :, :3]


def palette(picture: Any) -> tuple[Any, Any]:
    """The 256 most frequent colours (256, 3), and which of them is nearest to each pixel (height, width), uint8."""
    colours, where, counts = np.unique(picture.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    kept = colours[np.argsort(-counts, kind="stable")[:256]]
    away = np.abs(colours[:, None, :].astype(int) - kept[None, :, :].astype(int)).sum(axis=2)
    return kept, away.argmin(axis=1).astype(np.uint8)[where.reshape(picture.shape[:2])]


def encoded(kept: Any, indices: Any) -> bytes:
    """A PNG of colour type 3 (RFC 2083): a palette and one byte for each pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = indices.shape
    rows = np.hstack([np.zeros((height, 1), np.uint8), indices]).tobytes()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    body = chunk(b"PLTE", kept.tobytes()) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def main() -> int:
    """Build, photograph, write."""
    if browser.program() is None:
        print("there is no Chromium on this machine")
        return 1
    command = [sys.executable, "-m", "SCons", "-C", "example_firmware", "-Q", "nn-report"]
    subprocess.run(command, cwd=ROOT, check=True)
    data = encoded(*palette(photograph(ROOT / "example_firmware" / "fw.size.html")))
    write_bytes(ROOT / "docs" / "report.png", data)
    print(f"docs/report.png: {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
