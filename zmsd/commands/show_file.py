"""``zmsd show-file``: the files that an installed zmsd brings: units, example settings, alerts, dashboard."""

from __future__ import annotations

import sys
from pathlib import Path

import zmsd
from zmsd.errors import ZmsdError
from zmsd.log import write_line

FOLDER = Path(zmsd.__file__).parent / "files"
"""``etc`` and ``systemd`` of the source, as package data."""


def show_file(name: str | None) -> int:
    """Print a file as it is, or without a name the names of all files; return the exit code.

    :raises ZmsdError: there is no such file
    """
    files = {path.name: path for path in sorted(FOLDER.glob("*/*"))}
    if name is None:
        for path in files.values():
            write_line(f"{path.name}  ({path})")
        return 0
    if name not in files:
        raise ZmsdError(f"no file {name}: there is {', '.join(files)}")
    sys.stdout.write(files[name].read_text(encoding="utf-8"))
    return 0
