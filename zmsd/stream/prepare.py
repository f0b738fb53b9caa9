"""Before a feed begins: is this the database that the positions belong to, and can it be watched as configured?"""

from __future__ import annotations

from zmsd.catalog.catalog import Catalog
from zmsd.errors import Fault, ResumeLost, SourceRefused
from zmsd.feed import position
from zmsd.feed.source import Source
from zmsd.rows.computed import follows_from_id, problems
from zmsd.stream.edition import Edition
from zmsd.stream.hub import Hub
from zmsd.watermarks.store import Identity


def prepare(hub: Hub, edition: Edition, images: str) -> int:
    """Make the database ready to be watched; the position at which a feed may begin now. Raises SourceError.

    :param images: setting ``feed.images``
    """
    hub.source.prepare(edition.watched, images)
    found = hub.source.collections()
    for table in edition.catalog.tables:
        collection = table.mapping.collection
        if not follows_from_id(table) and collection in found and collection not in hub.source.images:
            raise SourceRefused(
                f"table {table.name}: its rows do not follow from _id alone, so it needs pre-images of {collection}, "
                f"which are not on (feed.images: {images}; MongoDB 6.0 and the right to run collMod)"
            )
    faults = faults_of_mappings(hub.source, edition.catalog)
    if faults:
        raise SourceRefused("; ".join(map(str, faults)))
    now = hub.source.operation_time()
    hub.proven.clear()
    _check_identity(hub, now)
    return now


def faults_of_mappings(source: Source, catalog: Catalog) -> list[Fault]:
    """What this MongoDB says against the computed mappings, each with its place in the document. Raises SourceError.

    :param source: prepared, so that its version is known
    """
    computed = [table for table in catalog.tables if not table.mapping.plain]
    if source.topology.has_documents_stage:
        return [fault for table in computed for fault in problems(source.run, table)]
    version = ".".join(map(str, source.topology.version))
    reason = f"is computed by mongod, which needs MongoDB 5.1 ($documents), and this is {version}"
    return [table.mapping.fault((), reason) for table in computed]


def remember_identity(hub: Hub) -> None:
    """Keep what the database is known by, as collections come and go."""
    known = hub.store.identity()
    here = Identity(hub.source.set_id(), hub.source.collection_ids())
    if here != known:
        hub.store.identify(here)


def _check_identity(hub: Hub, now: int) -> None:
    """A time would resume silently on the wrong database: positions of another one are made void first.

    Raises ResumeLost when that has happened.
    """
    known = hub.store.identity()
    here = Identity(hub.source.set_id(), hub.source.collection_ids())
    if here != known:
        hub.store.identify(here)
    if known is not None and not _same(known, here):
        reason = (
            f"database {hub.source.db.name} is not the one that was read before (another replica set, or all "
            "collections are new): its changes do not follow on the client's copy"
        )
        hub.store.invalidate(position.watermark(now), reason)
        raise ResumeLost(reason)


def _same(known: Identity, here: Identity) -> bool:
    if known.set_id is not None and here.set_id is not None:
        return known.set_id == here.set_id
    return not known.collections or bool(set(known.collections.values()) & set(here.collections.values()))
