"""Rows from documents: through plain mappings beside json.dumps of the same documents, in µs for a document; through
computed ones, with the round trip to mongod, beside pymongo's plain find() of the same documents.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.support import bare, report
from bench.support.report import Figure
from bench.support.scene import COLUMNS, Scene, document
from zmsd.bson_types import Document
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.source import Source
from zmsd.rows.computed import Evaluator
from zmsd.rows.plain import RowFunction, compile_rows
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec

_BATCH = 1000  # documents, as the readers get them
_FIELDS = tuple((name, "_id" if name == "id" else name) for name in COLUMNS)
_FILTER = {"n": {"$gte": 0}, "$or": [{"done": True}, {"text": {"$regex": "^lorem"}}]}
_PROJECTION = {
    **{name: f"${path}" for name, path in _FIELDS},
    "name": {"$concat": [{"$toUpper": "$name"}, "!"]},
    "text": {"$substrCP": ["$text", 0, 20]},
    "n": {"$add": ["$n", {"$strLenCP": "$name"}]},
}
_UNWIND = [
    {"$unwind": {"path": "$lines", "includeArrayIndex": "at"}},
    {"$project": {"id": {"$concat": ["$name", {"$toString": "$at"}]}, "n": "$lines.n", "text": "$lines.sku", "at": 1}},
]


def measure(scene: Scene, short: bool) -> Iterator[Figure]:
    rounds = 5 if short else 11
    documents = 20_000 if short else 50_000
    db = scene.fresh()
    yield from _plain(_stored(db["c0"], documents), rounds)
    source = Source(scene.uri(db), db.name)
    for name, mapping in (
        ("computed: a filter", {"fields": _FIELDS, "filter": _FILTER}),
        ("computed: a filter, 3 expressions", {"filter": _FILTER, "projection": _PROJECTION}),
    ):
        yield _computed(name, _table(**mapping), source, db["c0"], rounds)
    _stored(db["c0"], documents // 5, lines=[{"n": number, "sku": f"sku {number}"} for number in range(10)])
    yield _computed("computed: $unwind of 10", _table(pipeline=_UNWIND), source, db["c0"], rounds)
    source.close()


def _plain(documents: list[Document], rounds: int) -> Iterator[Figure]:
    row = compile_rows(_table(fields=_FIELDS))
    of_json = [{**found, "_id": str(found["_id"]), "at": found["at"].second} for found in documents]
    pairs = [(_each(row, of_json), _each(json.dumps, of_json)) for _ in range(rounds)]
    yield report.ratio("plain: 6 columns, types of JSON", "µs", pairs, at_most=0.5)
    pairs = [
        (_each(row, documents), _each(lambda found: json.dumps(found, default=str), documents)) for _ in range(rounds)
    ]
    yield report.ratio("plain: 6 columns, ObjectId and date", "µs", pairs, at_most=0.5)


def _computed(name: str, table: Table, source: Source, collection: Any, rounds: int) -> Figure:
    """Return the documents/s."""
    documents = list(collection.find())
    evaluator = Evaluator(source.run, [table], Rejects())
    mapping = table.mapping if table.mapping.fields else Mapping("c0", tuple((name, name) for name in COLUMNS))
    row = compile_rows(Table(table.spec, Mapping("c0", mapping.fields)))
    pairs = []
    for _ in range(rounds):
        started = time.perf_counter()
        made = sum(_rows(evaluator, row, documents[at : at + _BATCH]) for at in range(0, len(documents), _BATCH))
        ours = time.perf_counter() - started
        assert made >= len(documents), "no row is missing"
        pairs.append((len(documents) / ours, len(documents) / bare.find(collection)[0]))
    return report.ratio(name, "docs/s", pairs)


def _rows(evaluator: Evaluator, row: RowFunction, documents: list[Document]) -> int:
    (results,) = evaluator.evaluate(documents).values()
    return len([row(result) for found in results for result in found])


def _table(**mapping: Any) -> Table:
    spec = TableSpec("item", tuple(Column(name, kind) for name, kind in COLUMNS.items()), ("id",))
    return Table(spec, Mapping("c0", **{"fields": None, **mapping}))


def _stored(collection: Any, count: int, **more: Any) -> list[Document]:
    """Replace the collection's content with new documents, and return them."""
    collection.delete_many({})
    collection.insert_many({**document(number), **more} for number in range(count))
    return list(collection.with_options(codec_options=CODEC).find())


def _each(function: Callable[[Document], object], documents: list[Document]) -> float:
    """Return the microseconds for a document."""
    started = time.perf_counter()
    for found in documents:
        function(found)
    return (time.perf_counter() - started) / len(documents) * 1e6


if __name__ == "__main__":
    report.cli(measure)
