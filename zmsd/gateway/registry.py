"""The registry of connected clients, and the limits that admit them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from zmsd.errors import RequestRefused
from zmsd.gateway.http import Limits
from zmsd.gateway.session import Session


class _Admitted(NamedTuple):
    session: Session
    token: str | None


class SessionRegistry:
    """The sessions of the connected clients. Thread-safe.

    The registry is an object of its own because the monitor and the publications ask for the sessions, and the server
    needs both.
    """

    def __init__(self, limits: Limits) -> None:
        """Begin with an empty registry that admits within ``limits``."""
        self._lock = Lock()
        self._limits = limits
        self._closed = False
        self._admitted: dict[int, _Admitted] = {}
        self._next_number = 1

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self._limits

    def sessions(self) -> list[Session]:
        """Return the sessions that are connected now."""
        with self._lock:
            return [admitted.session for admitted in self._admitted.values()]

    def admit(self, address: str, token: str | None, make: Callable[[int], Session]) -> Session:
        """Return a new session that is in the registry.

        :param address: IP address of the client
        :param token: token that the client's request gave, None without one
        :param make: makes the session with the given number
        :raises RequestRefused: a limit is reached, the token was removed meanwhile, or zmsd stops
        """
        with self._lock:
            limits = self._limits
            if self._closed:
                raise RequestRefused(503, "stopping", "zmsd stops")
            if limits.tokens and token not in limits.tokens:  # a reload came between the check and this call
                raise RequestRefused(401, "token refused", "wrong token")
            if len(self._admitted) >= limits.max_sessions:
                raise RequestRefused(503, "max_sessions", f"server.max_sessions ({limits.max_sessions}) are connected")
            same = sum(admitted.session.address == address for admitted in self._admitted.values())
            if same >= limits.max_sessions_per_address:
                most = limits.max_sessions_per_address
                reason = f"server.max_sessions_per_address ({most}) are connected from there"
                raise RequestRefused(503, "max_sessions_per_address", reason)
            session = make(self._next_number)
            self._admitted[session.number] = _Admitted(session, token)
            self._next_number += 1
            return session

    def remove(self, session: Session) -> None:
        """Remove a session that has ended. Removing it twice does nothing."""
        with self._lock:
            self._admitted.pop(session.number, None)

    def apply(self, limits: Limits) -> list[Session]:
        """Take reloaded limits, and return the sessions whose token is not among ``limits.tokens`` any more."""
        with self._lock:
            self._limits = limits
            admitted = self._admitted.values()
            return [each.session for each in admitted if limits.tokens and each.token not in limits.tokens]

    def close(self) -> None:
        """Admit no further session."""
        with self._lock:
            self._closed = True
