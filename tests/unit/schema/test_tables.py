from __future__ import annotations

import json
from typing import Any

import pytest

from zmsd.config.document import parse
from zmsd.schema.tables import COLUMN_KEYS, Column, SchemaTable, TableSpec, parse_schema

ID = {"id": {"type": "string"}}
ITEM = {"tableName": "item", "columns": ID, "primaryKey": ["id"]}


def read(data: Any) -> tuple[list[SchemaTable], list[str]]:
    tables, issues = parse_schema(parse(json.dumps(data, indent=1), "s.json", kind="json"))
    return tables, [f"{issue.key}: {issue.reason}" for issue in issues]


def specs(data: Any) -> list[TableSpec | None]:
    tables, issues = read(data)
    assert not issues
    return [table.spec for table in tables]


def faults_of(data: Any) -> list[str]:
    return read(data)[1]


@pytest.mark.parametrize(
    "document",
    [
        {"item": ITEM},
        {"tables": {"item": ITEM}},
        {"schema": {"tables": {"item": ITEM}}, "permissions": {"tables": {}}},
        {"tables": {"item": ITEM}, "relationships": {}, "version": 3, "enableLegacyQueries": False},
        {"item": {**ITEM, "tableName": "public.item"}},
        {"item": {"columns": ID, "primaryKey": ["id"]}},
        {"x": {"name": "item", "columns": ID, "primaryKey": ["id"]}},
        {"x": {"name": "y", "serverName": "item", "columns": ID, "primaryKey": ["id"]}},
    ],
)
def test_equivalent_forms_are_equal(document: Any) -> None:
    assert specs(document) == [TableSpec("item", (Column("id", "string"),), ("id",))]


def test_tables_may_be_named_as_a_wrapper() -> None:
    document = {name: {"columns": ID, "primaryKey": ["id"]} for name in ("schema", "tables")}
    assert [spec.name for spec in specs(document) if spec] == ["schema", "tables"]


def test_schema_of_zero_is_read() -> None:
    table = {
        "name": "userMessage",
        "serverName": "user_messages",
        "columns": {
            "id": {"type": "string", "optional": False, "customType": None},
            "roomID": {"type": "string", "optional": False, "customType": None, "serverName": "room_id"},
            "sentAt": {"type": "number", "optional": True, "customType": None, "serverName": "sent_at"},
            "extra": {"type": "json", "optional": True, "customType": None},
        },
        "primaryKey": ["roomID", "id"],
    }
    tables, issues = read({"tables": {"userMessage": table}, "relationships": {}})
    assert not issues
    assert tables[0].spec == TableSpec(
        "user_messages",
        (
            Column("id", "string"),
            Column("room_id", "string"),
            Column("sent_at", "number", optional=True),
            Column("extra", "json", optional=True),
        ),
        ("room_id", "id"),
    )
    assert tables[0].column("roomID") == tables[0].column("room_id") == "room_id"
    assert tables[0].column("none") is None


def test_optional_key_column_is_not_optional() -> None:
    table = {"columns": {"id": {"type": "string", "optional": True}}, "primaryKey": ["id"]}
    assert specs({"a": table}) == [TableSpec("a", (Column("id", "string"),), ("id",))]


