"""Follow the stream of a daemon into a RowFile, up to a position at which MongoDB can be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from zmsd import position
from zmsd.errors import ZmsdError
from zmsd.verify.row_file import RowFile, Shape
from zmsd.verify.values import dump, key_of

Message = list[Any]
_TIMEOUT_SECONDS = 120.0
"""Longest time without any progress of the stream."""
_POLL_SECONDS = 1.0


class Client(Protocol):
    """A connection to a change source (``zmsd.commands.change_source_client``)."""

    def messages(self, timeout: float) -> Iterator[Message | None]:
        """Yield each message, and None after ``timeout`` seconds without one."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Serving(NamedTuple):
    """What ``/status.json`` of the daemon says."""

    publication: str
    """Fingerprint of the active publication."""
    head: str | None
    """Watermark of the newest transaction in the change log."""
    position: str | None
    """Watermark up to which everything is in the change log."""


class Reached(NamedTuple):
    """A moment at which the rows of the RowFile are known."""

    position: int
    publication: str
    """Fingerprint of the publication that the rows have."""


class Applier:
    """Applies the messages of a stream to a RowFile. For one thread."""

    def __init__(self, rows: RowFile, watermark: str = "") -> None:
        """:param watermark: watermark of the rows that are in the file"""
        self.watermark = watermark
        self.rows = 0
        """Row changes received."""
        self.schema_changes = 0
        """Schema changes received. Their watermarks, and no others after an initial sync, have a minor number."""
        self.is_open = False
        """Whether a transaction is open."""
        self._file = rows

    def take(self, message: Message) -> None:
        """Apply a message. Raises ZmsdError if the daemon asks for a new initial sync."""
        kind, body = message[0], message[1]
        if kind == "begin":
            self.is_open = True
            self._file.begin()
        elif kind == "data":
            self._data(body)
        elif kind == "commit":
            self._file.commit()
            self.is_open = False
            self.schema_changes += bool(self.watermark) and "." in message[2]["watermark"]
            self.watermark = message[2]["watermark"]
        elif kind == "rollback":
            self.is_open = False
            self._file.rollback()
        elif kind == "control":
            raise ZmsdError(f"the daemon cannot continue from {self.watermark or 'here'}: {body.get('message')}")

    def _data(self, body: dict[str, Any]) -> None:
        tag = body["tag"]
        if tag in ("insert", "update", "delete"):
            self._row(tag, body)
        elif tag == "truncate":
            for relation in body["relations"]:
                if relation["name"] in self._file.shapes:
                    self._file.truncate(relation["name"])
        elif tag == "create-table":
            spec = body["spec"]
            if not _of_zero(spec["name"]):
                columns = {name: column["dataType"] for name, column in spec["columns"].items()}
                self._file.add_table(spec["name"], Shape(columns, tuple(spec["primaryKey"])))
        elif tag == "drop-table" and body["id"]["name"] in self._file.shapes:
            self._file.drop_table(body["id"]["name"])
        elif tag in ("add-column", "drop-column"):
            self._column(tag, body)

    def _row(self, tag: str, body: dict[str, Any]) -> None:
        table = body["relation"]["name"]
        shape = self._file.shapes.get(table)
        if shape is None:  # zero-cache's own, or a table that has been compared
            return
        self.rows += 1
        if body.get("key") is not None:
            self._file.delete(table, key_of(body["key"], shape.primary_key))
        if tag != "delete":
            self._file.put(table, key_of(body["new"], shape.primary_key), dump(body["new"]))

    def _column(self, tag: str, body: dict[str, Any]) -> None:
        name = body["table"] if isinstance(body["table"], str) else body["table"]["name"]
        shape = self._file.shapes.get(name)
        if shape is None:
            return
        columns = dict(shape.columns)
        if tag == "add-column":
            columns[body["column"]["name"]] = body["column"]["spec"]["dataType"]
        else:
            del columns[body["column"]]
        self._file.shapes[name] = shape._replace(columns=columns)


class Follower:
    """Follows a stream. For one thread."""

    def __init__(
        self,
        applier: Applier,
        connect: Callable[[str], Client],
        serving: Callable[[], Serving],
        operation_time: Callable[[], int],
        on_progress: Callable[[str], None],
        publication: str = "",
    ) -> None:
        """Connect when the stream is first needed.

        :param connect: connects after a watermark; "" asks for an initial sync
        :param serving: asks the daemon
        :param operation_time: asks MongoDB for its newest position
        :param on_progress: called with a line for a terminal
        :param publication: fingerprint of the publication that the rows have, where there are rows
        """
        self._applier = applier
        self._connect = connect
        self._serving = serving
        self._operation_time = operation_time
        self._on_progress = on_progress
        self._publication = publication
        self._schema_changes = 0  # those that have led to the publication
        self._client: Client | None = None
        self._messages: Iterator[Message | None] = iter(())

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()

    def advance(self) -> Reached:
        """Follow the stream until it has everything that MongoDB has now, and return that moment. Raises ZmsdError."""
        if self._client is None:
            self._begin()
        while True:
            self._take_schema_change(self._serving().publication)
            # From here on the daemon makes transactions of this publication only.
            reached = self._follow(self._operation_time())
            if self._serving().publication == self._publication:
                return Reached(reached, self._publication)

    def _begin(self) -> None:
        """Connect, and read the initial sync if there are no rows."""
        before = self._serving().publication
        watermark = self._applier.watermark
        self._client = self._connect(watermark)
        self._messages = self._client.messages(_POLL_SECONDS)
        if not watermark:
            self._read_until(lambda: bool(self._applier.watermark))
            if self._serving().publication != before:
                raise ZmsdError("the daemon was reloaded during the initial sync: run zmsd verify again")
            self._publication = before

    def _take_schema_change(self, publication: str) -> None:
        """Read until the stream has the schema change to the publication that the daemon serves, if it is another."""
        if publication != self._publication:
            self._read_until(lambda: self._applier.schema_changes > self._schema_changes)
            self._publication = publication
        self._schema_changes = self._applier.schema_changes

    def _follow(self, target: int) -> int:
        """Follow to a position, and return the position at which the rows of the file are MongoDB's.

        A stream without changes has a heartbeat only every minute, so the daemon is asked whether it has read further.
        """
        found = 0

        def is_there() -> bool:
            nonlocal found
            if self._applier.is_open:
                return False
            found = position.parse(self._applier.watermark)[0]
            return found >= target

        def nothing_more() -> bool:
            nonlocal found
            if self._applier.is_open:
                return False
            serving = self._serving()
            if serving.position is None or (serving.head or "") > self._applier.watermark:
                return False
            found = position.parse(serving.position)[0]
            return found >= target

        self._read_until(is_there, nothing_more)
        return found

    def _read_until(self, done: Callable[[], bool], when_idle: Callable[[], bool] = lambda: False) -> None:
        """Apply messages until ``done``, or ``when_idle``, which is asked whenever no message comes."""
        moved = shown = time.monotonic()
        while not done():
            message = next(self._messages)
            now = time.monotonic()
            if message is not None:
                self._applier.take(message)
                moved = now
                if now - shown > 0.2:
                    shown = now
                    self._on_progress(f"reading the stream: {self._applier.rows:,} rows")
            elif when_idle():
                return
            elif now - moved > _TIMEOUT_SECONDS:
                raise ZmsdError(f"the daemon sent nothing for {_TIMEOUT_SECONDS:.0f} s: zmsd status says why")


def _of_zero(table: str) -> bool:
    """Return whether a table is zero-cache's own; no published table has a dot in its name."""
    return "." in table
