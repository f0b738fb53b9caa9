"""The files that an installed zmsd contains."""

from __future__ import annotations

from pathlib import Path

import pytest

from zmsd.commands.show_file import FOLDER, show_file
from zmsd.errors import ZmsdError

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted([*ROOT.glob("etc/*"), *ROOT.glob("systemd/*")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file_is_printed_as_it_is(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_file(file.name) == 0
    assert capsys.readouterr().out == file.read_text()


def test_names_are_listed_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_file(None) == 0
    names = [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(names) == sorted(file.name for file in FILES)
    assert {"zmsd.service", "zmsd@.service", "zmsd.yaml", "zmsd.rules.yml"} <= set(names)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    for name in ("x", "../__init__.py", "etc/zmsd.yaml", ""):
        with pytest.raises(ZmsdError, match=r"there is .*zmsd\.yaml"):
            show_file(name)


def test_folder_holds_each_name_once() -> None:
    names = [path.name for path in FOLDER.glob("*/*")]
    assert len(names) == len(set(names))
