from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp

from zmsd.config.document import parse
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping, default_mapping, parse_mappings
from zmsd.schema.tables import Column, TableSpec, parse_schema

SCHEMA = {
    "message": {
        "serverName": "messages",
        "columns": {
            "id": {"type": "string"},
            "content": {"type": "string"},
            "createdAt": {"type": "number", "serverName": "created_at"},
        },
        "primaryKey": ["id"],
    },
    "user": {"columns": {"id": {"type": "string"}}, "primaryKey": ["id"]},
}
TABLES = parse_schema(parse(json.dumps(SCHEMA), "s.json", kind="json"))[0]
OWN_NAMES = (("id", "id"), ("content", "content"), ("created_at", "created_at"))


def read(data: Any) -> tuple[dict[str, Mapping], list[str], list[str]]:
    document = parse(json.dumps(data), "m.json", kind="json")
    mappings, issues, warnings = parse_mappings(document, TABLES)
    texts = [[f"{issue.key}: {issue.reason}" for issue in some] for some in (issues, warnings)]
    return mappings, texts[0], texts[1]


def mapping(**data: Any) -> Mapping:
    """Return the mapping of ``message``, which must have no error."""
    mappings, issues, warnings = read({"message": data})
    assert not issues
    assert not warnings
    return mappings["messages"]


def faults_of(**data: Any) -> list[str]:
    return read({"message": data})[1]


PATHS = (("id", "_id"), ("content", "body.text"), ("created_at", "created_at"))


@pytest.mark.parametrize(
    "form",
    [
        {"collection": "m", "fields": {"id": "_id", "content": "body.text"}},
        {"source": "m", "fields": {"id": "_id", "content": "body.text"}},
        {"source": "m", "collection": "m", "fields": {"id": "_id", "content": "body.text"}},
        {"source": "m", "projection": {"id": "$_id", "content": "$body.text", "created_at": 1}},
        {"collection": "m", "projection": {"_id": 0, "id": "$_id", "content": "$body.text", "created_at": True}},
        {"source": "m", "filter": {}, "projection": {"id": "$_id", "content": "$body.text"}},
        {"source": "m", "fields": {"id": "_id", "content": "body.text", "createdAt": "created_at"}},
        {"source": "m", "fields": {"id": "_id", "content": "body.text", "created_at": "created_at"}, "filter": None},
    ],
)
def test_equivalent_forms_are_equal(form: dict[str, Any]) -> None:
    assert mapping(**form) == Mapping("m", PATHS)
    assert mapping(**form).plain
    assert faults_of(**form) == []


@pytest.mark.parametrize("form", [{}, {"fields": {}}, {"projection": {}}, {"projection": {"_id": 0}}, {"pipeline": []}])
def test_mapping_without_fields_uses_column_names(form: dict[str, Any]) -> None:
    assert mapping(collection="m", **form).fields == OWN_NAMES


def test_included_fields_keep_their_written_names() -> None:
    fields = dict(mapping(source="m", projection={"createdAt": 1, "id": 2.0}).fields or ())
    assert fields == {"id": "id", "content": "content", "created_at": "createdAt"}


@pytest.mark.parametrize("wrapper", ["tables", "mappings"])
def test_wrapped_mappings_are_read(wrapper: str) -> None:
    assert read({wrapper: {"message": {"collection": "m"}}})[0] == {"messages": Mapping("m", OWN_NAMES)}


@pytest.mark.parametrize("key", ["message", "messages", "public.messages"])
def test_table_is_found_by_each_of_its_names(key: str) -> None:
    assert list(read({key: {"collection": "m"}})[0]) == ["messages"]


def test_default_mapping_uses_column_names() -> None:
    assert default_mapping(TABLES[0]) == Mapping("messages", OWN_NAMES)


def test_filter_of_equalities_is_plain() -> None:
    condition = {"kind": "user", "a.b": 1, "c": None, "d": True, "owner": {"$oid": "65f000000000000000000001"}}
    found = mapping(collection="m", filter=condition)
    assert found.filter == {**condition, "owner": ObjectId("65f000000000000000000001")}
    assert found.plain
    assert faults_of(collection="m", filter=condition) == []


