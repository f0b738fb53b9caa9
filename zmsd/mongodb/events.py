"""ChangeEvent: the contract between the readers of change streams and the makers of rows.

======================  ================================================================================
stage                   what it guarantees or adds
======================  ================================================================================
``ChangeCursor.read``   makes the event of mongod's document: kind, namespaces, document id, token, images
``ContentReader.fill``  images are plain dicts (never DBRefs); calls the next two stages
``Lookup.complete``     sets ``after`` and ``before`` where the server sent no image. An insert, update or
                        replace whose document is gone by then becomes a delete. ``before_known`` says
                        whether ``before`` is what was there (None: nothing was)
``evaluate``            sets ``computed_before`` and ``computed_after`` for computed tables
``Sequencer``           pairs an event of a collection's stream with the same event of the order's
                        stream, by ``token``; an event of the order's stream has no images
``Encoder``             reads only
======================  ================================================================================

Reference: https://www.mongodb.com/docs/manual/reference/change-events/
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from zmsd.bson_types import Document

AFTER, BEFORE = "fullDocument", "fullDocumentBeforeChange"
"""Names of the post-image and the pre-image in mongod's document."""
WITH_AFTER, WITH_BEFORE = ("insert", "update", "replace"), ("update", "replace", "delete")
"""Kinds of events that have a post-image, and a pre-image."""
OF_DOCUMENTS = frozenset((*WITH_AFTER, *WITH_BEFORE))
"""Kinds of events that change one document; the others (drop, rename, …) change a collection or a database."""


@dataclass(slots=True)
class ChangeEvent:
    """One document of a change stream. Owned by one thread at a time; never changed after its feed has returned it."""

    token: Document
    """Resume token, equal on every stream that has the event."""
    kind: str
    """``operationType``."""
    collection: str | None = None
    """Without the database; None for dropDatabase and invalidate."""
    document_id: Any = None
    """``_id`` of the changed document."""
    after: Document | None = None
    """The document after the change; None after a delete."""
    before: Document | None = None
    """The document before the change; None where nothing was there or, unless ``before_known``, where it is unknown."""
    before_known: bool = False
    target: str | None = None
    """New name of a renamed collection."""
    in_transaction: bool = False
    """Part of a multi-document transaction."""
    wall_time: datetime | None = None
    """When MongoDB committed, UTC; None before MongoDB 6.0."""
    computed_before: dict[str, list[Document]] | None = None
    """Computed table -> what its stages make of ``before``."""
    computed_after: dict[str, list[Document]] | None = None


def change_event(document: Document) -> ChangeEvent:
    """Return the event of a change stream's document, as mongod sent it."""
    get = document.get
    kind = document["operationType"]
    namespace, key, renamed = get("ns"), get("documentKey"), get("to")
    before = get(BEFORE)
    return ChangeEvent(
        document["_id"],
        kind,
        namespace.get("coll") if namespace is not None else None,
        key["_id"] if key is not None else None,
        get(AFTER),
        before,
        before is not None or kind == "insert",
        renamed.get("coll") if renamed is not None else None,
        "txnNumber" in document,
        get("wallTime"),
    )
