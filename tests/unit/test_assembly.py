"""Construction of the daemon's parts."""

from __future__ import annotations

import ast
import socket
import threading
from pathlib import Path

import pytest

from tests.support.main_thread import write_settings
from zmsd import assembly
from zmsd.assembly import Requests, assemble
from zmsd.config.settings import load
from zmsd.deadline import Deadline
from zmsd.errors import ZmsdError
from zmsd.schema.loading import load_documents

IGNORE = Requests(lambda: None, lambda: None, lambda thread: None)


def test_assembly_starts_no_thread_and_requests_nothing(tmp_path: Path) -> None:
    settings = load(write_settings(tmp_path), {})
    before = set(threading.enumerate())

    def fail(*_: str) -> None:
        pytest.fail("a part made a request in its constructor")

    services = assemble(settings, load_documents(settings), Requests(fail, fail, fail))
    try:
        started = set(threading.enumerate()) - before
        assert not [thread for thread in started if not thread.name.startswith("pymongo_")]
        assert services.hub.readiness.reason == "starting"
        assert services.sessions.sessions() == []
    finally:
        services.server.stop(Deadline(1))
        services.hub.store.close()
        services.hub.source.close()


def test_assembly_fails_when_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = load(write_settings(tmp_path, server={"port": port}), {})
        with pytest.raises(ZmsdError) as caught:
            assemble(settings, load_documents(settings), IGNORE)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: the port is in use by another process (server.host, server.port)"
    )


def test_assembly_sets_no_attributes_and_defers_no_lookup() -> None:
    """Constructors get all that they need: an attribute set later, or a lambda, would hide a cycle."""
    for node in ast.walk(ast.parse(Path(assembly.__file__).read_text())):
        assert not isinstance(node, ast.Lambda), node.lineno
        assert not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)), node.lineno
