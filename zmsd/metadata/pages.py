"""What a browser, a monitor or a load balancer may ask for."""

from __future__ import annotations

import json
from collections.abc import Callable

from zmsd import __version__
from zmsd.gateway.http import Page
from zmsd.metadata.monitor import Monitor
from zmsd.metadata.status import PAGE, status
from zmsd.prometheus import CONTENT_TYPE, Registry
from zmsd.zero import protocol


def pages(monitor: Monitor, registry: Registry) -> dict[str, Callable[[], Page]]:
    """Path -> what makes the page."""
    hub = monitor.hub
    status_page = PAGE.read_text(encoding="utf-8")

    def index() -> Page:
        tables = {
            table.name: {
                "collection": table.mapping.collection,
                "columns": {column.name: column.type for column in table.spec.columns},
                "primaryKey": list(table.spec.primary_key),
            }
            for table in hub.edition.catalog.tables
        }
        return _json({"name": "zmsd", "version": __version__, "protocol": protocol.PATH, "tables": tables})

    def healthz() -> Page:
        return Page(200, "text/plain; charset=utf-8", "ok\n")

    def readyz() -> Page:
        reason, trouble = hub.readiness.reason, hub.store.trouble
        note = "" if trouble is None else f"note: the watermark store cannot be written: {trouble}\n"
        return Page(200 if reason is None else 503, "text/plain; charset=utf-8", f"{reason or 'ready'}\n{note}")

    return {
        "/": index,
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": lambda: Page(200, CONTENT_TYPE, registry.render()),
        "/status": lambda: Page(200, "text/html; charset=utf-8", status_page),
        "/status.json": lambda: _json(status(monitor)),
    }


def _json(value: object) -> Page:
    return Page(200, "application/json", json.dumps(value, indent=2) + "\n")
