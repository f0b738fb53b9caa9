"""Read documents from files and URLs, and keep the last good copy of a document from a URL.

A fetch waits at most TIMEOUT seconds for the server, however slowly it sends; only the resolver of names has its own
time limit. Headers are sent to the origin that the settings name, not to other origins that it redirects to, and do not
appear in errors.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import time
from dataclasses import dataclass
from enum import Enum
from functools import partial
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from pathlib import Path
from typing import IO, Any, Final, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from zmsd.config import document as documents
from zmsd.config.document import ConfigDocument
from zmsd.config.settings import DocumentLocation
from zmsd.deadline import Deadline
from zmsd.errors import ConfigError, ConfigIssue, EndpointDown, ZmsdError

TIMEOUT = 10.0
"""Seconds for a complete fetch."""


class NotModified(Enum):
    """The type of NOT_MODIFIED, which `fetch` returns if a URL still has the document of an ETag."""

    NOT_MODIFIED = "not modified"


NOT_MODIFIED: Final = NotModified.NOT_MODIFIED


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document, and the ETag for the next request.

    ``age`` is None for a document that was just fetched. For a copy it is the seconds since the copy was written, and
    ``issue`` is the error of the endpoint.
    """

    document: ConfigDocument
    etag: str | None = None
    age: float | None = None
    issue: ConfigIssue | None = None


def fetch(spec: DocumentLocation, etag: str | None = None) -> Fetched | Literal[NotModified.NOT_MODIFIED]:
    """Return the document of a location, or NOT_MODIFIED if a URL still has the one that came with ``etag``.

    Raises EndpointDown for a URL, and ConfigError for a file, that cannot be read or has no valid document.
    """
    if spec.tables is not None:
        return Fetched(spec.tables)
    if spec.url is None:
        assert spec.file is not None
        kind: documents.Kind = "yaml" if spec.file.suffix in (".yaml", ".yml") else "json"
        return Fetched(documents.parse(documents.read(spec.file), spec.name, kind=kind))
    try:
        raw, new_etag = _get(spec, etag)
    except HTTPError as exc:
        with exc:
            if exc.code == HTTPStatus.NOT_MODIFIED and etag is not None:
                return NOT_MODIFIED
            reason = _status(exc.code)
    except (OSError, HTTPException, ValueError) as exc:
        reason = _cause(exc)
    else:
        try:
            return Fetched(documents.parse(documents.decode(raw, spec.name), spec.name, kind="json"), new_etag)
        except ConfigError as exc:
            raise EndpointDown(exc.issues) from exc
    raise EndpointDown([ConfigIssue(spec.name, None, None, "", " ".join(reason.split()))])


def load(spec: DocumentLocation, copies: Path) -> Fetched:
    """Return the document of a location; if a URL returns none, its last good copy. Raises ConfigError."""
    try:
        fetched = fetch(spec)
    except EndpointDown as exc:
        copy = last_good(spec, copies, exc.issues[0])
        if copy is None:
            raise
        return copy
    assert fetched is not NOT_MODIFIED
    return fetched


def last_good(spec: DocumentLocation, copies: Path, issue: ConfigIssue) -> Fetched | None:
    """Return the copy of a URL's document that ``keep`` has put into ``copies``; None if there is none.

    :param issue: why the copy is needed
    """
    if spec.url is None:
        return None
    file = _copy(spec, copies)
    try:
        age = max(0.0, time.time() - file.stat().st_mtime)
        return Fetched(documents.parse(documents.read(file), spec.name, kind="json"), age=age, issue=issue)
    except (OSError, ConfigError):
        return None


def keep(spec: DocumentLocation, document: ConfigDocument, copies: Path) -> None:
    """Keep a copy of a checked document from a URL. Raises ZmsdError if it cannot be written."""
    if spec.url is None:
        return
    file = _copy(spec, copies)
    try:
        copies.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        with new.open("w", encoding="utf-8", newline="") as writing:
            writing.write(document.text)
            writing.flush()
            os.fsync(writing.fileno())
        new.replace(file)
    except OSError as exc:
        raise ZmsdError(f"{file}: the copy of {spec.name} cannot be written: {exc.strerror}") from exc


