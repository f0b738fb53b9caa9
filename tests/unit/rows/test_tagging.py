"""Stages that pass a document's tag on to its rows. Differential tests compare their results in a mongod."""

from __future__ import annotations

from typing import Any

import pytest
from bson import Decimal128

from zmsd.bson_types import Document
from zmsd.rows.tagging import TAG, flag, is_inclusion, tagged


@pytest.mark.parametrize(
    "stage",
    [
        {"$unwind": "$a"},
        {"$unset": ["a"]},
        {"$match": {"a": {"$gt": 5}, "b": "$$ROOT"}},
        {"$set": {"a": {"$concat": ["$a", "x"]}}},
        {"$project": {"a": 0}},
        {"$match": 5},
        {"$replaceRoot": {}},
    ],
)
def test_stage_that_neither_sees_nor_loses_the_tag_stays(stage: Document) -> None:
    """Some of them mongod refuses, which is its to say."""
    assert tagged(stage) == [stage]


def test_projection_that_names_what_stays_keeps_the_tag() -> None:
    assert tagged({"$project": {"a": 1}}) == [{"$project": {"a": 1, TAG: 1}}]


@pytest.mark.parametrize("operator", ["$replaceWith", "$replaceRoot"])
def test_new_root_gets_the_tag(operator: str) -> None:
    body: Any = "$a" if operator == "$replaceWith" else {"newRoot": "$a"}
    ((stage),) = tagged({operator: body})
    new = stage[operator] if operator == "$replaceWith" else stage[operator]["newRoot"]
    assert new["$let"]["vars"] == {"root": "$a"}
    assert new["$let"]["in"]["$cond"][1]["$setField"]["field"] == TAG
    assert new["$let"]["in"]["$cond"][2] == "$$root", "what is not a document fails as without the tag"


@pytest.mark.parametrize("root", ["$$ROOT", "$$CURRENT"])
def test_expression_over_the_document_does_not_see_the_tag(root: str) -> None:
    ((stage),) = tagged({"$set": {"a": {"$objectToArray": root}, "b": {"$literal": root}}})
    seen = stage["$set"]["a"]["$objectToArray"]
    assert seen["$cond"][1] == {"$unsetField": {"field": TAG, "input": root}}
    assert stage["$set"]["b"] == {"$literal": root}


def test_expressions_of_a_query_come_after_the_conditions_that_guard_them() -> None:
    query = {"$expr": {"$eq": ["$$ROOT", 1]}, "$or": [{"$expr": 1}, {"b": 1}], "a": 1}
    ((stage),) = tagged({"$match": query})
    assert list(stage["$match"]) == ["a", "$expr", "$or"]
    assert stage["$match"]["$or"] == [{"b": 1}, {"$expr": 1}]
    assert TAG in str(stage["$match"]["$expr"])


def test_schema_of_a_query_sees_the_document_alone() -> None:
    """It may restrict all fields of a document."""
    query = {"$and": [{"$jsonSchema": {"additionalProperties": False}}]}
    lookup, match, unset = tagged({"$match": query})
    assert lookup["$lookup"]["pipeline"] == [{"$documents": ["$$document"]}, {"$match": query}]
    assert TAG in str(lookup["$lookup"]["let"])
    matched = lookup["$lookup"]["as"]
    assert match == {"$match": {matched: {"$ne": []}}}
    assert unset == {"$unset": matched}


@pytest.mark.parametrize(
    ("body", "inclusion"),
    [
        ({"a": 1}, True),
        ({"a": 0}, False),
        ({"a": 0, "_id": 1}, False),
        ({"_id": 1}, True),
        ({"_id": 0}, False),
        ({"_id": 0, "a": 1}, True),
        ({"a": "$b"}, True),
        ({"a": {"b": 0}}, False),
        ({"a": {"b": {"c": True}}}, True),
        ({"a": {"$add": [0]}}, True),
        ({"a": 0.0}, False),
        ({"a": Decimal128("0")}, False),
        ({}, False),
        ("x", False),
    ],
)
def test_projection_is_an_inclusion_by_its_members(body: Any, inclusion: bool) -> None:
    assert is_inclusion(body) is inclusion


@pytest.mark.parametrize(("value", "stays"), [(1, True), (0.0, False), (True, True), (Decimal128("2"), True)])
def test_number_in_a_projection_is_a_flag(value: Any, stays: bool) -> None:
    assert flag(value) is stays
    assert flag("$a") is None
    assert flag({"$add": [1]}) is None
