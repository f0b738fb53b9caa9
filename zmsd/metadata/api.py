"""The metadata API: what is published, as JSON for programs. ``docs/openapi.yaml`` describes it.

Paths and fields are those that zero-sources documents, so that its health checks and tools work here as well.
"""

from __future__ import annotations

import json
import time
from typing import Any

from zmsd.metadata.monitor import Monitor
from zmsd.schema.catalog import Table, extended_json
from zmsd.schema.refresh import Refresh
from zmsd.zero.protocol import DATA_TYPES


def metadata_status(monitor: Monitor, refresh: Refresh) -> dict[str, Any]:
    """Return the content of ``/metadata/status``; ``uptime`` is in seconds. Thread-safe."""
    active = monitor.hub.active
    return {
        "status": "healthy" if monitor.reason is None else "unhealthy",
        "schemaSource": refresh.schema_source,
        "schemaLoaded": True,  # a daemon without a schema does not start
        "tablesCount": len(active.catalog.tables),
        "collectionsWatched": sorted(active.watched),
        "uptime": round(time.time() - monitor.started, 3),
    }


def schemas(monitor: Monitor, refresh: Refresh) -> dict[str, Any]:
    """Return the content of ``/metadata/schemas``: the publication that is served now. Thread-safe."""
    active = monitor.hub.active
    served = {
        "fingerprint": active.fingerprint,
        "source": refresh.schema_source,
        "tables": sorted(table.name for table in active.catalog.tables),
        "permissions": active.publication.permissions is not None,
    }
    return {"schemas": [served], "count": 1}


def tables(monitor: Monitor) -> dict[str, Any]:
    """Return the content of ``/metadata/tables``, which also loads as a schema document with mappings. Thread-safe."""
    found = [table_spec(table) for table in monitor.hub.active.catalog.tables]
    return {"tables": found, "count": len(found)}


def table_spec(table: Table) -> dict[str, Any]:
    """Return a table as plain JSON: its columns as zero-cache gets them, its primary key and its mapping."""
    spec, mapping = table.spec, table.mapping
    columns = {
        column.name: {
            "pos": pos,
            "dataType": DATA_TYPES[column.type],
            "type": column.type,
            "notNull": not column.optional,
        }
        for pos, column in enumerate(spec.columns, 1)
    }
    written: dict[str, Any] = {"collection": mapping.collection}
    if mapping.fields is not None:
        written["fields"] = dict(mapping.fields)
    for form in ("filter", "projection", "pipeline"):
        text = extended_json(getattr(mapping, form))
        if text is not None:
            written[form] = json.loads(text)
    if mapping.revision:
        written["revision"] = mapping.revision
    return {
        "schema": "public",
        "name": spec.name,
        "columns": columns,
        "primaryKey": list(spec.primary_key),
        "tableMapping": written,
    }
