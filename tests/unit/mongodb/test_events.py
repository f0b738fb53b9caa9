"""What ChangeEvent has of mongod's document."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from zmsd.mongodb.events import ChangeEvent, change_event

TOKEN = {"_data": "82"}
NOON = datetime(2026, 11, 28, 12)


def test_update_has_both_images() -> None:
    found = change_event(
        {
            "_id": TOKEN,
            "operationType": "update",
            "ns": {"db": "chat", "coll": "users"},
            "documentKey": {"shardKey": 1, "_id": "u"},
            "fullDocument": {"_id": "u", "v": 2},
            "fullDocumentBeforeChange": {"_id": "u", "v": 1},
            "txnNumber": 5,
            "wallTime": NOON,
        }
    )
    assert found == ChangeEvent(
        TOKEN,
        "update",
        "users",
        "u",
        after={"_id": "u", "v": 2},
        before={"_id": "u", "v": 1},
        before_known=True,
        in_transaction=True,
        wall_time=NOON,
    )


@pytest.mark.parametrize(
    ("kind", "more", "known"),
    [
        ("insert", {}, True),
        ("update", {}, False),
        ("delete", {"fullDocumentBeforeChange": None}, False),
        ("delete", {"fullDocumentBeforeChange": {"_id": 1}}, True),
    ],
)
def test_document_before_is_known_with_an_image_or_before_an_insert(
    kind: str, more: dict[str, Any], known: bool
) -> None:
    event = change_event({"_id": TOKEN, "operationType": kind, "ns": {"coll": "a"}, "documentKey": {"_id": 1}, **more})
    assert event.before_known is known


def test_rename_has_its_target() -> None:
    event = change_event({"_id": TOKEN, "operationType": "rename", "ns": {"coll": "a"}, "to": {"coll": "b"}})
    assert (event.collection, event.target, event.document_id) == ("a", "b", None)


@pytest.mark.parametrize("more", [{}, {"ns": {"db": "chat"}}])
def test_event_of_the_database_has_no_collection(more: dict[str, Any]) -> None:
    event = change_event({"_id": TOKEN, "operationType": "dropDatabase", **more})
    assert event == ChangeEvent(TOKEN, "dropDatabase")