@pytest.mark.parametrize(
    "condition",
    [
        {"t": {"$in": ["USER", "SYSTEM"]}},
        {"t": {"$exists": False}},
        {"t": {"$exists": True, "$ne": None, "$nin": [1, "x"]}, "a.b": {"$eq": {"$oid": "65f000000000000000000001"}}},
        {"t": {"$in": []}, "u": {"$exists": 0}},
    ],
)
def test_filters_of_comparisons_with_scalars_are_plain(condition: Any) -> None:
    assert mapping(source="m", filter=condition).plain


@pytest.mark.parametrize(
    "form",
    [
        {"filter": {"a": 1, "b": {"$gt": 1}}},
        {"filter": {"a": {}}},
        {"filter": {"a": {"x": 1}}},
        {"filter": {"a": [1]}},
        {"filter": {"a": {"$in": [[1]]}}},
        {"filter": {"a": {"$in": [{"x": 1}]}}},
        {"filter": {"a": {"$in": "x"}}},
        {"filter": {"a": {"$ne": {"x": 1}}}},
        {"filter": {"a": {"$exists": "yes"}}},
        {"filter": {"a": {"$exists": True, "$gt": 1}}},
        {"filter": {"$or": [{"a": 1}]}},
        {"filter": {"list.0": 1}},
        {"filter": {"author.$id": 1}},
        {"filter": {"$comment": "x"}},
        {"filter": {"a": {"$regex": "^x", "$options": "i"}}},
        {"projection": {"id": "$_id", "content": {"$toUpper": "$text"}}},
        {"projection": {"_id": 0, "id": "$$ROOT", "createdAt": "text"}},
        {"pipeline": [{"$match": {"a": 1}}]},
        {"filter": {"$expr": True}, "pipeline": [{"$unwind": "$a"}]},
    ],
)
def test_other_filters_and_projections_are_computed(form: dict[str, Any]) -> None:
    assert not mapping(source="m", **form).plain


