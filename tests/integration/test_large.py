"""Large documents: a document may have 16 MB, and so may the event that contains it."""

from __future__ import annotations

import pytest

from tests.faults.tally import pick
from tests.integration.chat import named, table
from tests.support.types import Db, Follow, Serve

SCHEMA = named(doc=table(id="string", a="string", b="string", n="number"))
MAPPINGS = {"doc": {"collection": "docs", "fields": {"id": "_id", "a": "a", "b": "b", "n": "n"}}}
MB = 1 << 20


BOTH = [pytest.param("collection", "auto", marks=pytest.mark.images), ("database", "off")]
OTHERS = [("collection", "off"), pytest.param("database", "auto", marks=pytest.mark.images)]


@pytest.mark.parametrize(("scope", "images"), pick(BOTH, [*BOTH, *OTHERS]))
def test_changes_of_documents_near_16_mb_arrive(
    scope: str,
    images: str,
    database: Db,
    serve: Serve,
    follow: Follow,
) -> None:
    """With both images such an event would exceed 16 MB, which MongoDB does not send."""
    database.docs.insert_one({"_id": "small", "n": 0})
    zmsd = serve(SCHEMA, MAPPINGS, settings={"feed": {"scope": scope, "images": images}})
    client = follow(zmsd)
    database.docs.insert_one({"_id": "small1", "n": 1})
    database.docs.insert_one({"_id": "big", "a": "x" * 9 * MB, "n": 1})
    database.docs.update_one({"_id": "big"}, {"$set": {"n": 2}})
    database.docs.update_one({"_id": "small"}, {"$set": {"n": 3}})
    database.docs.update_one({"_id": "big"}, {"$set": {"a": "y" * 10 * MB, "n": 4}})
    database.docs.update_one({"_id": "big"}, {"$set": {"b": "y" * 4 * MB, "n": 5}})
    database.docs.insert_one({"_id": "small2", "n": 2})
    client.wait_rows("doc", 4, timeout=60)
    rows = client.rows("doc")
    assert rows[("big",)]["n"] == 5
    assert len(rows[("big",)]["a"]) == 10 * MB
    assert rows[("small",)]["n"] == 3
    seen = [c.row["n"] for t in client.transactions() for c in t.changes if c.row and c.key == ("big",)]
    assert seen == [1, 2, 4, 5], "each state was sent, as it was"
    assert bool(zmsd.log("unreadable events")) is (images == "auto"), "it was what is tested here"
    database.docs.delete_one({"_id": "big"})
    client.wait_rows("doc", 3)