def _copy(spec: DocumentLocation, copies: Path) -> Path:
    return copies / f"{hashlib.sha256(str(spec.url).encode()).hexdigest()[:32]}.json"


def _status(code: int) -> str:
    try:
        text = f"HTTP {code} {HTTPStatus(code).phrase}"
    except ValueError:
        text = f"HTTP {code}"
    reason = ": redirected too often, from https to http, or to another kind of URL"
    return text + (reason if code in (301, 302, 303, 307, 308) else "")


def _cause(exc: Exception) -> str:
    if isinstance(exc, _Unusable):
        return str(exc)
    cause = exc.reason if isinstance(exc, URLError) else exc
    if isinstance(cause, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    if isinstance(cause, ValueError | InvalidURL) and not isinstance(cause, OSError):
        return f"cannot be asked: {type(cause).__name__}"  # its text may quote a header or a query
    return f"no answer: {getattr(cause, 'strerror', None) or cause}"


def _get(spec: DocumentLocation, etag: str | None) -> tuple[bytes, str | None]:
    """Return the body, at most one byte more than documents have, and its ETag."""
    assert spec.url is not None
    headers = {"Accept": "application/json", "User-Agent": "zmsd", **spec.headers}
    if etag is not None:
        headers["If-None-Match"] = etag
    deadline = Deadline(TIMEOUT)
    opener = build_opener(_TimedHandler(deadline), _Redirects(spec))
    with opener.open(Request(spec.url, headers=headers), timeout=TIMEOUT) as response:
        body = response.read(documents.LIMIT + 1)
        if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise _Unusable(f"the answer has Content-Encoding {coding[:40]}, which was not asked for")
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and len(body) < min(int(announced[:18]), documents.LIMIT + 1):
            raise _Unusable(f"the answer ends after {len(body)} of {announced[:18]} bytes")
        new_etag = response.headers.get("ETag", "")
        return body, new_etag if new_etag.isascii() and new_etag.isprintable() and new_etag else None


class _Unusable(HTTPException):
    """An answer that is not what its headers say, or not as it was asked for."""


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to http and https, but not from https to http, where anybody on the way could write the
    document; away from the configured origin without the configured headers."""

    def __init__(self, spec: DocumentLocation) -> None:
        self._spec = spec

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        target, origin = urlsplit(newurl), urlsplit(self._spec.url)
        if target.scheme != "https" and (target.scheme != "http" or req.type == "https"):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and (target.scheme, target.netloc) != (origin.scheme, origin.netloc):
            for name in self._spec.headers:
                new.remove_header(name.capitalize())
        return new


class _TimedHandler(HTTPHandler, HTTPSHandler):
    """Open connections on which every wait ends at the deadline: a time-out of a socket restarts with each byte."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def do_open(self, http_class: Any, req: Request, **http_conn_args: Any) -> HTTPResponse:
        def connect(host: str, **options: Any) -> Any:
            connection = http_class(host, **options)
            connection.response_class = partial(_response, self._deadline)
            return connection

        req.timeout = max(0.001, self._deadline.remaining())
        return super().do_open(connect, req, **http_conn_args)


def _response(deadline: Deadline, sock: socket.socket, *args: Any, **options: Any) -> HTTPResponse:
    return HTTPResponse(_TimedSocket(sock, deadline), *args, **options)  # type: ignore[arg-type]


class _TimedSocket(io.RawIOBase):
    """As much of a socket as HTTPResponse uses: its bytes."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock, self._deadline = sock, deadline
        self._bytes = sock.makefile("rb", buffering=0)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(max(0.001, self._deadline.remaining()))
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()