ROW = "a row must follow from its document alone"
STAY = "a row must stay as it is for as long as its document does"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"pipeline": [{"$match": {}}, {"$lookup": {}}]}, [("pipeline[1].$lookup", ROW)]),
        ({"pipeline": [{"$out": "x"}, {"$merge": "x"}]}, [("pipeline[0].$out", "writes"), ("pipeline[1].$merge", "w")]),
        ({"pipeline": [{"$collStats": {}}]}, [("pipeline[0].$collStats", "not a stage of a mapping")]),
        ({"pipeline": [{"$set": {"id": "$$NOW"}}]}, [("pipeline[0].$set.id", f"$$NOW changes by itself: {STAY}")]),
        ({"pipeline": [{"$set": {"x": ["$$CLUSTER_TIME.x"]}}]}, [("pipeline[0].$set.x[0]", "$$CLUSTER_TIME changes")]),
        ({"pipeline": [{"$redact": "$$USER_ROLES"}]}, [("pipeline[0].$redact", "$$USER_ROLES changes")]),
        ({"pipeline": [{"$replaceWith": "$$SEARCH_META"}]}, [("pipeline[0].$replaceWith", "$$SEARCH_META looks")]),
        ({"projection": {"id": {"$add": [{"$rand": {}}, 1]}}}, [("projection.id.$add[0].$rand", STAY)]),
        ({"projection": {"id": {"$function": {}}, "content": "$$NOW"}}, [("projection.id.$function", "is JavaScript"),
                                                                        ("projection.content", STAY)]),
        ({"filter": {"$where": "1"}}, [("filter.$where", "is JavaScript")]),
        ({"filter": {"$sampleRate": 0.5}}, [("filter.$sampleRate", STAY)]),
        ({"filter": {"$text": {}, "a": {"$near": []}}}, [("filter.$text", "needs an"), ("filter.a.$near", "needs an")]),
        ({"filter": {"$or": [{"$expr": {"$lt": ["$a", "$$NOW"]}}]}}, [("filter.$or[0].$expr.$lt[1]", STAY)]),
        ({"pipeline": [{"$match": {"$expr": {"$lt": ["$a", {"$rand": {}}]}}}]},
         [("pipeline[0].$match.$expr.$lt[1].$rand", STAY)]),
        ({"projection": {"createdAt": {"year": 1}}}, [("projection.createdAt", "names parts of a field")]),
    ],
)  # fmt: skip
def test_forbidden_expression_is_an_error_with_path(form: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    issues = faults_of(source="m", **form)
    assert len(issues) == len(expected), issues
    for issue, (key_path, reason) in zip(issues, expected, strict=True):
        assert issue.startswith(f"message.{key_path}: ")
        assert reason in issue


def test_each_stage_that_reads_beyond_one_document_is_an_error() -> None:
    stages = ["$lookup", "$graphLookup", "$unionWith", "$group", "$bucket", "$bucketAuto", "$facet", "$sort", "$limit"]
    stages += ["$sortByCount", "$skip", "$sample", "$count", "$setWindowFields", "$densify", "$fill", "$geoNear"]
    stages += ["$search", "$searchMeta", "$vectorSearch"]
    issues = faults_of(source="m", pipeline=[{stage: {}} for stage in stages])
    assert len(issues) == len(stages)
    assert all(issue.endswith(f"looks beyond one document: {ROW}") for issue in issues)


@pytest.mark.parametrize(
    "form",
    [
        {"projection": {"id": {"$literal": "$$NOW"}, "content": {"$concat": [{"$literal": {"$rand": {}}}]}}},
        {"filter": {"a": {"$gt": "$$NOW"}, "$comment": "$$NOW"}},
        {"pipeline": [{"$match": {"a": {"$in": ["$$NOW"]}}}, {"$set": {"a": "$$nowhere"}}]},
        {"projection": {"content": {"text": 1}}},
    ],
)
def test_literals_that_resemble_forbidden_expressions_are_accepted(form: dict[str, Any]) -> None:
    assert faults_of(source="m", **form) == []


def test_mapping_error_has_file_and_position() -> None:
    document = parse('{"message":\n {"source": "m", "pipeline": [\n  {"$unset": "a"}]}}', "m.json", kind="json")
    found = parse_mappings(document, TABLES)[0]["messages"]
    assert str(found.issue(("pipeline", 0), "is odd")) == "m.json:3:3: message.pipeline[0]: is odd"
    elsewhere = Mapping("m", None, pipeline=[{"$unset": "a"}])
    assert found == elsewhere
    assert str(elsewhere.issue(("pipeline", 0), "is odd")) == "mapping of collection m: pipeline[0]: is odd"


def test_computed_projection_has_all_columns_by_server_name() -> None:
    found = mapping(source="m", filter={"a": 1}, projection={"_id": 0, "id": 1, "createdAt": {"$toLong": "$t"}})
    projection = {"id": "$id", "content": "$content", "created_at": {"$toLong": "$t"}}
    assert found == Mapping("m", None, {"a": 1}, projection)


def test_pipeline_is_kept_unchanged() -> None:
    stages = [{"$match": {"a": {"$regex": "x", "$options": "i"}}}, {"$set": {"b": 1, "a": -1}}]
    assert mapping(source="m", pipeline=stages) == Mapping("m", None, pipeline=stages)


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ({"$oid": "65f000000000000000000001"}, ObjectId("65f000000000000000000001")),
        ({"$date": "2024-03-01T12:00:00Z"}, datetime(2024, 3, 1, 12)),
        ({"$date": {"$numberLong": "1709294400000"}}, datetime(2024, 3, 1, 12)),
        ({"$numberInt": "5"}, 5),
        ({"$numberLong": "5"}, Int64(5)),
        ({"$numberDouble": "5.0"}, 5.0),
        ({"$numberDecimal": "5.10"}, Decimal128("5.10")),
        ({"$binary": {"base64": "AQI=", "subType": "00"}}, b"\x01\x02"),
        ({"$binary": "AQI=", "$type": "80"}, Binary(b"\x01\x02", 0x80)),
        (
            {"$uuid": "00112233-4455-6677-8899-aabbccddeeff"},
            Binary(bytes.fromhex("00112233445566778899aabbccddeeff"), 4),
        ),
        ({"$timestamp": {"t": 1, "i": 2}}, Timestamp(1, 2)),
        ({"$symbol": "x"}, "x"),
    ],
)
def test_extended_json_literals_are_converted(literal: Any, value: Any) -> None:
    found = mapping(collection="m", filter={"a": literal})
    assert found.filter == {"a": value}
    assert type(found.filter["a"]) is type(value)
    assert found.plain
    deep = mapping(collection="m", pipeline=[{"$match": {"a": {"$in": [literal]}}}])
    assert deep.pipeline == [{"$match": {"a": {"$in": [value]}}}]


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ({"$minKey": 1}, MinKey()),
        ({"$maxKey": 1}, MaxKey()),
        ({"$regularExpression": {"pattern": "^x", "options": "im"}}, Regex("^x", "im")),
        ({"$code": "f()"}, Code("f()")),
        ({"$code": "f()", "$scope": {"a": {"$numberLong": "1"}}}, Code("f()", {"a": Int64(1)})),
    ],
)
@pytest.mark.parametrize("operator", ["$eq", "$gte", "$in", "$nin", None])
def test_literals_that_only_mongod_compares(literal: Any, value: Any, operator: str | None) -> None:
    many = operator in ("$in", "$nin")
    condition, expected = ([literal], [value]) if many else (literal, value)
    found = mapping(collection="m", filter={"a": condition if operator is None else {operator: condition}})
    assert found.filter == {"a": expected if operator is None else {operator: expected}}
    assert not found.plain
    catalog = Catalog((Table(TableSpec("messages", (Column("id", "string"),), ("id",)), found),))
    assert Catalog.from_json(catalog.to_json()).fingerprint == catalog.fingerprint


