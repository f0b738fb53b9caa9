"""Typed fakes of zmsd's own interfaces, for the unit tests.

MongoDB, NATS and zero-cache have no fakes here: integration tests use the real servers. ``hub`` makes a real Hub of
fakes; what a test does not set behaves as in a daemon that has just started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bson.codec_options import CodecOptions
from pymongo.read_preferences import _ServerMode

from tests.support.frames import messages
from zmsd.bson_types import Document
from zmsd.errors import PeerGone, ResumeLost, SourceError, StoreError
from zmsd.gateway.session import Session
from zmsd.gateway.subscription import Subscription
from zmsd.gateway.websocket import Peer
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.deployment import Deployment
from zmsd.mongodb.feed import Feed
from zmsd.mongodb.members import Pin
from zmsd.mongodb.sequencer import TransactionPart
from zmsd.mongodb.source import Source
from zmsd.position import watermark
from zmsd.prometheus import Counter, Registry
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.change_log import ChangeLog, Entry
from zmsd.replication.copy_transaction import CopyTransaction
from zmsd.replication.counters import Counters
from zmsd.replication.dispatcher import Dispatcher
from zmsd.replication.entries import EntryBuilder
from zmsd.replication.hub import Hub, Readiness
from zmsd.replication.lineage import Lineage
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.publication import Publication
from zmsd.schema.tables import Column, TableSpec
from zmsd.watermarks.base import (
    Contents,
    CopyRecord,
    Identity,
    Replica,
    ReplicaRecord,
    WatermarkStore,
)

START = 1795407798 << 32
"""A position at which tests begin."""


class FakeClock:
    """Seconds that pass only when a test sets ``now``."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeSource(Source):
    """A source with the answers that a test sets; each method that would ask MongoDB raises ``trouble`` if it is set.

    ``asked`` has every command and pipeline.
    """

    def __init__(self, *, time: int = START, stores_images: bool = True) -> None:
        self.time = time
        """What ``operation_time`` returns."""
        self.first: int | None = None
        """What ``oplog_start`` returns."""
        self.trouble: SourceError | None = None
        self.existing: dict[str, Document] = {}
        """Collection -> its description, as ``collections`` returns it."""
        self.answers: list[Any] = []
        """The answers of ``command``, ``aggregate`` and ``run``, in order; exceptions are raised."""
        self.asked: list[Any] = []
        self.may_switch_images_on = True
        self.set_id: str | None = "set"
        self.reconnects = 0
        self.reconnect_trouble: SourceError | None = None
        """What ``reconnect`` raises."""
        self.images = frozenset()
        self.missing_images = {}
        self.not_collections = {}
        self.deployment = Deployment(version=(6, 0, 5), set_name="rs0", stores_images=stores_images)
        self.failures = Counter()
        self.recoveries = Counter()
        self.replica_set_id = None
        self.db = cast(Any, SimpleNamespace(name="chat"))
        self._images_setting = "auto"

    def close(self) -> None:
        pass

    def reconnect(self) -> None:
        self.reconnects += 1
        if self.reconnect_trouble is not None:
            raise self.reconnect_trouble

    def look(self) -> Deployment:
        self._answer()
        return self.deployment

    def pin(self) -> Pin:
        return Pin()

    def may_group(self, *, imaged: bool) -> bool:
        return self.deployment.may_group(0, imaged=imaged)

    def command(self, command: Document) -> Document:
        return cast(Document, self._answer(command))

    def find(self, command: Document, preference: _ServerMode, codec: CodecOptions[Any] = CODEC) -> list[Any]:
        return cast(list[Document], self._answer(command))

    def aggregate(self, collection: str, stages: list[Document]) -> list[Document]:
        return cast(list[Document], self._answer((collection, stages)))

    def sample(self, collection: str, size: int, stages: list[Document]) -> list[Document]:
        return self.aggregate(collection, [{"$sample": {"size": size}}, *stages])

    def run(self, pipeline: list[Document], seconds: float = 0.0) -> list[Document]:
        return cast(list[Document], self._answer(pipeline))

    def operation_time(self) -> int:
        self._answer()
        return self.time

    def oplog_start(self) -> int | None:
        return self.first

    def prepare(self, collections: Iterable[str], images: str) -> None:
        self._images_setting = images
        self.look().check()
        self.look_at(collections)

    def look_at(self, names: Iterable[str]) -> frozenset[str]:
        self._answer()
        kinds = {name: self.existing[name].get("type", "collection") for name in names if name in self.existing}
        self.not_collections = {name: kind for name, kind in kinds.items() if kind != "collection"}
        return frozenset(kinds.keys() - self.not_collections.keys())

    def collections(self) -> dict[str, Document]:
        self._answer()
        return self.existing

    def fetch_replica_set_id(self) -> str | None:
        return self.set_id

    def switch_images_on(self, name: str) -> bool:
        if self.may_switch_images_on and name in self.existing:
            self.images |= {name}
        return name in self.images

    def ensure_images(self, name: str) -> None:
        if self.wants_images:
            self.switch_images_on(name)

    def forget_images(self, *names: str | None) -> None:
        self.images -= set(names)

    def has_images_at(self, name: str, at: int) -> bool:
        return name in self.images

    def _answer(self, asked: Any = None) -> Any:
        if asked is not None:
            self.asked.append(asked)
        if self.trouble is not None:
            raise self.trouble
        if asked is None:
            return None
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeStore(WatermarkStore):
    """A store in memory. While ``failing`` is set, writes raise StoreError; ``writes`` has the names of all of them."""

    def __init__(self) -> None:
        self.records: dict[Replica, ReplicaRecord] = {}
        self.checkpoints: dict[str, str] = {}
        self.publications: dict[str, str] = {}
        self.published: list[str] = []
        self.identity: Identity | None = None
        self.invalid: tuple[str, str] | None = None
        self.writes: list[str] = []
        self.failing: str | None = None
        self.on_write: Callable[[str], None] = lambda name: None
        """Called with the name of each write; may raise StoreError."""

    @property
    def trouble(self) -> str | None:
        return self.failing

    def replica(self, replica: Replica) -> ReplicaRecord | None:
        return self.records.get(replica)

    def replicas(self) -> dict[Replica, ReplicaRecord]:
        return dict(self.records)

    def record_copy(self, replica: Replica, copy: CopyRecord) -> None:
        self._write("record_copy")
        known = self.records.get(replica, ReplicaRecord(None, ()))
        self.records[replica] = known.with_copy(copy)

    def record_ack(self, replica: Replica, watermark: str) -> None:
        self._write("record_ack")
        if replica in self.records:
            self.records[replica] = self.records[replica]._replace(acked=watermark)

    def record_checkpoint(self, watermark: str, token: str) -> None:
        self._write("record_checkpoint")
        self.checkpoints[watermark] = token

    def latest_checkpoint(self, watermark: str) -> tuple[str, str] | None:
        return max((pair for pair in self.checkpoints.items() if pair[0] <= watermark), default=None)

    def load_identity(self) -> Identity | None:
        return self.identity

    def save_identity(self, identity: Identity) -> None:
        self._write("save_identity")
        self.identity = identity

    def invalidated_below(self) -> tuple[str, str] | None:
        return self.invalid

    def invalidate(self, watermark: str, reason: str) -> None:
        self._write("invalidate")
        self.invalid = watermark, reason

    def load_publication(self, fingerprint: str) -> str | None:
        return self.publications.get(fingerprint)

    def save_publication(self, fingerprint: str, document: str) -> None:
        self._write("save_publication")
        self.publications.setdefault(fingerprint, document)

    def epochs(self) -> Sequence[str]:
        return tuple(self.published)

    def append_epoch(self, fingerprint: str, document: str, after: Sequence[str]) -> bool:
        self._write("append_epoch")
        if list(after) != self.published:
            return False
        self.publications[fingerprint] = document
        self.published.append(fingerprint)
        return True

    def on_epoch_change(self, notify: Callable[[], None]) -> None:
        pass

    def contents(self) -> Contents:
        return Contents(
            self.records, self.checkpoints, self.publications, self.epochs(), self.identity, self.invalidated_below()
        )

    def forget_replica(self, replica: Replica) -> None:
        self._write("forget_replica")
        del self.records[replica]

    def forget_publication(self, fingerprint: str) -> None:
        self._write("forget_publication")
        del self.publications[fingerprint]

    def probe(self) -> None:
        self._write("probe")

    def close(self) -> None:
        pass

    def _write(self, name: str) -> None:
        self.writes.append(name)
        self.on_write(name)
        if self.failing is not None:
            raise StoreError(self.failing)


