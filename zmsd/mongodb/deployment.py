"""The kind, the version and the abilities of a MongoDB deployment, as the deployment reports them.

The abilities follow the deployment's behaviour, not the binary's version: MongoDB 6.0 with featureCompatibilityVersion
5.0, the state between the steps of an upgrade, stores no pre- and post-images
(https://www.mongodb.com/docs/v6.0/release-notes/6.0-compatibility/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pymongo.errors import OperationFailure

from zmsd.bson_types import Document
from zmsd.errors import SourceRefused, SourceUnavailable
from zmsd.mongodb.cursors import collection_of, kill_cursor
from zmsd.mongodb.errors import LOST, OPTION_REFUSED, REOPEN_BY_TIME, code_of
from zmsd.mongodb.products import MONGODB, Product, identify

Command = Callable[[Document], Document]

_UNRELATED_TO_IMAGES = LOST | REOPEN_BY_TIME | {13}
"""Codes that concern a position or, 13 (Unauthorized), a privilege; src/mongo/base/error_codes.yml of mongodb/mongo."""
_IMAGES_FROM = (6, 0)
_WIRE_6_0, _WIRE_7_0 = 17, 21
_WITH_IMAGES: Document = {"$changeStream": {"fullDocument": "whenAvailable"}}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment at one moment. Two of them are equal if nothing has changed that matters to zmsd."""

    version: tuple[int, ...] = ()
    """Version of the primary's binary; empty before the first look."""
    sharded: bool = False
    set_name: str | None = None
    is_primary: bool = True
    """Whether the member that answers for the primary is the primary (with directConnection it may be another)."""
    stores_images: bool = False
    """Whether pre- and post-images can be switched on and read."""
    product: Product = MONGODB

    @property
    def version_text(self) -> str:
        """Version with dots."""
        return ".".join(map(str, self.version))

    @property
    def has_documents_stage(self) -> bool:
        """Whether the stage ``$documents`` exists: 6.0 has it with any featureCompatibilityVersion."""
        return self.version >= (5, 1)

    def may_group(self, newest_wire_version: int, *, imaged: bool) -> bool:
        """Return whether a write outside of multi-document transactions may share its cluster time with others.

        Since MongoDB 6.1, TTL deletes and applyOps may, but not in a collection that stores images (measured on 7.0.28;
        getExecutorDelete in src/mongo/db/query/get_executor.cpp and src/mongo/db/repl/apply_ops.cpp of mongodb/mongo).
        Since 8.0, insert_many may.

        :param newest_wire_version: of all members, which are upgraded one after the other
        :param imaged: the server sent the pre-image of the write
        """
        if self.version[:2] > (7, 0) or newest_wire_version > _WIRE_7_0:
            return True
        return not imaged and (self.version[:2] > (6, 0) or newest_wire_version > _WIRE_6_0)

    @property
    def why_no_images(self) -> str:
        """Why ``stores_images`` is false, and what to do."""
        if self.version < _IMAGES_FROM:
            return f"MongoDB {self.version_text} stores no pre- and post-images: upgrade to 6.0 or later"
        return (
            f"MongoDB {self.version_text} stores no pre- and post-images at its featureCompatibilityVersion: "
            'run db.adminCommand({setFeatureCompatibilityVersion: "6.0"})'
        )

    def check(self) -> None:
        """Raise SourceRefused for an unsupported product and for a deployment without change streams, SourceUnavailable
        if another member than the primary answers."""
        if self.product.support == "unsupported":
            raise SourceRefused(f"this is {self.product.name}: {self.product.words}")
        if not self.sharded and self.set_name is None:
            raise standalone()
        if not self.is_primary:
            raise SourceUnavailable(
                "the member that the URI leads to is not the primary of its replica set, and directConnection=true "
                "keeps zmsd from finding the primary: remove directConnection from the URI (mongodb.uri)"
            )


def ask(primary: Command, read: Command, hosts: Iterable[str] = ()) -> Deployment:
    """Return what a deployment is now. Raises PyMongoError.

    :param primary: runs a command on the primary
    :param read: runs a command where change streams are read
    :param hosts: names of the hosts that the driver knows, without ports
    """
    hello = primary({"hello": 1})
    build_info = primary({"buildInfo": 1})
    version = tuple(build_info["versionArray"][:3])
    known = [*hosts, *(address.rpartition(":")[0] for address in hello.get("hosts", ()))]
    product = identify(build_info, known, version)
    sharded, set_name = hello.get("msg") == "isdbgrid", hello.get("setName")
    has_streams = (sharded or set_name is not None) and product.support != "unsupported"
    return Deployment(
        version=version,
        sharded=sharded,
        set_name=set_name,
        is_primary=bool(hello.get("isWritablePrimary", True)),
        stores_images=has_streams and version >= _IMAGES_FROM and _takes_images(read),
        product=product,
    )


def standalone() -> SourceRefused:
    """Return the error for a mongod that is not a member of a replica set."""
    return SourceRefused(
        "this mongod is standalone, change streams need a replica set: "
        "start it with --replSet rs0 and run rs.initiate() once"
    )


def _takes_images(read: Command) -> bool:
    """Return whether a change stream with images can be opened. It is opened without reading from it, and closed.

    An error about a position or about the privilege changeStream proves nothing about images. The version decides then,
    and whatever opens a stream for use reports the error: only there a lost position reaches the clients.
    """
    try:
        cursor = read({"aggregate": 1, "pipeline": [_WITH_IMAGES], "cursor": {"batchSize": 0}})["cursor"]
    except OperationFailure as error:
        if code_of(error) in _UNRELATED_TO_IMAGES:
            return True
        if code_of(error) == OPTION_REFUSED:
            return False
        raise
    kill_cursor(read, collection_of(cursor), cursor["id"])
    return True
