"""Change sources that break a rule each, and what ``zmsd conformance`` reports about them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.stub import Message, create_table, lexi, relation, required_tables, transaction
from zmsd.commands import conformance
from zmsd.commands.change_source_client import SourceClient
from zmsd.commands.conformance import Conformance
from zmsd.errors import PeerError, PeerGone

VERSION = 100
INITIAL = transaction(VERSION, [*required_tables(), *create_table("item", {"id": "string"}, ["id"])])


def insert(watermark: int) -> list[Message]:
    row = ["data", {"tag": "insert", "relation": relation("item", ["id"]), "new": {"id": str(watermark)}}]
    return transaction(watermark, [row])


RESET: list[Message] = [["control", {"tag": "reset-required", "message": "too old"}]]
STREAM = [*insert(110), *insert(120)]


class Clock:
    """The clock of conformance.py, which advances only while a FakeClient waits: a busy machine changes no result."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


CLOCK = Clock()


class FakeClient:
    """A connection that gives its messages, then waits or ends."""

    def __init__(self, messages: list[Message], *, pongs: bool = True, ends: bool = False) -> None:
        self._messages = [json.dumps(message) for message in messages]
        self._pongs, self._ends = pongs, ends
        self.sent: list[Message] = []

    def receive(self, timeout: float) -> str | None:
        if self._messages:
            return self._messages.pop(0)
        if self._ends:
            raise PeerGone("closed with 1011")
        CLOCK.now += timeout
        return None

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def ping(self, timeout: float) -> bool:
        return self._pongs

    def close(self) -> None:
        pass


class FakeSource:
    """A change source whose answers are written down; without overrides it keeps every rule."""

    def __init__(self, **connections: FakeClient) -> None:
        again = transaction(VERSION + 50, [])
        self._answers = {
            "initial": FakeClient(INITIAL),
            "stream": FakeClient(STREAM),
            "again": FakeClient(STREAM),
            "acks": FakeClient([]),
            "lost": FakeClient(RESET),
            "second": FakeClient(again),
            **connections,
        }
        self.clients = dict(self._answers)
        self.queries: list[dict[str, str]] = []

    def connect(self, **query: str) -> SourceClient:
        self.queries.append(query)
        return self._answers.pop(next(iter(self._answers)))  # type: ignore[return-value]

    def results(self) -> dict[str, tuple[str, str]]:
        run = Conformance(self.connect, "zero", 0, 10, 10)
        return {name: (result, text) for result, name, text in run.results()}


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "time", CLOCK)


def test_source_that_keeps_every_rule_passes() -> None:
    source = FakeSource()
    assert source.results() == {
        "initial sync": ("ok", f"4 tables, 1 rows, watermark {lexi(VERSION)}"),
        "stream": ("ok", "2 transactions, 2 changes, 0 lag reports"),
        "repetition": ("ok", "2 commits came again"),
        "acks": ("ok", "coalesced and repeated acks are accepted"),
        "lost position": ("ok", "reset-required: too old"),
        "new initial sync": ("ok", f"watermark {lexi(VERSION + 50)}"),
    }
    resumed = {"lastWatermark": lexi(VERSION), "replicaVersion": lexi(VERSION)}
    newest = {"lastWatermark": lexi(120), "replicaVersion": lexi(VERSION)}
    ancient = {"lastWatermark": "01", "replicaVersion": "01"}
    assert source.queries == [{}, resumed, resumed, newest, ancient, {}]
    acks = [["status", {"tag": "commit"}, {"watermark": lexi(at)}] for at in (VERSION, 120)]
    assert source.clients["acks"].sent == acks


@pytest.mark.parametrize(
    ("check", "source", "reason"),
    [
        ("initial sync", lambda: FakeSource(initial=FakeClient(transaction(VERSION, []))), "no table zero_0.clients"),
        ("initial sync", lambda: FakeSource(initial=FakeClient(INITIAL[:4])), "no message for"),
        ("initial sync", lambda: FakeSource(initial=FakeClient(INITIAL[:4], ends=True)), "closed with 1011"),
        ("initial sync", lambda: FakeSource(initial=FakeClient(RESET)), "reset-required in the initial sync"),
        ("stream", lambda: FakeSource(stream=FakeClient(insert(90))), "the watermark does not rise"),
        ("stream", lambda: FakeSource(stream=FakeClient(STREAM[:2])), "no message for"),
        ("stream", lambda: FakeSource(stream=FakeClient(STREAM[1:])), "data outside of a transaction"),
        ("stream", lambda: FakeSource(stream=FakeClient(RESET)), "reset-required: too old"),
        ("stream", lambda: FakeSource(stream=FakeClient(STREAM, pongs=False)), "no pong"),
        ("repetition", lambda: FakeSource(again=FakeClient(insert(120))), f"commits do not come again: {lexi(110)}"),
        ("repetition", lambda: FakeSource(again=FakeClient(insert(110))), "no message for"),
        (
            "repetition",
            lambda: FakeSource(again=FakeClient([*insert(110), *transaction(120, [])])),
            "other rows come again in item",
        ),
        ("acks", lambda: FakeSource(acks=FakeClient([], ends=True)), "closed with 1011"),
        ("lost position", lambda: FakeSource(lost=FakeClient(STREAM)), "changes after 01"),
        ("lost position", lambda: FakeSource(lost=FakeClient([])), "no message for"),
        ("new initial sync", lambda: FakeSource(second=FakeClient(INITIAL)), "is not above"),
    ],
)
def test_source_that_breaks_a_rule_fails_its_check(check: str, source: Callable[[], FakeSource], reason: str) -> None:
    result, text = source().results()[check]
    assert (result, reason in text) == ("FAIL", True), text


def test_stream_without_changes_is_skipped() -> None:
    results = FakeSource(stream=FakeClient([])).results()
    assert results["stream"][0] == results["repetition"][0] == "skip"
    assert "write to the database meanwhile" in results["stream"][1]


def test_source_that_refuses_is_an_error() -> None:
    def refuse(**_: str) -> SourceClient:
        raise PeerError("HTTP 401")

    with pytest.raises(PeerError, match="HTTP 401"):
        list(Conformance(refuse, "zero", 0, 1, 1).results())
