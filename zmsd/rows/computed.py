"""Computed mappings: mongod itself evaluates them, over documents that zmsd sends it.

``{"$documents": {"$literal": [...]}}`` stands in for the collection (MongoDB 5.1), the mapping's own stages follow.
Each document carries a tag by which its rows find it again, so a whole batch is one round trip: 0.27 ms for ten
documents. The stages do not see the tag (tagged.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from zmsd.bson_types import Document
from zmsd.config.document import KeyPath
from zmsd.config.mongodb_names import path_problem
from zmsd.errors import ConfigIssue, EvaluationError, SourceTimeout
from zmsd.pace import FIRST_SECONDS, Pace
from zmsd.rows.rejects import Rejects
from zmsd.rows.tagging import TAG, flag, is_inclusion, tagged
from zmsd.schema.catalog import Table

Stages = list[Document]
Run = Callable[[Stages, float], list[Document]]
"""Runs a pipeline in the database within so many seconds. Raises EvaluationError where its stages fail, and other
SourceErrors."""

SOURCE_ID = TAG
"""The member of a result that is the ``_id`` of its document."""
_BATCH = 500
"""Documents in one command."""
_LABEL = 100
"""Characters of mongod's message in a reject's reason."""
_UNNAMED = {"$jsonSchema", "$getField", "$setField", "$unsetField"}
"""Operators that reach fields by other means than a name in the stages."""


def stages_of(table: Table) -> Stages:
    """What mongod has to run for a table: as the mapping has it. Where that is but a filter, whole documents come."""
    return [stage for _, stage in _written(table)]


class Evaluator:
    """The computed tables of one collection. May be used from any thread."""

    def __init__(self, run: Run, tables: Sequence[Table], rejects: Rejects) -> None:
        self._run = run
        self._pace = Pace(_BATCH)
        self._rejects = rejects
        self._filters = {table.name for table in tables if table.mapping.fields is not None}
        self._stages = {table.name: _runnable(table) for table in tables}

    def evaluate(
        self, documents: Sequence[Document], known: Collection[int] = (), only: Collection[str] | None = None
    ) -> dict[str, list[list[Document]]]:
        """Table -> for each document what mongod makes of it: documents with the table's columns, and their SOURCE_ID.
        For a table with ``fields`` it is the document itself, where the filter takes it.

        :param known: indexes of documents that have been evaluated before; their failures are not told again
        :param only: names of tables; None for all
        """
        marked = [{**document, TAG: tag} for tag, document in enumerate(documents)]
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
                    self._rejects.add(name, f"evaluation failed: {_label(message)}", documents[tag].get("_id"))
        return results

    def _halving(self, stages: Stages, batch: list[Document], failures: dict[int, str]) -> list[Document]:
        """A document on which the stages fail does not fail its batch: halved until it stands alone, then left out.
        So is a batch that is larger than a command may be."""
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
        """Raises SourceTimeout: when the caller tries again, fewer documents are sent at once and given longer."""
        begun = time.monotonic()
        try:
            rows = self._run(pipeline, self._pace.seconds)
        except SourceTimeout as error:
            self._pace.late(busy=error.busy)
            raise
        self._pace.in_time(time.monotonic() - begun)
        return rows


def problems(run: Run, table: Table) -> list[ConfigIssue]:
    """What mongod says against a computed mapping, over no documents: of the first stage that it refuses."""
    stages: Stages = [{"$documents": []}]
    for key_path, stage in _written(table):
        reason = _refusal(run, [*stages, stage])
        if reason is not None:
            members = [] if key_path[0] == "pipeline" else _members(stage)
            alone = [(key, _refusal(run, [*stages, member])) for key, member in members]
            faults = [table.mapping.issue((*key_path, key), f"mongod refuses it: {why}") for key, why in alone if why]
            return faults or [table.mapping.issue(key_path, f"mongod refuses it: {reason}")]
        stages.append(stage)
    reason = _refusal(run, [{"$documents": []}, *_runnable(table)])
    return [table.mapping.issue((), f"mongod refuses it with zmsd's tags: {reason}")] if reason else []


def follows_from_id(table: Table) -> bool:
    """Whether each document has at most one row, with a key that is made of nothing but its ``_id``."""
    mapping = table.mapping
    if mapping.fields is not None:
        paths = dict(mapping.fields)
        return all(paths[column].partition(".")[0] == "_id" for column in table.spec.primary_key)
    same = {"_id"}  # the fields that are known to hold the document's _id
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
    """Top-level fields that are needed for the rows; None for all. More than are needed do no harm."""
    names = _names(stages_of(table))
    if names is None:
        return None
    # What a pipeline leaves alone may be a column; fields are read from the documents themselves.
    left_alone = table.spec.columns if table.mapping.pipeline is not None else ()
    columns = [column.name.partition(".")[0] for column in left_alone]
    paths = [path.partition(".")[0] for _, path in table.mapping.fields or ()]
    return frozenset({"_id", *filter(_is_name, names), *columns, *paths})


def _written(table: Table) -> Iterator[tuple[KeyPath, Document]]:
    """The stages, each with its place in the mapping."""
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
    """A stage for each member of the stage's body alone."""
    operator, body = next(iter(stage.items()))
    return [(key, {operator: {key: value}}) for key, value in body.items()]


def _label(message: str) -> str:
    """mongod's message without values: what it says of a whole class of documents. A value may have quotes in it."""
    quoted = re.sub(r"(?<!\w)'.*'|\".*\"", "…", message, flags=re.DOTALL)
    general = re.sub(r"-?\d[\w.+-]*", "…", re.split("[:,] ", quoted)[0])
    return general if len(general) <= _LABEL else general[:_LABEL] + "…"


def _stays(name: str, operator: str, body: Document) -> bool:
    """Whether a field is after a stage what it was before it."""
    if any(key.startswith(f"{name}.") for key in body):
        return False
    if name not in body:
        return operator != "$project" or name == "_id" or not is_inclusion(body)
    return operator == "$project" and flag(body[name]) is True


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


def _is_name(name: str) -> bool:
    """Text with a $ in front may have been but text."""
    return path_problem(name) is None
