from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import data
from zmsd import position
from zmsd.bson_types import Document
from zmsd.mongodb.events import ChangeEvent, change_event
from zmsd.mongodb.sequencer import TransactionPart
from zmsd.replication.change_log import Entry
from zmsd.replication.encoder import Encoder, TableEncoder
from zmsd.replication.entries import EntryBuilder
from zmsd.replication.resync import Resync, SnapshotReader
from zmsd.rows import table_rows
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec
from zmsd.zero.system_tables import ShardTable

AT = 1795407798 << 32 | 20
ID = [("id", "string", "_id"), ("name", "string", "name")]
SHARDS = ["zero_0", "zero_1"]
KEYED = [("name", "string", "name"), ("v", "number", "v")]  # by a field that may change


def table(
    name: str, collection: str, columns: list[tuple[str, str, str]] = ID, condition: dict[str, Any] | None = None
) -> Table:
    """The first column is the primary key."""
    spec = TableSpec(name, tuple(Column(column, kind) for column, kind, _ in columns), (columns[0][0],))
    return Table(spec, Mapping(collection, tuple((column, path) for column, _, path in columns), condition))


def encoder(
    *tables: Table, documents: Sequence[Document] = (), now: int = AT + 100, shards: Sequence[ShardTable] = ()
) -> EntryBuilder:
    def read(collection: str, at: int) -> Iterator[list[Document]]:
        yield from ([document] for document in documents)

    reader = SnapshotReader(lambda: now, read, lambda *_: {}, lambda: SHARDS)
    return builder(Encoder(Catalog(tables), Rejects(), shards), reader)


def builder(encoder: Encoder, reader: SnapshotReader) -> EntryBuilder:
    return EntryBuilder(encoder, Resync(encoder, reader, lambda: None))


def event(kind: str, coll: str, key: Any, before: Document | None = None, after: Document | None = None) -> ChangeEvent:
    """Return the event as it leaves a ContentReader."""
    made: Document = {"_id": {"_data": "82"}, "operationType": kind, "ns": {"coll": coll}, "documentKey": {"_id": key}}
    if after is not None:
        made["fullDocument"] = {"_id": key, **after}
    if before is not None:
        made["fullDocumentBeforeChange"] = {"_id": key, **before}
    return change_event(made)


def whole(*events: ChangeEvent, at: int = AT) -> TransactionPart:
    return TransactionPart(at, list(events), True, True)


