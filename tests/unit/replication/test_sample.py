"""The sample that tells whether the fields of a mapping exist."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.fakes import FakeSource, table
from zmsd.errors import EvaluationError, SourceUnavailable
from zmsd.replication.sample import SAMPLE, ColumnSample, sample_columns
from zmsd.schema.catalog import Table
from zmsd.schema.mapping import Mapping


def column(kinds: dict[str, int], *, is_key: bool = False, optional: bool = False) -> ColumnSample:
    return ColumnSample("c", "c", Counter(kinds), sum(kinds.values()), is_key, optional)


@pytest.mark.parametrize(
    ("kinds", "optional", "missing"),
    [
        ({"missing": 1}, False, True),
        ({"missing": 99}, True, False),
        ({"missing": 100}, True, True),
        ({"missing": 100, "null": 1}, True, False),
        ({"string": 1}, False, False),
    ],
)
def test_column_is_missing_if_no_document_has_its_field(kinds: dict[str, int], optional: bool, missing: bool) -> None:
    """Few documents do not prove that an optional field is misspelt."""
    assert column(kinds, optional=optional).is_missing is missing


def test_key_column_without_a_value_counts_the_documents_without_a_row() -> None:
    kinds = {"missing": 2, "null": 3, "undefined": 4, "string": 5}
    assert column(kinds, is_key=True).without_key == 9
    assert column(kinds).without_key == 0


def test_sample_asks_for_the_types_of_the_mapped_fields() -> None:
    source = FakeSource()
    source.answers = [[{"c0": "string", "c1": "int"}, {"c0": "string", "c1": "missing"}]]
    found = list(sample_columns(source, table("t", "things", "name", v="number")))
    assert found == [
        ColumnSample("id", "name", Counter({"string": 2}), 2, True, False),
        ColumnSample("v", "v", Counter({"int": 1, "missing": 1}), 2, False, True),
    ]
    ((collection, stages),) = source.asked
    assert collection == "things"
    assert stages[0] == {"$sample": {"size": SAMPLE}}
    assert stages[-1] == {"$project": {"c0": {"$type": "$name"}, "c1": {"$type": "$v"}, "_id": 0}}


def test_sample_leaves_out_the_id_and_paths_that_mongod_reads_differently() -> None:
    """Every document has an ``_id``, and an index of an array is a name in an expression."""
    source = FakeSource()
    paths = (("id", "_id"), ("x", "list.0"), ("y", "a.b"))
    mapped = Table(table("t", "c", x="string", y="string").spec, Mapping("c", paths))
    source.answers = [[{"c0": "string"}]]
    assert [one.name for one in sample_columns(source, mapped)] == ["y"]
    assert list(sample_columns(source, table("t", "c"))) == []
    assert len(source.asked) == 1, "nothing is asked where nothing is to be known"


def test_empty_collection_has_no_sample() -> None:
    source = FakeSource()
    source.answers = [[]]
    assert list(sample_columns(source, table("t", "c", v="number"))) == []


def test_stages_that_mongod_refuses_are_reported_elsewhere() -> None:
    computed = Table(table("t", "c").spec, Mapping("c", None, pipeline=[{"$set": {"id": "$_id"}}]))
    source = FakeSource()
    source.answers = [EvaluationError("no"), SourceUnavailable("away")]
    assert list(sample_columns(source, computed)) == []
    with pytest.raises(SourceUnavailable):
        list(sample_columns(source, table("t", "c", v="number")))
