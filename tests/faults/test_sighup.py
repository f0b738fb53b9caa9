"""SIGHUP many times, with unchanged, changed and invalid documents, during a write load."""

from __future__ import annotations

import copy
import signal
from typing import Any

import pytest

from tests.faults.load import MAPPINGS, SCHEMA, load
from tests.faults.tally import Tally, pick
from tests.support.compare import assert_same
from tests.support.types import Db, Follow, Serve
from tests.support.wait import wait_until

TIMES = pick(40, 500)


def with_one_more() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a table of some documents of a collection that is already published."""
    schema, mappings = copy.deepcopy(SCHEMA), copy.deepcopy(MAPPINGS)
    schema["more"] = copy.deepcopy(schema["a"]) | {"tableName": "more"}
    mappings["more"] = copy.deepcopy(mappings["a"]) | {"filter": {"flag": True}}
    return schema, mappings


@pytest.mark.parametrize("scope", ["collection", "database"])
def test_repeated_reloads_under_load_lose_nothing(
    scope: str, loaded: Db, serve: Serve, follow: Follow, tally: Tally
) -> None:
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope}})
    client = follow(zmsd)
    documents = [(SCHEMA, MAPPINGS), with_one_more()]
    good = 0
    with load(loaded, client, tally=tally):
        for number in range(TIMES):
            refusals = len(zmsd.log("reload refused"))
            bad = number % 4 == 3
            if bad:
                zmsd.write(schema={"a": {"columns": 5}}, mappings=MAPPINGS)
            else:
                schema, mappings = documents[number % 8 // 4]
                zmsd.write(schema=schema, mappings=mappings)
                good += 1
            zmsd.signal(signal.SIGHUP)
            wait_until(
                lambda good=good, refusals=refusals, bad=bad: (
                    len(zmsd.log("reload refused")) > refusals if bad else len(zmsd.log("INFO .*reloaded")) >= good
                ),
                "it was read",
            )
            tally.survived += 1
            if number % 12 == 11:
                client.wait_for(lambda replica, more=number % 8 == 7: ("more" in replica.rows) == more, "it has it")
    crossings = sum(
        any(change.tag in ("create-table", "drop-table") for change in one.changes)
        for one in client.replica.transactions
    )
    tally.note(f"{crossings} changes of what is published")
    assert crossings > 1, "the client was waited for twice, with the table and without it"
    assert not client.closings
    zmsd.write(*with_one_more())
    zmsd.signal(signal.SIGHUP)
    client.wait_for(lambda replica: "more" in replica.rows, "the client has it")
    assert_same(loaded, *with_one_more(), client.replica)
