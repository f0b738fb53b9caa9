"""A primary and an arbiter without their secondary: the primary accepts writes, but change streams show none."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from tests.faults.load import COLLECTIONS, MAPPINGS, SCHEMA, empty
from tests.faults.tally import pick
from tests.support.daemon import ZmsdProcess
from tests.support.mongod import ReplicaSet
from tests.support.types import Follow, Serve
from tests.support.wait import wait_until

REASON = "majority commit point has not moved"


def reason(zmsd: ZmsdProcess) -> str:
    status, text = zmsd.get("/readyz")
    assert (status == 200) == (text == "ready\n")
    return text


def stalled_seconds(zmsd: ZmsdProcess) -> float:
    found = re.search(r"^zmsd_majority_stalled_seconds (\S+)$", zmsd.get("/metrics")[1], re.MULTILINE)
    assert found
    return float(found[1])


def is_secondary(own: ReplicaSet) -> bool:
    (node,) = [node for node in own.nodes[:2] if node is not own.primary()]
    with node.client() as client:
        return bool(client.admin.command("hello")["secondary"])


@pytest.mark.long
@pytest.mark.parametrize("scope", pick(["collection"], ["collection", "database"]))
def test_lost_majority_is_the_reason_until_it_is_back(
    scope: str, tmp_path: Path, serve: Serve, follow: Follow, stack: contextlib.ExitStack
) -> None:
    own = stack.enter_context(ReplicaSet(tmp_path / "psa", 3, arbiters=1))
    wait_until(lambda: is_secondary(own), "the secondary has its data", 60)  # a kill before that may leave it without
    database = empty(own, stack, "psa")
    zmsd = serve(SCHEMA, MAPPINGS, uri=own.uri(database.name), settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    secondary = next(node for node in own.nodes[:2] if node is not own.primary())
    secondary.kill()
    names = [f"late-{number}" for number in range(10)]
    database[COLLECTIONS[0]].insert_many([{"_id": name, "n": 1} for name in names])
    wait_until(lambda: REASON in reason(zmsd), "/readyz has the reason", 90)
    assert stalled_seconds(zmsd) >= 30
    assert REASON in zmsd.get("/status.json")[1]
    zmsd.wait_log(f"no progress reason=.*{REASON}")
    assert "late-0" not in {key[0] for key in client.replica.rows[COLLECTIONS[0]]}
    # A zmsd that starts now cannot open its streams, and reports the same.
    zmsd.kill()
    zmsd.start(ready=False)
    wait_until(lambda: REASON in reason(zmsd), "/readyz has the reason again", 90)
    secondary.start()
    wait_until(zmsd.ready, "ready again", 60)
    client.wait_for(lambda replica: {(name,) for name in names} <= set(replica.rows[COLLECTIONS[0]]), "all writes")
    assert stalled_seconds(zmsd) == 0
