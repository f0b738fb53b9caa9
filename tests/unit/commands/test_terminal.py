from __future__ import annotations

import io

import pytest

from zmsd.commands.terminal import Choice, Colours, bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("choice", "terminal", "environ", "enabled"),
    [
        ("auto", True, {"TERM": "xterm"}, True),
        ("auto", True, {"TERM": "dumb"}, False),
        ("auto", True, {"NO_COLOR": "1"}, False),
        ("auto", True, {"NO_COLOR": ""}, True),
        ("auto", False, {}, False),
        ("always", False, {"NO_COLOR": "1"}, True),
        ("never", True, {}, False),
    ],
)
def test_colours_are_used_as_asked(choice: Choice, terminal: bool, environ: dict[str, str], enabled: bool) -> None:
    colours = Colours(choice, Terminal() if terminal else io.StringIO(), environ)
    assert colours.enabled is enabled
    assert colours.begin("red") == ("\x1b[31m" if enabled else "")
    assert colours.end == ("\x1b[0m" if enabled else "")


def test_bar_fills_with_what_is_done() -> None:
    assert bar(0.0, 4) == "[....]"
    assert bar(0.5, 4) == "[##..]"
    assert bar(1.7, 4) == "[####]"