@pytest.mark.parametrize(
    ("document", "issue"),
    [
        ([], ": names no table"),
        ({}, ": names no table"),
        ({"tables": {}}, "tables: names no table"),
        ("x", ": must be an object of tables"),
        ({"a": 1}, "a: must be an object with columns and primaryKey"),
        ({"a": {"columns": ID}}, "a.primaryKey: must be a list of at least one column"),
        ({"a": {"columns": ID, "primaryKey": []}}, "a.primaryKey: must be a list of at least one column"),
        ({"a": {"columns": ID, "primaryKey": "id"}}, "a.primaryKey: must be a list of at least one column"),
        (
            {"a": {"columns": ID, "primaryKey": ["idd"]}},
            "a.primaryKey[0]: 'idd' is not a column of this table; did you mean id?",
        ),
        ({"a": {"columns": ID, "primaryKey": ["id", 1]}}, "a.primaryKey[1]: 1 is not a column of this table"),
        ({"a": {"columns": ID, "primaryKey": ["id", "id"]}}, "a.primaryKey[1]: id is given twice"),
        (
            {"a": {"columns": {"id": {"type": "json"}}, "primaryKey": ["id"]}},
            "a.primaryKey[0]: a column of type json cannot be in a primary key",
        ),
        (
            {"a": {"columns": {"id": {"type": "null"}}, "primaryKey": ["id"]}},
            "a.primaryKey[0]: a column of type null cannot be in a primary key",
        ),
        (
            {"a": {"columns": {"id": {"type": "text"}}, "primaryKey": ["id"]}},
            "a.columns.id.type: must be one of string, number, boolean, json, null, got 'text'",
        ),
        (
            {"a": {"columns": {"id": {}}, "primaryKey": ["id"]}},
            "a.columns.id.type: must be one of string, number, boolean, json, null",
        ),
        (
            {"a": {"columns": {"id": {"type": ["string"]}}, "primaryKey": ["id"]}},
            "a.columns.id.type: must be one of string, number, boolean, json, null, got ['string']",
        ),
        (
            {"a": {"columns": {"id": "string"}, "primaryKey": ["id"]}},
            "a.columns.id: must be an object with a type (string, number, boolean, json, null)",
        ),
        (
            {"a": {"columns": {"id": {"type": "string", "optional": 1}}, "primaryKey": ["id"]}},
            "a.columns.id.optional: must be true or false",
        ),
        (
            {"a.b": {"columns": ID, "primaryKey": ["id"]}},
            "a\\.b: the server name a.b has a dot: such tables are zero-cache's own",
        ),
        (
            {"a": {**ITEM, "tableName": "zero_0.clients"}},
            "a.tableName: the server name zero_0.clients has a dot: such tables are zero-cache's own",
        ),
        (
            {"a": {**ITEM, "tableName": "sqlite_x"}},
            "a.tableName: zero-cache takes the table sqlite_x for one of SQLite or Litestream: rename it",
        ),
        (
            {"a": {**ITEM, "tableName": "SQLiteVersions"}},
            "a.tableName: zero-cache takes the table SQLiteVersions for one of SQLite or Litestream: rename it",
        ),
        (
            {"a": {**ITEM, "tableName": "_litestream_seq"}},
            "a.tableName: zero-cache takes the table _litestream_seq for one of SQLite or Litestream: rename it",
        ),
        (
            {"a": {**ITEM, "tableName": ["x"]}},
            "a.tableName: its server name must be text without a NUL in it, got ['x']",
        ),
        ({"a": {**ITEM, "tableName": ""}}, "a.tableName: its server name must be text without a NUL in it, got ''"),
        (
            {"a": {"columns": {**ID, "_0_version": {"type": "string"}}, "primaryKey": ["id"]}},
            "a.columns._0_version: _0_version is zero-cache's own column",
        ),
        (
            {"a": {"columns": {**ID, "b": {"type": "string", "serverName": "ID"}}, "primaryKey": ["id"]}},
            "a.columns.b: the server name ID is taken by id",
        ),
        ({"a": ITEM, "b": {**ITEM, "tableName": "Item"}}, "b: the server name Item is taken by item"),
        (
            {"a": ITEM, "b": {**ITEM, "tableName": "ITEM_pkey"}},
            "b: zero-cache names an index of item ITEM_pkey: rename it",
        ),
        (
            {"a": {"columns": {**ID, "x\u0000": {"type": "string"}}, "primaryKey": ["id"]}},
            "a.columns.'x\\x00': its server name must be text without a NUL in it, got 'x\\x00'",
        ),
        (
            {"a": {"columns": {**ID, "__proto__": {"type": "string"}}, "primaryKey": ["id"]}},
            "a.columns.__proto__: zero-cache cannot read a column of the name __proto__: rename it",
        ),
        (
            {"a": {"columns": {**ID, "b": {"type": "string", "serverName": "x  y"}}, "primaryKey": ["id"]}},
            "a.columns.b: zero-cache takes the name 'x  y' for 'x y': rename it",
        ),
        (
            {"a": {**ITEM, "tableName": "x\ny"}},
            "a.tableName: zero-cache takes the name 'x\\ny' for 'x y': rename it",
        ),
        (
            {"a": {**ITEM, "tableName": "x\u00a0y"}},
            "a.tableName: zero-cache takes the name 'x\\xa0y' for 'x y': rename it",
        ),
    ],
)
def test_invalid_schema_is_an_error(document: Any, issue: str) -> None:
    assert faults_of(document) == [issue.replace("\\.", ".")]


