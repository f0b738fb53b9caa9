"""The published database: its connection, deployment and identity, and the images that it stores for change streams."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from threading import Lock
from typing import Any

import pymongo
from bson.codec_options import CodecOptions
from pymongo import MongoClient, ReadPreference
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import _ServerMode

from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import ResumeLost, SourceError, SourceRefused, SourceUnavailable
from zmsd.log import kv
from zmsd.mongodb.client import CODEC, classified_errors, client_factory, evaluation_errors, unwrap_dbrefs
from zmsd.mongodb.cursors import cursor_command
from zmsd.mongodb.deployment import Deployment, ask, standalone
from zmsd.mongodb.errors import classify, code_of
from zmsd.mongodb.members import MemberSelector, Pin
from zmsd.mongodb.sampling import sample
from zmsd.mongodb.time_limit import run_within
from zmsd.pace import FIRST_SECONDS
from zmsd.prometheus import Counter

log = logging.getLogger(__name__)

_IMAGES_RETRY_SECONDS = 10.0
_NAMESPACE_NOT_FOUND = 26
_INDEX_IS_BUILT = (12586, 12587)
"""BackgroundOperationInProgressForDatabase and …ForNamespace."""


class Source:
    """One database of a MongoDB deployment. Thread-safe.

    Methods raise SourceError, except where they say PyMongoError.
    """

    def __init__(self, uri: str, database: str) -> None:
        """Connect in the background. Raises SourceError if the driver rejects the URI, or a file that the URI names."""
        self._members = MemberSelector()
        self._make_client = client_factory(uri, self._members)
        self._use(self._make_client(), database)
        self.images: frozenset[str] = frozenset()
        """Collections that are known to store pre- and post-images."""
        self.missing_images: dict[str, SourceError] = {}
        """Collection -> why images could not be switched on at the last attempt."""
        self._images_since: dict[str, int] = {}  # collection -> the position at which they were switched on
        self._images_retry: dict[str, float] = {}  # collection -> monotonic seconds of the next try
        self.not_collections: dict[str, str] = {}
        """Published name -> its type, ``view`` or ``timeseries``, as of the last look. MongoDB has no change streams on
        these types (https://www.mongodb.com/docs/manual/changeStreams/), so their tables are empty."""
        self.deployment = Deployment()
        """As of the last look; the same object as long as nothing has changed."""
        self._images_setting = "auto"
        self.failures = Counter()
        """Attempts to read that failed and were repeated."""
        self.recoveries = Counter()
        """Streams that resumed after a failure. The server may have another database by then."""
        self.replica_set_id: str | None = None
        """``fetch_replica_set_id`` as of ``prepare``."""
        self._warned: set[str] = set()
        self._lock = Lock()  # several readers change the images

    def close(self) -> None:
        """Close all connections."""
        self.client.close()

    def reconnect(self) -> None:
        """Replace the client by a new one.

        A client that has seen a later election rejects the primary of an earlier one
        (https://github.com/mongodb/specifications, server discovery and monitoring, "stale primary"). The primary of a
        restored or another replica set looks like that, so only a new client shows that the database is another.

        Raises SourceError if no client can be made, as while a CA file is being replaced; the old client stays in use.
        """
        old, client = self.client, self._make_client()
        self._use(client, self.db.name)
        old.close()

    def _use(self, client: MongoClient[Document], database: str) -> None:
        options: Any = {"read_preference": ReadPreference.PRIMARY, "read_concern": ReadConcern()}
        self.client = client
        self.db: Database[Document] = client.get_database(database, CODEC, **options)
        """The published database, read on the primary."""
        self.local: Database[Document] = client.get_database("local", CODEC, **options)
        """The database ``local`` of the primary, with its oplog."""
        self.content: Database[Document] = client.get_database(
            database, CODEC, read_preference=client.read_preference, read_concern=ReadConcern("majority")
        )
        """The published database, read as the URI's read preference says: for samples of documents."""

    @property
    def wants_images(self) -> bool:
        """Whether change streams ask for images."""
        return self._images_setting != "off" and self.deployment.stores_images

    def look(self) -> Deployment:
        """Look at the deployment again and return what it is now.

        An upgrade, or another featureCompatibilityVersion, changes it while connections stay open.
        """
        hosts = [host for host, _ in self.client.topology_description.server_descriptions()]
        with classified_errors():
            found = ask(partial(self.db.command, codec_options=CODEC), partial(self.read, pin=self.pin()), hosts)
        with self._lock:
            if found != self.deployment:
                if self.deployment.version:
                    log.info(kv("deployment changed", version=found.version_text, images=found.stores_images))
                self.deployment = found
            return self.deployment

    def may_group(self, *, imaged: bool) -> bool:
        """Return ``Deployment.may_group`` with the versions of all members, as the driver knows them."""
        members = self.client.topology_description.server_descriptions().values()
        # The driver has no version of a member that it cannot reach.
        newest = max((member.max_wire_version for member in members), default=0)
        return self.deployment.may_group(newest, imaged=imaged)

    def command(self, command: Document) -> Document:
        """Run a command on the primary and return its reply."""
        with classified_errors():
            return self.db.command(command, codec_options=CODEC)

    def pin(self) -> Pin:
        """Return a pin for the commands of one cursor: all go to one member that the URI's read preference allows."""
        return Pin(self.client.read_preference)

    def read(
        self,
        command: Document,
        pin: Pin,
        session: ClientSession | None = None,
        codec: CodecOptions[Any] = CODEC,
        *,
        seconds: float | None = None,
    ) -> Any:
        """Run a command of a cursor on the member that has the cursor, and return its reply. Raises PyMongoError.

        :param seconds: a time limit of its own (``time_limit.run_within``); None: the deadline of every request
        """
        options: dict[str, Any] = {"read_preference": pin.preference, "session": session, "codec_options": codec}
        with self._members.pinned(pin):
            if seconds is not None:
                return run_within(seconds, self.db, command, **options)
            return self.db.command(command, **options)

    def find(self, command: Document, preference: _ServerMode, codec: CodecOptions[Any] = CODEC) -> list[Any]:
        """Return all documents of a find or aggregate command. Raises PyMongoError."""
        return unwrap_dbrefs(list(cursor_command(self.db, command, preference, codec)))

    @property
    def preferences(self) -> tuple[_ServerMode, ...]:
        """Read preferences to try in order: the URI's, then the primary, which has the most history."""
        wanted = self.client.read_preference
        return (wanted,) if wanted == ReadPreference.PRIMARY else (wanted, ReadPreference.PRIMARY)

    def aggregate(self, collection: str, stages: list[Document]) -> list[Document]:
        """Return the results of ``stages`` on a collection, read as the URI's read preference says."""
        with classified_errors():
            return self.find({"aggregate": collection, "pipeline": stages, "cursor": {}}, self.client.read_preference)

    def sample(self, collection: str, size: int, stages: list[Document]) -> list[Document]:
        """Return the results of ``stages`` on a sample of a collection, read as the URI's read preference says."""
        command: Document = {"aggregate": collection, "cursor": {}}
        preference = self.client.read_preference
        with classified_errors():
            return sample(size, lambda first, o: self.find({**command, "pipeline": [first, *stages], **o}, preference))

    def run(self, pipeline: list[Document], seconds: float = FIRST_SECONDS) -> list[Document]:
        """Return the results of a pipeline that begins with ``$documents``.

        Raises EvaluationError if its stages fail, or if the pipeline with its documents exceeds a limit of the server.

        :param seconds: the deadline
        """
        command = {"aggregate": 1, "pipeline": pipeline, "cursor": {"batchSize": 1_000_000}}
        longer = pymongo.timeout(seconds) if seconds > FIRST_SECONDS else nullcontext()
        with longer, evaluation_errors():
            return self.find(command, self.client.read_preference)

    def operation_time(self) -> int:
        """Return the position of the newest operation that the primary has applied."""
        reply = self.command({"ping": 1})
        if "operationTime" not in reply:
            raise standalone()
        return position.of_timestamp(reply["operationTime"])

    def oplog_start(self) -> int | None:
        """Return the position of the oldest oplog entry, or None if the user may not read ``local``."""
        try:
            with classified_errors():
                first = self.local["oplog.rs"].find_one({}, {"ts": 1}, sort=[("$natural", 1)])
        except SourceError:
            return None
        return position.of_timestamp(first["ts"]) if first else None

    def prepare(self, collections: Iterable[str], images: str) -> None:
        """Look at the deployment, refuse one that cannot be watched, and switch images on before any position is taken.

        :param collections: the names of the collections to be watched
        :param images: ``auto``, ``required`` or ``off`` (setting ``feed.images``)
        """
        self._images_setting = images
        self.look().check()
        self.replica_set_id = self.fetch_replica_set_id()
        found = self.look_at(collections)
        if images == "off":
            self._warn("images off", "updates carry a later document, transactions over collections can be torn")
        else:
            self._ensure_images(found, images)

    def look_at(self, names: Iterable[str]) -> frozenset[str]:
        """Ask which of these names are collections, and which collections keep images.

        :return: the names that exist as a collection; ``not_collections`` has those that exist as something else
        """
        with classified_errors():
            found = list(self.db.list_collections(filter={"name": {"$in": sorted(names)}}))
        kinds = {info["name"]: str(info.get("type", "collection")) for info in found}
        self.not_collections = {name: kind for name, kind in kinds.items() if kind != "collection"}
        on = [one["name"] for one in found if (one["options"].get("changeStreamPreAndPostImages") or {}).get("enabled")]
        with self._lock:
            self.images = frozenset(on) if self.wants_images else frozenset()
        return frozenset(kinds.keys() - self.not_collections.keys())

    def collections(self) -> dict[str, Document]:
        """Return name -> {type, options, info: {uuid}} of every collection that exists (listCollections)."""
        with classified_errors():
            return {info["name"]: dict(info) for info in self.db.list_collections()}

    def collection_ids(self) -> dict[str, str]:
        """Return collection name -> UUID in hexadecimal."""
        return {
            name: bytes(info["info"]["uuid"]).hex()
            for name, info in self.collections().items()
            if "uuid" in info.get("info", {})
        }

    def fetch_replica_set_id(self) -> str | None:
        """Return the id of the replica set, or None behind mongos and if the user lacks the role clusterMonitor."""
        try:
            with classified_errors():
                config = self.client.admin.command({"replSetGetConfig": 1})["config"]
        except SourceError:
            return None
        return str(config["settings"]["replicaSetId"]) if "replicaSetId" in config.get("settings", {}) else None

    def check_replica_set(self, known: str | None) -> None:
        """Raise ResumeLost if the replica set has another id than the known one. An unknown id passes."""
        here = self.fetch_replica_set_id()
        if None not in (here, known) and here != known:
            raise ResumeLost(f"another replica set answers than before ({here} instead of {known})")

    def switch_images_on(self, name: str) -> bool:
        """Switch pre- and post-images on for one collection (collMod), and return whether they are on.

        They are not if the collection does not exist, or if the server refuses, for the reason in ``missing_images``.
        Raises SourceUnavailable if the server does not answer.
        """
        if not self.deployment.stores_images:
            return False
        try:
            reply = self.db.command({"collMod": name, "changeStreamPreAndPostImages": {"enabled": True}})
        except OperationFailure as error:
            if code_of(error) != _NAMESPACE_NOT_FOUND:  # images are switched on when the collection appears
                reason = self._why_not_switched_on(name, error)
                self.missing_images[name] = reason
                self._warn(
                    f"no pre- and post-images on {self.db.name}.{name}",
                    f"{reason}; updates carry a later document, transactions over collections can be torn",
                )
            return False
        except PyMongoError as error:
            raise classify(error) from error
        with self._lock:
            self.images |= {name}
            self._images_since[name] = position.of_timestamp(reply["operationTime"])
        self.missing_images.pop(name, None)
        log.info(kv("pre- and post-images switched on", collection=name))
        return True

    def ensure_images(self, name: str) -> None:
        """Switch images on for a collection whose events have none. A failed attempt is repeated after some seconds.

        Documents written before can still be read at their own cluster time afterwards.

        Raises SourceError if images are required and cannot be switched on.
        """
        if not self.wants_images or name in self.images:
            return
        required = self._images_setting == "required"
        if not required and time.monotonic() < self._images_retry.get(name, 0.0):
            return
        self._images_retry[name] = time.monotonic() + _IMAGES_RETRY_SECONDS
        if not self.switch_images_on(name) and required and name in self.missing_images:
            raise self._required(name)

    def has_images_at(self, name: str, at: int) -> bool:
        """Return whether a collection's events at a position are known to have images."""
        return name in self.images and at > self._images_since.get(name, 0)

    def forget_images(self, *names: str | None) -> None:
        """Forget whether collections store images: another collection may have the name by now."""
        with self._lock:
            self.images -= set(names)

    def _why_not_switched_on(self, name: str, error: OperationFailure) -> SourceError:
        if code_of(error) in _INDEX_IS_BUILT:
            return SourceUnavailable(
                f"an index is being built on {self.db.name}.{name}, and images can be switched on only when it is "
                "complete"
            )
        return classify(error)

    def _ensure_images(self, collections: frozenset[str], mode: str) -> None:
        if not self.deployment.stores_images:
            reason = self.deployment.why_no_images
            if mode == "required":
                raise SourceRefused(f"feed.images is required, but {reason}")
            self._warn("no pre- and post-images", f"{reason}; until then transactions can be torn")
            return
        missing = [name for name in sorted(collections - self.images) if not self.switch_images_on(name)]
        if missing and mode == "required":
            raise self._required(missing[0])

    def _required(self, name: str) -> SourceError:
        why = self.missing_images.get(name) or SourceUnavailable(f"{name} has just been dropped")
        return type(why)(f"feed.images is required, but images cannot be switched on: {why}")

    def _warn(self, what: str, why: str) -> None:
        """Log a warning once in the life of the process, not at every reconnect."""
        if what not in self._warned:
            self._warned.add(what)
            log.warning(kv(what, reason=why))
