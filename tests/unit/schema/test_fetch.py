from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support import certificates
from tests.support.endpoint import Answer, Endpoint
from tests.support.wait import FACTOR
from zmsd.config import document as documents
from zmsd.config.settings import DocumentLocation
from zmsd.errors import ConfigError, EndpointDown, ZmsdError
from zmsd.schema import fetch as fetching
from zmsd.schema.fetch import NOT_MODIFIED, Fetched, fetch, keep, load


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("no_proxy", "*")
    endpoint = Endpoint()
    yield endpoint
    endpoint.stop()


def document(url: str, etag: str | None = None, **options: Any) -> Fetched:
    found = fetch(DocumentLocation(url=url, **options), etag)
    assert found is not NOT_MODIFIED
    return found


def down(url: str, **options: Any) -> str:
    with pytest.raises(EndpointDown) as caught:
        fetch(DocumentLocation(url=url, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"), [("s.yaml", "a: [1]"), ("s.yml", "a: [1]"), ("s.json", '{"a": [1]}'), ("s", '{"a": [1]}')]
)
def test_file_is_read_by_its_suffix(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = fetch(DocumentLocation(file=tmp_path / name))
    assert isinstance(found, Fetched)
    assert found.document.data == {"a": [1]}
    assert found.document.name == str(tmp_path / name)
    assert (found.etag, found.age, found.issue) == (None, None, None)


def test_file_that_is_not_a_document_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"s\.json:1:1: not JSON: Expecting value"):
        fetch(DocumentLocation(file=tmp_path / "s.json"))
    with pytest.raises(ConfigError, match="none: cannot be read: No such file or directory"):
        fetch(DocumentLocation(file=tmp_path / "none"))


def test_url_is_requested_with_headers(endpoint: Endpoint) -> None:
    url = endpoint.say("/s?key=SECRET", b'{"a": 1}')
    found = document(url, headers={"authorization": "Bearer x", "X-Other": "y"})
    assert found.document.data == {"a": 1}
    assert found.document.name == endpoint.url("/s?…")
    ((_, headers),) = endpoint.requests
    assert headers["authorization"] == "Bearer x"
    assert headers["x-other"] == "y"
    assert headers["accept"] == "application/json"
    assert "if-none-match" not in headers


def test_etag_is_sent_and_304_is_not_modified(endpoint: Endpoint) -> None:
    url = endpoint.say("/s", ETag='"v1"')
    assert document(url).etag == '"v1"'
    endpoint.say("/s", b"", 304, ETag='"v1"')
    assert fetch(DocumentLocation(url=url), '"v1"') is NOT_MODIFIED
    assert [headers.get("if-none-match") for _, headers in endpoint.requests] == [None, '"v1"']
    endpoint.say("/s", ETag='"v2"')
    assert document(url, '"v1"').etag == '"v2"'
    endpoint.say("/s", b"", 304)
    assert down(url) == f"{url}: HTTP 304 Not Modified"
    endpoint.say("/s", ETag="\xff")
    assert document(url).etag is None


@pytest.mark.parametrize(
    ("status", "text"), [(404, "HTTP 404 Not Found"), (500, "HTTP 500 Internal Server Error"), (599, "HTTP 599")]
)
def test_http_error_is_endpoint_down_without_secrets(endpoint: Endpoint, status: int, text: str) -> None:
    url = endpoint.say("/s?key=SECRET", b"no", status)
    assert down(url, headers={"X": "SECRET"}) == f"{endpoint.url('/s?…')}: {text}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<html>", ":1:1: not JSON: Expecting value"),
        (b"", ": is empty"),
        (b'{"a": "\xff"}', ":1:8: is not UTF-8 text"),
        (b'{"a": 1, "a": 2}', ":1:10: a: is given twice"),
    ],
)
def test_invalid_body_is_endpoint_down(endpoint: Endpoint, body: bytes, expected: str) -> None:
    url = endpoint.say("/s", body)
    assert down(url) == url + expected


