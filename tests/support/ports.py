"""Free ports for the processes that tests start."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket

_SLICE = 1000
_BEGIN = 15000 + _SLICE * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 16)
"""Each worker has its own ports, all below those of outgoing connections. Otherwise two workers could choose the same
port before either has bound it, or while the process of one of them is down."""
_OFFSETS = itertools.count(random.randrange(_SLICE))


def free_port() -> int:
    """Return a free port of 127.0.0.1 that this worker has not returned for hundreds of calls."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of ``count`` adjoining free ports. zero-cache takes a port and the next one."""
    for _ in range(_SLICE):
        offsets = [next(_OFFSETS) % _SLICE for _ in range(count)]
        if offsets[0] + count > _SLICE:
            continue
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for offset in offsets:
                held.enter_context(socket.create_server(("", _BEGIN + offset)))
            return _BEGIN + offsets[0]
    raise AssertionError("no free ports")
