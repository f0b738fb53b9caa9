"""Zero clients and API servers in Node, as processes that exchange JSON lines with the tests."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tests.support.node import Workspace
from tests.support.wait import wait_until
from tests.support.zero import ZeroCache

Row = dict[str, Any]


class Script:
    """A Node script that prints JSON objects, one per line, and may read such lines from its standard input."""

    def __init__(self, workspace: Workspace, script: str, env: Mapping[str, str]) -> None:
        self._process = workspace.popen(
            [script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._lock = threading.Lock()
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def received(self, message: dict[str, Any]) -> None:
        """Handle a line. Called in the reading thread, under the lock."""
        raise NotImplementedError

    def send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def errors(self) -> str:
        with self._lock:
            return "".join(self._errors)

    def check(self) -> None:
        """Raise AssertionError if the process has ended."""
        code = self._process.poll()
        assert code is None, f"the script ended with {code}:\n{self.errors()[-3000:]}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(10)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"{"):
                message = json.loads(line, parse_int=_number)
                with self._lock:
                    self.received(message)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._lock:
                self._errors.append(line.decode(errors="replace"))


class NodeClient(Script):
    """A real Zero client in Node.

    ``app`` is a module (relative to the workspace) that exports ``schema``, ``queries`` and perhaps ``mutators``.
    """

    def __init__(
        self,
        workspace: Workspace,
        cache: ZeroCache,
        *,
        app: str = "scripts/generic.mjs",
        every: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """:param every: keep every state of every view; otherwise only the newest ones"""
        self._cache = cache
        self._kept = None if every else 10
        self._views: dict[str, deque[tuple[float, list[Row], bool]]] = {}
        self._mutations: dict[tuple[int, str], dict[str, Any]] = {}
        self._states: list[dict[str, Any]] = []
        self._next = 0
        settings = {"CACHE_URL": cache.url, "APP": app, "EVERY": str(int(every)), **(env or {})}
        super().__init__(workspace, "scripts/client.mjs", settings)

    def __enter__(self) -> NodeClient:
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.close()

    def received(self, message: dict[str, Any]) -> None:
        match message["event"]:
            case "view":
                history = self._views.setdefault(message["view"], deque(maxlen=self._kept))
                history.append((time.monotonic(), message["rows"], message["complete"]))
            case "mutation":
                self._mutations[message["id"], message["phase"]] = message["result"]
            case _:
                self._states.append(message)

    def materialize(self, view: str, query: str | None, arguments: Any = None) -> None:
        """Keep ``view`` up to date with the application's named query; with None, with a legacy query of the table
        ``view``."""
        self.send({"op": "materialize", "view": view, "query": query, "args": arguments})

    def history(self, view: str) -> list[tuple[float, list[Row], bool]]:
        """Return the states of the view so far: (time, rows, complete)."""
        with self._lock:
            return list(self._views.get(view, ()))

    def rows(self, view: str) -> list[Row] | None:
        """Return the current view; None before the server's first answer."""
        with self._lock:
            history = self._views.get(view)
            return history[-1][1] if history and history[-1][2] else None

    def wait_rows(self, view: str, expected: list[Row], timeout: float = 90) -> None:
        """Wait until the view shows these rows, in this order, with no others.

        A column that the expected rows do not have may be there: a client keeps one that was dropped.
        """

        def same() -> bool:
            self.check()
            self._cache.check()
            return not _difference(self.rows(view), expected)

        try:
            wait_until(same, f"the view {view} shows the rows expected", timeout)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{_difference(self.rows(view), expected)}\n{self.errors()[-1000:]}"
            ) from None

    def mutate(self, name: str, arguments: Any) -> int:
        """Run the named mutator of the application, and return a number to call ``result`` with."""
        self._next += 1
        self.send({"op": "mutate", "id": self._next, "name": name, "args": arguments})
        return self._next

    def result(self, mutation: int, phase: str = "server", timeout: float = 90) -> dict[str, Any]:
        """Return the result of the promise ``client`` or ``server`` of a mutation, as Zero gives it."""

        def settled() -> dict[str, Any] | None:
            self.check()
            with self._lock:
                return self._mutations.get((mutation, phase))

        answer = wait_until(settled, f"the {phase} promise of mutation {mutation} settles", timeout)
        assert answer is not None
        return answer

    def states(self) -> list[dict[str, Any]]:
        """Return the connection states and other events so far."""
        with self._lock:
            return list(self._states)


def _difference(actual: list[Row] | None, expected: list[Row]) -> str:
    if actual is None:
        return "the view never completed"
    if len(actual) != len(expected):
        return f"{len(actual)} rows instead of {len(expected)}"
    for got, want in zip(actual, expected, strict=True):
        if {name: got.get(name) for name in want} != want:
            return f"first difference:\n  {got}\ninstead of\n  {want}"
    return ""


def _number(text: str) -> float:
    """Return a number as JavaScript has it. A number that it prints with 17 digits or more is not exact."""
    return int(text) if len(text) < 17 else float(text)


class Api(Script):
    """An application's API server in Node, which listens on a free port and prints ``{"event": "listening", …}``."""

    def __init__(
        self, workspace: Workspace, script: str = "scripts/api.mjs", env: Mapping[str, str] | None = None
    ) -> None:
        self._port = 0
        self.requests: list[dict[str, Any]] = []
        super().__init__(workspace, script, {"PORT": "0", **(env or {})})
        wait_until(self._listening, "the API server listens", 90)
        self.url = f"http://127.0.0.1:{self._port}"
        self.query_url, self.mutate_url = f"{self.url}/query", f"{self.url}/mutate"

    def __enter__(self) -> Api:
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.close()

    def received(self, message: dict[str, Any]) -> None:
        if message["event"] == "listening":
            self._port = message["port"]
        else:
            self.requests.append(message)

    def _listening(self) -> int:
        self.check()
        with self._lock:
            return self._port
