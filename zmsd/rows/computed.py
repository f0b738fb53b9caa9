"""Computed mappings: mongod evaluates their stages over documents that zmsd sends.

``{"$documents": {"$literal": [...]}}`` replaces the collection
(https://www.mongodb.com/docs/manual/reference/operator/aggregation/documents/, MongoDB 5.1), and the mapping's stages
follow. Each document has a tag that its rows keep, so one request evaluates a batch. The stages do not see the tag
(``tagging``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from zmsd.bson_types import Document
from zmsd.config.document import KeyPath
from zmsd.config.mongodb_names import path_problem
from zmsd.errors import ConfigIssue, EvaluationError, SourceTimeout
from zmsd.pace import FIRST_SECONDS, Pace
from zmsd.rows.rejects import Rejects
from zmsd.rows.tagging import TAG, flag, is_inclusion, tagged, tagged_document
from zmsd.schema.catalog import Table

Stages = list[Document]
Run = Callable[[Stages, float], list[Document]]
"""Runs a pipeline in the database within a number of seconds. Raises EvaluationError if its stages fail, and other
SourceErrors."""

SOURCE_ID = TAG
"""Field of a result that has the ``_id`` of its document."""
_BATCH = 500
"""Documents in one command."""
_LABEL = 100
"""Characters of mongod's message in a reject's reason."""
_UNNAMED = {"$jsonSchema", "$getField", "$setField", "$unsetField"}
"""Operators that read fields without a field path in the stages."""


def stages_of(table: Table) -> Stages:
    """Return the stages of a table's mapping. The stages of a mapping with only a filter return complete documents."""
    return [stage for _, stage in _written(table)]


