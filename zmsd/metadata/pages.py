"""The HTTP pages, for browsers, monitoring systems and load balancers."""

from __future__ import annotations

import json

from zmsd.gateway.http import Page, Reader
from zmsd.gateway.server import PageMaker
from zmsd.metadata import api
from zmsd.metadata.html import HtmlPage
from zmsd.metadata.index import Index
from zmsd.metadata.monitor import Monitor
from zmsd.metadata.status import status
from zmsd.prometheus import CONTENT_TYPE, Registry
from zmsd.schema.refresh import Refresh


def pages(monitor: Monitor, registry: Registry, refresh: Refresh) -> dict[str, PageMaker]:
    """Return the function that makes each page, by path.

    If tokens are configured and a request has none, the public pages show no table, host or reason: a reason may quote
    MongoDB, collections and documents.
    """
    hub = monitor.hub
    index = Index(monitor)
    status_page = HtmlPage("status.html", connects=True)

    def root(reader: Reader) -> Page:
        found = index.html(reader.allowed) if reader.html else _json(index.json(reader.allowed))
        return found._replace(headers={**found.headers, "Vary": "Accept"})

    def healthz(reader: Reader) -> Page:
        return Page(200, "text/plain; charset=utf-8", "ok\n")

    def readyz(reader: Reader) -> Page:
        reason, trouble = monitor.reason, hub.store.trouble
        lines = ["ready" if reason is None else reason if reader.allowed else "not ready"]
        if reader.allowed:
            lines += [f"note: {problem}" for problem in hub.problems.empty_tables]
        if reader.allowed and trouble is not None:
            lines.append(f"note: the watermark store cannot be written: {trouble}")
        text = "".join(f"{line}\n" for line in lines)
        return Page(200 if reason is None else 503, "text/plain; charset=utf-8", text)

    return {
        "/": root,
        "/health": lambda _: _json({"status": "ok"}),
        "/healthz": healthz,
        "/readyz": readyz,
        "/metadata/schemas": lambda _: _json(api.schemas(monitor, refresh)),
        "/metadata/status": lambda _: _json(api.metadata_status(monitor, refresh)),
        "/metadata/tables": lambda _: _json(api.tables(monitor)),
        "/metrics": lambda _: Page(200, CONTENT_TYPE, registry.render()),
        "/status": lambda _: status_page.page(),
        "/status.json": lambda _: _json(status(monitor)),
    }


def _json(value: object) -> Page:
    return Page(200, "application/json", json.dumps(value, indent=2) + "\n")
