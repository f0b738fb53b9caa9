from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.schema.test_catalog import SPEC, load, table
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.mapping import Mapping
from zmsd.schema.publication import Publication, PublicationDiff, diff
from zmsd.schema.tables import Column

NO_DIFFERENCE = PublicationDiff((), (), (), (), False, ())


def between(old: Catalog, new: Catalog) -> PublicationDiff:
    return diff(Publication(old), Publication(new))


def test_publication_json_reads_back_as_equal() -> None:
    publication = Publication(load(table("a")), {"a": []}, "clients", None)
    again = Publication.from_json(publication.to_json())
    assert again == publication
    assert again.fingerprint == publication.fingerprint


def test_diff_permissions_and_system_tables_are_compared() -> None:
    catalog = load(table("a"))
    found = diff(Publication(catalog, None, "c", "m"), Publication(catalog, {}, "d", "m"))
    assert found == PublicationDiff((), (), (), ("clients",), True, ())


def test_diff_equal_publications_is_empty() -> None:
    old = load({**table("a"), **table("b")}, {"a": {"collection": "m", "filter": {"k": 1}}})
    new = load({**table("b"), **table("a")}, {"a": {"source": "m", "filter": {"k": 1}, "projection": {"id": 1}}})
    assert between(old, new) == NO_DIFFERENCE
    optional = {"b": {"columns": {"id": {"type": "string", "optional": True}}, "primaryKey": ["id"]}}
    assert between(load(table("b")), load(optional)) == NO_DIFFERENCE


def test_diff_tables_and_columns_added_and_dropped() -> None:
    old = load({**table("gone"), **table("kept", x="number", y="json"), **table("same")})
    new = load({**table("same"), **table("kept", y="json", z="string"), **table("new")})
    found = between(old, new)
    assert [entry.name for entry in found.added] == ["new"]
    assert [entry.name for entry in found.dropped] == ["gone"]
    (change,) = found.changed
    assert (change.old.name, change.new.name) == ("kept", "kept")
    assert change.added == (Column("z", "string"),)
    assert change.dropped == (Column("x", "number"),)
    assert not change.remapped
    assert not found.incompatible


BASE = {"collection": "m", "filter": {"k": 1}, "fields": {"id": "_id", "x": "a.x"}}


@pytest.mark.parametrize(
    ("mapping", "remapped"),
    [
        ({**BASE, "fields": {"id": "_id", "x": "a.x", "y": "other"}}, False),
        ({**BASE, "fields": {"id": "_id", "x": "b.x"}}, True),
        ({**BASE, "fields": {"x": "a.x"}}, True),
        ({**BASE, "collection": "n"}, True),
        ({**BASE, "filter": {"k": 2}}, True),
        ({**BASE, "filter": {"k": True}}, True),
        ({**BASE, "filter": {"k": 1.0}}, True),
        ({**BASE, "filter": None}, True),
        ({**BASE, "revision": 1}, True),
        ({**BASE, "revision": 0}, False),
    ],
)
def test_diff_mapping_that_changes_rows_is_remapped(mapping: dict[str, Any], remapped: bool) -> None:
    found = between(load(table(x="json"), {"t": BASE}), load(table(x="json", y="json"), {"t": mapping}))
    assert [(change.remapped, [column.name for column in change.added]) for change in found.changed] == [
        (remapped, ["y"])
    ]


def test_diff_computed_columns_are_compared_one_by_one() -> None:
    old = Catalog((Table(SPEC, Mapping("m", None, projection={"id": "$_id", "x": {"$add": [1, "$a"]}})),))
    wider = replace(SPEC, columns=(*SPEC.columns, Column("y", "json")))
    for x, remapped in (({"$add": [1, "$a"]}, False), ({"$add": [1.0, "$a"]}, True)):
        new = Catalog((Table(wider, Mapping("m", None, projection={"id": "$_id", "x": x, "y": {"$size": "$l"}})),))
        assert [change.remapped for change in between(old, new).changed] == [remapped]


def test_diff_changed_key_or_type_is_incompatible() -> None:
    old = load({**table("t", x="number", y="json"), **table("u", id2="string")})
    new = load({**table("t", x="string", y="json"), **table("u", key="id2", id="string")})
    assert between(old, new).incompatible == (
        "table t: the type of column x was number, is string",
        "table u: its primary key was id, is id2",
    )