class FakeLineage(Lineage):
    """A lineage to which every watermark belongs, but for those for which ``refuse`` returns a reason."""

    def __init__(self) -> None:
        super().__init__(FakeSource(), FakeStore())
        self.checks: list[tuple[str, str]] = []
        """The arguments of each check."""
        self.refuse: Callable[[str, str], str | None] = lambda watermark, since: None
        self.search: tuple[str, float] | None = None

    @property
    def searches(self) -> tuple[str, float] | None:
        return self.search

    def check_watermark(self, watermark: str, since: str) -> None:
        self.checks.append((watermark, since))
        if (reason := self.refuse(watermark, since)) is not None:
            raise ResumeLost(reason)

    def check_replica(self, watermark: str, synced_at: str) -> None:
        self.check_watermark(watermark, synced_at)

    def check_newest(self, watermark: str = "") -> None:
        pass


class FakeBuilder(EntryBuilder):
    """Makes an entry of one row of each part for which ``text`` returns a text."""

    def __init__(self, text: Callable[[TransactionPart], str | None]) -> None:
        self._text = text

    def entries(self, parts: Sequence[TransactionPart]) -> Iterator[list[Entry]]:
        for part in parts:
            if (text := self._text(part)) is not None:
                yield [Entry(watermark(part.position), 0, 1, text.encode(), part.last)]