def test_body_beyond_the_limit_is_endpoint_down(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LIMIT", 1 << 20)
    assert document(endpoint.say("/s", b"[" + b" " * ((1 << 20) - 2) + b"]")).document.data == []
    with pytest.raises(EndpointDown, match="is larger than 1 MiB"):
        fetch(DocumentLocation(url=endpoint.say("/s", b"[" + b" " * (1 << 20) + b"]")))


def test_body_shorter_than_its_content_length_is_refused(endpoint: Endpoint) -> None:
    """Also where the received part is a valid document by itself."""
    url = endpoint.say("/s", b"12", 200, **{"Content-Length": "3"})
    assert down(url) == f"{url}: the answer ends after 2 of 3 bytes"


def test_compressed_body_that_was_not_asked_for_is_refused(endpoint: Endpoint) -> None:
    url = endpoint.say("/s", gzip.compress(b"{}"), 200, **{"Content-Encoding": "gzip"})
    assert down(url) == f"{url}: the answer has Content-Encoding gzip, which was not asked for"
    assert endpoint.requests[-1][1]["accept-encoding"] == "identity"


def test_truncated_chunked_body_is_endpoint_down(endpoint: Endpoint) -> None:
    url = endpoint.say("/s", b'{"a": [', 200, **{"Transfer-Encoding": "chunked"})
    assert down(url).startswith(f"{url}: ")


def test_redirect_to_the_same_origin_keeps_the_headers(endpoint: Endpoint) -> None:
    url = endpoint.say("/old", b"", 302, Location="/new")
    endpoint.say("/new", b'{"a": 1}')
    found = document(url, headers={"X-Key": "SECRET"})
    assert found.document.data == {"a": 1}
    assert found.document.name == url
    assert [headers.get("x-key") for _, headers in endpoint.requests] == ["SECRET", "SECRET"]


def test_redirect_to_another_origin_drops_the_headers(endpoint: Endpoint) -> None:
    other = Endpoint()
    try:
        url = endpoint.say("/old", b"", 307, Location=other.say("/new", b'{"a": 1}'))
        assert document(url, headers={"X-Key": "SECRET", "authorization": "SECRET"}).document.data == {"a": 1}
        ((_, headers),) = other.requests
        assert "SECRET" not in str(headers)
    finally:
        other.stop()


@pytest.mark.parametrize("target", ["/old", "ftp://127.0.0.1/SECRET", "file:///etc/passwd"])
def test_unusable_redirect_is_endpoint_down(endpoint: Endpoint, target: str) -> None:
    url = endpoint.say("/old", b"", 302, Location=target)
    assert down(url) == f"{url}: HTTP 302 Found: redirected too often, from https to http, or to another kind of URL"


def test_redirect_from_https_to_http_is_refused(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    certificates.ONE.write(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.crt"))
    plain = endpoint.say("/new", b'{"a": 1}')
    secure = Endpoint(tls=tmp_path)
    try:
        assert document(secure.say("/direct", b'{"a": 1}')).document.data == {"a": 1}
        secure.say("/old", b"", 302, Location="/direct")
        assert document(secure.url("/old")).document.data == {"a": 1}
        url = secure.say("/new", b"", 302, Location=plain)
        assert down(url).startswith(f"{url}: HTTP 302 Found: redirected too often, from https to http")
        assert not endpoint.requests
    finally:
        secure.stop()


def test_refused_connection_is_endpoint_down() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/s"
        assert down(url) == f"{url}: no answer: Connection refused"
    assert down(f"http://{'a' * 70}.invalid/").startswith(f"http://{'a' * 70}.invalid/: ")


def test_answer_that_is_not_http_is_endpoint_down(endpoint: Endpoint) -> None:
    endpoint.answers["/s"] = lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n")
    assert down(endpoint.url("/s")).startswith(f"{endpoint.url('/s')}: no answer: ")


def test_invalid_header_value_is_not_shown(endpoint: Endpoint) -> None:
    assert "SECRET" not in down(endpoint.say("/s"), headers={"X": "SECRET\r\nb"})


def slow_headers(endpoint: Endpoint) -> Answer:
    return lambda handler: drip(endpoint, handler, b"HTTP/1.0 200 OK\r\nX: ")


def slow_body(endpoint: Endpoint) -> Answer:
    return lambda handler: drip(endpoint, handler, b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n")


def silence(endpoint: Endpoint) -> Answer:
    return lambda handler: endpoint.stopping.wait(10)


def drip(endpoint: Endpoint, handler: BaseHTTPRequestHandler, start: bytes) -> None:
    """Send something again and again: no single wait of the client is long."""
    handler.wfile.write(start)
    while not endpoint.stopping.wait(0.02):
        try:
            handler.wfile.write(b" ")
        except OSError:
            return


@pytest.mark.parametrize("kind", [slow_headers, slow_body, silence])
def test_fetch_has_one_time_limit(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Endpoint], Answer]
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    endpoint.answers["/s"] = kind(endpoint)
    start = time.monotonic()
    assert down(endpoint.url("/s")) == f"{endpoint.url('/s')}: no answer within 0.2 s"
    assert time.monotonic() - start < 5 * FACTOR


def test_cached_document_is_used_when_the_endpoint_is_down(endpoint: Endpoint, tmp_path: Path) -> None:
    copies = tmp_path / "state" / "copies"
    spec = DocumentLocation(url=endpoint.say("/s", b'{"a":\r\n "\xc3\xbc"}'))
    first = load(spec, copies)
    assert (first.age, first.issue) == (None, None)
    endpoint.say("/s", b"", 503)
    with pytest.raises(EndpointDown):
        load(spec, copies)  # nothing is kept before the caller says that it is good
    keep(spec, first.document, copies)
    (file,) = copies.iterdir()
    os.utime(file, (time.time() - 100, time.time() - 100))
    again = load(spec, copies)
    assert again.document.data == {"a": "ü"}
    assert again.document.text == first.document.text
    assert again.document.name == spec.url
    assert again.etag is None
    assert again.age is not None
    assert 100 <= again.age < 100 + 60 * FACTOR
    assert str(again.issue) == f"{spec.url}: HTTP 503 Service Unavailable"


def test_cached_document_belongs_to_one_url_and_is_replaced(endpoint: Endpoint, tmp_path: Path) -> None:
    specs = [DocumentLocation(url=endpoint.say(path, b'"old"')) for path in ("/a", "/b")]
    for spec in specs:
        keep(spec, load(spec, tmp_path).document, tmp_path)
    endpoint.say("/a", b'"new"')
    keep(specs[0], load(specs[0], tmp_path).document, tmp_path)
    for path in ("/a", "/b"):
        endpoint.say(path, b"", 404)
    assert [load(spec, tmp_path).document.data for spec in specs] == ["new", "old"]
    assert len(list(tmp_path.iterdir())) == 2


def test_cached_document_is_used_when_the_body_is_invalid(endpoint: Endpoint, tmp_path: Path) -> None:
    spec = DocumentLocation(url=endpoint.say("/s"))
    keep(spec, load(spec, tmp_path).document, tmp_path)
    endpoint.say("/s", b"<html>")
    copy = load(spec, tmp_path)
    assert copy.document.data == {}
    assert str(copy.issue).endswith("not JSON: Expecting value")


def test_damaged_cached_document_is_ignored(endpoint: Endpoint, tmp_path: Path) -> None:
    spec = DocumentLocation(url=endpoint.say("/s"))
    keep(spec, load(spec, tmp_path).document, tmp_path)
    next(tmp_path.iterdir()).write_text("{")
    endpoint.say("/s", b"", 500)
    with pytest.raises(EndpointDown, match="HTTP 500"):
        load(spec, tmp_path)


def test_files_are_not_cached(tmp_path: Path) -> None:
    spec = DocumentLocation(file=tmp_path / "s.json")
    (tmp_path / "s.json").write_text("{}")
    keep(spec, load(spec, tmp_path / "copies").document, tmp_path / "copies")
    assert not (tmp_path / "copies").exists()


def test_unwritable_cache_is_an_error(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spec = DocumentLocation(url=endpoint.say("/s"))
    with pytest.raises(ZmsdError, match="the copy of http://.* cannot be written: "):
        keep(spec, document(endpoint.url("/s")).document, tmp_path / "file" / "copies")
