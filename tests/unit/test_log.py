from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient

import zmsd
from tests.unit.fakes import FakeClock
from zmsd.log import (
    OUTSIDE_CHARACTERS,
    SESSION_LINES_PER_MINUTE,
    LineLimit,
    SessionLineLimit,
    cut,
    escape,
    kv,
    outside,
    redact_uri,
    setup,
    write_line,
)

log = logging.getLogger("zmsd.test")


def ours() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if type(handler).__module__ == "zmsd.log"]


# kv


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("peer-gone", "peer-gone"),
        (812, "812"),
        (0.123456, "0.123"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        ("C:\\temp", "C:\\temp"),
        ("line\nline", r'"line\nline"'),
        ("\x1b[31mred", r'"\u001b[31mred"'),
        ("é", "é"),
        ("é è", '"é è"'),
        ("\u2028", r'"\u2028"'),
        ("\udc80", r'"\udc80"'),
        (Path("/etc/zmsd"), "/etc/zmsd"),
        (ValueError("no such host"), '"no such host"'),
    ],
)
def test_values_are_written_as_logfmt(value: object, text: str) -> None:
    assert str(kv("it happened", value=value)) == f"it happened value={text}"


def test_line_has_the_phrase_and_then_its_fields_in_order() -> None:
    assert str(kv("session ended", session=3, app="zero", phrase="x")) == "session ended session=3 app=zero phrase=x"
    assert str(kv("stopped")) == "stopped"


@given(st.text())
def test_value_cannot_end_its_line_or_field(value: str) -> None:
    line = str(kv("x", value=value, last=1))
    assert line.isprintable()
    field = line.removeprefix("x value=").removesuffix(" last=1")
    if field.startswith('"'):
        assert json.loads(field) == cut(value, OUTSIDE_CHARACTERS)
    else:
        assert field == cut(value, OUTSIDE_CHARACTERS)


def test_line_below_the_level_is_not_rendered() -> None:
    class Dear:
        def __str__(self) -> str:
            raise AssertionError

    setup("info", stream=io.StringIO())
    log.debug(kv("x", value=Dear()))


# Texts from outside


@given(st.text(st.characters()))
def test_escaped_text_is_one_harmless_encodable_line(text: str) -> None:
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    shown.encode()
    assert escape(shown) == shown


@pytest.mark.parametrize("text", ["", "plain", "naïve 漢字", "\u200d\u200c", "👩‍👧", "a\\b"])
def test_ordinary_text_is_not_escaped(text: str) -> None:
    assert escape(text) == text


def test_escapes_name_the_character() -> None:
    assert escape("\x1b\x9b\u202e\U000e0041\ud800") == r"\x1b\x9b\u202e\U000e0041\ud800"


@pytest.mark.parametrize("format", ["text", "json"])
def test_line_length_is_bounded(format: Literal["text", "json"]) -> None:
    stream = io.StringIO()
    setup("info", format, stream=stream)
    log.info(kv("x", id="y" * 1_000_000, reason=ValueError("z" * 1_000_000)))
    assert "y" * 199 in stream.getvalue()
    assert len(stream.getvalue()) < 1500
    try:
        raise ValueError("e" * 1_000_000)
    except ValueError:
        log.exception("failed")
    assert len(stream.getvalue()) < 12_000


def test_text_is_cut_to_its_limit() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert len(outside("x" * 1000)) == 200


def test_commands_write_through_one_function() -> None:
    """``print`` would write control characters of a document to the terminal."""
    root = Path(zmsd.__file__).parent
    for path in [root / "cli.py", *(root / "commands").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Name) and node.id == "print"), f"{path}:{node.lineno}"
    out = io.StringIO()
    write_line("a\x1bb\nc", out)
    assert out.getvalue() == "a\\x1bb\\x0ac\n"


# setup


def test_terminal_line_has_time_level_and_thread() -> None:
    stream = io.StringIO()
    setup("info", stream=stream)
    log.info(kv("session ended", session=3))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    MainThread: session ended session=3\n", stream.getvalue()
    )


