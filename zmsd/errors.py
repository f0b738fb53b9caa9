"""Every error that zmsd raises on purpose.

ZmsdError
    ConfigError            a config, schema or mapping document is wrong; at start exit 78, on reload the old one stays
    SourceError
        SourceUnavailable  network, election, time-out: back off and retry
            SourceTimeout  no complete answer came within the request's deadline
        SourceRefused      authentication, privilege, standalone server: said once, retried slowly
        ResumeLost         the position is no longer in the oplog, or is another database's: reset-required
        EvaluationError    mongod cannot evaluate a mapping, or not over some document
    PeerError
        PeerGone           the normal end of a session
        PeerProtocolError  a request or message that zmsd does not understand
    StoreError             the watermark store cannot be used
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ZmsdError(Exception):
    """Base of all of them; its text is one line for a person."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a document, and where: ``etc/zmsd.yaml:5:12: server.port: must be …``."""

    path: str
    line: int | None
    column: int | None
    key: str
    reason: str

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}:{self.column}"
        return f"{place}: {self.key}: {self.reason}" if self.key else f"{place}: {self.reason}"


Keys = tuple[str | int, ...]
"""The way from the top of a document to a value: keys of objects, indexes of lists."""
MAX_FAULTS = 100
"""Faults that a ConfigError shows."""
_SHOWN = 300  # characters of a path or reason from a document in a message


def dotted(path: Keys) -> str:
    """``nats.servers[0]``; a key that does not print as a literal, a URI (by mistake, and with a password) as ``…``."""
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


def fault_at(name: str, text: str, offset: int, path: Keys, reason: str) -> Fault:
    """Return the fault at an offset in the text of a document."""
    line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
    return Fault(name, line, column, dotted(path), shortened(reason))


class ConfigError(ZmsdError):
    """One or more faults in documents that a person wrote; ``str()`` has a line for each of the first MAX_FAULTS, and
    one that counts the others."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults[:MAX_FAULTS])
        lines = list(map(str, self.faults))
        if len(faults) > MAX_FAULTS:
            lines.append(f"and {len(faults) - MAX_FAULTS} more configuration errors, which are not shown")
        super().__init__("\n".join(lines))


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


class SourceRefused(SourceError):
    """It will not do it until an operator acts: credentials, privileges, topology."""


class ResumeLost(SourceError):
    """The changes after a position can no longer be had."""


class EvaluationError(SourceError):
    """A mapping's stages are wrong, or fail on a document."""


class PeerError(ZmsdError):
    """The other end of a WebSocket."""


class PeerGone(PeerError):
    """It closed, or its connection broke."""


class PeerProtocolError(PeerError):
    """It sent what the protocol does not know."""


class StoreError(ZmsdError):
    """The watermark store cannot be read or written."""


def reason_of(error: OSError) -> str:
    """The system's words for it, without what Python appends to them."""
    return (error.strerror or str(error)).partition(" (while ")[0]
