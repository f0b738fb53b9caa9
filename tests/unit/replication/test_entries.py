"""Log entries of transactions: their watermarks, times and parts. test_encoder.py has the frames."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.support.frames import data
from tests.unit.fakes import START, table
from zmsd.bson_types import Document
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.sequencer import TransactionPart
from zmsd.position import watermark as mark
from zmsd.replication import entries as entries_module
from zmsd.replication.change_log import Entry
from zmsd.replication.encoder import Encoder
from zmsd.replication.entries import EntryBuilder, commit_ms
from zmsd.replication.resync import Resync, SnapshotReader
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog
from zmsd.zero.system_tables import ShardTable

NOON = datetime(2026, 11, 28, 12, 0, 0, 250_000)
NOON_MS = 1_795_867_200_250


def builder(documents: int = 0) -> EntryBuilder:
    """Return a builder for table ``t`` of collection ``c``, which has so many documents."""
    encoder = Encoder(Catalog((table("t", "c", v="number"),)), Rejects(), [ShardTable("clients", "zc", Rejects())])

    def read(collection: str, at: int) -> Iterator[list[Document]]:
        yield from ([{"_id": str(number)}] for number in range(documents))

    reader = SnapshotReader(lambda: START + 99, read, lambda *_: {}, lambda: ["zero_0"])
    return EntryBuilder(encoder, Resync(encoder, reader))


def insert(key: str, collection: str = "c", wall: datetime | None = NOON, **more: object) -> ChangeEvent:
    document = {"_id": key, **more}
    return ChangeEvent({}, "insert", collection, key, document, None, True, wall_time=wall)


def part(at: int, *events: ChangeEvent, first: bool = True, last: bool = True) -> TransactionPart:
    return TransactionPart(START + at, list(events), first, last)


def entries(*parts: TransactionPart, own: EntryBuilder | None = None) -> list[Entry]:
    return [entry for made in (own or builder()).entries(parts) for entry in made]


def test_transaction_of_one_event_is_one_entry() -> None:
    (entry,) = entries(part(1, insert("a")))
    assert (entry.watermark, entry.commit_ms, entry.rows, entry.ends_transaction) == (mark(START + 1), NOON_MS, 1, True)
    assert data(entry.frames)[0]["new"] == {"id": "a", "v": None}


def test_transaction_that_changes_no_row_has_no_entry() -> None:
    assert entries(part(1, insert("a", "other"))) == []
    assert entries(part(1)) == []


def test_transaction_in_parts_ends_with_its_last_part() -> None:
    """The last part may have no event that makes a row, and still ends the transaction."""
    own = builder()
    found = entries(part(1, insert("a"), last=False), own=own)
    found += entries(part(1, insert("b"), first=False, last=False), own=own)
    found += entries(part(1, insert("x", "other"), first=False), own=own)
    assert [(entry.rows, entry.ends_transaction) for entry in found] == [(1, False), (1, False), (0, True)]
    assert {entry.watermark for entry in found} == {mark(START + 1)}


def test_last_part_without_events_keeps_the_commit_time() -> None:
    own = builder()
    found = entries(part(1, insert("a"), last=False), part(1, first=False), own=own)
    assert [entry.commit_ms for entry in found] == [NOON_MS, NOON_MS]


def test_large_transaction_is_cut_into_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries_module, "_MAX_ENTRY_MESSAGES", 3)
    batches = list(builder().entries([part(1, *(insert(str(n)) for n in range(7))), part(2, insert("x"))]))
    shapes = [[(entry.rows, entry.ends_transaction) for entry in batch] for batch in batches]
    assert shapes == [[(3, False)], [(3, False)], [(1, True), (1, True)]], "each is passed on before the next is made"


def test_rows_of_a_shard_are_apart_from_those_of_all_clients() -> None:
    client = insert("1", "zc", shard="zero_0", clientGroupID="g", clientID="c", lastMutationID=1)
    (entry,) = entries(part(1, insert("a"), client))
    assert entry.rows == 1
    assert entry.shard_frames is not None
    assert list(entry.shard_frames) == ["zero_0"]
    assert data(entry.shard_frames["zero_0"])[0]["relation"]["name"] == "zero_0.clients"


def test_reread_table_carries_the_position_of_its_rows() -> None:
    drop = ChangeEvent({}, "drop", "c", wall_time=NOON)
    (entry,) = entries(part(1, drop))
    assert entry.resynced_to is None
    assert data(entry.frames)[0]["tag"] == "truncate"


def test_commit_time_of_an_old_server_is_the_cluster_time() -> None:
    assert commit_ms(part(1, insert("a", wall=None))) == (START >> 32) * 1000
    assert commit_ms(part(1)) == (START >> 32) * 1000
    assert commit_ms(part(1, insert("a", wall=None), insert("b"))) == NOON_MS, "that of the last event"
