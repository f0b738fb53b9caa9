"""Encode the messages of Zero's change source protocol v0 as WebSocket frames, and decode those of zero-cache. No I/O.

The protocol is defined in ``packages/zero-cache/src/services/change-source/protocol/current`` of rocicorp/mono; this
module follows zero-cache 0.25 to 1.10. A server does not mask its frames, so a frame is made once for all clients.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from struct import pack
from typing import Any

from zmsd import position
from zmsd.rows.bson_json import quote
from zmsd.rows.changes import RowChange
from zmsd.schema.tables import Column, TableSpec, index_name

PATH = "/changes/v0/stream"

DATA_TYPES = {"string": "text", "number": "double precision", "boolean": "boolean", "json": "json", "null": "text"}


def frame(text: str) -> bytes:
    """Return a text message as one complete frame (RFC 6455, 5.2)."""
    payload = text.encode()
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return pack(">BBH", 0x81, 126, size) + payload
    return pack(">BBQ", 0x81, 127, size) + payload


def begin(watermark: str) -> bytes:
    """Return the message that begins a transaction.

    ``json: s`` means that values of json columns are sent as strings of JSON text, which zero-cache need not parse.

    :param watermark: watermark of the transaction's commit
    """
    return frame(f'["begin",{{"tag":"begin","json":"s"}},{{"commitWatermark":"{watermark}"}}]')


def commit(watermark: str, commit_ms: int) -> bytes:
    """Return the message that commits a transaction.

    :param commit_ms: when MongoDB committed, in ms since the epoch
    """
    return frame(f'["commit",{{"tag":"commit","commitTimeMs":{commit_ms}}},{{"watermark":"{watermark}"}}]')


ROLLBACK = frame('["rollback",{"tag":"rollback"}]')


RESET_ADVICE = {
    "position-lost": "zero-cache gets a new initial sync; keep the oplog window longer than any outage, and than the"
    " interval between backups of the replica",
    "other-history": "zmsd now reads another database, or an older state of it: zero-cache gets a new initial sync",
    "publication-unknown": "zero-cache gets a new initial sync; do not delete or restore the watermark store alone",
    "publication-incompatible": "zero-cache gets a new initial sync, as a changed primary key or column type requires",
    "foreign-watermark": "the replica is from another change source: zero-cache gets a new initial sync",
}
"""Advice for the operator, by the code of ResumeLost."""


def reset_required(message: str, code: str, watermark: str | None, oplog_start: str | None) -> bytes:
    """Return the message that asks for a new initial sync. zero-cache publishes ``errorDetails`` in its replication
    ERROR event (``#handleControlMessage`` in
    ``packages/zero-cache/src/services/change-streamer/change-streamer-service.ts``).

    :param message: the reason, for people
    :param code: code of ResumeLost
    :param watermark: newest watermark that the replica is known to have; None if unknown
    :param oplog_start: watermark at which the oplog begins; None if zmsd may not read the oplog
    """
    details = {"code": code, "position": watermark, "oplogStart": oplog_start, "advice": RESET_ADVICE[code]}
    return frame(_json(["control", {"tag": "reset-required", "message": message, "errorDetails": details}]))


def lag_report(sent_ms: int, commit_ms: int, received_ms: int, next_ms: int, watermark: str) -> bytes:
    """Return the message that reports the stream's lag (``#processLagReport`` in
    ``packages/zero-cache/src/services/change-source/pg/change-source.ts``). All times are in ms since the epoch.

    :param sent_ms: when zmsd asked MongoDB for its time
    :param commit_ms: the time that MongoDB answered
    :param received_ms: when the stream had reached that time
    :param next_ms: when the next report begins
    :param watermark: watermark up to which everything was sent
    """
    timings = {"sendTimeMs": sent_ms, "commitTimeMs": commit_ms, "receiveTimeMs": received_ms}
    report = {"lastTimings": timings, "nextSendTimeMs": next_ms}
    return frame(_json(["status", {"ack": False, "lagReport": report}, {"watermark": watermark}]))


def acknowledged(message: str | bytes) -> str:
    """Return the watermark of ``["status", …, {"watermark": W}]``. Raises ValueError.

    zero-cache acknowledges what is durable in its database. Version 1.9 sends a message for each commit. Version 1.10
    joins several commits into one message, ``["status",{"tag":"commit"},{"watermark":W}]``, and repeats the last one
    after a reconnect (``packages/zero-cache/src/services/change-streamer/upstream-acker.ts``).
    """
    try:
        tag, _, rest = json.loads(message)
        if tag != "status":
            raise ValueError(tag)
        mark: str = rest["watermark"]
        position.parse(mark)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected a status message, got {message[:100]!r}") from error
    return mark


class TableMessages:
    """Make the data messages of one table. Their constant parts are made once."""

    def __init__(self, name: str, primary_key: Sequence[str]) -> None:
        # zero-cache 0.26 and later read rowKey; 0.25 reads keyColumns.
        keys = list(primary_key)
        relation = {"schema": "public", "name": name, "rowKey": {"columns": keys}, "keyColumns": keys}
        self.relation = _json(relation)
        self._insert = f'["data",{{"tag":"insert","relation":{self.relation},"new":'
        self._update = f'["data",{{"tag":"update","relation":{self.relation},"key":'
        self._delete = f'["data",{{"tag":"delete","relation":{self.relation},"key":'

    def inserted(self, new: str) -> bytes:
        """Return the insert message of a row.

        :param new: JSON text of the row
        """
        return frame(f"{self._insert}{new}}}]")

    def frame(self, change: RowChange) -> bytes:
        """Return the message of a row change."""
        tag, key, new = change
        if tag == "insert":
            assert new is not None
            return self.inserted(new)
        if tag == "update":
            return frame(f'{self._update}{key or "null"},"new":{new}}}]')
        return frame(f"{self._delete}{key}}}]")

    def truncate(self) -> bytes:
        """Return the message that empties the table."""
        return frame(f'["data",{{"tag":"truncate","relations":[{self.relation}]}}]')


def create_table(spec: TableSpec, types: dict[str, str] | None = None) -> bytes:
    """Return the messages that create a table and its unique index, without which zero-cache ignores the table.

    :param types: PostgreSQL type of each column, for zero-cache's own tables; None derives them from the column types
    """
    columns = {column.name: _column(column, spec, pos, types) for pos, column in enumerate(spec.columns, 1)}
    table = {"schema": "public", "name": spec.name, "columns": columns, "primaryKey": list(spec.primary_key)}
    index = {
        "schema": "public",
        "tableName": spec.name,
        "name": index_name(spec.name),
        "columns": dict.fromkeys(spec.primary_key, "ASC"),
        "unique": True,
    }
    return _data({"tag": "create-table", "spec": table}) + _data({"tag": "create-index", "spec": index})


def drop_table(name: str) -> bytes:
    """Return the messages that drop a table. Its unique index is dropped first."""
    return _data({"tag": "drop-index", "id": {"schema": "public", "name": index_name(name)}}) + _data(
        {"tag": "drop-table", "id": {"schema": "public", "name": name}}
    )


def add_column(spec: TableSpec, column: Column) -> bytes:
    """Return the message that adds a column of a table; existing rows have null in it."""
    pos = spec.columns.index(column) + 1
    added = {"name": column.name, "spec": _column(column, spec, pos, None)}
    return _data({"tag": "add-column", "table": {"schema": "public", "name": spec.name}, "column": added})


def drop_column(table: str, column: str) -> bytes:
    """Return the message that drops a column."""
    return _data({"tag": "drop-column", "table": {"schema": "public", "name": table}, "column": column})


def required_tables(app: str, shard: int) -> list[tuple[TableSpec, dict[str, str]]]:
    """Return the tables that zero-cache itself requires in an initial sync, with the PostgreSQL types of their columns.

    (``packages/zero-cache/src/services/change-source/custom/change-source.ts``)
    """

    def table(name: str, key: Iterable[str], **types: str) -> tuple[TableSpec, dict[str, str]]:
        keys = tuple(key)
        return TableSpec(name, tuple(Column(c, "json", c not in keys) for c in types), keys), types

    ids = {"clientGroupID": "text", "clientID": "text"}
    return [
        table(f"{app}_{shard}.clients", ids, **ids, lastMutationID="int8", userID="text"),
        table(
            f"{app}_{shard}.mutations", (*ids, "mutationID"), **ids, mutationID="int8", mutation="json", result="json"
        ),
        table(f"{app}.permissions", ("lock",), permissions="json", hash="text", lock="boolean"),
        # Only zero-cache 0.25 requires this table and its row; later versions treat it as an ordinary table.
        table(
            f"{app}.schemaVersions", ("lock",), minSupportedVersion="int8", maxSupportedVersion="int8", lock="boolean"
        ),
    ]


def schema_versions_row(app: str) -> bytes:
    """Return the insert message of the row of ``APP.schemaVersions`` that zero-cache 0.25 requires."""
    row = RowChange("insert", None, '{"minSupportedVersion":1,"maxSupportedVersion":1,"lock":true}')
    return TableMessages(f"{app}.schemaVersions", ("lock",)).frame(row)


def _column(column: Column, spec: TableSpec, pos: int, types: dict[str, str] | None) -> dict[str, Any]:
    kind = types[column.name] if types else DATA_TYPES[column.type]
    return {"pos": pos, "dataType": kind, "notNull": column.name in spec.primary_key}


def _data(change: dict[str, Any]) -> bytes:
    return frame(_json(["data", change]))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def json_column(value: Any) -> str:
    """Return the JSON text of a json column's value, as a string (``json: s`` of ``begin``)."""
    return "null" if value is None else quote(_json(value))
