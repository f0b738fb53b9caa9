"""Before a feed begins: is this the database that the positions belong to, and can it be watched as configured?"""

from __future__ import annotations

from zmsd import position
from zmsd.errors import ConfigIssue, ResumeLost, SourceError, SourceRefused, SourceUnavailable
from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.hub import Hub
from zmsd.rows.computed import follows_from_id, problems
from zmsd.schema.catalog import Catalog
from zmsd.watermarks.base import Identity


def prepare(hub: Hub, active: ActivePublication, images: str) -> int:
    """Make the database ready to be watched; the position at which a feed may begin now. Raises SourceError.

    :param images: setting ``feed.images``
    """
    hub.source.prepare(active.watched, images)
    found = hub.source.collections()
    for table in active.catalog.tables:
        collection = table.mapping.collection
        if follows_from_id(table) or collection not in found or collection in hub.source.images:
            continue
        if collection in hub.source.not_collections:
            continue
        if images != "off" and hub.source.switch_images_on(collection):
            continue  # it has appeared just now
        if collection in hub.source.collections():
            reason = _why_no_images(hub.source, collection, images)
            needs = f"table {table.name}: its rows do not follow from _id alone, so it needs pre-images of {collection}"
            raise type(reason)(f"{needs}: {reason}")
    faults = issues_of_mappings(hub.source, active.catalog)
    if faults:
        raise SourceRefused("; ".join(map(str, faults)))
    hub.lineage.distrust()
    _check_identity(hub)
    now = hub.source.operation_time()
    invalid = hub.store.invalidated_below()
    if invalid is not None and position.watermark(now) < invalid[0]:
        behind = position.seconds(position.parse(invalid[0])[0] - now) + 1
        raise SourceUnavailable(
            f"this database's time is {behind} s behind what was read of the one before, is the clock of its machine "
            f"right? Nothing can be sent until it is later ({invalid[1]})"
        )
    hub.lineage.check_newest()  # now: when a client comes, what would tell its place from others may be forgotten
    return now


def _why_no_images(source: Source, collection: str, setting: str) -> SourceError:
    if setting == "off":
        return SourceRefused("feed.images is off: set feed.images: auto")
    if not source.deployment.stores_images:
        return SourceRefused(source.deployment.why_no_images)
    return source.missing_images.get(collection) or SourceUnavailable("they are not on yet")


def issues_of_mappings(source: Source, catalog: Catalog) -> list[ConfigIssue]:
    """What this MongoDB says against the computed mappings, each with its place in the document. Raises SourceError.

    :param source: prepared, so that its version is known
    """
    computed = [table for table in catalog.tables if not table.mapping.plain]
    if source.deployment.has_documents_stage:
        return [fault for table in computed for fault in problems(source.run, table)]
    version = source.deployment.version_text
    reason = f"is computed by mongod, which needs MongoDB 5.1 ($documents), and this is {version}"
    return [table.mapping.issue((), reason) for table in computed]


def remember_identity(hub: Hub) -> None:
    """Keep what the database is known by, as collections come and go."""
    known, here = hub.store.load_identity(), _identity(hub.source)
    if here != known:
        hub.store.save_identity(here)


def _identity(source: Source) -> Identity:
    return Identity(source.fetch_replica_set_id(), source.collection_ids(), source.db.name)


def _check_identity(hub: Hub) -> None:
    """A time would resume silently on the wrong database: positions of another one are made void first.

    Raises ResumeLost when that has happened.
    """
    known, here = hub.store.load_identity(), _identity(hub.source)
    if here == known:
        return
    other = None if known is None else _difference(known, here)
    if other is None:
        hub.store.save_identity(here)
        return
    reason = (
        f"database {here.database} is not the one that was read before ({other}): its changes do not follow on the "
        "client's copy"
    )
    hub.lineage.invalidate(reason)
    hub.store.save_identity(here)  # last: whoever dies before it finds the difference again
    raise ResumeLost(reason)


def _difference(known: Identity, here: Identity) -> str | None:
    """Why it is another database; None where it is the same, as far as can be told."""
    if known.database not in (None, here.database):
        return f"that was {known.database}"
    if known.set_id is not None and here.set_id is not None:
        return None if known.set_id == here.set_id else "another replica set"
    same = not known.collections or set(known.collections.values()) & set(here.collections.values())
    return None if same else "all collections are new"
