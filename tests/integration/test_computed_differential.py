"""mongod evaluates documents apart from their collection as it does in it: random mappings over random documents."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from tests.faults.tally import pick
from tests.integration.test_plain_differential import NAMES, PATHS, SCALARS, VALUES, store
from tests.support.documents import DEPRECATED, of_type
from tests.support.mongod import ReplicaSet
from tests.support.types import Db
from zmsd.mongodb.client import CODEC
from zmsd.mongodb.raw_batch import RAW, exact
from zmsd.mongodb.source import Source
from zmsd.rows.computed import SOURCE_ID, Evaluator, problems
from zmsd.rows.rejects import Rejects
from zmsd.schema.catalog import Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.tables import Column, TableSpec

Stages = list[dict[str, Any]]

BATCH = 5
CASES = pick(1_000, 20_000)

SPEC = TableSpec("t", (Column("id", "string"),), ("id",))
ROOT, CURRENT = "$$ROOT", "$$CURRENT"


@pytest.fixture
def source(database: Db, replica_set: ReplicaSet) -> Any:
    opened = Source(replica_set.uri(database.name), database.name)
    yield opened
    opened.close()


def check(database: Db, source: Source, documents: list[dict[str, Any]], mapping: Mapping) -> None:
    """Each document gives the rows that the collection gives for it alone, and none if that is an error."""
    store(database, documents)
    raws = database.get_collection("c", RAW).find().sort("_id")
    stored = [exact(raw) for raw in raws]
    stages = _stages(mapping)
    table = Table(SPEC, mapping)
    collection = database.get_collection("c", CODEC)
    found = Evaluator(source.run, [table], Rejects()).evaluate(stored)["t"]
    for document, rows in zip(stored, found, strict=True):
        try:
            expected = list(collection.aggregate([{"$match": {"_id": document["_id"]}}, *stages]))
        except OperationFailure:
            expected = []
        ours = [{name: value for name, value in row.items() if name != SOURCE_ID} for row in rows]
        # As BSON, where 1, 1.0 and True differ, so do orders of fields, and NaN is equal to itself.
        assert bson.encode({"": ours}) == bson.encode({"": expected}), f"{stages} on {document}"
    assert bool(problems(source.run, table)) is _refused(database, stages)


def _stages(mapping: Mapping) -> Stages:
    stages = [{"$match": mapping.filter}] if mapping.filter else []
    stages += [{"$project": mapping.projection}] if mapping.projection is not None else []
    return [*stages, *(mapping.pipeline or ())]


def _refused(database: Db, stages: Stages) -> bool:
    """Return whether mongod accepts the stages over an empty collection."""
    try:
        list(database.nothing.aggregate(stages))
    except OperationFailure:
        return True
    return False


DOCUMENTS: list[dict[str, Any]] = [
    {"a": {"b": 1, "c": 2}, "x": 5, "l": [1, 2]},
    {"a": [{"b": 1, "c": {"x": 1}}], "__zmsd": 1, "__zmsd_tag": 3},
    {"l": [], "x": None},
    {"l": [[1, 2], [3]], "x": 0, "a": None},
    {"l": 7, "a": "s", "x": "q"},
    {"$a": 1, "b.c": 2, "": 3, "d": {"$x": 1, "y.z": {"$ne": 1}}, "$$ROOT": "$$NOW"},
]
SIZE = {"$size": {"$objectToArray": ROOT}}
PIPELINES: list[Stages] = [
    *([{"$set": {"r": whole}}] for whole in (ROOT, CURRENT)),
    [{"$project": {"r": ROOT}}],
    [{"$set": {"a.n": ROOT, "m": {"n": [CURRENT]}}}],
    [{"$project": {"n": SIZE}}],
    [{"$set": {"keys": {"$map": {"input": {"$objectToArray": ROOT}, "in": "$$this.k"}}, "s": {"$bsonSize": ROOT}}}],
    [{"$set": {"n": {"$getField": {"field": "x", "input": ROOT}}, "m": {"$getField": {"$literal": "$a"}}}}],
    [{"$set": {"n": {"$setField": {"field": {"$literal": "$q"}, "input": CURRENT, "value": 1}}}}],
    [{"$set": {"r": {"$literal": ROOT}, "t": {"$type": ROOT}}}],
    [{"$set": {"r": {"$let": {"vars": {"CURRENT": "$x"}, "in": CURRENT}}}}],
    [{"$match": {"$expr": {"$eq": [SIZE, 4]}}}],
    [{"$match": {"$or": [{"$and": [{"$expr": {"$lt": [SIZE, 4]}}]}, {"x": 5}]}}],
    [{"$match": {"$nor": [{"$expr": {"$eq": ["$$ROOT.x", 5]}}], "$comment": ROOT}}],
    [{"$match": {"x": {"$in": [ROOT, "q"]}}}],
    [
        {
            "$match": {
                "$jsonSchema": {"additionalProperties": False, "properties": {"_id": {}, "a": {}, "x": {}, "l": {}}}
            }
        }
    ],
    [{"$match": {"$or": [{"$jsonSchema": {"maxProperties": 3}}, {"x": 5}]}}, {"$unwind": "$l"}],
    [{"$replaceWith": ROOT}, {"$set": {"r": ROOT}}],
    [{"$replaceRoot": {"newRoot": {"$mergeObjects": [{"first": 0}, ROOT, {"last": 1}]}}}],
    [{"$replaceRoot": {"newRoot": {"$ifNull": ["$a", {"z": ROOT}]}}}],
    [{"$replaceRoot": {"newRoot": "$a"}}, {"$set": {"id": 1}}],
    [{"$replaceWith": "$missing"}, {"$set": {"id": 1}}],
    [{"$replaceWith": {"$literal": {"a": ROOT}}}],
    [{"$replaceWith": {"$arrayToObject": {"$slice": [{"$objectToArray": ROOT}, 2]}}}],
    [{"$redact": {"$cond": [{"$gt": [{"$size": {"$objectToArray": CURRENT}}, 2]}, "$$DESCEND", "$$PRUNE"]}}],
    [{"$redact": {"$cond": [{"$eq": ["$b", 1]}, "$$PRUNE", "$$DESCEND"]}}],
    [{"$redact": {"$cond": [{"$eq": ["$x", 5]}, "$$KEEP", "$$PRUNE"]}}, {"$set": {"r": ROOT}}],
    *([{"$unwind": path}] for path in ("$l", "$a", "$a.b")),
    [{"$unwind": "$l"}, {"$unwind": "$l"}],
    [{"$unwind": {"path": "$l", "includeArrayIndex": "i", "preserveNullAndEmptyArrays": True}}, {"$set": {"r": ROOT}}],
    [{"$unwind": {"path": "$l", "includeArrayIndex": "a.b"}}],
    *([{"$unset": names}] for names in ("a.b", ["a", "x"])),
    *([{"$project": {"_id": value}}] for value in (0, 1, "$x", {"a": 0}, {"a": 1}, {"a": "$x"})),
    *(
        [{"$project": {"a": value}}]
        for value in (0, 0.0, Int64(0), Decimal128("0"), Decimal128("1"), True, None, "s", [])
    ),
    *([{"$project": {"a": {"b": value}}}] for value in (0, 1, "$x", {"$literal": 0}, {"c": 0}, {"c": True})),
    *([{"$project": {"_id": 0, **body}}] for body in ({"a": 1}, {"a": 0}, {"a.b": 0}, {"a": {"b": 0}}, {"n": "$a"})),
    [{"$set": {"n": {"$divide": [1, "$x"]}}}],
    # If mongod refuses the stages, zmsd refuses them too, and continues to work.
    *([{"$match": wrong}] for wrong in (5, {"$and": 5}, {"$or": [5]}, {"$jsonSchema": 5}, {"$foo": 1})),
    *([{"$project": wrong}] for wrong in ("x", {}, {"a": {}}, {"a": 0, "b": 1}, {"_id": "$x", "a": 0})),
    *([{"$replaceRoot": wrong}] for wrong in ("x", {}, None)),
    *(
        [{stage: wrong}]
        for stage in ("$unset", "$set", "$replaceWith", "$redact", "$unwind")
        for wrong in (5, {}, [[]])
    ),
]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=repr)
def test_each_stage_evaluates_as_in_the_collection(database: Db, source: Source, pipeline: Stages) -> None:
    check(database, source, DOCUMENTS, Mapping("c", None, pipeline=pipeline))


FIELDS = PATHS.map(lambda path: f"${path}")
LITERALS = st.sampled_from([*SCALARS, "x", 1, 2, datetime(2024, 5, 6)]).map(lambda value: {"$literal": value})


def _of(operator: str, *operands: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(*operands).map(lambda chosen: {operator: list(chosen)})


def _more(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for nested expressions of operators that mappings often use."""
    alone = [
        "$toString",
        "$toUpper",
        "$type",
        "$isArray",
        "$size",
        "$objectToArray",
        "$not",
        "$toLong",
        "$toDate",
        "$abs",
    ]
    pairs = ["$concat", "$add", "$divide", "$eq", "$gt", "$ifNull", "$and", "$in", "$arrayElemAt", "$mergeObjects"]
    lists = FIELDS.map(lambda field: {"$cond": [{"$isArray": field}, field, [field]]})
    return st.one_of(
        st.tuples(st.sampled_from(alone), inner).map(lambda chosen: dict([chosen])),
        *(_of(operator, inner, inner) for operator in pairs),
        _of("$cond", inner, inner, inner),
        st.builds(lambda over, make: {"$map": {"input": over, "in": make}}, lists, inner | st.just("$$this.a")),
        st.builds(lambda over, test: {"$filter": {"input": over, "cond": test}}, lists, inner | st.just("$$this.b")),
        st.dictionaries(NAMES, inner, min_size=1, max_size=2),
        st.lists(inner, max_size=2),
    )


