from __future__ import annotations

import os
from pathlib import Path

import pytest

from zmsd.errors import ZmsdError
from zmsd.verify.replica_file import ReplicaFile, find_shell


def package(folder: Path) -> Path:
    """A package @rocicorp/zero-sqlite3 as npm installs it: the prebuilt executable has no right to be executed."""
    package = folder / "node_modules/@rocicorp/zero-sqlite3"
    machine = {"x86_64": "x64", "aarch64": "arm64"}[os.uname().machine]
    binary = package / f"prebuilds/linux-{machine}/zero_sqlite3"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    (package / "shell.js").touch()
    return package


def test_shell_is_found_above_the_replica_and_made_executable(tmp_path: Path) -> None:
    found = package(tmp_path / "cache")
    copies = tmp_path / "copies"
    copies.mkdir()
    shell = find_shell(None, tmp_path / "cache" / "data" / "replica.db", copies)
    assert shell.parent == copies
    assert os.access(shell, os.X_OK)
    link = tmp_path / "zero-sqlite3"
    link.symlink_to(found / "shell.js")
    assert find_shell(link, tmp_path / "replica.db", copies).read_text() == shell.read_text()


def test_shell_that_is_given_is_used_as_it_is(tmp_path: Path) -> None:
    assert find_shell(Path("/bin/sh"), tmp_path / "replica.db", tmp_path) == Path("/bin/sh")


def test_missing_shell_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZmsdError, match="missing: it is in no node_modules here: name it with --sqlite3"):
        find_shell(None, tmp_path / "replica.db", tmp_path)
    with pytest.raises(ZmsdError, match="missing: /no/such is not it"):
        find_shell(Path("/no/such"), tmp_path / "replica.db", tmp_path)


def test_shell_that_fails_is_an_error(tmp_path: Path) -> None:
    package(tmp_path)
    shell = find_shell(None, tmp_path / "replica.db", tmp_path)
    with (
        pytest.raises(ZmsdError, match=r"cannot read .*replica.db: broken"),
        ReplicaFile(tmp_path / "replica.db", shell),
    ):
        pass
    with pytest.raises(ZmsdError, match=r"cannot run /no/such: .*--sqlite3"):
        ReplicaFile(tmp_path / "replica.db", Path("/no/such"))
