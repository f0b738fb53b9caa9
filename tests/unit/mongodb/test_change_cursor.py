"""A change stream of a scripted MongoDB: the commands that read it, and what becomes of the replies."""

from __future__ import annotations

from typing import Any

import pytest
from bson import Timestamp
from pymongo import ReadPreference
from pymongo.errors import AutoReconnect, NetworkTimeout

from tests.unit.mongodb.streams import Answer, Oplog, ScriptedSource, T, batch, cursor, event, failure, mark, read
from zmsd import position
from zmsd.bson_types import Document
from zmsd.errors import (
    EventUnreadable,
    OptionRefused,
    ResumeLost,
    SourceTimeout,
    SourceUnavailable,
    TokenUnfit,
)
from zmsd.mongodb import raw_batch, resume_token
from zmsd.mongodb.change_cursor import BATCH, FEW_EVENTS, ChangeCursor
from zmsd.mongodb.members import Pin
from zmsd.mongodb.pipelines import ENVELOPE_ONLY


def test_stream_begins_right_after_a_position() -> None:
    script = ScriptedSource(database=[batch(event(T + 1)), batch(event(T + 2))])
    stream = cursor(script)
    assert [stream.read().events, stream.read().events] == [read(event(T + 1)), read(event(T + 2))]
    assert script.opened == [(None, {"startAtOperationTime": Timestamp(T >> 32, 21)})]
    stream.close()
    assert script.killed == [1]


@pytest.mark.parametrize("first", [[], [batch(upto=T + 9)]], ids=["before the first batch", "after one"])
def test_stream_resumes_at_its_position_after_transient_errors(first: list[Answer]) -> None:
    script = ScriptedSource(database=[*first, AutoReconnect("away"), failure(11600), batch(event(T + 10))])
    stream = cursor(script)
    for _ in first:
        stream.read()
    for _ in range(2):
        with pytest.raises(SourceUnavailable):
            stream.read()
    assert stream.read().events == read(event(T + 10))
    options = [option for _, option in script.opened]
    if first:
        assert options[1:] == [{"resumeAfter": mark(T + 9)}] * 2
    else:
        assert options == [{"startAtOperationTime": Timestamp(T >> 32, 21)}] * 3


def test_unfit_token_is_retried_by_time_before_the_position_is_lost() -> None:
    """The position may still be read by its cluster time; if that fails too, it is lost."""
    script = ScriptedSource(database=[batch(event(T + 1)), failure(280), failure(280)])
    stream = cursor(script)
    stream.read()
    with pytest.raises(TokenUnfit):
        stream.read()
    with pytest.raises(ResumeLost):
        cursor(script).read()


def test_position_before_the_oplog_is_lost() -> None:
    script = ScriptedSource(database=[failure(286)])
    with pytest.raises(ResumeLost):
        cursor(script).read()


class DamagedOplog(Oplog):
    """The text of one event is not UTF-8, and its document has no end."""

    def damaged(self, reply: bytes) -> bytes:
        return reply.replace(b"\x02bad\0\x02\0\0\0x\0", b"\x02bad\0\x7f\0\0\0x\0")


def test_invalid_bson_costs_only_its_slice() -> None:
    """Events read before it are not returned again, and events after it are not skipped."""
    script = DamagedOplog()
    script.events = [event(T + number, number) for number in range(1, 3000)]
    script.events[1500]["fullDocument"]["bad"] = "x"
    stream = ChangeCursor(script, None, T, [], ahead=True)
    got: list[int] = []
    unreadable: list[int] = []
    while len(got) < 2999:
        try:
            found = stream.read()
        except EventUnreadable:
            unreadable.append(len(got))
            found = stream.read_without_documents()
        got += [one.document_id for one in found.events]
    assert unreadable[0] == 20 + 1000 + 480 // raw_batch.SLICE * raw_batch.SLICE
    assert got == list(range(1, 3000))


def test_token_of_the_begin_itself_is_before_the_begin() -> None:
    """MongoDB answers startAtOperationTime: t with the token of t, also before anything has happened at t."""
    stream = cursor(ScriptedSource(database=[batch(upto=T + 1), batch(upto=T + 2)]))
    assert resume_token.position_of(stream.read().token) == T
    assert resume_token.position_of(stream.read().token) == T + 2


def test_batch_below_its_size_is_drained() -> None:
    """No further event was visible, unless large tokens or documents have filled the reply."""
    full = [event(T + number) for number in range(1, FEW_EVENTS + 1)]
    large = event(T + 99)
    large["_id"] = {"_data": large["_id"]["_data"] + "0" * (4 << 20)}
    script = ScriptedSource(database=[batch(*full), batch(event(T + 50)), batch(large)])
    stream = cursor(script)
    assert [stream.read().drained for _ in range(3)] == [False, True, False]


