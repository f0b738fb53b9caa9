from __future__ import annotations

from threading import Thread

from zmsd.replication.hub import Readiness


def test_readiness_wait_ends_when_ready() -> None:
    readiness = Readiness()
    assert readiness.reason == "starting"
    assert not readiness.wait(0.01)
    results: list[bool] = []
    thread = Thread(target=lambda: results.append(readiness.wait(30)), daemon=True)
    thread.start()
    readiness.set("MongoDB is away")
    assert not results
    readiness.set(None)
    thread.join(10)
    assert results == [True]
    assert readiness.wait(0)
