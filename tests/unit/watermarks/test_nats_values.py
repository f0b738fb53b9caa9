"""Values of the store in NATS: what is written is read again, and what zmsd cannot have written counts as absent."""

from __future__ import annotations

import pytest

from zmsd.position import watermark as mark
from zmsd.watermarks.base import CopyRecord, Identity, Replica, ReplicaRecord
from zmsd.watermarks.nats_values import Values, write, write_publication, write_replica

ZERO = Replica("zero", 0, mark(5))
RECORD = ReplicaRecord(mark(7), (CopyRecord(mark(5), mark(6), "e"),))


def test_written_values_are_read_again() -> None:
    values = Values("bucket")
    assert values.replica("r", write_replica(ZERO, RECORD)) == (ZERO, RECORD)
    assert values.replica("r", write_replica(ZERO, ReplicaRecord(None, ()))) == (ZERO, ReplicaRecord(None, ()))
    assert values.publication("p", write_publication('["ü"]')) == '["ü"]'
    assert values.identity(write({"setId": None, "collections": {}})) == Identity(None, {})
    assert values.invalid(write({"below": mark(5), "reason": "other"})) == (mark(5), "other")
    assert values.epochs(write(["a", "b"])) == ("a", "b")
    assert values.token(mark(5), b"82" * 9) == "82" * 9


def test_absent_value_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    values = Values("bucket")
    assert values.replica("r", None) is values.identity(None) is values.token(mark(5), None) is None
    assert values.epochs(None) == ()
    assert not caplog.records


@pytest.mark.parametrize("value", [b"", b"{", b"\xff", b"null", b"1", b'{"app": "zero"}', b"[" * 100_000])
def test_unreadable_value_is_absent_and_logged_once(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    values = Values("bucket")
    for _ in range(2):
        assert values.replica("r", value) is None
        assert values.publication("p", value) is None
        assert values.identity(value) is None
        assert values.invalid(value) is None
        assert values.epochs(value) == ()
        assert values.token(mark(5), value) is None
    lines = [str(record.msg) for record in caplog.records]
    keys = ("r", "p", "identity", "invalid", "epochs", mark(5))
    assert lines == [f"unreadable record ignored bucket=bucket key={key}" for key in keys]


def test_unreadable_values_of_one_key_are_remembered_by_the_key_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Another program may write a new value each second; zmsd must not keep them all."""
    values = Values("bucket")
    for number in range(100):
        assert values.identity(b"x" * number) is None
    assert len(caplog.records) == 1
    assert values._reported == {"identity"}
    assert values.identity(write({"setId": None, "collections": {}})) is not None
    assert values.identity(b"x") is None
    assert len(caplog.records) == 2, "a value that became unreadable again"


def test_record_with_a_wrong_watermark_is_absent() -> None:
    wrong = ReplicaRecord("not a watermark", ())
    assert Values("bucket").replica("r", write_replica(ZERO, wrong)) is None
    wrong = ReplicaRecord(None, (CopyRecord(mark(5), "-", "e"),))
    assert Values("bucket").replica("r", write_replica(ZERO, wrong)) is None
    assert Values("bucket").token("not a watermark", b"82" * 9) is None
