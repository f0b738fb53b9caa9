"""Preparation: before a feed begins, check the database's identity and that it can be watched as configured."""

from __future__ import annotations

from zmsd import position
from zmsd.errors import ConfigIssue, ResumeLost, SourceError, SourceRefused, SourceUnavailable
from zmsd.mongodb.source import Source
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.lineage import Lineage
from zmsd.rows.computed import follows_from_id, problems
from zmsd.schema.catalog import Catalog
from zmsd.watermarks.base import Identity, WatermarkStore


def prepare(source: Source, store: WatermarkStore, lineage: Lineage, active: ActivePublication, images: str) -> int:
    """Prepare MongoDB for a publication, and return the position at which a feed may begin (invariant 3).

    :param images: setting ``feed.images``
    :raises SourceError: MongoDB is unavailable, or refuses something that the publication needs
    :raises ResumeLost: another database answers; all known watermarks are invalid from now on
    :raises StoreError: the identity cannot be stored
    """
    source.prepare(active.watched, images)
    found = source.collections()
    for table in active.catalog.tables:
        collection = table.mapping.collection
        if follows_from_id(table) or collection in source.images or collection in source.not_collections:
            continue
        # Where images are never stored, a collection that does not exist yet is refused now and not at a later start.
        never = images == "off" or not source.deployment.stores_images
        if not never and collection not in found:
            continue
        if not never and source.switch_images_on(collection):
            continue  # it was created a moment ago
        if never or collection in source.collections():
            reason = _why_no_images(source, collection, images)
            needs = f"table {table.name}: its rows do not follow from _id alone, so it needs pre-images of {collection}"
            raise type(reason)(f"{needs}: {reason}")
    issues = issues_of_mappings(source, active.catalog)
    if issues:
        raise SourceRefused("; ".join(map(str, issues)))
    lineage.distrust()
    _check_identity(source, store, lineage)
    now = source.operation_time()
    invalid = store.invalidated_below()
    if invalid is not None and position.watermark(now) < invalid[0]:
        behind = position.seconds(position.parse(invalid[0])[0] - now) + 1
        raise SourceUnavailable(
            f"the server's cluster time is {behind} s behind the last position read from the former database; check "
            f"the MongoDB host's clock. Nothing can be sent until it is later ({invalid[1]})"
        )
    lineage.check_newest()  # now, because the oplog may lose the proof until a client comes
    return now


def _why_no_images(source: Source, collection: str, setting: str) -> SourceError:
    if setting == "off":
        return SourceRefused("feed.images is off: set feed.images: auto")
    if not source.deployment.stores_images:
        return SourceRefused(source.deployment.why_no_images)
    return source.missing_images.get(collection) or SourceUnavailable("they are not switched on yet")


def issues_of_mappings(source: Source, catalog: Catalog) -> list[ConfigIssue]:
    """Return why this MongoDB cannot evaluate the computed mappings, with file, line and column. Raises SourceError.

    :param source: prepared, so that its version is known
    """
    computed = [table for table in catalog.tables if not table.mapping.plain]
    if source.deployment.has_documents_stage:
        return [issue for table in computed for issue in problems(source.run, table)]
    version = source.deployment.version_text
    reason = f"is computed by mongod, which needs MongoDB 5.1 ($documents), and this is {version}"
    return [table.mapping.issue((), reason) for table in computed]


def remember_identity(source: Source, store: WatermarkStore) -> None:
    """Store the database's current identity. Raises SourceError and StoreError."""
    known, here = store.load_identity(), _identity(source)
    if here != known:
        store.save_identity(here)


def _identity(source: Source) -> Identity:
    return Identity(source.fetch_replica_set_id(), source.collection_ids(), source.db.name)


def _check_identity(source: Source, store: WatermarkStore, lineage: Lineage) -> None:
    """Invalidate all known watermarks if another database answers (invariant 5), and then raise ResumeLost.

    A cluster time alone could be resumed on the wrong database.
    """
    known, here = store.load_identity(), _identity(source)
    if here == known:
        return
    other = None if known is None else _difference(known, here)
    if other is None:
        store.save_identity(here)
        return
    reason = (
        f"database {here.database} is not the one that was read before ({other}): its changes do not follow on "
        "what clients have"
    )
    lineage.invalidate(reason)
    store.save_identity(here)  # last: after a crash the next start must detect the difference again
    raise ResumeLost(reason)


def _difference(known: Identity, here: Identity) -> str | None:
    """Return why it is another database; None if it is the same, as far as is known."""
    if known.database not in (None, here.database):
        return f"that was {known.database}"
    if known.set_id is not None and here.set_id is not None:
        return None if known.set_id == here.set_id else "another replica set"
    same = not known.collections or set(known.collections.values()) & set(here.collections.values())
    return None if same else "all collections are new"
