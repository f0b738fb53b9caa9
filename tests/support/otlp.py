"""A receiver of OpenTelemetry metrics (OTLP, http/json), as far as tests need it."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class MetricsReceiver:
    """Takes what is exported to ``url`` until the ``with`` ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exports: list[dict[str, float]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = b"".join(self._chunks())
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take(json.loads(body))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def _chunks(self) -> Iterator[bytes]:
                if self.headers.get("transfer-encoding") != "chunked":
                    yield self.rfile.read(int(self.headers["content-length"]))
                    return
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> MetricsReceiver:
        self._thread.start()
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, export: Any) -> None:
        """One request of an exporter: the gauges and sums in it, by name; of several points the last one."""
        found: dict[str, float] = {}
        for resource in export.get("resourceMetrics", ()):
            for scope in resource.get("scopeMetrics", ()):
                for metric in scope.get("metrics", ()):
                    data = metric.get("gauge") or metric.get("sum") or {}
                    for point in data.get("dataPoints", ()):
                        found[metric["name"]] = float(point.get("asDouble", point.get("asInt", 0)))
        with self._lock:
            self._exports.append(found)

    def exports(self, name: str) -> list[dict[str, float]]:
        """The exports so far that have a metric of this name."""
        with self._lock:
            return [export for export in self._exports if name in export]