class Evaluator:
    """Evaluates the computed tables of one collection. Thread-safe."""

    def __init__(self, run: Run, tables: Sequence[Table], rejects: Rejects) -> None:
        self._run = run
        self._pace = Pace(_BATCH)
        self._rejects = rejects
        self._filters = {table.name for table in tables if table.mapping.fields is not None}
        self._stages = {table.name: _runnable(table) for table in tables}

    def evaluate(
        self, documents: Sequence[Document], known: Collection[int] = (), only: Collection[str] | None = None
    ) -> dict[str, list[list[Document]]]:
        """Return table -> for each document, the documents that mongod makes of it.

        A result has the table's columns and SOURCE_ID. For a table with ``fields`` it is the document itself, if the
        document passes the filter. A document on which the stages fail has no result, and is counted as rejected.
        Raises SourceError.

        :param known: indexes of documents that have been evaluated before; their failures are not counted again
        :param only: names of tables; None for all
        """
        marked = [tagged_document(document, tag) for tag, document in enumerate(documents)]
        results: dict[str, list[list[Document]]] = {}
        chosen = self._stages.keys() if only is None else self._stages.keys() & only
        for name in chosen:
            stages = self._stages[name]
            found = results[name] = [[] for _ in documents]
            failures: dict[int, str] = {}
            size = self._pace.size
            for start in range(0, len(marked), size):
                for row in self._halving(stages, marked[start : start + size], failures):
                    tag = row[TAG]
                    row[SOURCE_ID] = documents[tag].get("_id")
                    found[tag].append(documents[tag] if name in self._filters else row)
            for tag, message in failures.items():
                if tag not in known:
                    reason = f"evaluation failed: {_label(message)}"
                    self._rejects.add(name, reason, documents[tag].get("_id"), "row not sent")
        return results

    def _halving(self, stages: Stages, batch: Sequence[Mapping[str, Any]], failures: dict[int, str]) -> list[Document]:
        """Return the results of a batch, and record the documents on which the stages fail.

        A batch that fails, or exceeds the size of a command, is halved until the document that fails is alone.
        """
        pipeline = [{"$documents": {"$literal": batch}}, *stages]
        try:
            return self._evaluated(pipeline)
        except EvaluationError:
            if len(batch) > 1:
                halves = batch[: len(batch) // 2], batch[len(batch) // 2 :]
                return [row for half in halves for row in self._halving(stages, half, failures)]
        try:
            return self._evaluated(pipeline)  # again, so that a transient server error is not blamed on the document
        except EvaluationError as error:
            failures[batch[0][TAG]] = str(error)
            return []

    def _evaluated(self, pipeline: Stages) -> list[Document]:
        """Run a pipeline. After a SourceTimeout the next requests have fewer documents and a longer deadline."""
        begun = time.monotonic()
        try:
            rows = self._run(pipeline, self._pace.seconds)
        except SourceTimeout as error:
            self._pace.late(busy=error.busy)
            raise
        self._pace.in_time(time.monotonic() - begun)
        return rows


def problems(run: Run, table: Table) -> list[ConfigIssue]:
    """Return why mongod refuses a computed mapping: the errors of the first stage that it refuses.

    The stages run without documents, so only errors that do not depend on a document are found.
    """
    stages: Stages = [{"$documents": []}]
    for key_path, stage in _written(table):
        reason = _refusal(run, [*stages, stage])
        if reason is not None:
            members = [] if key_path[0] == "pipeline" else _members(stage)
            alone = [(key, _refusal(run, [*stages, member])) for key, member in members]
            issues = [table.mapping.issue((*key_path, key), f"mongod refuses it: {why}") for key, why in alone if why]
            return issues or [table.mapping.issue(key_path, f"mongod refuses it: {reason}")]
        stages.append(stage)
    reason = _refusal(run, [{"$documents": []}, *_runnable(table)])
    return [table.mapping.issue((), f"mongod refuses it with zmsd's tags: {reason}")] if reason else []


def follows_from_id(table: Table) -> bool:
    """Return whether each document has at most one row, with a key that depends on nothing but its ``_id``."""
    mapping = table.mapping
    if mapping.fields is not None:
        paths = dict(mapping.fields)
        return all(paths[column].partition(".")[0] == "_id" for column in table.spec.primary_key)
    same = {"_id"}  # fields that are known to have the document's _id
    for stage in stages_of(table):
        operator, body = next(iter(stage.items()))
        if operator in ("$match", "$redact"):
            continue
        if operator == "$unset":
            names = body if isinstance(body, list) else [body]
            operator, body = "$project", {name: 0 for name in names if isinstance(name, str)}
        if operator in ("$project", "$set", "$addFields") and isinstance(body, dict):
            same_values = [f"${name}" for name in same]
            copies = {name for name, value in body.items() if value in same_values and "." not in name}
            same = copies | {name for name in same if _stays(name, operator, body)}
        else:
            return False
    return same.issuperset(table.spec.primary_key)


def used_fields(table: Table) -> frozenset[str] | None:
    """Return the top-level fields that the rows may depend on; None for all."""
    names = _names(stages_of(table))
    if names is None:
        return None
    # A field that a pipeline does not change may be a column.
    left_alone = table.spec.columns if table.mapping.pipeline is not None else ()
    columns = [column.name.partition(".")[0] for column in left_alone]
    paths = [path.partition(".")[0] for _, path in table.mapping.fields or ()]
    return frozenset({"_id", *filter(_is_name, names), *columns, *paths})


def _written(table: Table) -> Iterator[tuple[KeyPath, Document]]:
    """Yield the stages, each with its key path in the mapping."""
    mapping = table.mapping
    if mapping.filter:
        yield ("filter",), {"$match": mapping.filter}
    if mapping.projection is not None:
        yield ("projection",), {"$project": mapping.projection}
    for index, stage in enumerate(mapping.pipeline or ()):
        yield ("pipeline", index), stage


def _runnable(table: Table) -> Stages:
    stages = [step for stage in stages_of(table) for step in tagged(stage)]
    return stages if table.mapping.fields is None else [*stages, {"$project": {"_id": 0, TAG: 1}}]


def _refusal(run: Run, stages: Stages) -> str | None:
    try:
        run(stages, FIRST_SECONDS)
    except EvaluationError as error:
        return str(error)
    return None


def _members(stage: Document) -> list[tuple[str, Document]]:
    """Return a stage for each member of the stage's body alone."""
    operator, body = next(iter(stage.items()))
    return [(key, {operator: {key: value}}) for key, value in body.items()]


def _label(message: str) -> str:
    """Return mongod's message without values, so that documents with the same error have the same text."""
    quoted = re.sub(r"(?<!\w)'.*'|\".*\"", "…", message, flags=re.DOTALL)
    general = re.sub(r"-?\d[\w.+-]*", "…", re.split("[:,] ", quoted)[0])
    return general if len(general) <= _LABEL else general[:_LABEL] + "…"


def _stays(name: str, operator: str, body: Document) -> bool:
    """Return whether a stage leaves a field as it is."""
    if any(key.startswith(f"{name}.") for key in body):
        return False
    if name not in body:
        return operator != "$project" or name == "_id" or not is_inclusion(body)
    return operator == "$project" and flag(body[name]) is True


def _names(value: Any) -> set[str] | None:
    """Return all names of fields in a query or an expression, and perhaps more; None if it may read any field."""
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


def _is_name(name: str) -> bool:
    """Return whether a name can be a field's: a text that begins with $ may be only a text."""
    return path_problem(name) is None
