"""Ports that no other test is given."""

from __future__ import annotations

import itertools
import socket

import pytest

from tests.support import ports
from tests.support.ports import free_port, free_ports


def test_free_ports_are_not_returned_twice() -> None:
    returned = [port for first in (free_ports(3) for _ in range(50)) for port in range(first, first + 3)]
    assert len(set(returned)) == 150


def test_bound_port_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        monkeypatch.setattr(ports, "_OFFSETS", itertools.count(port - ports._BEGIN))
        assert free_port() != port