def test_table_has_at_most_the_columns_of_sqlite() -> None:
    """Including those that zero-cache adds."""

    def issues(count: int) -> list[str]:
        more = {f"c{n}": {"type": "json"} for n in range(1, count)}
        return faults_of({"a": {"columns": ID | more, "primaryKey": ["id"]}})

    assert issues(1999) == []
    assert issues(2000) == ["a.columns: are 2000, and zero-cache takes no more than 1999"]


def test_all_errors_are_reported_with_positions() -> None:
    text = """\
{
"a": 1,
"b": {"columns": {}, "primaryKey": ["x"]},
"c": {"columns": {"id": {"type": "uuid"}},
"primaryKey": []}}"""
    _, issues = parse_schema(parse(text, "s.json", kind="json"))
    assert list(map(str, issues)) == [
        "s.json:2:1: a: must be an object with columns and primaryKey",
        "s.json:3:7: b.columns: must be an object with at least one column",
        "s.json:3:37: b.primaryKey[0]: 'x' is not a column of this table",
        "s.json:4:26: c.columns.id.type: must be one of string, number, boolean, json, null, got 'uuid'",
        "s.json:5:1: c.primaryKey: must be a list of at least one column",
    ]


def test_unknown_keys_of_columns_are_configuration_errors() -> None:
    columns = {"id": {"type": "string", "customType": None}, "n": {"type": "number", "optionl": True, "zzz": 1}}
    document = parse(json.dumps({"a": {"columns": columns, "primaryKey": ["id"]}}), "s.json", kind="json")
    assert [f"{issue.key}: {issue.reason}" for issue in parse_schema(document)[1]] == [
        "a.columns.n.optionl: unknown key; did you mean optional?",
        f"a.columns.n.zzz: unknown key; known: {', '.join(COLUMN_KEYS)}",
    ]


@pytest.mark.parametrize(
    ("member", "meant"),
    [("servername", "serverName"), ("server_name", "serverName"), ("tablName", "tableName"), ("Name", "name")],
)
def test_misspelt_name_of_a_table_is_a_configuration_error(member: str, meant: str) -> None:
    """The table would have its key as its name."""
    table = {member: "users", "columns": {"id": {"type": "string"}}, "primaryKey": ["id"]}
    document = parse(json.dumps({"a": table}), "s.json", kind="json")
    (issue,) = parse_schema(document)[1]
    assert f"{issue.key}: {issue.reason}" == f"a.{member}: unknown key; did you mean {meant}?"


def test_other_members_of_a_table_are_ignored() -> None:
    table = {"columns": {"id": {"type": "string"}}, "primaryKey": ["id"]}
    others = dict.fromkeys(("schema", "description", "relationships", "tableMapping", "indexes"))
    assert parse_schema(parse(json.dumps({"a": others | table}), "s.json", kind="json"))[1] == []


def test_unprintable_names_are_accepted() -> None:
    names = ["a\u200cb", "\u200d", "a b", " a"]
    data = {"a": {"columns": {name: {"type": "string"} for name in names}, "primaryKey": [names[0]]}}
    tables, issues = parse_schema(parse(json.dumps(data), "s.json", kind="json"))
    assert not issues
    assert tables[0].spec is not None
    assert [column.name for column in tables[0].spec.columns] == names
