"""The sdist and the wheel: complete, and the same bytes each time."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, str(ROOT / "packaging/dist.py"), "--out"]


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("dist"))


def build(out: Path, umask: int = 0o022, **environ: str) -> tuple[Path, Path]:
    """Return the sdist and the wheel."""
    run = subprocess.run(
        [*COMMAND, str(out)], env={**os.environ, **environ}, check=True, capture_output=True, text=True, umask=umask
    )
    sdist, wheel = map(Path, run.stdout.split()[-2:])
    return sdist, wheel


def test_built_twice_gives_the_same_bytes(built: tuple[Path, Path], tmp_path: Path) -> None:
    again = build(tmp_path, 0o077, PYTHONHASHSEED="7", TZ="Asia/Tokyo")
    assert [path.name for path in again] == [path.name for path in built]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in built]


def test_sdist_has_every_file_of_the_repository(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    if not (ROOT / ".git").exists():
        pytest.skip("only a repository knows its files")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert {name for name in listed.stdout.splitlines() if (ROOT / name).exists()} <= found


def test_wheel_has_the_package_data_and_no_tests(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = set(archive.namelist())
        unit = archive.read("zmsd/files/systemd/zmsd.service")
    assert unit == (ROOT / "systemd/zmsd.service").read_bytes()
    files = [*ROOT.glob("etc/*"), *ROOT.glob("systemd/*")]
    assert {f"zmsd/files/{file.relative_to(ROOT)}" for file in files} <= names
    pages = {f"zmsd/metadata/web/{file.name}" for file in ROOT.glob("zmsd/metadata/web/*")}
    assert {"zmsd/py.typed", "zmsd/metadata/web/status.html", *pages} <= names
    assert not [name for name in names if not name.startswith(("zmsd/", "zmsd-"))]