@pytest.mark.parametrize("literal", [{"$undefined": True}, {"$dbPointer": {"$ref": "c", "$id": {"$oid": "6" * 24}}}])
def test_literals_that_cannot_be_compared_are_refused(literal: Any) -> None:
    (issue,) = faults_of(collection="m", filter={"a": {"$in": [1, literal]}})
    assert issue.startswith("message.filter.a.$in[1]: ")
    assert '{"$type": ' in issue


@pytest.mark.parametrize(
    ("form", "key_path"),
    [
        ({"projection": {"id": {"$_internalJsEmit": {}}}}, "projection.id.$_internalJsEmit"),
        ({"pipeline": [{"$_internalInhibitOptimization": {}}]}, "pipeline[0].$_internalInhibitOptimization"),
        ({"pipeline": [{"$match": {"$_internalExprEq": 1}}]}, "pipeline[0].$match.$_internalExprEq"),
        ({"filter": {"a": {"$_internalSchemaType": 1}}}, "filter.a.$_internalSchemaType"),
        ({"filter": {"a": {"$not": {"$_internalX": 1}}}}, "filter.a.$not.$_internalX"),
        ({"filter": {"a": {"$elemMatch": {"b": {"$_internalX": 1}}}}}, "filter.a.$elemMatch.b.$_internalX"),
        ({"filter": {"a": {"$all": [{"$elemMatch": {"$_x": 1}}]}}}, "filter.a.$all[0].$elemMatch.$_x"),
        ({"filter": {"$nor": [{"$expr": [{"$_internalX": 1}]}]}}, "filter.$nor[0].$expr[0].$_internalX"),
        ({"pipeline": [{"$set": {"a": {"$map": {"in": {"$_x": 1}}}}}]}, "pipeline[0].$set.a.$map.in.$_x"),
    ],
)
def test_internal_operators_are_refused_wherever_they_are(form: dict[str, Any], key_path: str) -> None:
    assert faults_of(source="m", **form) == [f"message.{key_path}: is internal to MongoDB"]


