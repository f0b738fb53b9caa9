"""Tables whose keys any document may have: how the changes of one batch affect one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from bson import Binary, Decimal128, ObjectId

from zmsd.mongodb.events import ChangeEvent
from zmsd.replication.active_publication import row_filters
from zmsd.rows import table_rows
from zmsd.rows.changes import RowChange
from zmsd.rows.rejects import Rejects
from zmsd.rows.table_rows import TableRows
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec

SPEC = TableSpec("t", (Column("code", "string"), Column("n", "number")), ("code",))
PLAIN = Mapping("c", (("code", "code"), ("n", "n")))
BY_ID = Mapping("c", (("code", "_id"),))
TAKEN = ("t", "replaces a row with the same key")


@pytest.fixture
def rejects() -> Rejects:
    return Rejects()


@pytest.fixture
def encoder(rejects: Rejects) -> TableRows:
    return TableRows(Table(SPEC, PLAIN), rejects)


def changes(encoder: TableRows, key: Any, before: str | None, after: str | None) -> list[str]:
    """Return what is sent when the code of a document changes; None: no document."""

    def document(code: str | None) -> dict[str, Any] | None:
        return None if code is None else {"_id": key, "code": code, "n": 1}

    kind = "delete" if after is None else "update"
    event = ChangeEvent({}, kind, "c", key, after=document(after), before=document(before), before_known=True)
    return shown(encoder.changes(event))


def shown(changes: list[RowChange]) -> list[str]:
    """Return each message in short form."""
    short = []
    for change in changes:
        codes = [json.loads(part)["code"] for part in (change.key, change.new) if part]
        short.append(" ".join([change.tag, *map(str, codes)]))
    return short


def test_row_that_moves_deletes_the_row_at_its_new_key(encoder: TableRows, rejects: Rejects) -> None:
    assert changes(encoder, 1, "a", "b") == ["delete b", "update a b"]
    assert changes(encoder, 1, "b", "b") == []
    assert not rejects.counts()


def test_documents_that_swap_their_keys_keep_both_rows(encoder: TableRows) -> None:
    assert changes(encoder, 1, "a", "b") == ["delete b", "update a b"]
    assert changes(encoder, 2, "b", "a") == ["insert a"], "b is the other one's by now"


def test_row_taken_over_by_another_document_is_not_deleted(encoder: TableRows, rejects: Rejects) -> None:
    assert changes(encoder, 1, None, "a") == ["insert a"]
    assert changes(encoder, 2, None, "a") == ["insert a"]
    assert rejects.counts() == {TAKEN: 1}
    assert changes(encoder, 1, "a", None) == []
    assert changes(encoder, 2, "a", None) == ["delete a"]
    assert changes(encoder, 3, None, "a") == ["insert a"]
    assert rejects.counts() == {TAKEN: 1}


def test_truncated_table_has_no_key_owners(encoder: TableRows, rejects: Rejects) -> None:
    changes(encoder, 1, None, "a")
    encoder.forget_owners()
    assert changes(encoder, 2, None, "a") == ["insert a"]
    assert not rejects.counts()


def test_newest_key_owners_are_remembered(encoder: TableRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_rows, "_MAX_REMEMBERED_KEYS", 10)
    for number in range(21):
        changes(encoder, number, None, f"k{number}")
    encoder.trim_owners()
    assert changes(encoder, 99, f"k{10}", None) == ["delete k10"], "it is not known whose it is"
    assert changes(encoder, 99, f"k{11}", None) == [], "it is another one's"


KEPT = ObjectId("0123456789abcdef01234567")


Change = Callable[[str, Any], list[str]]
"""What is sent for an insert or a delete of an _id."""
images = pytest.mark.parametrize("known", [True, False], ids=["images", "no images"])


def by_id(rejects: Rejects, known: bool, type_: Any = "string", path: str = "_id") -> Change:
    """A table whose key is the _id, or a part of it."""
    spec = TableSpec("t", (Column("code", type_),), ("code",))
    encoder = TableRows(Table(spec, Mapping("c", (("code", path),))), rejects)

    def change(kind: str, key: Any) -> list[str]:
        document = {"_id": key}
        before, after = (document, None) if kind == "delete" else (None, document)
        return shown(encoder.changes(ChangeEvent({}, kind, "c", key, after, before if known else None, known)))

    return change


@images
def test_id_of_another_type_with_the_same_digits_takes_over_the_row(known: bool, rejects: Rejects) -> None:
    change = by_id(rejects, known)
    text = str(KEPT)
    assert len(change("insert", KEPT)) == 1
    assert change("delete", text) == []
    assert change("delete", KEPT) == [f"delete {text}"]
    assert len(change("insert", 7)) == len(change("insert", "8")) == 1
    assert change("delete", 7.0) == ["delete 7"], "they are one for MongoDB"
    assert change("delete", 8) == []


@images
@pytest.mark.parametrize(
    ("type_", "path", "old", "new"),
    [
        ("number", "_id", datetime(2024, 1, 1), 1704067200000),
        ("number", "_id.t", {"t": 1704067200000}, {"t": datetime(2024, 1, 1)}),
        ("string", "_id.t", {"t": 7}, {"t": "7"}),
        ("string", "_id.t", {"t": "x", "n": 1}, {"n": 1, "t": "x"}),
        ("string", "_id", Binary(b"abc", 0x80), Binary(b"abc", 0x81)),
    ],
)
def test_id_that_gives_the_same_key_takes_over_the_row(
    type_: Any, path: str, old: Any, new: Any, known: bool, rejects: Rejects
) -> None:
    change = by_id(rejects, known, type_, path)
    assert len(change("insert", old)) == len(change("insert", new)) == 1
    assert change("delete", old) == []
    assert len(change("delete", new)) == 1


@pytest.mark.parametrize(
    ("old", "new"), [(1, True), ({"t": 1}, {"t": True}), ({"a": 1, "b": 2}, {"b": 2, "a": 1})], ids=repr
)
def test_ids_equal_only_in_python_are_different_documents(old: Any, new: Any, encoder: TableRows) -> None:
    assert changes(encoder, old, None, "a") == changes(encoder, new, None, "a") == ["insert a"]
    assert changes(encoder, old, "a", None) == []
    assert changes(encoder, new, "a", None) == ["delete a"]


def test_id_replaced_by_an_equal_id_keeps_its_row(encoder: TableRows) -> None:
    assert changes(encoder, 1, None, "a") == ["insert a"]
    assert changes(encoder, Decimal128("1.0"), "a", None) == ["delete a"]


@images
def test_id_replaced_by_an_equal_id_with_other_digits_moves_its_row(known: bool, rejects: Rejects) -> None:
    encoder = TableRows(Table(TableSpec("t", (Column("code", "string"),), ("code",)), BY_ID), rejects)
    old, new = {"_id": Decimal128("1.0")}, {"_id": Decimal128("1.00")}
    event = ChangeEvent({}, "replace", "c", old["_id"], new, old if known else None, known)
    # Where it is known, another document may have that key, and zero-cache fails on an update that moves a row onto it.
    assert shown(encoder.changes(event)) == (
        ["delete 1.00", "update 1.0 1.00"] if known else ["delete 1.0", "update 1.00"]
    )


def test_equal_keys_in_a_snapshot_scan_are_counted(encoder: TableRows, rejects: Rejects) -> None:
    documents = [{"_id": number, "code": code} for number, code in enumerate("abcba")]
    assert [json.loads(key)["code"] for key, _ in encoder.of_documents(documents, None)] == list("abcba")
    assert rejects.counts() == {TAKEN: 2}
    assert [reject.id for reject in rejects.newest()] == ["3", "4"]


def test_rows_of_one_document_with_the_same_key_are_rejected(rejects: Rejects) -> None:
    unwound = TableRows(Table(SPEC, Mapping("c", None, pipeline=[{"$unwind": "$l"}])), rejects)
    rows = [{"code": "a", "n": 1}, {"code": "b", "n": 2}, {"code": "a", "n": 3}]
    event = ChangeEvent({}, "insert", "c", 1, {"_id": 1}, before_known=True, computed_after={"t": rows})
    assert shown(unwound.changes(event)) == ["insert a", "insert b"]
    assert rejects.counts() == {TAKEN: 1}


def test_row_filters_are_given_only_if_all_tables_have_plain_filters() -> None:
    filtered = Mapping("c", PLAIN.fields, {"n": 1})
    other = Mapping("c", PLAIN.fields, {"n": {"$in": [2]}})
    computed = Mapping("c", PLAIN.fields, {"n": {"$gt": 2}})

    def of(*mappings: Mapping) -> dict[str, Any]:
        return row_filters(Catalog(tuple(Table(SPEC, mapping) for mapping in mappings)), [])

    assert of(filtered, other) == {"c": [{"n": {"$in": [1, 2]}}]}
    assert of(filtered, PLAIN) == of(filtered, computed) == {}
