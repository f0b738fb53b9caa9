from __future__ import annotations

from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.plan import fields, lines
from zmsd.schema.publication import Publication, diff
from zmsd.schema.tables import Column, TableSpec


def table(name: str, *columns: str, collection: str = "", key: str = "id", kind: str = "string") -> Table:
    spec = TableSpec(name, tuple(Column(column, kind) for column in (key, *columns)), (key,))
    return Table(spec, Mapping(collection or f"{name}s", tuple((column.name, column.name) for column in spec.columns)))


def publication(*tables: Table, permissions: object = None, clients: str | None = None) -> Publication:
    return Publication(Catalog(tables), permissions, clients)


def shown(old: Publication, new: Publication) -> list[str]:
    return list(lines(diff(old, new), new, lambda collection: f"about {len(collection)} documents"))


OLD = publication(table("user", "name"), table("message", "text", "old"), table("gone"))
NEW = publication(
    table("user", "name"),
    table("message", "text", "extra", collection="posts"),
    table("note"),
    permissions={"a": 1},
    clients="clients",
)


def test_fields_of_a_log_line_name_tables_and_columns() -> None:
    assert fields(diff(OLD, NEW), NEW) == {
        "added": "note",
        "dropped": "gone",
        "changed": "message(+extra,-old,~)",
        "system_tables": "clients",
        "permissions": "changed",
        "unchanged": 1,
    }


def test_fields_without_a_change_count_the_tables() -> None:
    assert fields(diff(OLD, OLD), OLD) == {"unchanged": 3}


def test_lines_say_what_is_read_again() -> None:
    assert shown(OLD, NEW) == [
        "drop table gone",
        "add table note: read notes, about 5 documents",
        "change table message: add column extra (string), drop column old, read posts again, about 5 documents",
        "read zero-cache's table clients again, from another collection",
        "send other permissions",
        "unchanged: 1 table",
    ]


def test_dropped_column_alone_reads_nothing() -> None:
    new = publication(table("user"), table("message", "text", "old"), table("gone"))
    assert shown(OLD, new) == ["change table user: drop column name", "unchanged: 2 tables"]


def test_incompatible_change_is_a_reset() -> None:
    new = publication(table("user", "name", kind="number"), table("message", "text", "old"), table("gone"))
    reason = "table user: the type of column id was string, is number; table user: the type of column name was string"
    assert str(fields(diff(OLD, new), new)["reset_required"]).startswith(reason)
    assert shown(OLD, new)[0] == (
        "reset-required: table user: the type of column id was string, is number: clients make a new initial sync"
    )
