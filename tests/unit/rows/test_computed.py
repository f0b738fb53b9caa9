"""What is known about a computed mapping without asking mongod; tests/integration/test_computed_differential.py
compares results with mongod's."""

from __future__ import annotations

from typing import Any

import pytest

from zmsd.errors import EvaluationError
from zmsd.rows.computed import SOURCE_ID, Evaluator, follows_from_id, problems, used_fields
from zmsd.rows.rejects import Rejects
from zmsd.rows.tagging import TAG
from zmsd.schema.catalog import Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec

Stages = list[dict[str, Any]]


def table(key: tuple[str, ...] = ("id",), **mapping: Any) -> Table:
    """Return a table with the columns id and x."""
    spec = TableSpec("t", (Column("id", "string"), Column("x", "json"), Column("_id", "string")), key)
    return Table(spec, Mapping("c", **{"fields": None, **mapping}))


FIELDS = (("id", "_id"), ("x", "a.x"), ("_id", "_id"))
FILTER = {"n": {"$gt": 1}}


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"fields": FIELDS, "filter": FILTER}, True),
        ({"fields": (("id", "_id.x"), *FIELDS[1:]), "filter": FILTER}, True),
        ({"fields": (("id", "code"), *FIELDS[1:]), "filter": FILTER}, False),
        ({"projection": {"id": "$_id", "x": {"$add": [1, "$n"]}}}, True),
        ({"projection": {"id": {"$toString": "$_id"}, "x": "$x"}}, False),
        ({"projection": {"x": "$_id"}}, False),
        ({"pipeline": [{"$set": {"id": "$_id"}}]}, True),
        ({"pipeline": [{"$set": {"x": "$_id"}}, {"$project": {"id": "$x"}}]}, True),
        ({"pipeline": [{"$project": {"id": "$_id", "_id": 0}}, {"$match": {"x": 1}}, {"$redact": "$$KEEP"}]}, True),
        ({"pipeline": [{"$project": {"_id": 0}}, {"$set": {"id": "$_id"}}]}, False),
        ({"pipeline": [{"$set": {"id": "$_id"}}, {"$set": {"id": 1}}]}, False),
        ({"pipeline": [{"$set": {"id": "$_id"}}, {"$set": {"id.x": 1}}]}, False),
        ({"pipeline": [{"$set": {"id": "$_id"}}, {"$project": {"x": 1}}]}, False),
        ({"pipeline": [{"$set": {"id": "$_id"}}, {"$project": {"id": 1}}]}, True),
        ({"pipeline": [{"$set": {"id": "$_id"}}, {"$project": {"x": 0}}]}, True),
        ({"pipeline": [{"$set": {"id": "$_id"}}, {"$project": {"id": 0}}]}, False),
        ({"pipeline": [{"$set": {"id": "$_id"}}, {"$unset": ["x", "_id"]}]}, True),
        ({"pipeline": [{"$set": {"id": "$_id"}}, {"$unset": "id"}]}, False),
        ({"pipeline": [{"$unwind": "$l"}, {"$set": {"id": "$_id"}}]}, False),
        ({"pipeline": [{"$replaceWith": {"id": "$_id"}}]}, False),
        ({"pipeline": [{"$unset": "x"}], "key": ("_id",)}, True),
        ({"pipeline": [{"$unset": "_id"}], "key": ("_id",)}, False),
        ({"pipeline": [{"$set": {"_id": "$x"}}], "key": ("_id",)}, False),
        ({"pipeline": [{"$set": {"id": "$_id"}}], "key": ("id", "x")}, False),
        ({"pipeline": [{"$unset": 5}, {"$set": []}]}, False),
    ],
)
def test_mapping_that_follows_from_id_is_recognised(mapping: dict[str, Any], expected: bool) -> None:
    assert follows_from_id(table(**mapping)) is expected


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"fields": FIELDS, "filter": {"n.m": {"$gt": 1}}}, {"_id", "a", "n"}),
        ({"projection": {"id": "$_id", "x": {"$add": ["$n.m", {"$size": "$list"}]}}}, {"id", "x", "n", "list"}),
        ({"pipeline": [{"$unwind": "$lines"}, {"$match": {"lines.n": 1}}]}, {"lines", "id", "x"}),
        ({"fields": FIELDS, "filter": {"price": {"$regex": "$"}, "$or": [{"q": "$"}, {"r": "$5\0"}]}}, {"price", "q"}),
        ({"projection": {"id": "$$ROOT"}}, None),
        ({"projection": {"id": {"$getField": "n"}}}, None),
        ({"pipeline": [{"$redact": {"$cond": [{"$gt": ["$$CURRENT.n", 1]}, "$$KEEP", "$$PRUNE"]}}]}, None),
        ({"fields": FIELDS, "filter": {"$jsonSchema": {"properties": {"a": {}}}}}, None),
    ],
)
def test_used_fields_contain_those_that_are_read(mapping: dict[str, Any], expected: set[str] | None) -> None:
    found = used_fields(table(**mapping))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found >= expected
        assert "" not in found
        assert not any("." in name or "$" in name or "\0" in name for name in found)