def test_setup_may_be_repeated_with_other_settings() -> None:
    first, second = io.StringIO(), io.StringIO()
    setup("info", stream=first)
    setup("info", stream=first)
    log.info("one")
    setup("warning", "json", stream=second)
    log.info("two")
    log.warning("three")
    setup("debug", stream=first)
    log.debug("four")
    assert len(ours()) == 1
    assert [line.split(": ")[1] for line in first.getvalue().splitlines()] == ["one", "four"]
    assert [json.loads(line)["message"] for line in second.getvalue().splitlines()] == ["three"]


def test_unknown_level_changes_nothing() -> None:
    setup("info", stream=io.StringIO())
    before = ours()
    with pytest.raises(ValueError, match="LOUD"):
        setup("loud", stream=io.StringIO())
    assert ours() == before
    assert log.getEffectiveLevel() == logging.INFO


def test_libraries_log_only_warnings() -> None:
    stream = io.StringIO()
    setup("debug", stream=stream)
    logging.getLogger("pymongo.command").debug("a document")
    logging.getLogger("pymongo.command").warning("a warning")
    assert "a document" not in stream.getvalue()
    assert "a warning" in stream.getvalue()
    setup("error", stream=stream)
    logging.getLogger("pymongo.command").warning("another")
    assert "another" not in stream.getvalue()


def test_warning_of_a_library_is_one_line_of_the_log() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        setup("info", stream=stream)
        MongoClient("mongodb://h/?compressors=unheard-of", connect=False).close()
    (line,) = stream.getvalue().splitlines()
    assert 'WARNING MainThread: warning of a library reason="Unsupported compressor' in line


def test_stderr_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    setup("info")
    log.info("here")
    assert "here" in stream.getvalue()


def test_control_characters_do_not_reach_a_terminal() -> None:
    stream = io.StringIO()
    setup("info", stream=stream)
    log.info("GET /%s", "\x1b[2J\r\0\x9b")
    assert stream.getvalue().endswith("GET /\\x1b[2J\\x0d\\x00\\x9b\n")


