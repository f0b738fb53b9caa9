"""A backlog: what was written while zmsd stood still, and how fast it is sent when it may go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from bench.support.counter import Count, Follower
from bench.support.scene import Scene, Zmsd


class Drained(NamedTuple):
    rate: float
    """Changes/s until all sessions have got all of them."""
    zmsd: float
    """µs of processor time for a change."""
    mongod: float
    got: Count


def drain(scene: Scene, zmsd: Zmsd, follower: Follower, changes: int, write: Callable[[], object]) -> Drained:
    """:param write: makes so many changes, and may do more; zmsd is stopped until it returns"""
    follower.expect(changes)
    with zmsd.held():
        write()
        started, cpus = time.monotonic(), (zmsd.cpu(), scene.mongod_cpu())
    got = follower.reached()
    used = [(now - before) / changes * 1e6 for now, before in zip((zmsd.cpu(), scene.mongod_cpu()), cpus, strict=True)]
    return Drained(changes / (got.at - started), used[0], used[1], got)
