"""Requests to a running daemon: its address, its token, its certificate."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from zmsd.commands.change_source_client import SourceClient
from zmsd.commands.unit import load_settings
from zmsd.config.partial import only
from zmsd.config.settings import Config
from zmsd.errors import PeerError, reason_of
from zmsd.zero.protocol import PATH

_TIMEOUT_SECONDS = 5.0
_WAITING_MESSAGES = 10_000
_SCHEMES = {"ws": False, "http": False, "wss": True, "https": True}


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    server: str
    """The Server header; "" without one."""
    body: str


@dataclass(frozen=True)
class Target:
    """A daemon and how to connect to it. Errors name its address, and never the token."""

    address: str
    """HOST:PORT."""
    secure: bool = False
    path: str = ""
    query: str = field(default="", repr=False)
    token: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    """The certificate that the daemon must show; None: a certificate for its name, from an authority of the system."""

    def __str__(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.address}"

    def get(self, path: str) -> Answer:
        """Return the answer to a GET request. Raises PeerError if there is none."""
        connect = http.client.HTTPConnection(self.address, timeout=_TIMEOUT_SECONDS)
        if self.secure:
            connect = http.client.HTTPSConnection(self.address, timeout=_TIMEOUT_SECONDS, context=self._context())
        try:
            with contextlib.closing(connect):
                connect.request("GET", path + (f"?{self.query}" if self.query else ""), headers=self._headers())
                answer = connect.getresponse()
                return Answer(answer.status, answer.headers.get("Server", ""), answer.read().decode(errors="replace"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else error
            raise PeerError(f"{self} does not answer: {reason}") from error

    def follow(
        self, app: str, shard: int, last_watermark: str | None, replica_version: str | None = None
    ) -> SourceClient:
        """Open a stream that leaves no record in the watermark store. Raises PeerError when the daemon refuses it.

        :param replica_version: of the replica that has ``last_watermark``; None where there is no replica
        """
        query = {"observer": "true"}
        if last_watermark is not None:
            query |= {"lastWatermark": last_watermark, "replicaVersion": replica_version or last_watermark}
        return self.stream(app, shard, _WAITING_MESSAGES, **query)

    def stream(self, app: str, shard: int, limit: int | None = None, **query: str) -> SourceClient:
        """Open a stream as a zero-cache does. Raises PeerError when it is refused.

        :param limit: messages that may wait for the reader; None for any number
        :param query: ``lastWatermark`` and ``replicaVersion``, for a stream that resumes
        """
        url = f"{'wss' if self.secure else 'ws'}://{self.address}{self.path if self.path.strip('/') else PATH}"
        more = f"?{self.query}" if self.query else ""
        headers, tls = self._headers(), self._context()
        return SourceClient(url + more, app, shard, headers=headers, tls=tls, limit=limit, **query)

    def _headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    def _context(self) -> ssl.SSLContext | None:
        if not self.secure:
            return None
        if self.certificate is None:
            return ssl.create_default_context()
        try:
            context = ssl.create_default_context(cafile=str(self.certificate))
        except OSError as error:
            raise PeerError(f"cannot read a certificate from {self.certificate}: {error}") from error
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it may be self-signed
        return context


def target(url: str | None, file: Path | None, token: str | None, environ: Mapping[str, str]) -> Target:
    """Return the daemon at a URL, or without a URL the daemon that runs with a settings file.

    :param url: ws://HOST:PORT, or wss, http, https; a password in it is the token
    :param file: the settings file; None for the default file
    :param token: overrides the token of the URL or the settings
    :raises PeerError: the URL is not valid
    :raises ConfigError: the settings that are needed are wrong
    """
    if url is None:
        used = only(
            "server.host", "server.port", "server.tls.cert", *([] if token else ["server.token", "server.token_file"])
        )
        found = of_config(load_settings(file, environ, concerns=used, running=True))
        return found if token is None else replace(found, token=token)
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    address = parts.netloc.rpartition("@")[2]
    try:
        if parts.scheme not in _SCHEMES or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise PeerError(f"not a valid URL: {address}: give ws://HOST:PORT, or wss://, http://, https://") from None
    token = token or (unquote(parts.password) if parts.password else None)
    return Target(address, _SCHEMES[parts.scheme], parts.path, parts.query, token)


def of_config(settings: Config) -> Target:
    """Return the daemon that runs with these settings on this machine."""
    server = settings.server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    address = f"[{host}]:{server.port}" if ":" in host else f"{host}:{server.port}"
    token = server.token[0] if server.token else None
    return Target(address, server.tls is not None, token=token, certificate=server.tls.cert if server.tls else None)


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``2 h 5 min``."""
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = int(seconds % size // part)
            return f"{int(seconds // size)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
