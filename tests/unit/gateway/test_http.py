"""Requests as bytes: what is parsed, what is refused, who may come in, and how an answer looks."""

from __future__ import annotations

import base64

import pytest

from zmsd.errors import RequestRefused
from zmsd.gateway.http import (
    MAX_HEADERS,
    Limits,
    Page,
    Request,
    accepted_token,
    check_handshake,
    check_origin,
    parse,
    render,
    text_page,
)

HANDSHAKE = (
    "GET /s HTTP/1.1\r\nHost: localhost\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
)


def request(*headers: str, target: str = "/", method: str = "GET") -> Request:
    return parse("\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *headers]).encode("latin-1"))


def test_request_is_parsed_into_path_query_and_headers() -> None:
    found = request("X-Many: a", "x-many:b ", "Accept:", target="/status.json?k=a%20b&k=&empty")
    assert found == Request(
        "GET",
        "/status.json",
        {"k": ["a b", ""], "empty": [""]},
        "1",
        {"host": "localhost", "x-many": "a, b", "accept": ""},
    )
    assert not found.wants_websocket


@pytest.mark.parametrize(
    "head",
    [
        "GET /\r\nHost: a",
        "GET / HTTP/2.0\r\nHost: a",
        "GET  / HTTP/1.1\r\nHost: a",
        "GET http://a/ HTTP/1.1\r\nHost: a",
        "GET /#x HTTP/1.1\r\nHost: a",
        "GET /\x1b HTTP/1.1\r\nHost: a",
        "G@T / HTTP/1.1\r\nHost: a",
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nauthorization: Bearer b",
        "GET / HTTP/1.1\r\nHost: a\r\n folded",
        "GET / HTTP/1.1\r\nHost : a",
        "GET / HTTP/1.1\r\nHost: a\r\nX_Under: a",
        "GET / HTTP/1.1\r\nHost: a\x00b",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\nb",
        "GET / HTTP/1.1\r\nHost: a\r\n: a",
    ],
)
def test_request_that_parsers_may_read_differently_is_400(head: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        parse(head.encode("latin-1"))
    assert refused.value.status == 400


def test_request_of_http_1_0_needs_no_host() -> None:
    assert parse(b"GET / HTTP/1.0").headers == {}


def test_request_with_too_many_headers_is_431() -> None:
    request(*["X: a"] * (MAX_HEADERS - 1))
    with pytest.raises(RequestRefused) as refused:
        request(*["X: a"] * MAX_HEADERS)
    assert refused.value.status == 431


def test_refusal_of_a_request_line_shows_no_token() -> None:
    with pytest.raises(RequestRefused) as refused:
        parse(b"NONSENSE /?token=secret")
    assert "secret" not in refused.value.reason
    assert "NONSENSE /" in refused.value.reason


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:4848", True),
        ("[::1]:4848", True),
        ("LOCALHOST.", True),
        ("db.internal", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("[::1", False),
        ("a b", False),
        ("", False),
    ],
)
def test_host_of_another_name_is_403_without_tokens(host: str, own: bool) -> None:
    """An attacker's name that resolves to this machine would make the attacker's page same-origin."""
    asked = Request("GET", "/", {}, "1", {"host": host})
    check_origin(asked, Limits(tokens=("secret",)), page=True)
    if own:
        check_origin(asked, Limits(host="DB.internal"), page=True)
    else:
        with pytest.raises(RequestRefused, match=r"set server\.token"):
            check_origin(asked, Limits(host="DB.internal"), page=True)


def test_origin_of_the_page_itself_may_read_pages_and_not_the_stream() -> None:
    own = request("Origin: HTTPS://localhost")
    check_origin(own, Limits(), page=True)
    check_origin(request(), Limits(), page=False)
    for asked, page in ((own, False), (request("Origin: null"), True), (request("Origin:"), True)):
        with pytest.raises(RequestRefused) as refused:
            check_origin(asked, Limits(tokens=("secret",)), page=page)
        assert refused.value.status == 403


@pytest.mark.parametrize(
    ("asked", "token"),
    [
        (request(target="/?token=b"), "b"),
        (request(target="/?k=x&k=a"), "a"),
        (request("Authorization: BEARER  b "), "b"),
        (request("Authorization: Basic " + base64.b64encode(b"user:a").decode()), "a"),
        (request("Authorization: Basic " + base64.b64encode(b"a:").decode()), None),
        (request("Authorization: Basic a"), None),
        (request("Authorization: Digest a"), None),
        (request("Authorization: Bearer \xe9"), None),
        (request(target="/?token=A"), None),
        (request(), None),
    ],
)
def test_token_is_found_in_query_bearer_and_basic(asked: Request, token: str | None) -> None:
    assert accepted_token(asked, ("a", "b")) == token


def test_token_of_no_configuration_is_none() -> None:
    assert accepted_token(request(target="/?token="), ()) is None


def test_handshake_of_rfc_6455_is_accepted() -> None:
    found = parse(HANDSHAKE.encode())
    check_handshake(found)
    assert found.wants_websocket


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("Upgrade: WebSocket", "Upgrade: h2c", 426),
        ("GET", "POST", 400),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("keep-alive, Upgrade", "keep-alive", 400),
        ("Version: 13", "Version: 8", 426),
        ("AAAAAAAAAAAAAAAAAAAAAA==", "AAAA", 400),
    ],
)
def test_handshake_that_is_not_rfc_6455_is_refused(old: str, new: str, status: int) -> None:
    with pytest.raises(RequestRefused) as refused:
        check_handshake(parse(HANDSHAKE.replace(old, new, 1).encode()))
    assert refused.value.status == status
    assert (status == 426) == bool(refused.value.headers), "a 426 names what would do"


def test_answer_has_its_length_and_the_security_headers() -> None:
    page = Page(200, "text/html", "é\ud800", {"Content-Security-Policy": "default-src 'self'", "X-Own": "1"})
    head, _, body = render(page, True).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert body == "é?".encode()
    assert "Content-Length: 3" in lines
    assert "X-Frame-Options: DENY" in lines
    assert "X-Own: 1" in lines
    assert [line for line in lines if "Policy: default" in line] == ["Content-Security-Policy: default-src 'self'"]
    assert render(page, False) == head + b"\r\n\r\n"


def test_text_page_ends_with_a_line_break() -> None:
    page = text_page(404, "no page", {"Allow": "GET"})
    assert (page.status, page.body, page.headers) == (404, "no page\n", {"Allow": "GET"})
    assert page.type.startswith("text/plain")
