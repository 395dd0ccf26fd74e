"""How a report looks where it is printed: bars, colour, block characters.

The SCons side imports this module: standard library only.
Colour only on a terminal, and not where NO_COLOR is set (no-color.org) or TERM is dumb; block characters only where
the encoding has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_EIGHTHS = "▏▎▍▌▋▊▉█"
_SHADES = "█▒"
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "bold": 1}


@dataclass(frozen=True, slots=True)
class Style:
    """`width` characters for the longest bar, 0 for none; `blocks` instead of ASCII; `colour`."""

    width: int = 0
    blocks: bool = False
    colour: bool = False

    def bar(self, value: float, most: float, colour: str = "") -> str:
        """A bar of `value`, which is as long as the style allows where it is `most`; visible unless it is 0."""
        length = min(1.0, value / most) * self.width if most > 0 else 0.0
        if length <= 0:
            return ""
        if not self.blocks:
            return self.paint("#" * max(1, round(length)), colour)
        eighths = max(1, round(length * 8))
        rest = _EIGHTHS[eighths % 8 - 1] if eighths % 8 else ""
        return self.paint(_EIGHTHS[-1] * (eighths // 8) + rest, colour)

    def parts(self, values: Sequence[float], most: float, colours: Sequence[str]) -> str:
        """A bar of two values behind each other, each whole characters long, told apart without colour too."""
        marks = _SHADES if self.blocks else "#="
        ends = [min(1.0, sum(values[: n + 1]) / most) * self.width if most > 0 else 0.0 for n in range(len(values))]
        text, at = "", 0
        for end, value, mark, colour in zip(ends, values, marks, colours, strict=True):
            length = max(1 if value else 0, round(end) - at)
            text += self.paint(mark * length, colour)
            at += length
        return text

    def paint(self, text: str, colour: str) -> str:
        """`text` in a colour, where there are colours."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.colour and colour and text else text


PLAIN = Style()
STYLES = {
    "plain": PLAIN,
    "ascii": Style(width=24),
    "blocks": Style(width=24, blocks=True),
    "colour": Style(width=24, blocks=True, colour=True),
    "ascii-colour": Style(width=24, colour=True),
}


def style_for(stream: Any, variables: Mapping[str, str]) -> str:
    """The name in STYLES that suits what is printed to `stream`; `variables` are those of the shell."""
    terminal = bool(getattr(stream, "isatty", lambda: False)())
    colour = terminal and not variables.get("NO_COLOR") and variables.get("TERM") != "dumb"
    try:
        (_EIGHTHS + _SHADES).encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return "ascii-colour" if colour else "ascii"
    return "colour" if colour else "blocks"
