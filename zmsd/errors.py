"""Every exception that zmsd raises on purpose, except exceptions that one module raises and catches itself.

ZmsdError
    ConfigError            a settings, schema or mapping file is wrong: exit code 78, and a reload changes nothing
        EndpointDown       a URL gives no usable document: exit code 1
    SourceError            MongoDB did not do what was asked
        SourceUnavailable  network, election, time-out: retry with backoff at the same position
            SourceTimeout  no complete answer arrived within the request's deadline
            SequenceError  the change streams disagree about the order, a bug: restart the feed at its position
            OptionRefused  the server refuses an option of a change stream: ask for its version, then retry
        SourceRefused      credentials, privileges, topology: an operator must act; retried slowly
            NotWatchable   the name belongs to a view or a time series: watch the database instead
        SnapshotGone       MongoDB no longer keeps its state at a position: read it at a later one
        ResumeLost         the changes after a position are lost, or belong to another database: reset-required
        TokenUnfit         the server refuses a resume token: reopen by time, after a check of the lineage
        EventUnreadable    a change event is over 16 MB or not valid BSON: read it without its documents
        EvaluationError    mongod cannot evaluate a mapping, for any document or for some
    PeerError              the client of a connection is the cause
        PeerGone           the client closed, or the connection broke: the normal end of a session
        PeerProtocolError  the client violated the protocol: close with 1002
        RequestRefused     a request is answered with an HTTP status of 400 or above
        Violation          a change source breaks Zero's protocol: zmsd conformance reports it
    StoreError             the watermark store cannot be read or written
    MongodError            ``zmsd demo`` cannot start a mongod; the text names what to install

Stopped                    a wait ended because the daemon, a session or a channel stops: not an error
Evicted                    the change log no longer has what its reader needs next: read that from MongoDB
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ZmsdError(Exception):
    """Base of all exceptions for which zmsd reports one line instead of a traceback."""


@dataclass(frozen=True, slots=True)
class ConfigIssue:
    """A configuration error with file, line and column: ``etc/zmsd.yaml:5:12: server.port: must be …``."""

    path: str
    line: int | None
    column: int | None
    key: str
    reason: str
    transient: bool = False
    """Whether a later attempt may succeed: an endpoint does not answer, a certificate is being replaced."""

    def __str__(self) -> str:
        location = self.path if self.line is None else f"{self.path}:{self.line}:{self.column}"
        return f"{location}: {self.key}: {self.reason}" if self.key else f"{location}: {self.reason}"


KeyPath = tuple[str | int, ...]
"""Where a value is in a document: keys of objects and indexes of lists, from the top."""
MAX_ISSUES = 100
"""Maximum of errors that a ConfigError shows."""
_SHOWN = 300  # characters of a path or reason from a document in a message


def dotted(path: KeyPath) -> str:
    """Return a key path as text: ``nats.servers[0]``.

    A key that is not printable is shown as a literal, and a URI, which may have a password, as ``…``.
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" for part in path)
    return shortened("".join(parts).removeprefix("."))