# the journal


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A stream that is the journal's according to systemd's environment variable."""
    with open(tmp_path / "journal", "w+", encoding="utf-8") as stream:
        stat = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        yield stream


def written(stream: TextIO) -> list[str]:
    stream.seek(0)
    return stream.read().splitlines()


def test_journal_line_has_the_priority_of_its_level(journal: TextIO) -> None:
    setup("debug", stream=journal)
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)(kv("it is", level=level))
    assert written(journal) == [
        "<7>it is level=debug",
        "<6>it is level=info",
        "<4>it is level=warning",
        "<3>it is level=error",
        "<2>it is level=critical",
    ]


def test_each_line_of_a_traceback_has_a_priority(journal: TextIO) -> None:
    setup("info", stream=journal)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception(kv("thread died", thread="dispatcher"))
    lines = written(journal)
    assert lines[:2] == ["<3>thread died thread=dispatcher", "<3>Traceback (most recent call last):"]
    assert lines[-2:] == ["<3>ValueError: two", "<3>lines"]
    assert all(line.startswith("<3>") for line in lines)


def test_json_line_in_the_journal_has_a_priority(journal: TextIO) -> None:
    setup("info", "json", stream=journal)
    log.warning("x")
    (line,) = written(journal)
    assert line.startswith("<4>{")
    assert json.loads(line[3:])["message"] == "x"


def test_journal_of_another_stream_is_ignored(journal: TextIO) -> None:
    """Children of a service inherit its JOURNAL_STREAM although their stderr may be another file."""
    stream = io.StringIO()
    setup("info", stream=stream)
    log.info("x")
    assert "INFO" in stream.getvalue()
    with open(os.devnull, "w") as elsewhere:
        setup("info", stream=elsewhere)
        log.info("x")
    assert written(journal) == []


# JSON


def test_json_line_has_its_fields() -> None:
    stream = io.StringIO()
    setup("info", "json", stream=stream)
    log.info(
        kv("x y", n=1, f=0.5, t=True, no=None, path=Path("/a"), nan=float("nan"), thread="mine", s='"\n\x7f\x9b\udc80')
    )
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("plain %s", "text")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "info",
        "thread": "MainThread",
        "logger": "zmsd.test",
        "message": "x y",
        "n": 1,
        "f": 0.5,
        "t": True,
        "no": None,
        "path": "/a",
        "nan": "nan",
        "thread_": "mine",
        "s": '"\n\x7f\x9b\udc80',
    }
    assert second["message"] == "plain text"
    assert second["exception"].endswith("KeyError: 'k'")


# redact_uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://127.0.0.1:27017/mydb?replicaSet=rs0", "mongodb://127.0.0.1:27017/mydb?replicaSet=rs0"),
        ("mongodb://user:SECRET@a:1,b:2/db", "mongodb://a:1,b:2/db"),
        ("mongodb+srv://SECRET@cluster.example.net/?retryWrites=true&w=majority", None),
        ("mongodb://user:SEC/RET@host/db", "mongodb://host/db"),
        ("mongodb://user:SEC@RET@host/db", "mongodb://host/db"),
        ("mongodb://user:SEC?RET#SECRET@host/db", "mongodb://host/db"),
        ("mongodb://user:SEC://RET@host/db", "mongodb://host/db"),
        ("mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:SECRET", "mongodb://h/?authMechanismProperties=***"),
        (
            "mongodb://h/?tls=true;tlsCertificateKeyFilePassword=SECRET&authSource=admin",
            "mongodb://h/?tls=true;tlsCertificateKeyFilePassword=***&authSource=admin",
        ),
        ("https://api.example.com/schema?token=SECRET&v=2", "https://api.example.com/schema?token=***&v=***"),
        ("https://api.example.com/schema?SECRET#SECRET", "https://api.example.com/schema?***"),
        ("nats://u:SECRET@h1,nats://u:SECRET@h2", "nats://h2"),
        ("user:SECRET@host", "host"),
        ("", ""),
    ],
)
def test_redacted_uri_has_no_secret(uri: str, shown: str | None) -> None:
    assert redact_uri(uri) == (uri.replace("SECRET@", "") if shown is None else shown)
    assert "SEC" not in redact_uri(uri)
    assert "RET" not in redact_uri(uri)


@given(st.text(), st.text())
def test_any_user_and_password_is_redacted(user: str, password: str) -> None:
    assert redact_uri(f"mongodb://{user}:{password}@host/db") == "mongodb://host/db"


def test_line_limit_counts_the_lines_of_each_minute_once() -> None:
    clock = FakeClock(100.0)
    limit = LineLimit(2, clock)
    assert [limit.passes("a") for _ in range(5)] == [True, True, False, False, False]
    assert [limit.passes("b") for _ in range(2)] == [True, True]
    clock.now = 159.0
    assert limit.suppressed() == []
    clock.now = 170.0
    assert limit.suppressed() == [("a", 3, 70.0)]
    assert limit.suppressed() == []
    assert limit.passes("a")
    clock.now = 230.0
    assert limit.suppressed() == [], "a minute with as many lines as may pass"


def test_session_lines_beyond_the_limit_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A client that connects again and again writes a bounded number of lines; other threads always log."""
    clock = FakeClock()
    limit = SessionLineLimit(clock)

    def passes(thread: str, message: object, level: int = logging.INFO) -> bool:
        record = logging.LogRecord("zmsd.x", level, "", 0, message, (), None)
        record.threadName = thread
        return limit.filter(record)

    begins = [passes(f"session-{n}", kv("session begins", session=n)) for n in range(SESSION_LINES_PER_MINUTE + 7)]
    assert begins.count(False) == 7
    assert not any(begins[-7:])
    assert passes("session-9", kv("session ends", session=9)), "each event has a limit of its own"
    assert passes("session-9", kv("session begins", session=9), logging.DEBUG)
    assert passes("dispatcher", kv("session begins", session=9))
    clock.now = 59.0
    assert not passes("session-9", kv("session begins", session=9))
    assert not caplog.records
    clock.now = 61.0
    assert passes("dispatcher", kv("feed runs"))
    lines = [str(record.msg) for record in caplog.records]
    assert lines == ['more lines of sessions event="session begins" count=8 seconds=61.0']
    assert passes("session-9", kv("session begins", session=9))
