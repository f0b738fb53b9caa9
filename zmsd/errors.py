"""Every error that zmsd raises on purpose.

ZmsdError
    ConfigError            a config, schema or mapping document is wrong; at start exit 78, on reload the old one stays
    SourceError
        SourceUnavailable  network, election, time-out: back off and retry
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


class ConfigError(ZmsdError):
    """One or more faults in documents that a person wrote; ``str()`` has a line for each."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


class SourceError(ZmsdError):
    """MongoDB did not do what was asked."""


class SourceUnavailable(SourceError):
    """It may do it when asked again: network, election, time-out."""


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
