"""A discriminator finds every table that has rows of a document. Which tables do is said by ``compile_filter``, which a
differential test holds to mongod's ``find``.
"""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

import pytest
from bson import Binary, DBRef, Decimal128, Int64, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from zmsd.rows.discriminators import Discriminator, merged_filters
from zmsd.rows.filters import compile_filter
from zmsd.schema.mapping import Mapping

Document = dict[str, Any]

FIELDS = (("id", "_id"),)
SCALARS: list[Any] = [
    *("", "user", "1", "true", "null", None, True, False, 0, 1, Int64(1), 1.0, 1.5, -0.0, float("nan"), float("inf")),
    *(Decimal128("1.00"), Decimal128("NaN"), Decimal128("1.5"), 2**53 + 1, float(2**53), Int64(2**53)),
    *(datetime(1970, 1, 1), DatetimeMS(0), Timestamp(1, 1), ObjectId(b"0" * 12), b"x", Binary(b"x", 5)),
]
VALUES: list[Any] = [
    *SCALARS,
    *([], [[]], ["user", 1], [None], ["system", {"a": 1}], [["user"]], {}, {"a": 1}, DBRef("c", 1), Regex("user")),
]
DOCUMENTS: list[Document] = [{}, *({"kind": value} for value in VALUES)]
FILTERS: list[Document] = [
    *({"kind": value} for value in SCALARS),
    *({"kind": {"$eq": value}} for value in ("user", None, 1)),
    *({"kind": {"$in": list(pair)}} for pair in itertools.pairwise(SCALARS)),
    {"kind": {"$in": []}},
    {"kind": {"$in": ["user", None], "$ne": 1}},
    {"kind": {"$ne": "user"}},
    {"kind": {"$exists": True}},
    {"other": 1},
    {"kind": "user", "other": 1},
]


def of_filters(*filters: Document | None) -> Discriminator:
    return Discriminator([Mapping("c", FIELDS, one) for one in filters])


def matching(filters: list[Document], document: Document) -> set[int]:
    return {number for number, one in enumerate(filters) if compile_filter(one)(document)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=repr)
def test_every_table_that_accepts_a_document_is_found(document: Document) -> None:
    discriminator = of_filters(*FILTERS)
    found = discriminator.tables(document)
    assert matching(FILTERS, document) <= set(found)
    assert list(found) == sorted(set(found))
    # Of the filters that are nothing but an equality, no other is found.
    alone = FILTERS[: len(SCALARS)]
    assert set(of_filters(*alone).tables(document)) == matching(alone, document)


@pytest.mark.parametrize("inner", [*VALUES, "missing"], ids=repr)
def test_values_below_objects_and_arrays_are_found(inner: Any) -> None:
    below: Document = {} if inner == "missing" else {"kind": inner}
    filters: list[Document] = [{"meta.kind": value} for value in SCALARS]
    discriminator = of_filters(*filters)
    for meta in (below, [below], [below, 5, {"kind": "user"}], [[below]], 5, None, []):
        document = {"meta": meta}
        assert set(discriminator.tables(document)) == matching(filters, document)
    assert set(discriminator.tables({})) == matching(filters, {})


def test_change_of_the_value_finds_both_tables() -> None:
    discriminator = of_filters({"kind": "b"}, {"kind": "a"}, None, {"kind": "c"})
    a, b, other = {"kind": "a"}, {"kind": "b"}, {"kind": "x"}
    assert list(discriminator.tables_of_change(a, b)) == [0, 1, 2]
    assert list(discriminator.tables_of_change(a, a)) == [1, 2]
    assert list(discriminator.tables_of_change(None, b)) == [0, 2]
    assert list(discriminator.tables_of_change(b, None)) == [0, 2]
    assert list(discriminator.tables_of_change(other, {"kind": ["c", "b"]})) == [0, 2, 3]
    assert list(discriminator.tables_of_change(None, None)) == []


def test_split_keeps_the_order_of_documents() -> None:
    discriminator = of_filters({"kind": {"$in": ["a", 1]}}, {"kind": "b"}, None)
    documents: list[Document] = [{"kind": kind} for kind in ("a", "b", 1, "c", ["b", 1.0])]
    one, two, three, _, five = documents
    assert discriminator.split(documents) == {0: [one, three, five], 1: [two, five], 2: documents}


@pytest.mark.parametrize(
    "mappings",
    [
        [Mapping("c", FIELDS, {"kind": "a"})],
        [Mapping("c", FIELDS), Mapping("c", FIELDS)],
        [Mapping("c", FIELDS, {"kind": "a"}), Mapping("c", FIELDS, {"other": "b"})],
        [Mapping("c", None, {"kind": "a"}, {"id": "$_id"}), Mapping("c", None, {"kind": "b"}, {"id": "$_id"})],
        [Mapping("c", FIELDS, {"kind": {"$gt": 1}}), Mapping("c", FIELDS, {"kind": {"$gt": 1}})],
    ],
    ids=["one", "no filters", "different fields", "projections", "evaluated by mongod"],
)
def test_tables_without_a_common_field_are_all_found(mappings: list[Mapping]) -> None:
    discriminator = Discriminator(mappings)
    assert not discriminator.is_useful
    assert list(discriminator.tables({"kind": "x"})) == list(range(len(mappings)))


def test_merged_filters_accept_what_the_filters_accept() -> None:
    for filters in (FILTERS, [{"kind": kind, "other": other} for kind in ("a", 1, True) for other in (1, True, None)]):
        merged = merged_filters(filters)
        assert len(merged) < len(filters)
        for document in DOCUMENTS:
            for other in ({}, {"other": 1}, {"other": True}, {"other": 2}):
                whole = {**document, **other}
                assert bool(matching(filters, whole)) is bool(matching(merged, whole)), whole


def test_filters_of_one_field_become_one() -> None:
    kinds = [f"kind {number}" for number in range(50)]
    assert merged_filters([{"kind": kind} for kind in kinds]) == [{"kind": {"$in": kinds}}]
    assert merged_filters([{"kind": "a"}]) == [{"kind": "a"}]
    assert merged_filters([{"kind": True}, {"kind": 1}]) == [{"kind": {"$in": [True, 1]}}]
