"""Logging: one handler on stderr, for a terminal, the journal, or as JSON.

A message is a fixed lower-case phrase and fields: ``log.info(kv("session ended", session=3, reason="peer-gone"))``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal, TextIO

Format = Literal["text", "json"]

# systemd's priorities, lowest level first
_PRIORITIES = ((logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3))

OUTSIDE_CHARACTERS = 200
"""Characters that a log line shows of one text from outside: a request, a client's message, a document."""
_SENTENCES = ("error", "reason", "warning")
_SENTENCE_CHARACTERS = 1000
"""Characters of a field with one of these names, which holds a sentence; the code that makes the sentence cuts the
texts from outside in it."""
_LINE_CHARACTERS = 4000
"""Characters of a line of a traceback."""

SESSION_LINES_PER_MINUTE = 200
"""Lines of one event of the session threads: more than all sessions (``server.max_sessions``) write when they
reconnect."""
_WINDOW_SECONDS = 60.0

# Characters that steer a terminal, end a line or reorder its text: C0, DEL, C1 (U+009B and U+009D begin sequences as
# ESC does), line and paragraph separators, bidirectional controls (UAX #9), invisible format characters, tags; and lone
# surrogates, which no stream can encode. Joiners (U+200C, U+200D) are part of words and stay.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)

# The options of a URI that are shown; any other option may carry a password or a session token.
_PUBLIC_OPTIONS = frozenset(
    ("appname", "authmechanism", "authsource", "directconnection", "loadbalanced", "maxpoolsize", "readconcernlevel")
    + ("readpreference", "replicaset", "retryreads", "retrywrites", "ssl", "tls", "w")
)


def escape(text: str) -> str:
    """Return ``text`` with an escape for each character that is unsafe in one line of a terminal or a log.

    Every text from outside (documents, requests, servers' answers) passes through this function.
    """
    return _UNSAFE.sub(_escaped, text) if not text.isprintable() else text


def cut(text: str, limit: int) -> str:
    """Return ``text``, or the first ``limit - 1`` characters of it and an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def outside(value: object) -> str:
    """Return a text from outside, cut and escaped, for a sentence in a log line or an answer."""
    return escape(cut(str(value), OUTSIDE_CHARACTERS))


def write_line(text: str, file: TextIO | None = None, begin: str = "", end: str = "\n") -> None:
    """Write one line of a command's output, escaped, and flush.

    :param file: stdout by default
    :param begin: written before the text, not escaped: a line break, or the return to the begin of the line
    :param end: written after the text, not escaped
    """
    print(f"{begin}{escape(cut(text, _LINE_CHARACTERS))}", end=end, file=file, flush=True)


def write_json(value: object) -> None:
    """Write a command's result to stdout as JSON. JSON in ASCII has no character that is unsafe on a terminal."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class kv:
    """The message of a log record: a phrase and fields, rendered as logfmt when a handler writes the record."""

    __slots__ = ("fields", "phrase")

    def __init__(self, phrase: str, /, **fields: object) -> None:
        self.phrase = phrase
        self.fields = fields

    def __str__(self) -> str:
        return " ".join(
            [self.phrase, *(f"{key}={_logfmt(_shortened(key, value))}" for key, value in self.fields.items())]
        )


def setup(level: str, format: Format = "text", stream: TextIO | None = None) -> None:
    """Set up logging, or change the set-up. Thread-safe: lines that other threads log meanwhile are not lost.

    :param level: debug, info, warning or error; ValueError for another
    :param stream: stderr by default
    """
    stream = sys.stderr if stream is None else stream
    root = logging.getLogger()
    ours = logging.getLogger("zmsd")
    ours.setLevel(level.upper())
    # Libraries only warn: at debug, pymongo logs every getMore and the documents of its reply.
    root.setLevel(max(logging.WARNING, ours.level))
    handler = _Handler(stream, _is_journal(stream))
    handler.setFormatter(_Json() if format == "json" else _Text(handler.journal))
    handler.addFilter(SessionLineLimit())
    # One assignment: a thread that logs meanwhile sees the old handler or the new one, never both or none.
    root.handlers = [other for other in root.handlers if not isinstance(other, _Handler)] + [handler]
    warnings.showwarning = _log_warning


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log what a library reports by Python's warnings, instead of two lines with a line of the library's code."""
    logging.getLogger(__name__).warning(kv("warning of a library", reason=message))


def priority_prefix(level: int, stream: TextIO) -> str:
    """Return the prefix of a line for the journal, by sd-daemon(3); "" if ``stream`` is not the journal."""
    return f"<{_priority(level)}>" if _is_journal(stream) else ""


def stacks() -> Iterator[tuple[str, str]]:
    """Yield (name, stack) of every thread, the innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for number, frame in sys._current_frames().items():
        yield names.get(number, str(number)), "".join(traceback.format_stack(frame)).rstrip()


