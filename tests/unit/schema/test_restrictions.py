"""What a mapping may not have mongod evaluate. An integration test compares the lists with those of a mongod."""

from __future__ import annotations

from typing import Any

import pytest

from zmsd.config.document import KeyPath
from zmsd.schema.restrictions import in_expression, in_pipeline, in_query


@pytest.mark.parametrize(
    "stages",
    [
        [{"$match": {"a": {"$gt": 5}, "$expr": {"$eq": ["$a", "$$ROOT.b"]}}}, {"$unwind": "$a"}],
        [{"$project": {"a": {"$map": {"input": "$a", "as": "one", "in": "$$one.b"}}}}],
        [{"$match": {"a": "$$NOW"}}],
        [{"$set": {"a": {"$literal": {"$rand": {}}}}}],
        [{"$match": {"a": {"$in": [{"$rand": 1}], "$elemMatch": {"b": 1, "$or": [{"c": 2}]}}}}],
        [{"$match": {"a": {"$ref": "users", "$id": 5}}}],
        [{"$redact": {"$cond": [True, "$$KEEP", "$$PRUNE"]}}],
    ],
)
def test_pipeline_over_one_document_is_allowed(stages: list[dict[str, Any]]) -> None:
    assert list(in_pipeline(stages)) == []


@pytest.mark.parametrize(
    ("stages", "path", "reason"),
    [
        ([{"$set": {}}, {"$lookup": {}}], (1, "$lookup"), "looks beyond one document"),
        ([{"$out": "c"}], (0, "$out"), "writes"),
        ([{"$merge": "c"}], (0, "$merge"), "writes"),
        ([{"$_internalX": 1}], (0, "$_internalX"), "is internal to MongoDB"),
        ([{"$new": 1}], (0, "$new"), "not a stage of a mapping; there are $match, "),
        ([{"$set": {"a": {"$rand": {}}}}], (0, "$set", "a", "$rand"), "changes by itself"),
        ([{"$set": {"a": [{"$function": {}}]}}], (0, "$set", "a", 0, "$function"), "is JavaScript"),
        ([{"$set": {"a": "$$NOW"}}], (0, "$set", "a"), "$$NOW changes by itself"),
        ([{"$set": {"a": "$$OTHER.b"}}], (0, "$set", "a"), "$$OTHER not a variable of a mapping; there are $$CURRENT"),
        ([{"$set": {"a": {"$const": 1}}}], (0, "$set", "a", "$const"), "write $literal"),
        ([{"$set": {"a": {"$toNew": 1}}}], (0, "$set", "a", "$toNew"), "not an operator that a mapping may use"),
    ],
)
def test_stage_from_which_no_row_can_follow_is_refused(
    stages: list[dict[str, Any]], path: KeyPath, reason: str
) -> None:
    ((found, why),) = in_pipeline(stages)
    assert found == path
    assert reason in why


@pytest.mark.parametrize(
    ("query", "path", "reason"),
    [
        ({"$where": "x"}, ("$where",), "is JavaScript"),
        ({"a": {"$near": 1}}, ("a", "$near"), "needs an index"),
        ({"$text": {}}, ("$text",), "needs an index"),
        ({"$sampleRate": 0.5}, ("$sampleRate",), "changes by itself"),
        ({"$or": [{"a": 1}, {"$where": "x"}]}, ("$or", 1, "$where"), "is JavaScript"),
        ({"a": {"$not": {"$near": 1}}}, ("a", "$not", "$near"), "needs an index"),
        ({"a": {"$all": [{"$elemMatch": {"$where": "x"}}]}}, ("a", "$all", 0, "$elemMatch", "$where"), "is JavaScript"),
        ({"a": {"$elemMatch": {"$near": 1}}}, ("a", "$elemMatch", "$near"), "needs an index"),
        ({"a": {"$elemMatch": {"b": {"$near": 1}}}}, ("a", "$elemMatch", "b", "$near"), "needs an index"),
        ({"$expr": {"$gt": ["$a", "$$NOW"]}}, ("$expr", "$gt", 1), "changes by itself"),
        ({"a": {"$gt": 1, "$_internal": 1}}, ("a", "$_internal"), "is internal"),
    ],
)
def test_query_operator_that_no_filter_may_have_is_refused(query: Any, path: KeyPath, reason: str) -> None:
    ((found, why),) = in_query(query)
    assert found == path
    assert reason in why


def test_each_refused_part_is_named() -> None:
    found = [path for path, _ in in_expression({"a": {"$rand": {}}, "b": ["$$NOW", {"$meta": 1}]})]
    assert found == [("a", "$rand"), ("b", 0), ("b", 1, "$meta")]
