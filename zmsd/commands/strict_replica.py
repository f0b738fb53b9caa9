"""The copy that a zero-cache makes of a change source, for ``zmsd conformance`` and zmsd's own tests. No I/O.

As strict as zero-cache where zero-cache would fail, and stricter where it would go wrong in silence. The rules are
those of ``packages/zero-cache/src/services/change-source/protocol/current`` and ``change-streamer`` in rocicorp/mono.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

from zmsd import position
from zmsd.commands.strict_tables import Key, Row, Shapes, TableShape, require
from zmsd.errors import Violation


@dataclass(frozen=True, slots=True)
class Change:
    """One data message."""

    tag: str
    table: str
    key: Key = ()
    old_key: Key | None = None
    """Of an update that moves the row."""
    row: Row | None = None
    """The new row as sent, with json columns parsed; None for delete and truncate."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One committed transaction."""

    watermark: str
    commit_time_ms: int
    changes: tuple[Change, ...]
    received_at: float
    """Seconds since the epoch."""


@dataclass(slots=True)
class _Open:
    watermark: str
    json_format: str
    shapes: Shapes
    changes: list[Change] = field(default_factory=list)


class Replica:
    """The tables and rows of one shard, changed at each commit. Every method raises Violation. For one thread."""

    def __init__(self, app: str = "zero", shard: int = 0) -> None:
        """:param app: appID of the connections
        :param shard: shardNum of the connections
        """
        self.rows: dict[str, dict[Key, Row]] = {}
        """Table -> key -> row."""
        self.version: str | None = None
        """Watermark of the initial sync: zero-cache's replicaVersion."""
        self.watermark = ""
        """Of the newest commit."""
        self.initial: Transaction | None = None
        self.transactions: list[Transaction] = []
        """Those after the initial sync, in order."""
        self.reset_required: str | None = None
        """The message of reset-required."""
        self.rollbacks = 0
        self.lag_reports = 0
        self._lag_commit_ms = 0.0
        self._app = app
        self._schema = f"{app}_{shard}"
        self._shapes = Shapes()
        self._open: _Open | None = None

    @property
    def tables(self) -> dict[str, TableShape]:
        """Return table -> its columns and key, as of the newest commit."""
        return self._shapes.tables

    @property
    def begun(self) -> str | None:
        """Return the watermark of the open transaction; None without one."""
        return self._open.watermark if self._open else None

    @property
    def in_transaction(self) -> bool:
        """Return whether a transaction is open."""
        return self._open is not None

    def disconnected(self) -> None:
        """Discard the open transaction, as zero-cache does at the end of a connection.

        The next connection may reach another daemon, whose newest lag report may be older.
        """
        self._open = None
        self._lag_commit_ms = 0.0

    def receive(self, text: str) -> list[Any] | None:
        """Take one message, and return the answer that zero-cache sends, if any. Raises Violation."""
        try:
            message = json.loads(text, parse_constant=_not_json)
            kind, body, *rest = message
            tag = body["tag"] if kind != "status" else ""
            match kind, tag:
                case "begin", "begin":
                    self._begin(body, rest[0]["commitWatermark"])
                case "data", _:
                    self._data(tag, body)
                case "commit", "commit":
                    return self._commit(body, rest[0]["watermark"])
                case "rollback", "rollback":
                    require(self._open, "a rollback outside of a transaction")
                    require(self.version, "a rollback in the initial sync")
                    self._open = None
                    self.rollbacks += 1
                case "status", _:
                    valid_watermark(rest[0]["watermark"])
                    self._lag_report(body.get("lagReport"))
                    return ["status", body, rest[0]] if body.get("ack", True) else None
                case "control", "reset-required":
                    require(not self._open, "reset-required inside a transaction: it needs a rollback first")
                    require(isinstance(body.get("errorDetails", {}), dict), "errorDetails must be an object")
                    self.reset_required = body.get("message", "")
                case _:
                    raise Violation("an unknown message")
        except Violation as exc:
            raise Violation(f"{exc} in {text[:500]}") from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
            raise Violation(f"a malformed message ({exc!r}): {text[:500]}") from exc
        return None

    def _lag_report(self, report: dict[str, Any] | None) -> None:
        if report is None:
            return
        require(not self._open, "a lag report inside a transaction")
        timings = report["lastTimings"]
        times = [report["nextSendTimeMs"], *(timings[f"{name}TimeMs"] for name in ("send", "commit", "receive"))]
        require(all(type(each) in (int, float) and each > 0 for each in times), "a lag report needs times in ms")
        require(timings["commitTimeMs"] >= self._lag_commit_ms, "commitTimeMs of a lag report goes back")
        self._lag_commit_ms = timings["commitTimeMs"]
        self.lag_reports += 1

    def _begin(self, body: dict[str, Any], watermark: str) -> None:
        require(not self._open, "a begin inside a transaction")
        require(self.reset_required is None, "a transaction after reset-required")
        valid_watermark(watermark)
        require(watermark > self.watermark, f"the watermark does not rise: {self.watermark} was before")
        json_format = body.get("json", "p")
        require(json_format in ("p", "s"), "an unknown format of json columns")
        self._open = _Open(watermark, json_format, self._shapes)

    def _commit(self, body: dict[str, Any], watermark: str) -> list[Any]:
        require(self._open, "a commit outside of a transaction")
        assert self._open
        require(watermark == self._open.watermark, f"commit at another watermark than begin's {self._open.watermark}")
        commit_time = body["commitTimeMs"]
        require(type(commit_time) in (int, float) and commit_time > 0, "commitTimeMs is not a time")
        opened, self._open = self._open, None
        self._shapes = opened.shapes
        self._shapes.check_keys()
        for change in opened.changes:
            self._apply(change)
        transaction = Transaction(watermark, commit_time, tuple(opened.changes), time.time())
        self.watermark = watermark
        if self.version is None:
            self.version = watermark
            self.initial = transaction
            self._check_required_tables()
        else:
            self.transactions.append(transaction)
        return ["status", body, {"watermark": watermark}]

    def _data(self, tag: str, body: dict[str, Any]) -> None:
        require(self._open, "data outside of a transaction")
        assert self._open
        if tag in ("insert", "update", "delete"):
            shape = self._open.shapes.of_relation(body["relation"])
            self._open.changes.append(_row_change(tag, body, shape, self._open.json_format))
        elif tag == "truncate":
            for relation in body["relations"]:
                self._open.changes.append(Change(tag, self._open.shapes.of_relation(relation).name))
        else:
            if self._open.shapes is self._shapes:
                self._open.shapes = self._shapes.copy()  # what a disconnect or a rollback discards
            table = self._open.shapes.change(tag, body)
            self._open.changes.append(Change(tag, table, row=body.get("column")))

    def _apply(self, change: Change) -> None:
        match change.tag:
            case "create-table":
                self.rows[change.table] = {}
            case "drop-table":
                del self.rows[change.table]
            case "truncate":
                self.rows[change.table].clear()
            case "insert":
                assert change.row is not None
                self.rows[change.table][change.key] = self._whole(change.table, change.row)
            case "update":
                assert change.row is not None
                rows = self.rows[change.table]
                old = rows.pop(change.key if change.old_key is None else change.old_key, None)
                clash = old is not None and change.key in rows
                require(not clash, f"an update moves {change.old_key} onto the row {change.key}, which exists")
                rows[change.key] = self._whole(change.table, change.row) if old is None else old | change.row
            case "delete":
                self.rows[change.table].pop(change.key, None)
            case "add-column" | "drop-column":
                shape = self._shapes.tables.get(change.table)
                columns = shape.columns.keys() if shape else set()
                for row in self.rows.get(change.table, {}).values() if shape else ():
                    for column in columns - row.keys():
                        row[column] = None
                    for column in row.keys() - columns:
                        del row[column]

    def _whole(self, table: str, row: Row) -> Row:
        shape = self._shapes.tables.get(table)  # None: dropped later in the same transaction
        return dict.fromkeys(shape.columns) | row if shape else dict(row)

    def _check_required_tables(self) -> None:
        for name, columns in (
            (f"{self._schema}.clients", "clientGroupID clientID lastMutationID userID"),
            (f"{self._schema}.mutations", "clientGroupID clientID mutationID mutation result"),
            (f"{self._app}.permissions", "permissions hash lock"),
        ):
            require(name in self.tables, f"the initial sync has no table {name}")
            require(set(columns.split()) == set(self.tables[name].columns), f"{name} has other columns than {columns}")
        require(list(self.rows[f"{self._app}.permissions"]) == [(True,)], "the permissions row is missing")


def valid_watermark(watermark: str) -> None:
    """Raise Violation for a watermark that is neither ``lexi`` nor ``lexi.lexi``."""
    try:
        position.parse(watermark)
    except ValueError as error:
        raise Violation(f"not a LexiVersion: {watermark}") from error


def _row_change(tag: str, body: dict[str, Any], shape: TableShape, json_format: str) -> Change:
    if tag == "delete":
        return Change(tag, shape.name, shape.key_of(body["key"], json_format, only=True))
    row = shape.row_of(body["new"], json_format)
    if tag == "insert":
        missing = [name for name, column in shape.columns.items() if column.get("notNull") and name not in row]
        require(not missing, f"an insert into {shape.name} without {missing}, which are notNull")
    key = shape.key_of(row, json_format)
    old_key = None
    if tag == "update" and body["key"] is not None:
        old_key = shape.key_of(body["key"], json_format, only=True)
    return Change(tag, shape.name, key, old_key, row)


def _not_json(constant: str) -> NoReturn:
    raise Violation(f"{constant} is not JSON")
