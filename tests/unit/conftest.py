"""What every unit test gets."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Undo what a command set up: the level of another test would hide the lines that this one looks for."""
    root, ours = logging.getLogger(), logging.getLogger("zmsd")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers, root.level, ours.level = before
