"""What is checked before a feed begins: images, mappings, the identity of the database, and its clock."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.fakes import START, FakeLineage, FakeSource, FakeStore, active, table
from zmsd.errors import EvaluationError, ResumeLost, SourceRefused, SourceUnavailable, StoreError
from zmsd.mongodb.deployment import Deployment
from zmsd.position import watermark as mark
from zmsd.replication.lineage import Lineage
from zmsd.replication.preparation import issues_of_mappings, prepare, remember_identity
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import CopyRecord, Identity, Replica, ReplicaRecord

KEYED, PLAIN = table("keyed", "c", "name"), table("plain", "c")
COMPUTED = Table(PLAIN.spec, Mapping("c", None, pipeline=[{"$set": {"id": "$_id"}}]))


class Prepared:
    """A database with the collection ``c``, and what is prepared for a publication."""

    def __init__(self, *tables: Table) -> None:
        self.source, self.store = FakeSource(), FakeStore()
        self.source.existing = {"c": {"info": {"uuid": b"\1\2"}}}
        self.source.images = frozenset(("c",))
        self.lineage: Lineage = FakeLineage()
        self.active = active(Publication(Catalog(tables)), self.source)

    def prepare(self, images: str = "auto") -> int:
        return prepare(self.source, self.store, self.lineage, self.active, images)

    def known(self, **identity: Any) -> None:
        self.store.identity = Identity("set", {"c": "0102"}, "chat")._replace(**identity)


def test_first_preparation_remembers_the_database() -> None:
    prepared = Prepared(PLAIN)
    assert prepared.prepare() == START
    assert prepared.store.identity == Identity("set", {"c": "0102"}, "chat")
    assert prepared.lineage.distrust_count == 1, "the proofs were of a connection that may be another's"
    prepared.prepare()
    assert prepared.store.writes == ["save_identity"], "the same identity is not written again"


def test_table_that_needs_images_is_refused_without_them() -> None:
    prepared = Prepared(PLAIN, KEYED)
    prepared.source.images = frozenset()
    prepared.source.may_switch_images_on = False
    with pytest.raises(SourceUnavailable, match="table keyed: .* needs pre-images of c: they are not switched on yet"):
        prepared.prepare()
    prepared.source.missing_images = {"c": SourceRefused("not authorized")}
    with pytest.raises(SourceRefused, match="not authorized"):
        prepared.prepare()
    with pytest.raises(SourceRefused, match=r"feed\.images is off"):
        prepared.prepare("off")
    prepared.source.deployment = Deployment(version=(5, 0, 4), set_name="rs0")
    with pytest.raises(SourceRefused, match="upgrade to 6.0 or later"):
        prepared.prepare()
    assert prepared.store.identity is None, "nothing is begun"


def test_images_of_a_collection_that_was_just_created_are_switched_on() -> None:
    prepared = Prepared(KEYED)
    prepared.source.images = frozenset()
    assert prepared.prepare() == START
    assert prepared.source.images == {"c"}


def test_missing_collection_that_will_have_no_images_is_refused() -> None:
    """It would be refused at the first start after its creation."""
    prepared = Prepared(KEYED)
    prepared.source.existing, prepared.source.images = {}, frozenset()
    with pytest.raises(SourceRefused, match=r"needs pre-images of c: feed\.images is off"):
        prepared.prepare("off")
    prepared.source.deployment = Deployment(version=(5, 0, 4), set_name="rs0")
    with pytest.raises(SourceRefused, match="upgrade to 6.0 or later"):
        prepared.prepare()


@pytest.mark.parametrize("existing", [{}, {"c": {"type": "view"}}])
def test_name_that_is_not_a_collection_needs_no_images(existing: dict[str, Any]) -> None:
    prepared = Prepared(KEYED)
    prepared.source.existing, prepared.source.images = existing, frozenset()
    assert prepared.prepare() == START


def test_mapping_that_mongod_refuses_is_refused_with_its_reason() -> None:
    prepared = Prepared(COMPUTED)
    prepared.source.answers = [EvaluationError("unknown operator")] * 9
    with pytest.raises(SourceRefused, match="mongod refuses it: unknown operator"):
        prepared.prepare()


def test_computed_mapping_needs_the_stage_documents() -> None:
    source = FakeSource()
    source.deployment = Deployment(version=(5, 0, 4), set_name="rs0")
    (issue,) = issues_of_mappings(source, Catalog((PLAIN, COMPUTED)))
    assert "needs MongoDB 5.1 ($documents), and this is 5.0.4" in issue.reason
    assert not source.asked


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({"database": "other"}, "that was other"),
        ({"set_id": "another"}, "another replica set"),
        ({"set_id": None, "collections": {"c": "0909"}}, "all collections are new"),
    ],
)
def test_another_database_invalidates_all_watermarks(known: dict[str, Any], reason: str) -> None:
    prepared = Prepared(PLAIN)
    prepared.lineage = Lineage(prepared.source, prepared.store)
    prepared.known(**known)
    version = mark(START + 5)
    prepared.store.records[Replica("zero", 0, version)] = ReplicaRecord(None, (CopyRecord(version, version, "f"),))
    with pytest.raises(ResumeLost, match=f"is not the one that was read before \\({reason}\\)"):
        prepared.prepare()
    assert prepared.store.writes == ["invalidate", "save_identity"], "so a crash in between is noticed"
    assert prepared.store.invalid is not None
    assert prepared.store.invalid[0] > version
    prepared.source.time = START + 6
    assert prepared.prepare() == START + 6, "and then it is the database"


@pytest.mark.parametrize(
    "known",
    [
        {"database": None},
        {"set_id": None},
        {"collections": {"gone": "0909"}},
        {"set_id": None, "collections": {"renamed": "0102"}},
        {"set_id": None, "collections": {}},
    ],
)
def test_same_database_with_other_collections_is_accepted(known: dict[str, Any]) -> None:
    prepared = Prepared(PLAIN)
    prepared.known(**known)
    assert prepared.prepare() == START
    assert prepared.store.identity == Identity("set", {"c": "0102"}, "chat")
    assert prepared.store.invalid is None


def test_clock_behind_the_former_database_is_waited_for() -> None:
    """Its watermarks must rise above those that clients were sent."""
    prepared = Prepared(PLAIN)
    prepared.known()
    prepared.store.invalid = mark(START + (9 << 32)), "another database"
    with pytest.raises(SourceUnavailable, match="cluster time is 10 s behind .* check the MongoDB host's clock"):
        prepared.prepare()
    prepared.source.time = START + (9 << 32)
    assert prepared.prepare() == START + (9 << 32)


def test_store_that_fails_prevents_the_feed() -> None:
    prepared = Prepared(PLAIN)
    prepared.store.failing = "disk full"
    with pytest.raises(StoreError):
        prepared.prepare()


def test_identity_is_written_when_collections_changed() -> None:
    source, store = FakeSource(), FakeStore()
    source.existing = {"c": {"info": {"uuid": b"\1"}}, "view": {"info": {}}}
    for _ in range(2):
        remember_identity(source, store)
    assert store.identity == Identity("set", {"c": "01"}, "chat")
    source.existing["d"] = {"info": {"uuid": b"\2"}}
    remember_identity(source, store)
    assert store.identity == Identity("set", {"c": "01", "d": "02"}, "chat")
    assert store.writes == ["save_identity"] * 2
