"""``zmsd tail`` and the output of the demo: the initial sync with a progress line, then each transaction."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Any, TextIO

from zmsd.commands.change_source_client import Message
from zmsd.commands.daemon_client import Target
from zmsd.commands.terminal import Colours
from zmsd.errors import PeerGone, ZmsdError
from zmsd.log import write_line

_SHOWN = 8
"""Changes of one transaction that are shown."""
_WIDTH = 100
"""Characters of a line that shows a change."""
_COLOURS = {"+": "green", "~": "yellow", "-": "red"}
_SIGNS = {"insert": "+", "update": "~", "delete": "-", "truncate": "0"}


def tail(target: Target, app: str, shard: int, last_watermark: str | None, colours: Colours | None = None) -> int:
    """Print a stream until Ctrl-C, and return the exit code.

    :param app: appID to connect with
    :param shard: shardNum to connect with
    :param last_watermark: skip the initial sync and start after this watermark
    :param colours: of inserts, updates and deletes
    :raises ZmsdError: the daemon does not answer, or ends the stream
    """
    client = target.follow(app, shard, last_watermark)
    viewer = Viewer(colours=colours)
    try:
        if last_watermark is None:
            viewer.expect_initial_sync()
        for message in client.messages(1.0):
            if message is not None:
                viewer.show(message)
    except PeerGone as error:
        raise ZmsdError(f"the stream ended: {error}") from error
    except KeyboardInterrupt:
        write_line(f"ended after {viewer.transactions} transactions", begin="\n")
    finally:
        client.close()
    return 0


class Viewer:
    """Take the messages of a stream and write lines. For one thread."""

    def __init__(self, out: TextIO = sys.stdout, colours: Colours | None = None) -> None:
        """Write to ``out``, with a moving progress line if it is a terminal."""
        self._out = out
        self._colours = Colours("never", out, {}) if colours is None else colours
        self._live = out.isatty()
        self._initial_sync = False
        self._rows: Counter[str] = Counter()
        self._lines: list[str] = []
        self._changes = 0  # changes of rows and tables in this transaction
        self._begun = time.monotonic()
        self._shown_at = 0.0
        self.transactions = 0

    def expect_initial_sync(self) -> None:
        """Show the next transaction as the initial sync, without its rows."""
        self._initial_sync = True

    def show(self, message: Message) -> None:
        """Take the next message of the stream."""
        kind, body = message[0], message[1]
        if kind == "begin":
            self._rows.clear()
            self._lines = []
            self._changes = 0
            self._begun = time.monotonic()
        elif kind == "data":
            self._change(body)
        elif kind == "commit":
            self._commit(body["commitTimeMs"], message[2]["watermark"])
        else:
            self._print(f"{kind}: {json.dumps(body)}")

    def _change(self, body: dict[str, Any]) -> None:
        tag = body["tag"]
        table = body["relation"]["name"] if "relation" in body else _named(body)
        self._rows[table] += tag in _SIGNS
        if self._initial_sync:
            if tag == "create-table":
                columns = ", ".join(f"{name} {spec['dataType']}" for name, spec in body["spec"]["columns"].items())
                self._print(f"  create table {table} ({columns})")
            elif tag in _SIGNS and self._live and time.monotonic() - self._shown_at > 0.1:
                self._shown_at = time.monotonic()
                write_line(f"  {self._progress()}", self._out, begin="\r", end="")
            return
        self._changes += 1
        if len(self._lines) < _SHOWN:
            row = body.get("new") or body.get("key")
            shown = json.dumps(row, ensure_ascii=False) if row else _column(body)
            self._lines.append(_cut(f"    {_SIGNS.get(tag, tag)} {table} {shown}".rstrip()))

    def _commit(self, commit_ms: int, watermark: str) -> None:
        if self._initial_sync:
            self._initial_sync = False
            write_line(f"  {self._progress()}", self._out, begin="\r" if self._live else "")
            self._print(f"  initial sync complete at watermark {watermark}")
            return
        now = time.time()
        self.transactions += 1
        clock = time.strftime("%H:%M:%S", time.localtime(commit_ms / 1000)) + f".{commit_ms % 1000:03d}"
        after = f"{max(now * 1000 - commit_ms, 0):.0f} ms"
        if commit_ms % 1000 == 0:  # before MongoDB 6.0 events have no wallTime: the time is known to the second
            after = f"{max(round(now - commit_ms / 1000), 0)} s ± 1 s"
        tables = ", ".join(f"{table} {count}" for table, count in self._rows.items()) or "empty"
        self._print(f"{clock}  {watermark}  {tables}  ({after} after MongoDB's commit)")
        for line in self._lines:
            begin = self._colours.begin(_COLOURS.get(line[4:5], "dim"))
            write_line(line, self._out, begin=begin, end=f"{self._colours.end}\n")
        if self._changes > len(self._lines):
            self._print(f"    … {self._changes - len(self._lines)} more")

    def _progress(self) -> str:
        seconds = max(time.monotonic() - self._begun, 0.001)
        total = sum(self._rows.values())
        tables = ", ".join(f"{table} {count:,}" for table, count in self._rows.items() if count)
        return f"{total:,} rows, {total / seconds:,.0f} rows/s: {tables}"

    def _print(self, line: str) -> None:
        write_line(line, self._out)


def _named(body: dict[str, Any]) -> str:
    for key in ("spec", "id", "table"):
        if isinstance(body.get(key), dict):
            return str(body[key].get("tableName") or body[key].get("name"))
    return ", ".join(relation["name"] for relation in body.get("relations", ()))


def _column(body: dict[str, Any]) -> str:
    """Return the column of a schema change: an added one with its type, a dropped one by its name."""
    column = body.get("column")
    return f"{column['name']} {column['spec']['dataType']}" if isinstance(column, dict) else column or ""


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