def test_unknown_operators_are_refused() -> None:
    reason = "not an operator that a mapping may use with MongoDB 5.0 to 8.0"
    assert faults_of(source="m", projection={"id": {"$futureHash": "$a"}}) == [
        f"message.projection.id.$futureHash: {reason}"
    ]
    assert faults_of(source="m", filter={"a": {"$gtt": 1}}) == [f"message.filter.a.$gtt: {reason}"]
    assert faults_of(source="m", filter={"a": {"$ref": "c", "$id": 1}}) == []
    assert faults_of(source="m", filter={"a": {"$eq": {"$odd": 1}}}) == []


@pytest.mark.parametrize(
    "literal",
    [
        {"$oid": "short"},
        {"$oid": 5},
        {"$date": "yesterday"},
        {"$date": []},
        {"$numberLong": "x"},
        {"$numberLong": "9223372036854775808"},
        {"$numberDecimal": "x"},
        {"$numberDecimal": {}},
        {"$numberInt": None},
        {"$numberDouble": []},
        {"$binary": 5},
        {"$binary": {"base64": "AQI="}},
        {"$binary": {"base64": "!", "subType": "zz"}},
        {"$binary": "AQI=", "$type": []},
        {"$uuid": "x"},
        {"$uuid": 1},
        {"$timestamp": 1},
        {"$timestamp": {"t": 1}},
        {"$timestamp": {"t": -1, "i": 2}},
        {"$oid": "65f000000000000000000001", "x": 1},
        {"$minKey": 2},
        {"$maxKey": None},
        {"$symbol": 5},
        {"$code": 5},
        {"$code": "x", "$scope": 1},
        {"$scope": {}},
        {"$regularExpression": "x"},
        {"$regularExpression": {"pattern": "x", "options": "z"}},
        {"$regularExpression": {"pattern": "x"}},
        1 << 63,
    ],
)
def test_invalid_extended_json_literal_is_an_error(literal: Any) -> None:
    (issue,) = faults_of(collection="m", filter={"a": {"$in": [literal]}})
    assert issue.startswith(("message.filter.a.$in[0]: not a ", "message.filter.a.$in[0]: is beyond "))
    assert "class" not in issue


def test_filter_nested_too_deeply_is_an_error() -> None:
    value: Any = 1
    for _ in range(150):
        value = [value]
    (issue,) = faults_of(collection="m", filter={"a": value})
    assert issue.endswith("is nested too deeply for MongoDB")


NAMES = ": a name must not be empty, begin with $ or have a NUL in it"


