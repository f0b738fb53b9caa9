"""Colours on a terminal: with ``--color``, and otherwise unless NO_COLOR is set (https://no-color.org)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TextIO

Choice = Literal["auto", "always", "never"]
CHOICES = ("auto", "always", "never")

_CODES = {"red": 31, "green": 32, "yellow": 33, "dim": 2, "bold": 1}
CLEAR_SCREEN = "\x1b[H\x1b[J"
"""Moves to the top left corner, and removes everything below."""


class Colours:
    """Returns the escape sequences of colours, or "" where there are none."""

    def __init__(self, choice: Choice, stream: TextIO, environ: Mapping[str, str]) -> None:
        """:param choice: the option ``--color``
        :param stream: where the text is written
        """
        wanted = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self.enabled = choice == "always" or (choice == "auto" and wanted)

    def begin(self, name: str) -> str:
        """Return the sequence that begins a colour: red, green, yellow, dim or bold."""
        return f"\x1b[{_CODES[name]}m" if self.enabled else ""

    @property
    def end(self) -> str:
        """Return the sequence that ends all colours."""
        return "\x1b[0m" if self.enabled else ""


def bar(done: float, width: int = 20) -> str:
    """Return a progress bar.

    :param done: from 0 to 1
    :param width: characters between the brackets
    """
    filled = round(max(0.0, min(done, 1.0)) * width)
    return f"[{'#' * filled}{'.' * (width - filled)}]"
