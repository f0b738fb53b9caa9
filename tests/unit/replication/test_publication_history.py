"""Which publication several daemons on one store agree on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import pytest

from zmsd.errors import StoreError
from zmsd.replication.publication_history import PublicationHistory
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.publication import Publication
from zmsd.schema.tables import Column, TableSpec
from zmsd.watermarks.base import WatermarkStore

A, B, C = (Publication(Catalog(()), name) for name in "ABC")


class FakeStore:
    """A store that daemons share."""

    def __init__(self, *published: Publication) -> None:
        self.documents = {one.fingerprint: one.to_json() for one in published}
        self.sequence = [one.fingerprint for one in published]
        self.faster: Publication | None = None
        self.down = False

    def epochs(self) -> Sequence[str]:
        return tuple(self.sequence)

    def load_publication(self, fingerprint: str) -> str | None:
        return self.documents.get(fingerprint)

    def append_epoch(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        if self.down:
            raise StoreError("down")
        if self.faster is not None:
            self.add(self.faster)
            self.faster = None
        if list(after) != self.sequence:
            return False
        self.documents[fingerprint] = document
        self.sequence.append(fingerprint)
        return True

    def add(self, one: Publication) -> None:
        self.documents[one.fingerprint] = one.to_json()
        self.sequence.append(one.fingerprint)

    def names(self) -> str:
        return "".join(Publication.from_json(self.documents[one]).permissions for one in self.sequence)


class OwnStore(FakeStore):
    def append_epoch(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        return True


def begin(store: FakeStore, own: Publication) -> PublicationHistory:
    return PublicationHistory(cast(WatermarkStore, store), own)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.msg) for record in caplog.records if record.levelno >= logging.WARNING]


def test_new_configuration_is_the_next_epoch(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore(A)
    epochs = begin(store, B)
    assert epochs.current == B
    assert store.names() == "A", "not before MongoDB has taken it"
    assert not epochs.settle()
    assert store.names() == "AB"
    assert epochs.current == B
    assert not warnings(caplog)


def test_current_configuration_stays_in_effect(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore(A, B)
    epochs = begin(store, B)
    assert not epochs.settle()
    assert epochs.current == B
    assert store.names() == "AB"
    assert not warnings(caplog)


def test_older_configuration_yields_until_sighup(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore(A, B)
    epochs = begin(store, A)
    assert epochs.current == B
    assert not epochs.settle()
    assert len(warnings(caplog)) == 1
    assert "SIGHUP publishes it again" in warnings(caplog)[0]
    epochs.reload(A)
    assert epochs.current == A
    assert store.names() == "ABA"


def test_publication_of_another_daemon_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore(A)
    epochs = begin(store, A)
    store.add(B)
    assert epochs.settle()
    assert epochs.current == B
    assert not epochs.settle()
    assert len(warnings(caplog)) == 1


def test_sighup_with_changed_configuration_publishes_it() -> None:
    store = FakeStore(A)
    epochs = begin(store, A)
    epochs.reload(B)
    assert epochs.current == B
    assert store.names() == "AB"
    epochs.reload(A)
    assert store.names() == "ABA", "also one that there was before"


def test_sighup_with_the_current_publication_adds_no_epoch() -> None:
    store = FakeStore(A)
    epochs = begin(store, A)
    store.add(B)
    epochs.reload(B)
    assert epochs.current == B
    assert store.names() == "AB"


def test_sighup_with_unchanged_configuration_keeps_the_others_publication(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FakeStore(A)
    epochs = begin(store, A)
    store.add(B)
    epochs.settle()
    epochs.reload(A)
    assert epochs.current == B
    assert store.names() == "AB"
    assert "change it, or restart zmsd and then send SIGHUP" in warnings(caplog)[-1]


def test_other_daemon_faster_at_sighup_takes_effect(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore(A)
    epochs = begin(store, A)
    store.faster = C
    epochs.reload(B)
    assert epochs.current == C
    assert store.names() == "AC"
    assert "another daemon was faster" in warnings(caplog)[-1]


def test_other_daemon_faster_with_the_same_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore(A)
    epochs = begin(store, A)
    store.faster = B
    epochs.reload(B)
    assert epochs.current == B
    assert store.names() == "AB"
    assert not warnings(caplog)


def test_other_daemon_faster_at_start_takes_effect() -> None:
    store = FakeStore(A)
    epochs = begin(store, B)
    store.faster = C
    assert epochs.settle()
    assert epochs.current == C
    assert store.names() == "AC"


def test_store_down_at_start_delays_the_publication() -> None:
    store = FakeStore(A)
    epochs = begin(store, B)
    store.down = True
    assert epochs.settle()
    assert epochs.current == A, "until then what the others publish"
    store.down = False
    assert epochs.settle()
    assert epochs.current == B
    assert store.names() == "AB"


def test_store_down_at_sighup_refuses_the_reload() -> None:
    store = FakeStore(A)
    epochs = begin(store, A)
    store.down = True
    with pytest.raises(StoreError):
        epochs.reload(B)
    assert epochs.current == A
    store.down = False
    epochs.reload(B)
    assert epochs.current == B, "the same SIGHUP again is not taken for an unchanged configuration"


@pytest.mark.parametrize("document", [None, "[]", "no JSON", '["{}", 1]'])
def test_unreadable_publication_is_a_store_error(document: str | None) -> None:
    store = FakeStore(A, B)
    if document is None:
        del store.documents[B.fingerprint]
    else:
        store.documents[B.fingerprint] = document
    with pytest.raises(StoreError, match="upgrade this zmsd"):
        begin(store, A)


def test_configuration_decides_with_an_own_store(caplog: pytest.LogCaptureFixture) -> None:
    store = OwnStore()
    epochs = begin(store, A)
    assert epochs.current == A
    assert not epochs.settle()
    epochs.reload(B)
    assert epochs.current == B
    assert not epochs.settle()
    epochs.reload(A)
    assert epochs.current == A
    assert not warnings(caplog)


def test_published_mapping_is_checked_like_a_file() -> None:
    """A user who may write to the bucket must not run code in mongod."""
    spec = TableSpec("t", (Column("id", "string"), Column("x", "string", True)), ("id",))
    mapping = Mapping("c", None, None, {"id": "$_id", "x": {"$function": {"body": "x"}}})
    store = FakeStore(Publication(Catalog((Table(spec, mapping),)), "B"))
    store.sequence.insert(0, A.fingerprint)
    with pytest.raises(StoreError, match="is refused here: .*projection"):
        begin(store, A)


def test_published_mapping_that_a_file_may_have_is_followed() -> None:
    spec = TableSpec("t", (Column("id", "string"), Column("x", "string", True)), ("id",))
    for mapping in (
        Mapping("c", (("id", "_id"), ("x", "a.b")), {"kind": "user", "n": {"$gt": 5}}),
        Mapping("c", None, None, {"id": "$_id", "x": {"$toUpper": "$a"}}),
        Mapping("c", None, {"a": None}, pipeline=[{"$project": {"id": "$_id", "x": "$a"}}]),
    ):
        found = Publication(Catalog((Table(spec, mapping),)), "B")
        store = FakeStore(found)
        store.sequence.insert(0, A.fingerprint)
        assert begin(store, A).current.fingerprint == found.fingerprint