@pytest.mark.parametrize(
    ("data", "issue"),
    [
        ([], "must be an object of mappings by table"),
        ({"mesage": {}}, "mesage: the schema has no such table; did you mean message?"),
        ({"message": []}, "message: must be an object with a collection"),
        ({"message": {}}, "message: needs a collection"),
        ({"message": {"collection": 5}}, "message.collection: must be text"),
        (
            {"message": {"collection": ""}},
            "message.collection: not a name that MongoDB takes for a collection: '': it is empty",
        ),
        (
            {"message": {"source": "system.users"}},
            "message.source: not a name that MongoDB takes for a collection: 'system.users': such names are "
            "MongoDB's own",
        ),
        (
            {"message": {"source": "a$b"}},
            "message.source: not a name that MongoDB takes for a collection: 'a$b': it has '$' in it",
        ),
        (
            {"message": {"collection": "a", "source": "b"}},
            "message.source: means the same as collection, and they differ",
        ),
        (
            {"message": {"collection": "a", "feilds": {}}},
            "message.feilds: unknown key; did you mean fields?",
        ),
        ({"message": {"collection": "a", "fields": []}}, "message.fields: must be an object"),
        ({"message": {"collection": "a", "filter": "x"}}, "message.filter: must be an object"),
        ({"message": {"collection": "a", "pipeline": {}}}, "message.pipeline: must be a list of stages"),
        (
            {"message": {"collection": "a", "pipeline": [{"a": 1}]}},
            "message.pipeline[0]: a stage is an object with one key, such as {$match: …}",
        ),
        (
            {"message": {"collection": "a", "fields": {"id": "_id"}, "pipeline": []}},
            "message.pipeline: cannot be combined with fields",
        ),
        ({"message": {"collection": "a", "fields": {"id": 1}}}, "message.fields.id: must be the path of a field"),
        (
            {"message": {"collection": "a", "fields": {"createdAt": "a", "created_at": "b"}}},
            "message.fields.created_at: column created_at is mapped twice",
        ),
        (
            {"message": {"collection": "a", "projection": {"content": 0}}},
            "message.projection.content: leaves out a column of the schema",
        ),
        ({"message": {"collection": "a"}, "messages": {"collection": "b"}}, "messages: table messages is mapped twice"),
        (
            {"message": {"collection": "a", "filter": {"a..b": 1}}},
            f"message.filter.a..b: not a path of names between dots: 'a..b'{NAMES}",
        ),
        (
            {"message": {"collection": "a", "projection": {"id": "$a.$b"}}},
            f"message.projection.id: not a path of names between dots: 'a.$b'{NAMES}",
        ),
        (
            {"message": {"collection": "a", "fields": {"id": "$_id"}}},
            f"message.fields.id: not a path of names between dots: '$_id'{NAMES}",
        ),
        (
            {"message": {"collection": "a", "filter": {"x\0": 1}}},
            f"message.filter.'x\\x00': not a path of names between dots: 'x\\x00'{NAMES}",
        ),
        (
            {"message": {"collection": "a", "filter": {"$or": [{"a\0b": 1}]}}},
            "message.filter.$or[0].'a\\x00b': not a name that MongoDB takes for a field: it has a NUL in it",
        ),
        (
            {"message": {"collection": "a", "projection": {"id": {"$literal": {"a\0b": 1}}}}},
            "message.projection.id.$literal.'a\\x00b': not a name that MongoDB takes for a field: it has a NUL in it",
        ),
        (
            {"message": {"collection": "a", "pipeline": [{"$project": {"a\0b": 1}}]}},
            "message.pipeline[0].$project.'a\\x00b': not a name that MongoDB takes for a field: it has a NUL in it",
        ),
    ],
)
def test_invalid_mapping_is_an_error(data: Any, issue: str) -> None:
    assert [text.removeprefix(": ") for text in read(data)[1]] == [issue]


def test_misplaced_value_is_an_error_without_crash() -> None:
    for wrong in ({"$oid": "65f000000000000000000001"}, 5, "x", [{"$oid": "65f000000000000000000001"}]):
        for key in ("fields", "projection", "filter", "pipeline"):
            mappings, issues, warnings = read({"message": {"collection": "m", key: wrong}})
            # mongod checks the filter.
            assert issues or warnings or not mappings["messages"].plain


@pytest.mark.parametrize("form", [{"fields": {"contents": "a"}}, {"projection": {"contents": {"$toUpper": "$a"}}}])
def test_mapped_field_without_a_column_is_a_warning(form: dict[str, Any]) -> None:
    mappings, issues, warnings = read({"message": {"collection": "m", **form}})
    assert not issues
    assert warnings == [f"message.{next(iter(form))}.contents: the table has no such column; did you mean content?"]
    assert mappings["messages"].fields == OWN_NAMES


@pytest.mark.parametrize("form", [{"fields": {"content": "a.0.b"}}, {"projection": {"content": "$a.0"}}])
def test_number_in_a_path_is_a_warning(form: dict[str, Any]) -> None:
    """In a filter it may be an index, in an expression it may not."""
    _, issues, warnings = read({"message": {"collection": "m", **form, "filter": {"a.0": 1}}})
    assert not issues
    reason = "a number is a field name here, not an array index: use $arrayElemAt for an index"
    assert warnings == [f"message.{next(iter(form))}.content: {reason}"]


@pytest.mark.parametrize("revision", [-1, 1.5, True, "1", None, 1 << 53])
def test_revision_that_is_not_a_whole_number_is_refused(revision: Any) -> None:
    (fault,) = faults_of(collection="c", revision=revision)
    assert fault.endswith("revision: must be a whole number from 0 to 2^53 - 1")