def changes(entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
    """Return (tag, table, key, new) for each message."""
    return [
        (change["tag"], change["relation"]["name"], change.get("key"), change.get("new"))
        if "relation" in change
        else (change["tag"], *(relation["name"] for relation in change["relations"]))
        for entry in entries
        for change in data(entry.frames)
    ]


def entries_of(one: EntryBuilder, *parts: TransactionPart) -> list[Entry]:
    return [entry for some in one.entries(parts) for entry in some]


def encoded(one: Encoder, *events: Document) -> list[tuple[Any, ...]]:
    return changes(entries_of(one, whole(*events)))


def test_each_kind_of_write_is_encoded() -> None:
    made = encoded(
        encoder(table("t", "c")),
        event("insert", "c", "1", None, {"name": "a"}),
        event("update", "c", "1", {"name": "a"}, {"name": "b"}),
        event("replace", "c", "1", {"name": "b"}, {}),
        event("delete", "c", "1", {}),
    )
    assert made == [
        ("insert", "t", None, {"id": "1", "name": "a"}),
        ("update", "t", None, {"id": "1", "name": "b"}),
        ("update", "t", None, {"id": "1", "name": None}),
        ("delete", "t", {"id": "1"}, None),
    ]


def test_change_without_row_changes_makes_no_entry() -> None:
    one = encoder(table("t", "c"))
    same = event("update", "c", "1", {"name": "a", "more": 1}, {"name": "a", "more": 2})
    stranger = event("insert", "other", "1", None, {"name": "a"})
    gone = event("gone", "c", "1")
    assert entries_of(one, whole(same), whole(stranger, at=AT + 1), whole(gone, at=AT + 2), whole(at=AT + 3)) == []


def test_change_is_encoded_for_each_table_of_its_collection() -> None:
    users = table("users", "c", condition={"kind": "user"})
    groups = table("groups", "c", condition={"kind": "group"})
    made = encoded(
        encoder(users, groups),
        event("insert", "c", "1", None, {"kind": "user", "name": "a"}),
        event("update", "c", "1", {"kind": "user", "name": "a"}, {"kind": "group", "name": "a"}),
        event("update", "c", "1", {"kind": "group", "name": "a"}, {"kind": "neither"}),
        event("delete", "c", "1", {"kind": "neither"}),
    )
    row = {"id": "1", "name": "a"}
    assert made == [
        ("insert", "users", None, row),
        ("delete", "users", {"id": "1"}, None),
        ("insert", "groups", None, row),
        ("delete", "groups", {"id": "1"}, None),
    ]


def test_transaction_is_one_entry() -> None:
    one = encoder(table("t", "c"))
    wall = datetime(2024, 2, 29, 23, 59, 59, 999000)
    events = [event("insert", "c", str(number), None, {}) for number in range(3)]
    events[-1].wall_time = wall
    (entry,) = entries_of(one, whole(*events))
    assert (entry.watermark, entry.commit_ms, entry.rows, entry.ends_transaction, entry.shard_frames) == (
        position.watermark(AT),
        1709251199999,
        3,
        True,
        None,
    )
    parts = entries_of(one, TransactionPart(AT + 1, events, True, False), TransactionPart(AT + 1, [], False, True))
    found = [(entry.commit_ms, entry.ends_transaction) for entry in parts]
    assert found == [(1709251199999, False), (1709251199999, True)]
    events[-1].wall_time = None
    assert entries_of(one, whole(*events))[0].commit_ms == (AT >> 32) * 1000


def test_transaction_in_parts_is_several_entries() -> None:
    def insert(number: int) -> Document:
        return event("insert", "c", str(number), None, {})

    stranger = event("insert", "other", "1", None, {})
    one = encoder(table("t", "c"))
    parts = [
        TransactionPart(AT, [stranger], True, False),
        TransactionPart(AT, [insert(1)], False, False),
        TransactionPart(AT, [stranger], False, False),
        TransactionPart(AT, [insert(2)], False, False),
        TransactionPart(AT, [stranger], False, True),
        TransactionPart(AT + 1, [stranger], True, False),
        TransactionPart(AT + 1, [stranger], False, True),
        TransactionPart(AT + 2, [insert(3)], True, False),
        TransactionPart(AT + 2, [], False, True),
    ]
    entries = [entry for part in parts for entry in entries_of(one, part)]
    first, second = position.watermark(AT), position.watermark(AT + 2)
    assert [(entry.watermark, entry.rows, entry.ends_transaction) for entry in entries] == [
        (first, 1, False),
        (first, 1, False),
        (first, 0, True),
        (second, 1, False),
        (second, 0, True),
    ], "the end is sent if anything was, and only then"


def test_change_without_pre_image_allows_for_a_missing_row() -> None:
    users = table("users", "c", condition={"kind": "user"})
    made = encoded(
        encoder(users),
        event("update", "c", "1", None, {"kind": "user", "name": "a"}),
        event("update", "c", "2", None, {"kind": "group"}),
        event("replace", "c", "3", None, {"kind": "user"}),
        event("delete", "c", "4"),
    )
    assert made == [
        ("update", "users", None, {"id": "1", "name": "a"}),
        ("delete", "users", {"id": "2"}, None),
        ("update", "users", None, {"id": "3", "name": None}),
        ("delete", "users", {"id": "4"}, None),
    ]


def test_change_without_pre_image_of_a_changeable_key_resyncs() -> None:
    """The resync already contains the changes up to its time."""
    now = [{"_id": 1, "name": "b", "v": 2}, {"_id": 2, "name": "c", "v": 3}]
    one = encoder(table("t", "c", KEYED), documents=now, now=AT + 5)
    lost = event("update", "c", 1, None, {"name": "b", "v": 1})
    known = event("update", "c", 1, {"name": "b", "v": 1}, {"name": "b", "v": 2})
    later = event("insert", "c", 3, None, {"name": "d", "v": 4})
    made = changes(entries_of(one, whole(lost), whole(known, at=AT + 5), whole(later, at=AT + 6)))
    assert made == [
        ("truncate", "t"),
        ("insert", "t", None, {"name": "b", "v": 2}),
        ("insert", "t", None, {"name": "c", "v": 3}),
        ("insert", "t", None, {"name": "d", "v": 4}),
    ]


def test_known_absence_of_a_pre_image_needs_no_resync() -> None:
    """A document that did not exist before differs from a pre-image that is unknown."""
    fresh = event("update", "c", 1, None, {"name": "b", "v": 1})
    fresh.before_known = True
    assert encoded(encoder(table("t", "c", KEYED)), fresh) == [("insert", "t", None, {"name": "b", "v": 1})]


def test_drop_truncates_the_tables() -> None:
    tables = [table("t", "c"), table("u", "c"), table("other", "o")]
    assert encoded(encoder(*tables), event("drop", "c", None)) == [("truncate", "t"), ("truncate", "u")]
    database = ChangeEvent({"_data": "82"}, "dropDatabase")
    assert encoded(encoder(*tables), database) == [], "a drop of each collection stands before it"


@pytest.mark.parametrize(
    ("source", "target", "emptied", "filled"),
    [("c", "z", {"t"}, {}), ("x", "c", {"t"}, {"t"}), ("c", "o", {"t", "u"}, {"u"})],
    ids=["away", "onto", "both"],
)
def test_rename_truncates_old_tables_and_resyncs_new_ones(
    source: str, target: str, emptied: set[str], filled: set[str]
) -> None:
    one = encoder(table("t", "c"), table("u", "o"), documents=[{"_id": "1", "name": "a"}, {"_id": "2"}])
    renamed = event("rename", source, None)
    renamed.target = target
    made = encoded(one, renamed)
    assert {change[1] for change in made if change[0] == "truncate"} == emptied
    rows = [{"id": "1", "name": "a"}, {"id": "2", "name": None}]
    assert made[len(emptied) :] == [("insert", name, None, row) for name in filled for row in rows]


def test_document_without_key_is_rejected_and_counted() -> None:
    rejects = Rejects()
    reader = SnapshotReader(lambda: AT, lambda *_: iter(()), lambda *_: {}, tuple)
    one = builder(Encoder(Catalog((table("t", "c", KEYED),)), rejects), reader)
    made = encoded(
        one, event("insert", "c", 1, None, {"v": 1}), event("update", "c", 1, {"v": 1}, {"v": 1, "name": "a"})
    )
    assert made == [("insert", "t", None, {"name": "a", "v": 1})]
    assert rejects.counts() == {("t", "no primary key"): 1}


# Of documents with a key that may change, and may be taken: no message may be fatal to zero-cache (an update to a key
# that is taken would be), and where a unique index holds the keys apart, it has what MongoDB has.

NAMES = st.sampled_from(["a", "b", "c", None])
WRITES = st.lists(st.tuples(st.integers(1, 3), st.none() | st.tuples(NAMES, st.integers(0, 2))), max_size=8)


def strictly(rows: dict[str, Any], entries: Sequence[Entry]) -> None:
    """Apply entries as zero-cache does."""
    for tag, _, key, new in changes(entries):
        if tag == "delete":
            rows.pop(key["name"], None)
            continue
        if key is not None and key["name"] != new["name"]:
            assert new["name"] not in rows, "UNIQUE constraint failed"
            rows.pop(key["name"], None)
        rows[new["name"]] = new


@given(st.booleans(), st.lists(WRITES, max_size=5))
def test_moving_keys_leave_the_current_rows(
    index: bool, transactions: list[list[tuple[int, tuple[str | None, int] | None]]]
) -> None:
    one = encoder(table("t", "c", KEYED))
    documents: dict[int, Document] = {}
    rows: dict[str, Any] = {}
    for number, writes in enumerate(transactions):
        events = []
        for key, fields in writes:
            after = None if fields is None else {"name": fields[0], "v": fields[1]}
            before = documents.get(key)
            taken = [other["name"] for at, other in documents.items() if at != key and after and other["name"]]
            if (after is None and before is None) or (index and after and after["name"] in taken):
                continue
            kind = "delete" if after is None else "insert" if before is None else "update"
            events.append(event(kind, "c", key, before, after))
            if after is None:
                del documents[key]
            else:
                documents[key] = after
        strictly(rows, entries_of(one, whole(*events, at=AT + number)))
        if index:
            assert rows == {document["name"]: document for document in documents.values() if document["name"]}


def test_documents_may_swap_their_keys_in_a_transaction() -> None:
    one = encoder(table("t", "c", KEYED))
    a, b = {"name": "a", "v": 1}, {"name": "b", "v": 2}
    rows: dict[str, Any] = {}
    strictly(rows, entries_of(one, whole(event("insert", "c", 1, None, a), event("insert", "c", 2, None, b))))
    swap = [event("update", "c", 1, a, {**a, "name": "b"}), event("update", "c", 2, b, {**b, "name": "a"})]
    strictly(rows, entries_of(one, whole(*swap, at=AT + 1)))
    assert rows == {"a": {"name": "a", "v": 2}, "b": {"name": "b", "v": 1}}


# THE TABLES OF ZERO-CACHE


def confirmed(kind: str, shard: str, last: int, before: tuple[str, int] | None = None) -> Document:
    client = {"clientGroupID": "g", "clientID": "c", "userID": None}
    old = None if before is None else {"shard": before[0], "lastMutationID": before[1], **client}
    new = None if kind == "delete" else {"shard": shard, "lastMutationID": last, **client}
    return event(kind, "zc", 1, old, new)


def shard_changes(entry: Entry) -> dict[str, list[tuple[str, Any, Any]]]:
    return {
        shard: [(change["tag"], change.get("key"), change.get("new")) for change in data(frames)]
        for shard, frames in (entry.shard_frames or {}).items()
    }


def test_confirmation_is_in_the_transaction_of_the_data_for_its_shard() -> None:
    one = encoder(table("t", "c"), shards=[ShardTable("clients", "zc", Rejects())])
    events = [event("insert", "c", "1", None, {}), confirmed("insert", "zero_0", 1)]
    (entry,) = entries_of(one, whole(*events, confirmed("update", "zero_0", 2, ("zero_0", 1))))
    assert [change[1] for change in changes([entry])] == ["t"]
    client = {"clientGroupID": "g", "clientID": "c", "userID": None}
    assert shard_changes(entry) == {
        "zero_0": [("insert", None, {**client, "lastMutationID": 1}), ("update", None, {**client, "lastMutationID": 2})]
    }
    assert entry.shard_frames
    relation = data(entry.shard_frames["zero_0"])[0]["relation"]
    assert (relation["name"], relation["keyColumns"]) == ("zero_0.clients", ["clientGroupID", "clientID"])


def test_confirmation_alone_is_a_transaction() -> None:
    one = encoder(table("t", "c"), shards=[ShardTable("clients", "zc", Rejects())])
    (entry,) = entries_of(one, whole(confirmed("delete", "zero_0", 0, ("zero_0", 1))))
    assert (entry.frames, entry.rows) == (b"", 0)
    key = {"clientGroupID": "g", "clientID": "c"}
    assert shard_changes(entry) == {"zero_0": [("delete", key, None)]}


def test_confirmation_may_move_to_another_shard() -> None:
    one = encoder(table("t", "c"), shards=[ShardTable("clients", "zc", Rejects())])
    (entry,) = entries_of(one, whole(confirmed("update", "zero_1", 5, ("zero_0", 4))))
    made = shard_changes(entry)
    assert [change[0] for change in made["zero_0"]] == ["delete"]
    assert [change[0] for change in made["zero_1"]] == ["insert"]


def test_mutation_results_are_json() -> None:
    one = encoder(shards=[ShardTable("mutations", "zm", Rejects())])
    result = {"error": "app", "message": "no", "details": [1]}
    document = {"shard": "zero_0", "clientGroupID": "g", "clientID": "c", "mutationID": 7, "result": result}
    (entry,) = entries_of(one, whole(event("insert", "zm", 1, None, document)))
    ((_, _, new),) = shard_changes(entry)["zero_0"]
    assert json.loads(new["result"]) == result
    assert (new["mutationID"], new["mutation"]) == (7, None)


@pytest.mark.parametrize("kind", ["drop", "rename"])
def test_dropped_shard_collection_is_truncated(kind: str) -> None:
    one = encoder(shards=[ShardTable("clients", "zc", Rejects())])
    gone = ChangeEvent({"_data": "82"}, kind, "zc")
    gone.target = "other" if kind == "rename" else None
    (entry,) = entries_of(one, whole(gone))
    for shard in SHARDS:
        assert entry.shard_frames
        (change,) = data(entry.shard_frames[shard])
        assert (change["tag"], change["relations"][0]["name"]) == ("truncate", f"{shard}.clients")


def test_collection_renamed_to_a_shard_collection_is_resynced() -> None:
    document = {"_id": 1, "shard": "zero_1", "clientGroupID": "g", "clientID": "c", "lastMutationID": 3}
    one = encoder(shards=[ShardTable("clients", "zc", Rejects())], documents=[document])
    renamed = ChangeEvent({"_data": "82"}, "rename", "b", target="zc")
    (entry,) = entries_of(one, whole(renamed))
    tags = {shard: [change["tag"] for change in data(frames)] for shard, frames in (entry.shard_frames or {}).items()}
    assert tags == {"zero_0": ["truncate"], "zero_1": ["truncate", "insert"]}


def test_resync_of_many_rows_comes_in_parts() -> None:
    """A collection that gets a watched name may be of any size."""
    one = encoder(table("t", "c"), documents=[{"_id": str(number)} for number in range(5000)])
    renamed = ChangeEvent({"_data": "82"}, "rename", "b", target="c")
    parts = list(one.entries([whole(renamed)]))
    assert [entry.ends_transaction for part in parts for entry in part] == [False, False, True]
    assert sum(entry.rows for part in parts for entry in part) == 5001
    assert len({entry.watermark for part in parts for entry in part}) == 1


def test_swap_of_keys_may_span_two_batches_of_its_transaction() -> None:
    one = encoder(table("t", "c", KEYED))
    first = event("update", "c", 1, {"name": "a", "v": 1}, {"name": "b", "v": 1})
    second = event("update", "c", 2, {"name": "b", "v": 2}, {"name": "a", "v": 2})
    rows: dict[str, Any] = {"a": {"name": "a", "v": 1}, "b": {"name": "b", "v": 2}}
    strictly(rows, entries_of(one, TransactionPart(AT, [first], True, False)))
    strictly(rows, entries_of(one, TransactionPart(AT, [second], False, True)))
    assert rows == {"a": {"name": "a", "v": 2}, "b": {"name": "b", "v": 1}}


def test_key_owners_are_trimmed_when_a_transaction_begins_within_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys are dropped if they are too many. In a backlog each batch may begin within a transaction."""
    monkeypatch.setattr(table_rows, "_MAX_REMEMBERED_KEYS", 0)
    one = encoder(table("t", "c", KEYED))
    a, b = {"name": "a", "v": 1}, {"name": "b", "v": 1}
    entries_of(one, TransactionPart(AT, [event("insert", "c", 1, None, a)], True, False))
    later = event("update", "c", 2, a, b)  # meanwhile document 2 has the key "a", which the encoder did not see
    made = changes(entries_of(one, TransactionPart(AT, [], False, True), whole(later, at=AT + 1)))
    assert ("update", "t", {"name": "a"}, {"name": "b", "v": 1}) in made


def test_document_moves_between_tables_of_its_collection() -> None:
    tables = [table(name, "c", [("id", "string", "_id")], {"kind": name}) for name in ("b", "a")]
    every = table("every", "c", [("id", "string", "_id"), ("kind", "string", "kind")])
    made = encoded(
        encoder(*tables, every),
        event("insert", "c", "1", None, {"kind": "a"}),
        event("update", "c", "1", {"kind": "a"}, {"kind": "b"}),
        event("update", "c", "1", {"kind": "b"}, {"kind": ["a", "b"]}),
        event("update", "c", "1", {"kind": ["a", "b"]}, {"kind": "x"}),
        event("delete", "c", "1", {"kind": "x"}),
    )
    assert [(tag, name) for tag, name, *_ in made] == [
        *[("insert", "a"), ("insert", "every")],
        *[("insert", "b"), ("delete", "a"), ("update", "every")],
        *[("insert", "a"), ("update", "every")],
        *[("delete", "b"), ("delete", "a"), ("update", "every")],
        ("delete", "every"),
    ]


def test_copy_asks_the_tables_of_each_document() -> None:
    tables = [table(name, "c", [("id", "string", "_id")], {"kind": name}) for name in ("b", "a", "none")]
    one = Encoder(Catalog((*tables, table("every", "c"))), Rejects())
    documents = [{"_id": f"{number}", "kind": kind} for number, kind in enumerate(["a", "b", ["b", "a"], None, 5])]

    def ids(chosen: Sequence[TableEncoder]) -> list[tuple[str, str]]:
        frames = one.inserts(documents, {}, chosen)
        return [(change["relation"]["name"], change["new"]["id"]) for change in data(b"".join(frames))]

    every = [("every", f"{number}") for number in range(5)]
    assert ids(one.tables["c"]) == [("b", "1"), ("b", "2"), ("a", "0"), ("a", "2"), *every]
    assert ids(one.tables["c"][1:3]) == [("a", "0"), ("a", "2")]
    assert ids([]) == []
    assert one.row_counts == {"a": 4, "b": 2, "every": 5, "none": 0}
