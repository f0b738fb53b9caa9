"""Every exception that zmsd raises on purpose, except those that do not leave their module.

ZmsdError
    ConfigError            a settings, schema or mapping document is wrong; exit code 78, a reload keeps the old one
        EndpointDown       a URL gave no document that can be used; exit code 1
    SourceError            MongoDB
        SourceUnavailable  network, election, time-out: retry with backoff at the same position
            SourceTimeout  no complete answer came within the request's deadline
            SequenceError  the change streams disagree about the order: a bug; the feed begins again
            OptionRefused  the server does not take an option of a change stream: look at it again, then retry
        SourceRefused      credentials, privileges, topology: an operator must act; logged once, retried slowly
            NotWatchable   the name is that of a view or a time series: watch the database instead
        ResumeLost         the changes after a position are gone, or belong to another database: reset-required
        TokenUnfit         the server does not take a resume token: reopen by time, once the lineage is checked
        EventUnreadable    a change event is over 16 MB, or not valid BSON: read it without its documents
        EvaluationError    mongod cannot evaluate a mapping, or not for some document
    PeerError              the other end of a WebSocket
        PeerGone           it closed, or the connection broke: the normal end of a session
        PeerProtocolError  it sent what the protocol does not allow: close with 1002
        RequestRefused     an HTTP request is answered with a status of 400 or above
    StoreError             the watermark store cannot be read or written
    MongodError            ``zmsd demo`` cannot start a mongod; the text says what to install

Stopped                    a wait ended because the daemon, a session or a channel stops; not an error
Evicted                    the change log no longer has what its reader needs next: read it from MongoDB
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ZmsdError(Exception):
    """Base of all exceptions for which zmsd reports one line instead of a traceback."""


@dataclass(frozen=True, slots=True)
class ConfigIssue:
    """A configuration error and its position: ``etc/zmsd.yaml:5:12: server.port: must be …``."""

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
    """Return the error at an offset in the text of a document."""
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
    """It may do it when asked again: network, election, time-out."""


class SourceTimeout(SourceUnavailable):
    """No complete answer came within the deadline: the connection stalled, or the request needs longer."""

    def __init__(self, text: str, *, busy: bool = False) -> None:
        """:param busy: the server itself reported that it needs longer"""
        super().__init__(text)
        self.busy = busy


class SequenceError(SourceUnavailable):
    """The streams disagree about the order: a bug, here or in MongoDB. The feed begins again at its position."""


class OptionRefused(SourceUnavailable):
    """The server does not take an option of a command (code 2), which depends on what it is: look at it again."""


class SourceRefused(SourceError):
    """It will not do it until an operator acts: credentials, privileges, topology."""


class NotWatchable(SourceRefused):
    """The name is that of a view or a time series (166): MongoDB has no change streams for those."""


class ResumeLost(SourceError):
    """The changes after a position can no longer be had."""

    def __init__(self, reason: str, code: str = "position-lost") -> None:
        """:param code: what a program needs to know (``RESET_ADVICE`` of the protocol module)"""
        super().__init__(reason)
        self.code = code


class TokenUnfit(SourceError):
    """The resume token does not fit (280, 260): the position may still be had by its time."""


class EventUnreadable(SourceError):
    """A change event over 16 MB that the server cannot split, or one with bytes in it that are not BSON."""


class EvaluationError(SourceError):
    """A mapping's stages are wrong, or fail on a document."""


class PeerError(ZmsdError):
    """The other end of a WebSocket."""


class PeerGone(PeerError):
    """It closed, or its connection broke."""


class PeerProtocolError(PeerError):
    """It sent what the protocol does not know."""


class RequestRefused(PeerError):
    """A request that is not answered with what it asks for."""

    def __init__(self, status: int, kind: str, reason: str, headers: Mapping[str, str] | None = None) -> None:
        """
        :param status: of HTTP
        :param kind: a fixed phrase, one for each reason, by which refusals are counted in the log
        :param reason: may quote the request, cut and escaped
        """
        super().__init__(reason)
        self.status = status
        self.kind = kind
        self.reason = reason
        self.headers = headers or {}


class StoreError(ZmsdError):
    """The watermark store cannot be read or written."""


class MongodError(ZmsdError):
    """No mongod could be started here; the text says what to install, or to give a URI."""


class Stopped(Exception):
    """A wait has ended: the other side of a channel is gone, or what waited is to stop."""


class Evicted(Exception):
    """The change log no longer has the entry that its reader needs next, or never had it."""


def reason_of(error: OSError) -> str:
    """The system's words for it, without what Python appends to them."""
    return (error.strerror or str(error)).partition(" (while ")[0]
