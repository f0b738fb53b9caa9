"""Several zero-caches on one zmsd, each with its own shard or app id, clients and results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from tests.e2e import chat
from tests.support.mongod import ReplicaSet
from tests.support.node import Workspace
from tests.support.types import Db, Serve
from tests.support.wait import wait_until
from tests.support.zero import ZeroCache

SHARDS = [("zero", 0), ("zero", 1), ("other", 0)]


def test_shards_have_their_own_clients_and_results(
    database: Db,
    replica_set: ReplicaSet,
    serve: Serve,
    zero_cache: Callable[..., ZeroCache],
    workspace: Workspace,
    stack: contextlib.ExitStack,
) -> None:
    chat.fill(database)
    api = stack.enter_context(chat.server(workspace, replica_set.uri(database.name)))
    process = serve(chat.SCHEMA, chat.MAPPINGS, settings=chat.SETTINGS)
    urls = {"query_url": api.query_url, "mutate_url": api.mutate_url}
    caches = [zero_cache(process, app_id=app, shard=shard, start=False, **urls) for app, shard in SHARDS]
    for cache in caches:
        cache.start(wait=False)
    for cache in caches:
        cache.wait_ready()
    clients = [stack.enter_context(chat.client(workspace, cache)) for cache in caches]

    for number, client in enumerate(clients):
        assert client.result(chat.send(client, f"from {number}")[1]) == {"type": "success"}
        refused = chat.send(client, " ")[1]
        assert client.result(refused)["error"]["message"] == "A message needs a text."

    expected = ["from ben", "from 0", "from 1", "from 2"]
    for client in clients:
        wait_until(lambda c=client: texts(c.rows("messages")) == expected, "every client shows every message", 60)  # type: ignore[misc]
    wait_until(lambda: not database.zeroMutations.count_documents({}), "every result is cleaned up", 60)
    shards = [(document["shard"], document["lastMutationID"]) for document in database.zeroClients.find()]
    assert sorted(shards) == [("other_0", 2), ("zero_0", 2), ("zero_1", 2)]
    for cache in caches:
        cache.check()


def texts(rows: list[dict[str, Any]] | None) -> list[str]:
    """Return the events in the order of time."""
    return [row["text"] for row in sorted(rows or (), key=lambda row: row["sentAt"])]
