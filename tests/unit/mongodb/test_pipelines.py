from __future__ import annotations

from zmsd.mongodb.pipelines import match_collections, match_filters, match_name, project_fields


def test_match_collections_has_their_events_and_those_that_end_the_stream() -> None:
    match = match_collections(["b", "a"])["$match"]["$or"]
    assert match == [
        {"ns.coll": {"$in": ["a", "b"]}},
        {"to.coll": {"$in": ["a", "b"]}},
        {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
    ]


def test_match_name_has_renames_in_both_directions() -> None:
    match = match_name("a")["$match"]["$or"]
    assert match == [{"ns.coll": "a"}, {"to.coll": "a"}, {"operationType": "invalidate"}]


def test_match_filters_without_filters_has_no_stage() -> None:
    assert match_filters({}) == []


def test_match_filters_keeps_what_no_filter_can_judge() -> None:
    (stage,) = match_filters({"a": [{"kind": "x"}]})
    assert stage["$match"]["$or"] == [
        {"operationType": {"$nin": ["delete", "insert", "replace", "update"]}},
        {"ns.coll": {"$nin": ["a"]}},
        {"operationType": {"$in": ["insert", "update", "replace"]}, "fullDocument": None},
        {"operationType": {"$in": ["update", "replace", "delete"]}, "fullDocumentBeforeChange": None},
        {"ns.coll": "a", "fullDocument.kind": "x"},
        {"ns.coll": "a", "fullDocumentBeforeChange.kind": "x"},
    ]


def test_project_fields_of_all_fields_drops_only_the_update_description() -> None:
    assert project_fields(None) == {"$project": {"updateDescription": 0}}


def test_project_fields_keeps_the_fields_of_both_images() -> None:
    project = project_fields(frozenset(("b", "a")))["$project"]
    assert list(project)[-4:] == [
        "fullDocument.a",
        "fullDocument.b",
        "fullDocumentBeforeChange.a",
        "fullDocumentBeforeChange.b",
    ]
    assert {"operationType", "documentKey"} <= project.keys()
    assert "updateDescription" not in project