class FakeActive(ActivePublication):
    """A publication without tables whose transactions FakeBuilder encodes."""

    def __init__(self, text: Callable[[TransactionPart], str | None], name: str = "") -> None:
        """:param name: two publications with different names are different"""
        super().__init__(Publication(Catalog(()), name), FakeSource(), Rejects(), Event())
        self._text = text

    def entry_builder(self, *_: object, **__: object) -> EntryBuilder:
        return FakeBuilder(self._text)


class FakeDispatcher(Dispatcher):
    """A dispatcher that runs no feed; its state is what a test sets."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, lambda published: START, _no_feed, 60.0, lambda thread: None)
        self.at: int | None = START
        """What ``position`` returns."""
        self.waits: str | None = None
        """What ``stalled`` returns."""
        self.age = 0.0
        """What ``progress_age`` returns."""
        self.waiting: dict[str, tuple[int, int]] = {}
        """What ``queues`` returns."""

    @property
    def position(self) -> int | None:
        return self.at

    @property
    def stalled(self) -> str | None:
        return self.waits

    @property
    def progress_age(self) -> float:
        return self.age

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        return self.waiting


class FakeSession(Session):
    """A session that serves no client; its state is what a test sets."""

    def __init__(
        self,
        hub: Hub,
        *,
        last: str | None = None,
        sent: str | None = None,
        acked: str | None = None,
        streamed_to: str | None = None,
        copy: CopyTransaction | None = None,
        number: int = 1,
        shard: int = 0,
    ) -> None:
        """:param last: watermark with which the client connected
        :param streamed_to: watermark up to which everything was sent, if that is not ``sent``
        """
        super().__init__(number, "192.0.2.1", Subscription("zero", shard, last, last), hub)
        self.sent = sent
        self.copy = copy
        self._acks.newest = acked
        self.reached = streamed_to or sent
        """What ``streamed_to`` returns."""

    @property
    def streamed_to(self) -> str | None:
        return self.reached


class FakePeer(Peer):
    """A connection that keeps what it is sent, and returns the messages that a test puts into ``up``."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.up: list[str] = []
        self.closed: tuple[int, str] | None = None
        self.ended = False
        self.on_wait: Callable[[], object] = lambda: None
        """Called instead of a wait."""

    @property
    def gone(self) -> bool:
        return self.ended

    def send(self, frames: bytes) -> None:
        if self.ended:
            raise PeerGone("closed with 1000")
        self.sent += messages(frames)

    def received(self) -> Iterator[str]:
        while self.up:
            yield self.up.pop(0)
        if self.ended:
            raise PeerGone("closed with 1000")

    def wait(self, seconds: float) -> None:
        if seconds:
            self.on_wait()

    def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)

    def kill(self) -> None:
        self.ended = True

    def end_if_unreachable(self) -> None:
        pass


def _no_feed(published: ActivePublication, after: int) -> Feed:
    raise AssertionError("no feed is opened")


def table(name: str, collection: str, key: str = "_id", **columns: str) -> Table:
    """Return a table with the primary key ``id``.

    :param key: the path to which ``id`` is mapped
    :param columns: type of each other column, which is optional and mapped to the field of its name
    """
    more = tuple(Column(column, kind, True) for column, kind in columns.items())
    paths = (("id", key), *((column, column) for column in columns))
    return Table(TableSpec(name, (Column("id", "string"), *more), ("id",)), Mapping(collection, paths))


def active(
    publication: Publication = Publication(Catalog(())),  # noqa: B008
    source: Source | None = None,
    rejects: Rejects | None = None,
) -> ActivePublication:
    """Return a publication that is served; without tables by default."""
    return ActivePublication(publication, source or FakeSource(), rejects or Rejects(), Event())


def hub(
    *,
    source: Source | None = None,
    store: WatermarkStore | None = None,
    lineage: Lineage | None = None,
    published: ActivePublication | None = None,
    registry: Registry | None = None,
    **settings: Any,
) -> Hub:
    """Return a hub whose feed runs and whose log begins at START.

    :param settings: other fields of Hub
    """
    source = source or FakeSource()
    published = published or active(source=source)
    log = ChangeLog()
    log.start(watermark(START), published.fingerprint)
    readiness = Readiness()
    readiness.set(None)
    return Hub(
        source,
        published,
        store or FakeStore(),
        lineage or FakeLineage(),
        log,
        readiness,
        Rejects(),
        Counters(registry or Registry()),
        **settings,
    )


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages that were logged since the last call."""
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found
