"""The messages and the watermark of a schema change. Integration tests read the rows of added tables."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest

from tests.support.frames import messages
from tests.unit.fakes import START, FakeSource, active, table
from zmsd.errors import ResumeLost, SourceUnavailable
from zmsd.position import watermark as mark
from zmsd.replication.schema_change import SchemaChange
from zmsd.schema.catalog import Catalog, Table
from zmsd.schema.publication import Publication


def publication(*tables: Table, permissions: Any = None) -> Publication:
    return Publication(Catalog(tables), permissions)


def change(
    old: Publication, new: Publication, watermark: str = mark(START), recorded: str = "", at: int = START
) -> SchemaChange:
    source = FakeSource(time=at)
    return SchemaChange(source, active(new, source), "zero", 0, Event(), watermark, old, recorded)


def sent(one: SchemaChange) -> list[Any]:
    return messages(b"".join(one.frames()))


def test_schema_change_drops_before_it_adds() -> None:
    old = publication(table("gone", "g"), table("kept", "k", v="number", w="number"), permissions=1)
    begin, *changes, commit = sent(change(old, publication(table("kept", "k", v="number"), permissions=2)))
    assert begin[2] == {"commitWatermark": mark(START, 1)}
    assert [one[1]["tag"] for one in changes] == ["drop-index", "drop-table", "drop-column", "update"]
    assert changes[1][1]["id"]["name"] == "gone"
    assert (changes[2][1]["table"]["name"], changes[2][1]["column"]) == ("kept", "w")
    assert changes[3][1]["relation"]["name"] == "zero.permissions"
    assert commit == [
        "commit",
        {"tag": "commit", "commitTimeMs": (START >> 32) * 1000},
        {"watermark": mark(START, 1)},
    ]


@pytest.mark.parametrize(
    ("watermark", "recorded", "at", "expected"),
    [
        (mark(START), "", START + 5, mark(START + 5, 1)),
        (mark(START), mark(START), START, mark(START, 1)),
        (mark(START, 2), "", START, mark(START, 3)),
        (mark(START), mark(START, 4), START, mark(START, 5)),
        (mark(START, 4), mark(START, 2), START, mark(START, 5)),
        (mark(START + 9), "", START, mark(START + 9, 1)),
    ],
)
def test_schema_change_has_a_watermark_above_all_before(watermark: str, recorded: str, at: int, expected: str) -> None:
    """With a minor number always: a change that another stream has at this position has none."""
    one = change(publication(), publication(permissions=1), watermark, recorded, at)
    assert one.watermark == expected
    assert one.record.stream_from == expected
    assert one.record.publication == one.active.fingerprint


def test_schema_change_before_the_recorded_one_waits_for_the_clock() -> None:
    with pytest.raises(SourceUnavailable, match="behind the last schema change"):
        change(publication(), publication(permissions=1), mark(START), mark(START + 1))


def test_schema_change_that_zero_cannot_follow_loses_the_position() -> None:
    old = publication(table("t", "c", v="number"))
    with pytest.raises(ResumeLost, match="the type of column v was number, is string") as lost:
        change(old, publication(table("t", "c", v="string")))
    assert lost.value.code == "publication-incompatible"
