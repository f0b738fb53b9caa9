"""One page in a headless Chromium, controlled over its debugging protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from simple_websocket import Client

from tests.support.wait import FACTOR, wait_until

_FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--no-first-run",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--disable-background-networking",
)


def find_chromium() -> str | None:
    """Return the path of Chromium or Google Chrome; None if neither is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def require_chromium() -> None:
    """Skip the test, with the reason, if no browser can be used."""
    if os.environ.get("ZMSD_TEST_SKIP_BROWSER") == "1":
        pytest.skip("ZMSD_TEST_SKIP_BROWSER=1")
    if find_chromium() is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")


class Page:
    """The page ``url``, loaded. Exceptions that its scripts throw are in ``errors``."""

    def __init__(self, url: str, *flags: str) -> None:
        binary = find_chromium()
        assert binary is not None, "no Chromium on the PATH"
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        self._directory = tempfile.mkdtemp(prefix="zmsd-chromium-")
        command = [
            binary,
            *_FLAGS,
            *flags,
            "--remote-debugging-port=0",
            f"--user-data-dir={self._directory}",
            "about:blank",
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._socket: Client | None = None
        try:
            self._socket = Client.connect(self._debugger())
            for domain in ("Runtime", "Page"):
                self._call(f"{domain}.enable")
            self._call("Page.navigate", url=url)
            self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.close()

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, awaited if it is a promise. Raises AssertionError if it throws."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, timeout: float = 60) -> Any:
        """Wait until the expression is true, and return its value."""
        try:
            return wait_until(lambda: self.evaluate(expression), f"in the page: {expression}", timeout)
        except AssertionError as error:
            body = self.evaluate("document.body.innerText")
            raise AssertionError(f"{error}\nerrors: {self.errors}\nthe page reads:\n{body}") from None

    def fill_and_submit(self, form: str, field: str, text: str) -> None:
        """Put text into a form's field and submit the form, as Enter does."""
        self.evaluate(
            f"(form => {{ form.elements[{json.dumps(field)}].value = {json.dumps(text)}; form.requestSubmit(); }})"
            f"(document.querySelector({json.dumps(form)}))"
        )

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._process.terminate()  # Chromium's own processes end with it.
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _debugger(self) -> str:
        file = Path(self._directory) / "DevToolsActivePort"

        def target() -> str | None:
            assert self._process.poll() is None, f"Chromium ended with {self._process.returncode}"
            if not file.exists() or "\n" not in file.read_text():
                return None
            port = file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                pages = [entry for entry in json.load(answer) if entry["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"] if pages else None

        url = wait_until(target, "Chromium can be steered", 90)
        assert url is not None
        return url

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        assert self._socket is not None
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            text = self._socket.receive(timeout=30 * FACTOR)
            assert text is not None, f"no answer to {method}"
            message = json.loads(text)
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            elif message.get("id") == number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