def redact_uri(uri: str) -> str:
    """Return ``uri`` without user and password, and with ``***`` for every option that is not known to be public."""
    match = re.match(r"[a-z][a-z0-9+.-]*://", uri, re.IGNORECASE)
    scheme = match[0] if match else ""
    # A password without percent-encoding may hold any character: remove everything before the last @.
    rest = uri[len(scheme) :].rpartition("@")[2].partition("#")[0]
    address, question, query = rest.partition("?")
    return scheme + address + question + re.sub(r"[^&;]+", _redact_option, query)


def _redact_option(match: re.Match[str]) -> str:
    key, equals, _ = match[0].partition("=")
    if key.lower() in _PUBLIC_OPTIONS:
        return match[0]
    return f"{key}=***" if equals else "***"


def _shortened(key: str, value: object) -> object:
    """Return the value of a field, cut if it is a text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return cut(str(value), _SENTENCE_CHARACTERS if key in _SENTENCES else OUTSIDE_CHARACTERS)


def _logfmt(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(round(value, 3))
    text = str(value)
    if text and text.isprintable() and not any(character in ' ="' for character in text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _is_journal(stream: TextIO) -> bool:
    """Return whether systemd has connected this stream to the journal: JOURNAL_STREAM of systemd.exec(5) names it."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a file (io.UnsupportedOperation is both), or closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def _priority(level: int) -> int:
    return next((priority for highest, priority in _PRIORITIES if level <= highest), 2)


class _Handler(logging.StreamHandler[TextIO]):
    def __init__(self, stream: TextIO, journal: bool) -> None:
        super().__init__(stream)
        self.journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self.journal:
            return text
        priority = _priority(record.levelno)
        # The journal makes an entry of each line, and a line without a prefix gets the default priority.
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class LineLimit:
    """Let the first lines of each event pass in each minute, and count the others. Thread-safe."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """:param most: lines of one event that pass in a minute
        :param clock: seconds that never go back
        """
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock()
        self._lines: Counter[str] = Counter()  # event -> lines in this minute

    def passes(self, event: str) -> bool:
        """Count a line, and return whether to write it."""
        with self._lock:
            self._lines[event] += 1
            return self._lines[event] <= self._most

    def suppressed(self) -> list[tuple[str, int, float]]:
        """Return (event, lines that did not pass, seconds) for each event of the minute that is over.

        Empty while the minute is not over. Each count is returned once.
        """
        with self._lock:
            seconds = self._clock() - self._began
            if seconds < _WINDOW_SECONDS:
                return []
            lines, self._lines = self._lines, Counter()
            self._began += seconds
        return [(event, count - self._most, seconds) for event, count in lines.items() if count > self._most]


class SessionLineLimit(logging.Filter):
    """Limit the lines of each event of the session threads to SESSION_LINES_PER_MINUTE. Thread-safe.

    A client that connects again and again cannot fill the log. Lines of other threads, and debug lines, always pass.
    The counts are logged with the first line of any thread after the minute is over.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """:param clock: seconds that never go back"""
        super().__init__()
        self._limit = LineLimit(SESSION_LINES_PER_MINUTE, clock)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record."""
        for event, count, seconds in self._limit.suppressed():
            message = kv("more lines of sessions", event=event, count=count, seconds=seconds)
            logging.getLogger(__name__).warning(message)
        if record.levelno <= logging.DEBUG or not (record.threadName or "").startswith("session-"):
            return True
        return self._limit.passes(record.msg.phrase if isinstance(record.msg, kv) else str(record.msg))


class _Text(logging.Formatter):
    default_msec_format = "%s.%03d"

    def __init__(self, journal: bool) -> None:
        # The journal records time, pid and priority by itself.
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)-7s %(threadName)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(escape(cut(line, _LINE_CHARACTERS)) for line in super().format(record).split("\n"))


class _Json(logging.Formatter):
    """One JSON object a line: time, level, thread, logger, message and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.msg
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "thread": record.threadName,
            "logger": record.name,
            "message": message.phrase if isinstance(message, kv) else record.getMessage(),
        }
        for key, value in message.fields.items() if isinstance(message, kv) else ():
            line[f"{key}_" if key in line else key] = _json(_shortened(key, value))
        if record.exc_info:
            text = self.formatException(record.exc_info)
            line["exception"] = "\n".join(cut(each, _LINE_CHARACTERS) for each in text.split("\n"))
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line)


def _json(value: object) -> object:
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
