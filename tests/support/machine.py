"""A Debian tree, booted with its own systemd by systemd-nspawn: needs root, debootstrap and systemd-container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType

from tests.support.wait import FACTOR, wait_until

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = "systemd,systemd-sysv,dbus,ca-certificates,python3,python3-venv,make"
_LIBCURL = {"trixie": "libcurl4t64"}
"""For the packaged mongod; libcurl4 in older releases."""
_NEEDED = ("debootstrap", "systemd-nspawn", "nsenter")


def missing() -> str | None:
    """Return why no machine can be booted here; None if one can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in _NEEDED if shutil.which(name) is None]
    return f"{', '.join(absent)} not installed" if absent else None


def bare_tree(release: str) -> Path:
    """Return a bare tree of a Debian release, made at the first call (a minute, 300 MB). Do not boot it: copy it."""
    tree = ROOT / f".cache/debian-{release}"
    if not tree.exists():
        new = tree.with_name(f"{tree.name}.{os.getpid()}")
        shutil.rmtree(new, ignore_errors=True)
        packages = f"{_PACKAGES},{_LIBCURL.get(release, 'libcurl4')}"
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", release, str(new)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=900)
        new.rename(tree)
    return tree


class Machine:
    """A booted copy of a tree, with a loopback interface and no other network. Its files are below ``root``."""

    def __init__(self, release: str, directory: Path, binds: tuple[tuple[Path, str], ...] = ()) -> None:
        """:param binds: directories of this machine to show there, read-only: (here, there)"""
        self.root = directory / "root"
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(bare_tree(release)), str(self.root)], check=True)
        shown = [f"--bind-ro={here}:{there}" for here, there in binds]
        name = f"zmsd-test-{os.getpid()}"
        self._command = ["systemd-nspawn", f"--directory={self.root}", f"--machine={name}", "--boot", *shown]
        # Without a system bus on this machine there is nothing to register with.
        self._command += ["--private-network", "--register=no", "--keep-unit", "--console=pipe", "--quiet"]
        self._log = directory / "console"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Machine:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(self._booted, "the machine has booted", 60)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        os.kill(self._leader, signal.SIGRTMIN + 4)  # systemd(1): poweroff
        self._end()

    def run(self, *command: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine as root. With ``check``, AssertionError with its output where it fails."""
        inside = ["nsenter", f"--target={self._leader}", "--all", "--", "/usr/bin/env", "-i", f"PATH={_PATH}", *command]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=timeout * FACTOR, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit, as systemctl shows it."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def _booted(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def _end(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
