"""Which publication several daemons on one store agree on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from tests.unit.fakes import FakeStore
from zmsd.errors import StoreError
from zmsd.replication.publication_history import PublicationHistory
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.publication import Publication
from zmsd.schema.tables import Column, TableSpec

A, B, C = (Publication(Catalog(()), name) for name in "ABC")


class SharedStore(FakeStore):
    """A store that daemons share; ``faster`` is published by another daemon before the next epoch."""

    def __init__(self, *published: Publication) -> None:
        super().__init__()
        self.faster: Publication | None = None
        for one in published:
            self.add(one)

    def append_epoch(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        if self.faster is not None and self.failing is None:
            self.add(self.faster)
            self.faster = None
        return super().append_epoch(fingerprint, document, after)

    def add(self, one: Publication) -> None:
        """Publish as another daemon."""
        self.publications[one.fingerprint] = one.to_json()
        self.published.append(one.fingerprint)

    def names(self) -> str:
        return "".join(Publication.from_json(self.publications[one]).permissions for one in self.published)


class OwnStore(SharedStore):
    """The store of one daemon, which has no epochs."""

    def append_epoch(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        return True


def begin(store: SharedStore, own: Publication) -> PublicationHistory:
    return PublicationHistory(store, own)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.msg) for record in caplog.records if record.levelno >= logging.WARNING]


def test_new_configuration_is_the_next_epoch(caplog: pytest.LogCaptureFixture) -> None:
    store = SharedStore(A)
    epochs = begin(store, B)
    assert epochs.current == B
    assert store.names() == "A", "not before MongoDB has taken it"
    assert not epochs.settle()
    assert store.names() == "AB"
    assert epochs.current == B
    assert not warnings(caplog)


def test_current_configuration_stays_in_effect(caplog: pytest.LogCaptureFixture) -> None:
    store = SharedStore(A, B)
    epochs = begin(store, B)
    assert not epochs.settle()
    assert epochs.current == B
    assert store.names() == "AB"
    assert not warnings(caplog)


def test_older_configuration_yields_until_sighup(caplog: pytest.LogCaptureFixture) -> None:
    store = SharedStore(A, B)
    epochs = begin(store, A)
    assert epochs.current == B
    assert not epochs.settle()
    assert len(warnings(caplog)) == 1
    assert "SIGHUP publishes it again" in warnings(caplog)[0]
    epochs.reload(A)
    assert epochs.current == A
    assert store.names() == "ABA"


def test_publication_of_another_daemon_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    store = SharedStore(A)
    epochs = begin(store, A)
    store.add(B)
    assert epochs.settle()
    assert epochs.current == B
    assert not epochs.settle()
    assert len(warnings(caplog)) == 1


def test_sighup_with_changed_configuration_publishes_it() -> None:
    store = SharedStore(A)
    epochs = begin(store, A)
    epochs.reload(B)
    assert epochs.current == B
    assert store.names() == "AB"
    epochs.reload(A)
    assert store.names() == "ABA", "also one that there was before"


def test_sighup_with_the_current_publication_adds_no_epoch() -> None:
    store = SharedStore(A)
    epochs = begin(store, A)
    store.add(B)
    epochs.reload(B)
    assert epochs.current == B
    assert store.names() == "AB"


def test_sighup_with_unchanged_configuration_keeps_the_others_publication(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = SharedStore(A)
    epochs = begin(store, A)
    store.add(B)
    epochs.settle()
    epochs.reload(A)
    assert epochs.current == B
    assert store.names() == "AB"
    assert "change it, or restart zmsd and then send SIGHUP" in warnings(caplog)[-1]


def test_other_daemon_faster_at_sighup_takes_effect(caplog: pytest.LogCaptureFixture) -> None:
    store = SharedStore(A)
    epochs = begin(store, A)
    store.faster = C
    epochs.reload(B)
    assert epochs.current == C
    assert store.names() == "AC"
    assert "another daemon was faster" in warnings(caplog)[-1]


def test_other_daemon_faster_with_the_same_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    store = SharedStore(A)
    epochs = begin(store, A)
    store.faster = B
    epochs.reload(B)
    assert epochs.current == B
    assert store.names() == "AB"
    assert not warnings(caplog)


def test_other_daemon_faster_at_start_takes_effect() -> None:
    store = SharedStore(A)
    epochs = begin(store, B)
    store.faster = C
    assert epochs.settle()
    assert epochs.current == C
    assert store.names() == "AC"


def test_store_down_at_start_delays_the_publication() -> None:
    store = SharedStore(A)
    epochs = begin(store, B)
    store.failing = "down"
    assert epochs.settle()
    assert epochs.current == A, "until then what the others publish"
    store.failing = None
    assert epochs.settle()
    assert epochs.current == B
    assert store.names() == "AB"


def test_store_down_at_sighup_refuses_the_reload() -> None:
    store = SharedStore(A)
    epochs = begin(store, A)
    store.failing = "down"
    with pytest.raises(StoreError):
        epochs.reload(B)
    assert epochs.current == A
    store.failing = None
    epochs.reload(B)
    assert epochs.current == B, "the same SIGHUP again is not taken for an unchanged configuration"


@pytest.mark.parametrize("document", [None, "[]", "no JSON", '["{}", 1]'])
def test_unreadable_publication_is_a_store_error(document: str | None) -> None:
    store = SharedStore(A, B)
    if document is None:
        del store.publications[B.fingerprint]
    else:
        store.publications[B.fingerprint] = document
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
    store = SharedStore(Publication(Catalog((Table(spec, mapping),)), "B"))
    store.published.insert(0, A.fingerprint)
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
        store = SharedStore(found)
        store.published.insert(0, A.fingerprint)
        assert begin(store, A).current.fingerprint == found.fingerprint
