"""``/``: what zmsd is and which pages it has, as HTML for browsers and as JSON for programs."""

from __future__ import annotations

from html import escape
from typing import Any

from zmsd import __version__
from zmsd.gateway.http import Page
from zmsd.gateway.server import PUBLIC
from zmsd.metadata.html import HtmlPage
from zmsd.metadata.monitor import Monitor
from zmsd.zero import protocol

LINKS = {
    "/status": "the state of this daemon: lag, clients, collections, rejected rows",
    "/status.json": "the same as JSON",
    "/metrics": "metrics for Prometheus",
    "/readyz": "whether changes arrive, and if not, why",
    "/healthz": "whether the process runs",
    "/health": "the same as JSON",
    "/metadata/tables": "the published tables with their columns and mappings, as JSON",
    "/metadata/schemas": "the publication and its fingerprint, as JSON",
    "/metadata/status": "the state in six fields, as JSON",
}
"""Path -> what the page shows, in the order of the HTML page."""

_TOKEN_HINT = "The other pages require the token: add ?token=TOKEN to the address of this page."


class Index:
    """The page ``/``. Thread-safe. Without the token, where one is set, it has neither version, tables nor reasons."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._page = HtmlPage("index.html")

    def json(self, allowed: bool) -> dict[str, Any]:
        """Return the page for programs.

        :param allowed: whether the reader may see the tables
        """
        if not allowed:
            return {"name": "zmsd", "protocol": protocol.PATH}
        tables = {
            table.name: {
                "collection": table.mapping.collection,
                "columns": {column.name: column.type for column in table.spec.columns},
                "primaryKey": list(table.spec.primary_key),
            }
            for table in self._monitor.hub.active.catalog.tables
        }
        return {"name": "zmsd", "version": __version__, "protocol": protocol.PATH, "tables": tables}

    def html(self, allowed: bool) -> Page:
        """Return the page for browsers.

        :param allowed: whether the reader may see the version and why zmsd is not ready
        """
        ready = self._monitor.reason is None
        short = "serving" if ready else "not ready"
        links = [(path, text) for path, text in LINKS.items() if allowed or path in PUBLIC]
        values = {
            "title": f"zmsd: {short}",
            "level": "ok" if ready else "bad",
            "state": self._monitor.summary() if allowed else short,
            "version": f" · version {__version__}" if allowed else "",
            "stream": protocol.PATH,
            "hint": "" if allowed else _TOKEN_HINT,
        }
        items = [
            f'<li><a href="{escape(path)}">{escape(path)}</a> <span>{escape(text)}</span></li>' for path, text in links
        ]
        return self._page.page(values, {"links": "\n".join(items)})