def shortened(text: str) -> str:
    """Return at most the first 300 characters of ``text``, for a message."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _printable(key: str) -> str:
    if "://" in key:
        return "…"
    key = shortened(key)
    return key if key.isprintable() else repr(key)


def issue_at(name: str, text: str, offset: int, path: KeyPath, reason: str) -> ConfigIssue:
    """Return the configuration error at an offset in a text.

    :param name: file or URL of the text
    :param offset: index of a character in the text
    :param path: path to the value
    """
    line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
    return ConfigIssue(name, line, column, dotted(path), shortened(reason))


class ConfigError(ZmsdError):
    """One or more configuration errors.

    ``str()`` has a line for each of the first MAX_ISSUES, and one that counts the others.
    """

    def __init__(self, issues: Sequence[ConfigIssue]) -> None:
        self.issues = tuple(issues[:MAX_ISSUES])
        lines = list(map(str, self.issues))
        if len(issues) > MAX_ISSUES:
            lines.append(f"and {len(issues) - MAX_ISSUES} more configuration errors, which are not shown")
        super().__init__("\n".join(lines))

    @property
    def transient(self) -> bool:
        """Whether all errors are transient, so that a later attempt may succeed."""
        return all(issue.transient for issue in self.issues)


class EndpointDown(ConfigError):
    """A URL returned no usable document: no connection, no answer in time, an HTTP error, or another body.

    A later request may succeed, so this is not final as an error in a file is.
    """

    @property
    def transient(self) -> bool:
        """True: a later request may succeed."""
        return True


class SourceError(ZmsdError):
    """MongoDB did not do what was asked."""


class SourceUnavailable(SourceError):
    """MongoDB may succeed when asked again: network, election, time-out."""


class SourceTimeout(SourceUnavailable):
    """No complete answer arrived within the deadline: the connection stalled, or the request needs longer."""

    def __init__(self, text: str, *, busy: bool = False) -> None:
        """:param busy: the server itself reported that it needs longer"""
        super().__init__(text)
        self.busy = busy


class SequenceError(SourceUnavailable):
    """The change streams disagree about the order: a bug of zmsd or MongoDB. The feed restarts at its position."""


class OptionRefused(SourceUnavailable):
    """The server refuses an option of a command (code 2, BadValue): ask for its version again."""


class SourceRefused(SourceError):
    """MongoDB refuses until an operator acts: credentials, privileges, topology."""


class NotWatchable(SourceRefused):
    """The name belongs to a view or a time series, which have no change streams (code 166,
    CommandNotSupportedOnView)."""


class SnapshotGone(SourceError):
    """MongoDB no longer keeps its state at a position (code 239, SnapshotTooOld, and the like)."""


class ResumeLost(SourceError):
    """The changes after a position can no longer be read."""

    def __init__(self, reason: str, code: str = "position-lost") -> None:
        """:param code: the cause, for programs; ``RESET_ADVICE`` of zmsd/zero/protocol.py has all codes"""
        super().__init__(reason)
        self.code = code


class TokenUnfit(SourceError):
    """The server refuses a resume token (codes 280, ChangeStreamFatalError, and 260, InvalidResumeToken).

    The position may still be resumed by its cluster time.
    """


class EventUnreadable(SourceError):
    """A change event is over 16 MB and the server cannot split it, or it holds bytes that are not BSON."""


class EvaluationError(SourceError):
    """mongod refuses the stages of a mapping, or they fail on a document."""


class PeerError(ZmsdError):
    """The client of a connection is the cause."""


class PeerGone(PeerError):
    """The client closed the connection, or the connection broke."""


class PeerProtocolError(PeerError):
    """The client sent bytes or messages that the protocol does not allow."""


class RequestRefused(PeerError):
    """A request is answered with an HTTP error."""

    def __init__(self, status: int, kind: str, reason: str, headers: Mapping[str, str] | None = None) -> None:
        """
        :param status: HTTP status
        :param kind: a fixed phrase, one for each reason, by which refusals are counted in the log
        :param reason: a sentence for the client, which may quote the request, cut and escaped
        """
        super().__init__(reason)
        self.status = status
        self.kind = kind
        self.reason = reason
        self.headers = headers or {}


class Violation(PeerError):
    """A change source breaks Zero's protocol, or sends what zero-cache would not survive."""


class StoreError(ZmsdError):
    """The watermark store cannot be read or written."""


class MongodError(ZmsdError):
    """``zmsd demo`` cannot start a mongod; the text names what to install, or asks for a URI."""


class Stopped(Exception):
    """A wait ended because the other side of a channel closed it, or because the waiting thread shall stop."""


class Evicted(Exception):
    """The change log no longer has the entry that its reader needs next, or never had it."""


def reason_of(error: OSError) -> str:
    """Return the operating system's message, without the context that Python appends."""
    return (error.strerror or str(error)).partition(" (while ")[0]


def reason_of_bind(error: OSError) -> str:
    """Return why a port cannot be listened on, as ``reason_of`` does, in other words if it is in use."""
    return "the port is in use by another process" if error.errno == errno.EADDRINUSE else reason_of(error)
