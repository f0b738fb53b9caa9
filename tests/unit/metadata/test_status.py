"""The content of /status.json. Integration tests show the page in a browser."""

from __future__ import annotations

import json
from threading import Event
from typing import Any

import pytest

from tests.unit.fakes import START, FakeDispatcher, FakeSession, FakeSource, active, hub, table
from zmsd.errors import SourceRefused
from zmsd.metadata.monitor import Monitor
from zmsd.metadata.status import _images_note, status
from zmsd.mongodb.deployment import Deployment
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.sequencer import TransactionPart
from zmsd.position import watermark as mark
from zmsd.replication.change_log import Entry
from zmsd.replication.initial_sync import InitialSync
from zmsd.replication.problems import Kind, Problem
from zmsd.schema.catalog import Catalog
from zmsd.schema.publication import Publication


class Shown:
    """A daemon of fakes with two collections, one of them of mutations, and its status."""

    def __init__(self) -> None:
        self.source = FakeSource()
        published = Publication(Catalog((table("user", "users"),)), clients_collection="zc")
        self.hub = hub(source=self.source, published=active(published, self.source))
        self.dispatcher = FakeDispatcher(self.hub)
        self.sessions: list[FakeSession] = []
        self.monitor = Monitor(self.hub, self.dispatcher, lambda: self.sessions)

    def status(self) -> dict[str, Any]:
        """Return the status as its readers get it."""
        found: dict[str, Any] = json.loads(json.dumps(status(self.monitor)))
        return found


def test_daemon_without_clients_shows_its_state() -> None:
    found = Shown().status()
    assert found["ready"] is True
    assert found["state"] == "serving 2 collections, no client is connected"
    assert (found["database"], found["mongodb"]) == ("chat", "6.0.5")
    assert found["watermark"] == found["position"] == mark(START)
    assert found["sessions"] == []
    assert found["history"]["when"] == []


def test_idle_database_is_not_behind_although_its_position_is_old() -> None:
    shown = Shown()
    for _ in range(2):
        shown.monitor.check_published()
    found = shown.status()
    assert found["behind_seconds"] == 0
    assert found["position_age"] > 0


def test_daemon_that_has_not_begun_has_no_position() -> None:
    shown = Shown()
    shown.dispatcher.at = None
    shown.hub.readiness.set("starting")
    found = shown.status()
    assert found["ready"] is False
    assert found["position"] is found["position_age"] is found["behind_seconds"] is None


def test_collections_are_shown_with_their_tables_and_queues() -> None:
    shown = Shown()
    shown.source.images = frozenset(("users",))
    shown.dispatcher.waiting = {"collection-users": (1, 2), "collection-rooms": (0, 2)}
    shown.hub.counters.read([TransactionPart(START, [ChangeEvent({}, "insert", "users")], True, True)])
    users, clients = shown.status()["collections"]
    assert users.pop("lag") > 0
    assert users == {
        "name": "users",
        "tables": ["user"],
        "events": 1,
        "rate": 0.0,
        "queue": [1, 2],
        "images": True,
        "images_note": None,
    }
    assert (clients["name"], clients["tables"]) == ("zc", ["zero-cache's own clients"])
    assert (clients["queue"], clients["lag"], clients["images"]) == (None, None, False)


def test_session_is_shown_with_its_backlog() -> None:
    shown = Shown()
    shown.hub.log.extend([Entry(mark(START + 1), 1000, 1, b"x")])
    shown.sessions = [FakeSession(shown.hub, last=mark(START), sent=mark(START), acked=mark(START))]
    (session,) = shown.status()["sessions"]
    assert (session["app"], session["shard"], session["replica"]) == ("zero", 0, mark(START))
    assert session["backlog_transactions"] == 1
    assert session["backlog_seconds"] > 1_000_000
    assert (session["sent"], session["acked"], session["copy"]) == (mark(START), mark(START), None)


def test_session_that_copies_counts_the_rows_that_it_has_sent() -> None:
    shown = Shown()
    sync = InitialSync(shown.source, shown.hub.active, "zero", 0, Event(), "")
    sync.progress.rows, sync.progress.collection = 7, "users"
    shown.sessions = [FakeSession(shown.hub, copy=sync)]
    shown.sessions[0].rows = 3
    (session,) = shown.status()["sessions"]
    assert session["rows"] == 10
    assert session["copy"]["collection"] == "users"
    assert session["backlog_seconds"] is session["backlog_transactions"] is session["replica"] is None


def test_rejected_rows_are_shown_newest_first() -> None:
    shown = Shown()
    for number in range(3):
        shown.hub.rejects.add("user", "no key", number, "row")
    found = shown.status()["rejected"]
    assert [total["count"] for total in found["counts"]] == [3]
    assert [reject["id"] for reject in found["newest"]] == ["2", "1", "0"]


def test_last_reload_is_shown() -> None:
    shown = Shown()
    assert shown.status()["last_reload"] is None
    shown.monitor.reloaded(["zmsd.yaml:1:1: wrong"])
    assert shown.status()["last_reload"]["faults"] == ["zmsd.yaml:1:1: wrong"]


def test_history_has_a_point_for_each_sample() -> None:
    shown = Shown()
    shown.monitor.sample(100.0)
    shown.monitor.sample(102.0)
    history = shown.status()["history"]
    assert len(history["when"]) == len(history["rate"]) == len(history["lag"]) == 2


NEW = Deployment((7, 0, 28), stores_images=True)


def images_note(deployment: Deployment, name: str = "users", kind: Kind | None = None, setting: str = "auto") -> str:
    """Return why a collection has no images."""
    shown = Shown()
    shown.source.deployment, shown.source._images_setting = deployment, setting
    shown.source.missing_images = {"refused": SourceRefused("not authorized")}
    problem = None if kind is None else Problem(kind, name, "")
    return str(_images_note(shown.source, name, problem))


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("missing", "collection", "the collection does not exist"),
        ("view", "type", "only collections have them"),
        ("refused", "images", "not authorized"),
        ("new", None, "they are switched on at the next check"),
    ],
)
def test_images_note_explains_that_they_are_off(name: str, kind: Kind | None, expected: str) -> None:
    assert images_note(NEW, name, kind) == expected


def test_images_note_names_the_setting() -> None:
    assert images_note(NEW, setting="off") == "feed.images is off"


def test_images_note_names_an_old_mongodb() -> None:
    assert "upgrade to 6.0" in images_note(Deployment((5, 0, 4)))
    assert "featureCompatibilityVersion" in images_note(Deployment((6, 0, 5)))


def test_images_note_before_mongodb_answers_is_unknown() -> None:
    assert images_note(Deployment()) == "MongoDB has not been asked yet"
