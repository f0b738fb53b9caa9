"""HTTP/1.1 as bytes: parse requests, check access, render answers with security headers. No I/O."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qs

from zmsd.errors import RequestRefused
from zmsd.log import outside

REQUEST_BYTES = 32 << 10
"""Most bytes of a request line and its headers together."""
MAX_HEADERS = 100
"""Most header lines of a request."""
HEAD_END = b"\r\n\r\n"
"""The empty line after the headers."""

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[!-~]*) HTTP/1\.([01])")
_HEADER_NAME = re.compile(
    r"[!#$%&'*+.^`|~0-9A-Za-z-]+"
)  # without _: WSGI, as simple_websocket reads it, has - and _ alike
_WEIGHT = re.compile(r"[01](\.[0-9]{0,3})?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_ONCE = frozenset(("authorization", "host", "origin", "sec-websocket-key", "sec-websocket-version", "upgrade"))

SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
)
"""Headers of every answer. A page may replace its Content-Security-Policy."""


class Page(NamedTuple):
    """An answer to a request."""

    status: int
    type: str
    body: str
    headers: Mapping[str, str] = MappingProxyType({})
    """Headers that are added to SECURITY_HEADERS or replace some of them."""


class Reader(NamedTuple):
    """Who asks for a page."""

    allowed: bool
    """Whether the reader may see tables, hosts and reasons."""
    html: bool
    """Whether the reader asks for HTML, as a browser does."""


class Limits(NamedTuple):
    """Settings of the server that a reload applies without a restart."""

    tokens: tuple[str, ...] = ()
    max_sessions: int = 64
    max_sessions_per_address: int = 16
    host: str = "127.0.0.1"
    """The setting ``server.host``, which is also accepted in the header Host."""


class Request(NamedTuple):
    """The line and headers of a request. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    version: str
    headers: Mapping[str, str]

    @property
    def wants_websocket(self) -> bool:
        """Return whether the request asks for an upgrade to a WebSocket (RFC 6455, 4.1)."""
        return self.headers.get("upgrade", "").lower() == "websocket"


def parse(head: bytes) -> Request:
    """Parse a request line and its headers, without the empty line after them. Raises RequestRefused.

    Strict where HTTP parsers differ (RFC 9112): no folded lines, no space before a colon, no control characters, no
    header name with ``_``, and no repetition of a header that controls access.
    """
    line, *lines = head.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None or "#" in match[2]:
        raise _bad(f"not a request line: {outside(_without_query(line))!r}")
    if len(lines) > MAX_HEADERS:
        raise RequestRefused(431, "too many headers", f"a request may have {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for each in lines:
        name, colon, value = each.partition(":")
        if not colon or not _HEADER_NAME.fullmatch(name):
            raise _bad(f"not a valid header name: {outside(name)!r}")
        name, value = name.lower(), value.strip(" \t")
        if any(character < " " and character != "\t" or character == "\x7f" for character in value):
            raise _bad(f"a control character in the header {outside(name)}")
        if name in _ONCE and name in headers:
            raise _bad(f"the header {name} is given twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if match[3] == "1" and "host" not in headers:
        raise _bad("the header Host is missing")
    path, _, query = match[2].partition("?")
    return Request(match[1], path, parse_qs(query, keep_blank_values=True), match[3], headers)


def check_origin(request: Request, limits: Limits, page: bool) -> None:
    """Refuse a request that a web page of another origin makes through a browser. Raises RequestRefused.

    A browser sends Origin with every WebSocket and with every cross-origin request, and no page can change Origin or
    Host. zero-cache sends no Origin. An attacker's domain name that resolves to this machine (DNS rebinding) would make
    the attacker's page same-origin, so without a token only names are accepted that an attacker cannot own.

    :param page: whether a page is requested; false for the stream, which no browser may open
    """
    host, origin = request.headers.get("host"), request.headers.get("origin")
    if host is not None and not limits.tokens and not _is_own(host, limits.host):
        hint = "use an IP address or localhost, set server.host to that name, or set server.token"
        raise RequestRefused(403, "Host refused", f"Host {outside(host)!r} is refused without server.token: {hint}")
    if origin is None or (page and origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())):
        return
    raise RequestRefused(403, "Origin refused", f"cross-origin requests are refused: Origin {outside(origin)!r}")


def accepted_token(request: Request, tokens: Sequence[str]) -> str | None:
    """Return the token of ``tokens`` that a request carries in its query, as Bearer or as Basic password; else None."""
    given = [text.encode(errors="replace") for key in ("token", "k") for text in request.query.get(key, ())]
    kind, _, credentials = request.headers.get("authorization", "").partition(" ")
    raw = credentials.strip().encode("latin-1")
    if kind.lower() == "bearer":
        given.append(raw)
    elif kind.lower() == "basic":
        with contextlib.suppress(binascii.Error):
            given.append(base64.b64decode(raw, validate=True).partition(b":")[2])
    # Compare all pairs, each in constant time, so that the duration reveals nothing about a token.
    matches = [token for token in tokens for one in given if hmac.compare_digest(one, token.encode())]
    return matches[0] if matches else None


def prefers_html(request: Request) -> bool:
    """Return whether a request names text/html in Accept, and not application/json as much (RFC 9110, 12.5.1).

    Wildcards do not count: tools send ``*/*``.
    """
    weights: dict[str, float] = {}
    for item in request.headers.get("accept", "").split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = next((value for name, _, value in (each.partition("=") for each in parameters) if name == "q"), "1")
        weights[kind] = float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    return weights.get("text/html", 0.0) > weights.get("application/json", 0.0)


def check_handshake(request: Request) -> None:
    """Check a WebSocket handshake (RFC 6455, 4.2.1). Raises RequestRefused."""
    if not request.wants_websocket:
        headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
        raise RequestRefused(426, "not a WebSocket", "this is a WebSocket endpoint", headers)
    connection = {word.strip().lower() for word in request.headers.get("connection", "").split(",")}
    if request.method != "GET" or request.version != "1" or "upgrade" not in connection:
        raise RequestRefused(
            400, "not a handshake", "not a WebSocket handshake: expected GET, HTTP/1.1, Connection: Upgrade"
        )
    if request.headers.get("sec-websocket-version") != "13":
        raise RequestRefused(
            426, "not a handshake", "Sec-WebSocket-Version must be 13", {"Sec-WebSocket-Version": "13"}
        )
    if not re.fullmatch(r"[A-Za-z0-9+/]{22}==", request.headers.get("sec-websocket-key", "")):
        raise RequestRefused(400, "not a handshake", "Sec-WebSocket-Key must be 16 bytes in Base64")


def render(page: Page, with_body: bool) -> bytes:
    """Return the bytes of an answer.

    :param with_body: false for HEAD
    """
    body = page.body.encode(errors="replace")
    headers = {
        "Server": "zmsd",
        "Content-Type": page.type,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **SECURITY_HEADERS,
        **page.headers,
    }
    lines = [f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body if with_body else b"")


def text_page(status: int, text: str, headers: Mapping[str, str] | None = None) -> Page:
    """Return a page of plain text."""
    return Page(status, "text/plain; charset=utf-8", text + "\n", headers or {})


def _bad(reason: str) -> RequestRefused:
    return RequestRefused(400, "bad request", reason)


def _without_query(line: str) -> str:
    """Return a request line without its query, which may contain a token."""
    return line.partition("?")[0]


def _is_own(host: str, configured: str) -> bool:
    """Return whether the header Host is an IP address, localhost or the configured name, which need no foreign DNS."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].strip("[]").lower().rstrip(".")
    if name in ("localhost", configured.strip("[]").lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
