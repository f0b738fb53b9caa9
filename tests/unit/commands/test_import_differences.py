"""Which parts of a mapping are listed, because zero-sources evaluates them otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zmsd.commands.import_differences import differences
from zmsd.config.document import ConfigDocument, parse
from zmsd.schema.catalog import load_catalog

SCHEMA = {"note": {"columns": {"id": {"type": "string"}, "n": {"type": "number"}}, "primaryKey": ["id"]}}


def document(data: Any) -> ConfigDocument:
    return parse(json.dumps(data), "m.json", kind="json")


def listed(mapping: dict[str, Any]) -> list[str]:
    """Return what is listed of one mapping, as ``key path: reason``."""
    catalog = load_catalog(document(SCHEMA), document({"note": {"source": "notes", **mapping}}))
    return [f"{issue.key}: {issue.reason}" for issue in differences(catalog)]


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        {"fields": {"id": "_id", "n": "a.b"}},
        {"filter": {"t": "x", "a.b": {"$ne": True}, "n": {"$gt": 1}, "m": {"$in": ["a", 1]}, "e": {"$exists": True}}},
        {"projection": {"id": {"$toString": "$_id"}, "n": 1}},
        {"projection": {"id": {"$hexToBase64Url": "$_id"}, "n": 1}},
        {"pipeline": [{"$match": {"t": "x"}}, {"$unwind": "$lines"}, {"$addFields": {"n": {"$add": [1, "$n"]}}}]},
    ],
)
def test_mapping_with_the_same_meaning_is_not_listed(mapping: dict[str, Any]) -> None:
    assert not listed(mapping)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"n": {"$gte": 1, "$lt": 5}}, "note.filter.n: zero-sources tests $gte only; zmsd tests $gte and $lt"),
        ({"$or": [{"a": 1}]}, "note.filter.$or: zero-sources does not know $or"),
        ({"n": {"$mod": [2, 0]}}, "note.filter.n: zero-sources does not know $mod"),
        ({"n": {"$gt": "a"}}, "note.filter.n: $gt of zero-sources compares numbers only"),
        ({"n": {"a": 1}}, "note.filter.n: an object or list equals nothing"),
        ({"n": None}, "note.filter.n: null is not a missing field"),
        ({"n": {"$in": ["a", None]}}, "note.filter.n: null is not a missing field"),
        ({"n": {"$ne": None}}, "note.filter.n: null is not a missing field"),
    ],
)
def test_filter_with_another_meaning_is_listed(condition: dict[str, Any], expected: str) -> None:
    (found,) = listed({"filter": condition})
    assert found.startswith(expected)
    (found,) = listed({"pipeline": [{"$match": condition}]})
    assert found.startswith(expected.replace("note.filter", "note.pipeline[0].$match"))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ({"$toInt": "$a"}, "makes 12 of"),
        ({"$toBool": "$a"}, 'makes false of ""'),
        ({"$toUpper": "$a"}, "does not know $toUpper and leaves the field out"),
        ("$a.b", "leaves out a renamed field"),
    ],
)
def test_projection_with_another_meaning_is_listed(expression: Any, expected: str) -> None:
    (found,) = listed({"projection": {"id": 1, "n": expression}})
    assert found.startswith("note.projection.n: zero-sources ")
    assert expected in found


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ({"$set": {"n": 1}}, "note.pipeline[0].$set: zero-sources skips this stage"),
        (
            {"$addFields": {"n": {"$divide": ["$a", "$b"]}}},
            "note.pipeline[0].$addFields.n.$divide: zero-sources makes null",
        ),
        (
            {"$addFields": {"n": {"$add": [{"$size": "$a"}, 1]}}},
            "note.pipeline[0].$addFields.n.$add[0].$size: zero-sources does",
        ),
        ({"$project": {"n": {"$toInt": "$a"}}}, "note.pipeline[0].$project.n: zero-sources makes 12"),
    ],
)
def test_stage_with_another_meaning_is_listed(stage: dict[str, Any], expected: str) -> None:
    (found,) = listed({"pipeline": [stage]})
    assert found.startswith(expected)