EXPRESSIONS = st.recursive(FIELDS | FIELDS | LITERALS | st.sampled_from([ROOT, CURRENT]), _more, max_leaves=4)
# Queries have no operator that may fail: of two parts of a query, mongod may evaluate either first, or only one.
SAFE = st.recursive(
    FIELDS | LITERALS | st.just(ROOT),
    lambda inner: st.one_of(
        *(_of(operator, inner, inner) for operator in ("$eq", "$gt", "$lte", "$ifNull", "$and", "$or")),
        *(inner.map(lambda made, name=operator: {name: made}) for operator in ("$type", "$isArray", "$not")),
        _of("$cond", inner, inner, inner),
        st.dictionaries(NAMES, inner, min_size=1, max_size=2),
    ),
    max_leaves=4,
)
OPERANDS = st.sampled_from(SCALARS)
CONDITIONS = st.one_of(
    *(OPERANDS.map(lambda value, name=name: {name: value}) for name in ("$gt", "$gte", "$lt", "$lte", "$ne")),
    VALUES,
    st.sampled_from([{"$regex": "^x", "$options": "i"}, {"$size": 1}, {"$type": "string"}, {"$mod": [2, 1]}]),
    st.lists(OPERANDS, min_size=1, max_size=2).map(lambda values: {"$all": values}),
    OPERANDS.map(lambda value: {"$elemMatch": {"$gte": value}}),
    st.tuples(NAMES, OPERANDS).map(lambda pair: {"$elemMatch": {pair[0]: pair[1]}}),
    OPERANDS.map(lambda value: {"$not": {"$lt": value}}),
)
SHORT_PATHS = st.lists(NAMES | st.sampled_from(["0", "1"]), min_size=1, max_size=2).map(".".join)
FILTERS = st.recursive(
    st.dictionaries(SHORT_PATHS, CONDITIONS, min_size=1, max_size=2) | SAFE.map(lambda made: {"$expr": made}),
    lambda inner: st.builds(
        lambda name, parts: {name: parts},
        st.sampled_from(["$or", "$and", "$nor"]),
        st.lists(inner, min_size=1, max_size=2),
    ),
    max_leaves=3,
)
COLUMNS = st.sampled_from(["id", "v", "w", "a", "_id"])
PROJECTIONS = st.dictionaries(COLUMNS, EXPRESSIONS | st.just(1), min_size=1, max_size=3)
LEAVING_OUT = st.dictionaries(
    NAMES | st.sampled_from(["_id", "a.b"]), st.sampled_from([0, False]), min_size=1, max_size=2
)
UNWINDS = st.builds(
    lambda path, index, keep: {"path": path, "includeArrayIndex": index, "preserveNullAndEmptyArrays": keep},
    FIELDS,
    st.sampled_from(["i", "a.i"]),
    st.booleans(),
)
STAGES = st.one_of(
    FILTERS.map(lambda made: {"$match": made}),
    (UNWINDS | FIELDS).map(lambda made: {"$unwind": made}),
    (PROJECTIONS | LEAVING_OUT).map(lambda made: {"$project": made}),
    st.builds(lambda name, made: {name: made}, st.sampled_from(["$set", "$addFields"]), PROJECTIONS),
    (PATHS | st.lists(PATHS, min_size=1, max_size=2)).map(lambda made: {"$unset": made}),
    EXPRESSIONS.map(lambda made: {"$replaceWith": {"$mergeObjects": [{"id": "$_id"}, made]}}),
    FIELDS.map(lambda made: {"$replaceRoot": {"newRoot": {"$ifNull": [made, {"z": ROOT}]}}}),
    EXPRESSIONS.map(lambda made: {"$redact": {"$cond": [made, "$$DESCEND", "$$PRUNE"]}}),
)
MAPPINGS = st.one_of(
    FILTERS.map(lambda made: Mapping("c", (("id", "_id"),), made)),
    st.builds(lambda chosen, made: Mapping("c", None, chosen, made), st.none() | FILTERS, PROJECTIONS),
    st.builds(
        lambda chosen, made: Mapping("c", None, chosen, pipeline=made),
        st.none() | FILTERS,
        st.lists(STAGES, min_size=1, max_size=3),
    ),
)


