"""The checks of ``zmsd check`` that ask MongoDB. They change nothing, and of documents read the types of a sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from zmsd import position
from zmsd.bson_types import EMPTY, MAX_EXACT_INTEGER, Document, fits
from zmsd.commands.daemon_client import duration_text
from zmsd.config.settings import Config
from zmsd.errors import SourceError
from zmsd.mongodb.client import classified_errors
from zmsd.mongodb.deployment import Deployment
from zmsd.mongodb.products import NEWER, SHARDED
from zmsd.mongodb.source import Source
from zmsd.replication.preparation import issues_of_mappings
from zmsd.replication.sample import SAMPLE, sample_columns
from zmsd.rows.computed import follows_from_id
from zmsd.schema.catalog import Catalog, Table

_SHORT_OPLOG = 24 * 3600
"""Seconds below which the window of a full oplog gets a warning."""
_FULL = 0.8
"""Part of its maximum size above which an oplog counts as full, so that its window grows no further."""

_COMPARED = {"int", "long", "double", "decimal"}
"""BSON types whose equal values are the same ``_id``."""
_ACTIONS = ("find", "changeStream", "listCollections")
"""Actions that the user must be allowed on the database."""


class Finding(NamedTuple):
    """A line of the report: what was found, and what to do about a warning or an error."""

    level: Literal["ok", "warning", "error"]
    text: str
    detail: bool = False
    """Whether it says what is right with a collection, which is printed on demand only."""


def preflight(settings: Config, catalog: Catalog) -> Iterator[Finding]:
    """Yield the findings about MongoDB, each as soon as it is known."""
    try:
        source = Source(settings.mongodb.uri, settings.mongodb.database)
    except SourceError as error:
        yield Finding("error", f"mongodb: {error}")
        return
    try:
        yield from _Preflight(source, settings, catalog).findings()
    finally:
        source.close()


def support_findings(found: Deployment) -> Iterator[Finding]:
    """Yield what is known of products and versions that have not been tested; the table in README.rst says the same."""
    products = [found.product] if found.product.support != "tested" else []
    for product in [*products, SHARDED] if found.sharded else products:
        version = f" {found.version_text}" if product is NEWER else ""
        yield Finding("warning", f"support: {product.name}{version}: {product.words}")


class _Preflight:
    def __init__(self, source: Source, settings: Config, catalog: Catalog) -> None:
        self._source = source
        self._settings = settings
        self._catalog = catalog
        self._name = settings.mongodb.database
        self._privileges: list[Document] | None = None  # None: there is no access control

    def findings(self) -> Iterator[Finding]:
        try:
            yield from self._deployment()
        except SourceError as error:
            yield Finding("error", f"mongodb: {error}")
            return
        if self._source.deployment.product.support == "unsupported":
            return
        for what, look in (
            ("privileges", self._privileges_of_the_user),
            ("oplog", self._oplog),
            ("collections", self._collections),
            ("mappings", self._mappings),
        ):
            try:
                yield from look()
            except SourceError as error:
                yield Finding("error", f"{what}: {error}")

    def _deployment(self) -> Iterator[Finding]:
        found = self._source.look()
        try:
            found.check()
        except SourceError as error:
            yield Finding("error", f"mongodb: {error}")
            if found.product.support == "unsupported":
                return
        else:
            what = "sharded cluster" if found.sharded else f"replica set {found.set_name}"
            yield Finding("ok", f"mongodb: {what}")
            yield from support_findings(found)
        if found.version < (5, 0):
            yield Finding("error", f"version: MongoDB {found.version_text} is too old: upgrade to 6.0 or later")
        elif found.stores_images or found.set_name is None:
            yield Finding("ok", f"version: MongoDB {found.version_text}")
        else:
            yield Finding("warning", f"version: {found.why_no_images}")

    def _privileges_of_the_user(self) -> Iterator[Finding]:
        found = self._source.command({"connectionStatus": 1, "showPrivileges": True})["authInfo"]
        users = ", ".join(f"{user['user']}@{user['db']}" for user in found["authenticatedUsers"])
        if not users:
            yield Finding("ok", "privileges: zmsd connects without a user")
            return
        self._privileges = found["authenticatedUserPrivileges"]
        missing = [action for action in _ACTIONS if not self._may(action)]
        if missing:
            grant = (
                f'grantRolesToUser("{found["authenticatedUsers"][0]["user"]}", [{{role: "read", db: "{self._name}"}}])'
            )
            yield Finding("error", f"privileges: {users} lacks {', '.join(missing)} on {self._name}: {grant}")
        else:
            yield Finding("ok", f"privileges: {users} may find and changeStream on {self._name}")

    def _may(self, action: str, collection: str = "") -> bool:
        """Return whether the user is allowed an action on a collection; with "", on all of the database."""
        return self._privileges is None or any(
            action in privilege["actions"] and _covers(privilege["resource"], self._name, collection)
            for privilege in self._privileges
        )

    def _oplog(self) -> Iterator[Finding]:
        if not self._source.deployment.sharded and self._source.deployment.set_name is None:
            return  # a standalone server has no oplog
        if self._source.deployment.sharded:
            yield Finding(
                "warning", "oplog: not checked behind mongos: make sure that each shard's holds a day or more"
            )
            return
        local = self._source.local["oplog.rs"]
        try:
            with classified_errors():
                ends = [local.find_one({}, {"ts": 1}, sort=[("$natural", order)]) for order in (1, -1)]
                (stats,) = local.aggregate([{"$collStats": {"storageStats": {}}}])
        except (SourceError, ValueError):
            advice = 'grant the role read on "local", so that zmsd can report the oplog window'
            yield Finding("warning", f"oplog: the user may not read it: {advice}")
            return
        first, last = (position.seconds(position.of_timestamp(end["ts"])) if end else 0 for end in ends)
        size, most = stats["storageStats"]["size"], stats["storageStats"].get("maxSize") or 1
        text = (
            f"oplog: reaches back {duration_text(last - first)}, {size / most:.0%} of {most / 2**30:.1f} GiB are used"
        )
        if size < _FULL * most or last - first >= _SHORT_OPLOG:
            yield Finding("ok", text)
        else:
            advice = "enlarge it: db.adminCommand({replSetResizeOplog: 1, size: MEGABYTES})"
            yield Finding("warning", f"{text}: a client that is away for longer needs a new initial sync: {advice}")

    def _collections(self) -> Iterator[Finding]:
        if not all(map(self._may, _ACTIONS)):
            return  # the missing privileges were reported
        found = self._source.collections()
        zero = self._settings.zero
        shard_tables = {zero.clients_collection, zero.mutations_collection} - {None}
        for name in sorted({*self._catalog.collections, *map(str, shard_tables)}):
            tables = self._catalog.by_collection.get(name, ())
            needing = [f"table {table.name}" for table in tables if not follows_from_id(table)]
            if name in shard_tables:
                needing.append("zero-cache's own table")
            if name not in found:
                text = f"collection {name}: does not exist in database {self._name}"
                yield Finding("warning", f"{text}: check the name; its tables stay empty until it is created")
                if self._settings.feed.images == "off" or not self._source.deployment.stores_images:
                    images = self._images(name, {}, needing)
                    yield from [images] if images.level == "error" else []
            elif (kind := found[name].get("type", "collection")) != "collection":
                behind = found[name]["options"].get("viewOn", "the data")
                text = f"collection {name}: is a {kind}, which has no change streams"
                yield Finding("error", f"{text}: map the collection behind it, {behind}")
            else:
                options = found[name]["options"]
                yield self._images(name, options, needing)
                yield from self._oddities(name, options, tables)
                yield from self._ids(name, tables)
                for table in tables:
                    yield from self._columns(table)

    def _images(self, name: str, options: Document, needing: list[str]) -> Finding:
        mode, here = self._settings.feed.images, f"collection {name}: "
        if (options.get("changeStreamPreAndPostImages") or {}).get("enabled") and mode != "off":
            return Finding("ok", f"{here}pre- and post-images are on", detail=True)
        command = f'db.runCommand({{collMod: "{name}", changeStreamPreAndPostImages: {{enabled: true}}}})'
        if mode == "off":
            why, advice = "feed.images is off", "set feed.images: auto"
        elif not self._source.deployment.stores_images:
            why, _, advice = self._source.deployment.why_no_images.partition(": ")
        elif not self._may("collMod", name):
            why, advice = "images are off, and the user may not switch them on (collMod)", f"run {command}"
        else:
            return Finding("ok", f"{here}pre- and post-images will be switched on (collMod)", detail=True)
        if needing:
            return Finding("error", f"{here}{why}, but {needing[0]} needs them: {advice}")
        if mode == "required":
            return Finding("error", f"{here}{why}, but feed.images is required: {advice}")
        cost = "an update may carry a later state of its document, so a transaction may not stay whole"
        return Finding("warning", f"{here}{why}: {cost}: {advice}")

    def _oddities(self, name: str, options: Document, tables: tuple[Table, ...]) -> Iterator[Finding]:
        if options.get("capped"):
            yield Finding(
                "ok", f"collection {name}: is capped; documents that it drops are deleted in Zero too", detail=True
            )
        filtered = [table.name for table in tables if table.mapping.filter or table.mapping.pipeline]
        if filtered and "collation" in options:
            collation = f"{options['collation'].get('locale')}, strength {options['collation'].get('strength')}"
            text = f"compares strings by its collation ({collation}), but the mapping of table {filtered[0]} by bytes"
            yield Finding("warning", f"collection {name}: {text}: check that the filter selects what it should")

    def _ids(self, name: str, tables: tuple[Table, ...]) -> Iterator[Finding]:
        """Check whether the ``_id`` values can be keys."""
        group = {"$group": {"_id": {"$type": "$_id"}, "count": {"$sum": 1}}}
        found = self._source.sample(name, SAMPLE, [{"$project": {"_id": 1}}, group])
        kinds = {str(one["_id"]): int(one["count"]) for one in sorted(found, key=lambda one: -one["count"])}
        total, shown = sum(kinds.values()), ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        bad = [(table, key, kind) for table in tables for key in _keys_of_id(table) for kind in kinds]
        misfits = [(table, key, kind) for table, (key, type_), kind in bad if kind in EMPTY or not fits(type_, kind)]
        for table, key, kind in misfits:
            text = f"table {table.name}: {kinds[kind]} of {total} _id are {kind}, which does not fit its key {key}"
            level: Literal["warning", "error"] = "error" if len(kinds) == 1 else "warning"
            yield Finding(level, f"{text}: their rows are not sent: change the type of that column")
        # Equal numbers of different types are the same _id for mongod, so all numbers are one kind of key.
        if len({"number" if kind in _COMPARED else kind for kind in kinds}) > 1 and not misfits:
            text = f"collection {name}: _id of several types ({shown} in a sample)"
            yield Finding("warning", f'{text}: values that differ only in type, such as 1 and "1", are the same key')
        elif kinds and not misfits:
            yield Finding("ok", f"collection {name}: _id are {' and '.join(kinds)}", detail=True)

    def _columns(self, table: Table) -> Iterator[Finding]:
        """Report columns for which a sample has no value, as after a spelling mistake, or values of another type."""
        types = {column.name: column.type for column in table.spec.columns}
        for one in sample_columns(self._source, table):
            misfits = {kind: count for kind, count in one.kinds.items() if not fits(types[one.name], kind)}
            column, total = f"table {table.name}: column {one.name}", one.total
            if one.is_key and one.without_key == total:
                text = (
                    f"{column}: none of {total} documents has a value in field {one.path}, which is in the primary key"
                )
                advice = "correct the field's name in the mapping (MongoDB's own key is _id)"
                yield Finding("error", f"{text}: no row can be sent: {advice}")
            elif one.without_key:
                text = f"{column}: {one.without_key} of {total} documents have no value in field {one.path}"
                yield Finding("warning", f"{text}, which is in the primary key: their rows are not sent")
            elif one.is_missing:
                text = f"{column}: none of {total} documents has a field {one.path}: check the name"
                yield Finding("warning", text)
            if misfits:
                shown = ", ".join(f"{count} {kind}" for kind, count in misfits.items())
                text = f"{column}: values that do not fit type {types[one.name]} are sent as null"
                yield Finding("warning", f"{text}: {shown} in {total} documents")
        for name, path in table.mapping.fields or ():
            if name in table.spec.primary_key and types[name] == "number":
                yield from self._large_keys(table, name, path)

    def _large_keys(self, table: Table, name: str, path: str) -> Iterator[Finding]:
        """Report numbers above 2^53 in a key: JavaScript rounds them to a double, so two keys may become one."""
        past = {"$or": [{path: {"$gt": MAX_EXACT_INTEGER}}, {path: {"$lt": -MAX_EXACT_INTEGER}}]}
        first: list[Document] = [{"$match": past}, {"$limit": 1}, {"$project": {path: 1}}]
        source, collection = self._source, table.mapping.collection
        # The index of _id finds the first one.
        found = source.aggregate(collection, first) if path == "_id" else source.sample(collection, SAMPLE, first)
        if found:
            text = f"table {table.name}: its key {name} has numbers above 2^53, as in document {found[0]['_id']}"
            advice = "they are rounded to a double, and two keys may become one: make the column a string"
            yield Finding("warning", f"{text}: {advice}")

    def _mappings(self) -> Iterator[Finding]:
        issues = issues_of_mappings(self._source, self._catalog)
        yield from (Finding("error", str(issue)) for issue in issues)
        computed = [table.name for table in self._catalog.tables if not table.mapping.plain]
        if computed and not issues:
            yield Finding("ok", f"mappings: mongod evaluates {', '.join(computed)}")


def _covers(resource: dict[str, Any], database: str, collection: str) -> bool:
    if resource.get("anyResource"):
        return True
    return resource.get("db") in ("", database) and resource.get("collection") in ("", collection)


def _keys_of_id(table: Table) -> Iterator[tuple[str, str]]:
    """Yield (name, type) of the key columns that are mapped to ``_id`` itself."""
    types = {column.name: column.type for column in table.spec.columns}
    for name, path in table.mapping.fields or ():
        if path == "_id" and name in table.spec.primary_key:
            yield name, types[name]