def test_stream_is_open_between_its_first_reply_and_an_error() -> None:
    stream = cursor(ScriptedSource(database=[batch(upto=T + 1), AutoReconnect("away")]))
    assert not stream.is_open
    stream.read()
    assert stream.is_open
    assert not stream.has_buffered
    with pytest.raises(SourceUnavailable):
        stream.read()
    assert not stream.is_open


@pytest.mark.parametrize(("error", "busy"), [(failure(50), True), (NetworkTimeout("timed out"), False)])
def test_late_reply_makes_the_next_request_smaller_and_longer(error: Exception, busy: bool) -> None:
    script = ScriptedSource(database=[error, batch(upto=T + 1)])  # type: ignore[list-item]
    stream = ChangeCursor(script, None, T, [], batch_size=BATCH)
    with pytest.raises(SourceTimeout) as late:
        stream.read()
    assert late.value.busy is busy
    stream.read()
    assert script.limits[1] > script.limits[0]
    assert stream._pace.size < BATCH


def test_refused_option_is_the_callers_to_solve() -> None:
    with pytest.raises(OptionRefused):
        cursor(ScriptedSource(database=[failure(2)])).read()


class Secondary(ScriptedSource):
    """A source whose streams are read on a secondary. ``waits`` has the times up to which the member was waited for."""

    def __init__(self, **answers: list[Answer]) -> None:
        super().__init__(**answers)
        self.waits: list[Timestamp] = []

    def pin(self) -> Pin:
        return Pin(ReadPreference.SECONDARY)

    def read(self, command: Document, *arguments: Any, **options: Any) -> Any:
        if "find" in command:
            self.waits.append(command["readConcern"]["afterClusterTime"])
        return super().read(command, *arguments, **options)


def test_lagging_secondary_is_waited_for_before_the_stream_is_opened() -> None:
    """A member that lags for long is replaced by another one, and the changes do not wait for it."""
    script = Secondary(database=[batch(event(T + 1)), AutoReconnect("away"), batch(event(T + 2))])
    stream = cursor(script)
    stream.read()
    assert script.waits == [position.to_timestamp(T)]
    with pytest.raises(SourceUnavailable):
        stream.read()
    stream.read()
    assert script.waits == [position.to_timestamp(T), position.to_timestamp(T + 1)]


def test_position_that_a_secondary_has_lost_is_asked_of_the_primary() -> None:
    """A member with a smaller oplog, or one that was synced lately, has less history."""
    script = Secondary(database=[failure(286), failure(286)])
    stream = cursor(script)
    with pytest.raises(SourceUnavailable, match="asking the primary"):
        stream.read()
    with pytest.raises(ResumeLost):
        stream.read()


def test_event_that_cannot_be_read_is_read_without_its_documents() -> None:
    script = ScriptedSource(a=[batch(event(T + 1)), failure(10334), batch(event(T + 2), upto=T + 3), batch(upto=T + 4)])
    matches = [{"$match": {"x": 1}}, {"$project": {"y": 1}}]
    stream = ChangeCursor(script, "a", T, matches)
    stream.read()
    with pytest.raises(EventUnreadable):
        stream.read()
    few = stream.read_without_documents()
    assert few.events == read(event(T + 2))
    assert script.pipelines[1] == [{"$match": {"x": 1}}, ENVELOPE_ONLY]
    assert script.opened[1] == ("a", {"resumeAfter": event(T + 1)["_id"]})
    assert script.killed == [2], "the second cursor is closed"
    stream.read()
    assert script.opened[2] == ("a", {"resumeAfter": mark(T + 3)}), "and the stream goes on after the events"


def test_widened_stream_continues_in_that_of_the_database() -> None:
    script = ScriptedSource(a=[batch(event(T + 1)), failure(166)], database=[batch(event(T + 2))])
    stream = ChangeCursor(script, "a", T, [{"$project": {"y": 1}}])
    stream.read()
    with pytest.raises(Exception, match="code 166"):
        stream.read()
    stream.widen({"$match": {"ns.coll": "a"}})
    assert stream.read().events == read(event(T + 2))
    assert script.opened[-1] == (None, {"resumeAfter": event(T + 1)["_id"]})
    assert script.pipelines[-1] == [{"$match": {"ns.coll": "a"}}, {"$project": {"y": 1}}]


def test_reopened_stream_begins_after_the_given_position() -> None:
    script = ScriptedSource(database=[batch(event(T + 1)), batch(event(T + 9))])
    stream = cursor(script)
    stream.read()
    stream.reopen_after(T + 8)
    stream.read()
    assert script.opened[-1] == (None, {"startAtOperationTime": Timestamp(T >> 32, 29)})
