"""The acks of one connection: which are kept, which end the session, and which reach the store."""

from __future__ import annotations

import json

import pytest

from tests.unit.fakes import FakeStore, lines
from zmsd.errors import PeerProtocolError
from zmsd.gateway.acks import Acks
from zmsd.position import watermark as mark
from zmsd.replication.replicas import ReplicaBook
from zmsd.watermarks.base import CopyRecord, Replica, ReplicaRecord

REPLICA = Replica("zero", 0, mark(5))


def ack(at: int) -> str:
    return json.dumps(["status", {"tag": "commit"}, {"watermark": mark(at)}])


def acks(store: FakeStore, *, streaming: bool = True) -> Acks:
    store.records[REPLICA] = ReplicaRecord(None, (CopyRecord(mark(5), mark(5), "f"),))
    return Acks(ReplicaBook(store, "zero", 0, mark(5), writes=True), streaming=streaming)


def test_ack_newer_than_all_before_is_recorded() -> None:
    store = FakeStore()
    found = acks(store)
    for at in (7, 9, 8):  # zero-cache 1.10 repeats an older one after a reconnect
        found.take(ack(at), mark(9))
    assert found.newest == mark(9)
    found.write(now=True)
    assert store.records[REPLICA].acked == mark(9)
    found.write(now=True)
    assert store.writes == ["record_ack"], "once"


@pytest.mark.parametrize("sent", [None, mark(8)])
def test_ack_above_what_was_sent_is_a_protocol_error(sent: str | None) -> None:
    found = acks(FakeStore())
    with pytest.raises(PeerProtocolError, match=f"acknowledged {mark(9)}, above {sent or 'nothing'}"):
        found.take(ack(9), sent)
    assert found.newest is None


def test_ack_that_is_not_a_message_of_zero_is_a_protocol_error() -> None:
    with pytest.raises(PeerProtocolError):
        acks(FakeStore()).take('["status", {}]', mark(9))


def test_ack_of_an_initial_sync_is_known_and_not_recorded() -> None:
    store = FakeStore()
    found = acks(store, streaming=False)
    found.take(ack(7), mark(9))
    found.write(now=True)
    assert found.newest == mark(7)
    assert not store.writes


def test_ack_removes_the_commits_up_to_it() -> None:
    found = acks(FakeStore())
    for at in (6, 7, 8):
        found.commits.sent(mark(at))
    found.take(ack(7), mark(8))
    assert list(found.commits.after(mark(5))) == [mark(8)]


def test_ack_is_written_again_after_the_store_failed(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    found = acks(store)
    found.take(ack(7), mark(9))
    store.failing = "disk full"
    found.write(now=True)
    assert lines(caplog) == ['keeping an acknowledgement failed error="disk full"']
    store.failing = None
    found.write(now=True)
    assert store.records[REPLICA].acked == mark(7)
