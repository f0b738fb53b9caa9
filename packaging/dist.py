"""Build the sdist and the wheel, the same bytes each time: ``python packaging/dist.py``.

With SOURCE_DATE_EPOCH setuptools makes a reproducible wheel, but an sdist with the times of the files and of the build.
So the sdist is packed again, and the wheel is built from it.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELEASED = 1767225600
"""Seconds since the epoch that all files get without SOURCE_DATE_EPOCH."""
_UNTRACKED = {".git", ".venv", ".cache", "build", "dist", "zmsd.egg-info"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where to write both (%(default)s)")
    for path in build(parser.parse_args().out):
        print(path)


def build(out: Path) -> tuple[Path, Path]:
    """Return the sdist and the wheel, made in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", RELEASED))
    with tempfile.TemporaryDirectory() as work:
        source, unpacked = Path(work, "source"), Path(work, "unpacked")
        copy_source(source)
        made = backend("sdist", source, Path(work), epoch)
        sdist = out / made.name
        sdist.write_bytes(packed_again(made, epoch))
        with tarfile.open(sdist) as archive:
            archive.extractall(unpacked, filter="data")
        made = backend("wheel", unpacked / sdist.name.removesuffix(".tar.gz"), Path(work), epoch)
        wheel = out / made.name
        shutil.copyfile(made, wheel)
    return sdist, wheel


def copy_source(target: Path) -> None:
    """Copy the files of the repository: a build leaves files in its tree, and takes up those of an earlier one."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        names = [Path(name) for name in listed.stdout.split("\0") if name]
    else:
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if not path.is_dir() or path.is_symlink())
        names = [path for path in found if path.parts[0] not in _UNTRACKED and "__pycache__" not in path.parts]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():  # not removed since the last commit
            shutil.copy(ROOT / name, target / name, follow_symlinks=False)


def backend(kind: str, source: Path, out: Path, epoch: int) -> Path:
    """Return what setuptools builds of a source: its newest ``sdist`` or ``wheel``."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    os.umask(0o022)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=source, env=environ, check=True, stdout=subprocess.PIPE, text=True)
    return out / done.stdout.splitlines()[-1]


def packed_again(sdist: Path, epoch: int) -> bytes:
    """Return an sdist whose members are sorted and have one time and owner."""
    packed = io.BytesIO()
    with tarfile.open(sdist) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "root", "root"
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    return gzip.compress(packed.getvalue(), 9, mtime=epoch)


if __name__ == "__main__":
    main()
