"""Computed mappings: mongod itself evaluates them, over documents that zmsd sends it.

``{"$documents": {"$literal": [...]}}`` stands in for the collection (MongoDB 5.1), the mapping's own stages follow.
Each document carries a tag by which its rows find it again, so a whole batch is one round trip: 0.27 ms for ten
documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument

from zmsd.catalog.catalog import Table
from zmsd.errors import EvaluationError
from zmsd.rows.rejects import Rejects

Document = dict[str, Any]
Stages = list[Document]
Run = Callable[[Stages], list[Document]]
"""Runs a pipeline in the database. Raises EvaluationError where its stages fail, and other SourceErrors."""

TAG = "__zmsd_tag"
_BATCH_BYTES = 12 << 20
"""Of documents in one command, which may have 16 MB and a little."""
_BATCH = 500
_UNNAMED = {"$jsonSchema", "$getField", "$setField", "$unsetField"}
"""Operators that reach fields by other means than a name in the stages."""


def stages_of(table: Table) -> Stages:
    """What mongod has to run for a table's rows."""
    mapping = table.mapping
    stages: Stages = [{"$match": mapping.filter}] if mapping.filter else []
    if mapping.pipeline is not None:
        return [*stages, *mapping.pipeline]
    paths = {column: f"${path}" for column, path in mapping.fields or ()}
    return [*stages, {"$project": mapping.projection or paths}]


class Evaluator:
    """The computed tables of one collection. May be used from any thread."""

    def __init__(self, run: Run, tables: Iterable[Table], rejects: Rejects) -> None:
        self._run = run
        self._rejects = rejects
        self._stages = {table.name: [_tagged(stage) for stage in stages_of(table)] for table in tables}

    def evaluate(self, documents: Sequence[Document]) -> dict[str, list[list[Document]]]:
        """Table -> for each document what mongod makes of it: documents with the table's columns."""
        raw = [RawBSONDocument(bson.encode({**document, TAG: tag})) for tag, document in enumerate(documents)]
        results: dict[str, list[list[Document]]] = {}
        for name, stages in self._stages.items():
            found: list[list[Document]] = [[] for _ in documents]
            for batch in _cut(raw):
                for row in self._halving(name, stages, batch):
                    found[row.pop(TAG)].append(row)
            results[name] = found
        return results

    def _halving(self, name: str, stages: Stages, batch: list[RawBSONDocument]) -> list[Document]:
        """A document on which the stages fail does not fail its batch: halved until it stands alone, then left out."""
        try:
            return self._run([{"$documents": {"$literal": batch}}, *stages])
        except EvaluationError as error:
            if len(batch) == 1:
                self._rejects.add(name, f"evaluation failed: {error}", batch[0].get("_id"))
                return []
        middle = len(batch) // 2
        return self._halving(name, stages, batch[:middle]) + self._halving(name, stages, batch[middle:])


def problems(run: Run, table: Table) -> Iterator[tuple[int, str]]:
    """What mongod says of a table's stages over no documents: (index in stages_of, message) of the first it refuses."""
    stages = stages_of(table)
    for index in range(len(stages)):
        try:
            run([{"$documents": []}, *(_tagged(stage) for stage in stages[: index + 1])])
        except EvaluationError as error:
            yield index, str(error)
            return


def follows_from_id(table: Table) -> bool:
    """Whether each document has at most one row, with a key that is made of nothing but its ``_id``."""
    mapping = table.mapping
    if mapping.fields is not None:
        paths = dict(mapping.fields)
        return all(paths[column].partition(".")[0] == "_id" for column in table.spec.primary_key)
    made = dict.fromkeys(table.spec.primary_key, False)
    for stage in stages_of(table):
        (operator, body) = next(iter(stage.items()))
        if operator in ("$match", "$redact"):
            continue
        if operator not in ("$project", "$set", "$addFields") or not isinstance(body, dict):
            return False
        if "_id" in body and body["_id"] not in (1, True, "$_id", 0, False):
            return False
        for column, expression in body.items():
            if column in made:
                made[column] = expression == "$_id" or (column == "_id" and expression in (1, True, "$_id"))
        if operator == "$project" and _is_inclusion(body):
            made = {column: made[column] and (column in body or column == "_id") for column in made}
    return all(made.values())


def used_fields(table: Table) -> frozenset[str] | None:
    """Top-level fields that the stages may read; None for all. More than are read does no harm."""
    names = _names(stages_of(table))
    return None if names is None else frozenset({"_id", *names, *(column.name for column in table.spec.columns)})


def _names(value: Any) -> set[str] | None:
    """Every name of a field in a query or an expression, and perhaps others; None where names are not all."""
    if isinstance(value, str):
        if value.startswith(("$$ROOT", "$$CURRENT")):
            return None
        return {value[1:].partition(".")[0]} if value.startswith("$") and not value.startswith("$$") else set()
    found: set[str] = set()
    if isinstance(value, dict):
        if _UNNAMED & value.keys():
            return None
        found = {key.partition(".")[0] for key in value if not key.startswith("$")}
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        more = _names(item)
        if more is None:
            return None
        found |= more
    return found


def _cut(documents: list[RawBSONDocument]) -> Iterator[list[RawBSONDocument]]:
    batch: list[RawBSONDocument] = []
    size = 0
    for document in documents:
        if batch and (len(batch) == _BATCH or size + len(document.raw) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document.raw)
    if batch:
        yield batch


def _tagged(stage: Document) -> Document:
    """The same stage, with the tag handed on and kept out of what ``$$ROOT`` gives."""
    operator, body = next(iter(stage.items()))
    body = _without_tag(body)
    if operator == "$project" and _is_inclusion(body):
        body = {**body, TAG: 1}
    elif operator == "$replaceWith":
        body = {"$mergeObjects": [body, {TAG: f"${TAG}"}]}
    elif operator == "$replaceRoot":
        body = {"newRoot": {"$mergeObjects": [body["newRoot"], {TAG: f"${TAG}"}]}}
    return {operator: body}


def _without_tag(value: Any) -> Any:
    if value in ("$$ROOT", "$$CURRENT"):
        return {"$unsetField": {"field": TAG, "input": value}}
    if isinstance(value, dict):
        return value if "$literal" in value else {key: _without_tag(item) for key, item in value.items()}
    return [_without_tag(item) for item in value] if isinstance(value, list) else value


def _is_inclusion(body: Any) -> bool:
    """Whether a $project names what stays (a field besides _id that is not 0 or false)."""
    return isinstance(body, dict) and any(
        not _is_flag(value) or bool(value) for key, value in body.items() if key != "_id" or len(body) == 1
    )


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, int, float))
