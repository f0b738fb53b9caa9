from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from zmsd import position
from zmsd.errors import ZmsdError
from zmsd.verify.row_file import RowFile, Shape, State
from zmsd.verify.stream import Applier, Follower, Message, Reached, Serving

USER: dict[str, Any] = {"schema": "public", "name": "user", "rowKey": {"columns": ["id"]}}
MARKS = [position.watermark(number) for number in range(1000, 1010)]


def create(name: str = "user") -> Message:
    columns = {"id": {"dataType": "text"}, "n": {"dataType": "double precision"}}
    return ["data", {"tag": "create-table", "spec": {"name": name, "columns": columns, "primaryKey": ["id"]}}]


def insert(key: str, n: float) -> Message:
    return ["data", {"tag": "insert", "relation": USER, "new": {"id": key, "n": n}}]


def transaction(mark: str, *messages: Message) -> list[Message]:
    begin = ["begin", {"tag": "begin", "json": "s"}, {"commitWatermark": mark}]
    return [begin, *messages, ["commit", {"tag": "commit", "commitTimeMs": 1}, {"watermark": mark}]]


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[RowFile]:
    file = RowFile(tmp_path)
    yield file
    file.close()


def apply(applier: Applier, messages: Sequence[Message]) -> None:
    for message in messages:
        applier.take(message)


def test_changes_of_rows_are_applied(rows: RowFile) -> None:
    applier = Applier(rows)
    apply(applier, transaction(MARKS[0], create(), create("zero_0.clients"), insert("a", 1), insert("b", 2)))
    moved = ["data", {"tag": "update", "relation": USER, "key": {"id": "a"}, "new": {"id": "c", "n": 3}}]
    changed = ["data", {"tag": "update", "relation": USER, "key": None, "new": {"id": "b", "n": 2.5}}]
    apply(applier, transaction(MARKS[1], moved, changed))
    assert rows.unseen("user", 9) == [('{"id":"b"}', '{"id":"b","n":2.5}'), ('{"id":"c"}', '{"id":"c","n":3}')]
    apply(applier, transaction(MARKS[2], ["data", {"tag": "delete", "relation": USER, "key": {"id": "b"}}]))
    assert rows.find("user", '{"id":"b"}') is None
    assert set(rows.shapes) == {"user"}
    assert applier.watermark == MARKS[2]
    assert applier.schema_changes == 0


def test_schema_changes_are_applied(rows: RowFile) -> None:
    applier = Applier(rows)
    apply(applier, transaction(MARKS[0], create(), create("old"), insert("a", 1)))
    table = {"schema": "public", "name": "user"}
    added = {"name": "x", "spec": {"dataType": "json"}}
    messages: list[Message] = [
        ["data", {"tag": "drop-index", "id": {"schema": "public", "name": "old_pkey"}}],
        ["data", {"tag": "drop-table", "id": {"schema": "public", "name": "old"}}],
        ["data", {"tag": "add-column", "table": table, "column": added}],
        ["data", {"tag": "drop-column", "table": table, "column": "n"}],
        ["data", {"tag": "truncate", "relations": [USER]}],
    ]
    apply(applier, transaction(f"{MARKS[1]}.01", *messages))
    assert rows.shapes == {"user": Shape({"id": "text", "x": "json"}, ("id",))}
    assert rows.counts("user")[State.UNSEEN] == 0
    assert applier.schema_changes == 1


def test_rollback_undoes_a_transaction(rows: RowFile) -> None:
    applier = Applier(rows)
    apply(applier, transaction(MARKS[0], create(), insert("a", 1)))
    apply(applier, [*transaction(MARKS[1], insert("b", 2))[:-1], ["rollback", {"tag": "rollback"}]])
    assert [key for key, _ in rows.unseen("user", 9)] == ['{"id":"a"}']
    assert (applier.watermark, applier.is_open) == (MARKS[0], False)


def test_reset_required_is_an_error(rows: RowFile) -> None:
    with pytest.raises(ZmsdError, match="cannot continue.*too old"):
        Applier(rows).take(["control", {"tag": "reset-required", "message": "too old"}])


class Script:
    """A client whose messages, and the daemon's answers between them, are given."""

    def __init__(self, *steps: Message | Serving) -> None:
        self.serving = Serving("one", None, None)
        self._steps = iter(steps)
        self.closed = False

    def messages(self, timeout: float) -> Iterator[Message | None]:
        for step in self._steps:
            if isinstance(step, Serving):
                self.serving = step
                yield None
            else:
                yield step

    def close(self) -> None:
        self.closed = True


def follower(rows: RowFile, script: Script, target: int = 1005) -> Follower:
    connected: list[str] = []

    def connect(watermark: str) -> Script:
        connected.append(watermark)
        assert connected == [""]
        return script

    return Follower(Applier(rows), connect, lambda: script.serving, lambda: target, lambda text: None)


def test_advance_reads_to_what_mongodb_has(rows: RowFile) -> None:
    script = Script(
        *transaction(MARKS[0], create()), *transaction(MARKS[3], insert("a", 1)), *transaction(MARKS[6], insert("b", 1))
    )
    found = follower(rows, script)
    assert found.advance() == Reached(1006, "one")
    assert rows.counts("user")[State.UNSEEN] == 2
    found.close()
    assert script.closed


def test_advance_of_an_idle_stream_ends_where_the_daemon_has_read(rows: RowFile) -> None:
    steps = [Serving("one", MARKS[0], MARKS[4]), Serving("one", MARKS[1], MARKS[7]), Serving("one", MARKS[0], MARKS[7])]
    assert follower(rows, Script(*transaction(MARKS[0], create()), *steps)).advance() == Reached(1007, "one")


def test_advance_waits_for_the_schema_change_to_what_is_served(rows: RowFile) -> None:
    change = transaction(f"{MARKS[5]}.01", create("new"))
    script = Script(
        *transaction(MARKS[0], create()),
        *transaction(MARKS[4]),
        Serving("two", MARKS[0], MARKS[4]),
        Serving("two", MARKS[0], MARKS[5]),
        *change,
    )
    assert follower(rows, script).advance() == Reached(1005, "two")
    assert set(rows.shapes) == {"user", "new"}
