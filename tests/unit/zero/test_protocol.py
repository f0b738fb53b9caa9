from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from tests.support.frames import data, messages
from zmsd.rows.changes import RowChange
from zmsd.schema.tables import Column, TableSpec
from zmsd.zero import protocol
from zmsd.zero.protocol import TableMessages

RELATION = {"schema": "public", "name": "t", "rowKey": {"columns": ["id"]}, "keyColumns": ["id"]}
SPEC = TableSpec(
    "t",
    (Column("n", "number", True), Column("id", "string"), Column("b", "boolean"), Column("j", "json"))
    + (Column("z", "null", True),),
    ("id",),
)

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="%"), min_size=1)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_frame_of_each_length_is_valid(size: int) -> None:
    wanted = ["x" * size, "é" * (size // 2), "after"]
    frames = [protocol.frame(text) for text in wanted]
    head = {True: 2, False: 4}.get(size < 126, 4) if size < 65536 else 10
    assert len(frames[0]) == size + head, "the shortest form of the length"
    reader = FrameProtocol(client=True, extensions=[])
    got: list[str] = [""]
    for frame in frames:
        reader.receive_bytes(frame)
        for part in reader.received_frames():
            got[-1] += str(part.payload)
            if part.message_finished:
                got.append("")
    assert got == [*wanted, ""]


def test_transaction_messages_have_their_form() -> None:
    assert messages(protocol.begin("00") + protocol.commit("00", 12) + protocol.ROLLBACK) == [
        ["begin", {"tag": "begin", "json": "s"}, {"commitWatermark": "00"}],
        ["commit", {"tag": "commit", "commitTimeMs": 12}, {"watermark": "00"}],
        ["rollback", {"tag": "rollback"}],
    ]


def test_reset_required_has_code_and_details() -> None:
    (message,) = messages(protocol.reset_required('lost "it" \n é', "position-lost", "00", None))
    tag, body = message
    assert (tag, body["tag"], body["message"]) == ("control", "reset-required", 'lost "it" \n é')
    details = body["errorDetails"]
    assert details.pop("advice")
    assert details == {"code": "position-lost", "position": "00", "oplogStart": None}


def test_lag_report_has_the_form_of_the_postgres_source() -> None:
    (message,) = messages(protocol.lag_report(1, 2, 3, 4, "00"))
    timings = {"sendTimeMs": 1, "commitTimeMs": 2, "receiveTimeMs": 3}
    report = {"lastTimings": timings, "nextSendTimeMs": 4}
    assert message == ["status", {"ack": False, "lagReport": report}, {"watermark": "00"}]


def test_row_changes_have_their_form() -> None:
    table = TableMessages("t", ["id"])
    frames = [
        table.frame(RowChange("insert", None, '{"id":"1"}')),
        table.frame(RowChange("update", None, '{"id":"1"}')),
        table.frame(RowChange("delete", '{"id":"1"}', None)),
        table.truncate(),
    ]
    assert data(b"".join(frames)) == [
        {"tag": "insert", "relation": RELATION, "new": {"id": "1"}},
        {"tag": "update", "relation": RELATION, "key": None, "new": {"id": "1"}},
        {"tag": "delete", "relation": RELATION, "key": {"id": "1"}},
        {"tag": "truncate", "relations": [RELATION]},
    ]


@given(NAMES, st.lists(NAMES, min_size=1, max_size=3))
def test_tables_and_keys_may_have_any_name(name: str, key: list[str]) -> None:
    table = TableMessages(name, key)
    relation = {"schema": "public", "name": name, "rowKey": {"columns": key}, "keyColumns": key}
    row = '{"a":"%s {}"}'
    changes = [RowChange("insert", None, row), RowChange("update", None, row), RowChange("delete", row, None)]
    for change in changes:
        (sent,) = data(table.frame(change))
        assert sent["relation"] == relation
        assert {"a": "%s {}"} in (sent.get("new"), sent.get("key"))
    assert data(table.truncate()) == [{"tag": "truncate", "relations": [relation]}]


def test_names_may_have_a_percent_sign() -> None:
    table = TableMessages("100%s", ["%"])
    (sent,) = data(table.frame(RowChange("insert", None, "{}")))
    assert (sent["relation"]["name"], sent["relation"]["keyColumns"]) == ("100%s", ["%"])


def test_create_table_has_columns_and_index() -> None:
    table, index = data(protocol.create_table(SPEC))
    assert table == {
        "tag": "create-table",
        "spec": {
            "schema": "public",
            "name": "t",
            "primaryKey": ["id"],
            "columns": {
                "n": {"pos": 1, "dataType": "double precision", "notNull": False},
                "id": {"pos": 2, "dataType": "text", "notNull": True},
                "b": {"pos": 3, "dataType": "boolean", "notNull": False},
                "j": {"pos": 4, "dataType": "json", "notNull": False},
                "z": {"pos": 5, "dataType": "text", "notNull": False},
            },
        },
    }
    assert index == {
        "tag": "create-index",
        "spec": {
            "schema": "public",
            "tableName": "t",
            "name": index["spec"]["name"],
            "columns": {"id": "ASC"},
            "unique": True,
        },
    }
    assert index["spec"]["name"] not in ("", "t")


def test_required_tables_have_their_columns_and_keys() -> None:
    names = ("clients", "mutations", "permissions", "schemaVersions")
    required = dict(zip(names, protocol.required_tables("zero", 3), strict=True))
    made = {kind: data(protocol.create_table(*spec)) for kind, spec in required.items()}
    text, int8, as_json = (
        {"dataType": "text", "notNull": True},
        {"dataType": "int8", "notNull": False},
        {"dataType": "json", "notNull": False},
    )
    nullable_text = {"dataType": "text", "notNull": False}
    expected = {
        "clients": (
            "zero_3.clients",
            {"clientGroupID": text, "clientID": text, "lastMutationID": int8, "userID": nullable_text},
            ["clientGroupID", "clientID"],
        ),
        "mutations": (
            "zero_3.mutations",
            {"clientGroupID": text, "clientID": text, "mutationID": {**int8, "notNull": True}}
            | {"mutation": as_json, "result": as_json},
            ["clientGroupID", "clientID", "mutationID"],
        ),
        "permissions": (
            "zero.permissions",
            {"permissions": as_json, "hash": nullable_text, "lock": {"dataType": "boolean", "notNull": True}},
            ["lock"],
        ),
        "schemaVersions": (
            "zero.schemaVersions",
            {"minSupportedVersion": int8, "maxSupportedVersion": int8}
            | {"lock": {"dataType": "boolean", "notNull": True}},
            ["lock"],
        ),
    }
    for kind, (name, columns, key) in expected.items():
        table, index = made[kind]
        assert table["spec"]["name"] == name
        assert {c: {k: v for k, v in s.items() if k != "pos"} for c, s in table["spec"]["columns"].items()} == columns
        assert [spec["pos"] for spec in table["spec"]["columns"].values()] == list(range(1, len(columns) + 1))
        assert list(index["spec"]["columns"]) == key
        assert index["spec"]["tableName"] == name
        assert index["spec"]["unique"] is True


def test_schema_changes_have_their_form() -> None:
    assert data(protocol.add_column(SPEC, SPEC.columns[3]) + protocol.drop_column("t", "n")) == [
        {
            "tag": "add-column",
            "table": {"schema": "public", "name": "t"},
            "column": {"name": "j", "spec": {"pos": 4, "dataType": "json", "notNull": False}},
        },
        {"tag": "drop-column", "table": {"schema": "public", "name": "t"}, "column": "n"},
    ]


def test_drop_table_drops_its_index_first() -> None:
    _, created = data(protocol.create_table(SPEC))
    index, table = data(protocol.drop_table("t"))
    assert index == {"tag": "drop-index", "id": {"schema": "public", "name": created["spec"]["name"]}}
    assert table == {"tag": "drop-table", "id": {"schema": "public", "name": "t"}}


def test_json_columns_are_strings_of_json() -> None:
    assert protocol.json_column(None) == "null"
    assert json.loads(json.loads(protocol.json_column({"a": ["é", None]}))) == {"a": ["é", None]}