class Server:
    """Evaluates nothing, and refuses batches with certain documents."""

    def __init__(self, *bad: int, passing: int = 0) -> None:
        self.bad = bad
        self.passing = passing
        self.batches: list[list[int]] = []

    def run(self, stages: Stages, seconds: float) -> Stages:
        documents = stages[0]["$documents"]["$literal"]
        self.batches.append([document["_id"] for document in documents])
        if self.passing:
            self.passing -= 1
            raise EvaluationError("a moment's trouble")
        if any(document["_id"] in self.bad for document in documents):
            raise EvaluationError("Failed to parse number 'abc, it's: secret' in $convert with 17 things: Did not")
        return [{"id": document["_id"], TAG: document[TAG]} for document in documents]


def evaluated(server: Server, count: int, rejects: Rejects, known: tuple[int, ...] = ()) -> list[Stages]:
    documents = [{"_id": number} for number in range(count)]
    found = Evaluator(server.run, [table(pipeline=[{"$set": {"id": 1}}])], rejects).evaluate(documents, known)
    return found["t"]


def test_each_document_gets_its_own_rows() -> None:
    found = evaluated(Server(), 1200, Rejects())
    assert found == [[{"id": number, SOURCE_ID: number}] for number in range(1200)]


def test_failing_document_is_rejected_alone_without_its_values() -> None:
    server, rejects = Server(3, 77, 78), Rejects()
    found = evaluated(server, 100, rejects)
    assert [number for number, rows in enumerate(found) if not rows] == [3, 77, 78]
    reason = "evaluation failed: Failed to parse number … in $convert with … things"
    assert rejects.counts() == {("t", reason): 3}
    assert {reject.id for reject in rejects.newest()} == {"3", "77", "78"}
    assert len(server.batches) < 60


def test_known_rejections_are_not_reported_again() -> None:
    rejects = Rejects()
    evaluated(Server(3, 4), 5, rejects, known=(3,))
    assert [reject.id for reject in rejects.newest()] == ["4"]


def test_evaluation_may_be_limited_to_some_tables() -> None:
    server = Server()
    evaluator = Evaluator(server.run, [table(pipeline=[{"$set": {"id": 1}}])], Rejects())
    assert evaluator.evaluate([{"_id": 1}], only={"other"}) == {}
    assert not server.batches
    assert list(evaluator.evaluate([{"_id": 1}], only={"other", "t"})) == ["t"]


def test_transient_error_rejects_no_document() -> None:
    rejects = Rejects()
    assert all(evaluated(Server(passing=1), 1, rejects))
    assert all(evaluated(Server(passing=1), 2, rejects))
    assert not rejects.counts()


def test_evaluation_is_done_in_batches() -> None:
    server = Server()
    evaluated(server, 1100, Rejects())
    assert [len(batch) for batch in server.batches] == [500, 500, 100]


def test_mapping_part_that_mongod_refuses_is_named() -> None:
    def run(stages: Stages, seconds: float) -> Stages:
        if any("$foo" in str(stage) for stage in stages):
            raise EvaluationError("Unrecognized expression '$foo'")
        return []

    projected = table(projection={"id": "$_id", "x": {"$foo": 1}, "_id": {"$foo": 2}})
    assert [fault.key for fault in problems(run, projected)] == ["projection.x", "projection._id"]
    piped = table(filter={"a": 1}, pipeline=[{"$unset": "a"}, {"$set": {"x": {"$foo": 1}}}, {"$set": {"$foo": 1}}])
    (fault,) = problems(run, piped)
    assert (fault.key, fault.reason) == ("pipeline[1]", "mongod refuses it: Unrecognized expression '$foo'")
    assert not problems(run, table(pipeline=[{"$unset": "a"}]))