def test_random_mappings_evaluate_as_in_the_collection(database: Db, source: Source) -> None:
    @settings(
        max_examples=CASES // BATCH,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.lists(st.dictionaries(NAMES, VALUES, max_size=3), min_size=BATCH, max_size=BATCH), MAPPINGS)
    def run(documents: list[dict[str, Any]], mapping: Mapping) -> None:
        check(database, source, documents, mapping)

    run()


def test_documents_of_16_mb_evaluate_as_in_the_collection(database: Db, source: Source) -> None:
    """Documents may be as large as MongoDB allows; the command that holds them may be slightly larger. Rows that
    exceed that fail.
    """
    empty = len(bson.encode({"_id": 0, "s": ""}))
    documents = [{"s": "x" * ((16 << 20) - empty)}, {"s": "x"}, *({"s": "x" * (5 << 20)} for _ in range(5))]
    check(database, source, documents, Mapping("c", (("id", "_id"),), {"s": {"$regex": "x$"}}))
    check(database, source, documents, Mapping("c", None, pipeline=[{"$set": {"n": {"$strLenBytes": "$s"}}}]))
    check(database, source, documents[:2], Mapping("c", None, pipeline=[{"$set": {"twice": "$s"}}]))
    rejects = Rejects()
    long = Table(SPEC, Mapping("c", (("id", "_id"),), {"s": {"$nin": ["y" * 60_000]}}))
    assert [len(rows) for rows in Evaluator(source.run, [long], rejects).evaluate(documents[:2])["t"]] == [0, 1]
    assert sum(rejects.counts().values()) == 1


def test_evaluation_keeps_the_types_of_all_values(database: Db, source: Source) -> None:
    values = [*SCALARS, ObjectId(), *(of_type(0, name) for name in DEPRECATED)]
    documents = [{"v": value, "deep": [{"v": value}]} for value in values]
    of_all = {"$map": {"input": ["$v", "$v.v", "$deep.v", "$deep.v.v"], "in": {"$type": "$$this"}}}
    check(
        database, source, documents, Mapping("c", None, projection={"id": "$v", "x": {"$concatArrays": ["$deep", []]}})
    )
    check(database, source, documents, Mapping("c", None, projection={"id": of_all, "v": 1}))
