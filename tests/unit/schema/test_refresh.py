"""Documents behind URLs that are requested again: what counts as a change, and what as stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tests.support.endpoint import Endpoint
from tests.support.wait import wait_until
from tests.unit.fakes import lines
from zmsd.config.settings import DocumentLocation
from zmsd.schema.fetch import Fetched, NotModified, fetch
from zmsd.schema.refresh import Refresh, _Look


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()
    yield served
    served.stop()


def location(url: str, refresh: float | None = 3600.0) -> DocumentLocation:
    return DocumentLocation(url=url, refresh=refresh)


def fetched(spec: DocumentLocation) -> Fetched:
    found = fetch(spec)
    assert not isinstance(found, NotModified)
    return found


def look(endpoint: Endpoint) -> _Look:
    spec = location(endpoint.say("/s", b'{"a": 1}', ETag='"1"'))
    return _Look(spec, fetched(spec))


def test_changed_document_is_a_change_once(endpoint: Endpoint) -> None:
    found = look(endpoint)
    assert not found.look()
    assert not found.stale
    endpoint.say("/s", b'{"a": 2}')
    assert found.look()
    assert found.stale, "until a reload publishes it"
    assert not found.look()
    endpoint.say("/s", b'{"a": 1}')
    assert found.look(), "a change back is one as well"
    assert not found.stale


def test_request_asks_only_for_what_is_new(endpoint: Endpoint) -> None:
    found = look(endpoint)
    endpoint.answers["/s"] = lambda handler: (handler.send_response(304), handler.end_headers())
    assert not found.look()
    assert endpoint.requests[-1][1]["if-none-match"] == '"1"'
    assert not found.stale


def test_endpoint_that_fails_is_stale_and_logged_once(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    found = look(endpoint)
    endpoint.say("/s", b"", 500)
    for _ in range(3):
        assert not found.look(), "a failure does not count as a change"
        assert found.stale
    assert len(lines(caplog)) == 1
    endpoint.say("/s", b'{"a": 1}')
    assert not found.look()
    assert not found.stale
    assert "look at a document recovered" in lines(caplog)[0]


def test_documents_in_files_are_not_requested(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text("{}")
    spec = DocumentLocation(file=file)
    refresh = Refresh(lambda: None, [(spec, fetched(spec))])
    assert refresh.stale() == {}
    assert refresh.schema_source == "file"
    refresh.watch([])
    assert refresh.schema_source == ""


def test_document_without_an_interval_is_never_due(endpoint: Endpoint) -> None:
    spec = location(endpoint.say("/s"), None)
    refresh = Refresh(lambda: None, [(spec, fetched(spec))])
    refresh.start()
    assert refresh.stale() == {(spec.name,): 0.0}
    refresh.stop()
    refresh.thread.join(10)
    assert len(endpoint.requests) == 1


def test_change_is_reported_by_the_thread_until_it_is_stopped(endpoint: Endpoint) -> None:
    changed = Event()
    spec = location(endpoint.say("/s", b'{"a": 1}'), 0.01)
    refresh = Refresh(changed.set, [(spec, fetched(spec))])
    refresh.start()
    endpoint.say("/s", b'{"a": 2}')
    assert changed.wait(10)
    wait_until(lambda: refresh.stale() == {(spec.name,): 1.0}, "it is stale")
    refresh.watch([(spec, fetched(spec))])  # as a reload does
    assert refresh.stale() == {(spec.name,): 0.0}
    refresh.stop()
    refresh.thread.join(10)
    assert not refresh.thread.is_alive()
